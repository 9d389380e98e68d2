//! A row on its way from a file to a document, and the [`RowReader`] every format implements. Made by the readers, consumed
//! by the batcher of `import`.

use super::fault::{ReadError, RowFault};
use serde_json::{Map, Value};

/// The largest dimension a file may declare: what a vector may have at all.
pub use crate::types::limits::DIMENSION_MAX;

/// The most bytes one row of a text format may have.
pub const ROW_BYTES_MAX: usize = 16 << 20;

/// How a document is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowId {
    Number(u64),
    Text(String),
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowId::Number(number) => number.fmt(f),
            RowId::Text(text) => text.fmt(f),
        }
    }
}

/// One document to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: RowId,
    pub vector: Vec<f32>,
    /// Empty if the row has none.
    pub metadata: Map<String, Value>,
}

impl Record {
    /// The document as the API takes it.
    pub fn to_document(&self) -> Value {
        let mut document = Map::new();
        document.insert("document_id".into(), self.id.to_string().into());
        document.insert("vector".into(), self.vector.iter().map(|x| float(*x)).collect());
        if !self.metadata.is_empty() {
            document.insert("metadata".into(), Value::Object(self.metadata.clone()));
        }
        Value::Object(document)
    }
}

/// A float as JSON; what JSON cannot say (NaN, infinities) as text, for dead letters and previews.
fn float(x: f32) -> Value {
    // Through the shortest decimal form of the f32, so that 0.1f32 prints as 0.1.
    match x.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(x.to_string()),
    }
}

/// A row of the file: its position (from 0, counting faulty rows) and what was found there.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub number: u64,
    pub content: Result<Record, RowFault>,
}

/// A streaming reader: memory is bounded by one row, whatever the file's size. Blocking; call it where blocking is fine.
pub trait RowReader: Send {
    /// The next row; `None` at the end of the file. After an error no more rows can be read.
    fn next_row(&mut self) -> Result<Option<Row>, ReadError>;

    /// Passes over up to `count` rows as cheaply as the format allows; fewer only at the end of the file.
    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError>;

    /// Bytes of the file consumed so far: the measure of progress.
    fn position_bytes(&self) -> u64;
}
