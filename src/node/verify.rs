//! What this node's service asks of other nodes over the wire: to read replicas and to compare them; and the answers to comparing. Called
//! by [`super::peers`] and, through [`Others`], by `service`.

use crate::{
    coordination::embedded,
    peer::{CallError, GroupReport, PeerState, Peers},
    raft::NodeId,
    rt::time::Instant,
    service::{Agreed, Answering, OtherNode, Others},
    shard::{Bucket, Recomputed, Replica, decode_report, encode_report},
    types::{Error, ErrorKind},
};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long another node may take to say how its groups stand.
const REPORT_LIMIT: Duration = Duration::from_secs(1);
/// How long another node may take to say of what epoch its aliases are.
const ALIASES_LIMIT: Duration = Duration::from_millis(250);
/// How long another node may take to read all records of a shard.
const INSPECT_LIMIT: Duration = Duration::from_secs(120);

/// What a replica holds, or the records of one bucket of it, for a peer.
pub async fn inspect(replica: Arc<Replica>, bucket: Option<u8>) -> Result<Bytes, CallError> {
    let report = match bucket {
        None => replica.recompute_hash().await.map(|found| encode_report(&found)),
        Some(bucket) => replica.bucket(bucket).await.map(|found| encode_report(&found)),
    };
    report.map_err(|error| CallError::Unavailable(error.to_string()))
}

impl Others for Peers {
    fn recompute(&self, node: NodeId, shard: u64) -> Answering<Recomputed> {
        let peers = self.clone();
        Box::pin(async move {
            let report = peers.inspect(node, shard, None, INSPECT_LIMIT).await.map_err(unanswered)?;
            decode_report(&report)
        })
    }

    fn bucket(&self, node: NodeId, shard: u64, bucket: u8) -> Answering<Bucket> {
        let peers = self.clone();
        Box::pin(async move {
            let report = peers.inspect(node, shard, Some(bucket), INSPECT_LIMIT).await.map_err(unanswered)?;
            decode_report(&report)
        })
    }

    fn read(
        &self,
        node: NodeId,
        read: Bytes,
        is_small: bool,
        deadline: Instant,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        Peers::read(self, node, read, is_small, deadline).map(|answer| answer.map_err(unanswered)).boxed()
    }

    fn agreed(&self, node: NodeId, shard: u64) -> Answering<Option<Agreed>> {
        let peers = self.clone();
        Box::pin(async move {
            let report = peers.report(node, Some(shard), REPORT_LIMIT).await.map_err(unanswered)?;
            let led = |group: &GroupReport| group.group == shard && group.is_settled && group.leader == Some(node);
            let group = report.groups.into_iter().find(led);
            Ok(group.map(|group| Agreed {
                term: group.term,
                members: [group.voters, group.voters_outgoing, group.learners].concat().into_iter().collect(),
            }))
        })
    }

    fn aliases_epoch(&self, node: NodeId) -> Answering<u64> {
        let peers = self.clone();
        Box::pin(async move {
            // How its groups stand is of no matter: asked for one of them, it has the least to tell.
            let report = peers.report(node, Some(embedded::GROUP), ALIASES_LIMIT).await.map_err(unanswered)?;
            Ok(report.aliases_epoch)
        })
    }

    fn nodes(&self) -> BTreeMap<NodeId, OtherNode> {
        let mut nodes = BTreeMap::new();
        for link in self.status() {
            let Some(peer) = link.peer else { continue };
            let connected = matches!(link.state, PeerState::Connected { .. });
            let other = OtherNode {
                connected,
                version: peer.program_version.clone(),
                http: peer.addresses.http.clone(),
                grpc: peer.addresses.grpc.clone(),
            };
            // A node may be known under two addresses, of which one is connected at most.
            if connected || !nodes.contains_key(&peer.node) {
                nodes.insert(peer.node, other);
            }
        }
        nodes
    }
}

fn unanswered(error: CallError) -> Error {
    let (kind, code) = match &error {
        CallError::Exhausted(_) => (ErrorKind::Exhausted, "queue_full"),
        _ => (ErrorKind::Unavailable, "node_unreachable"),
    };
    Error::new(kind, code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_much_is_told_to_slow_down_as_with_a_write() {
        let busy = unanswered(CallError::Exhausted("too many calls".to_owned()));
        assert_eq!((busy.kind(), busy.code()), (ErrorKind::Exhausted, "queue_full"));
        let away = unanswered(CallError::Unavailable("not connected".to_owned()));
        assert_eq!((away.kind(), away.code()), (ErrorKind::Unavailable, "node_unreachable"));
    }
}
