//! The settings of a shard's index; `config` fills them. Called by `state` and `indexer`.

use crate::rt;

/// How the indexes of a node's shards behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSettings {
    /// Up to this many points a shard is searched exactly; above, its index is trained.
    pub flat_points_max: usize,
    /// Rows the index file on disk may miss before it is written anew; a restart has to read that many points again.
    pub unsaved_rows_max: usize,
    /// Threads that compute while an index is built; 0: as many as there are cores. The index is the same for any number.
    pub build_threads_max: usize,
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
        IndexSettings { flat_points_max: 20_000, unsaved_rows_max: 50_000, build_threads_max: 0 }
    }
}
