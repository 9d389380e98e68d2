//! JSON bodies: fast when they are right, exact when they are wrong.
//!
//! A body is first read straight into its dto. Only if that fails is it read again, with a record of the path, to say
//! which rule was broken and where. serde reports rules as text; [`classify`] is the one place that knows those texts,
//! and its tests pin them. Called by `body`.

use super::dto::Object;
use crate::{api::errors::did_you_mean, types::Error};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

/// Longest piece of a request that is given back in an error.
const SHOWN_CHARS_MAX: usize = 80;

/// Reads a whole body. Cost: one pass if it is right.
///
/// # Errors
/// `empty_body`, `invalid_utf8`, `invalid_json`, `json_too_deep`, `number_out_of_range`, `unknown_field`, `missing_field`,
/// `duplicate_field`, `wrong_type`, `unknown_value`, `too_many`, `invalid_value`; with the field, and the row of a batch.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map(|Object(value)| value).map_err(|first| diagnose::<T>(body, &first))
}

#[cold]
fn diagnose<T: DeserializeOwned>(body: &[u8], first: &serde_json::Error) -> Error {
    if body.trim_ascii().is_empty() {
        return Error::invalid("empty_body", "this call needs a body").expected("a JSON object").got("nothing");
    }
    if let Err(error) = std::str::from_utf8(body) {
        return Error::invalid("invalid_utf8", "JSON is text in UTF-8")
            .expected("UTF-8")
            .got(format!("an invalid sequence at byte {}", error.valid_up_to()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) {
        Err(error) => located(classify(error.inner()), error.path()),
        Ok(_) => classify(&deserializer.end().err().unwrap_or_else(|| clone_of(first))),
    }
}

/// An error of the same text; serde_json's cannot be cloned.
fn clone_of(error: &serde_json::Error) -> serde_json::Error {
    serde::de::Error::custom(error)
}

/// A rule broken, and the name of the field if the text has it.
struct Broken {
    error: Error,
    field: Option<String>,
}

fn classify(error: &serde_json::Error) -> Error {
    let broken = broken(error);
    match broken.field {
        Some(field) => broken.error.at(field),
        None => broken.error,
    }
}

fn located(error: Error, path: &Path) -> Error {
    let mut parent = path_text(path);
    // For an unknown or duplicate field the recorded path may already end with the field's own name.
    if let Some(field) = error.detail().field.clone()
        && let Some(Segment::Map { key }) = path.iter().next_back()
        && shown(key) == field
    {
        parent.truncate(parent.len() - field.len());
        parent.truncate(parent.trim_end_matches('.').len());
    }
    let error = if parent.is_empty() { error } else { error.at(parent) };
    match row_of(path) {
        Some(row) => error.row(row),
        None => error,
    }
}

fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&shown(key));
            }
            // The body broke off before the key was known.
            Segment::Unknown => {}
        }
    }
    text
}

/// `documents[3]…` and `searches[3]…` are row 3.
fn row_of(path: &Path) -> Option<usize> {
    let mut segments = path.iter();
    match (segments.next(), segments.next()) {
        (Some(Segment::Map { key }), Some(Segment::Seq { index })) if key == "documents" || key == "searches" => {
            Some(*index)
        }
        _ => None,
    }
}

fn broken(error: &serde_json::Error) -> Broken {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    match error.classify() {
        Category::Data => broken_rule(text),
        _ => Broken { error: broken_syntax(text, error.line(), error.column()), field: None },
    }
}

fn broken_syntax(text: &str, line: usize, column: usize) -> Error {
    let place = format!("line {line}, column {column}");
    match text {
        "recursion limit exceeded" => Error::invalid("json_too_deep", "the body is nested too deeply")
            .expected("at most 127 levels")
            .got(format!("more, at {place}")),
        "number out of range" => Error::invalid("number_out_of_range", format!("a number is out of range at {place}"))
            .expected("a finite number"),
        _ => Error::invalid("invalid_json", format!("the body is not JSON: {text} at {place}"))
            .expected("one JSON object")
            .got(place),
    }
}

fn broken_rule(text: &str) -> Broken {
    if let Some(rest) = text.strip_prefix("unknown field `") {
        return unknown_field(rest);
    }
    if let Some(rest) = text.strip_prefix("missing field `") {
        let field = rest.trim_end_matches('`');
        let error = Error::invalid("missing_field", format!("`{field}` is missing")).expected(field).got("nothing");
        return Broken { error, field: Some(field.to_owned()) };
    }
    if let Some(rest) = text.strip_prefix("duplicate field `") {
        let field = rest.trim_end_matches('`');
        let error = Error::invalid("duplicate_field", "a field is given twice").expected("once").got("twice");
        return Broken { error, field: Some(shown(field)) };
    }
    let error = if let Some(rest) = text.strip_prefix("unknown variant `") {
        unknown_variant(rest)
    } else if let Some(rest) = text.strip_prefix("invalid type: ") {
        got_and_expected("wrong_type", "the value has the wrong type", rest)
    } else if let Some(rest) = text.strip_prefix("invalid length ") {
        got_and_expected("too_many", "the list is too long", rest)
    } else if let Some(rest) = text.strip_prefix("invalid value: ") {
        got_and_expected("invalid_value", "the value cannot be used here", rest)
    } else {
        Error::invalid("invalid_value", shown(text))
    };
    Broken { error, field: None }
}

/// `name`, expected one of `a`, `b` — the name is the caller's and may itself hold backticks; the list is ours.
fn split_names(rest: &str) -> (String, Vec<&str>) {
    let (got, list) = rest.rsplit_once("`, ").unwrap_or((rest, ""));
    // "`, " also stands between the names of the list: go back to the first of ours.
    let (got, list) = match rest.rfind("`, expected ") {
        Some(at) => (&rest[..at], &rest[at + 3..]),
        None => (got, list),
    };
    (shown(got), list.split('`').skip(1).step_by(2).collect())
}

fn unknown_field(rest: &str) -> Broken {
    let (got, names) = split_names(rest);
    let message = match did_you_mean(&got, names.iter().copied()) {
        Some(name) => format!("there is no field `{got}`; did you mean `{name}`?"),
        None => format!("there is no field `{got}`"),
    };
    let error = Error::invalid("unknown_field", message).expected(names.join(", ")).got(&got);
    Broken { error, field: Some(got) }
}

fn unknown_variant(rest: &str) -> Error {
    let (got, names) = split_names(rest);
    let message = match did_you_mean(&got, names.iter().copied()) {
        Some(name) => format!("there is no such value; did you mean `{name}`?"),
        None => "there is no such value".to_owned(),
    };
    Error::invalid("unknown_value", message).expected(names.join(", ")).got(got)
}

fn got_and_expected(code: &'static str, message: &str, rest: &str) -> Error {
    match rest.rsplit_once(", expected ") {
        Some((got, expected)) => Error::invalid(code, message).expected(in_words(expected)).got(shown(in_words(got))),
        None => Error::invalid(code, message).got(shown(rest)),
    }
}

/// serde speaks of Rust's types; a caller has JSON's.
fn in_words(text: &str) -> &str {
    match text {
        "map" => "an object",
        "sequence" => "an array",
        "f32" | "f64" => "a number",
        "u32" | "u64" | "usize" => "a whole number of 0 or more",
        _ if text.starts_with("struct ") => "an object",
        _ => text,
    }
}

fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let mut out: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::rest::dto::*, types::limits};

    /// code, field, row.
    fn refused<T: DeserializeOwned>(body: &[u8]) -> (&'static str, String, Option<usize>) {
        let Err(error) = read::<T>(body) else { panic!("read: {}", String::from_utf8_lossy(body)) };
        let detail = error.detail();
        (error.code(), detail.field.clone().unwrap_or_default(), detail.row)
    }

    #[test]
    fn every_rule_has_its_code_and_place() {
        let write = |body: &str| refused::<WriteRequest>(body.as_bytes());
        let case = |code, field: &str| (code, field.to_owned(), None);
        let row = |code, field: &str, row| (code, field.to_owned(), Some(row));
        assert_eq!(write(""), case("empty_body", ""));
        assert_eq!(write(" \n"), case("empty_body", ""));
        assert_eq!(write("{"), case("invalid_json", ""));
        assert_eq!(write("{} x"), case("invalid_json", ""));
        assert_eq!(write("[1]"), case("wrong_type", ""));
        assert_eq!(write("5"), case("wrong_type", ""));
        assert_eq!(write(r#"{"vektor":[1]}"#), case("unknown_field", "vektor"));
        assert_eq!(write(r#"{"vector":[1],"vector":[1]}"#), case("duplicate_field", "vector"));
        assert_eq!(write(r#"{"vector":[1,"a"]}"#), case("wrong_type", "vector[1]"));
        assert_eq!(write(r#"{"vector":[1,null]}"#), case("wrong_type", "vector[1]"));
        assert_eq!(write(r#"{"vector":[NaN]}"#), case("invalid_json", "vector[0]"));
        assert_eq!(write(r#"{"vector":[1e999]}"#), case("number_out_of_range", "vector[0]"));
        assert_eq!(write(r#"{"vector":"x"}"#), case("wrong_type", "vector"));
        assert_eq!(write(r#"{"metadata":[]}"#), case("wrong_type", "metadata"));
        assert_eq!(write(r#"{"metadata":{"a":1,"a":2}}"#), case("duplicate_field", "metadata.a"));
        assert_eq!(write(r#"{"metadata":{"x":[{"a":1,"a":2}]}}"#), case("duplicate_field", "metadata.x[0].a"));
        assert_eq!(write(r#"{"vectors":{"a":[1],"a":[1]}}"#), case("duplicate_field", "vectors.a"));
        assert_eq!(write(r#"{"document_id":-1}"#), case("invalid_value", "document_id"));
        assert_eq!(write(r#"{"document_id":1.5}"#), case("wrong_type", "document_id"));
        assert_eq!(write(r#"{"document_id":{}}"#), case("wrong_type", "document_id"));
        assert_eq!(write(r#"{"if_version":-1}"#), case("invalid_value", "if_version"));
        assert_eq!(
            write(r#"{"documents":[{},{"vector":[1,2,true]}]}"#),
            row("wrong_type", "documents[1].vector[2]", 1)
        );
        assert_eq!(write(r#"{"documents":[{"id":1}]}"#), row("unknown_field", "documents[0].id", 0));
        assert_eq!(write(r#"{"documents":[["x",[1]]]}"#), row("wrong_type", "documents[0]", 0));
        assert_eq!(write(r#"{"documents":[{"vector":[1]},5]}"#), row("wrong_type", "documents[1]", 1));
        let deep = format!(r#"{{"metadata":{}}}"#, "{\"a\":".repeat(500));
        assert_eq!(write(&deep).0, "json_too_deep");
        assert_eq!(refused::<SearchRequest>(br#"{"top_k":"x"}"#), case("wrong_type", "top_k"));
        assert_eq!(refused::<SearchRequest>(br#"{"consistency":"strong"}"#), case("unknown_value", "consistency"));
        assert_eq!(refused::<CreateTable>(br#"{"dimension":3}"#), case("missing_field", "table_name"));
        assert_eq!(refused::<WriteRequest>(b"{\"document_id\":\"\xff\"}").0, "invalid_utf8");
        assert_eq!(refused::<WriteRequest>(b"\xff").0, "invalid_utf8");
    }

    #[test]
    fn a_caller_cannot_confuse_the_reading_of_names() {
        let body = br#"{"a`, expected `b":1}"#;
        let error = read::<CreateTable>(body).unwrap_err();
        assert_eq!((error.code(), error.detail().got.as_deref()), ("unknown_field", Some("a`, expected `b")));
        assert!(error.detail().expected.as_deref().unwrap().starts_with("table_name, "));
        let long = format!(r#"{{"{}":1}}"#, "y".repeat(1_000_000));
        assert!(read::<CreateTable>(long.as_bytes()).unwrap_err().to_string().len() < 2_000);
    }

    #[test]
    fn slips_get_a_suggestion() {
        let error = read::<SearchRequest>(br#"{"topk":1}"#).unwrap_err();
        assert!(error.message().contains("did you mean `top_k`"), "{error}");
        let error = read::<CreateTable>(br#"{"table_name":"t","metric":"cosin"}"#).unwrap_err();
        assert!(error.message().contains("did you mean `cosine`"), "{error}");
    }

    #[test]
    fn lists_are_bounded_while_they_are_read() {
        let many = format!(r#"{{"documents":[{}{{}}]}}"#, "{},".repeat(limits::BATCH_POINTS_MAX));
        assert_eq!(refused::<WriteRequest>(many.as_bytes()).0, "too_many");
        let wide = format!(r#"{{"vector":[{}0]}}"#, "0,".repeat(limits::DIMENSION_MAX));
        assert_eq!(refused::<WriteRequest>(wide.as_bytes()).0, "too_many");
    }

    #[test]
    fn components_are_the_nearest_f32_and_never_infinite() {
        let body: WriteRequest = read(br#"{"vector":[1e-60, 3, -0.1, 16777217, 3.4028235e38]}"#).unwrap();
        assert_eq!(body.vector.unwrap().0, [0.0, 3.0, -0.1, 16_777_216.0, f32::MAX]);
        let place = ("number_out_of_range", "vector[1]".to_owned(), None);
        assert_eq!(refused::<WriteRequest>(br#"{"vector":[0,1e39]}"#), place);
    }
}
