//! The log: no gap, no damage unseen, what is written is there after a reopen, and nothing that Raft forbids is written.

use super::*;
use crate::raft::driver::Input;
use crate::raft::writer::{LogWriter, Write};
use crate::store::keys::{LOG_SPACE, log as keys};
use crate::store::{Discipline, Durability, Store, StoreError};
use std::sync::Arc;
use tokio::sync::mpsc;

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
        log.write([]).unwrap();
    }
    let log = open_log(directory.path());
    assert_eq!(log.group_ids(), [0, GROUP, u64::MAX]);
    assert_eq!(log.bounds(GROUP), LogBounds { last_index: 10, last_term: 2, ..LogBounds::default() });
    let expected = [entries(1, 5, 1), entries(6, 5, 2)].concat();
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
    let hole = [entries(11, 1, 1), entries(13, 1, 1)].concat();
    let write = LogWrite { group: GROUP, entries: hole, ..LogWrite::default() };
    assert!(matches!(log.write([&write]), Err(LogError::OutOfRange { got: 13, .. })));
    assert_eq!(log.last_index(GROUP), 10, "nothing was written");
    append(&log, GROUP, 4, 3, 2).unwrap();
    let expected = [entries(1, 3, 1), entries(4, 3, 2)].concat();
    assert_eq!(log.read(GROUP, 1, usize::MAX).unwrap(), expected);
    // Two appends of a group in one batch follow each other.
    let both = [7, 9].map(|first| LogWrite { group: GROUP, entries: entries(first, 2, 3), ..LogWrite::default() });
    log.write(&both).unwrap();
    drop(log);
    let log = open_log(directory.path());
    assert_eq!(log.read(GROUP, 1, usize::MAX).unwrap(), [expected, entries(7, 4, 3)].concat());
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
    let expected = LogBounds { last_index: 10_005, ..LogBounds::empty_behind(10_003, 2) };
    assert_eq!(log.bounds(GROUP), expected);
    assert!(matches!(log.read(GROUP, 10_003, 1), Err(LogError::OutOfRange { first: 10_004, .. })));
    assert_eq!(log.read(GROUP, 10_004, usize::MAX).unwrap(), entries(10_004, 2, 2));
    log.compact(GROUP, 10_005).unwrap();
    assert_eq!(log.read(GROUP, 10_006, usize::MAX).unwrap(), []);
    append(&log, GROUP, 10_006, 1, 3).unwrap();
    assert_eq!(log.read(GROUP, 10_006, usize::MAX).unwrap(), entries(10_006, 1, 3));
    log.remove_group(GROUP).unwrap();
    log.remove_group(GROUP).unwrap();
    assert_eq!(log.bounds(GROUP), LogBounds::default());
    drop(log);
    assert!(open_log(directory.path()).group_ids().is_empty());
}

#[test]
fn what_a_node_promised_to_a_group_it_left_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let left = |hard, term, index| GroupLog { hard, reached: Reached { term, index }, ..GroupLog::default() };
    {
        let log = open_log(directory.path());
        begin(&log, GROUP, &[1, 2]);
        let hard = HardState { term: 4, vote: 2, commit: 3 };
        log.write([&LogWrite { group: GROUP, entries: entries(2, 3, 4), hard: Some(hard), ..LogWrite::default() }])
            .unwrap();
        log.leave_group(GROUP + 1, 7).unwrap();
        log.leave_group(GROUP, 4).unwrap();
        log.leave_group(GROUP, 9).unwrap();
        assert_eq!((log.group_ids(), log.left_ids()), (vec![], vec![GROUP]), "and nothing of a group it never was of");
        assert_eq!((log.promised_term(GROUP), log.group(GROUP), log.last_index(GROUP)), (4, None, 0));
    }
    {
        let log = open_log(directory.path());
        assert_eq!((log.group_ids(), log.left_ids()), (vec![], vec![GROUP]));
        log.write([&LogWrite { group: GROUP, ..LogWrite::default() }]).unwrap();
        let kept = HardState { term: 4, vote: 2, commit: 0 };
        assert_eq!(
            (log.group(GROUP), log.left_ids()),
            (Some(left(kept, 4, 4)), vec![]),
            "it is back, with an empty log"
        );
        let other_vote = HardState { term: 4, vote: 1, commit: 0 };
        let twice = log.write([&LogWrite { group: GROUP, hard: Some(other_vote), ..LogWrite::default() }]);
        assert!(matches!(twice, Err(LogError::Broken { group: GROUP, .. })), "{twice:?}");
        log.write([&LogWrite { group: GROUP, entries: entries(1, 2, 1), ..LogWrite::default() }]).unwrap();
    }
    {
        let log = open_log(directory.path());
        assert_eq!((log.group_ids(), log.left_ids(), log.last_index(GROUP)), (vec![GROUP], vec![], 2));
        log.leave_group(GROUP, 6).unwrap();
    }
    let log = open_log(directory.path());
    log.write([&LogWrite { group: GROUP, ..LogWrite::default() }]).unwrap();
    let hard = HardState { term: 6, vote: 0, commit: 0 };
    assert_eq!(log.group(GROUP), Some(left(hard, 4, 4)), "it had come further before");
    log.leave_group(GROUP, 6).unwrap();
    log.remove_group(GROUP).unwrap();
    assert_eq!((log.left_ids(), log.promised_term(GROUP)), (vec![], 0));
    drop(log);
    assert!(open_log(directory.path()).left_ids().is_empty());
}

/// Opens the database of the log below `LogStore` and changes a record.
fn tamper(path: &Path, key: &[u8], value: Option<&[u8]>) {
    let store =
        Store::open(path.join("log"), StoreOptions { discipline: Discipline::EveryCommitSynced, ..store_options() })
            .unwrap();
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
    let moved = keys::encode_entry(GROUP, 4, 1, EntryKind::Command, &good[3].data);
    let newer = [&[9], &moved[1..]].concat();
    let ahead = HardState { term: 1, vote: 0, commit: 10 }.encode(GROUP);
    // Key, value, and whether it is seen at open (else at the read).
    type Tampering<'a> = (Vec<u8>, Option<&'a [u8]>, bool);
    let cases: [Tampering; 10] = [
        (keys::entry_key(GROUP, 5).to_vec(), None, false),
        (keys::entry_key(GROUP, 5).to_vec(), Some(&moved), false),
        (keys::entry_key(GROUP, 4).to_vec(), Some(&newer), false),
        (keys::entry_key(GROUP, 9).to_vec(), Some(b"garbage"), true),
        (keys::entry_key(GROUP, 1).to_vec(), None, true),
        (keys::state_key(GROUP).to_vec(), Some(b"garbage"), true),
        (keys::state_key(GROUP).to_vec(), None, true),
        (keys::hard_state_key(GROUP).to_vec(), Some(b"garbage"), true),
        (keys::hard_state_key(GROUP).to_vec(), Some(&ahead), true),
        (keys::members_key(GROUP).to_vec(), Some(b"garbage"), true),
    ];
    for (case, (key, value, at_open)) in cases.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        append(&open_log(directory.path()), GROUP, 1, 9, 1).unwrap();
        tamper(directory.path(), &key, value);
        let opened = LogStore::open(directory.path().join("log"), store_options());
        assert_eq!(opened.is_err(), at_open, "case {case}");
        let refused = opened.and_then(|log| log.read(GROUP, 1, usize::MAX)).unwrap_err();
        assert!(matches!(refused, LogError::Corrupt { group: GROUP, .. }), "case {case}: {refused}");
    }
}

#[test]
fn term_vote_commit_and_members_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let members = Members { index: 3, voters: vec![1, 2], learners: vec![5], ..Members::default() };
    let hard = HardState { term: 4, vote: 2, commit: 3 };
    {
        let log = open_log(directory.path());
        begin(&log, GROUP, &[1, 2]);
        let write = LogWrite {
            entries: entries(2, 3, 4),
            hard: Some(hard),
            members: Some(members.clone()),
            group: GROUP,
            reset: None,
        };
        log.write([&write]).unwrap();
    }
    let log = open_log(directory.path());
    let found = log.group(GROUP).unwrap();
    assert_eq!((found.hard, &found.members), (hard, &members));
    assert_eq!(found.bounds, LogBounds { last_index: 4, last_term: 4, ..LogBounds::empty_behind(1, 1) });
    let reset = LogWrite {
        group: GROUP,
        reset: Some((50, 6)),
        hard: Some(HardState { term: 6, vote: 0, commit: 50 }),
        ..LogWrite::default()
    };
    let behind = LogWrite { group: GROUP, entries: entries(51, 2, 6), ..LogWrite::default() };
    log.write([&reset, &behind]).unwrap();
    drop(log);
    let log = open_log(directory.path());
    assert_eq!(log.bounds(GROUP), LogBounds { last_index: 52, ..LogBounds::empty_behind(50, 6) });
    assert_eq!(log.read(GROUP, 51, usize::MAX).unwrap(), entries(51, 2, 6));
    assert_eq!(log.group(GROUP).unwrap().members, members);
    log.remove_group(GROUP).unwrap();
    drop(log);
    assert_eq!(open_log(directory.path()).group(GROUP), None);
}

#[test]
fn what_would_break_a_promise_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let log = open_log(directory.path());
    begin(&log, GROUP, &[1]);
    let hard = HardState { term: 3, vote: 1, commit: 5 };
    log.write([&LogWrite { group: GROUP, entries: entries(2, 9, 3), hard: Some(hard), ..LogWrite::default() }])
        .unwrap();
    let write = LogWrite { group: GROUP, ..LogWrite::default() };
    let before = log.group(GROUP);
    for broken in [
        LogWrite { entries: entries(5, 3, 4), ..write.clone() },
        LogWrite { reset: Some((4, 3)), ..write.clone() },
        LogWrite { hard: Some(HardState { term: 2, ..hard }), ..write.clone() },
        LogWrite { hard: Some(HardState { commit: 4, ..hard }), ..write.clone() },
        LogWrite { hard: Some(HardState { commit: 11, ..hard }), ..write.clone() },
        LogWrite { hard: Some(HardState { vote: 2, ..hard }), ..write.clone() },
    ] {
        let refused = log.write([&broken]).unwrap_err();
        assert!(matches!(refused, LogError::Broken { group: GROUP, .. }), "{refused}");
        assert_eq!(log.group(GROUP), before);
    }
    log.write([&LogWrite { entries: entries(6, 1, 4), ..write }]).unwrap();
    assert_eq!(log.last_index(GROUP), 6);
}

#[test]
fn one_sync_carries_many_groups() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let log = open_log(directory.path());
        let (driver, mut reports) = mpsc::unbounded_channel();
        let stats = Arc::new(LogStats::default());
        let writer = LogWriter::start(log.clone(), driver.downgrade(), stats.clone(), None);
        for group in 0..500 {
            let what = LogWrite { group, entries: entries(1, 2, 1), ..LogWrite::default() };
            writer.write(vec![Write { number: group, what }]);
        }
        let mut written = Vec::new();
        while written.len() < 500 {
            let Some(Input::Written(some)) = reports.recv().await else { panic!("not written") };
            written.extend(some.into_iter().map(|write| (write.group, write.number)));
        }
        assert_eq!(written, (0..500).map(|group| (group, group)).collect::<Vec<_>>());
        let totals = stats.totals();
        assert_eq!((totals.appends, totals.entries), (500, 1000));
        assert!(totals.syncs <= 5, "{} syncs for 500 groups at once", totals.syncs);
        assert!(totals.entries_per_sync_max >= 200 && totals.sync_duration >= totals.sync_duration_max);
        for group in 0..500 {
            assert_eq!(log.read(group, 1, usize::MAX).unwrap(), entries(1, 2, 1));
        }
        // The first failure is final.
        writer.write(vec![Write {
            number: 1,
            what: LogWrite { group: 3, entries: entries(9, 1, 1), ..LogWrite::default() },
        }]);
        assert!(matches!(reports.recv().await, Some(Input::LogFailed(_))));
    });
}

#[test]
fn store_errors_reach_the_caller_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let _held = open_log(directory.path());
    let refused = LogStore::open(directory.path().join("log"), store_options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, LogError::Store(StoreError::InUse { .. })), "{refused}");
}
