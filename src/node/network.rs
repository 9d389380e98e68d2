//! What an engine needs of other nodes: the network of a cluster, or nobody. Built by [`super::Node`] and, without others, by the
//! embedded library.

use crate::{
    cluster::{Members, SelfTold},
    peer::Peers,
    raft::{Forward, GroupId, LogIndex, Nobody, NodeId, ProposeError, Transport},
    rt::time::Instant,
    service::{Agreed, Answering, OtherNode, Others},
    shard::{Bucket, Recomputed},
    types::{Ack, Error, ErrorKind},
};
use bytes::Bytes;
use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use std::{collections::BTreeMap, sync::Arc};

/// See the module.
pub struct Network {
    pub transport: Arc<dyn Transport>,
    pub forward: Arc<dyn Forward>,
    pub others: Arc<dyn Others>,
    pub members: Members,
    /// None if there are no others.
    pub cluster: Option<InCluster>,
}

/// What a node of a cluster has beside an engine that is alone.
pub struct InCluster {
    /// What it tells the others of itself.
    pub told: SelfTold,
    /// Where its operators' port is.
    pub monitoring: String,
    pub peers: Peers,
}

impl Network {
    /// Of a node that is alone.
    pub fn alone(node: NodeId) -> Network {
        let members = Members::of(vec![node]);
        Network {
            transport: Arc::new(Nobody),
            forward: Arc::new(Nobody),
            others: Arc::new(Nobody),
            members,
            cluster: None,
        }
    }
}

impl Forward for Nobody {
    fn forward(
        &self,
        to: NodeId,
        _group: GroupId,
        _data: Bytes,
        _ack: Ack,
    ) -> BoxFuture<'static, Result<(LogIndex, Bytes), ProposeError>> {
        Box::pin(async move { Err(ProposeError::Unreachable(format!("there is no node {to:016x} beside this one"))) })
    }
}

impl Others for Nobody {
    fn recompute(&self, node: NodeId, _shard: u64) -> Answering<Recomputed> {
        Box::pin(async move { Err(unknown(node)) })
    }

    fn bucket(&self, node: NodeId, _shard: u64, _bucket: u8) -> Answering<Bucket> {
        Box::pin(async move { Err(unknown(node)) })
    }

    fn read(
        &self,
        node: NodeId,
        _read: Bytes,
        _is_small: bool,
        _deadline: Instant,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::once(std::future::ready(Err(unknown(node)))).boxed()
    }

    fn agreed(&self, node: NodeId, _shard: u64) -> Answering<Option<Agreed>> {
        Box::pin(async move { Err(unknown(node)) })
    }

    fn aliases_epoch(&self, node: NodeId) -> Answering<u64> {
        Box::pin(async move { Err(unknown(node)) })
    }

    fn nodes(&self) -> BTreeMap<NodeId, OtherNode> {
        BTreeMap::new()
    }
}

fn unknown(node: NodeId) -> Error {
    Error::new(ErrorKind::Unavailable, "node_unreachable", format!("there is no node {node:016x} beside this one"))
}
