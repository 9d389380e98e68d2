//! The engine's own threads: one that fails is known soon, though nobody writes any more.

use super::*;
use crate::rt;
use crate::types::limits::SPACES_PER_STORE_MAX;
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

/// The engine's start would wait for ever for room in a mailbox that nobody empties.
#[test]
fn a_store_takes_no_more_spaces_than_it_opens_again() {
    // Thousands of syncs: in memory, where that is to be had.
    let on =
        Some(Path::new("/dev/shm")).filter(|memory| memory.is_dir()).map_or_else(std::env::temp_dir, Path::to_owned);
    let directory = tempfile::tempdir_in(on).unwrap();
    let options = StoreOptions { maintenance: Maintenance::Caller, memtable_bytes_max: 1, ..options() };
    let fill = |store: &Store, name: &str| {
        let mut batch = store.batch();
        batch.put(&store.space(name)?, b"key", b"value");
        batch.commit(Durability::Buffered)
    };
    let names: Vec<String> = (0..SPACES_PER_STORE_MAX).map(|number| number.to_string()).collect();
    {
        let store = Store::open(directory.path(), options.clone()).unwrap();
        names.iter().for_each(|name| fill(&store, name).unwrap());
        store.maintain().unwrap();
    }
    let store = Store::open(directory.path(), options).unwrap();
    assert_eq!(store.space_names().len(), names.len());
    let refused = fill(&store, "one more").unwrap_err();
    assert!(matches!(refused, StoreError::TooManySpaces { max: SPACES_PER_STORE_MAX, .. }), "{refused}");
    assert!(!store.is_poisoned());
    fill(&store, &names[0]).unwrap();
    assert!(store.drop_space(&names[0]).unwrap());
    fill(&store, "one more").unwrap();
}
