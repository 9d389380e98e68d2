//! The coordinator: one contract, held to by the embedded one (alone, and of three nodes of which one dies) and by a real etcd (one
//! member, and three of which one dies); and the recipes over it: the registry of nodes, elections. The simulated etcd is held to the
//! same contract in `sim/`.

#[path = "coordination/contract.rs"]
mod contract;
#[path = "coordination/election.rs"]
mod election;
#[path = "coordination/embedded.rs"]
mod embedded;
#[path = "coordination/etcd.rs"]
mod etcd;
#[path = "coordination/registry.rs"]
mod registry;
