//! How a node comes into a cluster: those that name each other and have none found one when all have met; one that meets a node of a
//! cluster asks to be taken in. Called by [`super::peers`] (asking) and [`super::gate`] (meeting, taking in).

use super::engine::Inside;
use crate::{
    cluster::{Founded, MemberRecord, Members, SelfTold},
    coordination::{Change, Committed, Compare, CoordinationError, Coordinator, Transaction},
    peer::{CallError, Joined, Joining, PeerInfo, Peers},
    raft::NodeId,
    rt::{self, time},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Nodes of a cluster, and all that ever were: a removed one keeps its record, so that it stays out.
const MEMBERS_MAX: usize = 1_000;
const RECORDS_MAX: usize = 10_000;
/// How long a node that is asked to take this one in has for it.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Between two rounds of asking.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Whom this node has met while it has no cluster.
pub struct Met {
    own: NodeId,
    /// How many nodes found the cluster.
    founders: usize,
    nodes: Mutex<Nodes>,
    /// Rung when a node of a cluster was met. One waiter.
    formed: Notify,
}

#[derive(Default)]
struct Nodes {
    /// Without a cluster, as this one, by where they are reached: a node whose disk was wiped meanwhile comes back as another one, in
    /// place of the one it was.
    forming: BTreeMap<String, NodeId>,
    /// Of a cluster, and connected.
    formed: BTreeSet<NodeId>,
}

impl Met {
    /// Nobody yet. A cluster is founded by `founders` nodes, this one among them.
    pub fn new(own: NodeId, founders: usize) -> Met {
        Met { own, founders, nodes: Mutex::default(), formed: Notify::new() }
    }

    /// The link to a node stands.
    pub fn found(&self, peer: &PeerInfo, members: &Members) {
        if members.cluster_id().is_some() {
            return;
        }
        let mut nodes = self.nodes();
        if peer.cluster_id.is_some() {
            nodes.formed.insert(peer.node);
            self.formed.notify_one();
            return;
        }
        nodes.forming.insert(peer.addresses.peer.clone(), peer.node);
        // Whoever has met one of a cluster joins that.
        if nodes.formed.is_empty() && nodes.forming.len() + 1 == self.founders {
            members.found(Founded::by(nodes.forming.values().copied().chain([self.own]).collect()));
        }
    }

    /// The link to a node broke. It counts as met nevertheless: it named this one.
    pub fn lost(&self, node: NodeId) {
        self.nodes().formed.remove(&node);
    }

    fn formed(&self) -> Vec<NodeId> {
        self.nodes().formed.iter().copied().collect()
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // Changed by single calls only.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the nodes of a cluster that are met to take this one in, until one does or the members have met.
pub async fn ask(met: &Met, peers: &Peers, members: &Members, told: &SelfTold) {
    while members.cluster_id().is_none() {
        for node in met.formed() {
            let SelfTold { peer, zone, mode, .. } = told.clone();
            match peers.join(node, Joining { address: peer, zone, mode }, ASK_LIMIT).await {
                Ok(Joined { cluster_id, founders }) => {
                    tracing::info!(by = format!("{node:016x}"), "the node was taken into the cluster");
                    rt::mark("a node joined a cluster that was there");
                    members.found(Founded { cluster_id, founders });
                    return;
                }
                Err(CallError::Refused(why)) => tracing::warn!(why, "the cluster does not take this node in"),
                Err(error) => tracing::info!(%error, "the node was not taken into the cluster yet"),
            }
        }
        tokio::select! {
            biased;
            () = met.formed.notified() => {}
            () = time::sleep(ASK_INTERVAL) => {}
        }
    }
}

/// Takes `node` into this node's cluster: a record of it is made, by which the rest comes about.
pub async fn take_in(inside: &Inside, members: &Members, node: NodeId, joining: Joining) -> Result<Joined, CallError> {
    let Some(Founded { cluster_id, founders }) = members.founded() else {
        return Err(CallError::Unavailable("the cluster is still forming".to_owned()));
    };
    let Some(coordinator) = &inside.coordinator else {
        let why = "the nodes of this cluster find each other in etcd: start the node with the same etcd.endpoints";
        return Err(CallError::Refused(why.to_owned()));
    };
    let joined = Joined { cluster_id, founders };
    if joined.founders.contains(&node) || members.records().contains_key(&node) {
        return Ok(joined);
    }
    bounded(&members.records())?;
    let key = MemberRecord::key(node);
    let Joining { address: peer, zone, mode } = joining;
    let record = MemberRecord::joined(SelfTold { peer, zone, mode, ..SelfTold::default() }, time::wall().0, false);
    let transaction = Transaction {
        compares: vec![Compare::Absent(key.clone())],
        changes: vec![Change::Put(key.clone(), record.encode())],
    };
    match coordinator.commit(transaction).await {
        Ok(Committed::At(_)) => {
            tracing::info!(node = format!("{node:016x}"), "a node was taken into the cluster");
            Ok(joined)
        }
        // Somebody else has taken it in meanwhile; whether it was removed since, admission tells.
        Ok(Committed::Refused) => Ok(joined),
        Err(error @ CoordinationError::Indeterminate(_)) => Err(CallError::Indeterminate(error.to_string())),
        Err(error) => Err(CallError::Unavailable(error.to_string())),
    }
}

/// Whether there is room for one more record.
fn bounded(records: &BTreeMap<NodeId, MemberRecord>) -> Result<(), CallError> {
    let members = records.values().filter(|record| record.is_member()).count();
    if members >= MEMBERS_MAX || records.len() >= RECORDS_MAX {
        let why = format!("the cluster has {members} nodes, and had {} in all: it takes no more", records.len());
        return Err(CallError::Refused(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::MemberState;
    use crate::peer::Addresses;

    fn met(node: NodeId, at: &str) -> PeerInfo {
        let addresses = Addresses { peer: at.to_owned(), ..Addresses::default() };
        PeerInfo {
            cluster_name: "c".to_owned(),
            peer_set_hash: 0,
            cluster_id: None,
            node,
            boot: 1,
            instance: 1,
            versions: 1..=1,
            program_version: "1".to_owned(),
            addresses,
        }
    }

    #[test]
    fn a_disk_that_is_wiped_while_the_cluster_forms_makes_no_second_founder() {
        let (met_by_one, members) = (Met::new(1, 3), Members::forming());
        met_by_one.found(&met(2, "b:1"), &members);
        met_by_one.lost(2);
        met_by_one.found(&met(20, "b:1"), &members);
        assert_eq!(members.founded(), None, "the third is still to come");
        met_by_one.found(&met(3, "c:1"), &members);
        assert_eq!(members.founded().map(|founded| founded.founders), Some(vec![1, 3, 20]));
    }

    #[test]
    fn a_cluster_has_no_end_of_members() {
        let record = |state| MemberRecord { state, ..MemberRecord::joined(SelfTold::default(), 0, false) };
        let records = |active: usize, removed: usize| {
            let all = (0..active + removed).map(|i| {
                let state = if i < active { MemberState::Active } else { MemberState::Removed };
                (i as NodeId, record(state))
            });
            all.collect::<BTreeMap<_, _>>()
        };
        assert!(bounded(&records(MEMBERS_MAX - 1, 5)).is_ok());
        assert!(bounded(&records(MEMBERS_MAX, 0)).is_err());
        assert!(bounded(&records(3, RECORDS_MAX - 3)).is_err());
    }
}
