//! A search with a filter: by the payload indexes where they can tell who passes, else by reading the points that may.
//!
//! The ways, cheapest first: the indexes know exactly who passes, and the vector index is searched among those; they leave a few
//! points in doubt, which are read first; they rule out at least half of the points, and the others are read and compared; every
//! point is read and compared. All but the first two are exact whatever was asked.

use super::{Query, SCRATCH, Scored, params};
use crate::{
    index::{Allowed, FilterPlan, SearchOutcome, VectorIndex},
    rt::{self, time::Instant},
    shard::{
        indexes::Indexes,
        payload::{Evaluated, allowed, members},
        read,
        records::{Records, View},
        selection,
    },
    store::{
        Value,
        keys::{meta::MetaKey, point::PointRecord},
    },
    types::{
        Error, Filter, PointId, Result,
        operation::{Explain, SearchAnswer},
        path::Path,
    },
};
use std::collections::BinaryHeap;

/// Points in doubt that are read before the vector index is searched; with more, reading and comparing all that may pass is as
/// good.
const DOUBTFUL_MAX: u64 = 1_000;

/// What is known before the points in doubt are read.
struct Reading {
    /// Those that pass for sure.
    allowed: Allowed,
    /// Ordinal and id of those in doubt.
    doubtful: Vec<(u32, PointId)>,
    /// What the indexes show, and a view of the same moment.
    applied: u64,
    view: View,
}

/// How a search goes on once the indexes have been asked.
enum Way {
    /// The indexes were enough.
    Answered(Option<SearchAnswer>),
    AfterReading(Reading),
    ScanSome(View, Vec<PointId>),
    ScanAll(View),
    /// The indexes and the records are not of one moment.
    Again,
}

impl Query<'_> {
    /// `None` if a write came between reading the indexes and the records.
    pub(super) fn filtered(&self, filter: &Filter) -> Result<Option<SearchAnswer>> {
        let started = rt::time::now();
        let mut explain = Explain::default();
        let way = self.ask(started, filter, &self.state.indexes(), &mut explain)?;
        match way {
            Way::Answered(answer) => Ok(answer),
            Way::AfterReading(reading) => self.after_reading(started, filter, reading, explain),
            Way::ScanSome(view, ids) => self.scan_some(started, filter, &view, &ids, explain).map(Some),
            Way::ScanAll(view) => self.scan_all(started, Some(filter), &view, explain).map(Some),
            Way::Again => Ok(None),
        }
    }

    fn ask(&self, started: Instant, filter: &Filter, indexes: &Indexes, explain: &mut Explain) -> Result<Way> {
        let points = indexes.points();
        let Evaluated { bounds, not_indexed, building } = selection::ask(indexes, filter);
        (explain.not_indexed, explain.building) = (names(not_indexed), names(building));
        let view = self.state.records.view();
        let (all, doubtful, possible) = (points.len() as u64, bounds.doubtful(), bounds.possible());
        if doubtful.is_none() {
            let allowed = allowed(bounds.sure(), points);
            return self.among(started, indexes, view, &allowed, explain.clone()).map(Way::Answered);
        }
        let few_doubtful = doubtful.len(all) <= DOUBTFUL_MAX.min(all / 2);
        if !few_doubtful && !selection::pays(possible.len(all), all) {
            return Ok(Way::ScanAll(view));
        }
        if view.number(MetaKey::AppliedIndex)? != indexes.applied() {
            return Ok(Way::Again);
        }
        if !few_doubtful {
            return Ok(Way::ScanSome(view, members(possible, points).map(|(_, id, _)| id).collect()));
        }
        Ok(Way::AfterReading(Reading {
            allowed: allowed(bounds.sure(), points),
            doubtful: members(&doubtful, points).map(|(ordinal, id, _)| (ordinal, id)).collect(),
            applied: indexes.applied(),
            view,
        }))
    }

    /// Searches the vector index among the allowed points.
    fn among(
        &self,
        started: Instant,
        indexes: &Indexes,
        view: View,
        allowed: &Allowed,
        explain: Explain,
    ) -> Result<Option<SearchAnswer>> {
        let index = indexes.get(&self.search.vector_name).expect("the spec has this vector");
        let (outcome, plan) = SCRATCH.with_borrow_mut(|scratch| {
            index.search_allowed(indexes.points(), self.vector, &params(self.search), allowed, scratch)
        });
        let explain = explain_allowed(index, &outcome, plan, allowed, explain);
        self.finish(started, &outcome, &view, explain)
    }

    /// Reads the points in doubt, then searches among those that pass.
    fn after_reading(
        &self,
        started: Instant,
        filter: &Filter,
        reading: Reading,
        explain: Explain,
    ) -> Result<Option<SearchAnswer>> {
        let Reading { mut allowed, doubtful, applied, view } = reading;
        for (ordinal, id) in &doubtful {
            let record = view.point(*id)?.ok_or_else(not_of_one_moment)?;
            if passes(filter, *id, &PointRecord::decode(&record).map_err(Records::corrupt)?)? {
                allowed.insert(*ordinal);
            }
        }
        let indexes = self.state.indexes();
        if indexes.applied() != applied {
            return Ok(None);
        }
        let explain = Explain { records_read: doubtful.len() as u64, ..explain };
        self.among(started, &indexes, view, &allowed, explain)
    }

    /// Reads some points and compares with those that pass.
    fn scan_some(
        &self,
        started: Instant,
        filter: &Filter,
        view: &View,
        ids: &[PointId],
        explain: Explain,
    ) -> Result<SearchAnswer> {
        let mut scan = Scan::new(self, Some(filter));
        for id in ids {
            scan.consider(*id, view.point(*id)?.ok_or_else(not_of_one_moment)?)?;
        }
        self.scanned(started, scan, explain)
    }

    /// Reads every point, without any index, and compares with those that pass.
    pub(super) fn by_records(&self) -> Result<SearchAnswer> {
        self.scan_all(rt::time::now(), self.search.filter.as_ref(), &self.state.records.view(), Explain::default())
    }

    /// Reads every point and compares with those that pass; without a filter, with all.
    fn scan_all(
        &self,
        started: Instant,
        filter: Option<&Filter>,
        view: &View,
        explain: Explain,
    ) -> Result<SearchAnswer> {
        let mut scan = Scan::new(self, filter);
        for point in view.points() {
            let (id, record) = point?;
            scan.consider(id, record)?;
        }
        self.scanned(started, scan, explain)
    }

    fn scanned(&self, started: Instant, scan: Scan<'_>, explain: Explain) -> Result<SearchAnswer> {
        let Scan { best, read, matches, filter, .. } = scan;
        let hits = self.hits(best.into_sorted_vec())?;
        let explain = Explain {
            plan: if filter.is_some() { "filter_scan" } else { "record_scan" },
            records_read: read,
            filter_matches: filter.map(|_| matches),
            recall_target: Some(1.0),
            estimated_recall: 1.0,
            scan_us: started.elapsed().as_micros() as u64,
            ..explain
        };
        Ok(SearchAnswer { hits, explain: Some(explain) })
    }
}

/// The nearest of the records looked at that pass.
struct Scan<'q> {
    query: &'q Query<'q>,
    filter: Option<&'q Filter>,
    best: BinaryHeap<Scored>,
    read: u64,
    matches: u64,
}

impl<'q> Scan<'q> {
    fn new(query: &'q Query<'q>, filter: Option<&'q Filter>) -> Scan<'q> {
        let best = BinaryHeap::with_capacity(query.search.top_k + 1);
        Scan { query, filter, best, read: 0, matches: 0 }
    }

    fn consider(&mut self, id: PointId, record: Value) -> Result<()> {
        self.read += 1;
        let decoded = PointRecord::decode(&record).map_err(Records::corrupt)?;
        if let Some(filter) = self.filter
            && !passes(filter, id, &decoded)?
        {
            return Ok(());
        }
        let Some(distance) = self.query.distance(&decoded)? else { return Ok(()) };
        self.matches += 1;
        self.best.push(Scored { distance, id, record });
        if self.best.len() > self.query.search.top_k {
            self.best.pop();
        }
        Ok(())
    }
}

fn not_of_one_moment() -> Error {
    Error::internal("the indexes know a point that the store of the same moment has not")
}

fn passes(filter: &Filter, id: PointId, record: &PointRecord<'_>) -> Result<bool> {
    Ok(filter.passes(id, read::payload(record)?.as_object()))
}

fn names(paths: Vec<Path>) -> Vec<String> {
    paths.iter().map(Path::to_string).collect()
}

fn explain_allowed(
    index: &VectorIndex,
    outcome: &SearchOutcome,
    plan: FilterPlan,
    allowed: &Allowed,
    explain: Explain,
) -> Explain {
    let (stats, chosen) = (&outcome.stats, &outcome.plan);
    let plan = match plan {
        FilterPlan::Gather => "filter_gather",
        FilterPlan::Flat => "filter_flat",
        FilterPlan::Probe => "filter_ivf",
    };
    Explain {
        plan,
        recall_target: chosen.recall_target,
        estimated_recall: chosen.estimated_recall,
        nprobe: chosen.nprobe as u64,
        candidates: chosen.candidates as u64,
        lists_total: index.state().lists as u64,
        lists_probed: stats.lists_probed as u64,
        codes_scanned: stats.codes_scanned as u64,
        tail_scanned: stats.tail_scanned as u64,
        reranked: stats.reranked as u64,
        filter_matches: Some(allowed.count() as u64),
        ..explain
    }
}
