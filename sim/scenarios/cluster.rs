//! Several nodes: their workloads, their plans, and what a batch of seeds should have seen.
use super::{Run, chaos};
use crate::{
    plan::{Workload, cluster::generate},
    workload::{
        alias::Alias, append::Append, bank::Bank, recreate::Recreate, register::Register, search::Search,
        session::Session, set::Set,
    },
};

pub const MARKS: &[&str] = &[
    "a partition had a side that went on",
    "a majority ring went on",
    "two halves went on over a bridge",
    "a fault was aimed at a leader",
    "a hunted leader was replaced",
    "all nodes lost their power at once",
    "every node had to come back",
    "a node was paused",
    "a healed core refused at first",
    "a client went to another node",
    "a shard changed its leader under its clients",
    "heartbeats of several groups went as one message",
    "a heartbeat changed nothing but a clock",
    "a replica caught up by a checkpoint",
    "a lane of state machines stood still, and another one began",
    "a restart installed the checkpoint that a crash had left",
    "a replica that does not lead answered a linearizable read",
    "a write was forwarded to the leader",
    "a search asked its shards again because one had so many of the best",
    "replicas were compared at the same index while clients wrote",
    "indexes were compared at the same log index",
    "indexes were compared at the same log index while clients wrote",
    "verify found the replicas of a shard equal",
    "verify found all replicas of all shards equal",
    "verify could not compare replicas",
    "an old request came once more",
    "a write was on every voter's disk",
    "a retry learnt what became of a lost write",
    "a node joined a cluster that was there",
    "a node told its new address",
    "who had been met before it was taken in was answered before it was known",
    "a shard's group got other members",
    "a node let go of a replica that was moved away",
    "who came back to a group without its log was asked for its vote",
    "a node asked another one to read its replicas",
    "a node read its replicas for another one",
    "a read was hedged",
    "an eventual read asked how far the others are",
];

pub async fn register(run: Run) {
    chaos::run(run, Workload::Register, generate, Register { once: false }).await;
}

pub async fn once(run: Run) {
    chaos::run(run, Workload::Once, generate, Register { once: true }).await;
}

pub async fn set(run: Run) {
    chaos::run(run, Workload::Set, generate, Set::default()).await;
}

pub async fn search(run: Run) {
    chaos::run(run, Workload::Search, generate, Search::default()).await;
}

pub async fn bank(run: Run) {
    chaos::run(run, Workload::Bank, generate, Bank).await;
}

pub async fn recreate(run: Run) {
    chaos::run(run, Workload::Recreate, generate, Recreate).await;
}

pub async fn alias(run: Run) {
    chaos::run(run, Workload::Alias, generate, Alias).await;
}

pub async fn append(run: Run) {
    chaos::run(run, Workload::Append, generate, Append).await;
}

pub async fn session(run: Run) {
    chaos::run(run, Workload::Session, generate, Session).await;
}
