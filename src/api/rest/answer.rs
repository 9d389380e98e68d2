//! JSON answers. Called by handlers.

use super::{body::INLINE_BYTES_MAX, problem::ApiError};
use crate::{rt::compute, types::Error};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A body with status 200.
pub fn ok(body: &impl Serialize) -> Response {
    with_status(StatusCode::OK, body)
}

/// A body with a status.
pub fn with_status(status: StatusCode, body: &impl Serialize) -> Response {
    match encode(body) {
        Ok(bytes) => respond(status, bytes),
        Err(error) => ApiError(error).into_response(),
    }
}

/// A body of about `estimated_bytes` made of `answer` by `encode`: here if it is small, on the compute pool if not.
pub async fn large<A, F>(answer: A, estimated_bytes: usize, encode: F) -> Response
where
    A: Send + 'static,
    F: FnOnce(&A) -> Result<Vec<u8>, Error> + Send + 'static,
{
    let encoded = if estimated_bytes <= INLINE_BYTES_MAX {
        compute::short(|| encode(&answer))
    } else {
        compute::cpu(move || encode(&answer)).await
    };
    match encoded {
        Ok(bytes) => respond(StatusCode::OK, bytes),
        Err(error) => ApiError(error).into_response(),
    }
}

/// The JSON of a body.
///
/// # Errors
/// `internal`: no body of this face holds what JSON cannot.
pub fn encode(body: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(body).map_err(|error| Error::internal(format!("an answer cannot be encoded: {error}")))
}

fn respond(status: StatusCode, bytes: Vec<u8>) -> Response {
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [json], Body::from(bytes)).into_response()
}
