//! A list as it is searched and changed: its immutable rows, which of them are live, and what has happened to it since its centroid
//! was made. Called by whoever calls `list`.

use super::PostingList;
use crate::index::kernels::BLOCK_ROWS;
use std::sync::Arc;

/// Rows that jobs took to other lists: dead where they were, and farther from the centroid than those that die as points change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Departed {
    pub(crate) rows: usize,
    /// Sum of their squared residuals.
    pub(crate) residual_sum: f64,
}

impl Departed {
    pub(crate) fn add(&mut self, residual_square: f32) {
        self.rows += 1;
        self.residual_sum += f64::from(residual_square);
    }

    /// Mean squared residual of the list's other rows; 0 without any. (Rows that die otherwise are taken to be as the rest.)
    pub(crate) fn others_mean(self, list: &PostingList) -> f64 {
        let (sum, rows) = (list.residual_sum - self.residual_sum, list.len().saturating_sub(self.rows));
        sum.max(0.0) / rows.max(1) as f64
    }
}

/// A list and which of its rows are live.
#[derive(Clone, Debug)]
pub(crate) struct LiveList {
    pub(crate) list: Arc<PostingList>,
    /// One word a block of 32 rows.
    pub(crate) live: Vec<u32>,
    pub(crate) live_rows: usize,
    /// How many rows there were when they last could not be parted.
    pub(crate) unparted_rows: usize,
    /// Rows that came and went since its centroid was last compared with its rows.
    pub(crate) changed_rows: usize,
    /// Of its dead rows.
    pub(crate) departed: Departed,
}

impl LiveList {
    /// Every row live.
    pub(crate) fn all_live(list: PostingList) -> LiveList {
        let mut live = LiveList::none_live(Arc::new(list));
        (0..live.list.len()).for_each(|slot| live.set(slot));
        live
    }

    /// Every row dead.
    pub(crate) fn none_live(list: Arc<PostingList>) -> LiveList {
        let live = vec![0; list.len().div_ceil(BLOCK_ROWS)];
        LiveList { list, live, live_rows: 0, unparted_rows: 0, changed_rows: 0, departed: Departed::default() }
    }

    pub(crate) fn is_live(&self, slot: usize) -> bool {
        self.live[slot / BLOCK_ROWS] >> (slot % BLOCK_ROWS) & 1 == 1
    }

    /// Whether there is such a slot and it is live.
    pub(crate) fn has_live(&self, slot: usize) -> bool {
        slot < self.list.len() && self.is_live(slot)
    }

    /// Takes other rows, of which the first `kept` are the present ones; all others are dead. Returns the rows of before.
    pub(crate) fn replace(&mut self, list: Arc<PostingList>, kept: usize) -> Arc<PostingList> {
        if kept == 0 {
            return std::mem::replace(self, LiveList::none_live(list)).list;
        }
        self.live.resize(list.len().div_ceil(BLOCK_ROWS), 0);
        std::mem::replace(&mut self.list, list)
    }

    /// Mean squared residual of the live rows.
    pub(crate) fn residual_mean(&self) -> f64 {
        self.departed.others_mean(&self.list)
    }

    /// Makes a dead row live.
    pub(crate) fn set(&mut self, slot: usize) {
        debug_assert!(!self.is_live(slot));
        self.live[slot / BLOCK_ROWS] |= 1 << (slot % BLOCK_ROWS);
        self.live_rows += 1;
    }

    /// Makes a live row dead.
    pub(crate) fn clear(&mut self, slot: usize) {
        debug_assert!(self.is_live(slot));
        self.live[slot / BLOCK_ROWS] &= !(1 << (slot % BLOCK_ROWS));
        self.live_rows -= 1;
        self.changed_rows += 1;
    }

    pub(crate) fn dead_rows(&self) -> usize {
        self.list.len() - self.live_rows
    }

    /// More than a quarter of the rows are dead.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.dead_rows() * 4 > self.list.len()
    }

    /// Slots of live rows, ascending.
    pub(crate) fn live_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.live.iter().enumerate().flat_map(|(block, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let row = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(block * BLOCK_ROWS + row)
            })
        })
    }
}
