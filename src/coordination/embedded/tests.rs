//! The embedded coordinator without a group: what log entries do to the map.

use super::*;
use crate::coordination::{Change, Compare, Event, WatchError};
use crate::raft::{ApplyError, CheckpointReader, Entry, StateMachine};
use crate::store::StoreOptions;
use futures_util::FutureExt;

fn put(key: &str, value: &str) -> Change {
    Change::Put(key.to_owned(), value.as_bytes().to_vec())
}

fn opened(path: &std::path::Path) -> (Embedded, Machine) {
    let embedded = Embedded::open(Store::open(path, StoreOptions::default()).unwrap()).unwrap();
    let machine = embedded.machine().unwrap();
    (embedded, machine)
}

/// Applies an entry of term 1.
fn command(machine: &mut Machine, command: Command) -> Outcome {
    let entry = Entry { index: machine.applied() + 1, term: 1, data: command.encode() };
    match machine.apply(&[entry]).unwrap()[..] {
        [outcome] => outcome,
        ref other => panic!("{other:?}"),
    }
}

fn apply(machine: &mut Machine, transaction: &Transaction) -> Committed {
    match command(machine, Command::Transaction(transaction.clone())) {
        Outcome::Transaction(committed) => committed,
        other => panic!("{other:?}"),
    }
}

fn put_all(machine: &mut Machine, changes: Vec<Change>) -> Outcome {
    command(machine, Command::Transaction(Transaction { compares: vec![], changes }))
}

fn listed(embedded: &Embedded) -> Vec<(String, Vec<u8>, u64)> {
    let listed = embedded.0.map.view().list("a/").unwrap();
    listed.into_iter().map(|kv| (kv.key, kv.value, kv.revision)).collect()
}

#[test]
fn transactions_compare_then_change_and_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_, mut machine) = opened(dir.path());
        let create =
            |value| Transaction { compares: vec![Compare::Absent("a/1".into())], changes: vec![put("a/1", value)] };
        assert_eq!(apply(&mut machine, &create("x")), Committed::At(1));
        assert_eq!(apply(&mut machine, &create("y")), Committed::Refused);
        let swap = Transaction {
            compares: vec![Compare::WrittenAt("a/1".into(), 1)],
            changes: vec![put("a/1", "z"), put("a/2", "w"), put("b", "v")],
        };
        assert_eq!(apply(&mut machine, &swap), Committed::At(2));
        assert_eq!(apply(&mut machine, &swap), Committed::Refused, "the revision moved on");
        let empty = Entry { index: 5, term: 2, data: Bytes::new() };
        assert_eq!(machine.apply(&[empty]).unwrap(), [Outcome::Nothing]);
        assert_eq!(machine.sync().unwrap(), 5);
    }
    let (embedded, mut machine) = opened(dir.path());
    assert_eq!(machine.applied(), 5);
    assert_eq!(listed(&embedded), [("a/1".into(), b"z".to_vec(), 2), ("a/2".into(), b"w".to_vec(), 2)]);
    let delete = Transaction { compares: vec![], changes: vec![Change::Delete("a/1".into())] };
    assert_eq!(apply(&mut machine, &delete), Committed::At(3));
    assert_eq!(embedded.0.map.view().get("a/1").unwrap(), None);
}

struct Chunks(std::vec::IntoIter<Bytes>);

impl CheckpointReader for Chunks {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        Ok(self.0.next())
    }
}

#[test]
fn a_checkpoint_takes_the_place_of_everything() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, mut source_machine) = opened(from.path());
    let large = "v".repeat(100_000);
    for n in 0..10 {
        let write = Transaction { compares: vec![], changes: vec![put(&format!("a/{n}"), &large)] };
        apply(&mut source_machine, &write);
    }
    let mut checkpoint = source_machine.checkpoint().unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = checkpoint.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    assert!(chunks.len() > 1 && checkpoint.index() == 10);
    let (target, mut target_machine) = opened(to.path());
    apply(&mut target_machine, &Transaction { compares: vec![], changes: vec![put("a/old", "x")] });
    target_machine.install(10, &mut Chunks(chunks.into_iter())).unwrap();
    assert_eq!((listed(&target), target_machine.applied()), (listed(&source), 10));
}

#[tokio::test]
async fn a_change_needs_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, _) = opened(dir.path());
    let refused = embedded.commit(Transaction::default()).await.unwrap_err();
    assert!(matches!(refused, CoordinationError::Unavailable(_)), "{refused}");
}

fn leased(key: &str, lease: LeaseId) -> Change {
    Change::PutLeased(key.to_owned(), b"x".to_vec(), lease)
}

fn grant(machine: &mut Machine) -> LeaseId {
    match command(machine, Command::Leases(LeaseChange::Grant { ttl_ms: 1000 })) {
        Outcome::Granted(lease) => lease,
        other => panic!("{other:?}"),
    }
}

fn expire(machine: &mut Machine, term: u64, leases: &[LeaseId]) -> Outcome {
    command(machine, Command::Leases(LeaseChange::Expire { term, leases: leases.to_vec() }))
}

#[test]
fn keys_die_with_their_lease_and_only_in_the_term_that_looked() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, mut machine) = opened(dir.path());
    let (one, two) = (grant(&mut machine), grant(&mut machine));
    assert_eq!((one, two), (1, 2));
    let p = "/vectorsphere/local/";
    let changes = vec![leased(&format!("{p}a"), one), leased(&format!("{p}b"), two), put(&format!("{p}c"), "c")];
    assert_eq!(put_all(&mut machine, changes), Outcome::Transaction(Committed::At(1)));
    assert_eq!(embedded.remembered("").unwrap().iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), ["c"]);
    assert_eq!(put_all(&mut machine, vec![leased("d", 3)]), Outcome::LeaseGone(3));
    // A key that is written again without a lease outlives it.
    assert_eq!(put_all(&mut machine, vec![put(&format!("{p}b"), "b")]), Outcome::Transaction(Committed::At(2)));
    assert_eq!(expire(&mut machine, 9, &[one, two]), Outcome::Nothing, "the clock of another leader");
    let mut watch = embedded.watch("", 2);
    assert_eq!(expire(&mut machine, 1, &[one, two]), Outcome::Ended);
    assert_eq!(watch.next().now_or_never(), Some(Ok(vec![Event::Delete("a".into(), 3)])));
    assert_eq!(embedded.remembered("").unwrap().len(), 2);
    assert_eq!(put_all(&mut machine, vec![leased("d", one)]), Outcome::LeaseGone(one));
    assert_eq!(command(&mut machine, Command::Leases(LeaseChange::Revoke { lease: one })), Outcome::Ended);
    assert_eq!(grant(&mut machine), 3, "ids are never used again");
}

#[test]
fn created_revisions_fence() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, mut machine) = opened(dir.path());
    let mut write = |changes| apply(&mut machine, &Transaction { compares: vec![], changes });
    write(vec![put("k", "1")]);
    write(vec![put("k", "2")]);
    let kv = embedded.0.map.view().get("k").unwrap().unwrap();
    assert_eq!((kv.created, kv.revision, kv.lease), (1, 2, None));
    write(vec![Change::Delete("k".into())]);
    assert_eq!(write(vec![put("k", "3")]), Committed::At(4));
    let fenced =
        |created| Transaction { compares: vec![Compare::CreatedAt("k".into(), created)], changes: vec![put("x", "")] };
    assert_eq!(apply(&mut machine, &fenced(1)), Committed::Refused);
    assert_eq!(apply(&mut machine, &fenced(4)), Committed::At(5));
}

#[test]
fn a_checkpoint_carries_leases_and_revisions_and_ends_watches() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, mut source) = opened(from.path());
    let (target, mut copy) = opened(to.path());
    let lease = grant(&mut source);
    put_all(&mut source, vec![leased("/vectorsphere/local/a", lease)]);
    put_all(&mut source, vec![put("/vectorsphere/local/a2", "")]);
    let mut watch = target.watch("", 0);
    let mut checkpoint = source.checkpoint().unwrap();
    let chunks = std::iter::from_fn(|| checkpoint.next_chunk().unwrap()).collect::<Vec<_>>();
    copy.install(source.applied(), &mut Chunks(chunks.into_iter())).unwrap();
    assert_eq!(watch.next().now_or_never(), Some(Err(WatchError::Compacted { oldest: 2 })));
    assert_eq!(target.0.map.view().leases().unwrap(), std::collections::BTreeMap::from([(lease, 1000)]));
    let mut watch = target.watch("", 2);
    for machine in [&mut source, &mut copy] {
        assert_eq!(expire(machine, 1, &[lease]), Outcome::Ended);
        assert_eq!(grant(machine), lease + 1);
    }
    assert_eq!(watch.next().now_or_never(), Some(Ok(vec![Event::Delete("a".into(), 3)])));
}

#[test]
fn watches_tell_whole_revisions_in_order_and_resume() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, mut machine) = opened(dir.path());
    let p = "/vectorsphere/local/w/";
    let mut watch = embedded.watch("w/", 0);
    assert!(watch.next().now_or_never().is_none());
    put_all(&mut machine, vec![put(&format!("{p}1"), "a"), put(&format!("{p}2"), "b"), put("other", "c")]);
    put_all(&mut machine, vec![Change::Delete(format!("{p}1")), Change::Delete(format!("{p}9"))]);
    let told = |events: Vec<Event>| events.iter().map(|e| (e.key().to_owned(), e.revision())).collect::<Vec<_>>();
    let all = [("w/1".to_owned(), 1), ("w/2".to_owned(), 1), ("w/1".to_owned(), 2)];
    assert_eq!(told(watch.next().now_or_never().unwrap().unwrap()), all);
    assert!(watch.next().now_or_never().is_none());
    let mut resumed = embedded.watch("w/", 1);
    assert_eq!(told(resumed.next().now_or_never().unwrap().unwrap()), all[2..]);
    embedded.compact();
    let late = embedded.watch("w/", 1).next().now_or_never();
    assert_eq!(late, Some(Err(WatchError::Compacted { oldest: 2 })));
    assert!(watch.next().now_or_never().is_none(), "it had seen everything");
}
