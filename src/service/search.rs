//! Search: every shard of the collection answers, the best of all are kept, ties broken by id.

use super::{
    Service,
    read::{Answer, Operation},
    whole::Whole,
};
use crate::{
    cluster::Collection,
    rt,
    shard::Replica,
    telemetry::metrics::{SearchKind, SearchMetrics, Stage},
    types::{
        CollectionName, Error, Metric, Result, SLOTS, StoredPoint, limits,
        operation::{Explain, ReadOptions, Search, SearchAnswer, SearchHit, SearchesAnswer},
    },
};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::{cmp::Ordering, ops::RangeInclusive, sync::Arc, time::Duration};

/// Searches that a thread does without letting others have their turn: fewer are not worth a hand-over, and more are some
/// milliseconds of what indexes answer.
const PART_SEARCHES: RangeInclusive<usize> = 8..=64;
/// Searches from which on it pays to ask for their order, which is a hand-over more.
const ORDERED_SEARCHES_MIN: usize = 16;

impl Service {
    /// Runs the searches of one request over all shards.
    ///
    /// # Errors
    /// Those of [`Search::check`] and of the vector against the collection, with the row where there are several;
    /// `no_searches`, `too_many_searches`, `too_many_hits`. A shard that cannot answer fails the request, or with
    /// `on_unavailable: partial` is named in the answer.
    pub async fn search(
        &self,
        name: &CollectionName,
        searches: Vec<Search>,
        options: &ReadOptions,
    ) -> Result<SearchesAnswer> {
        let searches: Arc<[Search]> = searches.into();
        let share = largest_share(&*self.find(name).await?);
        let Whole { taken: mut best, mut gathered } =
            self.search_shards(name, &searches, |search| enough(search.top_k, share), options).await?;
        let lacking: Vec<usize> = (0..best.len()).filter(|at| best[*at].may_lack()).collect();
        if !lacking.is_empty() {
            rt::mark("a search asked its shards again because one had so many of the best");
            let again: Arc<[Search]> = lacking.iter().map(|at| searches[*at].clone()).collect();
            let whole = self.search_shards(name, &again, |search| search.top_k, options).await?;
            gathered.and(whole.gathered);
            lacking.into_iter().zip(whole.taken).for_each(|(at, whole)| best[at] = whole);
        }
        let answers = best.into_iter().map(Best::finish).collect();
        Ok(SearchesAnswer { answers, shards: gathered.shards(), session: gathered.session })
    }

    /// Asks every shard for as many of its best as `asked` says for each search.
    async fn search_shards(
        &self,
        name: &CollectionName,
        searches: &Arc<[Search]>,
        asked: impl Fn(&Search) -> usize,
        options: &ReadOptions,
    ) -> Result<Whole<Vec<Best>>> {
        let ask = |search: &Search| Search { top_k: asked(search), ..search.clone() };
        // Most often there is one shard: then nothing is copied.
        let is_same = searches.iter().all(|search| asked(search) == search.top_k);
        let searches_asked = if is_same { searches.clone() } else { searches.iter().map(ask).collect() };
        let begin = |collection: &Collection| -> Result<Vec<Best>> {
            check(searches, collection)?;
            Ok(searches.iter().map(|search| Best::of(search, asked(search), collection)).collect())
        };
        let take = |best: &mut Vec<Best>, _, answer| {
            if let Answer::Found(answers) = answer {
                best.iter_mut().zip(answers).for_each(|(best, answer)| best.take(answer));
            }
        };
        self.read_whole(name, Operation::Search(searches_asked), options, begin, take).await
    }

    /// The searches over a replica of this node, on as many compute threads as there are. Nothing more is begun when the caller goes
    /// away, as it does at the deadline.
    pub(super) async fn search_replica(
        &self,
        replica: Arc<Replica>,
        searches: &Arc<[Search]>,
    ) -> Result<Vec<SearchAnswer>> {
        if let [search] = &searches[..]
            && replica.is_short(search)
        {
            return Ok(vec![rt::compute::short(|| search_counted(&replica, search, &self.0.metrics.search))?]);
        }
        let (asked, all) = (replica.clone(), searches.clone());
        let places = match searches.len() {
            few @ ..ORDERED_SEARCHES_MIN => (0..few).collect(),
            _ => rt::compute::cpu(move || asked.order(&all)).await?,
        };
        let part = |places: Vec<usize>| {
            let (replica, searches, metrics) = (replica.clone(), searches.clone(), self.0.metrics.search.clone());
            let found = move |place| Ok((place, search_counted(&replica, &searches[place], &metrics)?));
            rt::compute::cpu(move || places.into_iter().map(found).collect::<Result<Vec<_>>>())
        };
        let cores = rt::compute::cores();
        let parts = stream::iter(parts(places, cores)).map(part).buffered(cores);
        let mut answers: Vec<_> = parts.try_collect::<Vec<_>>().await?.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|&(place, _)| place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// Cuts searches into parts that several cores can do at once, neighbours together. A part is short: a request that nobody waits for
/// any more ends with the parts under way, and others get their turn between two parts.
fn parts(places: Vec<usize>, cores: usize) -> Vec<Vec<usize>> {
    let part = places.len().div_ceil(cores).clamp(*PART_SEARCHES.start(), *PART_SEARCHES.end());
    places.chunks(part).map(<[usize]>::to_vec).collect()
}

/// Runs one search and counts what it did; the explanation stays in the answer only if it was asked for.
fn search_counted(replica: &Replica, search: &Search, metrics: &SearchMetrics) -> Result<SearchAnswer> {
    let started = rt::time::now();
    let mut answer = replica.search(search)?;
    if let Some(explain) = &answer.explain {
        let kind =
            if matches!(explain.plan, "ivf" | "filter_ivf") { SearchKind::Approximate } else { SearchKind::Exact };
        metrics.finished(kind, started.elapsed());
        let scan = if explain.plan == "filter_scan" { Stage::Filter } else { Stage::Scan };
        metrics.stage(scan, Duration::from_micros(explain.scan_us));
        metrics.stage(Stage::Rerank, Duration::from_micros(explain.rerank_us));
        metrics.worked(explain.lists_probed, explain.codes_scanned, explain.reranked);
    }
    answer.explain = answer.explain.filter(|_| search.explain);
    Ok(answer)
}

/// Of all slots, the part that the shard with the most of them has.
fn largest_share(collection: &Collection) -> f64 {
    let most = collection.shards.iter().map(|(_, slots)| slots.end - slots.first).max();
    f64::from(most.unwrap_or(SLOTS)) / f64::from(SLOTS)
}

/// How many of its best to ask a shard for that has this `share` of the points, where the `top_k` of all are wanted: three standard
/// deviations above the mean of a binomial distribution, as slots are hashes of ids. Each costs the reading of a record, and most are
/// not among the best of all. One search in about a hundred finds that a shard may have more, and asks again.
fn enough(top_k: usize, share: f64) -> usize {
    let mean = top_k as f64 * share;
    let most = mean + 3.0 * (mean * (1.0 - share)).sqrt();
    (most.ceil() as usize).clamp(1, top_k.max(1))
}

fn check(searches: &[Search], collection: &Collection) -> Result<()> {
    if searches.is_empty() {
        return Err(Error::invalid("no_searches", "the request has no searches").at("searches").expected("1 or more"));
    }
    if searches.len() > limits::SEARCHES_PER_REQUEST_MAX {
        return Err(Error::invalid("too_many_searches", "the request has too many searches")
            .at("searches")
            .expected(format!("at most {}", limits::SEARCHES_PER_REQUEST_MAX))
            .got(searches.len()));
    }
    for (row, search) in searches.iter().enumerate() {
        let checked = search.check().and_then(|()| {
            let spec = collection.spec.vector(&search.vector_name).map_err(|error| error.at("vector_name"))?;
            spec.check(&search.vector).map_err(|error| error.at("vector"))
        });
        checked.map_err(|error| if searches.len() > 1 { error.row(row) } else { error })?;
    }
    let hits: usize = searches.iter().map(|search| search.top_k).sum();
    if hits > limits::HITS_PER_REQUEST_MAX {
        return Err(Error::invalid("too_many_hits", "the searches of the request ask for too many hits together")
            .at("top_k")
            .expected(format!("at most {} in all", limits::HITS_PER_REQUEST_MAX))
            .got(hits));
    }
    Ok(())
}

/// The best hits of one search, over the shards that have answered.
struct Best {
    metric: Metric,
    top_k: usize,
    /// What each shard was asked for.
    asked: usize,
    hits: Vec<SearchHit>,
    /// The last hits of shards that may have more.
    ends: Vec<SearchHit>,
    explain: Option<Explain>,
}

impl Best {
    fn of(search: &Search, asked: usize, collection: &Collection) -> Best {
        let metric = collection.spec.vector(&search.vector_name).map_or(Metric::Cosine, |spec| spec.metric);
        Best { metric, top_k: search.top_k, asked, hits: Vec::new(), ends: Vec::new(), explain: None }
    }

    /// Adds a shard's answer and keeps the `top_k` best; ties by id, so that the order in which answers come decides nothing.
    fn take(&mut self, answer: SearchAnswer) {
        self.explain = match (self.explain.take(), answer.explain) {
            (Some(known), Some(more)) => Some(add(known, more)),
            (known, more) => known.or(more),
        };
        if self.asked < self.top_k && answer.hits.len() >= self.asked {
            let end = answer.hits.last().map(|hit| SearchHit { point: bare(&hit.point), score: hit.score });
            self.ends.extend(end);
        }
        if self.hits.is_empty() {
            self.hits = answer.hits;
            return;
        }
        self.hits.extend(answer.hits);
        let metric = self.metric;
        self.hits.sort_by(|a, b| order(metric, a, b));
        self.hits.truncate(self.top_k);
    }

    /// Whether a shard may have more hits that belong to the best: the last that it gave is one of them.
    fn may_lack(&self) -> bool {
        let is_among = |end| match self.hits.get(self.top_k - 1) {
            Some(worst) => order(self.metric, end, worst).is_le(),
            None => true,
        };
        self.ends.iter().any(is_among)
    }

    fn finish(self) -> SearchAnswer {
        SearchAnswer { hits: self.hits, explain: self.explain }
    }
}

/// A point without what it holds.
fn bare(point: &StoredPoint) -> StoredPoint {
    StoredPoint { id: point.id.clone(), version: point.version, vectors: None, payload: None }
}

fn order(metric: Metric, a: &SearchHit, b: &SearchHit) -> Ordering {
    let nearer = a.score.total_cmp(&b.score);
    let nearer = if metric.higher_is_better() { nearer.reverse() } else { nearer };
    nearer.then_with(|| a.point.id.point_id().cmp(&b.point.id.point_id()))
}

fn union(a: Vec<String>, b: Vec<String>) -> Vec<String> {
    a.into_iter().chain(b).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// The explanation of two shards together.
fn add(a: Explain, b: Explain) -> Explain {
    Explain {
        plan: if a.plan == b.plan { a.plan } else { "mixed" },
        recall_target: a.recall_target.zip(b.recall_target).map(|(a, b)| a.min(b)),
        estimated_recall: a.estimated_recall.min(b.estimated_recall),
        nprobe: a.nprobe + b.nprobe,
        candidates: a.candidates + b.candidates,
        lists_total: a.lists_total + b.lists_total,
        lists_probed: a.lists_probed + b.lists_probed,
        codes_scanned: a.codes_scanned + b.codes_scanned,
        tail_scanned: a.tail_scanned + b.tail_scanned,
        reranked: a.reranked + b.reranked,
        records_read: a.records_read + b.records_read,
        not_indexed: union(a.not_indexed, b.not_indexed),
        building: union(a.building, b.building),
        filter_matches: a.filter_matches.zip(b.filter_matches).map(|(a, b)| a + b),
        scan_us: a.scan_us + b.scan_us,
        rerank_us: a.rerank_us + b.rerank_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DocumentId;
    use proptest::prelude::*;

    fn hit(id: u64, score: f32) -> SearchHit {
        let point = StoredPoint { id: DocumentId::Num(id), version: 1, vectors: None, payload: None };
        SearchHit { point, score }
    }

    fn ids(hits: &[SearchHit]) -> Vec<String> {
        hits.iter().map(|hit| hit.point.id.to_string()).collect()
    }

    /// What shards answer of which each has the points of its list: as many of the best as they are asked for.
    fn answers(metric: Metric, shards: &[Vec<SearchHit>], asked: usize) -> Vec<SearchAnswer> {
        let answer = |hits: &Vec<SearchHit>| {
            let mut hits = hits.clone();
            hits.sort_by(|a, b| order(metric, a, b));
            hits.truncate(asked);
            SearchAnswer { hits, explain: None }
        };
        shards.iter().map(answer).collect()
    }

    proptest! {
        /// Few different scores, so that most are ties: gathering is then exact only if ties go by id, in whatever order shards answer. And
        /// whatever they are asked for: what is found by too little is not taken for whole.
        #[test]
        fn gathering_is_what_one_shard_would_have_found(
            shards in prop::collection::vec(prop::collection::vec(0_u8..4, 0..30), 1..6),
            top_k in 1_usize..20,
            asked in 1_usize..20,
            higher: bool,
            order_of_answers: prop::sample::Index,
        ) {
            let metric = if higher { Metric::Dot } else { Metric::Euclidean };
            let asked = asked.min(top_k);
            let mut next = 0;
            let mut made = |scores: &Vec<u8>| -> Vec<SearchHit> {
                let hits = scores.iter().map(|score| {
                    next = (next * 7 + 3) % 10_007;
                    hit(next, f32::from(*score))
                });
                hits.collect()
            };
            let shards: Vec<Vec<SearchHit>> = shards.iter().map(&mut made).collect();
            let gather = |asked| {
                let mut answers = answers(metric, &shards, asked);
                let first = order_of_answers.index(answers.len());
                answers.rotate_left(first);
                let (hits, ends) = (Vec::new(), Vec::new());
                let mut best = Best { metric, top_k, asked, hits, ends, explain: None };
                answers.into_iter().for_each(|answer| best.take(answer));
                best
            };
            let mut all = shards.concat();
            all.sort_by(|a, b| order(metric, a, b));
            all.truncate(top_k);
            let whole = gather(top_k);
            prop_assert!(!whole.may_lack());
            prop_assert_eq!(ids(&whole.finish().hits), ids(&all));
            let cut = gather(asked);
            if !cut.may_lack() {
                prop_assert_eq!(ids(&cut.finish().hits), ids(&all));
            }
        }
    }

    #[test]
    fn a_shard_is_asked_for_what_is_seldom_too_little() {
        assert_eq!([1, 10, 100, 1_000].map(|top_k| enough(top_k, 1.0)), [1, 10, 100, 1_000]);
        assert_eq!([1, 2, 10, 100, 1_000].map(|top_k| enough(top_k, 0.25)), [1, 2, 7, 38, 292]);
        assert_eq!([10, 100].map(|top_k| enough(top_k, 0.5)), [10, 65]);
        assert_eq!([10, 100].map(|top_k| enough(top_k, 0.01)), [2, 4]);
        assert_eq!(enough(0, 0.5), 1);
        // How often one of four shards has as many of ten as it is asked for, or more: 4 times the tail of the binomial distribution.
        let choose = [120.0, 45.0, 10.0, 1.0];
        let tail: f64 = (7_i32..=10).zip(choose).map(|(n, ways)| ways * 0.25_f64.powi(n) * 0.75_f64.powi(10 - n)).sum();
        assert!((0.010..0.015).contains(&(4.0 * tail)), "{tail}");
    }
}
