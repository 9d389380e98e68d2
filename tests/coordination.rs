//! The coordinator: one contract, held to by the embedded one (alone, and of three nodes of which one dies) and by a real etcd (one
//! member, and three of which one dies); and the recipes over it: the registry of nodes, elections, the master. The simulated etcd is held to the
//! same contract in `sim/`.

#![allow(clippy::disallowed_methods)] // real processes under a real clock, from outside

#[path = "coordination/contract.rs"]
mod contract;
#[path = "coordination/election.rs"]
mod election;
#[path = "coordination/embedded.rs"]
mod embedded;
#[path = "coordination/etcd.rs"]
mod etcd;
#[path = "coordination/master.rs"]
mod master;
#[path = "coordination/members.rs"]
mod members;
#[path = "coordination/registry.rs"]
mod registry;
