//! The promises of the log, of a group of one, and of groups over a network that loses, delays and repeats: no gap, no damage
//! unseen, one sync for many writers, every entry applied exactly once over restarts, nothing acknowledged ever lost.

mod alone;
mod beats;
mod cache;
mod chaos;
mod checkpoints;
mod cluster;
mod hand;
mod lanes;
mod ledger;
mod log;
mod measure;
mod members;
mod network;
mod only_voter;
mod returned;
mod rules;

use super::*;
use crate::rt;
use crate::store::StoreOptions;
use std::path::Path;
use std::time::Duration;

const GROUP: GroupId = 7;
/// The node of tests with one.
const NODE: NodeId = 11;

fn store_options() -> StoreOptions {
    StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() }
}

/// Ten times as fast as in production, so that elections take 0.1 s.
fn options() -> RaftOptions {
    RaftOptions { tick: Duration::from_millis(15), ..RaftOptions::default() }
}

fn open_log(path: &Path) -> LogStore {
    LogStore::open(path.join("log"), store_options()).unwrap()
}

fn text(index: LogIndex, term: u64) -> Bytes {
    Bytes::from(format!("entry {index} of term {term}"))
}

fn entries(first: LogIndex, count: u64, term: u64) -> Vec<LogEntry> {
    let entry = |index| LogEntry { index, term, kind: EntryKind::Command, data: text(index, term) };
    (first..first + count).map(entry).collect()
}

fn append(log: &LogStore, group: GroupId, first: LogIndex, count: u64, term: u64) -> Result<(), LogError> {
    log.write([&LogWrite { group, entries: entries(first, count, term), ..LogWrite::default() }])
}

/// The log of a group as it is when its members agree on its beginning.
fn begin(log: &LogStore, group: GroupId, voters: &[NodeId]) {
    log.write([&LogWrite {
        group,
        reset: Some((1, 1)),
        hard: Some(HardState { term: 1, vote: 0, commit: 1 }),
        members: Some(Members { index: 1, voters: voters.to_vec(), ..Members::default() }),
        ..LogWrite::default()
    }])
    .unwrap();
}

fn run<T>(test: impl Future<Output = T>) -> T {
    rt::block_on(2, test).unwrap()
}

/// Waits until `is_so`, at most 20 s.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = rt::time::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(rt::time::now() < deadline, "never so: {what}");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}
