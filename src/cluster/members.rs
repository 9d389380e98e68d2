//! The nodes that together form the cluster, as far as this node knows: fixed once they have all met, and then stored. Called by
//! `service` (where replicas go) and `node` (forming, addresses).

use super::NodeId;
use crate::types::{Error, ErrorKind, Result};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

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
