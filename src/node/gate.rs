//! This node as its peers see it: what they ask is done by its groups and shards, and whoever wants in is looked at here. Built by
//! [`super::peers`], which gives it the engine once that is open.

use super::{
    engine::Inside,
    join::{Met, take_in},
    observer::{self, not_here},
    reports,
};
use crate::{
    cluster::Members,
    coordination::embedded,
    peer::{CallError, Cause, GroupReport, Joined, Joining, PeerInfo, PeerService, Proposal, Proposed, Refusal},
    raft::{CheckpointStream, CheckpointWanted, FetchError, GroupId, GroupMessage, NodeId},
    rt::time,
};
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use std::sync::{Arc, RwLock};

/// See the module.
pub struct Gate {
    pub(super) members: Members,
    pub(super) met: Arc<Met>,
    /// Taken away when the node stops: the engine holds the wire, and so itself.
    pub(super) engine: RwLock<Option<Inside>>,
}

impl Gate {
    fn inside(&self) -> Option<Inside> {
        self.engine.read().expect("no panic while attaching").clone()
    }

    fn engine(&self) -> Result<Inside, CallError> {
        self.inside().ok_or_else(|| CallError::Unavailable("the node is starting or stopping".to_owned()))
    }
}

/// What a node that was removed is told.
fn removed(node: NodeId) -> String {
    format!(
        "node {node:016x} was removed from the cluster: started with an empty data directory it joins as a new node"
    )
}

impl PeerService for Gate {
    fn cluster_id(&self) -> Option<u64> {
        self.members.cluster_id()
    }

    /// A node that is not known may be new, or this node behind the times: only who was removed stays out.
    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        match self.members.is_removed(peer.node) {
            true => Err(Refusal::new(Cause::Member, removed(peer.node))),
            false => Ok(()),
        }
    }

    fn peer_seen(&self, peer: &PeerInfo) {
        // Whoever is of another cluster is not seen.
        self.members.met(peer.node, &peer.addresses.peer, peer.cluster_id.is_some());
    }

    fn join(&self, from: NodeId, joining: Joining) -> BoxFuture<'static, Result<Joined, CallError>> {
        let (inside, members) = (self.engine(), self.members.clone());
        Box::pin(async move {
            if members.is_removed(from) {
                return Err(CallError::Refused(removed(from)));
            }
            take_in(&inside?, &members, from, joining).await
        })
    }

    fn peer_found(&self, peer: &PeerInfo) {
        self.met.found(peer, &self.members);
    }

    fn peer_lost(&self, node: NodeId) {
        self.met.lost(node);
        if let Some(inside) = self.inside() {
            inside.raft.peer_lost(node);
            if let Some(mastership) = &inside.mastership {
                mastership.suspect(node);
            }
        }
    }

    fn receive(&self, from: NodeId, messages: Vec<GroupMessage>) {
        self.members.heard(from);
        if let Some(inside) = self.inside() {
            inside.raft.receive(from, messages);
        }
    }

    fn propose(&self, _from: NodeId, proposal: Proposal) -> BoxFuture<'static, Result<Proposed, CallError>> {
        let inside = self.engine();
        Box::pin(async move {
            let inside = inside?;
            let unknown = || CallError::Indeterminate("it took too long".to_owned());
            time::timeout_at(proposal.deadline, propose(&inside, proposal)).await.unwrap_or_else(|_| Err(unknown()))
        })
    }

    fn serve_checkpoint(
        &self,
        _from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        match self.inside() {
            Some(inside) => inside.raft.serve_checkpoint(group, wanted),
            None => Box::pin(async { Err(FetchError::Refused("the node is starting".to_owned())) }),
        }
    }

    fn inspect(&self, group: GroupId, bucket: Option<u8>) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let inside = self.engine();
        Box::pin(async move {
            let replica = inside?.service.host().replica(group).map_err(|error| not_here(&error))?;
            super::verify::inspect(replica, bucket).await
        })
    }

    fn read(&self, _from: NodeId, read: Bytes) -> Result<BoxStream<'static, Bytes>, CallError> {
        self.engine()?.service.serve_read(&read).map_err(|error| CallError::Refused(error.to_string()))
    }

    fn hand_over(&self, group: GroupId, to: NodeId) -> BoxFuture<'static, Result<(), CallError>> {
        let inside = self.engine();
        Box::pin(async move { observer::hand_over(inside?.service.host(), group, to).await })
    }

    fn aliases_epoch(&self) -> u64 {
        self.inside().map_or(0, |inside| inside.service.aliases_epoch())
    }

    fn groups(&self, only: Option<GroupId>) -> BoxFuture<'static, Vec<GroupReport>> {
        let inside = self.inside();
        Box::pin(async move {
            match inside {
                Some(inside) => reports::of(inside.coordinator.as_ref(), inside.service.host(), only).await,
                None => Vec::new(),
            }
        })
    }
}

async fn propose(inside: &Inside, proposal: Proposal) -> Result<Proposed, CallError> {
    let Proposal { group, data, ack, .. } = proposal;
    let proposed = if group == embedded::GROUP {
        let coordinator = inside.coordinator.as_ref();
        let none = || CallError::Refused("this node's coordinator is no group".to_owned());
        coordinator.ok_or_else(none)?.propose_forwarded(data).await
    } else {
        let replica = inside.service.host().replica(group).map_err(|error| not_here(&error))?;
        replica.propose_forwarded(data, ack).await.map_err(|error| CallError::Refused(error.to_string()))?
    };
    let (log_index, outcome) = proposed?;
    Ok(Proposed { log_index, outcome })
}
