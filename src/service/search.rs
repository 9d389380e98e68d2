//! Search: every shard of the collection answers, the best of all are kept, ties broken by id.

use super::Service;
use crate::{
    cluster::Collection,
    rt,
    shard::Replica,
    telemetry::metrics::{SearchKind, SearchMetrics, Stage},
    types::{
        CollectionName, Error, Metric, Result, Session, limits,
        operation::{
            Explain, OnUnavailable, ReadOptions, Search, SearchAnswer, SearchHit, SearchesAnswer, ShardsAnswer,
        },
    },
};
use std::{sync::Arc, time::Duration};

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
        let collection = self.0.catalog.collection(name)?;
        check(&searches, &collection)?;
        let searches: Arc<[Search]> = searches.into();
        let mut gathered = Gathered::new(&collection);
        for (id, _) in &collection.shards {
            let answers = match self.0.host.replica(*id) {
                Ok(replica) => self.search_shard(*id, replica, &searches, options, &mut gathered.session).await,
                Err(error) => Err(error),
            };
            gathered.take(*id, answers, options.on_unavailable)?;
        }
        Ok(gathered.finish(&searches, &collection))
    }

    async fn search_shard(
        &self,
        id: u64,
        replica: Arc<Replica>,
        searches: &Arc<[Search]>,
        options: &ReadOptions,
        session: &mut Session,
    ) -> Result<Vec<SearchAnswer>> {
        self.wait_to_read(id, &replica, options, session).await?;
        if let [search] = &searches[..]
            && replica.is_short(search)
        {
            return Ok(vec![rt::compute::short(|| search_counted(&replica, search, &self.0.metrics.search))?]);
        }
        let (searches, metrics) = (searches.clone(), self.0.metrics.search.clone());
        let all = move || searches.iter().map(|search| search_counted(&replica, search, &metrics)).collect();
        rt::compute::cpu(all).await
    }
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

/// The shards' answers, as they come in.
struct Gathered {
    by_shard: Vec<Vec<SearchAnswer>>,
    shards: ShardsAnswer,
    session: Session,
}

impl Gathered {
    fn new(collection: &Collection) -> Gathered {
        let shards = ShardsAnswer { total: collection.shards.len() as u32, ..ShardsAnswer::default() };
        Gathered { by_shard: Vec::with_capacity(collection.shards.len()), shards, session: Session::default() }
    }

    fn take(&mut self, id: u64, answers: Result<Vec<SearchAnswer>>, on_unavailable: OnUnavailable) -> Result<()> {
        match (answers, on_unavailable) {
            (Ok(answers), _) => {
                self.by_shard.push(answers);
                self.shards.ok += 1;
                Ok(())
            }
            (Err(error), OnUnavailable::Partial) if error.kind() == crate::types::ErrorKind::Unavailable => {
                self.shards.failed.push(id);
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }

    fn finish(self, searches: &[Search], collection: &Collection) -> SearchesAnswer {
        let mut by_search: Vec<Vec<SearchAnswer>> = searches.iter().map(|_| Vec::new()).collect();
        for answers in self.by_shard {
            by_search.iter_mut().zip(answers).for_each(|(parts, answer)| parts.push(answer));
        }
        let answers = by_search.into_iter().zip(searches).map(|(parts, search)| {
            let metric = collection.spec.vector(&search.vector_name).map_or(Metric::Cosine, |spec| spec.metric);
            merge(parts, metric, search.top_k)
        });
        SearchesAnswer { answers: answers.collect(), shards: self.shards, session: self.session }
    }
}

/// The `top_k` best hits of the parts; ties by id.
fn merge(mut parts: Vec<SearchAnswer>, metric: Metric, top_k: usize) -> SearchAnswer {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let explain = parts.iter().filter_map(|part| part.explain.clone()).reduce(add);
    let mut hits: Vec<SearchHit> = parts.into_iter().flat_map(|part| part.hits).collect();
    hits.sort_by(|a, b| {
        let nearer = a.score.total_cmp(&b.score);
        let nearer = if metric.higher_is_better() { nearer.reverse() } else { nearer };
        nearer.then_with(|| a.point.id.point_id().cmp(&b.point.id.point_id()))
    });
    hits.truncate(top_k);
    SearchAnswer { hits, explain }
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
