//! What can be wrong with an input: [`ReadError`] is about the file and ends the import, [`RowFault`] is about one row, which
//! may go to the dead-letter file while the others are imported. Made by the readers, shown by `import` and `bench`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{io, path::Path, path::PathBuf};

/// The input as a whole cannot be read, or not from here on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The header says something no file of this format says.
    #[error("{}: not a usable {format} file: {problem}", path.display())]
    Header { path: PathBuf, format: &'static str, problem: String },
    /// The file is shorter (or longer) than its header or its first row promises.
    #[error("{}: the file should have {expected} bytes but has {got}; is it damaged or still being written?", path.display())]
    Length { path: PathBuf, expected: u64, got: u64 },
    /// A number in the file is beyond what is accepted.
    #[error("{}: {field} is {got}, at most {max} is accepted", path.display())]
    TooLarge { path: PathBuf, field: &'static str, max: u64, got: u64 },
    /// A row of a format without room for error has another dimension than the first.
    #[error("{}: row {row} has dimension {got}, the rows before it have {expected}", path.display())]
    Ragged { path: PathBuf, row: u64, expected: usize, got: i64 },
    /// Nothing could be made of the columns.
    #[error("{}: {problem}", path.display())]
    Schema { path: PathBuf, problem: String },
    /// The format is known but this build or this program does not read it.
    #[error("{}: {problem}", path.display())]
    Unsupported { path: PathBuf, problem: String },
}

impl ReadError {
    /// For `map_err` at an I/O call on `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
        let path = path.to_owned();
        move |source| ReadError::Io { path, source }
    }

    pub(super) fn header(path: &Path, format: &'static str, problem: impl Into<String>) -> ReadError {
        ReadError::Header { path: path.to_owned(), format, problem: problem.into() }
    }

    pub(super) fn schema(path: &Path, problem: impl Into<String>) -> ReadError {
        ReadError::Schema { path: path.to_owned(), problem: problem.into() }
    }
}

/// Why one row was not imported; a line of the dead-letter file is one of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowFault {
    /// Position of the row among the rows of the file, from 0.
    pub row: u64,
    /// Line of the file, from 1, for formats that have lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Machine-readable reason, the server's `code` where the server refused.
    pub code: String,
    /// The offending field or column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Box<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<Box<Value>>,
    /// The reason in words.
    pub message: String,
    /// The document as it would have been sent, or the row's text where it could not be parsed (cut when long).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<Value>>,
}

impl RowFault {
    /// A fault with a reason and nothing else.
    pub fn new(row: u64, code: &str, message: impl Into<String>) -> RowFault {
        RowFault {
            row,
            line: None,
            code: code.to_owned(),
            field: None,
            expected: None,
            got: None,
            message: message.into(),
            document: None,
        }
    }

    /// Says which column, what was expected there and what stood there.
    pub fn at(mut self, field: &str, expected: impl Into<Value>, got: impl Into<Value>) -> RowFault {
        self.field = Some(field.to_owned());
        self.expected = Some(Box::new(expected.into()));
        self.got = Some(Box::new(got.into()));
        self
    }

    /// Says on which line, and what stood there (at most [`RowFault::TEXT_BYTES_MAX`] of it).
    pub fn on_line(mut self, line: u64, text: &str) -> RowFault {
        self.line = Some(line);
        let mut end = text.len().min(Self::TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.document = Some(Box::new(Value::from(&text[..end])));
        self
    }

    /// How much of an unparsable row is kept.
    pub const TEXT_BYTES_MAX: usize = 64 << 10;
}

impl std::fmt::Display for RowFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {}", self.row)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        write!(f, ": {} [{}]", self.message, self.code)?;
        if let Some(field) = &self.field {
            write!(f, " field: {field}")?;
        }
        if let Some(expected) = &self.expected {
            write!(f, " expected: {expected}")?;
        }
        if let Some(got) = &self.got {
            write!(f, " got: {got}")?;
        }
        Ok(())
    }
}
