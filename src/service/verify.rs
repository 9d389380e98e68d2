//! Proving that the replicas of every shard hold the same: each node computes the content hash of its replica again from what is
//! stored, and where they differ the first record that does is named. Called by `api`.

use super::Service;
use crate::{
    cluster::{Collection, NodeId},
    mutants::mutant,
    rt::time::{self, Instant},
    shard::{Bucket, Difference, Recomputed},
    types::Result,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

/// How often replicas that are at different log indexes are looked at again, and how long apart.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// A boxed future, so that the trait can be used behind a pointer.
pub type Answering<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What a service asks of the other nodes; plugged in by `node`.
pub trait Others: Send + Sync + 'static {
    /// What another node's replica of a shard comes to.
    fn recompute(&self, node: NodeId, shard: u64) -> Answering<Recomputed>;

    /// The records of one bucket of another node's replica.
    fn bucket(&self, node: NodeId, shard: u64, bucket: u8) -> Answering<Bucket>;

    /// Reads replicas of another node: encoded answers as they come. It ends early, with an error as its last item, if the node
    /// cannot be asked or breaks off; and at the deadline. What is called small need not be so, but is better; an answer may come twice.
    fn read(&self, node: NodeId, read: Bytes, is_small: bool, deadline: Instant) -> BoxStream<'static, Result<Bytes>>;

    /// What a shard's group has agreed on about its members, if another node leads it and knows.
    fn agreed(&self, node: NodeId, shard: u64) -> Answering<Option<super::Agreed>>;

    /// The epoch of the aliases by which another node serves requests.
    fn aliases_epoch(&self, node: NodeId) -> Answering<u64>;

    /// The other nodes that have ever answered.
    fn nodes(&self) -> BTreeMap<NodeId, OtherNode>;
}

/// Another node, as far as it has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherNode {
    pub connected: bool,
    pub version: String,
    pub http: Vec<String>,
    pub grpc: String,
}

/// What came of comparing all replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Every replica was looked at, is sound, and holds what the others hold.
    pub equal: bool,
    pub shards: Vec<ShardVerdict>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardVerdict {
    pub id: u64,
    pub collection: String,
    /// `equal`, `different`, or `unknown`: a replica did not answer, or is busy and never at the index of the others.
    pub verdict: &'static str,
    pub replicas: Vec<ReplicaVerdict>,
    /// Where replicas differ, in words.
    pub difference: Option<String>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaVerdict {
    pub node: NodeId,
    /// What it comes to, or why it could not be asked.
    pub found: Result<Recomputed, String>,
}

impl ReplicaVerdict {
    fn key(&self) -> Option<(u64, u64)> {
        self.found.as_ref().ok().map(|found| (found.applied, found.found))
    }
}

impl Service {
    /// Compares all replicas of all shards. Cost: every node reads all its records.
    ///
    /// # Errors
    /// `cluster_forming`.
    pub async fn verify(&self) -> Result<VerifyReport> {
        self.0.members.node_ids()?;
        let mut shards = Vec::new();
        for collection in self.0.catalog.collections().values() {
            for (id, _) in &collection.shards {
                shards.push(self.verify_shard(collection, *id).await);
            }
        }
        Ok(VerifyReport { equal: shards.iter().all(|shard| shard.verdict == "equal"), shards })
    }

    async fn verify_shard(&self, collection: &Collection, id: u64) -> ShardVerdict {
        let holders = self.holders(id);
        let mut replicas = self.look_at(id, &holders).await;
        for _ in 1..ATTEMPTS {
            let first = replicas.first().and_then(|replica| replica.found.as_ref().ok()).map(|found| found.applied);
            let together = replicas.iter().all(|replica| replica.key().map(|(applied, _)| applied) == first);
            // Mutant 46: replicas that have applied different prefixes of the log are compared all the same.
            if together || mutant!(46) {
                break;
            }
            time::sleep(PAUSE).await;
            replicas = self.look_at(id, &holders).await;
        }
        let (verdict, difference) = self.judge(id, &replicas).await;
        ShardVerdict { id, collection: collection.name.to_string(), verdict, replicas, difference }
    }

    /// Every replica, as it is now.
    async fn look_at(&self, id: u64, holders: &[NodeId]) -> Vec<ReplicaVerdict> {
        let looks = holders.iter().map(|node| async move {
            let found = if *node == self.0.identity.node_id {
                match self.0.host.replica(id) {
                    Ok(replica) => replica.recompute_hash().await,
                    Err(error) => Err(error),
                }
            } else {
                self.0.others.recompute(*node, id).await
            };
            ReplicaVerdict { node: *node, found: found.map_err(|error| error.to_string()) }
        });
        futures_util::future::join_all(looks).await
    }

    async fn judge(&self, id: u64, replicas: &[ReplicaVerdict]) -> (&'static str, Option<String>) {
        for replica in replicas {
            if let Some(damage) = replica.found.as_ref().ok().and_then(Recomputed::damage) {
                return ("different", Some(format!("node {:016x}: {damage}", replica.node)));
            }
        }
        if let Some((node, why)) = replicas.iter().find_map(|r| r.found.as_ref().err().map(|why| (r.node, why))) {
            return ("unknown", Some(format!("node {node:016x} could not be asked: {why}")));
        }
        let found: Vec<(NodeId, &Recomputed)> =
            replicas.iter().filter_map(|replica| Some((replica.node, replica.found.as_ref().ok()?))).collect();
        let Some((reference, usual)) = found.iter().max_by_key(|(_, one)| alike(&found, one)).copied() else {
            return ("unknown", None);
        };
        let is_elsewhere = |other: &Recomputed| other.applied != usual.applied && !mutant!(46);
        if let Some((node, other)) = found.iter().find(|(_, other)| is_elsewhere(other)) {
            let message = format!("node {node:016x} is at index {}, others at {}", other.applied, usual.applied);
            return ("unknown", Some(message));
        }
        match found.iter().find(|(_, other)| other.found != usual.found) {
            None => match other_index(&found) {
                None => ("equal", None),
                Some((reference, node)) => {
                    let message = "the records are equal, the posting lists are not";
                    ("different", Some(format!("node {node:016x} against node {reference:016x}: {message}")))
                }
            },
            Some((node, other)) => {
                let bucket = usual.differing_buckets(other).first().copied();
                let where_ = match bucket {
                    Some(bucket) => self.first_difference(id, reference, *node, bucket).await,
                    None => "hashes differ, buckets do not".to_owned(),
                };
                ("different", Some(format!("node {node:016x} against node {reference:016x}: {where_}")))
            }
        }
    }

    async fn first_difference(&self, id: u64, reference: NodeId, other: NodeId, bucket: u8) -> String {
        let (ours, theirs) = (self.bucket_of(reference, id, bucket).await, self.bucket_of(other, id, bucket).await);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => match ours.first_difference(&theirs) {
                Some(Difference::Missing(name)) => format!("{name} is missing"),
                Some(Difference::Surplus(name)) => format!("{name} should not be there"),
                Some(Difference::Changed(name)) => format!("{name} has other bytes"),
                None => "the difference went away while it was looked for".to_owned(),
            },
            (Err(error), _) | (_, Err(error)) => format!("in bucket {bucket}, which could not be read: {error}"),
        }
    }

    async fn bucket_of(&self, node: NodeId, id: u64, bucket: u8) -> Result<Bucket> {
        if node == self.0.identity.node_id {
            return self.0.host.replica(id)?.bucket(bucket).await;
        }
        self.0.others.bucket(node, id, bucket).await
    }
}

/// Two nodes whose approximate answers differ, if there are such. One that has lost its lists answers exactly, and says nothing.
fn other_index(found: &[(NodeId, &Recomputed)]) -> Option<(NodeId, NodeId)> {
    let mut known = found.iter().filter_map(|(node, one)| Some((*node, one.index_hash?)));
    let (reference, usual) = known.next()?;
    known.find(|(_, hash)| *hash != usual).map(|(node, _)| (reference, node))
}

/// How many replicas hold what this one holds.
fn alike(found: &[(NodeId, &Recomputed)], one: &Recomputed) -> usize {
    found.iter().filter(|(_, other)| (other.applied, other.found) == (one.applied, one.found)).count()
}
