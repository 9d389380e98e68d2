//! What a start makes of what the life before it left, on the real engine: ends of journals that nothing proves, journals that were begun
//! and not used, folders that are gone.

use super::*;
use std::time::SystemTime;

/// After a failed fsync the kernel shows what the disk does not have, and calls it clean: only another write brings it there.
#[test]
fn the_end_of_a_journal_that_nothing_proves_is_written_again() {
    for discipline in [Discipline::EveryCommitSynced, Discipline::SyncedNowAndThen] {
        let directory = tempfile::tempdir().unwrap();
        let ends = three_batches(directory.path());
        let (file, _) = journal_of(directory.path());
        let good = fs::read(&file).unwrap();
        // As it is; and with a torn end, which goes.
        for (torn, kept) in [(ends[2], ends[2]), (ends[2] - 1, ends[1])] {
            fs::write(&file, &good[..torn]).unwrap();
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let whole = fs::read(&file).unwrap();
            journal::verify(directory.path(), discipline).unwrap();
            assert!(fs::read(&file).unwrap() == whole[..kept], "{discipline:?}: other bytes");
            let modified = fs::metadata(&file).unwrap().modified().unwrap();
            assert!(modified > SystemTime::UNIX_EPOCH, "{discipline:?}: not written");
        }
    }
}

/// Without its marker a database that holds something is refused: a power loss after the next start must not take it.
#[test]
fn the_marker_is_written_again_at_each_start() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(directory.path(), options()).unwrap());
    let marker = directory.path().join("version");
    let before = fs::read(&marker).unwrap();
    fs::OpenOptions::new().write(true).open(&marker).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    drop(Store::open(directory.path(), options()).unwrap());
    assert!(fs::metadata(&marker).unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH, "not written");
    assert_eq!(fs::read(&marker).unwrap(), before);
}

/// As the engine makes one: its length set in advance, nothing written.
fn begin_a_journal(directory: &Path, name: &str) -> PathBuf {
    let file = directory.join(name);
    fs::File::create(&file).unwrap().set_len(JOURNAL_BYTES_MIN).unwrap();
    file
}

/// A write fails and is cut short, and before the node has stopped one of the engine's threads begins the next journal.
#[test]
fn a_torn_batch_is_cut_off_also_when_the_next_journal_was_begun() {
    for discipline in [Discipline::EveryCommitSynced, Discipline::SyncedNowAndThen] {
        let open = |path: &Path| Store::open(path, StoreOptions { discipline, ..options() });
        let directory = tempfile::tempdir().unwrap();
        let ends = three_batches(directory.path());
        let (torn, _) = journal_of(directory.path());
        fs::OpenOptions::new().write(true).open(&torn).unwrap().set_len(ends[2] as u64 - 20).unwrap();
        begin_a_journal(directory.path(), "1.jnl");
        begin_a_journal(directory.path(), "2.jnl");
        for there in [&[&[1], &[2]][..], &[&[1], &[2], &[9]], &[&[1], &[2], &[9]]] {
            let store = open(directory.path()).unwrap();
            let space = store.space("s").unwrap();
            assert_eq!(keys(&store, &space, Direction::Forward), there, "{discipline:?}");
            put(&store, &space, &[9], &[9; 100]);
        }
    }
}

#[test]
fn a_torn_batch_is_damage_when_the_next_journal_was_used() {
    let directory = tempfile::tempdir().unwrap();
    let ends = three_batches(directory.path());
    let (first, _) = journal_of(directory.path());
    let good = fs::read(&first).unwrap();
    fs::write(&first, &good[..ends[1] + 20]).unwrap();
    let second = begin_a_journal(directory.path(), "1.jnl");
    std::os::unix::fs::FileExt::write_all_at(
        &fs::OpenOptions::new().write(true).open(second).unwrap(),
        &good[ends[1]..],
        0,
    )
    .unwrap();
    let refused = Store::open(directory.path(), every_commit_synced()).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt { path, .. } if *path == first), "{refused}");
    assert!(fs::read(&first).unwrap() == good[..ends[1] + 20], "the journal was changed");
}

/// The engine takes a space without its `current` for one that was never finished, and deletes it.
#[test]
fn a_space_that_lost_its_list_of_tables_is_refused_and_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { maintenance: Maintenance::Caller, memtable_bytes_max: 1, ..options() };
    {
        let store = Store::open(directory.path(), options.clone()).unwrap();
        for name in ["dropped", "s", "t"] {
            put(&store, &store.space(name).unwrap(), b"key", &[7; 500]);
        }
        assert!(store.drop_space("dropped").unwrap());
        store.maintain().unwrap();
    }
    let space = directory.path().join("keyspaces/2");
    let (current, aside) = (space.join("current"), directory.path().join("keyspaces/2/aside"));
    fs::rename(&current, &aside).unwrap();
    let refused = Store::open(directory.path(), options.clone()).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt { path, .. } if *path == current), "{refused}");
    assert_eq!(fs::read_dir(space.join("tables")).unwrap().count(), 1);
    fs::rename(&aside, &current).unwrap();
    // The whole folder gone.
    let away = directory.path().join("away");
    fs::rename(&space, &away).unwrap();
    let refused = Store::open(directory.path(), options.clone()).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt { path, .. } if *path == current), "{refused}");
    fs::rename(&away, &space).unwrap();
    let store = Store::open(directory.path(), options).unwrap();
    let space = store.space("s").unwrap();
    assert_eq!(store.view().get(&space, b"key").unwrap().as_deref(), Some(&[7; 500][..]));
    assert_eq!(store.space_names(), ["s", "t"]);
}
