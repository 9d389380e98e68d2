//! Indexed fields of a table's metadata, in and out.

use crate::{
    service::PayloadIndexInfo,
    types::{Error, IndexedFields, PayloadIndexKind, path::Path},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How strings are indexed. Numbers, booleans, nulls and absence are in every index.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FieldIndexWord {
    /// Whole, for `value`, `any` and `except`.
    #[default]
    Value,
    /// By their words, for `text`.
    Text,
}

impl From<FieldIndexWord> for PayloadIndexKind {
    fn from(word: FieldIndexWord) -> PayloadIndexKind {
        match word {
            FieldIndexWord::Value => PayloadIndexKind::Value,
            FieldIndexWord::Text => PayloadIndexKind::Text,
        }
    }
}

/// How to index a field.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"type": "value"}))]
pub struct FieldIndexBody {
    /// `value` if absent.
    #[serde(rename = "type")]
    pub index_type: Option<FieldIndexWord>,
}

impl FieldIndexBody {
    /// The kind asked for.
    pub fn kind(&self) -> PayloadIndexKind {
        self.index_type.unwrap_or_default().into()
    }
}

/// A field to index from the start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"field": "year"}))]
pub struct IndexedFieldBody {
    /// Path into the metadata, as filters name it.
    pub field: String,
    /// `value` if absent.
    #[serde(rename = "type")]
    pub index_type: Option<FieldIndexWord>,
}

/// The fields of a table to create.
///
/// # Errors
/// `bad_path`, `duplicate_field`.
pub fn indexed_fields(bodies: impl IntoIterator<Item = IndexedFieldBody>) -> Result<IndexedFields, Error> {
    let mut fields = IndexedFields::new();
    for (i, body) in bodies.into_iter().enumerate() {
        let place = || format!("indexed_fields[{i}]");
        let field = Path::parse(&body.field).map_err(|error| error.at("field").at(place()))?;
        if fields.insert(field, body.index_type.unwrap_or_default().into()).is_some() {
            return Err(Error::invalid("duplicate_field", "a field is indexed once").at("field").at(place()));
        }
    }
    Ok(fields)
}

/// The index of one field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"field": "year", "type": "value", "state": "ready", "documents_count": 1000, "distinct": 40, "memory_bytes": 12000}))]
pub struct FieldIndexAnswer {
    /// Path into the metadata.
    pub field: String,
    /// `value` or `text`.
    #[serde(rename = "type")]
    pub index_type: &'static str,
    /// `building` or `ready`.
    pub state: &'static str,
    /// Documents looked at so far.
    pub documents_count: u64,
    /// Different strings (or words) and numbers.
    pub distinct: u64,
    pub memory_bytes: u64,
}

impl From<&PayloadIndexInfo> for FieldIndexAnswer {
    fn from(info: &PayloadIndexInfo) -> FieldIndexAnswer {
        FieldIndexAnswer {
            field: info.field.to_string(),
            index_type: info.kind.name(),
            state: info.state,
            documents_count: info.points,
            distinct: info.distinct,
            memory_bytes: info.memory_bytes,
        }
    }
}

/// The indexed fields of a table, by path.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldIndexesAnswer {
    pub indexes: Vec<FieldIndexAnswer>,
}

/// An index that is gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"field": "year", "deleted": true}))]
pub struct FieldIndexDeleted {
    pub field: String,
    pub deleted: bool,
}
