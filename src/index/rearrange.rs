//! What a background job hands back: the lists it changed and where their rows come from, so that installing it costs the rows
//! moved, not the rows held. Made by `filing` and `reshape`, installed by `vector_index`.

use super::kernels::Kernels;
use super::list::{Departed, LiveList, PostingList};
use super::locations::Location;
use super::quantizer::Quantizer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The outcome of a [`super::FilingJob`] or [`super::ReshapeJob`]. A copy shares the rows. Valid for the index it was taken from until lists are changed
/// otherwise. Drop it off the lock: once installed it holds what was replaced.
#[derive(Clone)]
pub struct Rearranged {
    pub(crate) epoch: u64,
    /// Lists there are from now on.
    pub(crate) lists: usize,
    /// With a centroid for each of them.
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) changed: Vec<ChangedList>,
    /// Lists that lost rows and are not rewritten, with all they lost.
    pub(crate) departed: Vec<(usize, Departed)>,
    /// Lists that were due to be looked at, and are as they should be.
    pub(crate) sound: Vec<usize>,
    /// Once installed: lists whose numbers are gone.
    pub(crate) retired: Vec<LiveList>,
    /// Centroids that were made.
    pub(crate) renewed_lists: usize,
    /// Lists that are gone because they were too small.
    pub(crate) dissolved_lists: usize,
}

impl Rearranged {
    /// Rows that are elsewhere than they were: what installing it costs.
    pub fn moved_rows(&self) -> usize {
        self.changed.iter().map(|changed| changed.origins.len()).sum()
    }

    /// Centroids that were made.
    pub fn renewed_lists(&self) -> usize {
        self.renewed_lists
    }

    /// Lists that are gone because they were too small.
    pub fn dissolved_lists(&self) -> usize {
        self.dissolved_lists
    }

    /// Bytes of the lists that were written to do it.
    pub fn written_bytes(&self) -> usize {
        self.changed.iter().map(|changed| changed.rows.memory_bytes()).sum()
    }
}

/// Whether every list is as it was written: one that is not must not be copied, or the copy would be saved as if it were sound.
/// What a job does first. Lists of a file are read through for it, once in the life of the file: by whoever comes first of
/// searches, jobs and what verifies the file in the background.
pub(crate) fn all_sound(lists: &[LiveList]) -> bool {
    lists.iter().all(|live| live.list.is_sound())
}

/// A list's new rows (once installed: those of before): the first `kept` slots are as they were under the same number; the others
/// came from `origins`.
#[derive(Clone)]
pub(crate) struct ChangedList {
    pub(crate) list: usize,
    pub(crate) rows: Arc<PostingList>,
    pub(crate) kept: usize,
    pub(crate) origins: Vec<Location>,
    /// Rows that came and went since its centroid was last compared with its rows, those included that the job brings.
    pub(crate) changed_rows: usize,
    /// As [`LiveList::unparted_rows`].
    pub(crate) unparted_rows: usize,
}

impl ChangedList {
    /// Rows that have nothing to do with what was at this number.
    pub(crate) fn rewritten(list: usize, rows: PostingList) -> ChangedList {
        ChangedList { list, rows: Arc::new(rows), kept: 0, origins: Vec::new(), changed_rows: 0, unparted_rows: 0 }
    }

    /// List `old` to be appended to under the number `list`: a copy, or, if it gets another number or many of its rows are dead,
    /// its live rows alone without those that `left`. The list is sound, `quantizer` is what it was encoded against.
    pub(crate) fn reopened(
        list: usize,
        old: usize,
        live: &LiveList,
        left: &BTreeSet<(usize, usize)>,
        (quantizer, kernels): (&Quantizer, &Kernels),
    ) -> ChangedList {
        let LiveList { changed_rows, unparted_rows, .. } = *live;
        if list == old && !live.wants_compaction() {
            let rows = Arc::new(live.list.to_grow());
            return ChangedList { list, kept: rows.len(), rows, origins: Vec::new(), changed_rows, unparted_rows };
        }
        let mut rows = live.list.empty_like();
        let mut origins = Vec::with_capacity(live.live_rows);
        let mut row = vec![0.0; quantizer.space()];
        for slot in live.live_slots().filter(|&slot| !left.contains(&(old, slot))) {
            quantizer.stored_row(old, &live.list, slot, &mut row, kernels);
            rows.residual_sum += f64::from(quantizer.stored_square(old, &row, kernels));
            rows.push_from(&live.list, slot, quantizer.dimension);
            origins.push(Location::List { list: old as u32, slot: slot as u32 });
        }
        ChangedList { list, rows: Arc::new(rows), kept: 0, origins, changed_rows, unparted_rows }
    }

    /// Does not copy: nobody else has the rows yet.
    fn rows_mut(&mut self) -> &mut PostingList {
        Arc::make_mut(&mut self.rows)
    }

    /// A row from `origin` is about to be appended.
    pub(crate) fn arrive(&mut self, origin: Location) -> &mut PostingList {
        self.origins.push(origin);
        self.changed_rows += 1;
        self.rows_mut()
    }

    /// Nothing will be appended any more.
    pub(crate) fn close(&mut self) {
        self.rows_mut().shrink();
    }

    /// Slots and origins of the rows that are not where they were. A row is still current if its ordinal is at its origin: places
    /// in the tail and, within an epoch, in lists are never used twice.
    pub(crate) fn moved(&self) -> impl Iterator<Item = (usize, Location)> + '_ {
        (self.kept..).zip(self.origins.iter().copied())
    }
}
