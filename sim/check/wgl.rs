//! Is a history linearizable? The search of Wing and Gong (1993) with Lowe's memory of visited configurations (2017),
//! on one thread, bounded by a budget of steps instead of a clock, so that a verdict never depends on the machine.
//!
//! The search keeps the starts and ends of the operations in one list in the order of their indexes. It takes the first
//! operation whose start comes before any end and whose step the model allows, strikes it off and begins again; where
//! it meets an end whose operation is not struck off it goes back. A configuration is the set of operations taken plus
//! the model's state; one that was seen before is not tried again. An operation of unknown outcome has no end: it may be
//! taken at any moment after its start, or never.
//!
//! Cost: exponential in the number of operations open at once in the worst case, near linear on ordinary histories.
//! Memory: one bit an operation and one state for each step, so the budget bounds it too.
use super::history::Operation;
use std::{collections::HashSet, fmt::Debug, hash::Hash};

/// The sequential object a history is judged against.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Call: Clone + Debug;
    type Answer: Clone + Debug;

    fn initial(&self) -> Self::State;

    /// The state after `call` answered `answer` (`None`: it took effect, the answer was never seen), or `None` if that
    /// cannot happen in `state`.
    fn step(&self, state: &Self::State, call: &Self::Call, answer: Option<&Self::Answer>) -> Option<Self::State>;

    /// Whether the call changes nothing, whatever it answers. Only used to make counterexamples smaller.
    fn reads_only(&self, call: &Self::Call) -> bool;
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains the history. `longest` are the operations of the longest explainable order (positions in the
    /// slice that was checked), `stuck` the one whose end could not be passed after it.
    Violation {
        longest: Vec<usize>,
        stuck: usize,
    },
    /// The budget ran out. A run with such a verdict fails: it proved nothing.
    BudgetSpent,
}

/// Steps a check may take: about a second, about 100 MB.
pub const STEPS_MAX: u64 = 2_000_000;

/// Judges `operations` (in the order of their starts). Failed operations are left out: they had no effect. Those of unknown outcome are
/// left out at first: most of them never happened, and in any order of so many the search would lose itself.
pub fn check<M: Model>(model: &M, operations: &[&Operation<M::Call, M::Answer>], steps_max: u64) -> Verdict {
    let known: Vec<_> = operations.iter().copied().filter(|operation| !operation.unknown()).collect();
    match Search::new(model, &known).run(steps_max) {
        Verdict::Linearizable => Verdict::Linearizable,
        _ => Search::new(model, operations).run(steps_max),
    }
}

#[derive(Clone, Copy)]
enum Entry {
    Start(usize),
    End(usize),
}

/// A doubly linked list over a fixed set of entries; node 0 is its head.
struct List {
    entries: Vec<Entry>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// For each operation: the nodes of its start and, if it has one, of its end.
    nodes: Vec<(usize, Option<usize>)>,
    /// Ends still in the list.
    ends: usize,
}

impl List {
    fn new<C, R>(operations: &[&Operation<C, R>]) -> List {
        let mut order: Vec<(u64, Entry)> = Vec::new();
        for (position, operation) in operations.iter().enumerate().filter(|(_, o)| !o.failed()) {
            order.push((operation.start.index, Entry::Start(position)));
            if !operation.unknown() {
                order.push((operation.end_index(), Entry::End(position)));
            }
        }
        order.sort_by_key(|(index, _)| *index);
        let mut list = List {
            entries: vec![Entry::End(usize::MAX)],
            next: (1..=order.len() + 1).collect(),
            previous: (0..=order.len() + 1).map(|node| node.saturating_sub(1)).collect(),
            nodes: vec![(0, None); operations.len()],
            ends: 0,
        };
        for (place, (_, entry)) in order.into_iter().enumerate() {
            match entry {
                Entry::Start(operation) => list.nodes[operation].0 = place + 1,
                Entry::End(operation) => {
                    list.nodes[operation].1 = Some(place + 1);
                    list.ends += 1;
                }
            }
            list.entries.push(entry);
        }
        list
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn unlink(&mut self, node: usize) {
        let (before, after) = (self.previous[node], self.next[node]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn relink(&mut self, node: usize) {
        let (before, after) = (self.previous[node], self.next[node]);
        self.next[before] = node;
        self.previous[after] = node;
    }

    /// Strikes the operation off.
    fn lift(&mut self, operation: usize) {
        let (start, end) = self.nodes[operation];
        self.unlink(start);
        if let Some(end) = end {
            self.unlink(end);
            self.ends -= 1;
        }
    }

    /// The exact reverse of [`List::lift`]; lifts must be undone in reverse order.
    fn unlift(&mut self, operation: usize) {
        let (start, end) = self.nodes[operation];
        if let Some(end) = end {
            self.relink(end);
            self.ends += 1;
        }
        self.relink(start);
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [&'a Operation<M::Call, M::Answer>],
    list: List,
    state: M::State,
    taken: Vec<u64>,
    path: Vec<(usize, M::State)>,
    seen: HashSet<(Box<[u64]>, M::State)>,
    deepest: (Vec<usize>, usize),
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &'a [&'a Operation<M::Call, M::Answer>]) -> Self {
        Search {
            model,
            operations,
            list: List::new(operations),
            state: model.initial(),
            taken: vec![0; operations.len().div_ceil(64)],
            path: Vec::new(),
            seen: HashSet::new(),
            deepest: (Vec::new(), 0),
        }
    }

    fn run(mut self, steps_max: u64) -> Verdict {
        let mut node = self.list.first();
        for _ in 0..steps_max {
            if self.list.ends == 0 {
                return Verdict::Linearizable;
            }
            let entry = self.list.entries[node];
            node = match entry {
                Entry::Start(operation) if self.take(operation) => self.list.first(),
                Entry::Start(_) => self.list.next[node],
                Entry::End(stuck) => match self.back(stuck) {
                    Some(next) => next,
                    None => return Verdict::Violation { longest: self.deepest.0, stuck: self.deepest.1 },
                },
            };
        }
        Verdict::BudgetSpent
    }

    /// Takes the operation if the model allows it and the configuration is new.
    fn take(&mut self, operation: usize) -> bool {
        let what = self.operations[operation];
        let Some(state) = self.model.step(&self.state, &what.call, what.answer()) else { return false };
        self.taken[operation / 64] |= 1 << (operation % 64);
        if !self.seen.insert((self.taken.clone().into_boxed_slice(), state.clone())) {
            self.taken[operation / 64] &= !(1 << (operation % 64));
            return false;
        }
        self.list.lift(operation);
        self.path.push((operation, std::mem::replace(&mut self.state, state)));
        true
    }

    /// Gives back the last operation taken; the node to go on from, or `None` if there was none.
    fn back(&mut self, stuck: usize) -> Option<usize> {
        if self.path.len() > self.deepest.0.len() || self.deepest.0.is_empty() {
            self.deepest = (self.path.iter().map(|(operation, _)| *operation).collect(), stuck);
        }
        let (operation, state) = self.path.pop()?;
        self.state = state;
        self.taken[operation / 64] &= !(1 << (operation % 64));
        self.list.unlift(operation);
        Some(self.list.next[self.list.nodes[operation].0])
    }
}

/// A small part of a history that is not linearizable, for people to read: the shortest prefix that fails (operations
/// that end after it count as unknown), without the reads that are not needed for the failure. Leaving out a read can
/// only make more orders possible, so what is left is still a proof.
///
/// Cost: O(log n) checks for the prefix and one for each read.
pub fn smallest_violation<M: Model>(
    model: &M,
    operations: &[&Operation<M::Call, M::Answer>],
    steps_max: u64,
) -> Vec<Operation<M::Call, M::Answer>> {
    let fails = |candidate: &[Operation<M::Call, M::Answer>]| {
        matches!(check(model, &candidate.iter().collect::<Vec<_>>(), steps_max), Verdict::Violation { .. })
    };
    let mut cuts: Vec<u64> =
        operations.iter().filter_map(|o| o.end.as_ref().map(|(stamp, _)| stamp.index + 1)).collect();
    cuts.sort_unstable();
    let shortest = cuts.partition_point(|cut| !fails(&prefix(operations, *cut)));
    let Some(cut) = cuts.get(shortest) else { return operations.iter().map(|o| (*o).clone()).collect() };
    let mut kept = prefix(operations, *cut);
    let mut place = 0;
    while place < kept.len() {
        if model.reads_only(&kept[place].call) {
            let read = kept.remove(place);
            if fails(&kept) {
                continue;
            }
            kept.insert(place, read);
        }
        place += 1;
    }
    kept
}

/// What had happened before index `cut`.
fn prefix<C: Clone, R: Clone>(operations: &[&Operation<C, R>], cut: u64) -> Vec<Operation<C, R>> {
    let cut_short = |o: &Operation<C, R>| {
        let end = o.end.clone().filter(|(stamp, _)| stamp.index < cut);
        Operation { process: o.process, call: o.call.clone(), start: o.start, end }
    };
    operations.iter().filter(|o| o.start.index < cut && !o.failed()).map(|o| cut_short(o)).collect()
}
