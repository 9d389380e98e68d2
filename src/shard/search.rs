//! Search over one replica: candidates from the index, then the exact distance and the payload from the store's records.
//!
//! The index and the store are read at one moment as far as the answer can tell: a candidate whose record has moved on
//! since means that a write came in between, and the search runs again; after a few tries it runs with the machine kept
//! out. Searches with a filter are in `filtered`. Called by `replica`, on a compute thread.

mod filtered;

use super::{
    indexes::prepared,
    mutated,
    read::stored_point,
    records::{Records, View},
    round::components,
    state::State,
};
use crate::{
    index::{self, Hit, Scratch, SearchOutcome, SearchParams},
    mutants::mutant,
    rt::{self, time::Instant},
    store::{Value, keys::point::PointRecord},
    types::{
        Error, Filter, Metric, PointId, Result, VectorName,
        operation::{Explain, Search, SearchAnswer, SearchHit},
    },
};
use std::{borrow::Cow, cell::RefCell, collections::BTreeMap};

/// Searches that may run while writes go on, before one runs with them kept out.
const FREE_TRIES: usize = 3;
/// Posting lists visited up to which a search is short.
const SHORT_SEARCH_LISTS: usize = 512;

thread_local! {
    /// Buffers of the index, kept from one search of a thread to its next.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::with_idle_cores());
}

/// Components compared below which a search is short.
const SHORT_SEARCH_COMPONENTS: usize = 4 << 20;

/// Whether a search takes well under a millisecond: the index answers it without looking at very many rows in full.
pub fn is_short(state: &State, search: &Search) -> bool {
    if search.filter.is_some() {
        return search.filter.as_ref().and_then(Filter::ids).is_some_and(|ids| ids.len() <= 64);
    }
    // Not to be had at once: whoever waits for it had better not be an executor's thread.
    let Some(indexes) = state.try_indexes() else { return false };
    let Some(index) = indexes.get(&search.vector_name) else { return true };
    let plan = index.plan(&params(search));
    let exactly = if plan.exact { index.len() } else { index.tail_rows() };
    exactly * search.vector.dimension() <= SHORT_SEARCH_COMPONENTS && plan.nprobe <= SHORT_SEARCH_LISTS
}

/// The places of the searches in the order in which they are best done: those of one vector that lie near each other one after the
/// other, so that each finds in the caches what the one before it read. Answers do not depend on the order. Cost: about 2 µs a search.
///
/// # Errors
/// `unknown_vector`.
pub fn order(state: &State, searches: &[Search]) -> Result<Vec<usize>> {
    let mut places: BTreeMap<&VectorName, Vec<usize>> = BTreeMap::new();
    for (place, search) in searches.iter().enumerate() {
        state.spec.vector(&search.vector_name)?;
        places.entry(&search.vector_name).or_default().push(place);
    }
    let mut ordered = Vec::with_capacity(searches.len());
    for (name, places) in places {
        let metric = state.spec.vector(name)?.metric;
        let query = |&place: &usize| prepared(metric, Cow::Borrowed(searches[place].vector.as_slice()));
        let queries: Vec<_> = places.iter().map(query).collect();
        let queries: Vec<&[f32]> = queries.iter().map(|query| &query[..]).collect();
        let indexes = state.indexes();
        let index = indexes.get(name).expect("the spec has this vector");
        let order = SCRATCH.with_borrow_mut(|scratch| index.batch_order(&queries, scratch));
        ordered.extend(order.into_iter().map(|at| places[at as usize]));
    }
    Ok(ordered)
}

/// What the index is asked for.
fn params(search: &Search) -> SearchParams {
    SearchParams {
        recall_target: search.recall_target,
        nprobe: search.nprobe,
        exact: search.exact,
        ..SearchParams::new(search.top_k)
    }
}

/// Finds the nearest points. Cost: that of the index (INDEX.md), plus one record read for each hit that is re-scored; with a
/// filter that the payload indexes cannot answer, reading the points that may pass.
///
/// # Errors
/// `unknown_vector`; `Corrupt` if stored records cannot be read.
pub fn search(state: &State, search: &Search) -> Result<SearchAnswer> {
    let spec = *state.spec.vector(&search.vector_name)?;
    let query = prepared(spec.metric, Cow::Borrowed(search.vector.as_slice()));
    let query = Query { state, search, metric: spec.metric, vector: &query };
    let by_index = || match &search.filter {
        Some(filter) => query.filtered(filter),
        None => query.by_index(),
    };
    let once = || {
        if query.can_trust_index() {
            let answer = by_index();
            // What an answer was made of is verified as it is read.
            if query.can_trust_index() {
                return answer;
            }
        }
        query.by_records().map(Some)
    };
    for _ in 0..FREE_TRIES {
        if let Some(answer) = once()? {
            return Ok(answer);
        }
    }
    let _standing_still = state.close_gate();
    once()?.ok_or_else(|| Error::internal("the index and the store of a shard hold different points"))
}

struct Query<'a> {
    state: &'a State,
    search: &'a Search,
    metric: Metric,
    /// As the index wants it.
    vector: &'a [f32],
}

/// A hit with its record and exact distance. Ordered by (distance, id): the greatest is the worst.
struct Scored {
    distance: f32,
    id: PointId,
    record: Value,
}

impl Query<'_> {
    /// `None` if a write came between reading the index and the records.
    fn by_index(&self) -> Result<Option<SearchAnswer>> {
        let started = rt::time::now();
        let (outcome, view, explain) = {
            let indexes = self.state.indexes();
            let index = indexes.get(&self.search.vector_name).expect("the spec has this vector");
            let view = self.state.records.view();
            let mut outcome = SCRATCH
                .with_borrow_mut(|scratch| index.search(indexes.points(), self.vector, &params(self.search), scratch));
            if mutant!(18) {
                mutated::as_of_the_last_search(self.state, &mut outcome.hits);
            }
            let explain = explain_index(index, &outcome, self.search.exact);
            (outcome, view, explain)
        };
        self.finish(started, &outcome, &view, explain)
    }

    /// Whether no damage of the index file has been found; the indexer is told of damage, and makes the index again.
    fn can_trust_index(&self) -> bool {
        let sound = self.state.indexes().damage().found().is_none();
        if !sound {
            self.state.changed.notify_one();
        }
        sound
    }

    /// Scores the index's hits again and reads what they show. `None` if the records have moved on.
    fn finish(
        &self,
        started: Instant,
        outcome: &SearchOutcome,
        view: &View,
        explain: Explain,
    ) -> Result<Option<SearchAnswer>> {
        let scanned = rt::time::now();
        let Some(mut scored) = self.rescore(outcome, view)? else { return Ok(None) };
        let records_read = scored.len() as u64;
        scored.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        scored.truncate(self.search.top_k);
        let hits = self.hits(scored)?;
        let explain = Explain {
            records_read: explain.records_read + records_read,
            scan_us: (scanned - started).as_micros() as u64,
            rerank_us: scanned.elapsed().as_micros() as u64,
            ..explain
        };
        Ok(Some(SearchAnswer { hits, explain: Some(explain) }))
    }

    /// Reads the records of hits and gives approximate hits their exact distance, unless the index's own is to stand. Where
    /// no distance changes, the `top_k` first are enough.
    fn rescore(&self, outcome: &SearchOutcome, view: &View) -> Result<Option<Vec<Scored>>> {
        let hits = &outcome.hits;
        let stands = |hit: &Hit| hit.exact || outcome.settled;
        let wanted = if hits.iter().all(stands) { self.search.top_k.min(hits.len()) } else { hits.len() };
        let mut scored = Vec::with_capacity(wanted);
        for hit in &hits[..wanted] {
            let Some(record) = view.point(hit.id)? else { return Ok(None) };
            let decoded = PointRecord::decode(&record).map_err(Records::corrupt)?;
            if decoded.version != hit.version {
                return Ok(None);
            }
            let distance = if stands(hit) { hit.distance } else { self.distance(&decoded)?.ok_or_else(lost_vector)? };
            scored.push(Scored { distance, id: hit.id, record });
        }
        Ok(Some(scored))
    }

    /// The exact distance to a record's vector; `None` if it has no vector of this name.
    fn distance(&self, record: &PointRecord<'_>) -> Result<Option<f32>> {
        let Some(bytes) = record.vectors.get(self.search.vector_name.as_str()) else { return Ok(None) };
        let vector = prepared(self.metric, components(bytes));
        if vector.len() != self.vector.len() {
            return Err(Records::corrupt("a stored vector has another dimension than its collection"));
        }
        Ok(Some(index::distance(self.metric, self.vector, &vector)))
    }

    fn hits(&self, scored: Vec<Scored>) -> Result<Vec<SearchHit>> {
        let mut hits = Vec::with_capacity(scored.len());
        for Scored { distance, id, record } in scored {
            let score = self.metric.score(distance);
            if self.search.threshold.is_some_and(|threshold| worse(self.metric, score, threshold)) {
                break;
            }
            let decoded = PointRecord::decode(&record).map_err(Records::corrupt)?;
            let point = stored_point(id, &decoded, self.search.with_payload, self.search.with_vector)?;
            hits.push(SearchHit { point, score });
        }
        Ok(hits)
    }
}

/// Whether a score does not reach the threshold.
fn worse(metric: Metric, score: f32, threshold: f32) -> bool {
    if metric.higher_is_better() { score < threshold } else { score > threshold }
}

fn lost_vector() -> Error {
    Records::corrupt("a stored point lacks a vector its index has")
}

/// `exact`: whether that was asked for.
fn explain_index(index: &index::VectorIndex, outcome: &index::SearchOutcome, exact: bool) -> Explain {
    let (plan, stats) = (&outcome.plan, &outcome.stats);
    let lists = index.lists();
    Explain {
        plan: match (exact || plan.exact, lists) {
            (true, 0) if !exact => "flat",
            (true, _) => "exact",
            (false, _) => "ivf",
        },
        recall_target: plan.recall_target,
        estimated_recall: plan.estimated_recall,
        nprobe: plan.nprobe as u64,
        candidates: plan.candidates as u64,
        lists_total: lists as u64,
        lists_probed: stats.lists_probed as u64,
        codes_scanned: stats.codes_scanned as u64,
        tail_scanned: stats.tail_scanned as u64,
        reranked: stats.reranked as u64,
        ..Explain::default()
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then(self.id.cmp(&other.id))
    }
}
