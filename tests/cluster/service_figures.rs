//! What clients see of a cluster that is at work: nodes restarted on purpose, a node more, and the gateway in front. Figures,
//! not promises, run by hand with the command at the first of them.

use super::{TABLE, figures::spread, retried};
use crate::{client::Rest, members::Members, processes::Cluster};
use http::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const DIMENSION: usize = 128;
/// Clients of each kind that work at once.
const CLIENTS: u64 = 4;
/// Requests that clients of each kind make while nodes are restarted.
const REQUESTS: u64 = 100_000;
/// How long a retrying client goes on with one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gateway of a cluster, as a process. Dropping it kills it.
struct Gateway {
    process: Child,
    address: String,
}

impl Gateway {
    async fn start(cluster: &Cluster) -> Gateway {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a free port").port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vectorsphere"));
        command.args(["serve", "--mode", "gateway", "--port", &port.to_string(), "--monitoring", "127.0.0.1:0"]);
        command.arg("--set").arg(format!("gateway.nodes={}", cluster.addresses().join(",")));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let gateway = Gateway { process: process.expect("the program starts"), address: format!("127.0.0.1:{port}") };
        let client = Rest::new(&gateway.address, TABLE);
        let begun = Instant::now();
        while client.call(Method::GET, "/api/v1/tables", None).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the gateway does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What became of the requests of some clients.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    /// Attempts that a client made again.
    again: AtomicU64,
    failed: Mutex<Vec<String>>,
}

/// One request of three kinds, in turn.
async fn request(node: &Rest, number: u64) -> Result<(), String> {
    let done = match number % 3 {
        0 => node.put(&[(number % 500, number)], None).await.map(drop),
        1 => node.get(number % 500).await.map(drop),
        _ => node.search(number % 500, 1).await.map(drop),
    };
    done.map_err(|failure| format!("{failure:?}"))
}

/// A client that goes to the next of its nodes when one fails, if it has more than one, and else takes what comes.
async fn client(mut nodes: Vec<Rest>, first: u64, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut number = first;
    while !stop.load(SeqCst) {
        let begun = Instant::now();
        while let Err(why) = request(&nodes[0], number).await {
            if nodes.len() == 1 || begun.elapsed() > PATIENCE {
                tally.failed.lock().expect("no panic while locked").push(why);
                break;
            }
            tally.again.fetch_add(1, SeqCst);
            nodes.rotate_left(1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tally.done.fetch_add(1, SeqCst);
        number += 1;
    }
}

fn report(what: &str, tally: &Tally) -> usize {
    let failed = tally.failed.lock().expect("no panic while locked");
    let (done, again) = (tally.done.load(SeqCst), tally.again.load(SeqCst));
    println!("{what}: {} of {done} requests failed, {again} attempts made again", failed.len());
    failed.iter().take(5).for_each(|why| println!("  {why}"));
    failed.len()
}

/// `cargo test --release --test cluster service_figures -- --ignored --nocapture --test-threads=1`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release --test cluster service_figures -- --ignored --nocapture --test-threads=1"]
async fn nodes_are_restarted_on_purpose() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    nodes[0].create(2, 3).await.expect("a table");
    retried(|| nodes[1].put(&[(1, 1)], None)).await;
    let gateway = Gateway::start(&cluster).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (retrying, plain) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let mut clients = Vec::new();
    for i in 0..CLIENTS {
        let mut mine = nodes.clone();
        mine.rotate_left(i as usize % 3);
        clients.push(tokio::spawn(client(mine, i * 1_000_000, retrying.clone(), stop.clone())));
        let through = vec![Rest::new(&gateway.address, TABLE)];
        clients.push(tokio::spawn(client(through, i * 1_000_000 + 7, plain.clone(), stop.clone())));
    }
    let (mut restarts, begun) = (0, Instant::now());
    while [&retrying, &plain].iter().any(|tally| tally.done.load(SeqCst) < REQUESTS) {
        cluster.stop(restarts % 3);
        cluster.restart(restarts % 3);
        cluster.wait_until_ready().await;
        restarts += 1;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("no client panics");
    }
    println!("{restarts} restarts in {:.0?}", begun.elapsed());
    report("clients that try again", &retrying);
    report("clients that do not, through the gateway", &plain);
}

/// Row `i` of a table of random vectors around 100 centres.
fn vector(i: u64) -> Vec<f32> {
    let mixed = |seed: u64| {
        let x = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (((x ^ (x >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1 << 24) as f32) - 0.5
    };
    let place = |d: usize| mixed((i % 100) * 1_000_003 + d as u64) + 0.3 * mixed(i * 4_001 + d as u64 + 77_777_777);
    (0..DIMENSION).map(place).collect()
}

async fn fill(node: &Rest, rows: u64, shards: u32, replicas: Option<u32>) {
    let mut table = json!({"table_name": TABLE, "dimension": DIMENSION, "metric": "euclidean", "shards": shards});
    if let Some(replicas) = replicas {
        table["replicas"] = replicas.into();
    }
    node.call(Method::POST, "/api/v1/tables", Some(table)).await.expect("a table");
    for first in (0..rows).step_by(500) {
        let document = |id: u64| json!({"document_id": id, "vector": vector(id), "metadata": {"row": id}});
        let documents: Vec<Value> = (first..rows.min(first + 500)).map(document).collect();
        let path = format!("/api/v1/tables/{TABLE}/documents");
        let body = json!({ "documents": documents });
        retried(|| node.call(Method::POST, &path, Some(body.clone()))).await;
    }
}

async fn search(node: &Rest, row: u64) -> Duration {
    let body = json!({"vector": vector(row), "top_k": 10});
    let begun = Instant::now();
    node.call(Method::POST, &format!("/api/v1/tables/{TABLE}/search"), Some(body)).await.expect("a search");
    begun.elapsed()
}

/// How many replicas each node holds, by the table's figures.
async fn held(node: &Rest) -> Vec<usize> {
    let path = format!("/api/v1/tables/{TABLE}/stats");
    let Ok(stats) = node.call(Method::GET, &path, None).await else { return Vec::new() };
    let shards = stats["shards"].as_array().into_iter().flatten();
    let mut held = BTreeMap::new();
    for holder in shards.flat_map(|shard| shard["replicas"].as_array().into_iter().flatten()) {
        *held.entry(holder.to_string()).or_insert(0) += 1;
    }
    held.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster service_figures -- --ignored --nocapture --test-threads=1"]
async fn a_fourth_node_joins() {
    let etcd = Members::start(1);
    let mut cluster = Cluster::prepare(4, etcd.clients.clone());
    (0..3).for_each(|i| cluster.restart(i));
    for i in 0..3 {
        cluster.wait_until_one_is_ready(i).await;
    }
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    fill(&nodes[0], 60_000, 16, None).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut row = 0;
    let mut paced = async |waits: &mut Vec<Duration>| {
        row += 1;
        waits.push(search(&nodes[row as usize % 3], row).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (mut before, mut during, mut after) = (Vec::new(), Vec::new(), Vec::new());
    while before.len() < 4_000 {
        paced(&mut before).await;
    }
    let begun = Instant::now();
    cluster.restart(3);
    let mut balanced = None;
    while balanced.is_none() && begun.elapsed() < Duration::from_secs(300) {
        paced(&mut during).await;
        if during.len() % 50 == 0 {
            let held = held(&nodes[0]).await;
            balanced = (held.len() == 4 && held.iter().all(|held| *held == 12)).then(|| begun.elapsed());
        }
    }
    while after.len() < 4_000 {
        paced(&mut after).await;
    }
    println!("12 replicas on each node after {balanced:?}, its start included; now {:?}", held(&nodes[0]).await);
    spread("searches before", before);
    spread("searches during", during);
    spread("searches after", after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster service_figures -- --ignored --nocapture --test-threads=1"]
async fn what_the_gateway_costs() {
    gateway_costs(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster service_figures -- --ignored --nocapture --test-threads=1"]
async fn what_the_gateway_costs_before_five_nodes() {
    gateway_costs(5).await;
}

/// What searches of a table with one shard of three copies take at so many nodes and through the gateway, and how many are answered a
/// second: all nodes, the gateway and the clients have the same cores.
async fn gateway_costs(nodes: usize) {
    let cluster = Cluster::start(nodes).await;
    let node = Rest::new(&cluster.http(0), TABLE);
    fill(&node, 10_000, 1, None).await;
    // One of the nodes alone, so that both ways end at the same place.
    let gateway = Gateway::start(&cluster).await;
    let through = Rest::new(&gateway.address, TABLE);
    let direct: Vec<Rest> = (0..nodes).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for row in 0..15_000u64 {
        without.push(search(&direct[row as usize % nodes], row).await);
        with.push(search(&through, row).await);
    }
    println!("{nodes} nodes");
    spread("searches at the nodes", without);
    spread("searches through the gateway", with);
    for clients in [8, 32] {
        let (begun, each) = (Instant::now(), 12_000 / clients);
        let worker = |client: u64| {
            let through = through.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                for row in 0..each {
                    waits.push(search(&through, client * each + row).await);
                }
                waits
            })
        };
        let workers: Vec<_> = (0..clients).map(worker).collect();
        let mut waits = Vec::new();
        for worker in workers {
            waits.extend(worker.await.expect("no client panics"));
        }
        println!("{clients} clients: {:.0} searches a second", waits.len() as f64 / begun.elapsed().as_secs_f64());
        spread("  of which each", waits);
    }
}

/// What nodes have used of the CPU.
fn cpu(clusters: &[Cluster]) -> Duration {
    clusters.iter().map(Cluster::cpu).sum()
}

/// Waits until the nodes have nothing left to do: what training and upkeep still use is not a search's.
async fn rest(clusters: &[Cluster]) {
    let nodes: usize = clusters.iter().map(Cluster::len).sum();
    let begun = Instant::now();
    let mut before = cpu(clusters);
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = cpu(clusters);
        if now - before < Duration::from_millis(40) * nodes as u32 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "the nodes do not come to rest");
        before = now;
    }
}

/// What all nodes together use of the CPU for one search, in µs: the median of some rounds. There are so many clusters of so many nodes,
/// each with a table of `rows` rows and a shard on each of its nodes. Each node is asked in turn, by several clients.
async fn cpu_of_a_search(clusters: usize, nodes: usize, rows: u64) -> f64 {
    const SEARCHERS: u64 = 16;
    const SEARCHES: u64 = 8_000;
    const ROUNDS: u64 = 7;
    let mut running = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..clusters {
        let cluster = Cluster::start(nodes).await;
        let first = clients.len();
        clients.extend((0..nodes).map(|i| Rest::new(&cluster.http(i), TABLE)));
        fill(&clients[first], rows, nodes as u32, Some(1)).await;
        running.push(cluster);
    }
    rest(&running).await;
    let searcher = async |first: u64, end: u64| {
        for row in (first..end).step_by(SEARCHERS as usize) {
            search(&clients[(row + row / SEARCHERS) as usize % clients.len()], row * 37 % rows).await;
        }
    };
    let mut used = Vec::new();
    for round in 0..ROUNDS {
        let before = cpu(&running);
        let (first, end) = (round * SEARCHES, (round + 1) * SEARCHES);
        futures_util::future::join_all((0..SEARCHERS).map(|i| searcher(first + i, end))).await;
        used.push((cpu(&running) - before).as_secs_f64() * 1e6 / SEARCHES as f64);
    }
    used.sort_unstable_by(f64::total_cmp);
    let (least, median, most) = (used[0], used[used.len() / 2], used[used.len() - 1]);
    println!(
        "{clusters} times {rows} rows in {nodes} shards on {nodes} nodes: {median:.0} µs a search ({least:.0} to {most:.0})"
    );
    median
}

/// Throughput that nodes with cores of their own would have is what their CPU allows: with four times the nodes and rows a
/// search may cost four times as much and as many of them are answered a second. Four nodes on one machine share its cores and caches
/// as nodes with machines of their own do not, so what one shard costs is also taken of four nodes beside each other that know
/// nothing of each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster service_figures -- --ignored --nocapture --test-threads=1"]
async fn searches_over_more_shards() {
    for rows in [10_000, 50_000, 250_000] {
        let alone = cpu_of_a_search(1, 1, rows).await;
        let beside = cpu_of_a_search(4, 1, rows).await;
        let more = cpu_of_a_search(1, 4, 4 * rows).await;
        let efficiency = |one: f64| 400.0 * one / more;
        println!(
            "efficiency from 1 to 4 shards of {rows} rows each: {:.0} %; by what one alone on the machine costs {:.0} %",
            efficiency(beside),
            efficiency(alone)
        );
        let same = cpu_of_a_search(1, 4, rows).await;
        println!("four nodes over the rows of one: {:.2} times its searches a second", 4.0 * beside / same);
    }
}
