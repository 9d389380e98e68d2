//! Bytes flipped by hand in what one of three real nodes has stored. In a journal: the node refuses to start, says which file, and
//! exits with the code of damaged data; the others go on without it, and mended it goes on with them. In a table of the store: the
//! node starts, `verify` names it and the first record that cannot be read, nobody is shown what was never written, and the replica is
//! made anew from the others without anybody's doing.

use super::{TABLE, client::Rest, life, processes::Cluster, retried};
use http::Method;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

/// The node whose disk decays.
const ROTTEN: usize = 1;
/// So many documents of so many bytes are more than a store keeps in memory: it has written tables.
const DOCUMENTS: u64 = 2_600;
const PADDING_BYTES: usize = 8_000;
const BATCH: u64 = 100;
/// The document whose stored bytes are damaged. It was written early, so it is in the first table.
const DAMAGED: u64 = 321;
/// Exit code of a node that finds its data damaged.
const CORRUPT: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_flipped_by_hand_is_found_and_named_and_the_replica_is_made_anew() {
    let mut cluster = Cluster::start(3).await;
    let node = Rest::new(&cluster.http(0), TABLE);
    retried(|| node.create(2, 1)).await;
    for first in (0..DOCUMENTS).step_by(BATCH as usize) {
        let body = json!({"documents": (first..first + BATCH).map(document).collect::<Vec<_>>()});
        let path = format!("/api/v1/tables/{TABLE}/documents");
        retried(|| node.call(Method::POST, &path, Some(body.clone()))).await;
    }
    let table = table_with(&cluster.directory(ROTTEN).join("store"), &stamp(DAMAGED)).await;
    verify_says(&cluster, all_are_equal).await;

    cluster.stop(ROTTEN);
    flip(&table, &stamp(DAMAGED));
    cluster.restart(ROTTEN);
    cluster.wait_until_one_is_ready(ROTTEN).await;
    let name = life::id(&cluster, ROTTEN, 0).await;
    let behind = format!("point {}", DAMAGED - 1);
    let complains = |line: &str| line.starts_with("shard ") && line.contains(&name) && line.contains(&behind);
    // Soon after it is found it is no longer there.
    verify_says(&cluster, |verified, said| verified.status.code() == Some(1) && said.lines().any(complains)).await;
    for i in 0..3 {
        let asked = Rest::new(&cluster.http(i), TABLE);
        // One that is damaged asks another.
        let path = format!("/api/v1/tables/{TABLE}/documents/{DAMAGED}");
        let found = retried(|| asked.call(Method::GET, &path, None)).await;
        assert_eq!(found["metadata"], document(DAMAGED)["metadata"], "node {i} shows what was never written");
    }
    verify_says(&cluster, all_are_equal).await;
    let history = node.call(Method::GET, "/api/v1/cluster/history", None).await.expect("it is told");
    assert!(history.to_string().contains("is of no use"), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_journal_refuses_to_start_and_the_others_go_on() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    retried(|| nodes[0].create(2, 1)).await;
    for id in 0..40 {
        let point = [(id, id)];
        retried(|| nodes[0].put(&point, None)).await;
    }
    verify_says(&cluster, all_are_equal).await;
    for (number, part) in ["log", "store"].into_iter().enumerate() {
        cluster.stop(ROTTEN);
        let journal = cluster.directory(ROTTEN).join(part).join("0.jnl");
        // In the middle of the first record; whole ones that were synced follow.
        let place = 20;
        flip_at(&journal, place);
        cluster.restart(ROTTEN);
        let ended = cluster.wait_until_it_ends(ROTTEN).await;
        assert_eq!(ended.code(), Some(CORRUPT), "{part}: {ended}:\n{}", cluster.log(ROTTEN));
        let log = cluster.log(ROTTEN);
        assert!(log.contains(&format!("{part}/0.jnl")), "{part}: the damaged file is not named:\n{log}");

        let id = 100 + number as u64;
        let point = [(id, id)];
        retried(|| nodes[0].put(&point, None)).await;
        assert_eq!(nodes[2].get(id).await.expect("a read").map(|(value, _)| value), Some(id), "the others go on");

        flip_at(&journal, place);
        cluster.restart(ROTTEN);
        cluster.wait_until_ready().await;
        let verified = verify_says(&cluster, all_are_equal).await;
        assert!(verified.contains("all replicas are equal"), "{verified}");
    }
}

/// What is in a document's metadata and in no other's.
fn stamp(id: u64) -> String {
    format!("stamp-{id:06}-")
}

fn document(id: u64) -> Value {
    let padding = format!("{}{}", stamp(id), "x".repeat(PADDING_BYTES));
    json!({"document_id": id, "vector": [id as f32, 1.0], "metadata": {"padding": padding}})
}

/// The file of the store's tables that holds this text, once it was written.
async fn table_with(store: &Path, text: &str) -> PathBuf {
    let begun = Instant::now();
    loop {
        if let Some(found) = tables(store).into_iter().find(|table| place(table, text).is_some()) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "no table in {} holds {text}", store.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Everything below `keyspaces/*/` that holds records: tables, and values kept apart from them.
fn tables(store: &Path) -> Vec<PathBuf> {
    let below = |path: PathBuf| {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
    };
    let spaces = below(store.join("keyspaces"));
    spaces.into_iter().flat_map(below).flat_map(below).filter(|path| path.is_file()).collect()
}

fn place(file: &Path, text: &str) -> Option<usize> {
    let bytes = fs::read(file).ok()?;
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

/// Flips a bit of the first byte behind this text; a second time it is as it was.
fn flip(file: &Path, text: &str) {
    let place = place(file, text).expect("the text is in the file");
    flip_at(file, place + text.len());
}

fn flip_at(file: &Path, place: usize) {
    let file = fs::File::options().read(true).write(true).open(file).expect("the file is ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place as u64).expect("the file is longer");
    file.write_all_at(&[byte[0] ^ 1], place as u64).expect("the file is ours");
}

fn all_are_equal(verified: &Output, said: &str) -> bool {
    verified.status.success() && !said.contains("unknown")
}

/// Asks the first node to compare all replicas until the answer is `as_expected`; what it printed.
async fn verify_says(cluster: &Cluster, as_expected: impl Fn(&Output, &str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_vectorsphere"));
        verify.args(["--endpoint", &format!("http://{}", cluster.http(0)), "verify"]);
        let done = verify.output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if as_expected(&done, &said) {
            return said;
        }
        let wrong = String::from_utf8_lossy(&done.stderr);
        assert!(begun.elapsed() < PATIENCE, "verify ended with {}: {said}{wrong}", done.status);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
