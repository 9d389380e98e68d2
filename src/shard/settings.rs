//! The settings of a shard's index; `config` fills them. Called by `state` and `indexer`.

use crate::{index::Memory, rt};

/// How the indexes of a node's shards behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSettings {
    /// Up to this many points a shard is searched exactly; above, its index is trained.
    pub flat_points_max: usize,
    /// Fresh rows an index compares one by one before it files them into its lists.
    pub tail_rows_max: usize,
    /// Rows a posting list should hold; lists are split above 8/3 of it and dissolved below a sixth.
    pub list_rows: usize,
    /// Rows the index file on disk may miss before it is written anew; a restart has to read that many points again.
    pub unsaved_rows_max: usize,
    /// Threads that compute while an index is built; 0: as many as there are cores. The index is the same for any number.
    pub build_threads_max: usize,
    /// Where the posting lists of an index file are to be.
    pub memory: Memory,
}

impl IndexSettings {
    /// Threads to build with.
    pub fn build_threads(&self) -> usize {
        let cores = rt::compute::cores();
        if self.build_threads_max == 0 { cores } else { cores.min(self.build_threads_max) }
    }
}

impl Default for IndexSettings {
    fn default() -> IndexSettings {
        IndexSettings {
            flat_points_max: 20_000,
            tail_rows_max: 2_048,
            list_rows: 384,
            unsaved_rows_max: 50_000,
            build_threads_max: 0,
            memory: Memory::default(),
        }
    }
}
