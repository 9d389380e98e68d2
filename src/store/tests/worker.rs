//! The engine's own threads: one that fails is known soon, though nobody writes any more.

use super::*;
use crate::rt;
use std::time::Duration;

#[tokio::test]
async fn a_thread_of_the_engine_that_failed_is_known_without_another_write() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { maintenance: Maintenance::Threads(2), memtable_bytes_max: 1, ..options() };
    let store = Store::open(directory.path(), options).unwrap();
    let space = store.space("s").unwrap();
    store.ask_engine();
    assert!(!store.is_poisoned(), "nothing is wrong yet");
    fs::remove_dir_all(directory.path().join("keyspaces/1/tables")).unwrap();
    put(&store, &space, b"key", b"flushed at once");
    let found = rt::time::timeout(Duration::from_secs(10), async {
        while !store.is_poisoned() {
            rt::time::sleep(Duration::from_millis(10)).await;
            store.ask_engine();
        }
    });
    assert!(found.await.is_ok(), "a flush failed, and nobody knows");
    assert!(matches!(store.sync(), Err(StoreError::Poisoned { .. })));
}
