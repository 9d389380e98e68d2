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
        members.met(vec![3, 1, 3]);
        members.met(vec![9]);
        assert_eq!(members.clone().node_ids().unwrap(), [1, 3]);
    }
}
