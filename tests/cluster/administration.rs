//! What the command line tells an administrator of real nodes: what is still to be moved so that they hold equal shares, that this
//! waits while it is paused, and afterwards what was done, newest first. Where there is no etcd it says so and counts as skipped.

use super::{
    TABLE, life,
    members::{Members, has_etcd},
    processes::Cluster,
};
use crate::client::Rest;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Shards of three copies: four nodes hold three of the copies each.
const SHARDS: u32 = 4;
const MOVES: usize = 3;
const IN_PLACE: &str = "everything is in its place\n";
const WHY: &str = "the nodes hold unequal shares";
const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats a command until it prints what is wanted; all of it.
async fn told(cluster: &Cluster, arguments: &[&str], is_wanted: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let said = life::run(cluster, 0, arguments);
        if is_wanted(&said) {
            return said;
        }
        assert!(begun.elapsed() < PATIENCE, "{arguments:?} goes on to say: {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The lines of `cluster history` that have these words, by their place: 0 is the newest.
fn places(history: &str, words: &[&str]) -> Vec<usize> {
    let lines = history.lines().skip(1).enumerate();
    lines.filter(|(_, line)| words.iter().all(|word| line.contains(word))).map(|(place, _)| place).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_moved_is_told_and_afterwards_what_was() {
    if !has_etcd("what_is_to_be_moved_is_told_and_afterwards_what_was") {
        return;
    }
    let etcd = Members::start(1);
    let mut cluster = life::three_of_four(&etcd).await;
    let things = Rest::new(&cluster.http(0), TABLE);
    life::accepted(|| things.create(2, SHARDS)).await;
    told(&cluster, &["cluster", "rebalance"], |said| said == IN_PLACE).await;
    let paused = life::run(&cluster, 0, &["cluster", "rebalance", "--pause"]);
    assert_eq!(paused, format!("paused\n{IN_PLACE}"));

    // One node more gets nothing while that lasts.
    cluster.restart(3);
    cluster.wait_until_one_is_ready(3).await;
    let to_new = format!(" to {}", life::id(&cluster, 3, 0).await);
    let is_named = |said: &str| said.starts_with("paused\nCHANGE") && said.contains(&to_new);
    told(&cluster, &["cluster", "rebalance", "--dry-run"], is_named).await;
    let told_to_programs = life::run(&cluster, 0, &["--output", "json", "cluster", "rebalance", "--dry-run"]);
    let answer: Value = serde_json::from_str(&told_to_programs).expect("JSON");
    assert!(answer["paused"] == true && answer["steps"].is_array(), "{answer}");
    assert!(places(&life::run(&cluster, 0, &["cluster", "history"]), &[&to_new]).is_empty());

    let to_come = life::run(&cluster, 0, &["cluster", "rebalance", "--resume"]);
    assert!(!to_come.contains("paused"), "{to_come}");
    let all_moved = |said: &str| places(said, &["a replica goes from", &to_new, WHY]).len() == MOVES;
    told(&cluster, &["cluster", "history"], all_moved).await;
    told(&cluster, &["cluster", "rebalance"], |said| said == IN_PLACE).await;
    let history = life::run(&cluster, 0, &["cluster", "history"]);
    assert!(history.starts_with("WHEN"), "{history}");
    let moved = places(&history, &["a replica goes from", &to_new, WHY]);
    assert_eq!(moved.len(), MOVES, "{history}");
    let asked = ["evening out goes on", "evening out is paused"].map(|what| places(&history, &[what, "asked for"]));
    assert!(asked.iter().all(|places| places.len() == 1), "{history}");
    assert!(moved.iter().all(|place| *place < asked[0][0]) && asked[0] < asked[1], "newest first: {history}");
    let newest = life::run(&cluster, 0, &["cluster", "history", "--limit", "1"]);
    assert_eq!(newest.lines().count(), 2, "{newest}");
    assert_eq!(newest.lines().nth(1).map(str::trim_end), history.lines().nth(1).map(str::trim_end), "{history}");
}
