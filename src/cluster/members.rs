//! The nodes that together form the cluster, as far as this node knows: fixed once they have all met, and then stored. Called by
//! `service` (where replicas go) and `node` (forming, addresses).

use super::NodeId;
use crate::types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// Where the records of members are kept: one lasting key a node, `members/{id:016x}`.
pub const PREFIX: &str = "members/";

/// What is to become of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It takes part.
    #[default]
    Active,
    /// It takes part, and its replicas are being moved to others.
    Draining,
    /// It takes part no more, for ever: its node id is not taken in again.
    Removed,
}

/// What the cluster agrees on about one member, as JSON under its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    #[serde(default)]
    pub state: MemberState,
    /// Whether it is to vote in the coordinator's own group; without a vote it learns. Of no meaning with etcd.
    #[serde(default)]
    pub votes: bool,
    /// Milliseconds since 1970, by the clock of the node that took it in.
    #[serde(default)]
    pub joined_ms: u64,
    /// Where its peers reach it, in which zone and mode it runs. It writes this itself; empty where it has not yet.
    #[serde(default)]
    pub peer: String,
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub mode: String,
}

/// What a member says of itself in its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelfTold {
    pub peer: String,
    pub zone: String,
    pub mode: String,
}

/// The mode of nodes that hold no shards.
const HOLDS_NO_SHARDS: &str = "master";
/// The mode of nodes that never stand for master.
const NEVER_MASTER: &str = "worker";

impl MemberRecord {
    /// The record of a member that has just been taken in.
    pub fn joined(told: SelfTold, joined_ms: u64, votes: bool) -> MemberRecord {
        let SelfTold { peer, zone, mode } = told;
        MemberRecord { state: MemberState::Active, votes, joined_ms, peer, zone, mode }
    }

    /// The same record, with what the member says of itself now.
    pub fn telling(self, told: SelfTold) -> MemberRecord {
        let SelfTold { peer, zone, mode } = told;
        MemberRecord { peer, zone, mode, ..self }
    }

    /// Whether replicas may be placed on it, as far as its mode says.
    pub fn holds_shards(&self) -> bool {
        self.mode != HOLDS_NO_SHARDS
    }

    /// Whether it may be the cluster's master, as far as its mode says.
    pub fn stands_for_master(&self) -> bool {
        self.mode != NEVER_MASTER
    }

    /// Under which key it is kept.
    pub fn key(node: NodeId) -> String {
        format!("{PREFIX}{node:016x}")
    }

    /// Whose record a key holds; none if it is another key.
    pub fn node_of(key: &str) -> Option<NodeId> {
        let hex = key.strip_prefix(PREFIX)?;
        (hex.len() == 16).then(|| NodeId::from_str_radix(hex, 16).ok()).flatten()
    }

    /// Whether it takes part.
    pub fn is_member(&self) -> bool {
        self.state != MemberState::Removed
    }

    /// The bytes it is kept as.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record always encodes")
    }

    /// The inverse of [`MemberRecord::encode`].
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<MemberRecord> {
        serde_json::from_slice(bytes).map_err(|error| {
            let message = format!("the coordinator's {key} cannot be read: {error}");
            Error::new(ErrorKind::Corrupt, "member_record", message)
        })
    }
}

/// See the module. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Members(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    nodes: OnceLock<Vec<NodeId>>,
    met: Notify,
}

impl Members {
    /// Members that have not met yet.
    pub fn forming() -> Members {
        Members::default()
    }

    /// These nodes.
    pub fn of(nodes: Vec<NodeId>) -> Members {
        let members = Members::forming();
        members.met(nodes);
        members
    }

    /// They have met. Later calls change nothing.
    pub fn met(&self, mut nodes: Vec<NodeId>) {
        nodes.sort_unstable();
        nodes.dedup();
        assert!(!nodes.is_empty(), "a cluster has a member");
        let _known_already = self.0.nodes.set(nodes);
        self.0.met.notify_one();
    }

    /// One number for this set of nodes; none while they have not met.
    pub fn cluster_id(&self) -> Option<u64> {
        let bytes: Vec<u8> = self.0.nodes.get()?.iter().flat_map(|id| id.to_le_bytes()).collect();
        Some(xxhash_rust::xxh3::xxh3_64(&bytes))
    }

    /// Whether `node` belongs to them, or may yet.
    pub fn may_contain(&self, node: NodeId) -> bool {
        self.0.nodes.get().is_none_or(|nodes| nodes.contains(&node))
    }

    /// Their ids, once they have met. For one waiter.
    pub async fn wait(&self) -> Vec<NodeId> {
        loop {
            if let Some(nodes) = self.0.nodes.get() {
                return nodes.clone();
            }
            self.0.met.notified().await;
        }
    }

    /// Their ids, in order.
    ///
    /// # Errors
    /// `cluster_forming`, `Unavailable`, while they have not met.
    pub fn node_ids(&self) -> Result<Vec<NodeId>> {
        self.0.nodes.get().cloned().ok_or_else(|| {
            let message = "the nodes of the cluster have not all met yet";
            Error::new(ErrorKind::Unavailable, "cluster_forming", message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_fixed_by_their_first_meeting() {
        let members = Members::forming();
        assert_eq!(members.node_ids().unwrap_err().code(), "cluster_forming");
        assert!(members.may_contain(9) && members.cluster_id().is_none());
        members.met(vec![3, 1, 3]);
        members.met(vec![9]);
        assert!(!members.may_contain(9) && members.cluster_id() == Members::of(vec![1, 3]).cluster_id());
        assert_eq!(members.clone().node_ids().unwrap(), [1, 3]);
    }
}
