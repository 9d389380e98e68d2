//! What an answer of the native REST face means to a client that keeps a history: it happened, it did not, or it may have. Shared
//! with the tests of real processes (`tests/cluster`). Knows no clock and no table.
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use std::time::Duration;
use vectorsphere::rt::http::client::{Client, ClientError};

/// Why a call did not succeed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A conditional write found another version, or what is to be made is there.
    Conflict,
    /// It certainly had no effect.
    Refused(String),
    /// It may have had its effect.
    Unknown(String),
}

impl Failure {
    /// A read that failed had no effect, whatever became of it.
    pub fn of_a_read(self) -> Failure {
        match self {
            Failure::Unknown(why) => Failure::Refused(why),
            other => other,
        }
    }
}

pub type Reply<T> = Result<T, Failure>;

/// The header by which a retried write is known again.
const REQUEST_ID: &str = "idempotency-key";

/// A request with a JSON body, if any, and a request id, if any.
pub fn request(method: Method, path: &str, body: Option<Value>, id: Option<&str>) -> Request<Full<Bytes>> {
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(id) = id {
        request = request.header(REQUEST_ID, id);
    }
    request.body(Full::new(body)).expect("a well-formed request")
}

/// Sends it; the status and the JSON of the answer, null if there is none.
pub async fn send(client: &Client, request: Request<Full<Bytes>>) -> Reply<(StatusCode, Value)> {
    told(client.request(request).await)
}

/// The same with a limit of its own.
pub async fn send_within(
    client: &Client,
    limit: Duration,
    request: Request<Full<Bytes>>,
) -> Reply<(StatusCode, Value)> {
    told(client.request_within(limit, request).await)
}

fn told(answer: Result<Response<Bytes>, ClientError>) -> Reply<(StatusCode, Value)> {
    match answer {
        Ok(answer) => Ok((answer.status(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))),
        Err(error) if error.may_have_happened() => Err(Failure::Unknown(error.to_string())),
        Err(error) => Err(Failure::Refused(error.to_string())),
    }
}

/// What a status means for a write: the native face says "nothing happened" by 4xx and 503.
///
/// # Panics
/// If the server finds that it has a bug: whatever the disk does, it never should.
pub fn judge(status: StatusCode, answer: Value) -> Reply<Value> {
    let why = || format!("{status} {}: {}", answer["code"], answer["title"]);
    assert!(answer["code"] != "internal", "the node reports a bug: {answer}");
    match status {
        _ if status.is_success() => Ok(answer),
        StatusCode::CONFLICT => Err(Failure::Conflict),
        _ if status.is_client_error() => Err(Failure::Refused(why())),
        StatusCode::SERVICE_UNAVAILABLE if answer["code"].is_string() && answer["code"] != "indeterminate" => {
            Err(Failure::Refused(why()))
        }
        _ => Err(Failure::Unknown(why())),
    }
}

/// A number, also where the server spells it as text.
///
/// # Panics
/// If there is none.
pub fn number(object: &Value, field: &str) -> u64 {
    let value = &object[field];
    let parsed = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    parsed.unwrap_or_else(|| panic!("an answer without {field}: {object}"))
}
