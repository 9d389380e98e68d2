//! New posting lists on their way into an index that goes on changing. All that costs a look at every row is done aside, in pieces
//! for which a shared lock is enough; what changes meanwhile is noted by ordinal and made up for, until so little is left that
//! the exclusive lock is held for microseconds. Called by `vector_index`; driven by `shard`.

use super::locations::{Location, Locations};
use super::points::Points;
use super::sealed::Sealed;
use super::tail::Chunk;
use super::train::Built;
use super::trained::Trained;
use std::collections::VecDeque;
use std::sync::Arc;

/// Rows looked at in one piece: a fraction of a millisecond.
const PIECE_ROWS: usize = 2_048;
/// Changes made up for under the exclusive lock.
const LAST_CHANGES_MAX: usize = 1_024;
/// Times that changes are made up for aside; after that the rest is, whatever it costs.
const ROUNDS_MAX: usize = 32;

/// Ordinals whose row came or went; each is kept once, so it is bounded by the points.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    noted: Vec<u64>,
    ordinals: Vec<u32>,
}

impl Journal {
    pub(crate) fn note(&mut self, ordinal: u32) {
        let (word, bit) = (ordinal as usize / 64, 1 << (ordinal % 64));
        if word >= self.noted.len() {
            self.noted.resize(word + 1, 0);
        }
        if self.noted[word] & bit == 0 {
            self.noted[word] |= bit;
            self.ordinals.push(ordinal);
        }
    }
}

/// See the module. Take it to [`super::VectorIndex::adopt_some`] until that says there is nothing to do, then to
/// [`super::VectorIndex::install_adopted`], and again as long as that wants more done aside. Drop it off the lock: it then holds what
/// was replaced.
pub struct Adoption {
    sealed: Sealed,
    /// Of each row the id and version it was built from.
    rows: Points,
    /// The next row to find the ordinal of.
    next: (usize, usize),
    locations: Locations,
    pending: VecDeque<u32>,
    rounds: usize,
    /// What was replaced.
    old: Option<(Option<Trained>, Locations, Vec<Chunk>)>,
}

impl Adoption {
    /// Of lists just built.
    pub fn new(built: Built) -> Adoption {
        let Built { sealed, points } = built;
        Adoption {
            sealed,
            rows: points,
            next: (0, 0),
            locations: Locations::default(),
            pending: VecDeque::new(),
            rounds: 0,
            old: None,
        }
    }

    pub(crate) fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    /// One piece of the work; whether there is more. `now` are the places of rows in the index.
    pub(crate) fn advance(&mut self, points: &Points, now: &Locations) -> bool {
        let mut left = PIECE_ROWS;
        while left > 0 && self.next.0 < self.sealed.lists.len() {
            left -= self.map_rows(left, points, now);
        }
        let count = left.min(self.pending.len());
        for ordinal in self.pending.drain(..count).collect::<Vec<_>>() {
            self.follow(ordinal, now);
        }
        self.next.0 < self.sealed.lists.len() || !self.pending.is_empty()
    }

    /// Gives rows of one list the ordinals their points have, and makes those dead whose points have gone or changed. At most
    /// `limit`; how many it looked at, at least one.
    fn map_rows(&mut self, limit: usize, points: &Points, now: &Locations) -> usize {
        let (number, first) = self.next;
        let live = &mut self.sealed.lists[number];
        // Nobody else has the lists yet, so this copies nothing.
        let ordinals = Arc::make_mut(&mut live.list).ordinals.to_mut();
        let last = ordinals.len().min(first + limit);
        let mut gone = Vec::new();
        for (slot, at) in (first..last).zip(&mut ordinals[first..last]) {
            let row = self.rows.get(*at);
            let ordinal = row.and_then(|(id, version)| points.ordinal_at(id, version));
            match ordinal.filter(|&ordinal| now.get(ordinal).is_some()) {
                None => gone.push(slot),
                Some(ordinal) => {
                    *at = ordinal;
                    self.locations.set(ordinal, Location::List { list: number as u32, slot: slot as u32 });
                }
            }
        }
        gone.into_iter().for_each(|slot| live.clear(slot));
        self.next = if last == live.list.len() { (number + 1, 0) } else { (number, last) };
        (last - first).max(1)
    }

    /// Makes up for a change: the row's place is the index's, and the built row is dead.
    fn follow(&mut self, ordinal: u32, now: &Locations) {
        if let Some(Location::List { list, slot }) = self.locations.take(ordinal) {
            self.sealed.lists[list as usize].clear(slot as usize);
        }
        // No row enters lists while a training runs, so a row that changed is in the tail.
        if let Some(at @ Location::Tail(_)) = now.get(ordinal) {
            self.locations.set(ordinal, at);
        }
    }

    /// Takes in what changed since the last time. Whether so little is left to make up for that it was done.
    pub(crate) fn catch_up(&mut self, journal: Journal, now: &Locations) -> bool {
        self.rounds += 1;
        self.pending.extend(journal.ordinals);
        if self.next.0 < self.sealed.lists.len() || (self.pending.len() > LAST_CHANGES_MAX && self.rounds < ROUNDS_MAX)
        {
            return false;
        }
        for ordinal in std::mem::take(&mut self.pending) {
            self.follow(ordinal, now);
        }
        true
    }

    /// Rows that will be known: live ones of the lists, and those that changed and are in the tail.
    pub(crate) fn len(&self) -> usize {
        self.locations.len()
    }

    /// The lists and places to install, in exchange for those there were.
    pub(crate) fn exchange(&mut self, old: (Option<Trained>, Vec<Chunk>), locations: &mut Locations) -> Sealed {
        let (trained, chunks) = old;
        let Sealed { quantizer, lists, calibration, tried_on, reach, reach_outdated_by } = &mut self.sealed;
        let sealed = Sealed {
            quantizer: Arc::clone(quantizer),
            lists: std::mem::take(lists),
            calibration: std::mem::take(calibration),
            tried_on: *tried_on,
            reach: std::mem::take(reach),
            reach_outdated_by: *reach_outdated_by,
        };
        let before = std::mem::replace(locations, std::mem::take(&mut self.locations));
        self.old = Some((trained, before, chunks));
        sealed
    }
}
