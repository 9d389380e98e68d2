//! tonic's generated health service and client, over this room's transport.

use super::{Channel, InvalidAddress, RpcOptions, connect, serve, was_not_sent};
use crate::rt::{
    Task,
    http::ConnectionStats,
    net::{Listener, dial},
    shutdown::Shutdown,
    spawn, time,
};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tonic::{Code, Request, Status};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_check_response, health_client::HealthClient},
    server::{HealthReporter, health_reporter},
};

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(20);

struct TestServer {
    addr: String,
    reporter: HealthReporter,
    shutdown: Shutdown,
    stats: ConnectionStats,
    task: Task<()>,
}

impl TestServer {
    async fn start(addr: &str, options: RpcOptions) -> TestServer {
        let listener = Listener::bind(addr).await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let (reporter, service) = health_reporter();
        reporter.set_service_status("store", ServingStatus::Serving).await;
        let (shutdown, stats) = (Shutdown::new(), options.stats.clone());

        let task = spawn("test.rpc", serve(listener, service, options, shutdown.clone()));
        TestServer { addr, reporter, shutdown, stats, task }
    }

    fn client(&self) -> HealthClient<Channel> {
        HealthClient::new(connect(&self.addr, &RpcOptions::default()).expect("an address"))
    }

    async fn stop(self) -> String {
        self.shutdown.trigger();
        time::timeout(PATIENCE, self.task).await.expect("drained").expect("ended well");
        assert_eq!(self.stats.open(), 0, "no connection outlives the server");
        self.addr
    }
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

fn limited(limit: Duration) -> Request<HealthCheckRequest> {
    let mut request = Request::new(about("store"));
    request.set_timeout(limit);
    request
}

const SERVING: i32 = health_check_response::ServingStatus::Serving as i32;
const NOT_SERVING: i32 = health_check_response::ServingStatus::NotServing as i32;

#[tokio::test]
async fn unary_calls_share_one_connection_and_statuses_come_back() {
    let server = TestServer::start("127.0.0.1:0", RpcOptions::default()).await;
    let client = server.client();
    let calls = (0..50).map(|_| {
        let mut client = client.clone();
        async move { client.check(about("store")).await }
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect("answered").into_inner().status, SERVING);
    }
    let unknown = client.clone().check(about("nothing")).await.expect_err("no such service");
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(server.stats.accepted(), 1);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_carries_changes_and_a_stalled_one_meets_its_deadline() {
    let server = TestServer::start("127.0.0.1:0", RpcOptions::default()).await;
    let mut client = server.client();
    let limit = 300 * MS;
    let start = time::now();
    let mut changes = client.watch(limited(limit)).await.expect("answered").into_inner();
    let first = changes.message().await.expect("no error").expect("a first state");
    assert_eq!(first.status, SERVING);
    server.reporter.set_service_status("store", ServingStatus::NotServing).await;
    let second = changes.message().await.expect("no error").expect("a change");
    assert_eq!(second.status, NOT_SERVING);

    // Nothing changes any more: the stream stalls, and only the deadline can end it.
    let error = time::timeout(PATIENCE, changes.message()).await.expect("ends").expect_err("no message");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    assert!(start.elapsed() >= limit);
    server.stop().await;
}

#[tokio::test]
async fn the_server_keeps_the_deadline_too() {
    let server = TestServer::start("127.0.0.1:0", RpcOptions::default()).await;
    let channel = connect(&server.addr, &RpcOptions::default()).expect("an address");
    // A client that announces a deadline but does not keep it itself: the request goes in below the deadline's layer.
    let forgetful = tower::service_fn(move |mut request: http::Request<tonic::body::Body>| {
        request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("100m"));
        channel.clone().send_undeadlined(request)
    });
    let mut client = HealthClient::new(forgetful);
    let mut changes = client.watch(about("store")).await.expect("answered").into_inner();
    changes.message().await.expect("no error").expect("a first state");
    let error = time::timeout(PATIENCE, changes.message()).await.expect("ends").expect_err("no message");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_silence_exceeds_the_deadline() {
    let server = TestServer::start("127.0.0.1:0", RpcOptions::default()).await;
    let addr = server.stop().await;
    let mut client = HealthClient::new(connect(&addr, &RpcOptions::default()).expect("an address"));
    let error = client.check(about("store")).await.expect_err("nobody listens");
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(was_not_sent(&error), "{error:?}");

    // Somebody who takes the connection and never says a word.
    let listener = Listener::bind(addr.as_str()).await.expect("free again");
    let error = time::timeout(PATIENCE, client.check(limited(100 * MS))).await.expect("ends").expect_err("no answer");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    drop(listener);
}

#[tokio::test]
async fn the_channel_dials_again_after_a_restart_and_cut_streams_are_unavailable() {
    let options = RpcOptions { drain_timeout: 50 * MS, ..RpcOptions::default() };
    let server = TestServer::start("127.0.0.1:0", options.clone()).await;
    let mut client = server.client();
    client.check(about("store")).await.expect("answered");
    let mut changes = client.watch(about("store")).await.expect("answered").into_inner();
    changes.message().await.expect("no error").expect("a first state");

    let addr = server.stop().await;
    let error = time::timeout(PATIENCE, changes.message()).await.expect("ends").expect_err("the stream was cut");
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(!was_not_sent(&error), "{error:?}");
    let error = client.check(about("store")).await.expect_err("nobody listens");
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");

    let server = TestServer::start(&addr, options).await;
    client.check(about("store")).await.expect("dialled again");
    server.stop().await;
}

#[tokio::test]
async fn a_full_server_is_unavailable() {
    let options = RpcOptions { connections_max: 1, ..RpcOptions::default() };
    let server = TestServer::start("127.0.0.1:0", options).await;
    let only = dial(&server.addr).await.expect("connected");
    while server.stats.open() < 1 {
        time::sleep(MS).await;
    }
    let mut client = server.client();
    let error = time::timeout(PATIENCE, client.check(about("store"))).await.expect("ends").expect_err("refused");
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!((1..=2).contains(&server.stats.refused()), "{} dials", server.stats.refused());

    drop(only);
    while server.stats.open() > 0 {
        time::sleep(MS).await;
    }
    client.check(about("store")).await.expect("there is room again");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_never_speaks_http2_is_cut_off() {
    let options = RpcOptions { handshake_timeout: 80 * MS, ..RpcOptions::default() };
    let server = TestServer::start("127.0.0.1:0", options).await;
    let mut stream = dial(&server.addr).await.expect("connected");
    let mut bytes = Vec::new();
    let _ = time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    assert_eq!(server.stats.timed_out(), 1);

    // One that speaks stays beyond that time.
    let mut client = server.client();
    client.check(about("store")).await.expect("answered");
    time::sleep(200 * MS).await;
    client.check(about("store")).await.expect("answered");
    assert_eq!((server.stats.accepted(), server.stats.timed_out()), (2, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_never_answers_meets_the_deadline() {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound").to_string();
    let shutdown = Shutdown::new();
    let stuck = tower::service_fn(|_request: http::Request<tonic::body::Body>| {
        std::future::pending::<Result<http::Response<tonic::body::Body>, Status>>()
    });
    let task = spawn("stuck", serve(listener, stuck, RpcOptions::default(), shutdown.clone()));
    let mut client = HealthClient::new(connect(&addr, &RpcOptions::default()).expect("an address"));
    let error = client.check(limited(80 * MS)).await.expect_err("no answer");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    shutdown.trigger();
    time::timeout(PATIENCE, task).await.expect("drained: the stuck call was dropped").expect("ended well");
}

#[test]
fn addresses_are_host_and_port() {
    for addr in ["", "host", "host:", ":80", "a b:1", "http://host:1"] {
        let error = connect(addr, &RpcOptions::default()).expect_err(addr);
        assert_eq!(error, InvalidAddress { addr: addr.to_owned() });
    }
    assert_eq!(connect("node-1:7000", &RpcOptions::default()).expect("an address").addr(), "node-1:7000");
}

#[tokio::test]
async fn several_services_share_a_port_through_a_router() {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound").to_string();
    let (_reporter, service) = health_reporter();
    let router = axum::Router::new()
        .route_service("/grpc.health.v1.Health/{*rest}", service)
        .fallback(async || Status::unimplemented("no such method").into_http::<axum::body::Body>());
    let shutdown = Shutdown::new();
    let task = spawn("router", serve(listener, router, RpcOptions::default(), shutdown.clone()));
    let channel = connect(&addr, &RpcOptions::default()).expect("an address");
    HealthClient::new(channel.clone()).check(about("")).await.expect("the whole server is healthy");

    let elsewhere = tower::service_fn(move |mut request: http::Request<tonic::body::Body>| {
        *request.uri_mut() = http::Uri::from_static("/other.Service/Method");
        tower::Service::call(&mut channel.clone(), request)
    });
    let error = HealthClient::new(elsewhere).check(about("")).await.expect_err("no such method");
    assert_eq!(error.code(), Code::Unimplemented, "{error:?}");
    shutdown.trigger();
    time::timeout(PATIENCE, task).await.expect("drained").expect("ended well");
}
