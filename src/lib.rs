//! VectorSphere: a distributed vector database. The crate is both the server's code and the embedded library.
pub mod api;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod coordination;
pub mod embedded;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod gateway;
pub mod index;
pub mod mutants;
pub mod node;
pub mod peer;
pub mod raft;
pub mod rt;
pub mod service;
pub mod shard;
pub mod store;
pub mod telemetry;
pub mod traffic;
pub mod types;
