//! Ids, points and vectors on the wire. Called by `request` and `answer`.

use super::bad;
use crate::types::{DocumentId, Payload, Result, StoredPoint, VectorName};
use serde::{Deserialize, Serialize};

/// A document's id in its caller's spelling.
#[derive(Serialize, Deserialize)]
pub enum Id {
    Num(u64),
    Text(String),
}

impl From<&DocumentId> for Id {
    fn from(id: &DocumentId) -> Id {
        match id {
            DocumentId::Num(number) => Id::Num(*number),
            DocumentId::Text(text) => Id::Text(text.clone()),
        }
    }
}

impl Id {
    /// # Errors
    /// `bad_document_id`.
    pub fn into_id(self) -> Result<DocumentId> {
        match self {
            Id::Num(number) => Ok(DocumentId::Num(number)),
            Id::Text(text) => DocumentId::from_text(text),
        }
    }
}

/// A point as it was read.
#[derive(Serialize, Deserialize)]
pub struct Point {
    id: Id,
    version: u64,
    vectors: Option<Vec<(String, Vec<f32>)>>,
    /// Its JSON; empty for the empty object.
    #[serde(with = "serde_bytes")]
    payload: Option<Vec<u8>>,
}

impl From<StoredPoint> for Point {
    fn from(point: StoredPoint) -> Point {
        let named = |(name, vector): (VectorName, Vec<f32>)| (name.as_str().to_owned(), vector);
        Point {
            id: Id::from(&point.id),
            version: point.version,
            vectors: point.vectors.map(|vectors| vectors.into_iter().map(named).collect()),
            payload: point.payload.map(|payload| payload.to_json()),
        }
    }
}

impl Point {
    /// # Errors
    /// `bad_peer_message`, `bad_document_id`, `bad_vector_name`.
    pub fn into_point(self) -> Result<StoredPoint> {
        let named = |(name, vector): (String, Vec<f32>)| Ok((VectorName::new(name)?, vector));
        let payload = self.payload.map(|json| Payload::from_json(&json).ok_or_else(|| bad("a payload is no object")));
        Ok(StoredPoint {
            id: self.id.into_id()?,
            version: self.version,
            vectors: self.vectors.map(|all| all.into_iter().map(named).collect::<Result<_>>()).transpose()?,
            payload: payload.transpose()?,
        })
    }
}
