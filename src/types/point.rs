//! Points as they are written, changed and read back, and the ids by which callers know them.
//! Called by `api` (building them from requests), `service`, `shard`.

use super::{CollectionSpec, Error, Payload, PointId, Result, Vector, VectorName, limits};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An id as the caller spells it. A string keeps its spelling in the store and is given back as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DocumentId {
    /// A number.
    Num(u64),
    /// Any other text; see [`PointId::from_text`].
    Text(String),
}

impl DocumentId {
    /// Checks a text id.
    ///
    /// # Errors
    /// `bad_document_id` if it is empty, too long or has control characters.
    pub fn from_text(text: impl Into<String>) -> Result<DocumentId> {
        let text = text.into();
        let good = (1..=limits::DOCUMENT_ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if good {
            return Ok(DocumentId::Text(text));
        }
        let shown: String = text.chars().take(64).collect();
        Err(Error::invalid("bad_document_id", "this cannot be the id of a document")
            .expected(format!("1 to {} bytes without control characters", limits::DOCUMENT_ID_BYTES_MAX))
            .got(format!("{shown:?}")))
    }

    /// The point this id names.
    pub fn point_id(&self) -> PointId {
        match self {
            DocumentId::Num(number) => PointId::Num(*number),
            DocumentId::Text(text) => PointId::from_text(text),
        }
    }

    /// The spelling that has to be stored beside the id to give it back: none for numbers and for the canonical form of
    /// a UUID.
    pub fn spelling(&self) -> Option<&str> {
        match self {
            DocumentId::Num(_) => None,
            DocumentId::Text(text) => match self.point_id() {
                id @ PointId::Uuid(_) if id.to_string() == *text => None,
                _ => Some(text),
            },
        }
    }

    /// The inverse of [`DocumentId::point_id`] and [`DocumentId::spelling`].
    pub fn restore(id: PointId, spelling: Option<&str>) -> DocumentId {
        match (id, spelling) {
            (_, Some(text)) => DocumentId::Text(text.to_owned()),
            (PointId::Num(number), None) => DocumentId::Num(number),
            (PointId::Uuid(_), None) => DocumentId::Text(id.to_string()),
        }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocumentId::Num(number) => number.fmt(f),
            DocumentId::Text(text) => text.fmt(f),
        }
    }
}

/// A point to be written whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its id, in the caller's spelling.
    pub id: DocumentId,
    /// Its vectors, at least one, sorted by name, each name once.
    pub vectors: Vec<(VectorName, Vector)>,
    /// Its attributes.
    pub payload: Payload,
    /// Write only if the point's version is this one; 0: only if there is no such point.
    pub if_version: Option<u64>,
}

impl Point {
    /// Checks the point against the collection it is for.
    ///
    /// # Errors
    /// Those of [`super::VectorSpec::check`], `unknown_vector`, `no_vectors`, `duplicate_vector`; the field is `vector`
    /// or `vectors.NAME`.
    pub fn check(&self, spec: &CollectionSpec) -> Result<()> {
        if self.vectors.is_empty() {
            let one = spec.vectors.keys().next().expect("a collection has a vector");
            return Err(Error::invalid("no_vectors", "a document has at least one vector")
                .at(field_of(one))
                .expected("a vector")
                .got("none"));
        }
        check_vectors(&self.vectors, spec)
    }
}

/// A change of an existing point.
#[derive(Clone, Debug, PartialEq)]
pub struct PointPatch {
    /// The point.
    pub id: DocumentId,
    /// Vectors to replace; the others stay. Sorted by name, each name once.
    pub vectors: Vec<(VectorName, Vector)>,
    /// Keys to set; null removes.
    pub payload: Payload,
    /// Change only if the point's version is this one.
    pub if_version: Option<u64>,
}

impl PointPatch {
    /// Checks the change against the collection it is for.
    ///
    /// # Errors
    /// Those of [`Point::check`], but no vector is needed.
    pub fn check(&self, spec: &CollectionSpec) -> Result<()> {
        check_vectors(&self.vectors, spec)
    }
}

fn check_vectors(vectors: &[(VectorName, Vector)], spec: &CollectionSpec) -> Result<()> {
    for (i, (name, vector)) in vectors.iter().enumerate() {
        if i > 0 && vectors[i - 1].0 == *name {
            return Err(Error::invalid("duplicate_vector", "a vector is given twice").at(field_of(name)));
        }
        spec.vector(name).and_then(|spec| spec.check(vector)).map_err(|error| error.at(field_of(name)))?;
    }
    Ok(())
}

/// Where a vector of this name stands in a request.
pub fn field_of(name: &VectorName) -> String {
    if name.as_str().is_empty() { "vector".to_owned() } else { format!("vectors.{}", name.as_str()) }
}

/// A point as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPoint {
    /// Its id, as it was spelled when it was last written.
    pub id: DocumentId,
    /// The log index of its last write.
    pub version: u64,
    /// Its vectors by name, if they were asked for.
    pub vectors: Option<Vec<(VectorName, Vec<f32>)>>,
    /// Its attributes, if they were asked for.
    pub payload: Option<Payload>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{IndexType, Metric, VectorSpec};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn ids_come_back_as_they_were_spelled(text in "[ -~]{1,40}|[0-9]{1,22}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", number: u64) {
            for id in [DocumentId::from_text(text).unwrap(), DocumentId::Num(number)] {
                prop_assert_eq!(DocumentId::restore(id.point_id(), id.spelling()), id);
            }
        }
    }

    #[test]
    fn bad_ids_are_refused() {
        for bad in ["", "a\nb", &"x".repeat(limits::DOCUMENT_ID_BYTES_MAX + 1)] {
            assert_eq!(DocumentId::from_text(bad).unwrap_err().code(), "bad_document_id");
        }
    }

    #[test]
    fn points_are_checked_against_the_collection() {
        let named = |n: &str| VectorName::new(n).unwrap();
        let vector = Vector::new(vec![1.0, 2.0]).unwrap();
        let two = VectorSpec::new(2, Metric::Dot, IndexType::Flat).unwrap();
        let spec = CollectionSpec::new(BTreeMap::from([(named("a"), two), (named("b"), two)]), 1).unwrap();
        let check = |vectors: Vec<(VectorName, Vector)>| {
            let point = Point { id: DocumentId::Num(1), vectors, payload: Payload::default(), if_version: None };
            point.check(&spec).map_err(|e| (e.code(), e.detail().field.clone().unwrap_or_default()))
        };
        assert!(check(vec![(named("a"), vector.clone())]).is_ok());
        assert_eq!(check(vec![]).unwrap_err(), ("no_vectors", "vectors.a".to_owned()));
        assert_eq!(check(vec![(named("c"), vector.clone())]).unwrap_err(), ("unknown_vector", "vectors.c".to_owned()));
        let twice = vec![(named("a"), vector.clone()), (named("a"), vector)];
        assert_eq!(check(twice).unwrap_err(), ("duplicate_vector", "vectors.a".to_owned()));
        let short = Vector::new(vec![1.0]).unwrap();
        assert_eq!(check(vec![(named("b"), short)]).unwrap_err(), ("dimension_mismatch", "vectors.b".to_owned()));
    }
}
