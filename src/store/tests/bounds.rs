//! Many spaces that hold a little each: together they keep within the bound of the journals, which each of them alone never reaches.

use super::*;
use crate::rt;
use fjall::AbstractTree;
use std::time::Duration;

const MIB: usize = 1 << 20;
const SPACES: usize = 20;
/// In each space; together two and a half times the bound.
const PUTS: usize = 8;

/// In memory, where that is to be had.
fn directory() -> TempDir {
    let on = Some(Path::new("/dev/shm")).filter(|memory| memory.is_dir());
    tempfile::tempdir_in(on.map_or_else(std::env::temp_dir, Path::to_owned)).unwrap()
}

fn value(space: usize, turn: usize) -> Vec<u8> {
    vec![(1 + space * PUTS + turn) as u8; MIB]
}

/// In turn, so that all spaces are in every journal. What the journals came to at most.
fn fill(store: &Store) -> u64 {
    let spaces: Vec<Space> = (0..SPACES).map(|space| store.space(&space.to_string()).unwrap()).collect();
    let mut most = 0;
    for turn in 0..PUTS {
        for (number, space) in spaces.iter().enumerate() {
            let mut batch = store.batch();
            batch.put(space, &[turn as u8 + 1], &value(number, turn));
            batch.commit(Durability::Buffered).unwrap();
            most = most.max(journals(store));
        }
    }
    most
}

fn journals(store: &Store) -> u64 {
    let (sealed, active) = journal::lengths(store.path()).unwrap();
    sealed + active
}

/// Once the engine's threads have come to the end.
async fn journals_in_the_end(store: &Store) -> u64 {
    let within = rt::time::timeout(Duration::from_secs(20), async {
        while journals(store) > 2 * JOURNAL_BYTES_MIN {
            rt::time::sleep(Duration::from_millis(10)).await;
        }
    });
    // The bound is for the caller to check.
    let _ = within.await;
    journals(store)
}

fn assert_all_there(store: &Store) {
    for number in 0..SPACES {
        let space = store.space(&number.to_string()).unwrap();
        for turn in 0..PUTS {
            let found = store.view().get(&space, &[turn as u8 + 1]).unwrap();
            assert!(found.as_deref() == Some(&value(number, turn)[..]), "space {number}, value {turn}");
        }
    }
}

fn in_memory(store: &Store) -> u64 {
    let spaces = (0..SPACES).map(|number| store.space(&number.to_string()).unwrap());
    spaces.map(|space| space.keyspace.tree.active_memtable().size()).sum()
}

#[tokio::test]
async fn many_spaces_together_keep_the_journals_within_their_bound() {
    let directory = directory();
    let options = StoreOptions { maintenance: Maintenance::Threads(2), journal_bytes_max: 0, ..options() };
    let store = Store::open(directory.path(), options.clone()).unwrap();
    let most = fill(&store);
    let left = journals_in_the_end(&store).await;
    assert!(left <= 2 * JOURNAL_BYTES_MIN, "{} MiB of journals, {} MiB at most", left >> 20, most >> 20);
    assert!(in_memory(&store) <= 2 * JOURNAL_BYTES_MIN, "{} MiB in memory", in_memory(&store) >> 20);
    assert_all_there(&store);
    drop(store);
    assert_all_there(&Store::open(directory.path(), options).unwrap());
}

/// As versions before left it: the start reads it once, and the next one does not again.
#[tokio::test]
async fn a_journal_that_grew_too_long_is_given_up_after_the_start_that_finds_it() {
    let directory = directory();
    let options = StoreOptions { maintenance: Maintenance::Caller, ..options() };
    fill(&Store::open(directory.path(), options.clone()).unwrap());
    // With memtables as small as this, it is so much too long that the start waits for a flush.
    let options = StoreOptions { maintenance: Maintenance::Threads(2), memtable_bytes_max: MIB as u64, ..options };
    let store = Store::open(directory.path(), options.clone()).unwrap();
    let left = journals_in_the_end(&store).await;
    assert!(left <= 2 * JOURNAL_BYTES_MIN, "{} MiB of journals", left >> 20);
    drop(store);
    assert_all_there(&Store::open(directory.path(), options).unwrap());
}

#[test]
fn the_caller_keeps_what_many_spaces_hold_in_memory_within_the_bound() {
    let directory = directory();
    let options = StoreOptions { maintenance: Maintenance::Caller, journal_bytes_max: 0, ..options() };
    let store = Store::open(directory.path(), options.clone()).unwrap();
    fill(&store);
    assert!(in_memory(&store) > 2 * JOURNAL_BYTES_MIN);
    store.maintain().unwrap();
    let (left, flushed) = (in_memory(&store), |store: &Store| {
        let flushed = |number: &usize| store.space(&number.to_string()).unwrap().disk_bytes() > 0;
        (0..SPACES).filter(flushed).collect::<Vec<usize>>()
    });
    assert!(left <= JOURNAL_BYTES_MIN, "{} MiB in memory", left >> 20);
    // No more than was needed, in the order of names.
    assert!(left > JOURNAL_BYTES_MIN - 9 * MIB as u64, "{} MiB in memory", left >> 20);
    let there = flushed(&store);
    assert_eq!(there.len(), 13);
    let mut names: Vec<String> = (0..SPACES).map(|number| number.to_string()).collect();
    names.sort();
    let mut first: Vec<usize> = names[..13].iter().map(|name| name.parse().unwrap()).collect();
    first.sort_unstable();
    assert_eq!(there, first);
    store.maintain().unwrap();
    assert_eq!(flushed(&store), there, "nothing was left to do");
    assert_all_there(&store);
    drop(store);
    assert_all_there(&Store::open(directory.path(), options).unwrap());
}
