//! What this node's service asks of other nodes over the wire: to read replicas and to compare them; and the answers to comparing. Called
//! by [`super::peers`] and, through [`Others`], by `service`.

use crate::{
    peer::{CallError, PeerState, Peers},
    raft::NodeId,
    rt::time::Instant,
    service::{Answering, OtherNode, Others},
    shard::{Bucket, Recomputed, Replica, decode_report, encode_report},
    types::{Error, ErrorKind},
};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

    fn read(&self, node: NodeId, read: Bytes, deadline: Instant) -> BoxStream<'static, Result<Bytes, Error>> {
        Peers::read(self, node, read, deadline).map(|answer| answer.map_err(unanswered)).boxed()
    }

    fn nodes(&self) -> BTreeMap<NodeId, OtherNode> {
        let links = self.status().into_iter();
        links
            .filter_map(|link| {
                let peer = link.peer?;
                let other = OtherNode {
                    connected: matches!(link.state, PeerState::Connected { .. }),
                    version: peer.program_version.clone(),
                    http: peer.addresses.http.clone(),
                    grpc: peer.addresses.grpc.clone(),
                };
                Some((peer.node, other))
            })
            .collect()
    }
}

fn unanswered(error: CallError) -> Error {
    Error::new(ErrorKind::Unavailable, "node_unreachable", error.to_string())
}
