//! The links that other nodes opened to this one: one a node, the newest. And who has been seen under which node id, so that a copy of a
//! node, or a process that should be dead, is told from a node that has started again.

use super::identity::{Cause, Id, PeerInfo, Refusal};
use crate::raft::NodeId;
use crate::rt::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most nodes remembered.
pub(super) const NODES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    nodes: Mutex<BTreeMap<NodeId, Seen>>,
}

/// What is known of one node id.
#[derive(Debug)]
struct Seen {
    boot: u64,
    instance: u64,
    link: Option<OpenLink>,
    links_opened: u64,
}

#[derive(Debug)]
struct OpenLink {
    number: u64,
    cut: Shutdown,
}

/// A link from a node, as long as it stands.
#[derive(Debug)]
pub(super) struct Arrival {
    incoming: Arc<Incoming>,
    node: NodeId,
    number: u64,
    /// Given when a newer link takes its place.
    pub(super) cut: Shutdown,
}

impl Incoming {
    /// Whether this may be the process that goes by its node id: the one already seen, or one that started later.
    pub(super) fn check(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        let nodes = self.nodes();
        let Some(seen) = nodes.get(&peer.node) else {
            let is_room = nodes.len() < NODES_MAX || nodes.values().any(|seen| seen.link.is_none());
            return if is_room { Ok(()) } else { Err(Refusal::new(Cause::Member, "too many nodes are connected")) };
        };
        if seen.instance == peer.instance || seen.boot < peer.boot {
            return Ok(());
        }
        let detail = format!(
            "another process has been seen as {} with boot {}, this one has boot {}: a copied or restored data directory?",
            Id(peer.node),
            seen.boot,
            peer.boot
        );
        Err(Refusal::new(Cause::Node, detail))
    }

    /// Notes that a node has been seen, after [`check`](Incoming::check).
    pub(super) fn saw(&self, peer: &PeerInfo) {
        drop(self.saw_and_keep(peer));
    }

    fn saw_and_keep(&self, peer: &PeerInfo) -> MutexGuard<'_, BTreeMap<NodeId, Seen>> {
        let mut nodes = self.nodes();
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&peer.node) {
            // Nodes come and go for years; one that is away can be told from its copy no more.
            let away = nodes.iter().find(|(_, seen)| seen.link.is_none()).map(|(node, _)| *node);
            away.and_then(|node| nodes.remove(&node));
        }
        let seen = nodes.entry(peer.node).or_insert(Seen {
            boot: peer.boot,
            instance: peer.instance,
            link: None,
            links_opened: 0,
        });
        (seen.boot, seen.instance) = (peer.boot, peer.instance);
        nodes
    }

    /// Cuts the link that a node has to here.
    pub(super) fn cut(&self, node: NodeId) {
        if let Some(link) = self.nodes().get_mut(&node).and_then(|seen| seen.link.take()) {
            link.cut.trigger();
        }
    }

    /// A node opened a link; the one it had is cut.
    pub(super) fn arrive(self: &Arc<Self>, peer: &PeerInfo) -> Arrival {
        let cut = Shutdown::new();
        let mut nodes = self.saw_and_keep(peer);
        let seen = nodes.get_mut(&peer.node).expect("invariant: seen above");
        seen.links_opened += 1;
        let number = seen.links_opened;
        if let Some(older) = seen.link.replace(OpenLink { number, cut: cut.clone() }) {
            older.cut.trigger();
        }
        drop(nodes);
        Arrival { incoming: self.clone(), node: peer.node, number, cut }
    }

    /// Whether this process of a node has a link to here: who calls must.
    pub(super) fn is_linked(&self, node: NodeId, instance: u64) -> bool {
        self.nodes().get(&node).is_some_and(|seen| seen.instance == instance && seen.link.is_some())
    }

    /// Whether a node has a link to here.
    pub(super) fn has_link_of(&self, node: NodeId) -> bool {
        self.nodes().get(&node).is_some_and(|seen| seen.link.is_some())
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seen>> {
        // Every entry is valid on its own.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(seen) = self.incoming.nodes().get_mut(&self.node)
            && seen.link.as_ref().is_some_and(|link| link.number == self.number)
        {
            seen.link = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Addresses;

    fn info(node: NodeId, boot: u64, instance: u64) -> PeerInfo {
        PeerInfo {
            cluster_name: String::new(),
            peer_set_hash: 0,
            cluster_id: None,
            node,
            boot,
            instance,
            versions: 1..=1,
            program_version: String::new(),
            addresses: Addresses::default(),
        }
    }

    #[test]
    fn a_newer_link_takes_the_place_of_an_older_one() {
        let incoming = Arc::new(Incoming::default());
        let first = incoming.arrive(&info(1, 1, 10));
        let second = incoming.arrive(&info(1, 1, 10));
        assert!(first.cut.is_triggered() && !second.cut.is_triggered());
        drop(first);
        assert!(incoming.is_linked(1, 10), "the older one's end is not the newer one's");
        assert!(!incoming.is_linked(1, 11));
        drop(second);
        assert!(!incoming.has_link_of(1));
    }

    #[test]
    fn a_restart_is_welcome_and_a_copy_is_not() {
        let incoming = Arc::new(Incoming::default());
        drop(incoming.arrive(&info(1, 5, 10)));
        incoming.check(&info(1, 5, 10)).unwrap();
        assert_eq!(incoming.check(&info(1, 5, 11)).unwrap_err().cause, Cause::Node);
        assert_eq!(incoming.check(&info(1, 4, 12)).unwrap_err().cause, Cause::Node);
        incoming.check(&info(1, 6, 13)).unwrap();
        incoming.saw(&info(1, 6, 13));
        assert_eq!(incoming.check(&info(1, 5, 10)).unwrap_err().cause, Cause::Node, "the old process is over");
    }

    #[test]
    fn not_every_id_is_remembered() {
        let incoming = Arc::new(Incoming::default());
        let incoming = Arc::new(incoming);
        let mut links: Vec<Arrival> = (0..NODES_MAX as u64).map(|node| incoming.arrive(&info(node, 1, 1))).collect();
        let next = info(NODES_MAX as u64, 1, 1);
        assert_eq!(incoming.check(&next).unwrap_err().cause, Cause::Member);
        incoming.check(&info(0, 1, 1)).unwrap();
        // One that is away makes room.
        drop(links.remove(7));
        incoming.check(&next).unwrap();
        let _link = incoming.arrive(&next);
        assert!(incoming.has_link_of(next.node) && incoming.nodes().len() == NODES_MAX);
        assert_eq!(incoming.check(&info(7, 1, 1)).unwrap_err().cause, Cause::Member);
    }
}
