//! Reading the replicas of this node, for a request that came here or for another node that has none. The replica decides itself
//! how fresh it is (its read index or what it has applied), so an answer means the same wherever it was made. Called by `fan_out`
//! and, for other nodes, by `node`.

use super::{Service, figures::ShardFigures, reach::Kind, wire};
use crate::{
    cluster::ShardId,
    rt,
    shard::Replica,
    types::{
        DocumentId, Error, ErrorKind, Result, SlotRange, StoredPoint,
        operation::{Consistency, ListAnswer, ListRequest, Search, SearchAnswer},
    },
};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::{sync::Arc, time::Duration};

/// Shards of one read that are answered at once.
const AT_ONCE: usize = 64;
/// Most shards and hits of a read that is called small.
const SMALL_SHARDS_MAX: usize = 64;
const SMALL_HITS_MAX: usize = 256;
/// Longest request of such a read, and longest answers by their mean.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;
/// Points in an answer from which on it is encoded on a compute thread.
const LARGE_POINTS: usize = 64;
/// How often a read begins again because slots moved in its middle, and what it waits before: a step takes a round of applying.
const OWNED_TRIES: usize = 20;
const OWNED_PAUSE: Duration = Duration::from_millis(2);

/// What is read of each shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Get(DocumentId),
    List(ListRequest),
    Search(Arc<[Search]>),
    Figures,
}

impl Operation {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Operation::Get(_) => Kind::Get,
            Operation::List(_) => Kind::List,
            Operation::Search(_) => Kind::Search,
            Operation::Figures => Kind::Figures,
        }
    }

    /// Whether an answer is one to this: that of another node may be anything.
    pub(super) fn is_answered_by(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Operation::Search(searches), Answer::Found(answers)) => searches.len() == answers.len(),
            (Operation::Get(_), Answer::Point(_))
            | (Operation::List(_), Answer::Page(_))
            | (Operation::Figures, Answer::Figures(_)) => true,
            _ => false,
        }
    }
}

/// An operation over shards of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardsRead {
    pub operation: Operation,
    pub consistency: Consistency,
    /// Shard, and how far the session has seen it.
    pub shards: Vec<(ShardId, u64)>,
}

impl ShardsRead {
    /// Whether its answers are likely to be so small that those of other reads may wait for them.
    /// They are not if they were not lately: `answer_bytes` is the mean of this kind's.
    pub(super) fn is_small(&self, answer_bytes: usize) -> bool {
        let hits = match &self.operation {
            Operation::Get(_) | Operation::Figures => 1,
            Operation::Search(searches) => searches.iter().map(|search| search.top_k).sum(),
            Operation::List(_) => usize::MAX,
        };
        self.shards.len() <= SMALL_SHARDS_MAX && hits <= SMALL_HITS_MAX && answer_bytes <= SMALL_BYTES_MAX
    }
}

/// What was read of one shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Point(StoredPoint),
    Page(ListAnswer),
    Found(Vec<SearchAnswer>),
    Figures(ShardFigures),
}

impl Answer {
    fn points(&self) -> usize {
        match self {
            Answer::Point(_) | Answer::Figures(_) => 1,
            Answer::Page(page) => page.points.len(),
            Answer::Found(answers) => answers.iter().map(|answer| answer.hits.len()).sum(),
        }
    }
}

/// An answer, and the log index up to which it has seen everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub index: u64,
    /// The slots that the answer is of; none said: those the shard had when it was made, of which none ever moved.
    pub slots: Option<SlotRange>,
    pub answer: Answer,
}

impl Service {
    /// Answers another node's read: one encoded answer a shard, as they come.
    ///
    /// # Errors
    /// The read cannot be understood.
    pub fn serve_read(&self, read: &[u8]) -> Result<BoxStream<'static, Bytes>> {
        let answers = self.read_here(wire::decode_read(read)?);
        rt::mark("a node read its replicas for another one");
        let encoded = answers.then(async |(shard, answer)| {
            let large = answer.as_ref().is_ok_and(|seen| seen.answer.points() > LARGE_POINTS);
            let encode = move || Bytes::from(wire::encode_answer(shard, answer));
            if large { rt::compute::cpu(encode).await } else { encode() }
        });
        Ok(encoded.boxed())
    }

    /// Reads the replicas of this node, several at once, in no order.
    pub(super) fn read_here(&self, read: ShardsRead) -> BoxStream<'static, (ShardId, Result<Seen>)> {
        let ShardsRead { operation, consistency, shards } = read;
        let (service, operation) = (self.clone(), Arc::new(operation));
        let answers = stream::iter(shards).map(move |(shard, seen)| {
            let (service, operation) = (service.clone(), operation.clone());
            async move { (shard, service.read_shard(shard, seen, consistency, &operation).await) }
        });
        answers.buffer_unordered(AT_ONCE).boxed()
    }

    async fn read_shard(
        &self,
        shard: ShardId,
        seen: u64,
        consistency: Consistency,
        operation: &Operation,
    ) -> Result<Seen> {
        let replica = self.0.host.sound_replica(shard)?;
        let index = match operation {
            // Whoever looks at a cluster in trouble must not wait for it.
            Operation::Figures if consistency == Consistency::Eventual => replica.applied(),
            _ => wait_to_read(&replica, consistency, seen).await?,
        };
        replica.border().check_open()?;
        for _ in 0..OWNED_TRIES {
            let before = replica.owned();
            if let Some((_, owned)) = before {
                let answer = self.answer(&replica, operation).await;
                if replica.owned() == before {
                    let slots = replica.border().has_moved.then_some(owned);
                    // What was applied after the read began may be in the answer: the session is not to see less of it later.
                    let index = index.max(replica.reaching());
                    return Ok(Seen { index, slots, answer: answer? });
                }
            }
            rt::mark("a read began again because slots moved in its middle");
            rt::time::sleep(OWNED_PAUSE).await;
        }
        let message = format!("slots of shard {shard} moved again and again during the read");
        Err(Error::new(ErrorKind::Unavailable, "shard_moving", message))
    }

    async fn answer(&self, replica: &Arc<Replica>, operation: &Operation) -> Result<Answer> {
        Ok(match operation {
            Operation::Get(id) => {
                replica.border().check([id.point_id()].into_iter())?;
                Answer::Point(replica.get(id)?)
            }
            Operation::List(request) => Answer::Page(replica.list(request.clone()).await?),
            Operation::Search(searches) => Answer::Found(self.search_replica(replica.clone(), searches).await?),
            Operation::Figures => Answer::Figures(ShardFigures::of(self.0.identity.node_id, replica)),
        })
    }
}

/// Waits until reading `replica` is as fresh as asked; how far it sees.
async fn wait_to_read(replica: &Replica, consistency: Consistency, seen: u64) -> Result<u64> {
    match consistency {
        // A replica that has applied nothing has just been opened, and is as old as can be.
        _ if replica.applied() == 0 => replica.read_barrier(seen).await,
        Consistency::Eventual => replica.staleness_barrier().await,
        Consistency::Session => replica.session_barrier(seen).await,
        Consistency::Linearizable => replica.read_barrier(seen).await,
    }
}
