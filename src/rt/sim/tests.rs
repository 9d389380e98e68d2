//! The seam inside the simulation: clocks of their own, cut links, and the same HTTP and gRPC as in production.

use super::*;
use crate::rt::{
    http::{
        self, HttpOptions,
        client::{Client, ClientError},
    },
    net::Listener,
    rng, rpc,
    shutdown::Shutdown,
    time,
};
use ::http::{Method, Request};
use axum::{Router, routing::post};
use bytes::Bytes;
use http_body_util::Full;
use madsim::runtime::{Handle, NodeHandle, Runtime};
use rand::RngCore;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tonic::Code;
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::health_reporter,
};

const SECOND: Duration = Duration::from_secs(1);

fn run<F: Future<Output = T>, T>(seed: u64, scenario: impl FnOnce() -> F) -> T {
    reset();
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(scenario())
}

fn node(number: u8) -> NodeHandle {
    let ip = IpAddr::from([10, 0, 0, number]);
    let name = format!("node-{number}");
    let node = Handle::current().create_node().name(&name).ip(ip).build();
    register(node.id(), &name, ip);
    node
}

async fn on<T: Send + 'static>(node: &NodeHandle, future: impl Future<Output = T> + Send + 'static) -> T {
    node.spawn(future).await.expect("the node lives")
}

#[test]
fn clocks_drift_and_jump_apart() {
    run(1, || async {
        let (fast, slow) = (node(1), node(2));
        set_drift_ppm(fast.id(), DRIFT_PPM_MAX);
        set_drift_ppm(slow.id(), -DRIFT_PPM_MAX);
        let wall_before = on(&slow, async { time::wall() }).await;
        let elapsed = |node: &NodeHandle| node.spawn(async { time::now() });
        let (fast_start, slow_start) = (elapsed(&fast).await.unwrap(), elapsed(&slow).await.unwrap());
        madsim::time::sleep(100 * SECOND).await;
        let fast_ran = elapsed(&fast).await.unwrap() - fast_start;
        let slow_ran = elapsed(&slow).await.unwrap() - slow_start;
        assert!((fast_ran.as_secs_f64() - 105.0).abs() < 0.01, "{fast_ran:?}");
        assert!((slow_ran.as_secs_f64() - 95.0).abs() < 0.01, "{slow_ran:?}");

        // A changed rate never sets a clock back.
        let before = elapsed(&fast).await.unwrap();
        set_drift_ppm(fast.id(), -DRIFT_PPM_MAX);
        assert!(elapsed(&fast).await.unwrap() >= before);

        jump_wall(slow.id(), -3_600_000);
        let wall_after = on(&slow, async { time::wall() }).await;
        let moved_ms = i128::from(wall_after.0) - i128::from(wall_before.0);
        assert!((moved_ms - (95_000 - 3_600_000)).abs() <= 10, "{moved_ms} ms");
        assert_eq!(node_name(slow.id()).as_deref(), Some("node-2"));
    });
}

#[test]
fn a_sleep_is_by_the_sleepers_clock() {
    run(2, || async {
        let slow = node(1);
        set_drift_ppm(slow.id(), -DRIFT_PPM_MAX);
        let start = madsim::time::Instant::now();
        let slept = on(&slow, async {
            let start = time::now();
            time::sleep(95 * SECOND).await;
            start.elapsed()
        });
        let slept = slept.await;
        assert!((95 * SECOND..96 * SECOND).contains(&slept), "{slept:?} by its own clock");
        let truly = start.elapsed().as_secs_f64();
        assert!((truly - 100.0).abs() < 0.1, "{truly} s of true time");
    });
}

#[test]
fn random_streams_are_the_seeds_and_differ_by_node_name_and_turn() {
    let draw = |seed| {
        run(seed, || async {
            let (one, two) = (node(1), node(2));
            let draws = || async {
                let mut draws = vec![rng::stream("a").next_u64(), rng::stream("b").next_u64()];
                draws.push(rng::stream("a").next_u64());
                draws.push(rng::uuid_v4().as_u64_pair().0);
                draws.push(rng::uuid_v4().as_u64_pair().0);
                draws
            };
            let mut all = on(&one, draws()).await;
            all.extend(on(&two, draws()).await);
            all
        })
    };
    let first = draw(7);
    assert_eq!(first, draw(7), "the seed decides");
    assert_ne!(first, draw(8));
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), first.len(), "{first:?}");
}

async fn serve_echo() {
    let listener = Listener::bind("0.0.0.0:80").await.expect("bound");
    let router = Router::new().route("/echo", post(|body: Bytes| async move { body }));
    http::serve(listener, router, HttpOptions::default(), Shutdown::new()).await;
}

fn echo(body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(Method::POST).uri("/echo").body(Full::from(body)).expect("a request")
}

#[test]
fn http_runs_and_waits_across_a_cut() {
    run(3, || async {
        let (server, client) = (node(1), node(2));
        drop(server.spawn(serve_echo()));
        madsim::time::sleep(SECOND).await;
        let (from, to) = (client.id(), server.id());
        on(&client, async move {
            let known = Client::new("10.0.0.1:80");
            for _ in 0..3 {
                assert_eq!(known.request(echo("hello")).await.expect("answered").body(), "hello");
            }
            cut(from, to);
            assert!(is_cut(from, to) && !is_cut(to, from));
            let fresh = Client::new("10.0.0.1:80");
            let error = fresh.request_within(5 * SECOND, echo("cut")).await.expect_err("no way");
            assert!(!error.may_have_happened(), "it never connected: {error}");
            let error = known.request_within(5 * SECOND, echo("cut")).await.expect_err("no way");
            assert!(error.may_have_happened(), "it was sent: {error}");

            let waiting = crate::rt::spawn("waiting", async move {
                let start = time::now();
                fresh.request_within(60 * SECOND, echo("healed")).await.map(|_| start.elapsed())
            });
            time::sleep(5 * SECOND).await;
            heal_all();
            let waited = waiting.await.expect("ended well").expect("answered after the heal");
            assert!((5 * SECOND..20 * SECOND).contains(&waited), "{waited:?}");
        })
        .await;
    });
}

#[test]
fn a_dark_machine_says_nothing_and_a_killed_process_is_refused() {
    run(6, || async {
        let (server, client) = (node(1), node(2));
        drop(server.spawn(serve_echo()));
        madsim::time::sleep(SECOND).await;
        let machine = server.id();
        on(&client, async move {
            let known = Client::new("10.0.0.1:80");
            assert_eq!(known.request(echo("hello")).await.expect("answered").body(), "hello");
            // Without power: the connection seems to live, a new one gets no answer.
            set_dark(machine, true);
            Handle::current().kill(machine);
            time::sleep(SECOND).await;
            let error = known.request_within(5 * SECOND, echo("dark")).await.expect_err("nobody is there");
            assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
            let fresh = Client::new("10.0.0.1:80");
            let error = fresh.request_within(5 * SECOND, echo("dark")).await.expect_err("nobody is there");
            assert!(matches!(error, ClientError::ConnectTimedOut { .. }), "{error:?}");
            // With power again its kernel refuses, as the process is gone.
            set_dark(machine, false);
            let error = fresh.request_within(5 * SECOND, echo("up")).await.expect_err("nobody listens");
            assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
        })
        .await;
    });
}

#[test]
fn the_end_of_a_connection_is_not_heard_across_a_cut() {
    run(7, || async {
        let (server, client) = (node(1), node(2));
        drop(server.spawn(serve_echo()));
        madsim::time::sleep(SECOND).await;
        let (from, to) = (client.id(), server.id());
        on(&client, async move {
            let mut stream = crate::rt::net::dial("10.0.0.1:80").await.expect("someone listens");
            cut(to, from);
            Handle::current().kill(to);
            let mut byte = [0; 1];
            let unheard = time::timeout(5 * SECOND, stream.read(&mut byte)).await;
            assert!(unheard.is_err(), "{unheard:?}");
            heal(to, from);
            let end = time::timeout(5 * SECOND, stream.read(&mut byte)).await.expect("heard after the heal");
            assert_eq!(end.expect("no error"), 0);
        })
        .await;
    });
}

async fn serve_health() {
    let listener = Listener::bind("0.0.0.0:81").await.expect("bound");
    let (reporter, service) = health_reporter();
    reporter.set_service_status("x", ServingStatus::Serving).await;

    rpc::serve(listener, service, rpc::RpcOptions::default(), Shutdown::new()).await;
}

fn limited(limit: Duration) -> tonic::Request<HealthCheckRequest> {
    let mut request = tonic::Request::new(HealthCheckRequest { service: "x".to_owned() });
    request.set_timeout(limit);
    request
}

#[test]
fn grpc_runs_stalls_and_comes_back_after_a_kill() {
    run(4, || async {
        let client = node(2);
        let server = node(1);
        drop(server.spawn(serve_health()));
        madsim::time::sleep(SECOND).await;
        let (from, to) = (client.id(), server.id());
        let channel = rpc::connect("10.0.0.1:81", &rpc::RpcOptions::default()).expect("an address");
        let mut health = HealthClient::new(channel);
        let mut calls = health.clone();
        on(&client, async move {
            calls.check(limited(5 * SECOND)).await.expect("answered");
            let mut changes = calls.watch(limited(3 * SECOND)).await.expect("answered").into_inner();
            changes.message().await.expect("no error").expect("a first state");
            let start = time::now();
            let error = changes.message().await.expect_err("stalled");
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
            assert!(start.elapsed() <= 3 * SECOND, "{:?}", start.elapsed());

            let mut bounded = calls.watch(limited(3 * SECOND)).await.expect("answered").into_inner();
            let unbounded = tonic::Request::new(HealthCheckRequest { service: "x".to_owned() });
            let mut unbounded = calls.watch(unbounded).await.expect("answered").into_inner();
            bounded.message().await.expect("no error").expect("a first state");
            unbounded.message().await.expect("no error").expect("a first state");
            cut(from, to);
            cut(to, from);
            // Nothing the server says can arrive, so the client's own deadline must end the stream ...
            let start = time::now();
            let error = time::timeout(60 * SECOND, bounded.message()).await.expect("ends").expect_err("cut off");
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
            assert!(start.elapsed() <= 3 * SECOND, "{:?}", start.elapsed());
            // ... and where there is none, unanswered pings.
            let error = time::timeout(60 * SECOND, unbounded.message()).await.expect("ends").expect_err("cut off");
            assert_eq!(error.code(), Code::Unavailable, "{error:?}");
            assert!(start.elapsed() <= 5 * SECOND, "{:?}", start.elapsed());
            let error = calls.check(limited(SECOND)).await.expect_err("no way");
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
            heal_all();
            time::sleep(10 * SECOND).await;
            calls.check(limited(5 * SECOND)).await.expect("answered after the heal");
        })
        .await;

        Handle::current().kill(server.id());
        madsim::time::sleep(SECOND).await;
        Handle::current().restart(server.id());
        let server = Handle::current().get_node(server.id()).expect("restarted");
        on(&client, {
            let mut calls = health.clone();
            async move {
                let error = calls.check(limited(5 * SECOND)).await.expect_err("not listening yet");
                assert_eq!(error.code(), Code::Unavailable, "{error:?}");
            }
        })
        .await;
        drop(server.spawn(serve_health()));
        madsim::time::sleep(SECOND).await;
        on(&client, async move { health.check(limited(5 * SECOND)).await.expect("dialled again") }).await;
    });
}

#[test]
fn an_idle_connection_makes_no_traffic_storm() {
    run(5, || async {
        let (server, client) = (node(1), node(2));
        drop(server.spawn(serve_health()));
        madsim::time::sleep(SECOND).await;
        let channel = rpc::connect("10.0.0.1:81", &rpc::RpcOptions::default()).expect("an address");
        on(&client, async move {
            let mut health = HealthClient::new(channel);
            health.check(limited(5 * SECOND)).await.expect("answered");
            let before = madsim::net::NetSim::current().stat().msg_count;
            time::sleep(100 * SECOND).await;
            let sent = madsim::net::NetSim::current().stat().msg_count - before;
            assert!(sent <= 500, "{sent} packets in 100 idle seconds with a ping every 2 s from both sides");
        })
        .await;
    });
}

/// Two clients, both protocols, drifting clocks, a lossy link and a cut: what happened and when, by every clock.
async fn mixed_story() -> Vec<String> {
    let server = node(1);
    drop(server.spawn(serve_echo()));
    drop(server.spawn(serve_health()));
    set_drift_ppm(server.id(), 20_000);
    madsim::time::sleep(SECOND).await;
    madsim::net::NetSim::current().update_config(|config| config.packet_loss_rate = 0.05);
    let clients = (2..4).map(|number| {
        let client = node(number);
        set_drift_ppm(client.id(), -10_000 * i32::from(number));
        client.spawn(async move {
            let http = Client::new("10.0.0.1:80");
            let channel = rpc::connect("10.0.0.1:81", &rpc::RpcOptions::default()).expect("an address");
            let mut health = HealthClient::new(channel);
            let mut events = Vec::new();
            for _ in 0..30 {
                let echoed = http.request_within(2 * SECOND, echo("x")).await.map(|answer| answer.status());
                let checked = health.check(limited(2 * SECOND)).await.map(|answer| answer.into_inner().status);
                let outcome = (echoed.map_err(|e| e.to_string()), checked.map_err(|e| e.code()));
                events.push(format!("{} {:?} {} {outcome:?}", number, time::now(), time::wall().0));
                let pause_ms = rng::stream("pause").next_u64() % 50;
                time::sleep(Duration::from_millis(pause_ms)).await;
            }
            events
        })
    });
    let clients: Vec<_> = clients.collect();
    madsim::time::sleep(SECOND).await;
    let far = Handle::current().get_node("node-3").expect("made above").id();
    cut(far, server.id());
    madsim::time::sleep(3 * SECOND).await;
    heal(far, server.id());
    let mut story = Vec::new();
    for client in clients {
        story.extend(client.await.expect("the node lives"));
    }
    story
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = run(11, mixed_story);
    assert_eq!(story.len(), 60);
    assert!(story.iter().filter(|event| event.contains("(Ok(200), Ok(1))")).count() >= 20, "{story:#?}");
    assert_eq!(story, run(11, mixed_story));
    assert_ne!(story, run(12, mixed_story));
}
