//! The one error type of the domain. It says what the caller should do (`kind`), which rule was broken (`code`, stable),
//! and where: field, expected, got, row, document. `api` turns it into HTTP and gRPC; nobody below `api` knows those.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
};

/// Shorthand of every fallible domain function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request is wrong; repeating it cannot help.
    Invalid,
    /// What was named is not there.
    NotFound,
    /// It clashes with what is there: it exists already, or its version is another.
    Conflict,
    /// Nothing happened; the same request may go through later.
    Unavailable,
    /// Nothing happened; slow down.
    Exhausted,
    /// It may or may not have happened.
    Indeterminate,
    /// Stored data cannot be trusted; a person must look.
    Corrupt,
    /// A bug.
    Internal,
}

impl ErrorKind {
    /// Every kind; the `api` room's table is checked against it.
    pub const ALL: [ErrorKind; 8] = [
        ErrorKind::Invalid,
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::Unavailable,
        ErrorKind::Exhausted,
        ErrorKind::Indeterminate,
        ErrorKind::Corrupt,
        ErrorKind::Internal,
    ];

    /// Whether such an error follows from the request and the data alone: the same on every replica, and nothing happened.
    pub fn is_refusal(self) -> bool {
        matches!(self, ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict)
    }
}

/// Where in a request, and how, it went wrong. All parts optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Path of the field in the request, as the caller spells it: `documents[3].vector`.
    pub field: Option<String>,
    /// What would have been right.
    pub expected: Option<String>,
    /// What was there.
    pub got: Option<String>,
    /// Zero-based row in a batch.
    pub row: Option<usize>,
    /// The document concerned, as the caller spells its id.
    pub document_id: Option<String>,
}

/// A domain error. One pointer wide, so that `Result` stays small on hot paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    code: &'static str,
    message: String,
    detail: Detail,
}

impl Error {
    /// An error of `kind` with a stable machine-readable `code` and a sentence for people.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, code, message: message.into(), detail: Detail::default() }))
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, code, message)
    }

    /// [`ErrorKind::Internal`]: a bug, said so.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, "internal", message)
    }

    /// Names the field; a field already named becomes the tail of the path (`documents[3]` + `vector`).
    pub fn at(mut self, field: impl AsRef<str>) -> Error {
        let outer = field.as_ref();
        self.0.detail.field = Some(match self.0.detail.field.take() {
            None => outer.to_owned(),
            Some(inner) if inner.starts_with('[') => format!("{outer}{inner}"),
            Some(inner) => format!("{outer}.{inner}"),
        });
        self
    }

    /// Says what would have been right.
    pub fn expected(mut self, expected: impl fmt::Display) -> Error {
        self.0.detail.expected = Some(expected.to_string());
        self
    }

    /// Says what was there.
    pub fn got(mut self, got: impl fmt::Display) -> Error {
        self.0.detail.got = Some(got.to_string());
        self
    }

    /// Names the zero-based row of a batch.
    pub fn row(mut self, row: usize) -> Error {
        self.0.detail.row = Some(row);
        self
    }

    /// Names the document, as the caller spells its id.
    pub fn document(mut self, id: impl fmt::Display) -> Error {
        self.0.detail.document_id = Some(id.to_string());
        self
    }

    /// The same error with another kind and sentence; code and detail stay.
    pub fn as_kind(mut self, kind: ErrorKind, message: impl Into<String>) -> Error {
        self.0.kind = kind;
        self.0.message = message.into();
        self
    }

    /// An error that was taken apart on another node, or before a restart. A code that could not have been one of ours, or one
    /// too many of those this program does not know, becomes `unknown_code`.
    pub fn restore(kind: ErrorKind, code: &str, message: impl Into<String>, detail: Detail) -> Error {
        Error(Box::new(Inner { kind, code: known_code(code), message: message.into(), detail }))
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable name of the rule that was broken.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// One sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where and how.
    pub fn detail(&self) -> &Detail {
        &self.0.detail
    }
}

/// Longest code that is taken from outside, in bytes.
const CODE_BYTES_MAX: usize = 64;
/// Most codes taken from outside.
const CODES_MAX: usize = 1_024;

/// A code that came as text, as one that lives as long as the program: kept once, however often it comes.
fn known_code(code: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let is_code = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    // Inserting is the only change, so a panic elsewhere leaves the set whole.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = known.get(code) {
        return code;
    }
    if code.is_empty() || code.len() > CODE_BYTES_MAX || !code.bytes().all(is_code) || known.len() == CODES_MAX {
        return "unknown_code";
    }
    let code: &'static str = Box::leak(code.into());
    known.insert(code);
    code
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let d = &self.0.detail;
        let parts = [
            ("field", d.field.clone()),
            ("expected", d.expected.clone()),
            ("got", d.got.clone()),
            ("row", d.row.map(|row| row.to_string())),
            ("document", d.document_id.clone()),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, "; {name}: {value}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_errors_are_equal_and_bounded() {
        let error = Error::invalid("version_mismatch", "wrong").at("if_version").got(1);
        let again = || Error::restore(error.kind(), error.code(), error.message(), error.detail().clone());
        assert_eq!(again(), error);
        assert!(std::ptr::eq(again().code(), again().code()), "kept once");
        for bad in ["", "Not A Code", &"x".repeat(65)] {
            assert_eq!(Error::restore(ErrorKind::Invalid, bad, "", Detail::default()).code(), "unknown_code");
        }
    }

    #[test]
    fn fields_nest_from_the_inside_out() {
        let error = Error::invalid("x", "wrong").at("[2]").at("vector").at("documents[3]").row(3).got(1);
        assert_eq!(error.detail().field.as_deref(), Some("documents[3].vector[2]"));
        assert_eq!(error.to_string(), "wrong; field: documents[3].vector[2]; got: 1; row: 3");
    }
}
