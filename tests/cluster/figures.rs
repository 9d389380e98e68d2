//! How long writes to all shards wait when a node that leads some of them is killed, or stops answering: figures, not promises, run by
//! hand with the command at the first of them.

use super::{TABLE, retried};
use crate::{client::Rest, processes::Cluster};
use http::Method;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const ROUNDS: usize = 96;
const SHARDS: u32 = 6;
/// Documents of one write: of each shard some, so that it is acknowledged once all of them take writes.
const DOCUMENTS: u64 = 48;
/// How long a cluster is left alone.
const BETWEEN: Duration = Duration::from_millis(400);
const ATTEMPT: Duration = Duration::from_millis(250);

/// When writes were acknowledged, by a client that sends each again, to another node, until it is.
type Acknowledged = Arc<Mutex<Vec<(Instant, Instant)>>>;

async fn write(nodes: Vec<Rest>, first: u64, stop: Arc<AtomicBool>, acknowledged: Acknowledged) {
    let (mut node, mut value) = (0, first);
    while !stop.load(SeqCst) {
        let began = Instant::now();
        loop {
            let documents: Vec<(u64, u64)> = (0..DOCUMENTS).map(|id| (id, value)).collect();
            let put = nodes[node].put(&documents, None);
            if matches!(tokio::time::timeout(ATTEMPT, put).await, Ok(Ok(_))) {
                break;
            }
            node = (node + 1) % nodes.len();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        acknowledged.lock().expect("no panic while locked").push((began, Instant::now()));
        value += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn spread(what: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize].as_millis();
    println!("{what}: {} times, median {} ms, 99th {} ms, at most {} ms", waits.len(), at(0.5), at(0.99), at(1.0));
}

/// A node that leads shards, the one at `first` if it does, and how many.
async fn leads_some(nodes: &[Rest], first: usize) -> (usize, usize) {
    let path = format!("/api/v1/tables/{TABLE}/stats");
    let stats = retried(|| nodes[first].call(Method::GET, &path, None)).await;
    let shards = stats["shards"].as_array().expect("shards");
    let here = shards.iter().filter(|shard| shard["role"] == "leader").count();
    if here > 0 { (first, here) } else { Box::pin(leads_some(nodes, (first + 1) % nodes.len())).await }
}

type Act = fn(&mut Cluster, usize);

async fn measure(what: &str, away: Duration, strike: Act, mend: Act) {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    nodes[0].create(2, SHARDS).await.expect("a table");
    retried(|| nodes[1].put(&[(1, 1)], None)).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let writers: Vec<_> = (0..3u64)
        .map(|writer| {
            let mut nodes = nodes.clone();
            nodes.rotate_left(writer as usize);
            tokio::spawn(write(nodes, writer * 1_000_000, stop.clone(), acknowledged.clone()))
        })
        .collect();
    let (mut again, mut longest, mut led) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        tokio::time::sleep(BETWEEN).await;
        let (struck_node, leads) = leads_some(&nodes, round % 3).await;
        led.push(leads);
        let struck = Instant::now();
        strike(&mut cluster, struck_node);
        tokio::time::sleep(away).await;
        mend(&mut cluster, struck_node);
        cluster.wait_until_one_is_ready(struck_node).await;
        let all = acknowledged.lock().expect("no panic while locked");
        // The first write that was begun after the blow, and what the unluckiest one took that was under way.
        let first = all.iter().filter(|(began, _)| *began >= struck).map(|(_, end)| *end - struck).min();
        again.push(first.unwrap_or_else(|| struck.elapsed()));
        longest.extend(all.iter().filter(|(_, end)| *end >= struck).map(|(began, end)| *end - *began).max());
    }
    stop.store(true, SeqCst);
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    println!("{what}: led {:.1} of {SHARDS} shards on average", led.iter().sum::<usize>() as f64 / led.len() as f64);
    spread(&format!("{what}, until a later write to all shards is acknowledged"), again);
    spread("  the slowest write, retries included", longest);
}

/// `cargo test --release --test cluster figures -- --ignored --nocapture --test-threads=1`
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster figures -- --ignored --nocapture --test-threads=1"]
async fn a_leader_is_killed() {
    measure("a node killed", Duration::from_millis(800), Cluster::kill, Cluster::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster figures -- --ignored --nocapture --test-threads=1"]
async fn a_leader_falls_silent() {
    let (stop, go) =
        (|cluster: &mut Cluster, i| cluster.signal(i, "STOP"), |cluster: &mut Cluster, i| cluster.signal(i, "CONT"));
    measure("a node stopped", Duration::from_millis(2_200), stop, go).await;
}
