//! Searches: how many of each kind, time per stage, work done.
//!
//! Promise: every series exists from the start and is reached without a look-up, so recording a search costs a few
//! atomic additions. Called by `shard`'s search.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::requests::Seconds;

/// How a search was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchKind {
    /// Every point compared.
    Exact,
    /// Through the index.
    Approximate,
}

const KINDS: [(SearchKind, &str); 2] = [(SearchKind::Exact, "exact"), (SearchKind::Approximate, "approximate")];

/// A stage of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Comparing every point that passes the filter.
    Filter,
    /// Choosing lists and scanning them and the tail.
    Scan,
    /// Reading the candidates' records, exact distances, building the answer.
    Rerank,
}


#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtStage {
    stage: &'static str,
}

/// Searches of a node.
#[derive(Clone, Debug)]
pub struct SearchMetrics {
    finished: [(Counter, Histogram); KINDS.len()],
    lists_probed: Counter,
    codes_scanned: Counter,
    reranked: Counter,
}

impl SearchMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let searches = Family::<Kind, Counter>::default();
        let duration = Family::<Kind, Histogram, Seconds>::new_with_constructor(Seconds);
        let stages = Family::<AtStage, Histogram, Seconds>::new_with_constructor(Seconds);
        let metrics = Self {
            finished: KINDS.map(|(_, kind)| {
                let kind = Kind { kind };
                (searches.get_or_create_owned(&kind), duration.get_or_create_owned(&kind))
            }),
            lists_probed: Counter::default(),
            codes_scanned: Counter::default(),
            reranked: Counter::default(),
        };
        registry.register("searches", "Searches answered by this node", searches);
        let help = "Time of a search within this node";
        registry.register_with_unit("search_duration", help, Unit::Seconds, duration);
        registry.register_with_unit("search_stage_duration", "Time of a stage of a search", Unit::Seconds, stages);
        registry.register("search_lists_probed", "Posting lists visited", metrics.lists_probed.clone());
        registry.register("search_codes_scanned", "Codes or vectors compared in scans", metrics.codes_scanned.clone());
        registry.register("search_reranked", "Candidates compared a second time, exactly", metrics.reranked.clone());
        metrics
    }

    /// Records a finished search.
    pub fn finished(&self, kind: SearchKind, duration: Duration) {
        let (count, seconds) = &self.finished[kind as usize];
        count.inc();
        seconds.observe(duration.as_secs_f64());
    }

    /// Records the time of one stage of one search.
    pub fn stage(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize].observe(duration.as_secs_f64());
    }

    /// Records what a search looked at.
    pub fn worked(&self, lists_probed: u64, codes_scanned: u64, reranked: u64) {
        self.lists_probed.inc_by(lists_probed);
        self.codes_scanned.inc_by(codes_scanned);
        self.reranked.inc_by(reranked);
    }
}

// The tables are indexed by the enum's own numbers.
const _: () = {
    let mut at = 0;
        at += 1;
    }
    assert!(KINDS[0].0 as usize == 0 && KINDS[1].0 as usize == 1);
};
