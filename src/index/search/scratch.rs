//! The buffers of searches: made once for each thread that searches, so that a search allocates nothing but its answer. Called by
//! `vector_index` and, for what is in them, by `search`.

use crate::index::candidates::Candidates;
use crate::index::kernels::{self, Kernels};
use crate::index::plan::{StopRule, later_half};
use crate::index::probes::{Chosen, Ranking};
use crate::index::product::LookupTable;
use crate::index::rerank::Reranking;
use crate::index::threads::Threads;

/// The buffers of searches, so that a search allocates nothing but its answer. One for each thread that searches; holds nothing
/// between searches.
pub struct Scratch {
    pub(crate) kernels: &'static Kernels,
    pub(crate) threads: Threads,
    pub(in crate::index) ranking: Ranking,
    pub(super) query: QueryScratch,
    pub(super) reranking: Reranking,
}

/// What belongs to one query while lists are scanned for it.
#[derive(Debug, Default)]
pub(super) struct QueryScratch {
    pub(super) projected: Vec<f32>,
    pub(super) chosen: Chosen,
    /// How many of the lists have been visited.
    pub(super) visited: usize,
    /// After how many the stop rule is asked next.
    pub(super) next_check: usize,
    pub(super) table: LookupTable,
    pub(super) candidates: Candidates,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}

impl Scratch {
    /// Buffers for the kernels of this process, and searches on the caller's thread alone.
    pub fn new() -> Scratch {
        Scratch::with_kernels(kernels::active())
    }

    /// The same, but cores that are idle may take part in long searches. Answers are the same.
    pub fn with_idle_cores() -> Scratch {
        Scratch { threads: Threads::Idle, ..Scratch::new() }
    }

    /// The same on so many threads, however short searches are.
    #[cfg(test)]
    pub(crate) fn on_threads(threads: usize) -> Scratch {
        Scratch { threads: Threads::Exactly(threads), ..Scratch::new() }
    }

    pub(crate) fn with_kernels(kernels: &'static Kernels) -> Scratch {
        Scratch {
            kernels,
            threads: Threads::One,
            ranking: Ranking::default(),
            query: QueryScratch::default(),
            reranking: Reranking::default(),
        }
    }

    /// The lists to visit, nearest first, each with the position of its first row among all rows to visit.
    pub(crate) fn visits(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.query.chosen.probes.iter().map(|probe| (probe.list, probe.position))
    }
}

impl QueryScratch {
    /// Whether the rule ends the search after the lists visited.
    pub(super) fn ends(&mut self, stop: StopRule, kernels: &Kernels) -> bool {
        let later = self.chosen.probes[self.visited - later_half(self.visited)].position;
        stop.ends(self.visited, self.candidates.count_from(later, kernels), self.candidates.wanted())
    }
}
