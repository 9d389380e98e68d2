//! Stand-ins for the nodes of a cluster, which answer with what they were asked, or break as they are told; and a gateway over
//! them. Called by the tests of `gateway`.

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use vectorsphere::{
    config::{Authority, Config, Gateway as GatewayKeys, Mode, Sticky},
    gateway::Gateway,
    rt::{
        Shutdown, Task,
        http::{HttpOptions, client::Client, serve_both},
        net::Listener,
        rpc::RpcOptions,
        spawn,
    },
};

/// What a stand-in does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Answer,
    /// Takes the request and closes the connection.
    BreakOff,
    /// Takes everything and says nothing.
    Silent,
    /// Answers that it cannot now, and that nothing happened; its health is good.
    Decline,
    /// Answers that it has too much to do, and that nothing happened.
    Overloaded,
    /// Says that it is not ready, and answers all the same.
    NotReady,
}

struct Shared {
    number: usize,
    manner: Mutex<Manner>,
    hits: Mutex<BTreeMap<String, usize>>,
    addresses: Vec<String>,
}

/// A stand-in for a node.
pub struct Fake {
    shared: Arc<Shared>,
    running: Option<(Shutdown, Task<()>)>,
}

impl Fake {
    /// `n` of them, which all know each other.
    pub async fn cluster(n: usize) -> Vec<Fake> {
        let mut listeners = Vec::new();
        for _ in 0..n {
            listeners.push(Listener::bind("127.0.0.1:0").await.expect("a free port"));
        }
        let address = |listener: &Listener| listener.local_addr().expect("bound").to_string();
        let addresses: Vec<String> = listeners.iter().map(address).collect();
        let fakes = listeners.into_iter().enumerate().map(|(number, listener)| {
            let (manner, hits) = (Mutex::new(Manner::Answer), Mutex::default());
            let mut fake =
                Fake { shared: Arc::new(Shared { number, manner, hits, addresses: addresses.clone() }), running: None };
            fake.serve(listener);
            fake
        });
        fakes.collect()
    }

    fn serve(&mut self, listener: Listener) {
        let stop = Shutdown::new();
        let router = Router::new().fallback(answer).with_state(self.shared.clone());
        let options = HttpOptions { drain_timeout: Duration::from_millis(10), ..HttpOptions::default() };
        self.running =
            Some((stop.clone(), spawn("fake", serve_both(listener, router, options, RpcOptions::default(), stop))));
    }

    pub fn address(&self) -> &str {
        &self.shared.addresses[self.shared.number]
    }

    pub async fn stop(&mut self) {
        let (stop, serving) = self.running.take().expect("it runs");
        stop.trigger();
        serving.await.expect("it ends well");
    }

    pub async fn start(&mut self) {
        let listener = Listener::bind(self.address()).await.expect("free again");
        self.serve(listener);
    }

    pub fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().expect("no panic") = manner;
    }

    /// How often a path was asked for.
    pub fn hits(&self, path: &str) -> usize {
        self.shared.hits.lock().expect("no panic").get(path).copied().unwrap_or(0)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let manner = *shared.manner.lock().expect("no panic");
    *shared.hits.lock().expect("no panic").entry(path.clone()).or_default() += 1;
    if manner == Manner::Silent {
        std::future::pending::<()>().await;
    }
    match path.as_str() {
        "/readyz" if manner == Manner::NotReady => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        "/readyz" => return StatusCode::OK.into_response(),
        "/api/v1/cluster/nodes" => {
            let node =
                |(i, address): (usize, &String)| json!({"id": format!("node-{i}"), "http": [address], "grpc": address});
            return Json(json!({"nodes": shared.addresses.iter().enumerate().map(node).collect::<Vec<_>>()}))
                .into_response();
        }
        // As tonic answers a call that fails.
        _ if manner == Manner::Decline && request.headers().contains_key("grpc-timeout") => {
            let mut refused = tonic::Status::unavailable("no leader").into_http();
            refused.headers_mut().insert("vs-code", "no_leader".parse().expect("a value"));
            return refused;
        }
        _ if manner == Manner::Decline => {
            let problem = json!({"status": 503, "code": "no_leader", "detail": format!("node {}", shared.number)});
            let head = [("content-type", "application/problem+json")];
            return (StatusCode::SERVICE_UNAVAILABLE, head, problem.to_string()).into_response();
        }
        _ if manner == Manner::Overloaded => {
            let problem = json!({"status": 429, "code": "too_many_requests"});
            let head = [("content-type", "application/problem+json")];
            return (StatusCode::TOO_MANY_REQUESTS, head, problem.to_string()).into_response();
        }
        // A panic ends the connection without an answer.
        _ if manner == Manner::BreakOff => std::panic::resume_unwind(Box::new("breaks off")),
        "/echo" => return Response::new(request.into_body()),
        "/endless" => {
            use futures_util::stream::{StreamExt, iter, pending};
            let first = iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
            return Response::new(Body::from_stream(first.chain(pending())));
        }
        _ => {}
    }
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let text = format!("node {}: {method} {path} {}", shared.number, String::from_utf8_lossy(&body));
    Response::new(Body::from(text))
}

/// A gateway.
pub struct Gate(Gateway);

impl Gate {
    /// Over these nodes, ready.
    pub async fn over(nodes: &[Fake], affinity: Sticky) -> Gate {
        Gate::start(vec![nodes[0].address().parse().expect("an address")], affinity).await
    }

    /// That begins with the node of this HTTP address, ready.
    pub async fn start(seeds: Vec<std::net::SocketAddr>, affinity: Sticky) -> Gate {
        let mut config = Config { mode: Mode::Gateway, ..Config::default() };
        config.gateway =
            GatewayKeys { nodes: seeds.into_iter().map(Authority::from).collect(), affinity, ..GatewayKeys::default() };
        config.listen.gateway.set_port(0);
        config.listen.monitoring.set_port(0);
        config.limits.shutdown_grace = Duration::from_millis(200);
        let gate = Gate(Gateway::start(&config).await.expect("it starts"));
        let since = Instant::now();
        while !gate.0.is_ready() {
            assert!(since.elapsed() < Duration::from_secs(10), "not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // All nodes have been looked at once.
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate
    }

    pub fn address(&self) -> String {
        self.0.addresses().gateway.to_string()
    }

    /// What the operators' port answers.
    pub async fn operators(&self, path: &str) -> String {
        let request = http::Request::builder().uri(path).body(Full::<Bytes>::default()).expect("a request");
        let answer = Client::new(self.0.addresses().monitoring.to_string()).request(request).await.expect("an answer");
        String::from_utf8_lossy(answer.body()).into_owned()
    }

    pub async fn stop(self) {
        self.0.stop().await;
    }
}
