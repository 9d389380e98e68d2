//! Tables in and out. A table is a collection of `types`; its unnamed vector's settings stand at the top of the body.

use super::{Bounded, FieldIndexAnswer, IndexedFieldBody, Object, indexed_fields, scalar::NamedVisitor};
use crate::{
    service::{CollectionInfo, CollectionStats, VectorIndexInfo},
    types::{
        CollectionName, CollectionSpec, Compression, Error, IndexType, Metric, Rerank, VectorName, VectorSpec,
        limits::INDEXED_FIELDS_MAX,
    },
};
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::BTreeMap, marker::PhantomData};
use utoipa::ToSchema;

/// How nearness is measured.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricWord {
    Cosine,
    Euclidean,
    Dot,
    Manhattan,
}

impl From<MetricWord> for Metric {
    fn from(word: MetricWord) -> Metric {
        match word {
            MetricWord::Cosine => Metric::Cosine,
            MetricWord::Euclidean => Metric::Euclidean,
            MetricWord::Dot => Metric::Dot,
            MetricWord::Manhattan => Metric::Manhattan,
        }
    }
}

/// How vectors are searched.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IndexWord {
    /// Posting lists of 4-bit codes, reranked.
    IvfPq,
    /// Posting lists of one sign a dimension, reranked.
    IvfBinary,
    /// Posting lists of int8 vectors, reranked.
    IvfScalar,
    /// Posting lists of full vectors.
    IvfFlat,
    /// Exact, by scanning everything.
    Flat,
    /// Accepted; served by `ivf_pq`, and the table says so.
    Hnsw,
}

impl From<IndexWord> for IndexType {
    fn from(word: IndexWord) -> IndexType {
        match word {
            IndexWord::IvfPq => IndexType::IvfPq,
            IndexWord::IvfBinary => IndexType::IvfBinary,
            IndexWord::IvfScalar => IndexType::IvfScalar,
            IndexWord::IvfFlat => IndexType::IvfFlat,
            IndexWord::Flat => IndexType::Flat,
            IndexWord::Hnsw => IndexType::Hnsw,
        }
    }
}

const METRIC_DEFAULT: Metric = Metric::Cosine;

/// What the vectors of one name are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VectorBody {
    /// Number of components.
    pub dimension: usize,
    /// `cosine` if absent.
    pub metric: Option<MetricWord>,
    /// That of `quantization` if absent, else `ivf_pq`.
    pub index_type: Option<IndexWord>,
    /// How vectors are encoded; the default of the index type if absent.
    #[schema(value_type = Option<QuantizationBody>)]
    pub quantization: Option<Object<QuantizationBody>>,
}

impl VectorBody {
    fn spec(&self) -> Result<VectorSpec, Error> {
        let metric = self.metric.map_or(METRIC_DEFAULT, Metric::from);
        let asked = self.index_type.map(IndexType::from);
        let Some(Object(quantization)) = &self.quantization else {
            return VectorSpec::new(self.dimension, metric, asked.unwrap_or_default());
        };
        let spec = VectorSpec::new(self.dimension, metric, quantization.index_type(asked)?)?;
        spec.with_codes(quantization.compression.map(Compression::from), quantization.rerank.map(Rerank::from))
    }
}

/// How vectors are encoded.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuantizationWord {
    /// 4-bit product codes: 16, 32 or 64 times smaller than the vectors.
    Product,
    /// One sign a dimension: 32 times smaller, nothing to train.
    Binary,
    /// One byte a dimension.
    Scalar,
    /// Full vectors.
    None,
}

/// How much smaller than the vectors product codes are.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompressionWord {
    X16,
    X32,
    X64,
}

impl From<CompressionWord> for Compression {
    fn from(word: CompressionWord) -> Compression {
        match word {
            CompressionWord::X16 => Compression::X16,
            CompressionWord::X32 => Compression::X32,
            CompressionWord::X64 => Compression::X64,
        }
    }
}

/// The last pass over a search's candidates.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RerankWord {
    /// From the stored vectors: exact scores.
    F32,
    /// From their int8 forms: fewer reads, scores to about three digits.
    Int8,
}

impl From<RerankWord> for Rerank {
    fn from(word: RerankWord) -> Rerank {
        match word {
            RerankWord::F32 => Rerank::F32,
            RerankWord::Int8 => Rerank::Int8,
        }
    }
}

/// How the vectors of a trained index are encoded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"type": "binary", "rerank": "f32"}))]
pub struct QuantizationBody {
    #[serde(rename = "type")]
    pub kind: QuantizationWord,
    /// Of `product`; `x16` if absent.
    pub compression: Option<CompressionWord>,
    /// `f32` if absent.
    pub rerank: Option<RerankWord>,
}

impl QuantizationBody {
    /// The index type with these codes: the one asked for, if that has them.
    fn index_type(&self, asked: Option<IndexType>) -> Result<IndexType, Error> {
        let (word, index) = match self.kind {
            QuantizationWord::Product => ("product", IndexType::IvfPq),
            QuantizationWord::Binary => ("binary", IndexType::IvfBinary),
            QuantizationWord::Scalar => ("scalar", IndexType::IvfScalar),
            QuantizationWord::None => ("none", IndexType::IvfFlat),
        };
        match asked {
            Some(asked) if asked.quantization() != word => {
                Err(Error::invalid("bad_quantization", "the index type has other codes")
                    .at("quantization.type")
                    .expected(format!("{} with index_type {}", asked.quantization(), asked.name()))
                    .got(word))
            }
            asked => Ok(asked.unwrap_or(index)),
        }
    }
}

/// Vectors by name.
#[derive(Debug, ToSchema)]
#[schema(value_type = BTreeMap<String, VectorBody>, example = json!({"title": {"dimension": 3, "metric": "dot"}}))]
pub struct NamedVectors(Vec<(String, Object<VectorBody>)>);

impl<'de> Deserialize<'de> for NamedVectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NamedVectors, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData)).map(NamedVectors)
    }
}

/// A table to create: with `dimension`, or with `vectors` by name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"table_name": "my_vectors", "dimension": 128, "index_type": "flat"}))]
pub struct CreateTable {
    /// Letters, digits, `_`, `-`, `.`; not starting with a dot.
    pub table_name: String,
    /// Number of components of the only vector.
    pub dimension: Option<usize>,
    /// `cosine` if absent.
    pub metric: Option<MetricWord>,
    /// That of `quantization` if absent, else `ivf_pq`.
    pub index_type: Option<IndexWord>,
    /// How vectors are encoded; the default of the index type if absent.
    #[schema(value_type = Option<QuantizationBody>)]
    pub quantization: Option<Object<QuantizationBody>>,
    /// Vectors by name, instead of `dimension`, `metric`, `index_type` and `quantization`.
    pub vectors: Option<NamedVectors>,
    /// 1 if absent.
    pub shards: Option<u32>,
    /// Copies of each shard, each on a node of its own. If absent: 3, or as many as there are nodes if those are fewer.
    pub replicas: Option<u32>,
    /// Fields of the metadata to index for filters; more may be added later.
    #[schema(value_type = Option<Vec<IndexedFieldBody>>)]
    pub indexed_fields: Option<Bounded<Object<IndexedFieldBody>, INDEXED_FIELDS_MAX>>,
}

impl CreateTable {
    /// The collection to create.
    ///
    /// # Errors
    /// `bad_table_name`, `missing_field`, `ambiguous_body`, `bad_replicas`; those of the specs.
    pub fn into_spec(self) -> Result<(CollectionName, CollectionSpec), Error> {
        let name = CollectionName::new(self.table_name).map_err(|error| error.at("table_name"))?;
        let vectors = match (self.dimension, self.vectors) {
            (Some(dimension), None) => {
                let (metric, index_type, quantization) = (self.metric, self.index_type, self.quantization);
                let only = VectorBody { dimension, metric, index_type, quantization };
                BTreeMap::from([(VectorName::default(), only.spec()?)])
            }
            (None, Some(named))
                if self.metric.is_none() && self.index_type.is_none() && self.quantization.is_none() =>
            {
                specs_by_name(named)?
            }
            (None, None) => {
                return Err(Error::invalid("missing_field", "`dimension` is missing")
                    .at("dimension")
                    .expected("dimension, or vectors by name")
                    .got("neither"));
            }
            _ => {
                return Err(Error::invalid("ambiguous_body", "a table has one vector or vectors by name")
                    .at("vectors")
                    .expected("dimension, metric, index_type and quantization inside each of vectors")
                    .got("vectors and settings of one vector"));
            }
        };
        let fields = self.indexed_fields.map_or_else(Vec::new, |Bounded(fields)| fields);
        let fields = indexed_fields(fields.into_iter().map(|Object(field)| field))?;
        let spec = CollectionSpec::new(vectors, self.shards.unwrap_or(1))?.with_replicas(self.replicas)?;
        Ok((name, spec.with_indexed_fields(fields)?))
    }
}

fn specs_by_name(named: NamedVectors) -> Result<BTreeMap<VectorName, VectorSpec>, Error> {
    let spec = |(name, Object(body)): (String, Object<VectorBody>)| {
        let place = format!("vectors.{name}");
        if name.is_empty() {
            return Err(Error::invalid("bad_vector_name", "a named vector has a name").at("vectors").got("\"\""));
        }
        let name = VectorName::new(name).map_err(|error| error.at("vectors"))?;
        Ok((name, body.spec().map_err(|error| error.at(place))?))
    };
    named.0.into_iter().map(spec).collect()
}

/// How the vectors of a trained index are encoded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"type": "product", "compression": "x16", "rerank": "f32"}))]
pub struct QuantizationAnswer {
    /// `product`, `binary`, `scalar` or `none`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Of `product`: how much smaller than the vectors its codes are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<&'static str>,
    /// The last pass over a search's candidates, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<&'static str>,
}

impl From<&VectorSpec> for QuantizationAnswer {
    fn from(spec: &VectorSpec) -> QuantizationAnswer {
        QuantizationAnswer {
            kind: spec.index.quantization(),
            compression: spec.index.has_compression().then(|| spec.codes.compression.name()),
            rerank: spec.index.has_rerank().then(|| spec.codes.rerank.name()),
        }
    }
}

/// What one vector of a table is.
#[derive(Debug, Serialize, ToSchema)]
pub struct VectorAnswer {
    pub dimension: usize,
    pub metric: &'static str,
    /// The type that was asked for.
    pub index_type: &'static str,
    pub quantization: QuantizationAnswer,
}

impl From<&VectorSpec> for VectorAnswer {
    fn from(spec: &VectorSpec) -> VectorAnswer {
        VectorAnswer {
            dimension: spec.dimension,
            metric: spec.metric.name(),
            index_type: spec.index.name(),
            quantization: spec.into(),
        }
    }
}

/// The index of one vector.
#[derive(Debug, Serialize, ToSchema)]
pub struct VectorIndexAnswer {
    /// Name of the vector; empty for the only one.
    pub vector: String,
    /// The type that was asked for.
    pub index_type: &'static str,
    pub quantization: QuantizationAnswer,
    /// The type that answers now: `flat` until trained.
    pub served_by: &'static str,
    /// `exact`, `training` or `ready`.
    pub state: &'static str,
    /// Documents in the index.
    pub rows: u64,
    /// Of these, not yet filed in a sealed list.
    pub tail_rows: u64,
    /// Deleted or replaced, not yet cleaned up.
    pub dead_rows: u64,
    pub lists: u64,
    pub memory_bytes: u64,
}

impl From<&VectorIndexInfo> for VectorIndexAnswer {
    fn from(info: &VectorIndexInfo) -> VectorIndexAnswer {
        VectorIndexAnswer {
            vector: info.vector.as_str().to_owned(),
            index_type: info.spec.index.name(),
            quantization: (&info.spec).into(),
            served_by: info.served_by.name(),
            state: info.state,
            rows: info.rows,
            tail_rows: info.tail_rows,
            dead_rows: info.dead_rows,
            lists: info.lists,
            memory_bytes: info.memory_bytes,
        }
    }
}

/// The indexes of a table.
#[derive(Debug, Serialize, ToSchema)]
pub struct IndexAnswer {
    /// `training` if any vector's index is; else `ready` if any is; else `exact`.
    pub state: &'static str,
    /// By vector.
    pub vectors: Vec<VectorIndexAnswer>,
}

impl IndexAnswer {
    fn new(indexes: &[VectorIndexInfo]) -> IndexAnswer {
        let any = |state: &str| indexes.iter().any(|index| index.state == state);
        let state = ["training", "ready"].into_iter().find(|state| any(state)).unwrap_or("exact");
        IndexAnswer { state, vectors: indexes.iter().map(VectorIndexAnswer::from).collect() }
    }
}

/// A table.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableAnswer {
    pub table_name: String,
    /// Of the only vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
    /// Of the only vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<&'static str>,
    /// Of the only vector: the type that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_type: Option<&'static str>,
    /// Of the only vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationAnswer>,
    /// The vectors, if they have names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectors: Option<BTreeMap<String, VectorAnswer>>,
    /// As many as there are now.
    pub shards: u32,
    /// Copies of each shard.
    pub replicas: u32,
    pub documents_count: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    pub index: IndexAnswer,
    /// The fields of the metadata that filters find by index.
    pub indexed_fields: Vec<FieldIndexAnswer>,
    /// What the table does not do as asked.
    pub notices: Vec<String>,
}

impl From<&CollectionInfo> for TableAnswer {
    fn from(info: &CollectionInfo) -> TableAnswer {
        let only = info.spec.vectors.get(&VectorName::default());
        let named = only.is_none().then(|| {
            info.spec.vectors.iter().map(|(name, spec)| (name.as_str().to_owned(), VectorAnswer::from(spec))).collect()
        });
        TableAnswer {
            table_name: info.name.to_string(),
            dimension: only.map(|spec| spec.dimension),
            metric: only.map(|spec| spec.metric.name()),
            index_type: only.map(|spec| spec.index.name()),
            quantization: only.map(QuantizationAnswer::from),
            vectors: named,
            shards: info.shards,
            replicas: info.replicas,
            documents_count: info.points,
            created_ms: info.created_ms,
            index: IndexAnswer::new(&info.indexes),
            indexed_fields: info.payload_indexes.iter().map(FieldIndexAnswer::from).collect(),
            notices: info.notices.clone(),
        }
    }
}

/// All tables, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct TablesAnswer {
    pub tables: Vec<TableAnswer>,
}

/// A table that is gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"table_name": "my_vectors", "deleted": true}))]
pub struct TableDeleted {
    pub table_name: String,
    pub deleted: bool,
}

/// One shard of a table.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardAnswer {
    pub id: u64,
    /// First slot, and the one after the last.
    #[schema(value_type = Vec<u16>)]
    pub slots: (u16, u16),
    pub documents_count: u64,
    pub applied_index: u64,
    /// `leader` or `follower`: what the replica of the node that answers is.
    pub role: &'static str,
    /// The node that leads the shard, as far as the one that answers knows.
    pub leader: Option<String>,
    /// The nodes that hold a replica.
    pub replicas: Vec<String>,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Counts, index, memory and disk of a table.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsAnswer {
    pub table_name: String,
    pub documents_count: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub index: IndexAnswer,
    /// The fields of the metadata that filters find by index.
    pub indexed_fields: Vec<FieldIndexAnswer>,
    pub shards: Vec<ShardAnswer>,
}

impl From<&CollectionStats> for StatsAnswer {
    fn from(stats: &CollectionStats) -> StatsAnswer {
        let shards = stats.shards.iter().map(|shard| ShardAnswer {
            id: shard.id,
            slots: shard.slots,
            documents_count: shard.points,
            applied_index: shard.applied_index,
            role: shard.role,
            leader: shard.leader.clone(),
            replicas: shard.replicas.clone(),
            memory_bytes: shard.memory_bytes,
            disk_bytes: shard.disk_bytes,
        });
        StatsAnswer {
            table_name: stats.info.name.to_string(),
            documents_count: stats.info.points,
            memory_bytes: stats.memory_bytes,
            disk_bytes: stats.disk_bytes,
            index: IndexAnswer::new(&stats.info.indexes),
            indexed_fields: stats.info.payload_indexes.iter().map(FieldIndexAnswer::from).collect(),
            shards: shards.collect(),
        }
    }
}
