//! Errors as the REST face gives them: RFC 9457 problem details.
//!
//! A handler returns [`ApiError`]; it becomes a response that carries the error beside it, and `observe` writes the body
//! when it knows the request's id. So every error of the face has one shape, made in one place. Called by every file of
//! `rest`.

use crate::{
    api::errors::{Rule, http_status},
    types::Error,
};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Serialize;
use serde_json::{Number, Value};
use utoipa::ToSchema;

/// Media type of every error body.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A domain error on its way out over HTTP.
#[derive(Clone, Debug)]
pub struct ApiError(pub Error);

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        ApiError(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = http_status(&self.0).into_response();
        if let Some(seconds) = Rule::of(self.0.kind()).retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of an error (RFC 9457). Members that do not apply are absent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:vectorsphere:problem:dimension_mismatch",
    "title": "Dimension mismatch",
    "status": 400,
    "code": "dimension_mismatch",
    "detail": "the vector has another dimension than the table",
    "field": "documents[3].vector",
    "expected": 128,
    "got": 127,
    "row": 3,
    "document_id": "doc1",
    "request_id": "7f1b7e0a-3c55-4d0a-9b61-2f3f0f6d8c11"
}))]
pub struct Problem {
    /// Identifies the kind of problem; one for each `code`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words; the same for every occurrence.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// Stable name of the rule that was broken: what programs should look at.
    pub code: &'static str,
    /// This occurrence in a sentence.
    pub detail: String,
    /// Where in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What would have been right: text or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Value>,
    /// What was there: text or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<Value>,
    /// Zero-based row of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    /// The document concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document_id: Option<String>,
    /// The request, as in the `x-request-id` header and in the server's log.
    pub request_id: String,
}

impl Problem {
    /// The problem that `error` is to the client who sent the request of this id.
    pub fn new(error: &Error, request_id: &str) -> Problem {
        let detail = error.detail();
        Problem {
            kind: format!("urn:vectorsphere:problem:{}", error.code()),
            title: title_of(error.code()),
            status: http_status(error).as_u16(),
            code: error.code(),
            detail: error.message().to_owned(),
            field: detail.field.clone(),
            expected: detail.expected.as_deref().map(text_or_number),
            got: detail.got.as_deref().map(text_or_number),
            row: detail.row,
            document_id: detail.document_id.clone(),
            request_id: request_id.to_owned(),
        }
    }
}

/// `dimension_mismatch` → `Dimension mismatch`.
fn title_of(code: &str) -> String {
    let words = code.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A number where the text is exactly how a number is written, else the text.
fn text_or_number(text: &str) -> Value {
    match text.parse::<Number>() {
        Ok(number) if number.to_string() == text => Value::Number(number),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_documented_example_is_what_comes_out() {
        let error = Error::invalid("dimension_mismatch", "the vector has another dimension than the table")
            .expected(128)
            .got(127)
            .at("vector")
            .document("doc1");
        let body = serde_json::to_value(Problem::new(&error, "r1")).unwrap();
        assert_eq!(
            body,
            json!({
                "type": "urn:vectorsphere:problem:dimension_mismatch", "title": "Dimension mismatch", "status": 400,
                "code": "dimension_mismatch", "detail": "the vector has another dimension than the table",
                "field": "vector", "expected": 128, "got": 127, "document_id": "doc1", "request_id": "r1"
            })
        );
    }

    #[test]
    fn numbers_are_numbers_and_text_stays_text() {
        assert_eq!(text_or_number("-5"), json!(-5));
        assert_eq!(text_or_number("1.5"), json!(1.5));
        for text in ["1 to 10", "007", "", "1e5", "NaN", "\"5\""] {
            assert_eq!(text_or_number(text), json!(text));
        }
    }

    #[test]
    fn what_may_be_retried_says_when() {
        let error = Error::new(crate::types::ErrorKind::Unavailable, "overloaded", "busy");
        let response = ApiError(error).into_response();
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    }
}
