//! What a request costs. Ignored in ordinary runs, because the numbers mean something only in an optimised build on a
//! quiet machine: `cargo test --release --lib rt::http::cost -- --ignored --nocapture --test-threads 1`.

use super::{HttpOptions, client::Client, serve};
use crate::rt::{BoxError, compute, cpu, net::Listener, rpc, shutdown::Shutdown, time};
use axum::{Router, routing::get};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::{future::Future, sync::mpsc, time::Duration};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const REQUESTS: u32 = 20_000;

fn single_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs a server on a thread of its own while `load` runs here against its address; says what processor time the
/// server's thread used for each of `requests`.
fn server_cpu_each<S, L>(
    requests: u32,
    server: impl FnOnce(Listener, Shutdown) -> S + Send + 'static,
    load: L,
) -> Duration
where
    S: Future<Output = ()>,
    L: AsyncFnOnce(String) -> Result<(), BoxError>,
{
    let (told, address) = mpsc::channel();
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let thread = std::thread::spawn(move || {
        single_thread().block_on(async move {
            let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
            told.send(listener.local_addr().expect("bound").to_string()).expect("the test waits");
            let before = cpu::thread();
            server(listener, stop).await;
            cpu::thread() - before
        })
    });
    let addr = address.recv().expect("the server starts");
    single_thread().block_on(async move {
        load(addr).await.expect("every request is answered");
        shutdown.trigger();
    });
    thread.join().expect("the server ends well") / requests
}

#[test]
#[ignore = "a measurement: cargo test --release --lib rt::http::cost -- --ignored --nocapture --test-threads 1"]
fn a_keep_alive_request_costs_the_server_under_30_microseconds() {
    let router = Router::new().route("/ping", get(|| async { "pong" }));
    let each = server_cpu_each(
        REQUESTS,
        |listener, stop| serve(listener, router, HttpOptions::default(), stop),
        async |addr| {
            let client = Client::new(addr);
            for _ in 0..REQUESTS {
                client.request(Request::get("/ping").body(Full::<Bytes>::default())?).await?;
            }
            Ok(())
        },
    );
    println!("http: {each:?} of server CPU a request");
    assert!(each < Duration::from_micros(30), "{each:?}");
}

#[test]
#[ignore = "a measurement: cargo test --release --lib rt::http::cost -- --ignored --nocapture --test-threads 1"]
fn a_unary_call_costs_the_server_under_100_microseconds() {
    let each = server_cpu_each(
        REQUESTS,
        |listener, stop| {
            let (_reporter, service) = tonic_health::server::health_reporter();
            rpc::serve(listener, service, rpc::RpcOptions::default(), stop)
        },
        async |addr| {
            let mut client = HealthClient::new(rpc::connect(&addr, &rpc::RpcOptions::default())?);
            for _ in 0..REQUESTS {
                client.check(HealthCheckRequest::default()).await?;
            }
            Ok(())
        },
    );
    println!("grpc: {each:?} of server CPU a unary call");
    assert!(each < Duration::from_micros(100), "{each:?}");
}

#[test]
#[ignore = "a measurement: cargo test --release --lib rt::http::cost -- --ignored --nocapture --test-threads 1"]
fn a_hand_over_to_a_thread_costs_under_100_microseconds() {
    let rounds = 20_000;
    crate::rt::block_on(2, async {
        let (start, cpu_start) = (time::now(), cpu::thread());
        for round in 0..rounds {
            assert_eq!(compute::cpu(move || round + 1).await, round + 1);
        }
        let (each, cpu_each) = (start.elapsed() / rounds, (cpu::thread() - cpu_start) / rounds);
        println!("compute::cpu: {each:?} there and back, of which {cpu_each:?} are CPU of the caller");
        assert!(each < Duration::from_micros(100), "{each:?}");
    })
    .expect("a runtime");
}
