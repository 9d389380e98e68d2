//! The promises of the store as a whole, on the real engine: atomic and consistent, durable, refusing damage, poisoned by
//! failure. Damage is done to real journals at chosen places.

mod bounds;
mod restart;
mod worker;

use super::*;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn options() -> StoreOptions {
    StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() }
}

fn every_commit_synced() -> StoreOptions {
    StoreOptions { discipline: Discipline::EveryCommitSynced, ..options() }
}

fn put(store: &Store, space: &Space, key: &[u8], value: &[u8]) {
    let mut batch = store.batch();
    batch.put(space, key, value);
    batch.commit(Durability::Synced).unwrap();
}

fn keys(store: &Store, space: &Space, direction: Direction) -> Vec<Vec<u8>> {
    let all = store.view().range(space, &b"\0"[..]..&b"\xff"[..], direction);
    all.map(|entry| entry.unwrap().0.to_vec()).filter(|key| key != super::keys::SYNC_MARK_KEY).collect()
}

/// The journal in use, and its length without the space set aside.
fn journal_of(database: &Path) -> (PathBuf, usize) {
    let file = database.join("0.jnl");
    let mut bytes = Vec::new();
    fs::File::open(&file).unwrap().take(1 << 16).read_to_end(&mut bytes).unwrap();
    (file, bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
}

fn change(file: &Path, at: usize, to: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] = to;
    fs::write(file, bytes).unwrap();
}

/// Three synced batches of one record each; the end of each in the journal.
fn three_batches(path: &Path) -> Vec<usize> {
    let store = Store::open(path, every_commit_synced()).unwrap();
    let space = store.space("s").unwrap();
    let write_and_measure = |i| {
        put(&store, &space, &[i], &[i; 100]);
        journal_of(path).1
    };
    let ends: Vec<usize> = (1..=3).map(write_and_measure).collect();
    drop((store, space));
    // Without the space set aside, so that the tests copy little.
    let (file, length) = journal_of(path);
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length as u64).unwrap();
    ends
}

#[test]
fn batches_are_atomic_over_spaces_and_views_do_not_change() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    let (a, b) = (store.space("a").unwrap(), store.space("b").unwrap());
    let mut batch = store.batch();
    batch.put(&a, b"k1", b"1");
    batch.put(&b, b"k2", b"2");
    assert_eq!((batch.len(), batch.bytes()), (2, 6));
    let before = store.view();
    batch.commit(Durability::Buffered).unwrap();
    let between = store.view();
    let mut batch = store.batch();
    batch.delete(&a, b"k1");
    batch.put(&b, b"k2", b"3");
    batch.commit(Durability::Buffered).unwrap();
    assert_eq!(before.get(&a, b"k1").unwrap(), None);
    assert_eq!(between.get(&a, b"k1").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(between.get(&b, b"k2").unwrap().as_deref(), Some(&b"2"[..]));
    assert!(!store.view().contains(&a, b"k1").unwrap());
    assert_eq!(store.view().get(&b, b"k2").unwrap().as_deref(), Some(&b"3"[..]));
}

#[test]
fn ranges_go_both_ways_and_end_before_their_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    let space = store.space("s").unwrap();
    for key in [&b"a"[..], b"ab", b"b", b"c"] {
        put(&store, &space, key, b"");
    }
    let range = |from: &[u8], to: &[u8], direction| -> Vec<Vec<u8>> {
        store.view().range(&space, from..to, direction).map(|entry| entry.unwrap().0.to_vec()).collect()
    };
    assert_eq!(range(b"a", b"c", Direction::Forward), [&b"a"[..], b"ab", b"b"]);
    assert_eq!(range(b"aa", b"d", Direction::Backward), [&b"c"[..], b"b", b"ab"]);
    assert!(range(b"c", b"a", Direction::Forward).is_empty());
    let prefix: Vec<_> =
        store.view().prefix(&space, b"a", Direction::Backward).map(|e| e.unwrap().0.to_vec()).collect();
    assert_eq!(prefix, [&b"ab"[..], b"a"]);
}

#[test]
fn spaces_are_found_again_and_dropped_for_good() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = Store::open(directory.path(), options()).unwrap();
        let kept = store.space("kept").unwrap();
        let dropped = store.space("dropped").unwrap();
        put(&store, &kept, b"k", b"v");
        put(&store, &dropped, b"k", b"old");
        assert!(store.drop_space("dropped").unwrap());
        assert!(!store.drop_space("dropped").unwrap());
        // A space of the same name is a new one.
        let again = store.space("dropped").unwrap();
        assert_eq!(store.view().get(&again, b"k").unwrap(), None);
        assert!(store.drop_space("dropped").unwrap());
    }
    let store = Store::open(directory.path(), options()).unwrap();
    assert_eq!(store.space_names(), ["kept"]);
    let (kept, dropped) = (store.space("kept").unwrap(), store.space("dropped").unwrap());
    assert_eq!(store.view().get(&kept, b"k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(store.view().get(&dropped, b"k").unwrap(), None);
}

/// The engine numbers its catalogue's changes with everybody's, and begins again behind what the spaces hold. Found by the simulation
/// (etcd with aliases, seed 60069): a space dropped after a restart under the number of its creation was half there, and the database
/// could not be opened any more.
#[test]
fn spaces_made_last_before_a_restart_and_dropped_after_it_are_gone() {
    let open = |directory: &TempDir, options: &StoreOptions| Store::open(directory.path(), options.clone()).unwrap();
    let names = |of: &str| -> Vec<String> { (0..8).map(|number| format!("{of} {number}")).collect() };
    let (late, new) = (names("late"), names("new"));
    for (options, last_first) in [(options(), false), (options(), true), (every_commit_synced(), true)] {
        let directory = tempfile::tempdir().unwrap();
        {
            let store = open(&directory, &options);
            put(&store, &store.space("kept").unwrap(), b"k", b"v");
            late.iter().for_each(|name| drop(store.space(name).unwrap()));
        }
        {
            let store = open(&directory, &options);
            let mut order: Vec<&String> = late.iter().collect();
            if last_first {
                order.reverse();
            }
            assert!(order.into_iter().all(|name| store.drop_space(name).unwrap()));
        }
        {
            let store = open(&directory, &options);
            assert_eq!(store.space_names(), ["kept"]);
            for name in &new {
                put(&store, &store.space(name).unwrap(), b"k", name.as_bytes());
            }
        }
        let store = open(&directory, &options);
        assert_eq!(store.space_names()[1..], new);
        for name in &new {
            let space = store.space(name).unwrap();
            assert_eq!(store.view().get(&space, b"k").unwrap().as_deref(), Some(name.as_bytes()));
        }
    }
}

/// As above, with nothing else in the database: numbers of spaces come again, too.
#[test]
fn a_database_emptied_of_spaces_takes_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let store = Store::open(directory.path(), options()).unwrap();
        for name in store.space_names() {
            let space = store.space(&name).unwrap();
            assert_eq!(store.view().get(&space, b"k").unwrap().as_deref(), Some(&[round][..]), "{name}");
            assert!(store.drop_space(&name).unwrap());
        }
        drop(store);
        let store = Store::open(directory.path(), options()).unwrap();
        assert!(store.space_names().is_empty(), "{:?}", store.space_names());
        put(&store, &store.space("only").unwrap(), b"k", &[round + 1]);
    }
}

#[test]
fn bounds_are_errors_and_harm_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    let space = store.space("s").unwrap();
    for key in [vec![], vec![1; KEY_BYTES_MAX + 1]] {
        let mut batch = store.batch();
        batch.put(&space, b"good", b"");
        batch.put(&space, &key, b"");
        assert!(matches!(batch.commit(Durability::Synced), Err(StoreError::OutOfBounds { field: "key", .. })));
    }
    for name in [String::new(), "x".repeat(SPACE_NAME_BYTES_MAX + 1)] {
        assert!(matches!(store.space(&name), Err(StoreError::OutOfBounds { field: "space name", .. })));
    }
    assert!(!store.is_poisoned());
    assert!(keys(&store, &space, Direction::Forward).is_empty());
    store.batch().commit(Durability::Synced).unwrap();
}

#[test]
fn maintenance_by_the_caller_flushes_merges_and_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { maintenance: Maintenance::Caller, memtable_bytes_max: 10_000, ..options() };
    let open = || Store::open(directory.path(), options.clone()).unwrap();
    let (store, mut expected) = (open(), Vec::new());
    let space = store.space("s").unwrap();
    for i in 0..200u32 {
        let mut batch = store.batch();
        batch.put(&space, &i.to_be_bytes(), &[i as u8; 1000]);
        batch.put(&space, b"overwritten", &i.to_be_bytes());
        batch.commit(Durability::Buffered).unwrap();
        store.maintain().unwrap();
        expected.push(i.to_be_bytes().to_vec());
    }
    expected.push(b"overwritten".to_vec());
    assert!(space.disk_bytes() > 150_000, "{} bytes were flushed", space.disk_bytes());
    let (on_disk, stored) = (space.disk_bytes(), space.stored_bytes());
    let mut batch = store.batch();
    batch.put(&space, b"overwritten not", &[0; 4_000]);
    batch.commit(Durability::Buffered).unwrap();
    expected.push(b"overwritten not".to_vec());
    assert_eq!(space.disk_bytes(), on_disk);
    assert!(space.stored_bytes() >= stored + 4_000, "{} and {stored}", space.stored_bytes());
    assert!(space.keyspace.table_count() <= 5, "{} tables", space.keyspace.table_count());
    drop((store, space));
    let store = open();
    let space = store.space("s").unwrap();
    assert_eq!(keys(&store, &space, Direction::Forward), expected);
    assert_eq!(store.view().get(&space, b"overwritten").unwrap().as_deref(), Some(&199u32.to_be_bytes()[..]));
}

#[test]
fn damage_before_synced_batches_is_refused_and_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let ends = three_batches(directory.path());
    let (file, _) = journal_of(directory.path());
    let good = fs::read(&file).unwrap();
    // Tag, count, a length, a byte of the value, the checksum, the trailer of the second batch: all but its number,
    // which no checksum covers.
    for at in [ends[0], ends[0] + 1, ends[0] + 30, ends[0] + 60, ends[1] - 8, ends[1] - 1] {
        change(&file, at, good[at] ^ 0x55);
        let before = fs::read(&file).unwrap();
        let refused = Store::open(directory.path(), every_commit_synced()).map(|_| ()).unwrap_err();
        assert!(matches!(&refused, StoreError::Corrupt { path, .. } if *path == file), "byte {at}: {refused}");
        assert!(fs::read(&file).unwrap() == before, "byte {at}: the journal was changed");
        fs::write(&file, &good).unwrap();
    }
    let store = Store::open(directory.path(), every_commit_synced()).unwrap();
    assert_eq!(keys(&store, &store.space("s").unwrap(), Direction::Forward), [[1], [2], [3]]);
}

#[test]
fn a_torn_last_batch_is_cut_off_wherever_it_was_torn() {
    for discipline in [Discipline::EveryCommitSynced, Discipline::SyncedNowAndThen] {
        let directory = tempfile::tempdir().unwrap();
        let ends = three_batches(directory.path());
        let (file, _) = journal_of(directory.path());
        let good = fs::read(&file).unwrap();
        for at in ends[1]..ends[2] {
            // Lost from here on; and only this byte lost, everything after it on the disk.
            for hole in [at..ends[2], at..at + 1] {
                let (mut torn, hole_end) = (good.clone(), hole.end - 1);
                torn[hole].fill(0);
                // The engine's checksum does not cover a batch's number (bytes 5 to 12); it is never torn alone, because
                // the bytes behind it are in the same sector.
                if torn == good || (at == hole_end && (5..13).contains(&(at - ends[1]))) {
                    continue;
                }
                fs::write(&file, &torn).unwrap();
                journal::verify(directory.path(), discipline).unwrap();
                let left = fs::read(&file).unwrap();
                assert!(
                    left[..ends[1]] == good[..ends[1]] && left[ends[1]..].iter().all(|byte| *byte == 0),
                    "byte {at}"
                );
            }
        }
        let store = Store::open(directory.path(), StoreOptions { discipline, ..options() }).unwrap();
        let space = store.space("s").unwrap();
        assert_eq!(keys(&store, &space, Direction::Forward), [[1], [2]]);
        put(&store, &space, &[9], b"");
        drop((store, space));
        let store = Store::open(directory.path(), StoreOptions { discipline, ..options() }).unwrap();
        assert_eq!(keys(&store, &store.space("s").unwrap(), Direction::Backward), [[9], [2], [1]]);
    }
}

#[test]
fn only_batches_after_the_last_sync_may_be_torn_in_any_order() {
    // Syncs after the given batch, by a synced commit or alone; damages the second of four.
    for (sync_after, by_commit, corrupt) in [
        (1, false, false),
        (1, true, false),
        (2, false, true),
        (2, true, true),
        (3, false, true),
        (3, true, true),
        (4, false, true),
        (4, true, true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        {
            let store = Store::open(directory.path(), options()).unwrap();
            let space = store.space("s").unwrap();
            for i in 1..=4u8 {
                let mut batch = store.batch();
                batch.put(&space, &[i], &[i; 100]);
                let is_synced_commit = by_commit && i == sync_after;
                batch.commit(if is_synced_commit { Durability::Synced } else { Durability::Buffered }).unwrap();
                if i == sync_after && !by_commit {
                    store.sync().unwrap();
                }
            }
        }
        let (file, _) = journal_of(directory.path());
        let written = fs::read(&file).unwrap();
        let second = written.windows(100).position(|bytes| bytes == [2; 100]).unwrap();
        change(&file, second + 50, 0xaa);
        let opened = Store::open(directory.path(), options());
        let case = format!("sync after {sync_after}, by commit: {by_commit}");
        match opened {
            Err(refused) => assert!(corrupt && matches!(refused, StoreError::Corrupt { .. }), "{case}: {refused}"),
            Ok(store) => {
                assert!(!corrupt, "{case}: not seen");
                assert_eq!(keys(&store, &store.space("s").unwrap(), Direction::Forward), [[1]], "{case}");
            }
        }
    }
}

#[test]
fn a_lost_catalogue_of_spaces_is_refused_and_no_space_deleted() {
    let directory = tempfile::tempdir().unwrap();
    three_batches(directory.path());
    fs::remove_file(directory.path().join("keyspaces/0/current")).unwrap();
    let refused = Store::open(directory.path(), every_commit_synced()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    assert!(directory.path().join("keyspaces/1/current").exists());
}

/// The engine's checksum of a batch does not cover its number, by which the newest of several records of a key is told.
#[test]
fn a_changed_number_of_a_batch_is_refused_or_does_no_harm() {
    for options in [every_commit_synced(), options()] {
        let directory = tempfile::tempdir().unwrap();
        let sound = directory.path().join("sound");
        let store = Store::open(&sound, options.clone()).unwrap();
        let space = store.space("s").unwrap();
        let mut starts = Vec::new();
        for value in 1..=3 {
            starts.push(journal_of(&sound).1);
            put(&store, &space, b"k", &[value; 9]);
        }
        drop((store, space));
        let (file, length) = journal_of(&sound);
        let bytes = fs::read(file).unwrap()[..length].to_vec();
        // The first batch of each put: a start record, its items, its number.
        for (batch, bit) in starts.iter().flat_map(|start| (0..64).map(move |bit| (*start, bit))) {
            let mut changed = bytes.clone();
            assert_eq!(changed[batch], 1, "a start record");
            changed[batch + 5 + bit / 8] ^= 1 << (bit % 8);
            fs::write(sound.join("0.jnl"), &changed).unwrap();
            let opened = Store::open(&sound, options.clone());
            match opened {
                Err(refused) => assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}"),
                Ok(store) => {
                    let space = store.space("s").unwrap();
                    let found = store.view().get(&space, b"k").unwrap();
                    assert_eq!(found.as_deref(), Some(&[3; 9][..]), "bit {bit} at {batch}");
                    put(&store, &space, b"k", b"new");
                    let found = store.view().get(&space, b"k").unwrap();
                    assert_eq!(found.as_deref(), Some(&b"new"[..]), "bit {bit} at {batch}");
                }
            }
        }
    }
}

#[test]
fn an_unfinished_creation_is_finished_and_a_lost_marker_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    fs::create_dir_all(path.join("keyspaces")).unwrap();
    fs::write(path.join("lock"), b"").unwrap();
    fs::write(path.join("0.jnl"), [0; 8192]).unwrap();
    for marker in [None, Some(&b""[..]), Some(&[0; 4][..]), Some(b"FJL"), Some(b"FJL\0"), Some(b"\0\0\0\x03")] {
        if let Some(marker) = marker {
            fs::write(path.join("version"), marker).unwrap();
        }
        drop(Store::open(&path, options()).unwrap());
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir_all(path.join("keyspaces")).unwrap();
        fs::write(path.join("0.jnl"), b"").unwrap();
    }
    three_batches(&path);
    fs::remove_file(path.join("version")).unwrap();
    let refused = Store::open(&path, options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    fs::write(path.join("version"), b"FJL\x04").unwrap();
    let refused = Store::open(&path, options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 4, supported: 3, .. }), "{refused}");
    fs::write(path.join("version"), b"FJL\x03").unwrap();
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(keys(&store, &store.space("s").unwrap(), Direction::Forward).len(), 3);
}

#[test]
fn a_damaged_table_is_refused_at_open_or_at_the_read() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { maintenance: Maintenance::Caller, memtable_bytes_max: 1, ..options() };
    {
        let store = Store::open(directory.path(), options.clone()).unwrap();
        put(&store, &store.space("s").unwrap(), b"key", &[7; 500]);
        store.maintain().unwrap();
    }
    let tables = directory.path().join("keyspaces/1/tables");
    let table = fs::read_dir(&tables).unwrap().next().unwrap().unwrap().path();
    let place = fs::read(&table).unwrap().windows(4).position(|bytes| bytes == [7; 4]).unwrap();
    change(&table, place, 8);
    let read = Store::open(directory.path(), options).and_then(|store| {
        let space = store.space("s")?;
        store.view().get(&space, b"key")
    });
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
}

/// Set for the child of the next test: where to write.
const CHILD_PATH: &str = "VECTORSPHERE_TEST_STORE";

#[test]
fn buffered_commits_survive_the_death_of_the_process() {
    if let Some(path) = std::env::var_os(CHILD_PATH) {
        let store = Store::open(path, options()).unwrap();
        let space = store.space("s").unwrap();
        for i in 0..1000u32 {
            let mut batch = store.batch();
            batch.put(&space, &i.to_be_bytes(), &[1; 300]);
            batch.commit(Durability::Buffered).unwrap();
        }
        // SAFETY: sends a signal to this very process; no memory is involved.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let directory = tempfile::tempdir().unwrap();
    let name = "store::tests::buffered_commits_survive_the_death_of_the_process";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let died = child.args(["--exact", name]).env(CHILD_PATH, directory.path()).output().unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&died), Some(libc::SIGKILL));
    let store = Store::open(directory.path(), options()).unwrap();
    assert_eq!(keys(&store, &store.space("s").unwrap(), Direction::Forward).len(), 1000);
}

#[test]
fn a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path(), options()).unwrap();
    let refused = Store::open(directory.path(), options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
}

#[test]
fn a_failed_write_poisons_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    let space = store.space("s").unwrap();
    let full = || fjall::Error::Io(std::io::ErrorKind::StorageFull.into());
    assert!(matches!(store.write::<()>("commit", || Err(full())), Err(StoreError::NoSpace { .. })));
    let mut batch = store.batch();
    batch.put(&space, b"k", b"v");
    assert!(matches!(batch.commit(Durability::Buffered), Err(StoreError::Poisoned { .. })));
    assert!(matches!(store.sync(), Err(StoreError::Poisoned { .. })));
    assert!(matches!(store.space("other"), Err(StoreError::Poisoned { .. })));
    // What was there can still be read.
    assert_eq!(store.view().get(&space, b"k").unwrap(), None);
}
