//! Searches in and out: one or many, how to read, and what was found.

use super::{Bounded, Components, FilterJson, Object, document::empty_batch, document::wire_vectors};
use crate::types::{
    DocumentId, Error, Session, VectorName,
    limits::SEARCHES_PER_REQUEST_MAX,
    operation::{
        Consistency, Explain, OnUnavailable, ReadOptions, Search, SearchAnswer, SearchHit, SearchesAnswer, ShardsAnswer,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyWord {
    /// It sees every write acknowledged before it began.
    Linearizable,
    /// It sees at least what the session token has seen.
    Session,
    /// It sees every write acknowledged more than `limits.staleness` before it.
    Eventual,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // named in the description; read by `types::Ack`
pub enum AckWord {
    /// A majority has it on disk and the leader has applied it.
    Quorum,
    /// Every replica has it on disk.
    All,
    /// The leader has it on disk.
    Async,
}

/// What a read does when a shard cannot answer.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnavailableWord {
    /// It fails.
    Fail,
    /// It answers with what there is, and says what is missing.
    Partial,
}

/// How to read, wherever a request says it.
#[derive(Debug, Default)]
pub struct ReadFields {
    pub consistency: Option<ConsistencyWord>,
    pub session: Option<String>,
    pub on_unavailable: Option<OnUnavailableWord>,
}

impl ReadFields {
    /// The options. A session without a consistency means session consistency.
    ///
    /// # Errors
    /// `bad_session`, `missing_field` if session consistency has no session.
    pub fn into_options(self) -> Result<ReadOptions, Error> {
        let session = self.session.as_deref().map(Session::from_text).transpose()?;
        let consistency = match self.consistency {
            None if session.is_some() => Consistency::Session,
            None | Some(ConsistencyWord::Linearizable) => Consistency::Linearizable,
            Some(ConsistencyWord::Session) if session.is_none() => {
                return Err(Error::invalid("missing_field", "session consistency needs a session")
                    .at("session")
                    .expected("the session of an earlier answer")
                    .got("nothing"));
            }
            Some(ConsistencyWord::Session) => Consistency::Session,
            Some(ConsistencyWord::Eventual) => Consistency::Eventual,
        };
        let on_unavailable = match self.on_unavailable {
            None | Some(OnUnavailableWord::Fail) => OnUnavailable::Fail,
            Some(OnUnavailableWord::Partial) => OnUnavailable::Partial,
        };
        Ok(ReadOptions { consistency, session, on_unavailable })
    }
}

/// One search of a batch.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    /// What is searched for.
    pub vector: Option<Components>,
    /// Which vector is compared, if the table's vectors have names.
    pub vector_name: Option<String>,
    /// Most results.
    pub top_k: Option<usize>,
    /// Drops results with a worse score: below it for cosine and dot, above it for euclidean and manhattan.
    pub threshold: Option<f32>,
    /// Only documents that pass.
    pub filter: Option<FilterJson>,
    /// Give the attributes; `true` if absent.
    pub with_metadata: Option<bool>,
    /// Give the vectors; `false` if absent.
    pub with_vector: Option<bool>,
    /// Compare with every document: the true neighbours, at full cost.
    pub exact: Option<bool>,
    /// Posting lists to visit; chosen by the server if absent.
    pub nprobe: Option<usize>,
    /// Recall to aim at, over 0 and at most 1.
    pub recall_target: Option<f32>,
    /// Say how the answer was found.
    pub explain: Option<bool>,
}

impl SearchBody {
    fn is_some(&self) -> bool {
        let numbers = self.top_k.is_some() || self.threshold.is_some() || self.nprobe.is_some();
        let flags = self.with_metadata.is_some() || self.with_vector.is_some() || self.exact.is_some();
        let rest = self.vector_name.is_some() || self.filter.is_some() || self.recall_target.is_some();
        self.vector.is_some() || numbers || flags || rest || self.explain.is_some()
    }

    /// The search.
    ///
    /// # Errors
    /// `missing_field`; those of the parts and of [`Search::check`].
    pub fn into_search(self) -> Result<Search, Error> {
        let vector = self.vector.ok_or_else(|| missing("vector"))?.into_vector().map_err(|error| error.at("vector"))?;
        let mut search = Search::nearest(vector, self.top_k.ok_or_else(|| missing("top_k"))?);
        if let Some(name) = self.vector_name {
            search.vector_name = VectorName::new(name).map_err(|error| error.at("vector_name"))?;
        }
        search.threshold = self.threshold;
        search.filter = self.filter.map(FilterJson::into_filter).transpose()?;
        search.with_payload = self.with_metadata.unwrap_or(true);
        search.with_vector = self.with_vector.unwrap_or(false);
        search.exact = self.exact.unwrap_or(false);
        search.nprobe = self.nprobe;
        search.recall_target = self.recall_target;
        search.explain = self.explain.unwrap_or(false);
        search.check()?;
        Ok(search)
    }
}

fn missing(field: &'static str) -> Error {
    Error::invalid("missing_field", format!("`{field}` is missing")).at(field).expected(field).got("nothing")
}

/// A search, or `searches`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vector": [0.1, 0.2, 0.3], "top_k": 10, "threshold": 0.8}))]
pub struct SearchRequest {
    /// The searches of a batch; the fields of one search must then be absent.
    #[schema(value_type = Option<Vec<SearchBody>>)]
    pub searches: Option<Bounded<Object<SearchBody>, SEARCHES_PER_REQUEST_MAX>>,
    /// What is searched for.
    pub vector: Option<Components>,
    /// Which vector is compared, if the table's vectors have names.
    pub vector_name: Option<String>,
    /// Most results.
    pub top_k: Option<usize>,
    /// Drops results with a worse score: below it for cosine and dot, above it for euclidean and manhattan.
    pub threshold: Option<f32>,
    /// Only documents that pass.
    pub filter: Option<FilterJson>,
    /// Give the attributes; `true` if absent.
    pub with_metadata: Option<bool>,
    /// Give the vectors; `false` if absent.
    pub with_vector: Option<bool>,
    /// Compare with every document: the true neighbours, at full cost.
    pub exact: Option<bool>,
    /// Posting lists to visit; chosen by the server if absent.
    pub nprobe: Option<usize>,
    /// Recall to aim at, over 0 and at most 1.
    pub recall_target: Option<f32>,
    /// Say how the answer was found.
    pub explain: Option<bool>,
    /// How fresh the read must be; `linearizable` if absent.
    pub consistency: Option<ConsistencyWord>,
    /// The token of an earlier answer.
    pub session: Option<String>,
    /// What to do when a shard cannot answer; `fail` if absent.
    pub on_unavailable: Option<OnUnavailableWord>,
}

/// Searches to do, and whether they came as a batch.
#[derive(Debug)]
pub struct Searches {
    pub searches: Vec<Search>,
    pub batch: bool,
    pub options: ReadOptions,
}

impl Searches {
    /// Puts `searches[i]` before the field of an error that names a row of a batch.
    pub fn locate(batch: bool, error: Error) -> Error {
        match error.detail().row {
            Some(row) if batch => error.at(format!("searches[{row}]")),
            _ => error,
        }
    }
}

impl SearchRequest {
    /// The searches.
    ///
    /// # Errors
    /// `ambiguous_body`, `empty_batch`, `missing_field`; those of the parts, with the row of a batch.
    pub fn into_searches(self) -> Result<Searches, Error> {
        let options =
            ReadFields { consistency: self.consistency, session: self.session, on_unavailable: self.on_unavailable }
                .into_options()?;
        let single = SearchBody {
            vector: self.vector,
            vector_name: self.vector_name,
            top_k: self.top_k,
            threshold: self.threshold,
            filter: self.filter,
            with_metadata: self.with_metadata,
            with_vector: self.with_vector,
            exact: self.exact,
            nprobe: self.nprobe,
            recall_target: self.recall_target,
            explain: self.explain,
        };
        let Some(Bounded(searches)) = self.searches else {
            return Ok(Searches { searches: vec![single.into_search()?], batch: false, options });
        };
        if single.is_some() {
            return Err(Error::invalid("ambiguous_body", "the body is one search or a batch, not both")
                .at("searches")
                .expected("only searches, consistency, session, on_unavailable")
                .got("searches and fields of a search"));
        }
        if searches.is_empty() {
            return Err(empty_batch("searches"));
        }
        let search = |(row, Object(body)): (usize, Object<SearchBody>)| {
            body.into_search().map_err(|error| Searches::locate(true, error.row(row)))
        };
        let searches = searches.into_iter().enumerate().map(search).collect::<Result<_, _>>()?;
        Ok(Searches { searches, batch: true, options })
    }
}

/// One document found.
#[derive(Debug, Serialize, ToSchema)]
pub struct HitAnswer<'a> {
    /// Its name, as the last write spelled it.
    #[schema(value_type = super::WireId)]
    pub document_id: &'a DocumentId,
    /// Cosine and dot: similarity, higher is better. Euclidean and manhattan: distance, lower is better.
    pub score: f32,
    /// Its attributes, unless `with_metadata` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub metadata: Option<&'a Map<String, Value>>,
    /// Its vector, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<f32>>)]
    pub vector: Option<&'a [f32]>,
    /// Its vectors by name, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Vec<f32>>>)]
    pub vectors: Option<BTreeMap<&'a str, &'a [f32]>>,
}

impl<'a> HitAnswer<'a> {
    fn new(hit: &'a SearchHit) -> HitAnswer<'a> {
        let (vector, vectors) = wire_vectors(&hit.point);
        HitAnswer {
            document_id: &hit.point.id,
            score: hit.score,
            metadata: hit.point.payload.as_ref().map(|payload| payload.as_object()),
            vector,
            vectors,
        }
    }
}

/// Which shards took part.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"total": 1, "ok": 1, "failed": []}))]
pub struct ShardsBody<'a> {
    pub total: u32,
    pub ok: u32,
    /// Numbers of the shards that did not answer.
    #[schema(value_type = Vec<u64>)]
    pub failed: &'a [u64],
}

impl<'a> From<&'a ShardsAnswer> for ShardsBody<'a> {
    fn from(answer: &'a ShardsAnswer) -> ShardsBody<'a> {
        ShardsBody { total: answer.total, ok: answer.ok, failed: &answer.failed }
    }
}

/// How an answer was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExplainBody {
    /// `exact`, `flat`, `ivf`; with a filter `filter_gather` (the matches, exactly), `filter_flat`, `filter_ivf` or
    /// `filter_scan` (every document is read).
    pub plan: &'static str,
    /// The recall aimed at; absent where an `nprobe` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_target: Option<f32>,
    /// The recall to be counted on, measured when the index was built; 1 where every document is compared.
    pub estimated_recall: f32,
    /// Posting lists visited at most.
    pub nprobe: u64,
    /// Approximate hits re-ranked at most.
    pub candidates: u64,
    pub lists_total: u64,
    pub lists_probed: u64,
    pub codes_scanned: u64,
    pub tail_scanned: u64,
    pub reranked: u64,
    pub records_read: u64,
    /// Documents the filter let pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_matches: Option<u64>,
    /// Fields of the filter that have no index: with one, such a filter would be fast.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_indexed: Vec<String>,
    /// Fields of the filter whose index is still being filled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub building: Vec<String>,
    pub scan_us: u64,
    pub rerank_us: u64,
}

impl From<&Explain> for ExplainBody {
    fn from(explain: &Explain) -> ExplainBody {
        ExplainBody {
            plan: explain.plan,
            recall_target: explain.recall_target,
            estimated_recall: explain.estimated_recall,
            nprobe: explain.nprobe,
            candidates: explain.candidates,
            lists_total: explain.lists_total,
            lists_probed: explain.lists_probed,
            codes_scanned: explain.codes_scanned,
            tail_scanned: explain.tail_scanned,
            reranked: explain.reranked,
            records_read: explain.records_read,
            filter_matches: explain.filter_matches,
            not_indexed: explain.not_indexed.clone(),
            building: explain.building.clone(),
            scan_us: explain.scan_us,
            rerank_us: explain.rerank_us,
        }
    }
}

/// What one search of a batch found.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundBody<'a> {
    /// Best first.
    pub results: Vec<HitAnswer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<ExplainBody>,
}

impl<'a> FoundBody<'a> {
    fn new(answer: &'a SearchAnswer) -> FoundBody<'a> {
        FoundBody {
            results: answer.hits.iter().map(HitAnswer::new).collect(),
            explain: answer.explain.as_ref().map(ExplainBody::from),
        }
    }
}

/// What was found: `results` of one search, `searches` of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchAnswerBody<'a> {
    /// Best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<HitAnswer<'a>>>,
    /// The answers of a batch, in the order of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searches: Option<Vec<FoundBody<'a>>>,
    pub shards: ShardsBody<'a>,
    /// Give it to a later read with `"consistency": "session"`: that read sees no less.
    pub session: String,
    /// Time in the server, in milliseconds.
    pub took_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<ExplainBody>,
}

impl<'a> SearchAnswerBody<'a> {
    /// The answer of a batch or of the one search.
    pub fn new(answer: &'a SearchesAnswer, batch: bool, took_ms: f64) -> SearchAnswerBody<'a> {
        let mut found: Vec<FoundBody<'a>> = answer.answers.iter().map(FoundBody::new).collect();
        let (results, searches, explain) = if batch {
            (None, Some(found), None)
        } else {
            let (results, explain) = found.pop().map_or_else(Default::default, |only| (only.results, only.explain));
            (Some(results), None, explain)
        };
        SearchAnswerBody {
            results,
            searches,
            shards: ShardsBody::from(&answer.shards),
            session: answer.session.to_string(),
            took_ms,
            explain,
        }
    }
}
