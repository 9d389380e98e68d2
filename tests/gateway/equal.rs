//! A gateway's answer is the node's own answer: random requests, good and bad, go to a real standalone node directly and through
//! a gateway, over real sockets; status, every header but the clock's, and the body must be equal, byte for byte but for the
//! few figures that differ from one answer to the next. The same for gRPC. Called by the tests of `gateway`.

use super::nodes::Gate;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use std::io::Read;
use tonic::Status;
use vectorsphere::{
    api::grpc::proto::{self, vector_service_client::VectorServiceClient},
    config::{Config, Sticky},
    node::Node,
    rt::{
        http::client::Client,
        rpc::{self, RpcOptions},
    },
};

struct World {
    node: Node,
    gate: Gate,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start() -> World {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config { data_dir: directory.path().to_owned(), ..Config::default() };
        config.listen.http.truncate(1);
        config.listen.http[0].set_port(0);
        for address in [&mut config.listen.grpc, &mut config.listen.peer, &mut config.listen.monitoring] {
            address.set_port(0);
        }
        let node = Node::start(&config).await.expect("a node starts");
        let gate = Gate::start(vec![node.addresses().http[0]], Sticky::None).await;
        let world = World { node, gate, _directory: directory };
        let table = json!({"table_name": "t", "dimension": 3, "metric": "euclidean"});
        let created = world.direct().request(body(Method::POST, "/api/v1/tables", table.to_string())).await;
        assert_eq!(created.expect("an answer").status(), 201);
        world
    }

    fn direct(&self) -> Client {
        Client::new(self.node.addresses().http[0].to_string())
    }

    async fn stop(self) {
        self.gate.stop().await;
        self.node.stop().await;
    }
}

fn body(method: Method, path: &str, body: String) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    request.body(Full::new(Bytes::from(body))).expect("a request")
}

/// A request of any kind. Writes are such that doing them twice is doing them once, but for versions.
fn random_request(rng: &mut StdRng, number: usize) -> Request<Full<Bytes>> {
    let id = rng.random_range(0..12u32);
    let vector: Vec<f32> = (0..rng.random_range(2..5)).map(|_| rng.random_range(-1.0..1.0)).collect();
    let metadata = json!({"value": id, "text": "x".repeat(rng.random_range(0..4_000))});
    let document = json!({"document_id": id, "vector": vector, "metadata": metadata});
    let search = json!({"vector": [0.5, 0.1, f64::from(id)], "top_k": rng.random_range(0..9), "with_vector": rng.random_bool(0.5)});
    let table = ["t", "t", "t", "absent", "%2e%2e", "a b", ""].choose(rng).expect("one");
    let (method, path, text) = match rng.random_range(0..16) {
        0..=2 => (Method::POST, format!("/api/v1/tables/{table}/search"), search.to_string()),
        3 => (
            Method::PUT,
            format!("/api/v1/tables/{table}/documents/{id}"),
            json!({"vector": vector, "metadata": metadata}).to_string(),
        ),
        4 | 5 => (Method::POST, format!("/api/v1/tables/{table}/documents"), document.to_string()),
        6 => (Method::GET, format!("/api/v1/tables/{table}/documents/{id}"), String::new()),
        7 => (
            Method::POST,
            format!("/api/v1/tables/{table}/documents/list"),
            json!({"limit": id, "with_vector": true}).to_string(),
        ),
        8 => (Method::GET, format!("/api/v1/tables/{table}"), String::new()),
        9 => (Method::POST, "/api/v1/tables".into(), json!({"table_name": "t", "dimension": id}).to_string()),
        10 => (
            Method::GET,
            ["/openapi.json", "/docs", "/api/v1/limits"].choose(rng).expect("one").to_string(),
            String::new(),
        ),
        11 => (Method::GET, format!("/nowhere/{number}?q=%20{id}&r"), String::new()),
        12 => (Method::POST, format!("/api/v1/tables/{table}/search"), search.to_string()[..id as usize].to_owned()),
        13 => (Method::PATCH, "/api/v1/limits".into(), "{}".into()),
        14 => (Method::HEAD, "/api/v1/limits".into(), String::new()),
        _ => (Method::OPTIONS, format!("/api/v1/tables/{table}"), String::new()),
    };
    let mut request = body(method, &path.replace(' ', "%20"), text);
    let headers = request.headers_mut();
    headers.insert("x-request-id", format!("request-{number}").parse().expect("a value"));
    if rng.random_bool(0.3) {
        headers.insert("accept-encoding", "gzip".parse().expect("a value"));
    }
    if rng.random_bool(0.2) {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", trace.parse().expect("a value"));
    }
    if rng.random_bool(0.1) {
        headers.insert("content-type", "text/plain".parse().expect("a value"));
    }
    if rng.random_bool(0.1) {
        headers.insert("expect", "100-continue".parse().expect("a value"));
    }
    request
}

/// Status, headers and body.
type Comparable = (u16, Vec<(String, Vec<u8>)>, Vec<u8>);

/// What of an answer must be equal.
fn comparable(answer: Response<Bytes>) -> Comparable {
    let (head, body) = answer.into_parts();
    let has = |name: &str, start: &str| {
        head.headers.get(name).is_some_and(|value| value.as_bytes().starts_with(start.as_bytes()))
    };
    let plain = if has("content-encoding", "gzip") && !body.is_empty() { unzipped(&body) } else { body.clone() };
    let masked = if has("content-type", "application/json") { mask(&plain) } else { None };
    // A version with one digit more makes the body one byte longer.
    let length_counts = masked.is_none();
    let body = masked.unwrap_or_else(|| body.to_vec());
    (head.status.as_u16(), sorted(&head.headers, length_counts), body)
}

fn unzipped(body: &Bytes) -> Bytes {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).expect("a whole gzip body");
    plain.into()
}

/// The figures that differ between two answers to the same request, set to nothing; `None` where there are none.
fn mask(body: &Bytes) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    let mut masked = false;
    let mut stack = vec![&mut value];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    if ["took_ms", "version", "session", "index"].contains(&name.as_str()) {
                        *member = Value::Null;
                        masked = true;
                    } else {
                        stack.push(member);
                    }
                }
            }
            Value::Array(elements) => stack.extend(elements),
            _ => {}
        }
    }
    masked.then(|| value.to_string().into_bytes())
}

fn sorted(headers: &HeaderMap, length_counts: bool) -> Vec<(String, Vec<u8>)> {
    let kept = headers.iter().filter(|(name, _)| *name != "date" && (length_counts || *name != "content-length"));
    let mut all: Vec<(String, Vec<u8>)> =
        kept.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_are_answered_alike() {
    let world = World::start().await;
    let seed: u64 = std::env::var("GATEWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for number in 0..600 {
        let request = random_request(&mut rng, number);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut prefixed = request.clone();
        if rng.random_bool(0.5) {
            *prefixed.uri_mut() = format!("/data{uri}").parse().expect("a path");
        }
        let one = comparable(world.direct().request(request).await.expect("an answer"));
        let other = comparable(Client::new(world.gate.address()).request(prefixed).await.expect("an answer"));
        assert_eq!(one, other, "seed {seed}, request {number}: {method} {uri}");
        *statuses.entry(one.0).or_default() += 1;
    }
    // The requests were not all of one kind.
    assert!([200, 204, 400, 404, 405, 409].iter().all(|status| statuses.contains_key(status)), "{statuses:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_refused_alike() {
    let world = World::start().await;
    let large = "x".repeat(65 << 20);
    let request = || {
        let mut request = body(Method::POST, "/api/v1/tables/t/documents", large.clone());
        request.headers_mut().insert("x-request-id", "large".parse().expect("a value"));
        request
    };
    // The node answers before it has read everything, and closes: a client that is still writing may miss the answer.
    let mut statuses = Vec::new();
    for client in [world.direct(), Client::new(world.gate.address())] {
        match client.request(request()).await {
            Ok(answer) if answer.status() == 413 => statuses.push(answer.into_body()),
            Ok(answer) => assert_eq!(answer.status(), 504, "{:?}", answer.body()),
            Err(error) => assert!(error.may_have_happened(), "{error}"),
        }
    }
    assert!(statuses.windows(2).all(|pair| pair[0] == pair[1]), "{statuses:?}");
    world.stop().await;
}

/// What of a gRPC answer must be equal: code, message and every trailer, or the answer.
fn comparable_call<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, Status>, mask: impl Fn(&mut T)) -> String {
    match answer {
        Ok(answer) => {
            let (metadata, mut message, _) = answer.into_parts();
            mask(&mut message);
            format!("{:?} {message:?}", sorted(&metadata.into_headers(), true))
        }
        Err(status) => {
            let trailers = sorted(&status.metadata().clone().into_headers(), true);
            format!("{:?} {:?} {trailers:?}", status.code(), status.message())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_are_answered_alike_on_the_same_port() {
    let world = World::start().await;
    let channel = |address: String| rpc::connect(&address, &RpcOptions::default()).expect("an address");
    let mut direct = VectorServiceClient::new(channel(world.node.addresses().grpc.to_string()));
    let mut through = VectorServiceClient::new(channel(world.gate.address()));
    let mut rng = StdRng::seed_from_u64(3);
    for number in 0..120 {
        let id = proto::DocumentId { id: Some(proto::document_id::Id::Num(rng.random_range(0..9))) };
        let vector: Vec<f32> = (0..rng.random_range(2..5)).map(|_| rng.random_range(-1.0..1.0)).collect();
        let table = ["t", "t", "absent", ""].choose(&mut rng).expect("one").to_string();
        let named = |message: &mut tonic::metadata::MetadataMap| {
            message.insert("x-request-id", format!("call-{number}").parse().expect("a value"));
        };
        let (one, other) = if rng.random_bool(0.5) {
            let document = proto::Document { id: Some(id), vector, ..proto::Document::default() };
            let upsert = proto::UpsertRequest { table, documents: vec![document], ..Default::default() };
            let request = || {
                let mut request = tonic::Request::new(upsert.clone());
                named(request.metadata_mut());
                request
            };
            let mask = |answer: &mut proto::UpsertResponse| (answer.version, answer.took_ms) = (0, 0.0);
            let unnamed = |answer: &mut proto::UpsertResponse| {
                mask(answer);
                answer.session.clear();
            };
            (
                comparable_call(direct.upsert(request()).await, unnamed),
                comparable_call(through.upsert(request()).await, unnamed),
            )
        } else {
            let search = proto::SearchRequest { table, vector, top_k: rng.random_range(0..4), ..Default::default() };
            let request = || {
                let mut request = tonic::Request::new(search.clone());
                named(request.metadata_mut());
                request
            };
            let mask = |answer: &mut proto::SearchResponse| {
                answer.took_ms = 0.0;
                answer.session.clear();
            };
            (
                comparable_call(direct.search(request()).await, mask),
                comparable_call(through.search(request()).await, mask),
            )
        };
        assert_eq!(one, other, "call {number}");
    }
    world.stop().await;
}
