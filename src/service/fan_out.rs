//! A read over many shards, wherever their replicas are: asks nodes as [`Gather`] says, hands each shard's answer on as it comes,
//! under one deadline for all. Called by every operation that reads.

use super::{
    Service,
    find::shard_gone,
    gather::{Ask, AskId, Gather, Limits},
    read::{Answer, Operation, SMALL_BYTES_MAX, Seen, ShardsRead},
    wire,
};
use crate::{
    cluster::{NodeId, ShardId},
    mutants::mutant,
    rt::{
        self,
        time::{self, Instant},
    },
    types::{
        Error, ErrorKind, Result, Session, SlotRange,
        operation::{Consistency, OnUnavailable, ReadOptions, ShardsAnswer},
    },
};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{self, BoxStream, SelectAll, StreamExt},
};
use std::time::Duration;

/// How long shards that nobody can read are asked for again and again; or, where a part will do, their other holders waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer from which on it is decoded on a compute thread.
const LARGE_BYTES: usize = 256 << 10;

/// Which shards answered, and how far they were seen.
#[derive(Debug, Default)]
pub struct Gathered {
    pub session: Session,
    pub ok: u32,
    /// Of which slots each shard's answer is.
    pub slots: Vec<(ShardId, SlotRange)>,
    /// Those that could not be read, where the caller takes a part.
    pub failed: Vec<(ShardId, Error)>,
}

impl Gathered {
    /// What a second read over the same shards adds: how far they were seen, and which it could not read.
    pub(super) fn and(&mut self, second: Gathered) {
        self.session.saw_all(&second.session);
        for (shard, error) in second.failed {
            if self.failed.iter().all(|(known, _)| *known != shard) {
                self.failed.push((shard, error));
                self.ok = self.ok.saturating_sub(1);
            }
        }
    }

    /// The same for the answer.
    pub fn shards(&self) -> ShardsAnswer {
        let mut failed: Vec<ShardId> = self.failed.iter().map(|(shard, _)| *shard).collect();
        // Mutant 45: what is missing is not named.
        if mutant!(45) {
            failed.clear();
        }
        ShardsAnswer { total: self.ok + failed.len() as u32, ok: self.ok, failed }
    }
}

/// What comes from a node that was asked.
enum Part {
    Answer(ShardId, Result<Seen>),
    /// Nothing more comes.
    End(Error),
}

/// Whether a shard that fails so with every holder is left out of a partial answer: what is wrong with it alone, not with the request.
fn may_be_left_out(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Exhausted | ErrorKind::Corrupt)
}

impl Service {
    /// Reads `shards`, and hands what they answer to `take` in the order in which it comes.
    ///
    /// # Errors
    /// The first refusal, and the first error of `take`. A shard that cannot be read fails the whole, or with
    /// [`OnUnavailable::Partial`] is told in the answer once each of its holders has failed, or one of them and 5 s have passed.
    pub(super) async fn fan_out(
        &self,
        shards: &[ShardId],
        operation: Operation,
        options: &ReadOptions,
        mut take: impl FnMut(ShardId, Answer) -> Result<()>,
    ) -> Result<Gathered> {
        let began = time::now();
        let partial = options.on_unavailable == OnUnavailable::Partial;
        let deadline = self.deadline(began);
        let (patience, give_up) = if partial { (began, began + PATIENCE) } else { (began + PATIENCE, deadline) };
        let limits = Limits { deadline, patience, give_up };
        let holders = |shard| self.readers_of(shard, options.consistency, time::now());
        let mut gather = Gather::new(&self.0.reach, operation.kind(), shards, limits, holders, began);
        let (mut gathered, mut parts) = (Gathered::default(), SelectAll::new());
        loop {
            for ask in gather.take_asks() {
                parts.push(self.ask(ask, &operation, options, deadline));
            }
            for (shard, error) in gather.take_failures() {
                if !partial || !may_be_left_out(error.kind()) {
                    return Err(error);
                }
                gathered.failed.push((shard, error));
            }
            if gather.is_over() {
                return Ok(gathered);
            }
            let wake_at = gather.wake_at();
            tokio::select! {
                biased;
                Some((ask, part)) = parts.next() => match part {
                    Part::Answer(shard, Ok(seen)) if !operation.is_answered_by(&seen.answer) => {
                        gather.refused(ask, shard, wire::bad("it answers something else"), time::now());
                    }
                    Part::Answer(shard, Ok(seen)) => {
                        if gather.answered(ask, shard, time::now()) {
                            gathered.session.saw(shard, seen.index);
                            gathered.ok += 1;
                            let slots = seen.slots.unwrap_or_else(|| self.0.catalog.born(shard));
                            gathered.slots.push((shard, slots));
                            take(shard, seen.answer)?;
                        }
                    }
                    Part::Answer(shard, Err(error)) => gather.refused(ask, shard, error, time::now()),
                    Part::End(error) => gather.ended(ask, &error, time::now()),
                },
                () = time::sleep_until(wake_at) => {
                    let gone = shards.iter().find(|shard| operation != Operation::Figures && self.is_gone(**shard));
                    if let Some(gone) = gone {
                        return Err(shard_gone(*gone));
                    }
                    gather.tick(time::now());
                }
            }
        }
    }

    /// When nobody waits for the answer to a request that came at `began` any more: a little before its connection gives up, so
    /// that the answer says what was waited for.
    pub(super) fn deadline(&self, began: Instant) -> Instant {
        began + self.0.request_timeout.mul_f32(0.9)
    }

    /// The nodes to read a shard from, in the order in which they should be asked: this one if it has a replica that
    /// answers soon; those that failed a moment ago last.
    fn readers_of(&self, shard: ShardId, consistency: Consistency, now: Instant) -> Vec<NodeId> {
        let this = self.0.identity.node_id;
        let mut readers = self.0.reach.order(&self.elsewhere(shard), now);
        match self.0.host.find(shard) {
            Some(replica) if replica.answers_soon(consistency) && !self.0.reach.is_passed_over(this, now) => {
                readers.insert(0, this);
            }
            Some(_) => readers.push(this),
            None => {}
        }
        readers
    }

    fn ask(
        &self,
        ask: Ask,
        operation: &Operation,
        options: &ReadOptions,
        deadline: Instant,
    ) -> BoxStream<'static, (AskId, Part)> {
        let Ask { id, node, shards } = ask;
        let seen = |shard| options.session.as_ref().map_or(0, |session| session.seen(shard));
        let shards = shards.into_iter().map(|shard| (shard, seen(shard))).collect();
        let read = ShardsRead { operation: operation.clone(), consistency: options.consistency, shards };
        let answers = if node == self.0.identity.node_id {
            self.read_here(read).map(|(shard, answer)| Part::Answer(shard, answer)).boxed()
        } else {
            rt::mark("a node asked another one to read its replicas");
            let encoded = Bytes::from(wire::encode_read(&read));
            let kind = operation.kind();
            let is_small = encoded.len() <= SMALL_BYTES_MAX && read.is_small(self.0.reach.answer_bytes(kind));
            let service = self.clone();
            let messages = self.0.others.read(node, encoded, is_small, deadline).inspect(move |message| {
                if let Ok(bytes) = message {
                    service.0.reach.weighed(kind, bytes.len());
                }
            });
            messages.then(part).boxed()
        };
        let broke_off = || Error::new(ErrorKind::Unavailable, "node_unreachable", "the node broke off its answer");
        let end = stream::once(std::future::ready(Part::End(broke_off())));
        answers.chain(end).map(move |part| (id, part)).boxed()
    }
}

/// What one message of another node says.
fn part(message: Result<Bytes>) -> BoxFuture<'static, Part> {
    let decoded = |bytes: Bytes| match wire::decode_answer(&bytes) {
        Ok((shard, answer)) => Part::Answer(shard, answer),
        Err(error) => Part::End(error),
    };
    match message {
        Ok(bytes) if bytes.len() > LARGE_BYTES => rt::compute::cpu(move || decoded(bytes)).boxed(),
        Ok(bytes) => std::future::ready(decoded(bytes)).boxed(),
        Err(error) => std::future::ready(Part::End(error)).boxed(),
    }
}
