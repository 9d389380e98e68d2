//! A typed client of the native REST API. Answers that refuse (RFC 9457) become [`ApiError::Refused`] with everything the
//! server said; overload (429, 503) is waited out within a bound. Called by every command that talks to a server.

use super::{args::ENDPOINT_DEFAULT, context::CliError};
use crate::rt::{
    self,
    http::client::{Client, ClientError, ClientOptions},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use rand::Rng as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// An RFC 9457 problem as the server writes it; every member but the status may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    pub title: String,
    pub detail: Option<String>,
    pub code: String,
    pub field: Option<String>,
    pub expected: Option<Value>,
    pub got: Option<Value>,
    pub document_id: Option<Value>,
    /// Position of the document within the request's batch.
    pub row: Option<u64>,
    pub request_id: Option<String>,
}

impl Problem {
    /// The document's id as text, whether the server wrote a string or a number.
    pub fn document(&self) -> Option<String> {
        self.document_id.as_ref().map(plain)
    }
}

/// A JSON string without its quotes, anything else as JSON.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.detail, self.title.as_str()) {
            (Some(detail), _) => f.write_str(detail)?,
            (None, "") => write!(f, "status {}", self.status)?,
            (None, title) => f.write_str(title)?,
        }
        let mut facts = Vec::new();
        if !self.code.is_empty() {
            facts.push(format!("code {}", self.code));
        }
        let told = [("field", self.field.clone()), ("expected", self.expected.as_ref().map(plain))];
        let told = told.into_iter().chain([("got", self.got.as_ref().map(plain)), ("document", self.document())]);
        facts.extend(told.filter_map(|(name, value)| Some(format!("{name} {}", value?))));
        facts.extend(self.row.map(|row| format!("row {row} of the request")));
        facts.extend(self.request_id.as_ref().map(|id| format!("request {id}")));
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server answered and said no.
    #[error("the server refused: {0}")]
    Refused(Box<Problem>),
    /// The server did not answer.
    #[error(transparent)]
    Transport(#[from] ClientError),
    /// The server answered something this client does not understand.
    #[error("an answer that was not understood (status {status}): {problem}")]
    Answer { status: u16, problem: String },
}

impl ApiError {
    /// The problem, if the server refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ApiError::Refused(problem) => Some(problem),
            ApiError::Transport(_) | ApiError::Answer { .. } => None,
        }
    }

    /// Whether the server answered with this status.
    pub fn is_status(&self, status: StatusCode) -> bool {
        self.problem().is_some_and(|problem| problem.status == status.as_u16())
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> CliError {
        match error {
            ApiError::Transport(error @ (ClientError::Connect { .. } | ClientError::ConnectTimedOut { .. })) => {
                let hint =
                    "is a server running there? `vectorsphere serve` starts one, --endpoint tells another address";
                CliError::unreachable(format!("{error}\n{hint}"))
            }
            ApiError::Transport(error) => CliError::unreachable(error.to_string()),
            error => CliError::failed(error.to_string()),
        }
    }
}

/// How long a client puts up with a server that is busy or away.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Tries of one call, the first included.
    pub attempts_max: u32,
    /// The longest single wait, whatever Retry-After asks.
    pub wait_max: Duration,
    /// Whether a connection that fails or breaks is tried again too. Only for calls that may be carried out twice.
    pub through_outages: bool,
}

impl Patience {
    /// For a person at a terminal.
    pub const SHORT: Patience = Patience { attempts_max: 4, wait_max: Duration::from_secs(5), through_outages: false };
    /// For a long import: over half a minute of outage is ridden out.
    pub const LONG: Patience = Patience { attempts_max: 12, wait_max: Duration::from_secs(10), through_outages: true };
    /// For measurements: every refusal counts.
    pub const NONE: Patience = Patience { attempts_max: 1, wait_max: Duration::ZERO, through_outages: false };

    /// The wait before try number `attempt` + 1: what the server asked, else 100 ms doubled each time, both with a quarter of
    /// jitter so that many clients do not come back together.
    fn wait(self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let doubled = Duration::from_millis(100) * 2u32.pow(attempt.min(10));
        let base = retry_after.unwrap_or(doubled).min(self.wait_max);
        base.mul_f64(rt::rng::stream("cli.client.jitter").random_range(1.0..1.25))
    }
}

/// A table as the server describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    pub table_name: String,
    /// Absent if the table has several named vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents_count: Option<u64>,
    /// Whatever else the server tells.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// An alias.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alias {
    pub alias_name: String,
    pub table_name: String,
}

/// What came of changes of aliases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AliasesChanged {
    pub changed: u64,
    /// Nodes that may not have heard of it.
    pub behind: Vec<String>,
}

impl Table {
    /// The dimension of the table's only vector.
    pub fn only_dimension(&self) -> Result<usize, CliError> {
        let problem =
            || format!("table {:?} has several named vectors; this command handles tables with one", self.table_name);
        self.dimension.ok_or_else(|| CliError::failed(problem()))
    }
}

/// What a table should be.
#[derive(Clone, Debug, Serialize)]
pub struct NewTable {
    pub table_name: String,
    pub dimension: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<NewQuantization>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

/// How the vectors of a table should be encoded.
#[derive(Clone, Debug, Serialize)]
pub struct NewQuantization {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<String>,
}

/// A stored document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    pub document_id: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A page of documents and where the next begins.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub documents: Vec<Document>,
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A search.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SearchQuery {
    pub vector: Vec<f32>,
    pub top_k: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    pub with_metadata: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nprobe: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<bool>,
}

/// One document found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hit {
    pub document_id: Value,
    pub score: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// The answer to a search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub results: Vec<Hit>,
    /// Whatever else the server tells: shards, session, took_ms, explain.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A body of documents to add.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentsBody {
    pub content_type: &'static str,
    pub bytes: Bytes,
}

/// See the module. Clones share connections; [`ApiClient::apart`] has its own.
#[derive(Clone, Debug)]
pub struct ApiClient {
    client: Client,
    addr: String,
    patience: Patience,
}

impl ApiClient {
    /// A client of `endpoint` (`http://host[:port]`). Nothing is dialled yet.
    pub fn new(endpoint: &str, patience: Patience) -> Result<ApiClient, CliError> {
        let addr = address(endpoint)?;
        Ok(ApiClient { client: Client::with_options(&*addr, ClientOptions::default()), addr, patience })
    }

    /// A client of the same server with connections of its own: one, for a worker that sends one request at a time.
    pub fn apart(&self) -> ApiClient {
        let options = ClientOptions { idle_connections_max: 1, ..ClientOptions::default() };
        ApiClient { client: Client::with_options(&*self.addr, options), ..self.clone() }
    }

    /// `host:port` of the server.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub async fn create_table(&self, table: &NewTable) -> Result<Table, ApiError> {
        self.post("/api/v1/tables", table).await
    }

    /// Compares all replicas.
    pub async fn verify<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        self.call(Method::POST, "/api/v1/cluster/verify", None).await
    }

    /// How the cluster is.
    pub async fn cluster_status(&self) -> Result<Value, ApiError> {
        self.call(Method::GET, "/api/v1/cluster/status", None).await
    }

    /// One call on the cluster: `path` is below `/api/v1/cluster/`.
    pub async fn cluster(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let path = format!("/api/v1/cluster/{path}");
        match body {
            Some(body) => self.post(&path, body).await,
            None => self.call(method, &path, None).await,
        }
    }

    /// Figures of a table and its shards.
    pub async fn table_stats(&self, name: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, &table_path(name, "/stats"), None).await
    }

    pub async fn tables(&self) -> Result<Vec<Table>, ApiError> {
        #[derive(Deserialize)]
        struct Tables {
            tables: Vec<Table>,
        }
        let answer: Tables = self.call(Method::GET, "/api/v1/tables", None).await?;
        Ok(answer.tables)
    }

    pub async fn table(&self, name: &str) -> Result<Table, ApiError> {
        self.call(Method::GET, &table_path(name, ""), None).await
    }

    /// The table, or `None` if there is none of that name.
    pub async fn find_table(&self, name: &str) -> Result<Option<Table>, ApiError> {
        match self.table(name).await {
            Ok(table) => Ok(Some(table)),
            Err(error) if error.is_status(StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn delete_table(&self, name: &str) -> Result<(), ApiError> {
        self.exchange(Method::DELETE, &table_path(name, ""), None).await.map(drop)
    }

    /// The aliases of a table, or all.
    pub async fn aliases(&self, table: Option<&str>) -> Result<Vec<Alias>, ApiError> {
        #[derive(Deserialize)]
        struct Aliases {
            aliases: Vec<Alias>,
        }
        let path = table.map_or_else(|| "/api/v1/aliases".to_owned(), |table| table_path(table, "/aliases"));
        let answer: Aliases = self.call(Method::GET, &path, None).await?;
        Ok(answer.aliases)
    }

    /// Changes aliases, all in one step.
    pub async fn change_aliases(&self, changes: Value) -> Result<AliasesChanged, ApiError> {
        self.post("/api/v1/aliases", &json!({ "changes": changes })).await
    }

    /// Adds (or replaces) documents; the answer's ids are not read back.
    pub async fn add_documents(&self, table: &str, body: DocumentsBody) -> Result<(), ApiError> {
        self.exchange(Method::POST, &table_path(table, "/documents"), Some(body)).await.map(drop)
    }

    pub async fn document(&self, table: &str, id: &str) -> Result<Document, ApiError> {
        self.call(Method::GET, &table_path(table, &format!("/documents/{}", escaped(id))), None).await
    }

    /// A page of the table's documents, from the beginning or from a cursor.
    pub async fn list_documents(
        &self,
        table: &str,
        limit: usize,
        cursor: Option<&str>,
        with_vector: bool,
        filter: Option<&Value>,
    ) -> Result<Page, ApiError> {
        let mut body = serde_json::json!({"limit": limit, "with_vector": with_vector});
        if let Some(cursor) = cursor {
            body["cursor"] = cursor.into();
        }
        if let Some(filter) = filter {
            body["filter"] = filter.clone();
        }
        self.post(&table_path(table, "/documents/list"), &body).await
    }

    pub async fn search(&self, table: &str, query: &SearchQuery) -> Result<Found, ApiError> {
        self.post(&table_path(table, "/search"), query).await
    }

    /// A search whose body is already written, for measurements.
    pub async fn search_raw(&self, table: &str, body: Bytes) -> Result<Bytes, ApiError> {
        self.exchange(Method::POST, &table_path(table, "/search"), Some(json_body(body))).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let bytes = serde_json::to_vec(body).expect("invariant: request bodies have string keys and finite shapes");
        self.call(Method::POST, path, Some(json_body(bytes.into()))).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<DocumentsBody>,
    ) -> Result<T, ApiError> {
        let answer = self.exchange(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| ApiError::Answer { status: 200, problem: error.to_string() })
    }

    /// Sends one request, again while the server is busy, and returns the body of its success.
    async fn exchange(&self, method: Method, path: &str, body: Option<DocumentsBody>) -> Result<Bytes, ApiError> {
        let mut attempt = 0;
        loop {
            let sent = self.client.request(request(method.clone(), path, body.clone())).await;
            attempt += 1;
            let last = attempt >= self.patience.attempts_max;
            let retry_after = match sent {
                Ok(answer) if answer.status().is_success() => return Ok(answer.into_body()),
                Ok(answer) if !last && is_busy(answer.status()) => retry_after(&answer),
                Ok(answer) => return Err(refusal(&answer)),
                Err(error) if !last && self.rides_out(&error) => None,
                Err(error) => return Err(error.into()),
            };
            rt::time::sleep(self.patience.wait(attempt - 1, retry_after)).await;
        }
    }

    fn rides_out(&self, error: &ClientError) -> bool {
        let hopeless = matches!(error, ClientError::BadRequest { .. } | ClientError::AnswerTooLarge { .. });
        self.patience.through_outages && !hopeless
    }
}

/// Whether the server says "not now" rather than "no".
fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn json_body(bytes: Bytes) -> DocumentsBody {
    DocumentsBody { content_type: "application/json", bytes }
}

fn request(method: Method, path: &str, body: Option<DocumentsBody>) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(method).uri(path);
    let built = match body {
        Some(body) => builder.header(header::CONTENT_TYPE, body.content_type).body(Full::new(body.bytes)),
        None => builder.body(Full::default()),
    };
    built.expect("invariant: paths are escaped and content types are constants")
}

fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn refusal(answer: &Response<Bytes>) -> ApiError {
    let status = answer.status().as_u16();
    match serde_json::from_slice::<Problem>(answer.body()) {
        Ok(problem) => ApiError::Refused(Box::new(Problem { status, ..problem })),
        Err(_) => {
            // Not from this API (a proxy, perhaps): show how it begins.
            let text: String = String::from_utf8_lossy(answer.body()).chars().take(200).collect();
            let title = answer.status().canonical_reason().unwrap_or("").to_owned();
            let detail = (!text.trim().is_empty()).then(|| format!("{title}: {}", text.trim()));
            ApiError::Refused(Box::new(Problem { status, title, detail, ..Problem::default() }))
        }
    }
}

/// `host:port` of an endpoint.
fn address(endpoint: &str) -> Result<String, CliError> {
    let wrong = |problem: &str| CliError::usage(format!("--endpoint {endpoint:?}: {problem}, e.g. {ENDPOINT_DEFAULT}"));
    let rest = match endpoint.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(wrong("https is not spoken by this client yet; use http")),
        Some(_) => return Err(wrong("expected http://host:port")),
        None => endpoint,
    };
    let authority = rest.trim_end_matches('/');
    let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong("expected http://host:port and no path"))?;
    let port = parsed.as_str().strip_prefix(parsed.host()).filter(|_| !parsed.host().is_empty());
    let port = match port {
        Some("") => Some(80),
        Some(port) => port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()),
        None => None,
    };
    let port = port.ok_or_else(|| wrong("expected http://host:port and nothing else"))?;
    Ok(format!("{}:{port}", parsed.host()))
}

fn table_path(name: &str, rest: &str) -> String {
    format!("/api/v1/tables/{}{rest}", escaped(name))
}

/// A path segment with everything but RFC 3986's unreserved characters escaped.
fn escaped(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => text.push(char::from(byte)),
            b'.' if segment != "." && segment != ".." => text.push('.'),
            other => text += &format!("%{other:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_and_ports() {
        assert_eq!(address("http://localhost:8080/").unwrap(), "localhost:8080");
        assert_eq!(address("10.0.0.1:1").unwrap(), "10.0.0.1:1");
        assert_eq!(address("http://[::1]:6333").unwrap(), "[::1]:6333");
        assert_eq!(address("http://example").unwrap(), "example:80");
        for wrong in ["https://x", "ftp://x", "http://", "http://u@h:1", "http://h:1/path", "http://h:99999"] {
            assert_eq!(address(wrong).unwrap_err().exit_code, 2, "{wrong}");
        }
    }

    #[test]
    fn segments_are_escaped() {
        assert_eq!(table_path("a b/é", ""), "/api/v1/tables/a%20b%2F%C3%A9");
        assert_eq!((escaped(".."), escaped("a.b")), ("%2E%2E".into(), "a.b".into()));
    }

    #[test]
    fn problems_read_well() {
        let text = r#"{"status":400,"title":"Wrong dimension","code":"dimension_mismatch","field":"vector","expected":128,"got":127,"document_id":"doc1"}"#;
        let answer = Response::builder().status(400).body(Bytes::from(text)).unwrap();
        let shown = CliError::from(refusal(&answer)).to_string();
        let expected = "the server refused: Wrong dimension (code dimension_mismatch, field vector, expected 128, got 127, document doc1)";
        assert_eq!(shown, expected);
        let foreign = Response::builder().status(502).body(Bytes::from("<html>nginx</html>")).unwrap();
        assert!(refusal(&foreign).to_string().contains("nginx"));
    }

    #[test]
    fn waits_are_bounded() {
        let patience = Patience::LONG;
        let wait = patience.wait(30, Some(Duration::from_secs(3600)));
        assert!(wait >= patience.wait_max && wait <= patience.wait_max.mul_f64(1.25));
        assert!(patience.wait(0, None) < Duration::from_millis(126));
    }
}
