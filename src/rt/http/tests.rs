//! The HTTP server and client against each other, and against raw sockets where a well-behaved client will not do.

use super::{
    BodyFailure, ConnectionStats, HttpOptions, PeerAddr, body_failure,
    client::{Client, ClientError, ClientOptions},
    serve,
};
use crate::rt::{
    Task,
    net::{Listener, Stream, dial},
    shutdown::Shutdown,
    spawn, time,
};
use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MS: Duration = Duration::from_millis(1);
/// Far longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct TestServer {
    addr: String,
    shutdown: Shutdown,
    stats: ConnectionStats,
    task: Task<()>,
}

impl TestServer {
    async fn start(options: HttpOptions) -> TestServer {
        let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let (shutdown, stats) = (Shutdown::new(), options.stats.clone());
        let task = spawn("test.http", serve(listener, router(), options, shutdown.clone()));
        TestServer { addr, shutdown, stats, task }
    }

    /// Stops the server and waits until it is gone.
    async fn stop(self) {
        self.shutdown.trigger();
        time::timeout(PATIENCE, self.task).await.expect("drained").expect("ended well");
        assert_eq!(self.stats.open(), 0, "no connection outlives the server");
    }
}

fn router() -> Router {
    Router::new()
        .route("/peer", get(|Extension(PeerAddr(peer)): Extension<PeerAddr>| async move { peer.to_string() }))
        .route("/echo", post(|body: Bytes| async move { body }))
        .route("/read", post(read))
        .route(
            "/slow",
            get(|| async {
                time::sleep(200 * MS).await;
                "done"
            }),
        )
        .route("/endless", get(std::future::pending::<()>))
        .route("/flood", get(|| async { Body::from(vec![b'x'; 64 << 20]) }))
}

/// Reads its body by hand and answers with the kind of failure, as `api` does.
async fn read(request: Request) -> (StatusCode, String) {
    match request.into_body().collect().await {
        Ok(body) => (StatusCode::OK, body.to_bytes().len().to_string()),
        Err(error) => match body_failure(&error) {
            BodyFailure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            BodyFailure::TimedOut => (StatusCode::REQUEST_TIMEOUT, error.to_string()),
            BodyFailure::Broken => (StatusCode::BAD_REQUEST, error.to_string()),
        },
    }
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    http::Request::builder().method(method).uri(path).body(Full::new(body.into())).expect("a request")
}

/// Reads until the server closes the connection, at most [`PATIENCE`] long.
async fn read_to_close(stream: &mut Stream) -> String {
    let mut text = Vec::new();
    // A reset is a close as well; what came before it is kept.
    let _ = time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the server closes");
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn echo_over_one_kept_connection() {
    let server = TestServer::start(HttpOptions::default()).await;
    let client = Client::new(server.addr.clone());
    let big = vec![7_u8; 3 << 20];
    for body in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(big)] {
        let answer = client.request(request(Method::POST, "/echo", body.clone())).await.expect("answered");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.body(), &body, "also beyond axum's own limit of 2 MB");
    }
    let peer = client.request(request(Method::GET, "/peer", "")).await.expect("answered");
    assert!(peer.body().starts_with(b"127.0.0.1:"), "{:?}", peer.body());
    assert_eq!(server.stats.accepted(), 1, "four requests went over one connection");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_closed_kept_connections_is_dialled_again() {
    let server = TestServer::start(HttpOptions { idle_timeout: 30 * MS, ..HttpOptions::default() }).await;
    let client = Client::new(server.addr.clone());
    for round in 1..=3 {
        client.request(request(Method::POST, "/echo", "x")).await.expect("answered");
        assert_eq!(server.stats.accepted(), round);
        time::sleep(120 * MS).await;
        assert_eq!(server.stats.open(), 0, "the idle connection was closed");
    }
    assert_eq!(server.stats.timed_out(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_slow_loris_is_cut_off_and_others_are_served() {
    let options = HttpOptions { head_read_timeout: 100 * MS, ..HttpOptions::default() };
    let server = TestServer::start(options).await;
    let mut silent = dial(&server.addr).await.expect("connected");
    let mut dripping = dial(&server.addr).await.expect("connected");
    let start = time::now();
    let drip = spawn("drip", async move {
        for byte in b"GET /echo HTTP/1.1\r\nhost: x\r\nx-never-ends: ".iter().cycle() {
            if dripping.write_all(&[*byte]).await.is_err() {
                break;
            }
            time::sleep(10 * MS).await;
        }
    });
    assert_eq!(read_to_close(&mut silent).await, "");
    time::timeout(PATIENCE, drip).await.expect("closed").expect("ended well");
    assert!(start.elapsed() >= 100 * MS, "not before its time");
    assert_eq!(server.stats.timed_out(), 2);

    let client = Client::new(server.addr.clone());
    client.request(request(Method::POST, "/echo", "x")).await.expect("answered");
    server.stop().await;
}

#[tokio::test]
async fn a_second_head_has_a_limit_too() {
    let options = HttpOptions { head_read_timeout: 100 * MS, ..HttpOptions::default() };
    let server = TestServer::start(options).await;
    let mut stream = dial(&server.addr).await.expect("connected");
    stream.write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream.write_all(b"GET /pe").await.expect("written");
    read_to_close(&mut stream).await;
    assert_eq!(server.stats.timed_out(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let server = TestServer::start(HttpOptions { body_bytes_max: 1_000, ..HttpOptions::default() }).await;
    let client = Client::new(server.addr.clone());
    for path in ["/echo", "/read"] {
        let fits = client.request(request(Method::POST, path, vec![1; 1_000])).await.expect("answered");
        assert_eq!(fits.status(), StatusCode::OK);
        let over = client.request(request(Method::POST, path, vec![1; 1_001])).await.expect("answered");
        assert_eq!(over.status(), StatusCode::PAYLOAD_TOO_LARGE, "{path}");
    }

    // Announced too large: refused before its first byte.
    let mut stream = dial(&server.addr).await.expect("connected");
    stream
        .write_all(b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\nexpect: 100-continue\r\n\r\n")
        .await
        .expect("written");
    assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 413"));

    // Far too large and sent without asking: the client still learns why.
    for _ in 0..20 {
        let over = client.request(request(Method::POST, "/read", vec![1; 16 << 20])).await.expect("answered");
        assert_eq!(over.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    // Not announced: refused when it has grown too large.
    let mut stream = dial(&server.addr).await.expect("connected");
    let chunk = format!("{:x}\r\n{}\r\n", 600, "y".repeat(600));
    let text = format!("POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}");
    stream.write_all(text.as_bytes()).await.expect("written");
    assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 413"));
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_stops_coming_times_out() {
    let server = TestServer::start(HttpOptions { body_read_timeout: 80 * MS, ..HttpOptions::default() }).await;
    let mut stream = dial(&server.addr).await.expect("connected");
    stream.write_all(b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await.expect("written");
    let answer = read_to_close(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let server = TestServer::start(HttpOptions { head_bytes_max: 8 * 1024, ..HttpOptions::default() }).await;
    let mut stream = dial(&server.addr).await.expect("connected");
    let text = format!("GET /peer HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n", "z".repeat(16 * 1024));
    stream.write_all(text.as_bytes()).await.expect("written");
    let answer = read_to_close(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let server = TestServer::start(HttpOptions { write_timeout: 100 * MS, ..HttpOptions::default() }).await;
    let mut stream = dial(&server.addr).await.expect("connected");
    stream.write_all(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    let start = time::now();
    while server.stats.timed_out() == 0 {
        assert!(start.elapsed() < PATIENCE, "the server gives up");
        time::sleep(20 * MS).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused() {
    let server = TestServer::start(HttpOptions { connections_max: 2, ..HttpOptions::default() }).await;
    let client = Client::new(server.addr.clone());
    client.request(request(Method::POST, "/echo", "one")).await.expect("answered");
    let second = dial(&server.addr).await.expect("connected");
    while server.stats.open() < 2 {
        time::sleep(MS).await;
    }

    let mut third = dial(&server.addr).await.expect("the backlog takes it");
    assert_eq!(read_to_close(&mut third).await, "");
    assert_eq!(server.stats.refused(), 1);
    client.request(request(Method::POST, "/echo", "two")).await.expect("open connections go on");

    drop(second);
    while server.stats.open() > 1 {
        time::sleep(MS).await;
    }
    let other = Client::new(server.addr.clone());
    other.request(request(Method::POST, "/echo", "three")).await.expect("there is room again");
    server.stop().await;
}

#[tokio::test]
async fn a_drain_finishes_requests_in_flight_and_takes_no_new_ones() {
    let server = TestServer::start(HttpOptions::default()).await;
    let (addr, client) = (server.addr.clone(), Client::new(server.addr.clone()));
    client.request(request(Method::POST, "/echo", "idle after this")).await.expect("answered");
    let slow = {
        let client = Client::new(addr.clone());
        spawn("slow", async move { client.request(request(Method::GET, "/slow", "")).await })
    };
    time::sleep(50 * MS).await;
    let start = time::now();
    server.stop().await;
    assert!(start.elapsed() < 5_000 * MS, "an idle connection does not hold up the end");
    let answer = slow.await.expect("ended well").expect("answered");
    assert_eq!(answer.body(), "done");
    let refused = client.request(request(Method::POST, "/echo", "late")).await.expect_err("nobody listens");
    assert!(matches!(refused, ClientError::Connect { .. }), "{refused}");
    assert!(!refused.may_have_happened());
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_finish() {
    let server = TestServer::start(HttpOptions { drain_timeout: 100 * MS, ..HttpOptions::default() }).await;
    let client = Client::new(server.addr.clone());
    let endless = spawn("endless", async move { client.request(request(Method::GET, "/endless", "")).await });
    time::sleep(50 * MS).await;
    let start = time::now();
    server.stop().await;
    assert!((100 * MS..5_000 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
    let error = endless.await.expect("ended well").expect_err("cut");
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    assert!(error.may_have_happened());
}

#[tokio::test]
async fn the_client_gives_up_in_time_and_bounds_answers() {
    let server = TestServer::start(HttpOptions::default()).await;
    let options = ClientOptions { timeout: 50 * MS, body_bytes_max: 3, ..ClientOptions::default() };
    let client = Client::with_options(server.addr.clone(), options);
    let late = client.request(request(Method::GET, "/slow", "")).await.expect_err("too slow");
    assert!(matches!(late, ClientError::TimedOut { .. }), "{late}");
    assert!(late.may_have_happened());

    let long = client.request(request(Method::POST, "/echo", "four")).await.expect_err("too long");
    assert!(matches!(long, ClientError::AnswerTooLarge { limit_bytes: 3, .. }), "{long}");
    let fits = client.request(request(Method::POST, "http://elsewhere/echo", "two")).await.expect("answered");
    assert_eq!(fits.body(), "two");
    server.stop().await;
}
