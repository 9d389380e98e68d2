//! One node: its workloads, its plans, and what a batch of seeds should have seen.
use super::{Run, chaos};
use crate::{
    plan::{Workload, node::generate},
    workload::{register::Register, search::Search, set::Set},
};

pub const MARKS: &[&str] = &[
    "a power failure took something",
    "something unsynced survived a power failure",
    "an fsync failed under the node",
    "a node refused to start on a read error",
    "a read failed under the node",
    "the disk was full under the node",
    "a node stopped on a disk fault and came back",
    "a write was refused for want of room",
    "the room on the disk ran short or came back",
    "an outcome was unknown",
    "an index was trained",
    "an index was trained again",
    "rows were filed",
    "lists got new centroids",
    "small lists were dissolved",
    "plans were chosen anew",
    "a restart did upkeep again",
    "a replica lost the lists of its index",
    "a replica that had lost its lists was equal again",
    "the power failed during the first start",
    "the power failed between two disk operations of a start",
    "the power failed between two disk operations of a running node",
    "an index file rotted",
    "a node refused a damaged journal",
    "a node refused a damaged identity",
    "a node lived on without an index file",
    "a node started on what a failed fsync had not brought to the disk",
];

pub async fn register(run: Run) {
    chaos::run(run, Workload::Register, generate, Register { once: false }).await;
}

pub async fn set(run: Run) {
    chaos::run(run, Workload::Set, generate, Set::default()).await;
}

pub async fn search(run: Run) {
    chaos::run(run, Workload::Search, generate, Search::default()).await;
}
