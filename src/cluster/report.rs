//! How the nodes and their replicas are, as they tell the master, and the door through which it hears of them. Nothing here is
//! stored: reports are asked for anew all the time. Called by `plan` and `controller`; `node` implements [`Observer`].

use super::table::{NodeId, ShardId};
use crate::coordination::BoxFuture;
use std::{collections::BTreeMap, sync::Arc};

/// How one replica is, by the node that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// Whether this replica leads, and knows everything that was committed before it did: then the members it tells are what the
    /// group has agreed on.
    pub leads: bool,
    pub last_index: u64,
    pub committed: u64,
    pub applied: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// While old and new voters decide together: the old ones.
    pub voters_outgoing: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub points: u64,
    /// On the disk.
    pub bytes: u64,
    /// Why the replica is of no use, if it is not.
    pub failure: Option<String>,
}

/// How one node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    pub version: String,
    /// The newest version of the cluster's protocols that it speaks; 0: not told.
    pub speaks: u32,
    pub replicas: BTreeMap<ShardId, ReplicaReport>,
    /// Its part in the coordinator's own group, if it has one.
    pub control: Option<ReplicaReport>,
}

/// Reports by node.
pub type Reports = BTreeMap<NodeId, Arc<NodeReport>>;

/// The master's eyes, and what it may ask of nodes directly. What it asks may be lost: it will ask again.
pub trait Observer: Send + Sync + 'static {
    /// The reports of the nodes that answer now; bounded in time.
    fn observe(&self) -> BoxFuture<'_, Reports>;

    /// Asks `from`, which leads `shard`, to hand over to `to`.
    fn hand_over(&self, shard: ShardId, from: NodeId, to: NodeId) -> BoxFuture<'_, ()>;
}
