//! Around every request: its id in and out, the W3C trace context, the log line, and the body of errors, which only here
//! know the id. Health calls are left out of the log. Called by the router as its outermost layer.

use super::{App, is_health, problem};
use crate::{
    api::admission::Ticket,
    rt::{rng, time},
    types::Error,
};
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::{panic::AssertUnwindSafe, sync::Arc};
use tracing::Instrument;

/// The header of the request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header of the W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const REQUEST_ID_BYTES_MAX: usize = 128;

/// The layer.
pub async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let trace = traceparent(request.headers()).cloned();
    let quiet = is_health(request.uri().path());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!(
        "request",
        request_id = id.to_str().unwrap_or_default(),
        traceparent = trace.as_ref().and_then(|value| value.to_str().ok()),
    );
    let route = request.extensions().get::<MatchedPath>().cloned();
    let _in_flight = app.metrics.begin();
    let began = time::now();
    let ticket = if quiet { None } else { Some(app.admission.admit()) };
    let mut response = match ticket.transpose() {
        Ok(ticket) => {
            let ticket: Option<Arc<Ticket>> = ticket.map(Arc::new);
            if let Some(ticket) = &ticket {
                request.extensions_mut().insert(ticket.clone());
            }
            // A bug in a handler is one client's 500, not a connection that closes without a word.
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
            answer.unwrap_or_else(|_| problem::ApiError(Error::internal("the handler failed")).into_response())
        }
        Err(error) => problem::ApiError(error).into_response(),
    };
    let error = response.extensions_mut().remove::<problem::ApiError>();
    if let Some(problem::ApiError(error)) = &error {
        write_problem(&mut response, error, id.to_str().unwrap_or_default());
    }
    let status = response.status().as_u16();
    let took = began.elapsed();
    let took_us = took.as_micros() as u64;
    app.metrics.served(route.as_ref().map_or("other", MatchedPath::as_str), method.as_str(), status, took);
    span.in_scope(|| match &error {
        Some(problem::ApiError(error)) if status >= 500 => {
            tracing::warn!(%method, path, status, took_us, code = error.code(), %error, "request failed");
        }
        Some(problem::ApiError(error)) => {
            tracing::debug!(%method, path, status, took_us, code = error.code(), %error, "request refused");
        }
        None if !quiet => tracing::debug!(%method, path, status, took_us, "request"),
        None => {}
    });
    response.headers_mut().insert(REQUEST_ID, id);
    if let Some(trace) = trace {
        response.headers_mut().insert(TRACEPARENT, trace);
    }
    response
}

fn write_problem(response: &mut Response, error: &Error, request_id: &str) {
    let body = serde_json::to_vec(&problem::Problem::new(error, request_id)).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = Body::from(body);
}

/// The whole answer to the request of this `id` that `error` is: for a face that is not this router (the gateway).
pub fn refusal(error: Error, id: &HeaderValue) -> Response {
    let mut response = problem::ApiError(error.clone()).into_response();
    response.extensions_mut().remove::<problem::ApiError>();
    write_problem(&mut response, &error, id.to_str().unwrap_or_default());
    response.headers_mut().insert(REQUEST_ID, id.clone());
    response
}

/// The caller's id if it can stand in a log line as it is, else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let good = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
    };
    headers.get(REQUEST_ID).filter(good).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&rng::uuid_v4().to_string()).expect("invariant: a UUID is a header value")
    })
}

/// The trace context if it is well formed (W3C Trace Context, section 3.2.2): version, trace id, parent id, flags.
fn traceparent(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(TRACEPARENT)?;
    let fields: Vec<&str> = value.to_str().ok()?.split('-').collect();
    let [version, trace, parent, flags] = fields.as_slice() else { return None };
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let good = hex(version, 2) && *version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (good && !zero(trace) && !zero(parent)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn ids_that_could_forge_a_log_line_are_replaced() {
        assert_eq!(request_id(&headers(REQUEST_ID, "abc-1:2")), "abc-1:2");
        for bad in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_eq!(request_id(&headers(REQUEST_ID, bad)).len(), 36, "{bad:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn trace_contexts_are_checked() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(traceparent(&headers(TRACEPARENT, good)).is_some());
        let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for bad in ["", "00", &good.to_uppercase(), &good.replacen("00", "ff", 1), &zero, &format!("{good}-x")] {
            assert!(traceparent(&headers(TRACEPARENT, bad)).is_none(), "{bad}");
        }
    }
}
