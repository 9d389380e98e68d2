//! What every coordinator promises, as one suite of rules over the trait: the embedded one, the simulated etcd and a real etcd are held
//! to the same. Each rule works below a prefix of its own. Panics where a rule is broken.
//!
//! Called by `tests/coordination.rs` and by the simulation (`sim/scenarios/coordination.rs`).

use futures_util::future::{BoxFuture, join_all};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use vectorsphere::{
    coordination::{
        Change, Committed, Compare, CoordinationError, Coordinator, Event, KeptAlive, LeaseId, Revision, Transaction,
        WatchError,
    },
    rt::{self, time},
};

/// What a rule needs that the trait has no call for.
pub trait Hooks: Send + Sync {
    /// Makes the coordinator forget its history up to now.
    fn compact(&self) -> BoxFuture<'_, ()>;

    /// What a lease of one second lasts at most: how long it is granted for, and how late its end is noticed.
    fn second_lasts_max(&self) -> Duration;

    /// From now on reads may show what was last read before, until this is called with `false`. Where nothing of the kind can be
    /// brought about, reads stay as they are.
    fn show_the_past(&self, _shown: bool) {}
}

/// Runs every rule. `run` tells apart runs over the same coordinator.
pub async fn check(coordinator: &Arc<dyn Coordinator>, hooks: &dyn Hooks, run: u64) {
    let c = &**coordinator;
    let at = |rule: &str| format!("contract-{run}/{rule}/");
    reads_show_what_was_written(c, &at("reads")).await;
    transactions_compare_then_change_all_at_once(c, &at("transactions")).await;
    a_transaction_is_decided_by_what_is_so_now(c, hooks, &at("present")).await;
    what_cannot_be_done_is_rejected(c, &at("bounds")).await;
    watches_tell_everything_once_in_order(c, &at("watch")).await;
    forgotten_history_is_told(c, hooks, &at("compaction")).await;
    keys_die_with_their_lease(c, &at("leases")).await;
    a_lease_lives_while_it_is_kept_alive(c, hooks, &at("expiry")).await;
    nothing_is_lost_between_many_writers(coordinator, &at("writers")).await;
}

pub fn put(key: &str, value: &str) -> Change {
    Change::Put(key.to_owned(), value.as_bytes().to_vec())
}

pub async fn write(c: &dyn Coordinator, changes: Vec<Change>) -> Revision {
    transact(c, Vec::new(), changes).await.expect("there is no condition")
}

/// The revision of a transaction, or none if a condition did not hold.
pub async fn transact(c: &dyn Coordinator, compares: Vec<Compare>, changes: Vec<Change>) -> Option<Revision> {
    match c.commit(Transaction { compares, changes }).await.expect("the coordinator answers") {
        Committed::At(revision) => Some(revision),
        Committed::Refused => None,
    }
}

async fn reads_show_what_was_written(c: &dyn Coordinator, p: &str) {
    let key = |name: &str| format!("{p}{name}");
    assert_eq!(c.get(&key("a")).await, Ok(None));
    let first = write(c, vec![put(&key("b"), "1"), put(&key("a"), "1"), put(&key("c"), "")]).await;
    let second = write(c, vec![put(&key("b"), "2"), Change::Delete(key("c")), Change::Delete(key("never"))]).await;
    assert!(second > first, "revisions grow: {first}, {second}");
    let listed = c.list(p).await.expect("listed");
    assert!(listed.revision >= second);
    let seen: Vec<_> =
        listed.entries.iter().map(|kv| (&kv.key[p.len()..], &kv.value[..], kv.created, kv.revision)).collect();
    assert_eq!(seen, [("a", &b"1"[..], first, first), ("b", &b"2"[..], first, second)]);
    assert_eq!(c.get(&key("b")).await.expect("read").as_ref(), listed.entries.get(1));
    assert_eq!(c.get(p).await, Ok(None), "a prefix is no key");
    let again = write(c, vec![Change::Delete(key("b"))]).await;
    let third = write(c, vec![put(&key("b"), "3")]).await;
    let made = c.get(&key("b")).await.expect("read").expect("there");
    assert_eq!((made.created, made.revision), (third, third), "a key made again is another one");
    assert!(third > again && again > second);
}

async fn transactions_compare_then_change_all_at_once(c: &dyn Coordinator, p: &str) {
    let (a, b) = (format!("{p}a"), format!("{p}b"));
    let create = || vec![put(&a, "1"), put(&b, "1")];
    let first = transact(c, vec![Compare::Absent(a.clone()), Compare::Absent(b.clone())], create()).await;
    let first = first.expect("nothing was there");
    assert_eq!(transact(c, vec![Compare::Absent(a.clone())], create()).await, None);
    let second = transact(c, vec![Compare::WrittenAt(a.clone(), first)], vec![put(&a, "2")]).await.expect("as read");
    let stale = vec![Compare::WrittenAt(a.clone(), first), Compare::WrittenAt(b.clone(), first)];
    assert_eq!(transact(c, stale, vec![put(&b, "never")]).await, None, "one condition of two holds");
    let fence = vec![Compare::CreatedAt(a.clone(), first)];
    assert!(transact(c, fence.clone(), vec![put(&b, "2")]).await.is_some(), "written since, but not made again");
    let missing = vec![Compare::WrittenAt(format!("{p}none"), second)];
    assert_eq!(transact(c, missing, vec![put(&b, "never")]).await, None);
    write(c, vec![Change::Delete(a.clone())]).await;
    write(c, vec![put(&a, "3")]).await;
    assert_eq!(transact(c, fence, vec![put(&b, "never")]).await, None, "made again: fenced");
    let values: Vec<_> = c.list(p).await.expect("listed").entries.into_iter().map(|kv| kv.value).collect();
    assert_eq!(values, [b"3", b"2"]);
}

/// With changes or without: whoever asks by a transaction that changes nothing whether something is still so gets no answer of the past.
async fn a_transaction_is_decided_by_what_is_so_now(c: &dyn Coordinator, hooks: &dyn Hooks, p: &str) {
    let (k, gone) = (format!("{p}k"), format!("{p}gone"));
    let before = write(c, vec![put(&k, "1"), put(&gone, "1")]).await;
    assert_eq!(c.list(p).await.expect("listed").entries.len(), 2);
    hooks.show_the_past(true);
    let now = write(c, vec![put(&k, "2"), put(&format!("{p}new"), "1"), Change::Delete(gone.clone())]).await;
    let is_so = async |compare| transact(c, vec![compare], Vec::new()).await;
    let as_it_was = [
        Compare::WrittenAt(k.clone(), before),
        Compare::CreatedAt(gone.clone(), before),
        Compare::Absent(format!("{p}new")),
    ];
    for past in as_it_was {
        assert_eq!(is_so(past.clone()).await, None, "{past:?} is of the past");
    }
    for present in [Compare::WrittenAt(k.clone(), now), Compare::CreatedAt(k, before), Compare::Absent(gone)] {
        let at = is_so(present.clone()).await;
        assert!(at.is_some_and(|revision| revision >= now), "{present:?} is so: {at:?}");
    }
    hooks.show_the_past(false);
    let listed = c.list(p).await.expect("listed");
    let keys: Vec<_> = listed.entries.iter().map(|kv| &kv.key[p.len()..]).collect();
    assert_eq!(keys, ["k", "new"], "asking changed nothing");
}

async fn what_cannot_be_done_is_rejected(c: &dyn Coordinator, p: &str) {
    let key = format!("{p}k");
    let before = c.list("").await.expect("listed").revision;
    let large = Change::Put(key.clone(), vec![0; vectorsphere::coordination::VALUE_BYTES_MAX + 1]);
    let twice = vec![put(&key, "1"), Change::Delete(key.clone())];
    let many = (0..=vectorsphere::coordination::OPERATIONS_MAX).map(|i| put(&format!("{key}{i}"), "")).collect();
    for changes in [vec![large], twice, many] {
        let refused = c.commit(Transaction { compares: Vec::new(), changes }).await;
        assert!(matches!(refused, Err(CoordinationError::Rejected(_))), "{refused:?}");
    }
    for ttl in [Duration::from_millis(1), Duration::MAX] {
        assert!(matches!(c.grant(ttl).await, Err(CoordinationError::Rejected(_))));
    }
    assert_eq!(c.list("").await.expect("listed").revision, before, "nothing happened");
    let fits = Change::Put(key.clone(), vec![7; vectorsphere::coordination::VALUE_BYTES_MAX]);
    write(c, vec![fits, put(&format!("{key}2"), "")]).await;
    assert_eq!(
        c.get(&key).await.expect("read").expect("there").value.len(),
        vectorsphere::coordination::VALUE_BYTES_MAX
    );
    write(c, vec![Change::Delete(key)]).await;
}

/// The next events, as (key below the prefix, value unless deleted, revision).
async fn told(watch: &mut dyn vectorsphere::coordination::Watch, p: &str) -> Vec<(String, Option<String>, Revision)> {
    let events = loop {
        match time::timeout(Duration::from_secs(10), watch.next()).await.expect("something happened") {
            Err(WatchError::Unavailable(_)) => {}
            events => break events.expect("watched"),
        }
    };
    assert!(!events.is_empty());
    let one = |event: Event| {
        let (key, revision) = (event.key()[p.len()..].to_owned(), event.revision());
        match event {
            Event::Put(kv) => (key, Some(String::from_utf8(kv.value).expect("text")), revision),
            Event::Delete(..) => (key, None, revision),
        }
    };
    events.into_iter().map(one).collect()
}

async fn watches_tell_everything_once_in_order(c: &dyn Coordinator, p: &str) {
    let key = |name: &str| format!("{p}{name}");
    let zero = write(c, vec![put(&key("before"), "")]).await;
    let mut early = c.watch(p, zero);
    let first = write(c, vec![put(&key("a"), "1"), put(&key("b"), "1"), put(&format!("x{p}"), "not ours")]).await;
    let second = write(c, vec![put(&key("a"), "2")]).await;
    let third = write(c, vec![Change::Delete(key("b")), Change::Delete(key("never"))]).await;
    let all = [
        ("a".to_owned(), Some("1".to_owned()), first),
        ("b".to_owned(), Some("1".to_owned()), first),
        ("a".to_owned(), Some("2".to_owned()), second),
        ("b".to_owned(), None, third),
    ];
    let mut seen = Vec::new();
    while seen.len() < all.len() {
        let events = told(&mut *early, p).await;
        assert!(events.iter().filter(|event| event.2 == first).count() != 1, "a revision came in two parts");
        seen.extend(events);
    }
    seen[..2].sort();
    assert_eq!(seen, all);
    // Another watch that begins in the middle, as one that was lost does.
    let mut resumed = c.watch(p, first);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(told(&mut *resumed, p).await);
    }
    assert_eq!(seen, all[2..]);
    // Waiting in short turns loses nothing.
    assert!(time::timeout(Duration::from_millis(20), early.next()).await.is_err());
    let fourth = write(c, vec![put(&key("c"), "1")]).await;
    for watch in [&mut early, &mut resumed] {
        assert_eq!(told(&mut **watch, p).await, [("c".to_owned(), Some("1".to_owned()), fourth)]);
    }
}

async fn forgotten_history_is_told(c: &dyn Coordinator, hooks: &dyn Hooks, p: &str) {
    let first = write(c, vec![put(&format!("{p}a"), "1")]).await;
    for i in 0..10 {
        write(c, vec![put(&format!("{p}a"), &i.to_string())]).await;
    }
    hooks.compact().await;
    let mut late = c.watch(p, first);
    let oldest = loop {
        match time::timeout(Duration::from_secs(10), late.next()).await.expect("told at once") {
            Err(WatchError::Compacted { oldest }) => break oldest,
            Err(WatchError::Unavailable(_)) => {}
            other => panic!("expected to be told that the history is gone, got {other:?}"),
        }
    };
    let listed = c.list(p).await.expect("listed");
    assert!(oldest > first && listed.revision >= oldest);
    assert_eq!(listed.entries[0].value, b"9");
    let mut fresh = c.watch(p, listed.revision);
    let next = write(c, vec![put(&format!("{p}a"), "new")]).await;
    assert_eq!(told(&mut *fresh, p).await, [("a".to_owned(), Some("new".to_owned()), next)]);
}

async fn lease(c: &dyn Coordinator, seconds: u64) -> LeaseId {
    let lease = c.grant(Duration::from_secs(seconds)).await.expect("granted");
    assert_ne!(lease, 0);
    lease
}

async fn keys_die_with_their_lease(c: &dyn Coordinator, p: &str) {
    let (one, two) = (lease(c, 60).await, lease(c, 60).await);
    assert_ne!(one, two);
    let leased = |name: &str, lease| Change::PutLeased(format!("{p}{name}"), b"x".to_vec(), lease);
    write(c, vec![leased("a", one), leased("b", one), leased("c", two), put(&format!("{p}d"), "")]).await;
    let after = write(c, vec![leased("b", two)]).await;
    let of = |listed: Vec<vectorsphere::coordination::KeyValue>| -> Vec<_> {
        listed.into_iter().map(|kv| (kv.key[p.len()..].to_owned(), kv.lease)).collect::<Vec<_>>()
    };
    let named = |name: &str, lease| (name.to_owned(), lease);
    let listed = of(c.list(p).await.expect("listed").entries);
    assert_eq!(listed, [named("a", Some(one)), named("b", Some(two)), named("c", Some(two)), named("d", None)]);
    let mut watch = c.watch(p, after);
    c.revoke(one).await.expect("revoked");
    let gone = told(&mut *watch, p).await;
    assert!(gone.len() == 1 && gone[0].0 == "a" && gone[0].1.is_none(), "{gone:?}");
    assert_eq!(c.keep_alive(one).await, Ok(KeptAlive::Gone));
    assert_eq!(c.revoke(one).await, Ok(()), "it is gone, which is what was asked for");
    let before = c.list(p).await.expect("listed");
    let late =
        c.commit(Transaction { compares: vec![], changes: vec![leased("a", one), put(&format!("{p}e"), "")] }).await;
    assert_eq!(late, Err(CoordinationError::LeaseGone(one)));
    // The lease is not looked at where a condition fails.
    let refused = transact(c, vec![Compare::Absent(format!("{p}d"))], vec![leased("a", one)]).await;
    assert_eq!((refused, c.list(p).await.expect("listed").entries), (None, before.entries));
    // Written again without a lease, a key stays.
    write(c, vec![put(&format!("{p}c"), "")]).await;
    c.revoke(two).await.expect("revoked");
    assert_eq!(of(c.list(p).await.expect("listed").entries), [named("c", None), named("d", None)]);
    assert!(c.remembered(p).expect("remembered").iter().all(|kv| kv.lease.is_none()));
}

async fn a_lease_lives_while_it_is_kept_alive(c: &dyn Coordinator, hooks: &dyn Hooks, p: &str) {
    let lasts_max = hooks.second_lasts_max();
    let (kept, dropped) = (lease(c, 1).await, lease(c, 1).await);
    let leased = |name: &str, lease| Change::PutLeased(format!("{p}{name}"), b"x".to_vec(), lease);
    let began = time::now();
    write(c, vec![leased("kept", kept), leased("dropped", dropped)]).await;
    let mut gone = None;
    while began.elapsed() < lasts_max + Duration::from_secs(1) {
        let KeptAlive::For(ttl) = c.keep_alive(kept).await.expect("asked") else {
            panic!("a lease that was kept ended")
        };
        assert!(ttl >= Duration::from_secs(1) && ttl <= lasts_max, "{ttl:?}");
        time::sleep(Duration::from_millis(200)).await;
        let left = c.list(p).await.expect("listed").entries.len();
        match left {
            2 => {}
            1 => gone = gone.or(Some(began.elapsed())),
            other => panic!("{other} keys are left"),
        }
    }
    let gone = gone.expect("a lease that was not kept alive ended");
    assert!(gone >= Duration::from_millis(900), "it ended after {gone:?}");
    assert_eq!(c.keep_alive(dropped).await, Ok(KeptAlive::Gone));
    c.revoke(kept).await.expect("revoked");
}

/// Several tasks add to the same numbers by compare-and-swap while a watch follows: nothing is lost, and the watch and a list agree.
async fn nothing_is_lost_between_many_writers(coordinator: &Arc<dyn Coordinator>, p: &str) {
    const WRITERS: u64 = 4;
    const ADDS: u64 = 10;
    let zero = write(&**coordinator, vec![put(&format!("{p}sum"), "0")]).await;
    let mut watch = coordinator.watch(p, zero);
    let writers = (0..WRITERS).map(|writer| {
        let (c, p) = (coordinator.clone(), p.to_owned());
        rt::spawn("contract-writer", async move {
            for add in 0..ADDS {
                add_one(&*c, &p, &format!("{p}{writer}-{add}")).await;
            }
        })
    });
    let done = join_all(writers.collect::<Vec<_>>()).await;
    done.into_iter().for_each(|writer| writer.expect("a writer ended well"));
    let listed = coordinator.list(p).await.expect("listed");
    let sum = listed.entries.iter().find(|kv| kv.key.ends_with("sum")).expect("there");
    assert_eq!(sum.value, (WRITERS * ADDS).to_string().into_bytes());
    assert_eq!(listed.entries.len() as u64, WRITERS * ADDS + 1);
    let mut copy = BTreeMap::from([("sum".to_owned(), "0".to_owned())]);
    let mut last = zero;
    while last < sum.revision {
        for (key, value, revision) in told(&mut *watch, p).await {
            assert!(revision >= last, "{revision} after {last}");
            last = revision;
            copy.insert(key, value.expect("nothing is deleted"));
        }
    }
    let expected =
        listed.entries.into_iter().map(|kv| (kv.key[p.len()..].to_owned(), String::from_utf8(kv.value).expect("text")));
    assert_eq!(copy, expected.collect::<BTreeMap<_, _>>());
}

/// Adds one to the sum and leaves a mark, in one transaction. Where the end is not known, the mark tells.
async fn add_one(c: &dyn Coordinator, p: &str, mark: &str) {
    let key = format!("{p}sum");
    loop {
        let known = c.get(&key).await.expect("read").expect("there");
        let sum: u64 = String::from_utf8(known.value).expect("text").parse().expect("a number");
        let transaction = Transaction {
            compares: vec![Compare::WrittenAt(key.clone(), known.revision), Compare::Absent(mark.to_owned())],
            changes: vec![put(&key, &(sum + 1).to_string()), put(mark, "")],
        };
        match c.commit(transaction).await {
            Ok(Committed::At(_)) => return,
            Ok(Committed::Refused) | Err(CoordinationError::Unavailable(_)) => {}
            Err(CoordinationError::Indeterminate(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if c.get(mark).await.expect("read").is_some() {
            return;
        }
    }
}
