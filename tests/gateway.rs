//! The gateway over real sockets: what comes through it equals what the node itself answers, bodies stream both ways, nodes that
//! fail are left and come back, and nothing that may have been done is done twice.
//!
//! - `equal`: the same random requests to a real standalone node, directly and through a gateway.
//! - `nodes`: stand-ins for nodes that break in chosen ways.
#![allow(clippy::disallowed_methods)] // real sockets and processes under a real clock

#[path = "gateway/equal.rs"]
mod equal;
#[path = "gateway/nodes.rs"]
mod nodes;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use nodes::{Fake, Gate, Manner};
use serde_json::Value;
use std::time::{Duration, Instant};
use tower::Service;
use vectorsphere::{
    config::Sticky,
    rt::{
        http::{Upstream, UpstreamOptions, client::Client},
        rpc::{self, RpcOptions},
    },
};

fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body.to_owned()))).expect("a request")
}

async fn send(gate: &Gate, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let answer = Client::new(gate.address()).request(request(method, path, body)).await.expect("an answer");
    (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefix_is_stripped_and_health_is_its_own() {
    let nodes = Fake::cluster(1).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    let (status, body) = send(&gate, Method::POST, "/data/kamaitachi/api/data/v1/snapshot", "{}").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "node 0: POST /kamaitachi/api/data/v1/snapshot {}"));
    assert_eq!(send(&gate, Method::GET, "/health", "").await, (StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
    assert_eq!(send(&gate, Method::GET, "/data/health", "").await.1, "node 0: GET /health ");
    let metrics = gate.operators("/metrics").await;
    assert!(metrics.contains("vectorsphere_gateway_node_requests_total{node=\"node-0\"} 2"), "{metrics}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_costs_no_request_and_comes_back() {
    let mut nodes = Fake::cluster(3).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    nodes[1].stop().await;
    for i in 0..200 {
        let (method, path) = if i % 2 == 0 { (Method::GET, "/x") } else { (Method::POST, "/write") };
        let (status, body) = send(&gate, method, path, "b").await;
        assert!(status == StatusCode::OK && !body.starts_with("node 1"), "{status} {body}");
    }
    // The others did every write exactly once.
    assert_eq!(nodes.iter().map(|node| node.hits("/write")).sum::<usize>(), 100);
    nodes[1].start().await;
    let since = Instant::now();
    while !send(&gate, Method::GET, "/x", "").await.1.starts_with("node 1") {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", gate.operators("/backends").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_done_is_not_done_again() {
    let nodes = Fake::cluster(2).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    nodes.iter().for_each(|node| node.behave(Manner::BreakOff));
    let (status, body) = send(&gate, Method::POST, "/write", "b").await;
    let problem: Value = serde_json::from_str(&body).expect("a problem");
    assert_eq!((status, &problem["code"]), (StatusCode::GATEWAY_TIMEOUT, &Value::from("outcome_unknown")), "{body}");
    assert_eq!(nodes.iter().map(|node| node.hits("/write")).sum::<usize>(), 1);
    // A read is tried at every node.
    let (status, body) = send(&gate, Method::POST, "/api/v1/tables/t/search", "{}").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(nodes.iter().all(|node| node.hits("/api/v1/tables/t/search") == 1));
    nodes[0].behave(Manner::Answer);
    for _ in 0..20 {
        let (status, body) = send(&gate, Method::POST, "/api/v1/tables/t/search", "{}").await;
        assert!(status == StatusCode::OK && body.starts_with("node 0"), "{status} {body}");
    }
    // So is a write that the nodes know again by its key.
    for _ in 0..20 {
        let mut write = request(Method::POST, "/api/v1/tables/t/documents", "{}");
        write.headers_mut().insert("idempotency-key", "k".parse().expect("a value"));
        let answer = Client::new(gate.address()).request(write).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.body());
    }
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_given_up_and_reads_go_elsewhere() {
    let nodes = Fake::cluster(2).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    nodes[0].behave(Manner::Silent);
    let begun = Instant::now();
    let ((), write) = tokio::join!(
        async {
            for _ in 0..6 {
                let (status, body) = send(&gate, Method::GET, "/x", "").await;
                assert!(status == StatusCode::OK && body.starts_with("node 1"), "{status} {body}");
            }
        },
        async {
            // Some of these meet the silent node; then their outcome is unknown, and said to be.
            let mut unknown = 0;
            for _ in 0..6 {
                let (status, body) = send(&gate, Method::POST, "/write", "b").await;
                assert!(status == StatusCode::OK || body.contains("outcome_unknown"), "{status} {body}");
                unknown += usize::from(status != StatusCode::OK);
            }
            unknown
        },
    );
    assert_eq!(write, nodes[0].hits("/write"));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "given up after {took:?}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_ready_gets_nothing() {
    let nodes = Fake::cluster(2).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    nodes[0].behave(Manner::NotReady);
    tokio::time::sleep(Duration::from_millis(800)).await;
    let before = nodes[0].hits("/x");
    for _ in 0..50 {
        assert!(send(&gate, Method::GET, "/x", "").await.1.starts_with("node 1"));
    }
    assert_eq!(nodes[0].hits("/x"), before);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_declines_for_now_is_not_the_last_word() {
    let nodes = Fake::cluster(2).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    nodes[0].behave(Manner::Decline);
    for _ in 0..20 {
        let (status, body) = send(&gate, Method::POST, "/write", "b").await;
        assert!(status == StatusCode::OK && body == "node 1: POST /write b", "{status} {body}");
    }
    assert_eq!(nodes[1].hits("/write"), 20, "done once each");
    nodes[1].behave(Manner::Decline);
    let (status, body) = send(&gate, Method::POST, "/write", "b").await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && body.contains("no_leader"), "the node's own words: {body}");
    // What may have happened at one node is not covered up by another that declined.
    nodes[1].behave(Manner::BreakOff);
    let mut unknown = 0;
    for _ in 0..2 {
        unknown += usize::from(send(&gate, Method::POST, "/write", "b").await.1.contains("outcome_unknown"));
    }
    assert_eq!(unknown, nodes[1].hits("/write") - 21);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_node_does_not_say_what_became_of_an_earlier_attempt() {
    let nodes = Fake::cluster(2).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    nodes[0].behave(Manner::BreakOff);
    nodes[1].behave(Manner::Overloaded);
    const PATH: &str = "/api/v1/tables/t/documents";
    let (mut unknown, mut refused) = (0, 0);
    for _ in 0..40 {
        let mut write = request(Method::POST, PATH, "{}");
        write.headers_mut().insert("idempotency-key", "k".parse().expect("a value"));
        let answer = Client::new(gate.address()).request(write).await.expect("an answer");
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        match answer.status() {
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            _ if body.contains("outcome_unknown") => unknown += 1,
            other => panic!("{other}: {body}"),
        }
    }
    assert!(unknown > 0 && refused > 0, "{unknown} met the node that breaks off first, {refused} did not");
    assert_eq!(unknown, nodes[0].hits(PATH));
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways() {
    let nodes = Fake::cluster(1).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    let (feed, fed) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(futures_util::stream::unfold(fed, |mut fed| async move {
        fed.recv().await.map(|chunk| (chunk, fed))
    }));
    let client = Upstream::new(gate.address(), UpstreamOptions::default());
    let request = Request::builder().method(Method::POST).uri("/echo").header("host", "h").body(body);
    let sending = tokio::spawn(async move { client.send(request.expect("a request")).await });
    feed.send(Ok(Bytes::from_static(b"first"))).await.expect("taken");
    // The head of the answer is here while the request is still being sent.
    let mut answer = sending.await.expect("no panic").expect("an answer").into_body();
    assert_eq!(answer.frame().await.expect("one").expect("good").into_data().expect("data"), "first");
    feed.send(Ok(Bytes::from_static(b"second"))).await.expect("taken");
    assert_eq!(answer.frame().await.expect("one").expect("good").into_data().expect("data"), "second");
    drop(feed);
    assert!(answer.frame().await.is_none());
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_node_falls_silent_breaks_off() {
    let nodes = Fake::cluster(1).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    let client = Upstream::new(gate.address(), UpstreamOptions::default());
    let request = Request::builder().uri("/endless").header("host", "h").body(Body::empty()).expect("a request");
    let mut answer = client.send(request).await.expect("an answer").into_body();
    assert_eq!(answer.frame().await.expect("one").expect("good").into_data().expect("data"), "first");
    let pause = tokio::time::timeout(Duration::from_secs(2), answer.frame()).await;
    assert!(pause.is_err(), "a node that answers checks may take its time");
    nodes[0].behave(Manner::Silent);
    let end = tokio::time::timeout(Duration::from_secs(20), answer.frame()).await.expect("given up");
    assert!(end.is_some_and(|frame| frame.is_err()), "not a whole answer");
    let backends: Value = serde_json::from_str(&gate.operators("/backends").await).expect("JSON");
    assert_eq!(backends["backends"][0]["in_flight"], 0, "{backends}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_break_off_do_not_make_a_node_bad() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let nodes = Fake::cluster(1).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    for _ in 0..10 {
        let mut client = tokio::net::TcpStream::connect(gate.address()).await.expect("it listens");
        let half = b"POST /write HTTP/1.1\r\nhost: h\r\ncontent-length: 300000\r\n\r\nhalf of it";
        client.write_all(half).await.expect("sent");
        client.shutdown().await.expect("nothing more comes");
        let mut answer = Vec::new();
        let _closed_or_refused = client.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer));
    }
    let backends: Value = serde_json::from_str(&gate.operators("/backends").await).expect("JSON");
    let node = &backends["backends"][0];
    assert_eq!((&node["failures"], &node["ejections"]), (&Value::from(0), &Value::from(0)), "{backends}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_keeps_a_client_on_its_node() {
    let nodes = Fake::cluster(3).await;
    let gate = Gate::over(&nodes, Sticky::Cookie).await;
    let client = Client::new(gate.address());
    let first = client.request(request(Method::GET, "/x", "")).await.expect("an answer");
    let cookie = first.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a part").to_owned();
    assert!(cookie.starts_with("vectorsphere-node="), "{cookie}");
    for _ in 0..30 {
        let mut again = request(Method::GET, "/x", "");
        again.headers_mut().insert("cookie", format!("a=b; {cookie}").parse().expect("a value"));
        let again = client.request(again).await.expect("an answer");
        assert_eq!(again.body(), first.body());
        assert!(!again.headers().contains_key("set-cookie"), "set once");
    }
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_a_node_declines_goes_to_another() {
    let nodes = Fake::cluster(2).await;
    let gate = Gate::over(&nodes, Sticky::None).await;
    let channel = rpc::connect(&gate.address(), &RpcOptions::default()).expect("an address");
    const PATH: &str = "/vectorsphere.v1.VectorService/Upsert";
    let call = async || {
        // Its length is not announced, as no client of gRPC does.
        let body =
            Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"call"))]));
        let request = Request::post(PATH).header("content-type", "application/grpc").header("grpc-timeout", "5S");
        let request = request.body(tonic::body::Body::new(body)).expect("a request");
        let answer = Service::call(&mut channel.clone(), request).await.expect("an answer");
        let code = answer.headers().get("vs-code").map(|code| code.to_str().expect("text").to_owned());
        let body = answer.into_body().collect().await.expect("whole").to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    };
    nodes[0].behave(Manner::Decline);
    for _ in 0..20 {
        assert_eq!(call().await, (None, format!("node 1: POST {PATH} call")));
    }
    assert_eq!(nodes[1].hits(PATH), 20, "done once each");
    assert!(nodes[0].hits(PATH) > 0, "the other was asked, too");
    nodes[1].behave(Manner::Decline);
    assert_eq!(call().await, (Some("no_leader".to_owned()), String::new()), "the last word of one of them");
    gate.stop().await;
}
