//! The promises of the log and of a group of one, on a real disk: no gap, no damage unseen, one sync for many writers,
//! every entry applied exactly once over restarts.

use super::group::Shared;
use super::*;
use crate::rt;
use crate::store::keys::{LOG_SPACE, log as keys, meta};
use crate::store::{Discipline, Durability, Space, Store, StoreError, StoreOptions};
use futures_util::future::join_all;
use std::path::Path;
use std::sync::{Arc, Mutex};

const GROUP: GroupId = 7;

fn options() -> StoreOptions {
    StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() }
}

fn open_log(path: &Path) -> LogStore {
    LogStore::open(path.join("log"), options()).unwrap()
}

fn entries(first: LogIndex, count: u64, term: u64) -> Arc<[Entry]> {
    let entry = |index| Entry { index, term, data: Bytes::from(format!("entry {index} of term {term}")) };
    (first..first + count).map(entry).collect()
}

fn append(log: &LogStore, group: GroupId, first: LogIndex, count: u64, term: u64) -> Result<(), LogError> {
    log.append(&[Append { group, entries: entries(first, count, term) }])
}

/// Applies entries by putting each into a space under its index, together with the applied index.
struct Ledger {
    store: Store,
    space: Space,
    applied: LogIndex,
    /// What to do instead of applying this index.
    fault: Option<(LogIndex, Fault)>,
    synced: Arc<Mutex<LogIndex>>,
}

#[derive(Clone, Copy)]
enum Fault {
    Error,
    Panic,
    /// Forget to answer.
    Silence,
}

impl Ledger {
    fn open(path: &Path) -> Ledger {
        let store = Store::open(path.join("data"), options()).unwrap();
        let space = store.space("ledger").unwrap();
        let applied = store.view().get(&space, &meta::MetaKey::AppliedIndex.key()).unwrap();
        let applied = applied.map_or(0, |value| meta::decode(&value).unwrap());
        Ledger { store, space, applied, fault: None, synced: Arc::default() }
    }

    /// The data of every applied entry in order, checking that none was applied twice (a second time appends).
    fn read(path: &Path) -> Vec<String> {
        let ledger = Ledger::open(path);
        let texts = ledger.store.view().prefix(&ledger.space, b"entry", crate::store::Direction::Forward);
        texts.map(|record| String::from_utf8(record.unwrap().1.to_vec()).unwrap()).collect()
    }
}

impl StateMachine for Ledger {
    type Outcome = usize;

    fn applied(&self) -> LogIndex {
        self.applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<usize>, ApplyError> {
        let mut batch = self.store.batch();
        let mut outcomes = Vec::new();
        for entry in entries {
            match self.fault.filter(|(index, _)| *index == entry.index) {
                None => outcomes.push(entry.data.len()),
                Some((index, Fault::Error)) => return Err(ApplyError::Entry { index, problem: "told to".into() }),
                Some((_, Fault::Panic)) => panic!("told to"),
                Some((_, Fault::Silence)) => {}
            }
            let key = [&b"entry"[..], &entry.index.to_be_bytes()].concat();
            let before = self.store.view().get(&self.space, &key)?;
            let value = [before.as_deref().unwrap_or_default(), &entry.data].concat();
            batch.put(&self.space, &key, &value);
            self.applied = entry.index;
        }
        batch.put(&self.space, &meta::MetaKey::AppliedIndex.key(), &meta::encode(self.applied));
        batch.commit(Durability::Buffered)?;
        Ok(outcomes)
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        self.store.sync()?;
        *self.synced.lock().unwrap() = self.applied;
        Ok(self.applied)
    }

    fn checkpoint(&mut self) -> Result<Box<dyn crate::raft::Checkpoint>, ApplyError> {
        unimplemented!("base of the branches")
    }

    fn install(&mut self, _at: u64, _chunks: &mut dyn crate::raft::CheckpointReader) -> Result<(), ApplyError> {
        unimplemented!("base of the branches")
    }
}

async fn start(path: &Path, options: SoloOptions) -> (Group<usize>, LogStore, LogWriter) {
    start_with(path, options, Ledger::open(path)).await
}

async fn start_with(path: &Path, options: SoloOptions, ledger: Ledger) -> (Group<usize>, LogStore, LogWriter) {
    let log = open_log(path);
    let writer = LogWriter::start(log.clone(), WriterOptions::default());
    let group = start_solo(GROUP, log.clone(), writer.clone(), ledger, options).await.unwrap();
    (group, log, writer)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    rt::block_on(2, test).unwrap()
}

#[test]
fn the_log_round_trips_over_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    {
        let log = open_log(directory.path());
        assert_eq!(log.bounds(GROUP), LogBounds::default());
        append(&log, GROUP, 1, 5, 1).unwrap();
        append(&log, GROUP, 6, 5, 2).unwrap();
        append(&log, 0, 1, 1, 9).unwrap();
        append(&log, u64::MAX, 1, 2, 1).unwrap();
        log.append(&[]).unwrap();
    }
    let log = open_log(directory.path());
    assert_eq!(log.group_ids(), [0, GROUP, u64::MAX]);
    assert_eq!(log.bounds(GROUP), LogBounds { last_index: 10, last_term: 2, ..LogBounds::default() });
    let expected = [&entries(1, 5, 1)[..], &entries(6, 5, 2)].concat();
    assert_eq!(log.read(GROUP, 1, usize::MAX).unwrap(), expected);
    assert_eq!(log.read(GROUP, 4, 0).unwrap(), expected[3..4], "at least one");
    assert_eq!(log.read(GROUP, 1, expected[0].data.len() * 2).unwrap(), expected[..2]);
    assert_eq!(log.read(GROUP, 11, usize::MAX).unwrap(), []);
    assert_eq!(log.last_index(u64::MAX), 2);
}

#[test]
fn appends_join_the_log_or_replace_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let log = open_log(directory.path());
    append(&log, GROUP, 1, 10, 1).unwrap();
    let gap = append(&log, GROUP, 12, 1, 1).unwrap_err();
    assert!(matches!(gap, LogError::OutOfRange { got: 12, first: 1, last: 11, .. }), "{gap}");
    let hole: Arc<[Entry]> = [entries(11, 1, 1)[0].clone(), entries(13, 1, 1)[0].clone()].into();
    assert!(matches!(log.append(&[Append { group: GROUP, entries: hole }]), Err(LogError::OutOfRange { got: 13, .. })));
    assert_eq!(log.last_index(GROUP), 10, "nothing was written");
    append(&log, GROUP, 4, 3, 2).unwrap();
    let expected = [&entries(1, 3, 1)[..], &entries(4, 3, 2)].concat();
    assert_eq!(log.read(GROUP, 1, usize::MAX).unwrap(), expected);
    // Two appends of a group in one batch follow each other.
    let both = [7, 9].map(|first| Append { group: GROUP, entries: entries(first, 2, 3) });
    log.append(&both).unwrap();
    drop(log);
    let log = open_log(directory.path());
    assert_eq!(log.read(GROUP, 1, usize::MAX).unwrap(), [expected, entries(7, 4, 3).to_vec()].concat());
}

#[test]
fn compaction_moves_the_first_index_and_keeps_the_term() {
    let directory = tempfile::tempdir().unwrap();
    {
        let log = open_log(directory.path());
        append(&log, GROUP, 1, 10_000, 1).unwrap();
        append(&log, GROUP, 10_001, 5, 2).unwrap();
        log.compact(GROUP, 10_003).unwrap();
        log.compact(GROUP, 3).unwrap();
        assert!(matches!(log.compact(GROUP, 10_006), Err(LogError::OutOfRange { got: 10_006, last: 10_005, .. })));
    }
    let log = open_log(directory.path());
    let expected = LogBounds { compacted_index: 10_003, compacted_term: 2, last_index: 10_005, last_term: 2 };
    assert_eq!(log.bounds(GROUP), expected);
    assert!(matches!(log.read(GROUP, 10_003, 1), Err(LogError::OutOfRange { first: 10_004, .. })));
    assert_eq!(log.read(GROUP, 10_004, usize::MAX).unwrap(), entries(10_004, 2, 2).to_vec());
    log.compact(GROUP, 10_005).unwrap();
    assert_eq!(log.read(GROUP, 10_006, usize::MAX).unwrap(), []);
    append(&log, GROUP, 10_006, 1, 3).unwrap();
    assert_eq!(log.read(GROUP, 10_006, usize::MAX).unwrap(), entries(10_006, 1, 3).to_vec());
    log.remove_group(GROUP).unwrap();
    log.remove_group(GROUP).unwrap();
    assert_eq!(log.bounds(GROUP), LogBounds::default());
    drop(log);
    assert!(open_log(directory.path()).group_ids().is_empty());
}

/// Opens the database of the log below `LogStore` and changes a record.
fn tamper(path: &Path, key: &[u8], value: Option<&[u8]>) {
    let store =
        Store::open(path.join("log"), StoreOptions { discipline: Discipline::EveryCommitSynced, ..options() }).unwrap();
    let space = store.space(LOG_SPACE).unwrap();
    let mut batch = store.batch();
    match value {
        Some(value) => batch.put(&space, key, value),
        None => batch.delete(&space, key),
    }
    batch.commit(Durability::Synced).unwrap();
}

#[test]
fn gaps_and_damaged_records_are_refused() {
    let good = entries(1, 9, 1);
    let moved = keys::encode_entry(GROUP, 4, 1, &good[3].data);
    let newer = [&[9], &moved[1..]].concat();
    // Key, value, and whether it is seen at open (else at the read).
    type Tampering<'a> = (Vec<u8>, Option<&'a [u8]>, bool);
    let cases: [Tampering; 7] = [
        (keys::entry_key(GROUP, 5).to_vec(), None, false),
        (keys::entry_key(GROUP, 5).to_vec(), Some(&moved), false),
        (keys::entry_key(GROUP, 4).to_vec(), Some(&newer), false),
        (keys::entry_key(GROUP, 9).to_vec(), Some(b"garbage"), true),
        (keys::entry_key(GROUP, 1).to_vec(), None, true),
        (keys::state_key(GROUP).to_vec(), Some(b"garbage"), true),
        (keys::state_key(GROUP).to_vec(), None, true),
    ];
    for (case, (key, value, at_open)) in cases.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        append(&open_log(directory.path()), GROUP, 1, 9, 1).unwrap();
        tamper(directory.path(), &key, value);
        let opened = LogStore::open(directory.path().join("log"), options());
        assert_eq!(opened.is_err(), at_open, "case {case}");
        let refused = opened.and_then(|log| log.read(GROUP, 1, usize::MAX)).unwrap_err();
        assert!(matches!(refused, LogError::Corrupt { group: GROUP, .. }), "case {case}: {refused}");
    }
}

#[test]
fn one_sync_carries_many_groups() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let log = open_log(directory.path());
        let writer = LogWriter::start(log.clone(), WriterOptions::default());
        let all = (0..500u64).map(|group| writer.append(Append { group, entries: entries(1, 2, 1) }));
        join_all(all).await.into_iter().for_each(|result| result.unwrap());
        let totals = writer.stats().totals();
        assert_eq!((totals.appends, totals.entries), (500, 1000));
        assert!(totals.syncs <= 5, "{} syncs for 500 groups at once", totals.syncs);
        assert!(totals.entries_per_sync_max >= 200 && totals.sync_duration >= totals.sync_duration_max);
        drop(writer);
        for group in 0..500 {
            assert_eq!(log.read(group, 1, usize::MAX).unwrap(), entries(1, 2, 1).to_vec());
        }
    });
}

#[test]
fn the_writers_queue_is_bounded_by_count_and_by_bytes() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let log = open_log(directory.path());
        for bounds in [
            WriterOptions { appends_max: 4, bytes_max: 1 << 20, metrics: None },
            WriterOptions { appends_max: 100, bytes_max: 60, metrics: None },
        ] {
            let writer = LogWriter::start(log.clone(), bounds);
            let all = (0..50u64).map(|group| writer.append(Append { group, entries: entries(1, 1, 1) }));
            let results = join_all(all).await;
            let taken = results.iter().filter(|result| result.is_ok()).count();
            assert!((1..50).contains(&taken), "{taken} of 50 were taken");
            assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(AppendError::Exhausted))));
            // Larger than the bound, but alone.
            writer.append(Append { group: 999, entries: entries(1, 20, 1) }).await.unwrap();
        }
    });
}

#[test]
fn a_failed_append_ends_the_writer() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let writer = LogWriter::start(open_log(directory.path()), WriterOptions::default());
        let failed = writer.append(Append { group: GROUP, entries: entries(5, 1, 1) }).await.unwrap_err();
        assert!(matches!(failed, AppendError::Failed(_)));
        let later = writer.append(Append { group: GROUP, entries: entries(1, 1, 1) }).await;
        assert_eq!(later, Err(failed));
    });
}

#[test]
fn proposals_are_applied_in_order_and_answered() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (group, _, writer) = start(directory.path(), SoloOptions::default()).await;
        assert_eq!(group.read_index().await, Ok(0));
        let all = (0..300).map(|i| group.propose(Bytes::from(vec![b'x'; i])));
        let answers = join_all(all).await;
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Ok((i as u64 + 1, i)));
        }
        assert_eq!(group.read_index().await, Ok(300));
        assert_eq!(group.applied(), 300);
        assert!(writer.stats().totals().syncs < 50, "{:?}", writer.stats().totals());
        group.stop().await;
        assert_eq!(group.propose(Bytes::new()).await, Err(ProposeError::Stopped));
        assert_eq!(group.read_index().await, Err(ProposeError::Stopped));
        group.stop().await;
    });
}

#[test]
fn what_was_logged_and_not_applied_is_applied_once_at_start() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let expected: Vec<String> =
            entries(1, 20, 1).iter().map(|e| String::from_utf8(e.data.to_vec()).unwrap()).collect();
        {
            append(&open_log(directory.path()), GROUP, 1, 20, 1).unwrap();
            // The state went as far as 8 before the crash.
            Ledger::open(directory.path()).apply(&entries(1, 8, 1)).unwrap();
        }
        for _ in 0..2 {
            let options = SoloOptions { apply_bytes_max: 50, ..SoloOptions::default() };
            let (group, _, _) = start(directory.path(), options).await;
            assert_eq!(group.applied(), 20);
            group.stop().await;
            drop(group);
            settle().await;
            assert_eq!(Ledger::read(directory.path()), expected);
        }
        let (group, _, _) = start(directory.path(), SoloOptions::default()).await;
        assert_eq!(group.propose(Bytes::from_static(b"next")).await, Ok((21, 4)));
    });
}

/// Lets the tasks that still hold the databases end.
async fn settle() {
    rt::time::sleep(std::time::Duration::from_millis(50)).await;
}

#[test]
fn a_state_that_does_not_join_the_log_is_refused() {
    run(async {
        for (first, applied) in [(1, 25), (11, 9)] {
            let directory = tempfile::tempdir().unwrap();
            let log = open_log(directory.path());
            append(&log, GROUP, 1, 20, 1).unwrap();
            log.compact(GROUP, first - 1).unwrap();
            let mut ledger = Ledger::open(directory.path());
            ledger.applied = applied;
            let writer = LogWriter::start(log.clone(), WriterOptions::default());
            let refused = start_solo(GROUP, log, writer, ledger, SoloOptions::default()).await.map(|_| ()).unwrap_err();
            assert!(matches!(refused, StartError::Log(LogError::Corrupt { .. })), "{refused}");
        }
    });
}

#[test]
fn the_log_is_compacted_up_to_what_the_state_has_synced() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let options = SoloOptions { compact_after_bytes: 10_000, ..SoloOptions::default() };
        let ledger = Ledger::open(directory.path());
        let synced = ledger.synced.clone();
        let (group, log, _) = start_with(directory.path(), options, ledger).await;
        for _ in 0..25 {
            group.propose(Bytes::from(vec![0; 1000])).await.unwrap();
        }
        group.stop().await;
        let synced = *synced.lock().unwrap();
        assert_eq!((log.bounds(GROUP).compacted_index, log.last_index(GROUP)), (synced, 25));
        assert_eq!(synced, 20);
    });
}

#[test]
fn a_state_machine_that_fails_ends_the_group() {
    for fault in [Fault::Error, Fault::Panic, Fault::Silence] {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let mut ledger = Ledger::open(directory.path());
            ledger.fault = Some((2, fault));
            let (group, log, _) = start_with(directory.path(), SoloOptions::default(), ledger).await;
            assert_eq!(group.propose(Bytes::from_static(b"a")).await, Ok((1, 1)));
            assert_eq!(group.failure(), None);
            // Committed, and perhaps applied: not known.
            assert_eq!(group.propose(Bytes::from_static(b"b")).await, Err(ProposeError::Indeterminate));
            settle().await;
            assert!(matches!(group.propose(Bytes::new()).await, Err(ProposeError::Failed(_))));
            assert!(matches!(group.read_index().await, Err(ProposeError::Failed(_))));
            assert!(group.failure().is_some());
            assert_eq!(log.last_index(GROUP), 2, "nothing is logged behind the failure");
            group.stop().await;
        });
    }
}

#[test]
fn a_failed_log_ends_the_group() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (group, _, writer) = start(directory.path(), SoloOptions::default()).await;
        group.propose(Bytes::from_static(b"a")).await.unwrap();
        // An append that cannot join the log stands for a failed disk: both are final for the writer.
        let failed = writer.append(Append { group: GROUP, entries: entries(50, 1, 1) }).await;
        assert!(matches!(failed, Err(AppendError::Failed(_))));
        assert_eq!(group.propose(Bytes::from_static(b"b")).await, Err(ProposeError::Indeterminate));
        assert!(matches!(group.propose(Bytes::from_static(b"c")).await, Err(ProposeError::Failed(_))));
    });
}

#[test]
fn proposals_are_bounded_by_count_bytes_and_size() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let options = SoloOptions { proposals_max: 8, bytes_max: 1000, entry_bytes_max: 100, ..SoloOptions::default() };
        let (group, _, _) = start(directory.path(), options).await;
        let too_large = group.propose(Bytes::from(vec![0; 101])).await;
        assert_eq!(too_large, Err(ProposeError::TooLarge { got: 101, limit: 100 }));
        for bytes in [0, 100] {
            let answers = join_all((0..50).map(|_| group.propose(Bytes::from(vec![0; bytes])))).await;
            let taken = answers.iter().filter(|answer| answer.is_ok()).count();
            let refused = answers.iter().filter(|answer| **answer == Err(ProposeError::Exhausted)).count();
            assert!(taken >= 1 && refused >= 1 && taken + refused == 50, "{taken} taken, {refused} refused");
        }
        group.propose(Bytes::from(vec![0; 100])).await.unwrap();
    });
}

#[test]
fn a_reader_waits_until_what_was_committed_is_applied() {
    run(async {
        let shared = Shared::new(GROUP, 3);
        assert!(shared.wait_for(3).is_none());
        shared.advance_committed(5);
        let mut reader = shared.wait_for(shared.committed()).unwrap();
        shared.advance_applied(4);
        assert!(reader.try_recv().is_err());
        shared.advance_applied(5);
        assert_eq!(reader.await, Ok(()));
        let cut_off = shared.wait_for(6).unwrap();
        shared.fail("told to".into());
        assert!(cut_off.await.is_err());
        assert!(shared.wait_for(6).unwrap().await.is_err());
    });
}

#[test]
fn store_errors_reach_the_caller_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let _held = open_log(directory.path());
    let refused = LogStore::open(directory.path().join("log"), options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, LogError::Store(StoreError::InUse { .. })), "{refused}");
}
