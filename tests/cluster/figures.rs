//! How long writes to all shards wait when a node that leads some of them is killed, or stops answering: figures, not promises, run by
//! hand with the command at the first of them.

use super::{TABLE, retried};
use crate::{client::Rest, processes::Cluster};
use http::Method;
use serde_json::Value;
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

fn documents(value: u64) -> Vec<(u64, u64)> {
    (0..DOCUMENTS).map(|id| (id, value)).collect()
}

async fn write(nodes: Vec<Rest>, first: u64, stop: Arc<AtomicBool>, acknowledged: Acknowledged) {
    let (mut node, mut value) = (0, first);
    while !stop.load(SeqCst) {
        let began = Instant::now();
        loop {
            let documents = documents(value);
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

/// Prints how waits are spread, in ms. The one place for it: `service_figures` prints by it, too.
pub fn spread(what: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    let (median, most) = (at(0.5), at(1.0));
    println!(
        "{what}: {} times, median {median:.3} ms, 99th {:.3} ms, 99.9th {:.3} ms, at most {most:.3} ms",
        waits.len(),
        at(0.99),
        at(0.999)
    );
}

/// What a node tells of the table's shards.
async fn shards(node: &Rest) -> Vec<Value> {
    let path = format!("/api/v1/tables/{TABLE}/stats");
    let stats = retried(|| node.call(Method::GET, &path, None)).await;
    stats["shards"].as_array().expect("shards").clone()
}

/// A node that leads shards, the one at `first` if it does, and how many.
async fn leads_some(nodes: &[Rest], first: usize) -> (usize, usize) {
    let mut asked = first;
    loop {
        let here = shards(&nodes[asked]).await.iter().filter(|shard| shard["role"] == "leader").count();
        if here > 0 {
            return (asked, here);
        }
        asked = (asked + 1) % nodes.len();
    }
}

/// Writes what every write here writes, and asserts that each shard got some of it: so a write is acknowledged when all shards took it.
async fn write_to_all_shards(node: &Rest) {
    let all = documents(0);
    retried(|| node.put(&all, None)).await;
    let counts: Vec<Option<u64>> = shards(node).await.iter().map(|shard| shard["documents_count"].as_u64()).collect();
    assert_eq!(counts.len(), SHARDS as usize, "every shard tells: {counts:?}");
    assert!(counts.iter().all(|count| count.is_some_and(|count| count > 0)), "documents in all shards: {counts:?}");
}

type Act = fn(&mut Cluster, usize);

async fn measure(what: &str, away: Duration, strike: Act, mend: Act) {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    nodes[0].create(2, SHARDS).await.expect("a table");
    write_to_all_shards(&nodes[1]).await;
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
