//! What is known of the nodes that can be asked: how long they took lately, how much is under way, which of them failed. From it
//! come the order in which the holders of a shard are asked, and when a second one is asked because the first is slow. It is a
//! matter of speed alone: whom to ask never decides what is true. Every function takes the time, so that it runs under any clock.
//! Called by `gather`.

use crate::{cluster::NodeId, rt::time::Instant};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Latest answers of a node that are kept, of each kind.
const RECENT: usize = 64;
/// Answers of a node from which on its p95 is believed.
const BELIEVED: usize = 8;
/// Before a second holder is asked: at least, at most, and while too little is known.
const HEDGE_MIN: Duration = Duration::from_millis(5);
const HEDGE_MAX: Duration = Duration::from_secs(1);
const HEDGE_UNKNOWN: Duration = Duration::from_millis(100);
/// Asks that pay for one hedge: 10 % of them at most are hedged.
const ASKS_PER_HEDGE: u32 = 10;
/// Hedges that may be saved up.
const HEDGES_SAVED_MAX: u32 = 10;
/// How long a node that failed is passed over: doubled from the first to the last.
const PASSED_OVER_FIRST: Duration = Duration::from_millis(250);
const PASSED_OVER_MAX: Duration = Duration::from_secs(8);

/// What is asked, since one kind takes longer than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    List,
    Search,
    Figures,
}

const KINDS: usize = 4;

/// See the module.
pub struct Reach(Mutex<Known>);

struct Known {
    nodes: BTreeMap<NodeId, Node>,
    /// Exponentially weighted means of an answer's bytes, of each kind.
    answer_bytes: [usize; KINDS],
    /// Paid in by asks, taken out by hedges.
    saved: u32,
    totals: Totals,
    dice: StdRng,
}

/// How much was asked since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub asked: u64,
    /// Of these, second ones because the first was slow.
    pub hedged: u64,
    /// And those that failed.
    pub failed: u64,
}

/// One node.
#[derive(Default)]
struct Node {
    /// Asks under way.
    open: u32,
    /// Exponentially weighted mean over its answers.
    mean: Duration,
    recent: [Recent; KINDS],
    /// Failures since it last answered.
    failures: u32,
    passed_over_until: Option<Instant>,
}

/// How long the latest answers took.
#[derive(Default)]
struct Recent {
    took: VecDeque<Duration>,
    /// The same by length: every ask wants to know one of them.
    sorted: Vec<Duration>,
}

impl Recent {
    fn add(&mut self, took: Duration) {
        if self.took.len() == RECENT
            && let Some(oldest) = self.took.pop_front()
        {
            let at = self.sorted.partition_point(|one| *one < oldest);
            self.sorted.remove(at);
        }
        self.took.push_back(took);
        let at = self.sorted.partition_point(|one| *one < took);
        self.sorted.insert(at, took);
    }

    /// The time within which 19 of 20 were there.
    fn p95(&self) -> Option<Duration> {
        (self.sorted.len() >= BELIEVED).then(|| self.sorted[self.sorted.len() * 19 / 20])
    }
}

impl Reach {
    /// Nothing is known yet. `seed` decides between nodes that are as good as each other.
    pub fn new(seed: u64) -> Reach {
        let dice = StdRng::seed_from_u64(seed);
        Reach(Mutex::new(Known {
            nodes: BTreeMap::new(),
            answer_bytes: [0; KINDS],
            saved: ASKS_PER_HEDGE,
            totals: Totals::default(),
            dice,
        }))
    }

    /// The nodes in the order in which they should be asked: first the less loaded of two drawn at random (power of two choices),
    /// then the others at random, last those that failed a moment ago.
    pub fn order(&self, nodes: &[NodeId], now: Instant) -> Vec<NodeId> {
        let mut known = self.known();
        let known = &mut *known;
        let mut order = nodes.to_vec();
        for at in (1..order.len()).rev() {
            order.swap(at, known.dice.random_range(0..=at));
        }
        order.sort_by_key(|node| known.passed_over(*node, now));
        if let [one, two, ..] = order[..]
            && !known.passed_over(two, now)
            && known.load(two) < known.load(one)
        {
            order.swap(0, 1);
        }
        order
    }

    /// For people.
    pub fn totals(&self) -> Totals {
        self.known().totals
    }

    /// Whether a node failed a moment ago.
    pub fn is_passed_over(&self, node: NodeId, now: Instant) -> bool {
        self.known().passed_over(node, now)
    }

    /// A node is asked. After how long another one should be.
    pub fn asked(&self, node: NodeId, kind: Kind) -> Duration {
        let mut known = self.known();
        known.saved = (known.saved + 1).min(ASKS_PER_HEDGE * HEDGES_SAVED_MAX);
        known.totals.asked += 1;
        let node = known.nodes.entry(node).or_default();
        node.open += 1;
        let p95 = node.recent[kind as usize].p95();
        p95.map_or(HEDGE_UNKNOWN, |p95| p95.clamp(HEDGE_MIN, HEDGE_MAX))
    }

    /// Whether one more ask may be a second one for the same shards.
    pub fn may_hedge(&self) -> bool {
        let mut known = self.known();
        let paid = known.saved.checked_sub(ASKS_PER_HEDGE);
        known.saved = paid.unwrap_or(known.saved);
        known.totals.hedged += u64::from(paid.is_some());
        paid.is_some()
    }

    /// A node has answered all it was asked.
    pub fn answered(&self, node: NodeId, kind: Kind, took: Duration) {
        self.ended(node, |node| {
            node.recent[kind as usize].add(took);
            node.mean = if node.mean.is_zero() { took } else { (node.mean * 7 + took) / 8 };
            (node.failures, node.passed_over_until) = (0, None);
        });
    }

    /// A shard's answer had so many bytes.
    pub fn weighed(&self, kind: Kind, bytes: usize) {
        let mean = &mut self.known().answer_bytes[kind as usize];
        *mean = (*mean * 7 + bytes) / 8;
    }

    /// Bytes of a shard's answer, the mean of late.
    pub fn answer_bytes(&self, kind: Kind) -> usize {
        self.known().answer_bytes[kind as usize]
    }

    /// A node could not be asked, or broke off.
    pub fn failed(&self, node: NodeId, now: Instant) {
        self.known().totals.failed += 1;
        self.ended(node, |node| {
            let passed_over = PASSED_OVER_FIRST * (1 << node.failures.min(5));
            node.failures = node.failures.saturating_add(1);
            node.passed_over_until = Some(now + passed_over.min(PASSED_OVER_MAX));
        });
    }

    /// Nobody waits for what a node was asked any more.
    pub fn let_go(&self, node: NodeId) {
        self.ended(node, |_| ());
    }

    fn ended(&self, node: NodeId, note: impl FnOnce(&mut Node)) {
        let mut known = self.known();
        let node = known.nodes.entry(node).or_default();
        node.open = node.open.saturating_sub(1);
        note(node);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A wrong figure costs speed and nothing else.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn passed_over(&self, node: NodeId, now: Instant) -> bool {
        self.nodes.get(&node).and_then(|node| node.passed_over_until).is_some_and(|until| now < until)
    }

    /// What one more ask would wait for.
    fn load(&self, node: NodeId) -> Duration {
        self.nodes.get(&node).map_or(Duration::ZERO, |node| node.mean * (node.open + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NOW: Instant = Instant::START;

    fn used(reach: &Reach, node: NodeId, took: Duration, times: usize) {
        for _ in 0..times {
            reach.asked(node, Kind::Get);
            reach.answered(node, Kind::Get, took);
        }
    }

    #[test]
    fn every_holder_is_asked_sometimes_and_the_slower_one_less() {
        let reach = Reach::new(1);
        used(&reach, 1, 10 * MS, 3);
        used(&reach, 2, MS, 3);
        let mut first = BTreeMap::new();
        for _ in 0..300 {
            let order = reach.order(&[1, 2, 3], NOW);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [1, 2, 3]);
            *first.entry(order[0]).or_insert(0) += 1;
        }
        // The slowest of three wins no draw of two.
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [2, 3], "{first:?}");
    }

    #[test]
    fn what_is_under_way_counts_as_load() {
        let reach = Reach::new(1);
        used(&reach, 1, MS, 3);
        used(&reach, 2, 3 * MS, 3);
        for _ in 0..9 {
            reach.asked(1, Kind::Get);
        }
        assert_eq!(reach.order(&[1, 2], NOW), [2, 1]);
        (0..9).for_each(|_| reach.let_go(1));
        assert_eq!(reach.order(&[1, 2], NOW), [1, 2]);
    }

    #[test]
    fn a_node_that_failed_is_passed_over_for_a_while_longer_each_time() {
        let reach = Reach::new(1);
        reach.failed(1, NOW);
        assert_eq!(reach.order(&[1, 2], NOW + 249 * MS), [2, 1]);
        assert!(!reach.is_passed_over(1, NOW + 250 * MS));
        reach.failed(1, NOW);
        assert!(reach.is_passed_over(1, NOW + 499 * MS) && !reach.is_passed_over(1, NOW + 500 * MS));
        (0..20).for_each(|_| reach.failed(1, NOW));
        assert!(reach.is_passed_over(1, NOW + 7_999 * MS) && !reach.is_passed_over(1, NOW + 8_000 * MS));
        used(&reach, 1, MS, 1);
        assert!(!reach.is_passed_over(1, NOW), "it answers again");
    }

    #[test]
    fn a_large_answer_now_and_then_is_forgotten_and_many_are_not() {
        let reach = Reach::new(1);
        reach.weighed(Kind::Search, 800_000);
        assert_eq!((reach.answer_bytes(Kind::Search), reach.answer_bytes(Kind::Get)), (100_000, 0));
        (0..20).for_each(|_| reach.weighed(Kind::Search, 1_000));
        assert!(reach.answer_bytes(Kind::Search) < 10_000);
        (0..20).for_each(|_| reach.weighed(Kind::Search, 800_000));
        assert!(reach.answer_bytes(Kind::Search) > 700_000);
    }

    #[test]
    fn a_hedge_waits_for_the_p95_within_bounds() {
        let reach = Reach::new(1);
        assert_eq!(reach.asked(1, Kind::Get), HEDGE_UNKNOWN);
        used(&reach, 1, 20 * MS, 60);
        used(&reach, 1, 700 * MS, 2);
        assert_eq!(reach.asked(1, Kind::Get), 20 * MS, "two of 62 are above the 95th");
        assert_eq!(reach.asked(1, Kind::Search), HEDGE_UNKNOWN, "another kind");
        used(&reach, 1, Duration::from_micros(30), RECENT);
        assert_eq!(reach.asked(1, Kind::Get), HEDGE_MIN);
        used(&reach, 1, 60_000 * MS, RECENT);
        assert_eq!(reach.asked(1, Kind::Get), HEDGE_MAX);
    }

    #[test]
    fn the_p95_is_that_of_the_latest_answers_sorted() {
        let (mut recent, mut dice) = (Recent::default(), StdRng::seed_from_u64(5));
        let mut all = Vec::new();
        for _ in 0..5 * RECENT {
            // Few different ones, so that many are as long as each other.
            let took = dice.random_range(0..20) * MS;
            all.push(took);
            recent.add(took);
            let mut latest = all[all.len().saturating_sub(RECENT)..].to_vec();
            latest.sort_unstable();
            assert_eq!(recent.p95(), (latest.len() >= BELIEVED).then(|| latest[latest.len() * 19 / 20]));
        }
    }

    #[test]
    fn at_most_one_ask_in_ten_is_hedged() {
        let reach = Reach::new(1);
        let mut hedges = 0;
        for _ in 0..1_000 {
            reach.asked(1, Kind::Get);
            hedges += u32::from(reach.may_hedge());
        }
        assert_eq!(hedges, 101, "a tenth, and the one to begin with");
    }
}
