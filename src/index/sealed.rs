//! The built part of an index as a value: what `train` makes, what the shard writes to a file, what an index installs.
//! Called by `train`, `file`, `vector_index` and `shard`.

use super::list::LiveList;
use super::plan::{Calibration, TriedOn};
use super::quantizer::Quantizer;
use super::reach::Reach;
use std::sync::Arc;

/// Posting lists with their quantizer and calibrated settings. Cloning shares the rows.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
    pub(crate) calibration: Calibration,
    pub(crate) tried_on: TriedOn,
    pub(crate) reach: Reach,
    /// Lists that were renewed or dissolved since that was measured.
    pub(crate) reach_outdated_by: usize,
}

impl Sealed {
    /// Live rows.
    pub fn len(&self) -> usize {
        self.lists.iter().map(|list| list.live_rows).sum()
    }

    /// Whether there is no live row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ordinals of the live rows, list by list.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter().flat_map(|l| l.live_slots().map(|slot| l.list.ordinals[slot]))
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        let lists: usize = self.lists.iter().map(|l| l.list.memory_bytes() + l.live.capacity() * 4).sum();
        lists + self.quantizer.memory_bytes()
    }
}
