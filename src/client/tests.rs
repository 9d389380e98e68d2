//! What a failed call says about a second one, and calls over nodes that fail as told.

use super::*;
use crate::rt::{Shutdown, net::Listener, spawn};
use axum::Router;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A node that answers every call with one status, and counts them.
async fn node(status: fn() -> Status) -> (String, Arc<AtomicU32>, Shutdown) {
    changing_node(move |_| status()).await
}

/// The same where the status depends on how many calls there were before.
async fn changing_node(
    status: impl Fn(u32) -> Status + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicU32>, Shutdown) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let answer = move || {
        let before = counted.fetch_add(1, SeqCst);
        std::future::ready(status(before).into_http::<axum::body::Body>())
    };
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = Shutdown::new();
    drop(spawn("node", rpc::serve(listener, Router::new().fallback(answer), RpcOptions::default(), stop.clone())));
    (address, calls, stop)
}

fn said(code: Code) -> Status {
    let mut status = Status::new(code, "as told");
    status.metadata_mut().insert("vs-code", "as_told".parse().unwrap());
    status
}

fn options(attempts_max: u32) -> Options {
    Options { retry: RetryOptions { attempts_max, ..RetryOptions::default() }, ..Options::default() }
}

fn write(request_id: &str) -> proto::UpsertRequest {
    proto::UpsertRequest { request_id: request_id.to_owned(), ..proto::UpsertRequest::default() }
}

#[test]
fn only_what_cannot_do_harm_is_repeated() {
    assert_eq!(failed(&said(Code::Unavailable)), Failed::Unsent);
    assert_eq!(failed(&said(Code::ResourceExhausted)), Failed::Unsent);
    assert_eq!(failed(&Status::unavailable("the connection broke")), Failed::Unknown);
    assert_eq!(failed(&said(Code::DeadlineExceeded)), Failed::Unknown);
    assert_eq!(failed(&Status::resource_exhausted("an answer too large to be decoded")), Failed::Finally);
    for code in [Code::InvalidArgument, Code::NotFound, Code::Aborted, Code::Internal, Code::DataLoss] {
        assert_eq!(failed(&said(code)), Failed::Finally);
    }
}

#[tokio::test]
async fn a_call_that_may_be_repeated_goes_to_another_node_each_time() {
    let (one, calls_one, _stop_one) = node(|| said(Code::Unavailable)).await;
    let (two, calls_two, _stop_two) = node(|| said(Code::Unavailable)).await;
    let client = Client::new(&[one, two], options(4)).unwrap();
    let refused = client.search(proto::SearchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!((calls_one.load(SeqCst) + calls_two.load(SeqCst)), 4);
    assert!(calls_one.load(SeqCst) >= 1 && calls_two.load(SeqCst) >= 1);
}

#[tokio::test]
async fn a_write_whose_outcome_is_unknown_is_repeated_only_under_a_name() {
    let (address, calls, _stop) = node(|| said(Code::Unknown)).await;
    let unnamed = Options { name_writes: false, ..options(3) };
    let client = Client::new(&[&address], unnamed).unwrap();
    assert_eq!(client.upsert(write("")).await.unwrap_err().code(), Code::Unknown);
    assert_eq!(calls.load(SeqCst), 1, "it may have happened");
    assert_eq!(client.upsert(write("mine")).await.unwrap_err().code(), Code::Unknown);
    assert_eq!(calls.load(SeqCst), 1 + 3);
    let client = Client::new(&[&address], options(3)).unwrap();
    assert_eq!(client.upsert(write("")).await.unwrap_err().code(), Code::Unknown);
    assert_eq!(calls.load(SeqCst), 4 + 3, "named by the client");
}

#[tokio::test]
async fn an_unknown_outcome_is_not_covered_up_by_a_later_attempt() {
    let broken = || Status::unavailable("the connection broke");
    let declined = |code| move |before| if before == 0 { broken() } else { said(code) };
    for code in [Code::Unavailable, Code::ResourceExhausted] {
        let (address, calls, _stop) = changing_node(declined(code)).await;
        let client = Client::new(&[&address], options(3)).unwrap();
        let told = client.upsert(write("mine")).await.unwrap_err();
        assert_eq!(told.code(), Code::Unknown, "that of the first attempt, which may have happened: {told}");
        assert_eq!(calls.load(SeqCst), 3);
    }
    // By its last word a node settles what came of all attempts: it knows the request by its name.
    let (address, _calls, _stop) = changing_node(declined(Code::Aborted)).await;
    let client = Client::new(&[&address], options(3)).unwrap();
    assert_eq!(client.upsert(write("mine")).await.unwrap_err().code(), Code::Aborted);
    // A connection that breaks is no node's word that nothing happened.
    let (address, _calls, _stop) = node(|| Status::unavailable("the connection broke")).await;
    let client = Client::new(&[&address], options(1)).unwrap();
    assert_eq!(client.upsert(write("mine")).await.unwrap_err().code(), Code::Unknown);
    assert_eq!(client.search(proto::SearchRequest::default()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_refusal_and_an_empty_client_answer_at_once() {
    let (address, calls, _stop) = node(|| said(Code::InvalidArgument)).await;
    let client = Client::new(&[address], options(4)).unwrap();
    assert_eq!(client.cluster_info().await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(calls.load(SeqCst), 1);
    let nobody = Client::new::<&str>(&[], options(2)).unwrap();
    assert_eq!(nobody.cluster_info().await.unwrap_err().code(), Code::Unavailable);
    assert!(Client::new(&["no address"], Options::default()).is_err());
}

#[tokio::test]
async fn a_node_that_is_gone_costs_a_retry_and_then_nothing() {
    let gone = {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (there, calls, _stop) = node(|| said(Code::NotFound)).await;
    let client = Client::new(&[gone, there], options(4)).unwrap();
    for _ in 0..20 {
        assert_eq!(client.search(proto::SearchRequest::default()).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(calls.load(SeqCst), 20);
}

#[test]
fn a_node_that_fails_every_call_is_left_alone_however_seldom_they_come() {
    let nodes = Balancer::new(balancing(), Box::new(PowerOfTwo), Box::new(rng::stream("test")));
    nodes.set(vec![Wanted { name: "gone".to_owned(), weight: 1.0, accepts: true, value: () }], time::now());
    let mut now = time::now();
    for call in 0..3 {
        assert_eq!(nodes.statistics(now)[0].ejections, 0, "call {call}");
        now += Duration::from_secs(2);
        try_again(&nodes, now);
        nodes.pick(&Ask::default(), now).expect("the only one").finish(Outcome::Failed, now);
    }
    assert_eq!(nodes.statistics(now)[0].ejections, 1);
    now += Duration::from_secs(2);
    try_again(&nodes, now);
    assert_eq!(nodes.statistics(now)[0].state, crate::traffic::State::In, "its time is over");
}
