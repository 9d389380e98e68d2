//! Documents in and out: single and batch writes, replace, patch, delete, list.

use super::{
    Bounded, Components, FilterJson, Metadata, NamedComponents, Object, ReadFields, ShardsBody, WireId, vectors_of,
};
use crate::{
    api::invented_id,
    types::{
        DocumentId, Error, Filter, Point, PointPatch, RequestId, StoredPoint,
        limits::BATCH_POINTS_MAX,
        operation::{
            Cursor, DeleteAnswer, DeleteRequest, GetAnswer, ListRequest, PageAnswer, ReadOptions, WriteAnswer,
        },
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One document to write: with `vector`, or with `vectors` if the table's vectors have names.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentBody {
    /// Its name; a random UUID if absent, the same in every retry with one `Idempotency-Key`.
    pub document_id: Option<WireId>,
    /// Its vector.
    pub vector: Option<Components>,
    /// Its vectors by name.
    pub vectors: Option<NamedComponents>,
    /// Its attributes.
    pub metadata: Option<Metadata>,
    /// Write only if the document's version is this one; 0: only if it does not exist.
    pub if_version: Option<u64>,
}

impl DocumentBody {
    /// The point, if the document is good by itself. The table is asked later. Without an id it gets the one `invented`.
    ///
    /// # Errors
    /// With fields relative to the document, and with its id.
    pub fn into_point(self, invented: impl FnOnce() -> DocumentId) -> Result<Point, Error> {
        let id = match self.document_id {
            Some(id) => id.into_id().map_err(|error| error.at("document_id"))?,
            None => invented(),
        };
        let vectors = vectors_of(self.vector, self.vectors).map_err(|error| error.document(&id))?;
        let payload = self.metadata.unwrap_or_default().into_payload().map_err(|error| error.document(&id))?;
        Ok(Point { id, vectors, payload, if_version: self.if_version })
    }
}

/// A write: one document, or `documents`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"document_id": "doc1", "vector": [0.1, 0.2, 0.3], "metadata": {"title": "Example Document"}}))]
pub struct WriteRequest {
    /// The documents of a batch: all are written, or none.
    #[schema(value_type = Option<Vec<DocumentBody>>)]
    pub documents: Option<Bounded<Object<DocumentBody>, BATCH_POINTS_MAX>>,
    /// Its name; a random UUID if absent, the same in every retry with one `Idempotency-Key`.
    pub document_id: Option<WireId>,
    /// Its vector.
    pub vector: Option<Components>,
    /// Its vectors by name.
    pub vectors: Option<NamedComponents>,
    /// Its attributes.
    pub metadata: Option<Metadata>,
    /// Write only if the document's version is this one; 0: only if it does not exist.
    pub if_version: Option<u64>,
}

/// The points of a write, and whether errors speak of `documents[i]`.
#[derive(Debug)]
pub struct Write {
    pub points: Vec<Point>,
    pub batch: bool,
}

impl Write {
    /// Puts `documents[i]` before the field of an error that names a row of this write.
    pub fn locate(batch: bool, error: Error) -> Error {
        match error.detail().row {
            Some(row) if batch => error.at(format!("documents[{row}]")),
            _ => error,
        }
    }
}

impl WriteRequest {
    /// The points to write, by the request of this id.
    ///
    /// # Errors
    /// `ambiguous_body`, `empty_batch`; those of [`DocumentBody::into_point`], with the row of a batch.
    pub fn into_write(self, request: Option<RequestId>) -> Result<Write, Error> {
        let single = DocumentBody {
            document_id: self.document_id,
            vector: self.vector,
            vectors: self.vectors,
            metadata: self.metadata,
            if_version: self.if_version,
        };
        let Some(Bounded(documents)) = self.documents else {
            return Ok(Write { points: vec![single.into_point(|| invented_id(request, 0))?], batch: false });
        };
        if single.is_some() {
            return Err(Error::invalid("ambiguous_body", "the body is one document or a batch, not both")
                .at("documents")
                .expected("only documents")
                .got("documents and fields of a document"));
        }
        if documents.is_empty() {
            return Err(empty_batch("documents"));
        }
        let point = |(row, Object(document)): (usize, Object<DocumentBody>)| {
            document.into_point(|| invented_id(request, row)).map_err(|error| Write::locate(true, error.row(row)))
        };
        Ok(Write { points: documents.into_iter().enumerate().map(point).collect::<Result<_, _>>()?, batch: true })
    }
}

impl DocumentBody {
    fn is_some(&self) -> bool {
        self.document_id.is_some()
            || self.vector.is_some()
            || self.vectors.is_some()
            || self.metadata.is_some()
            || self.if_version.is_some()
    }

    /// A replacement of the document that the path names.
    ///
    /// # Errors
    /// `document_id_mismatch`; those of [`DocumentBody::into_point`].
    pub fn into_replacement(mut self, path: DocumentId) -> Result<Point, Error> {
        let id = checked_id(self.document_id.take(), path)?;
        self.into_point(|| id.clone()).map_err(|error| error.document(&id))
    }

    /// A change of the document that the path names.
    ///
    /// # Errors
    /// `document_id_mismatch`, `empty_patch`; those of [`DocumentBody::into_point`].
    pub fn into_patch(mut self, path: DocumentId) -> Result<PointPatch, Error> {
        let id = checked_id(self.document_id.take(), path)?;
        if self.vector.is_none() && self.vectors.is_none() && self.metadata.is_none() {
            return Err(Error::invalid("empty_patch", "there is nothing to change")
                .expected("metadata, vector or vectors")
                .got("none of them"));
        }
        let point = self.into_point(|| id.clone()).map_err(|error| error.document(&id))?;
        Ok(PointPatch { id, vectors: point.vectors, payload: point.payload, if_version: point.if_version })
    }
}

/// The body may repeat the path's id, in the spelling it should have; it must not name another document.
fn checked_id(body: Option<WireId>, path: DocumentId) -> Result<DocumentId, Error> {
    let Some(body) = body else { return Ok(path) };
    let body = body.into_id().map_err(|error| error.at("document_id"))?;
    if body.point_id() == path.point_id() {
        return Ok(body);
    }
    Err(Error::invalid("document_id_mismatch", "the body names another document than the path")
        .at("document_id")
        .expected(path)
        .got(body))
}

/// A list of nothing where something has to be.
pub(super) fn empty_batch(field: &str) -> Error {
    Error::invalid("empty_batch", format!("{field} is empty")).at(field).expected("1 or more").got(0)
}

/// What a write did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"document_ids": ["doc1"], "version": 7, "session": "s1.0-2.1-7"}))]
pub struct WriteAnswerBody {
    /// The ids, in the order of the request.
    #[schema(value_type = Vec<WireId>)]
    pub document_ids: Vec<DocumentId>,
    /// The version the documents now have: what `if_version` compares with. Of a batch over several shards the highest.
    pub version: u64,
    /// The version of each document, in the order of the request, if they are not all `version`.
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    #[schema(value_type = Option<Vec<u64>>)]
    pub versions: Vec<u64>,
    /// Give it to a later read with `"consistency": "session"`: that read sees this write.
    pub session: String,
}

impl WriteAnswerBody {
    /// The answer for documents of these ids.
    pub fn new(document_ids: Vec<DocumentId>, answer: WriteAnswer) -> WriteAnswerBody {
        let WriteAnswer { version, versions, session } = answer;
        WriteAnswerBody { document_ids, version, versions, session: session.to_string() }
    }
}

/// A document as it is stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"document_id": "doc1", "vector": [0.1, 0.2, 0.3], "metadata": {"title": "x"}, "version": 7}))]
pub struct DocumentAnswer<'a> {
    /// Its name, as the last write spelled it.
    #[schema(value_type = WireId)]
    pub document_id: &'a DocumentId,
    /// Its vector, if asked for. For cosine it is normalised.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<f32>>)]
    pub vector: Option<&'a [f32]>,
    /// Its vectors by name, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Vec<f32>>>)]
    pub vectors: Option<BTreeMap<&'a str, &'a [f32]>>,
    /// Its attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub metadata: Option<&'a Map<String, Value>>,
    /// The version of its last write.
    pub version: u64,
    /// Give it to a later read with `"consistency": "session"`: that read sees no less. Absent where the documents of a page share one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl<'a> DocumentAnswer<'a> {
    /// The answer of reading one document.
    pub fn alone(answer: &'a GetAnswer, with_vector: bool) -> DocumentAnswer<'a> {
        let session = Some(answer.session.to_string());
        DocumentAnswer { session, ..DocumentAnswer::new(&answer.point, with_vector) }
    }

    /// The document, with its vectors if `with_vector`.
    pub fn new(point: &'a StoredPoint, with_vector: bool) -> DocumentAnswer<'a> {
        let (vector, vectors) = if with_vector { wire_vectors(point) } else { (None, None) };
        DocumentAnswer {
            document_id: &point.id,
            vector,
            vectors,
            metadata: point.payload.as_ref().map(|payload| payload.as_object()),
            version: point.version,
            session: None,
        }
    }
}

/// Vectors by name, borrowed from a point.
type NamedVectors<'a> = BTreeMap<&'a str, &'a [f32]>;

/// The unnamed vector, and the named ones.
pub(super) fn wire_vectors(point: &StoredPoint) -> (Option<&[f32]>, Option<NamedVectors<'_>>) {
    let all = point.vectors.as_deref().unwrap_or_default();
    let unnamed = all.iter().find(|(name, _)| name.as_str().is_empty()).map(|(_, vector)| vector.as_slice());
    let named: BTreeMap<&str, &[f32]> = all
        .iter()
        .filter(|(name, _)| !name.as_str().is_empty())
        .map(|(name, vector)| (name.as_str(), vector.as_slice()))
        .collect();
    (unnamed, (!named.is_empty()).then_some(named))
}

/// A delete: by `ids` or by `filter`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ids": ["doc1", 2]}))]
pub struct DeleteBody {
    /// The documents of these ids; an id that is not there is no error.
    #[schema(value_type = Option<Vec<WireId>>)]
    pub ids: Option<Bounded<WireId, BATCH_POINTS_MAX>>,
    /// The documents that pass.
    pub filter: Option<FilterJson>,
}

impl DeleteBody {
    /// What to delete.
    ///
    /// # Errors
    /// `missing_field`, `ambiguous_body`, `empty_batch`, `bad_document_id`, `bad_filter`.
    pub fn into_request(self) -> Result<DeleteRequest, Error> {
        match (self.ids, self.filter) {
            (None, None) => {
                Err(Error::invalid("missing_field", "say what to delete").expected("ids or filter").got("neither"))
            }
            (Some(_), Some(_)) => Err(Error::invalid("ambiguous_body", "delete by ids or by a filter")
                .expected("ids or filter")
                .got("both")),
            (Some(Bounded(ids)), None) if ids.is_empty() => Err(empty_batch("ids")),
            (Some(Bounded(ids)), None) => ids
                .into_iter()
                .enumerate()
                .map(|(i, id)| id.into_id().map_err(|error| error.at(format!("ids[{i}]"))))
                .collect::<Result<_, _>>()
                .map(DeleteRequest::Ids),
            (None, Some(filter)) => delete_by(filter.into_filter()?).map_err(|error| error.at("filter")),
        }
    }
}

/// A delete by filter. A filter that constrains nothing is more often a mistake than a wish to lose everything.
///
/// # Errors
/// `empty_filter`.
pub fn delete_by(filter: Filter) -> Result<DeleteRequest, Error> {
    let nothing = |list: &Value| list.is_null() || list.as_array().is_some_and(Vec::is_empty);
    if filter.source().as_object().is_some_and(|lists| lists.values().all(nothing)) {
        return Err(Error::invalid("empty_filter", "this filter passes everything; to delete all, delete the table")
            .expected("a filter with a condition")
            .got("none"));
    }
    Ok(DeleteRequest::Filter(filter))
}

/// What a delete did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"deleted": 2, "session": "s1.0-2.1-8"}))]
pub struct DeleteAnswerBody {
    /// Documents that were there and are gone.
    pub deleted: u64,
    /// Give it to a later read with `"consistency": "session"`: that read sees this delete.
    pub session: String,
}

impl From<DeleteAnswer> for DeleteAnswerBody {
    fn from(answer: DeleteAnswer) -> DeleteAnswerBody {
        DeleteAnswerBody { deleted: answer.deleted, session: answer.session.to_string() }
    }
}

/// A page of documents.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"limit": 100, "filter": {"must": [{"key": "lang", "match": {"value": "en"}}]}}))]
pub struct ListBody {
    /// Most documents of the page.
    pub limit: usize,
    /// The cursor of the page before.
    pub cursor: Option<String>,
    /// Only documents that pass.
    pub filter: Option<FilterJson>,
    /// Give the vectors; `false` if absent.
    pub with_vector: Option<bool>,
    /// Give the attributes; `true` if absent.
    pub with_metadata: Option<bool>,
    /// How fresh the read must be; `linearizable` if absent.
    pub consistency: Option<super::ConsistencyWord>,
    /// The token of an earlier answer.
    pub session: Option<String>,
    /// What to do when a shard cannot answer; `fail` if absent.
    pub on_unavailable: Option<super::OnUnavailableWord>,
}

impl ListBody {
    /// The request and how to read.
    ///
    /// # Errors
    /// `bad_cursor`, `bad_filter`, `bad_session`.
    pub fn into_request(self) -> Result<(ListRequest, ReadOptions), Error> {
        let read =
            ReadFields { consistency: self.consistency, session: self.session, on_unavailable: self.on_unavailable };
        let request = ListRequest {
            limit: self.limit,
            cursor: self.cursor.as_deref().map(Cursor::from_text).transpose()?,
            filter: self.filter.map(FilterJson::into_filter).transpose()?,
            with_vector: self.with_vector.unwrap_or(false),
            with_payload: self.with_metadata.unwrap_or(true),
        };
        Ok((request, read.into_options()?))
    }
}

/// A page, in the order of ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListAnswerBody<'a> {
    /// The documents.
    pub documents: Vec<DocumentAnswer<'a>>,
    /// Where the next page begins; null on the last page.
    pub cursor: Option<String>,
    /// With `on_unavailable` `partial`: the documents of shards that failed are missing, and the cursor passes over them.
    pub shards: ShardsBody<'a>,
    /// Give it to a later read with `"consistency": "session"`: that read sees no less.
    pub session: String,
}

impl<'a> ListAnswerBody<'a> {
    /// The page.
    pub fn new(answer: &'a PageAnswer, with_vector: bool) -> ListAnswerBody<'a> {
        let PageAnswer { page, shards, session } = answer;
        ListAnswerBody {
            documents: page.points.iter().map(|point| DocumentAnswer::new(point, with_vector)).collect(),
            cursor: page.cursor.map(Cursor::to_text),
            shards: ShardsBody::from(shards),
            session: session.to_string(),
        }
    }
}
