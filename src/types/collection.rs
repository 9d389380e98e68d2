//! What a collection is: its name, its vectors (one unnamed, or several named), metric and index of each, shards.
//! Called by `service` (creating), `cluster` (storing), `shard` (checking vectors).

use super::{CodeSettings, Compression, Error, Metric, Rerank, Result, Vector, limits, path::Path};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// A valid name of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectionName(String);

impl CollectionName {
    /// Checks a name: 1 to 255 bytes of letters, digits, `_`, `-`, `.`, not starting with a dot. It stands in URLs and
    /// in the coordinator's keys as it is.
    ///
    /// # Errors
    /// `bad_table_name`.
    pub fn new(name: impl Into<String>) -> Result<CollectionName> {
        let name = name.into();
        let good = (1..=limits::COLLECTION_NAME_BYTES_MAX).contains(&name.len())
            && !name.starts_with('.')
            && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if good {
            return Ok(CollectionName(name));
        }
        let shown: String = name.chars().take(64).collect();
        Err(Error::invalid("bad_table_name", "this cannot be the name of a table")
            .expected(format!(
                "1 to {} bytes of letters, digits, '_', '-' or '.', not starting with '.'",
                limits::COLLECTION_NAME_BYTES_MAX
            ))
            .got(format!("{shown:?}")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CollectionName {
    type Error = Error;

    fn try_from(name: String) -> Result<CollectionName> {
        CollectionName::new(name)
    }
}

impl From<CollectionName> for String {
    fn from(name: CollectionName) -> String {
        name.0
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one vector of a point; the empty name is the unnamed, default vector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VectorName(String);

impl VectorName {
    /// Checks a name's length.
    ///
    /// # Errors
    /// `bad_vector_name`.
    pub fn new(name: impl Into<String>) -> Result<VectorName> {
        let name = name.into();
        if name.len() > limits::VECTOR_NAME_BYTES_MAX {
            return Err(Error::invalid("bad_vector_name", "the name of the vector is too long")
                .expected(format!("at most {} bytes", limits::VECTOR_NAME_BYTES_MAX))
                .got(format!("{} bytes", name.len())));
        }
        Ok(VectorName(name))
    }

    /// The text; empty for the default vector.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VectorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(default)" } else { &self.0 })
    }
}

/// How vectors are searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexType {
    /// Exact, by scanning everything.
    Flat,
    /// Posting lists of full vectors.
    IvfFlat,
    /// Posting lists of 4-bit product-quantized codes, reranked. The default.
    #[default]
    IvfPq,
    /// Posting lists of one sign a dimension, reranked.
    IvfBinary,
    /// Posting lists of int8 vectors, reranked.
    IvfScalar,
    /// Accepted for those who ask for it; served by IVF-PQ, and the table says so.
    Hnsw,
}

impl IndexType {
    /// Every type, in the order it is listed to users.
    pub const ALL: [IndexType; 6] = [
        IndexType::IvfPq,
        IndexType::IvfBinary,
        IndexType::IvfScalar,
        IndexType::IvfFlat,
        IndexType::Flat,
        IndexType::Hnsw,
    ];

    /// The name used in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            IndexType::Flat => "flat",
            IndexType::IvfFlat => "ivf_flat",
            IndexType::IvfPq => "ivf_pq",
            IndexType::IvfBinary => "ivf_binary",
            IndexType::IvfScalar => "ivf_scalar",
            IndexType::Hnsw => "hnsw",
        }
    }

    /// The type that really serves this one.
    pub const fn served_by(self) -> IndexType {
        match self {
            IndexType::Hnsw => IndexType::IvfPq,
            other => other,
        }
    }

    /// What its codes are called.
    pub const fn quantization(self) -> &'static str {
        match self {
            IndexType::Flat | IndexType::IvfFlat => "none",
            IndexType::IvfPq | IndexType::Hnsw => "product",
            IndexType::IvfBinary => "binary",
            IndexType::IvfScalar => "scalar",
        }
    }

    /// Whether its codes may be of several sizes.
    pub fn has_compression(self) -> bool {
        self.served_by() == IndexType::IvfPq
    }

    /// Whether candidates of a search are looked at a second time.
    pub const fn has_rerank(self) -> bool {
        !matches!(self, IndexType::Flat | IndexType::IvfFlat)
    }

    /// Most dimensions of its vectors.
    pub const fn dimension_max(self) -> usize {
        match self {
            IndexType::IvfBinary => limits::BINARY_DIMENSION_MAX,
            _ => limits::DIMENSION_MAX,
        }
    }
}

/// What the vectors of one name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VectorSpec {
    /// Number of components of every vector.
    pub dimension: usize,
    /// How nearness is measured.
    pub metric: Metric,
    /// How it is searched.
    pub index: IndexType,
    /// How it is encoded; what was stored before there was a choice has the defaults.
    #[serde(default)]
    pub codes: CodeSettings,
}

impl VectorSpec {
    /// Checks the dimension's bounds.
    ///
    /// # Errors
    /// `bad_dimension`.
    pub fn new(dimension: usize, metric: Metric, index: IndexType) -> Result<VectorSpec> {
        if !(1..=index.dimension_max()).contains(&dimension) {
            return Err(Error::invalid("bad_dimension", "a table of this index type cannot have this dimension")
                .at("dimension")
                .expected(format!("1 to {} with index_type {}", index.dimension_max(), index.name()))
                .got(dimension));
        }
        Ok(VectorSpec { dimension, metric, index, codes: CodeSettings::default() })
    }

    /// The same with other codes than the default; what is `None` stays the default.
    ///
    /// # Errors
    /// `bad_quantization` for a setting that the index type has no use for.
    pub fn with_codes(mut self, compression: Option<Compression>, rerank: Option<Rerank>) -> Result<VectorSpec> {
        let useless = |field: &'static str, got: &'static str| {
            Error::invalid("bad_quantization", "the index type has no use for this setting")
                .at(format!("quantization.{field}"))
                .expected(format!("none with index_type {}", self.index.name()))
                .got(got)
        };
        match (compression, rerank) {
            (Some(compression), _) if !self.index.has_compression() => {
                return Err(useless("compression", compression.name()));
            }
            (_, Some(rerank)) if !self.index.has_rerank() => return Err(useless("rerank", rerank.name())),
            _ => {}
        }
        self.codes = CodeSettings { compression: compression.unwrap_or_default(), rerank: rerank.unwrap_or_default() };
        Ok(self)
    }

    /// Whether `vector` may be stored or searched under this spec.
    ///
    /// # Errors
    /// `dimension_mismatch`; `vector_too_long` if a squared distance could overflow an f32; for cosine `zero_vector` if
    /// the squared norm is 0 or underflows.
    pub fn check(&self, vector: &Vector) -> Result<()> {
        if vector.dimension() != self.dimension {
            return Err(Error::invalid("dimension_mismatch", "the vector has another dimension than the table")
                .expected(self.dimension)
                .got(vector.dimension()));
        }
        let squared: f64 = vector.as_slice().iter().map(|c| f64::from(*c) * f64::from(*c)).sum();
        if squared > f64::from(f32::MAX / 4.0) {
            return Err(Error::invalid("vector_too_long", "the vector is too long for 32-bit distances")
                .expected(format!("a norm of at most {:e}", (f32::MAX / 4.0).sqrt()))
                .got(format!("a norm of {:e}", squared.sqrt())));
        }
        if self.metric == Metric::Cosine && squared < f64::from(f32::MIN_POSITIVE) {
            return Err(Error::invalid("zero_vector", "a vector without a direction has no cosine")
                .expected(format!("a norm of at least {:e}", f32::MIN_POSITIVE.sqrt()))
                .got(format!("a norm of {:e}", squared.sqrt())));
        }
        Ok(())
    }
}

/// How a payload index keeps strings. Numbers, booleans, nulls and whether there is a value at all are in every index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadIndexKind {
    /// Whole, to be matched by `value`, `any` and `except`.
    #[default]
    Value,
    /// By their tokens, to be matched by `text`.
    Text,
}

impl PayloadIndexKind {
    /// The name used in the API.
    pub const fn name(self) -> &'static str {
        match self {
            PayloadIndexKind::Value => "value",
            PayloadIndexKind::Text => "text",
        }
    }

    /// The inverse of [`PayloadIndexKind::name`].
    ///
    /// # Errors
    /// `bad_payload_index`.
    pub fn from_name(name: &str) -> Result<PayloadIndexKind> {
        [PayloadIndexKind::Value, PayloadIndexKind::Text].into_iter().find(|kind| kind.name() == name).ok_or_else(
            || {
                Error::invalid("bad_payload_index", "there is no such kind of payload index")
                    .at("type")
                    .expected("value or text")
                    .got(format!("{name:?}"))
            },
        )
    }
}

/// The indexed fields of a collection's payloads.
pub type IndexedFields = BTreeMap<Path, PayloadIndexKind>;

/// What a collection is. Vectors and shards are fixed when it is created; payload indexes come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionSpec {
    /// The vectors by name: either only the default one, or only named ones.
    pub vectors: BTreeMap<VectorName, VectorSpec>,
    /// Number of shards.
    pub shards: u32,
    /// The fields filters find without reading every point.
    #[serde(default)]
    pub indexed_fields: IndexedFields,
    /// Copies of each shard that were asked for; none: the default for the size of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

impl CollectionSpec {
    /// Checks the number of vectors and shards.
    ///
    /// # Errors
    /// `no_vectors`, `too_many_vectors`, `bad_shards`.
    pub fn new(vectors: BTreeMap<VectorName, VectorSpec>, shards: u32) -> Result<CollectionSpec> {
        if vectors.is_empty() {
            return Err(Error::invalid("no_vectors", "a table has at least one vector")
                .at("vectors")
                .expected("1 or more"));
        }
        if vectors.len() > limits::VECTORS_PER_POINT_MAX {
            return Err(Error::invalid("too_many_vectors", "the table has too many vectors")
                .at("vectors")
                .expected(format!("at most {}", limits::VECTORS_PER_POINT_MAX))
                .got(vectors.len()));
        }
        if !(1..=limits::SHARDS_PER_COLLECTION_MAX).contains(&shards) {
            return Err(Error::invalid("bad_shards", "a table cannot have this number of shards")
                .at("shards")
                .expected(format!("1 to {}", limits::SHARDS_PER_COLLECTION_MAX))
                .got(shards));
        }
        Ok(CollectionSpec { vectors, shards, indexed_fields: IndexedFields::new(), replicas: None })
    }

    /// The same with this number of copies of each shard.
    ///
    /// # Errors
    /// `bad_replicas`.
    pub fn with_replicas(self, replicas: Option<u32>) -> Result<CollectionSpec> {
        match replicas {
            Some(count) if !(1..=limits::REPLICAS_MAX).contains(&count) => {
                Err(Error::invalid("bad_replicas", "a table cannot have this number of replicas")
                    .at("replicas")
                    .expected(format!("1 to {}", limits::REPLICAS_MAX))
                    .got(count))
            }
            _ => Ok(CollectionSpec { replicas, ..self }),
        }
    }

    /// The same with these indexed fields.
    ///
    /// # Errors
    /// `too_many_indexed_fields`.
    pub fn with_indexed_fields(self, indexed_fields: IndexedFields) -> Result<CollectionSpec> {
        if indexed_fields.len() > limits::INDEXED_FIELDS_MAX {
            return Err(Error::invalid("too_many_indexed_fields", "the table has too many indexed fields")
                .at("indexed_fields")
                .expected(format!("at most {}", limits::INDEXED_FIELDS_MAX))
                .got(indexed_fields.len()));
        }
        Ok(CollectionSpec { indexed_fields, ..self })
    }

    /// A collection with one unnamed vector and one shard.
    pub fn single(vector: VectorSpec) -> CollectionSpec {
        let vectors = BTreeMap::from([(VectorName::default(), vector)]);
        CollectionSpec { vectors, shards: 1, indexed_fields: IndexedFields::new(), replicas: None }
    }

    /// The spec of the vector called `name`.
    ///
    /// # Errors
    /// `unknown_vector`, listing the names there are.
    pub fn vector(&self, name: &VectorName) -> Result<&VectorSpec> {
        self.vectors.get(name).ok_or_else(|| {
            let names: Vec<String> = self.vectors.keys().map(VectorName::to_string).collect();
            Error::invalid("unknown_vector", "the table has no vector of this name")
                .expected(names.join(", "))
                .got(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "my_vectors", "A-1.b", "Ünïcode", &"x".repeat(255)] {
            assert!(CollectionName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", ".a", "a/b", "a b", "a\0", "a?b", &"x".repeat(256)] {
            assert_eq!(CollectionName::new(bad).unwrap_err().code(), "bad_table_name", "{bad:?}");
        }
    }

    #[test]
    fn vectors_are_checked_against_the_spec() {
        let cosine = VectorSpec::new(2, Metric::Cosine, IndexType::Flat).unwrap();
        let dot = VectorSpec { metric: Metric::Dot, ..cosine };
        let v = |c: &[f32]| Vector::new(c.to_vec()).unwrap();
        assert!(cosine.check(&v(&[0.0, 1.0])).is_ok());
        assert_eq!(cosine.check(&v(&[1.0])).unwrap_err().code(), "dimension_mismatch");
        assert_eq!(cosine.check(&v(&[0.0, -0.0])).unwrap_err().code(), "zero_vector");
        assert_eq!(cosine.check(&v(&[1e-42, 0.0])).unwrap_err().code(), "zero_vector");
        assert_eq!(dot.check(&v(&[f32::MAX, f32::MAX])).unwrap_err().code(), "vector_too_long");
        assert!(dot.check(&v(&[9.2e18, 0.0])).is_ok());
        assert!(dot.check(&v(&[0.0, 0.0])).is_ok());
    }

    #[test]
    fn codes_are_checked_and_older_specs_have_the_defaults() {
        let spec = |index| VectorSpec::new(8, Metric::Dot, index).unwrap();
        let both = (Some(Compression::X32), Some(Rerank::Int8));
        for index in IndexType::ALL {
            let got = spec(index).with_codes(both.0, None);
            assert_eq!(got.is_ok(), matches!(index, IndexType::IvfPq | IndexType::Hnsw), "{index:?}");
            let got = spec(index).with_codes(None, both.1);
            assert_eq!(got.is_ok(), !matches!(index, IndexType::Flat | IndexType::IvfFlat), "{index:?}");
            assert_eq!(spec(index).with_codes(None, None).unwrap(), spec(index));
        }
        let error = spec(IndexType::IvfFlat).with_codes(None, both.1).unwrap_err();
        assert_eq!(error.code(), "bad_quantization");
        let chosen = spec(IndexType::IvfPq).with_codes(both.0, both.1).unwrap();
        let stored = serde_json::to_string(&chosen).unwrap();
        assert_eq!(serde_json::from_str::<VectorSpec>(&stored).unwrap(), chosen);
        let older = r#"{"dimension":8,"metric":"dot","index":"ivf_pq"}"#;
        assert_eq!(serde_json::from_str::<VectorSpec>(older).unwrap(), spec(IndexType::IvfPq));
        let long = limits::BINARY_DIMENSION_MAX + 1;
        assert_eq!(VectorSpec::new(long, Metric::Dot, IndexType::IvfBinary).unwrap_err().code(), "bad_dimension");
        assert!(VectorSpec::new(long, Metric::Dot, IndexType::IvfPq).is_ok());
    }

    #[test]
    fn specs_are_bounded() {
        assert_eq!(VectorSpec::new(0, Metric::Dot, IndexType::Flat).unwrap_err().code(), "bad_dimension");
        assert_eq!(CollectionSpec::new(BTreeMap::new(), 1).unwrap_err().code(), "no_vectors");
        let one = CollectionSpec::single(VectorSpec::new(1, Metric::Dot, IndexType::Flat).unwrap());
        assert_eq!(CollectionSpec::new(one.vectors.clone(), 0).unwrap_err().code(), "bad_shards");
        assert_eq!(one.vector(&VectorName::new("x").unwrap()).unwrap_err().code(), "unknown_vector");
    }
}
