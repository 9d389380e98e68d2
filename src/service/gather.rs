//! Which node is asked for which shards, when, and what is done when one is slow or fails. No I/O and no clock: events and the time
//! come in, asks come out, so that every case can be tested. One RPC a node carries all shards it is asked for; every shard is
//! settled exactly once, by its first answer or by its last failure.
//!
//! A shard's holders are asked one after the other: the next when one failed, or as a hedge when one is slow. When all have failed
//! they are asked again after a pause, while the patience lasts: shards move, leaders change, and a new one is open a moment after
//! it is in the table. Driven by `fan_out`.

use super::reach::{Kind, Reach};
use crate::{
    cluster::{NodeId, ShardId},
    rt::time::Instant,
    types::{Error, ErrorKind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Most shards in one RPC.
pub const SHARDS_PER_ASK_MAX: usize = 4_096;
/// Between two rounds over the holders of a shard: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Names one ask of a gathering.
pub type AskId = u64;

/// A node to be asked for these shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub id: AskId,
    pub node: NodeId,
    pub shards: Vec<ShardId>,
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
    /// Until when shards whose holders all failed are asked again.
    pub patience: Instant,
    /// From when on no other holder is waited for once one has failed.
    pub give_up: Instant,
}

/// See the module. `H` gives the holders of a shard, in the order in which they should be asked, whenever a round begins.
pub struct Gather<'r, H> {
    reach: &'r Reach,
    kind: Kind,
    holders: H,
    limits: Limits,
    shards: BTreeMap<ShardId, Wanted>,
    /// Those that nobody is being asked for and that have a holder left; what is due is found without a look at all.
    due: BTreeSet<ShardId>,
    /// When a round over the holders begins again.
    rounds: BTreeSet<(Instant, ShardId)>,
    open: BTreeMap<AskId, Open>,
    last_ask: AskId,
    asks: Vec<Ask>,
    failures: Vec<(ShardId, Error)>,
    has_given_up: bool,
}

/// A shard that is not settled.
#[derive(Default)]
struct Wanted {
    /// Holders of this round that have not been asked.
    left: Vec<NodeId>,
    /// Asks under way.
    under_way: u32,
    failure: Option<Error>,
    pause: Duration,
}

struct Open {
    node: NodeId,
    began: Instant,
    waiting: BTreeSet<ShardId>,
    hedge_at: Option<Instant>,
}

impl<'r, H: FnMut(ShardId) -> Vec<NodeId>> Gather<'r, H> {
    /// Begins to ask for `shards`.
    pub fn new(reach: &'r Reach, kind: Kind, shards: &[ShardId], limits: Limits, holders: H, now: Instant) -> Self {
        let wanted = shards.iter().map(|shard| (*shard, Wanted::default())).collect();
        let (due, rounds, open, asks, failures, last_ask, has_given_up) = Default::default();
        let mut gather = Gather {
            reach,
            kind,
            holders,
            limits,
            shards: wanted,
            due,
            rounds,
            open,
            last_ask,
            asks,
            failures,
            has_given_up,
        };
        gather.begin_rounds(shards, now);
        gather
    }

    /// What is to be asked now; each ask is given out once.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Shards that are settled without an answer; each is given out once.
    pub fn take_failures(&mut self) -> Vec<(ShardId, Error)> {
        std::mem::take(&mut self.failures)
    }

    /// Whether every shard is settled.
    pub fn is_over(&self) -> bool {
        self.shards.is_empty()
    }

    /// When [`Gather::tick`] is to be called next.
    pub fn wake_at(&self) -> Instant {
        let hedges = self.open.values().filter_map(|open| open.hedge_at);
        let round = self.rounds.first().map(|(at, _)| *at);
        let give_up = Some(self.limits.give_up).filter(|_| !self.has_given_up);
        hedges.chain(round).chain(give_up).min().unwrap_or(self.limits.deadline).min(self.limits.deadline)
    }

    /// An answer has come; whether it is the first for its shard.
    pub fn answered(&mut self, ask: AskId, shard: ShardId, now: Instant) -> bool {
        self.heard(ask, shard, now) && self.shards.remove(&shard).is_some()
    }

    /// An error has come in the place of an answer.
    pub fn refused(&mut self, ask: AskId, shard: ShardId, error: Error, now: Instant) {
        if !self.heard(ask, shard, now) {
            return;
        }
        if is_final(&error) {
            self.settle(shard, error);
        } else {
            self.missed(shard, error, now);
            self.ask_what_is_due(now);
        }
    }

    /// An ask has ended; with an error unless it was all answered.
    pub fn ended(&mut self, ask: AskId, error: &Error, now: Instant) {
        let Some(open) = self.open.remove(&ask) else { return };
        match error.kind() {
            // It lives, and has enough to do without those that would have to be asked in its place.
            ErrorKind::Exhausted => self.reach.let_go(open.node),
            _ => self.reach.failed(open.node, now),
        }
        for shard in open.waiting {
            self.missed(shard, error.clone(), now);
        }
        self.ask_what_is_due(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if now >= self.limits.deadline {
            let shards: Vec<ShardId> = self.shards.keys().copied().collect();
            for shard in shards {
                let failure = self.shards.get_mut(&shard).and_then(|wanted| wanted.failure.take());
                self.settle(shard, failure.unwrap_or_else(|| too_late(shard)));
            }
            return;
        }
        if now >= self.limits.give_up && !self.has_given_up {
            self.has_given_up = true;
            self.give_up_failed();
        }
        let later = self.rounds.split_off(&(now, ShardId::MAX));
        let again: Vec<ShardId> = std::mem::replace(&mut self.rounds, later).into_iter().map(|(_, id)| id).collect();
        self.begin_rounds(&again, now);
        self.hedge(now);
    }

    /// Settles the shards of which a holder has failed.
    fn give_up_failed(&mut self) {
        let failed = |(shard, wanted): (&ShardId, &mut Wanted)| wanted.failure.take().map(|error| (*shard, error));
        let failed: Vec<(ShardId, Error)> = self.shards.iter_mut().filter_map(failed).collect();
        failed.into_iter().for_each(|(shard, error)| self.settle(shard, error));
    }

    /// Notes that an ask has heard of a shard; whether it was waiting for it.
    fn heard(&mut self, ask: AskId, shard: ShardId, now: Instant) -> bool {
        let Some(open) = self.open.get_mut(&ask) else { return false };
        if !open.waiting.remove(&shard) {
            return false;
        }
        if open.waiting.is_empty()
            && let Some(open) = self.open.remove(&ask)
        {
            self.reach.answered(open.node, self.kind, now - open.began);
        }
        true
    }

    fn settle(&mut self, shard: ShardId, error: Error) {
        if self.shards.remove(&shard).is_some() {
            self.failures.push((shard, error));
        }
    }

    fn begin_rounds(&mut self, shards: &[ShardId], now: Instant) {
        for shard in shards {
            let left = (self.holders)(*shard);
            let Some(wanted) = self.shards.get_mut(shard) else { continue };
            if left.is_empty() {
                self.missed(*shard, no_holder(*shard), now);
            } else {
                wanted.left = left;
                self.due.insert(*shard);
            }
        }
        self.ask_what_is_due(now);
    }

    /// One ask for a shard has come to nothing.
    fn missed(&mut self, shard: ShardId, error: Error, now: Instant) {
        let Some(wanted) = self.shards.get_mut(&shard) else { return };
        if self.has_given_up {
            return self.settle(shard, error);
        }
        wanted.under_way = wanted.under_way.saturating_sub(1);
        wanted.failure = Some(error);
        if wanted.under_way > 0 {
            return;
        }
        if !wanted.left.is_empty() {
            self.due.insert(shard);
            return;
        }
        // No holder has the slot: the caller has to ask another shard.
        let elsewhere = wanted.failure.take_if(|error| error.code() == "shard_moved");
        if let Some(error) = elsewhere {
            return self.settle(shard, error);
        }
        wanted.pause = (wanted.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        let again_at = now + wanted.pause;
        if again_at < self.limits.patience.min(self.limits.deadline) {
            self.rounds.insert((again_at, shard));
        } else if let Some(error) = wanted.failure.take() {
            self.settle(shard, error);
        }
    }

    /// Asks for every shard that nobody is being asked for.
    fn ask_what_is_due(&mut self, now: Instant) {
        let mut by_node: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for shard in std::mem::take(&mut self.due) {
            let Some(wanted) = self.shards.get_mut(&shard) else { continue };
            wanted.under_way = 1;
            by_node.entry(wanted.left.remove(0)).or_default().push(shard);
        }
        for (node, shards) in by_node {
            self.ask(node, &shards, now);
        }
    }

    /// Asks a second holder for what a slow one owes.
    fn hedge(&mut self, now: Instant) {
        let mut by_node: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for open in self.open.values_mut().filter(|open| open.hedge_at.is_some_and(|at| at <= now)) {
            open.hedge_at = None;
            for shard in &open.waiting {
                let Some(wanted) = self.shards.get(shard).filter(|wanted| wanted.under_way == 1) else { continue };
                if let Some(node) = wanted.left.first() {
                    by_node.entry(*node).or_default().push(*shard);
                }
            }
        }
        for (node, shards) in by_node {
            if !self.reach.may_hedge() {
                return;
            }
            for shard in &shards {
                if let Some(wanted) = self.shards.get_mut(shard) {
                    wanted.left.remove(0);
                    wanted.under_way += 1;
                }
            }
            crate::rt::mark("a read was hedged");
            self.ask(node, &shards, now);
        }
    }

    fn ask(&mut self, node: NodeId, shards: &[ShardId], now: Instant) {
        for shards in shards.chunks(SHARDS_PER_ASK_MAX) {
            self.last_ask += 1;
            let hedge_at = now + self.reach.asked(node, self.kind);
            let someone_else = shards.iter().any(|shard| self.shards.get(shard).is_some_and(|w| !w.left.is_empty()));
            let waiting = shards.iter().copied().collect();
            let open = Open { node, began: now, waiting, hedge_at: someone_else.then_some(hedge_at) };
            self.open.insert(self.last_ask, open);
            self.asks.push(Ask { id: self.last_ask, node, shards: shards.to_vec() });
        }
    }
}

impl<H> Drop for Gather<'_, H> {
    /// Whoever is still being asked is not waited for.
    fn drop(&mut self) {
        for open in self.open.values() {
            self.reach.let_go(open.node);
        }
    }
}

/// Whether every replica would say the same.
fn is_final(error: &Error) -> bool {
    error.kind().is_refusal()
}

fn no_holder(shard: ShardId) -> Error {
    Error::new(ErrorKind::Unavailable, "shard_not_here", format!("no node is known to hold shard {shard}"))
}

fn too_late(shard: ShardId) -> Error {
    Error::new(ErrorKind::Unavailable, "read_timeout", format!("shard {shard} did not answer in time"))
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
