//! The course of a cluster's life, with real nodes in a real etcd: a hundred thousand documents are loaded; a node is killed, a new one
//! takes its place, another is drained and removed, the rest are restarted one after the other. All the time clients write and
//! read, and what they were told is linearizable; in the end nothing is missing and all replicas are equal. Where there is no etcd it
//! says so and counts as skipped.

use super::{
    TABLE,
    client::{Failure, Reply, Rest},
    load::Load,
    members::{Members, has_etcd},
    processes::Cluster,
    retried,
};
use http::Method;
use serde_json::{Value, json};
use std::{
    io::Write,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Documents of the table `STOCK`, and components of each.
const DOCUMENTS: usize = 100_000;
const DIMENSION: usize = 16;
const STOCK: &str = "stock";
/// How long replicas may take to be where they should be; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// Four nodes over an etcd, of which three run and are ready.
pub async fn three_of_four(etcd: &Members) -> Cluster {
    let mut cluster = Cluster::prepare(4, etcd.clients.clone());
    for i in 0..3 {
        cluster.restart(i);
    }
    for i in 0..3 {
        cluster.wait_until_one_is_ready(i).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_in_etcd_loses_nothing_whatever_becomes_of_its_nodes() {
    if !has_etcd("a_cluster_in_etcd_loses_nothing_whatever_becomes_of_its_nodes") {
        return;
    }
    let etcd = Members::start(1);
    let mut cluster = three_of_four(&etcd).await;
    create(&cluster).await;
    let vectors = vectors();
    fill(&cluster, &vectors);
    all_is_there(&cluster, &[0, 1, 2], &vectors).await;
    let load = Load::begin(&cluster.addresses());

    // One is lost, and a new one takes its place.
    let lost = id(&cluster, 2, 0).await;
    cluster.kill(2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.restart(3);
    cluster.wait_until_one_is_ready(3).await;
    let new = id(&cluster, 3, 0).await;
    settled(&cluster, 0, |held| held(&lost) == 0 && held(&new) == 6).await;
    all_is_there(&cluster, &[0, 1, 3], &vectors).await;

    // It comes back to a cluster that does without it; then another is drained and leaves.
    cluster.restart(2);
    cluster.wait_until_one_is_ready(2).await;
    let leaving = id(&cluster, 1, 0).await;
    run(&cluster, 0, &["cluster", "drain", &leaving]);
    settled(&cluster, 0, |held| held(&leaving) == 0 && held(&lost) > 0).await;
    // The node that is asked may hear a moment later that nothing is left there.
    accomplished(&cluster, 0, &["cluster", "remove", &leaving]).await;
    cluster.kill(1);
    let left = [0, 2, 3];
    all_is_there(&cluster, &left, &vectors).await;

    // The rest are restarted, one after the other, each when it can be spared.
    for i in left {
        let other = left.into_iter().find(|other| *other != i).expect("there are three");
        accomplished(&cluster, other, &["cluster", "upgrade", "--check"]).await;
        cluster.stop(i);
        cluster.restart(i);
        cluster.wait_until_one_is_ready(i).await;
    }
    settled(&cluster, 0, |_| true).await;
    let addresses: Vec<String> = left.into_iter().map(|i| cluster.http(i)).collect();
    load.end(&addresses, "life").await;
    all_is_there(&cluster, &left, &vectors).await;
    println!("{}", run(&cluster, 0, &["verify"]));
}

/// A table for the clients and one to be filled, of three copies each.
async fn create(cluster: &Cluster) {
    let things = Rest::new(&cluster.http(0), TABLE);
    accepted(|| things.create(2, 2)).await;
    let body = json!({"table_name": STOCK, "dimension": DIMENSION, "metric": "euclidean", "shards": 4});
    accepted(|| things.call(Method::POST, "/api/v1/tables", Some(body.clone()))).await;
}

/// Repeats a creation until there is such a table.
pub async fn accepted<F: Future<Output = Reply<Value>>>(create: impl Fn() -> F) {
    retried(|| async {
        match create().await {
            Ok(_) | Err(Failure::Conflict) => Ok(()),
            Err(failure) => Err(failure),
        }
    })
    .await;
}

/// Rows that differ, spread by a multiplicative hash.
fn vectors() -> Vec<[f32; DIMENSION]> {
    let component = |row: usize, place: usize| {
        let mixed = ((row * DIMENSION + place) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((mixed ^ (mixed >> 29)) >> 40) as f32 / 1e4
    };
    (0..DOCUMENTS).map(|row| std::array::from_fn(|place| component(row, place))).collect()
}

/// Loads the rows as a user would, from a NumPy file through one node.
fn fill(cluster: &Cluster, vectors: &[[f32; DIMENSION]]) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("stock.npy");
    write_npy(&file, vectors).expect("a file");
    let begun = Instant::now();
    run(cluster, 1, &["import", file.to_str().expect("a name"), "--table", STOCK]);
    println!("{DOCUMENTS} documents in {:.1?}", begun.elapsed());
}

/// NumPy's format 1.0: magic, version, length and text of the header padded to 64 bytes, rows of little-endian f32.
fn write_npy(file: &Path, rows: &[[f32; DIMENSION]]) -> std::io::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {DIMENSION}), }}", rows.len());
    header += &" ".repeat((64 - (10 + header.len() + 1) % 64) % 64);
    header.push('\n');
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for component in rows.iter().flatten() {
        out.write_all(&component.to_le_bytes())?;
    }
    out.flush()
}

/// Each of these nodes counts all rows, and finds some of them by their vectors.
async fn all_is_there(cluster: &Cluster, nodes: &[usize], vectors: &[[f32; DIMENSION]]) {
    for i in nodes {
        let node = Rest::new(&cluster.http(*i), STOCK);
        let counted = retried(|| node.call(Method::GET, "/api/v1/tables/stock/stats", None)).await;
        assert_eq!(counted["documents_count"], json!(DOCUMENTS), "node {i}: {counted}");
        for row in (0..DOCUMENTS).step_by(DOCUMENTS / 7) {
            let body = json!({"vector": vectors[row], "top_k": 1, "exact": true});
            let answer = retried(|| node.call(Method::POST, "/api/v1/tables/stock/search", Some(body.clone()))).await;
            let found = &answer["results"][0];
            assert!(found["document_id"] == json!(row), "row {row} from node {i}: {answer}");
        }
    }
}

/// The id of a node, as `asked` knows it.
pub async fn id(cluster: &Cluster, i: usize, asked: usize) -> String {
    let (node, face) = (Rest::new(&cluster.http(asked), TABLE), cluster.http(i));
    let begun = Instant::now();
    loop {
        let known = retried(|| node.call(Method::GET, "/api/v1/cluster/nodes", None)).await;
        let all = known["nodes"].as_array().expect("nodes");
        let is_it = |node: &&Value| node["http"].as_array().is_some_and(|http| http.contains(&json!(face)));
        if let Some(found) = all.iter().find(is_it) {
            return found["id"].as_str().expect("an id").to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "node {i} is not known: {known}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing is under way, every shard has its copies, and `condition` holds of how many replicas a node has.
async fn settled(cluster: &Cluster, asked: usize, condition: impl Fn(&dyn Fn(&str) -> usize) -> bool) {
    let node = Rest::new(&cluster.http(asked), TABLE);
    let begun = Instant::now();
    loop {
        let status = retried(|| node.call(Method::GET, "/api/v1/cluster/status", None)).await;
        let placement = &status["placement"];
        let shards = placement["shards"].as_array().map_or(&[][..], Vec::as_slice);
        let holders = |shard: &Value| -> Vec<String> {
            let replicas = shard["replicas"].as_array().map_or(&[][..], Vec::as_slice);
            replicas.iter().filter_map(|replica| Some(replica["node"].as_str()?.to_owned())).collect()
        };
        let held: Vec<Vec<String>> = shards.iter().map(holders).collect();
        let count = |node: &str| held.iter().filter(|shard| shard.iter().any(|holder| holder == node)).count();
        let idle = placement["in_flight"] == 0 && placement["waiting"] == 0 && status["verdict"] != "unavailable";
        if idle && held.len() == 6 && held.iter().all(|shard| shard.len() == 3) && condition(&count) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not settle: {status:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Repeats a command until it succeeds.
async fn accomplished(cluster: &Cluster, asked: usize, arguments: &[&str]) {
    let begun = Instant::now();
    loop {
        let done = command(cluster, asked, arguments).output().expect("it runs");
        if done.status.success() {
            return;
        }
        let why = String::from_utf8_lossy(&done.stderr);
        assert!(begun.elapsed() < PATIENCE, "{arguments:?} does not succeed: {why}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn command(cluster: &Cluster, asked: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vectorsphere"));
    command.args(["--endpoint", &format!("http://{}", cluster.http(asked))]).args(arguments);
    command
}

/// Runs a command against a node; what it printed.
///
/// # Panics
/// If it fails.
pub fn run(cluster: &Cluster, asked: usize, arguments: &[&str]) -> String {
    let done = command(cluster, asked, arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    said
}
