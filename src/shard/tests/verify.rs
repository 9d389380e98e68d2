//! A replica knows of its own damage, and two replicas name the record in which they differ.

use super::rig::{Rig, any_command, request, upsert};
use crate::shard::{
    records::Changes,
    verify::{self, BUCKETS, Difference, Recomputed, RecordName},
};
use crate::types::PointId;
use proptest::prelude::*;

fn recompute(rig: &Rig) -> Recomputed {
    verify::recompute(&rig.live.state().records.view()).unwrap()
}

/// Changes a record behind the machine's back.
fn tamper(rig: &Rig, change: impl FnOnce(&mut Changes<'_>)) {
    let state = rig.live.state();
    let mut changes = Changes::new(&state.records);
    change(&mut changes);
    changes.commit().unwrap();
}

/// What one replica says of another at the same applied index.
fn difference(a: &Rig, b: &Rig) -> Option<Difference> {
    let (ours, theirs) = (recompute(a), recompute(b));
    assert_eq!(ours.applied, theirs.applied);
    let buckets = ours.differing_buckets(&theirs);
    assert_eq!(buckets.is_empty(), ours.found == theirs.found);
    let bucket = |rig: &Rig, bucket| verify::bucket(&rig.live.state().records.view(), bucket).unwrap();
    buckets.first().and_then(|first| bucket(a, *first).first_difference(&bucket(b, *first)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_log_leaves_a_sound_replica(log in prop::collection::vec(any_command(), 0..60)) {
        let directory = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(directory.path());
        rig.apply(&log);
        let found = recompute(&rig);
        prop_assert!(found.is_sound(), "{found:?}");
        prop_assert_eq!(found.buckets.len(), BUCKETS);
    }
}

#[test]
fn a_changed_a_missing_and_a_surplus_record_are_named() {
    let log: Vec<_> = (0..40).map(|n| upsert(n, n, Some(request(n)))).collect();
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [mut good, mut bad] = directories.each_ref().map(|directory| Rig::open(directory.path()));
    good.apply(&log);
    bad.apply(&log);
    assert_eq!(difference(&good, &bad), None);
    let (id, other) = (PointId::Num(8), PointId::Num(10));
    let record = good.contents().points[&id].clone();

    let mut flipped = record.clone();
    // The last byte of the payload's JSON is part of a number or a brace: still a record.
    *flipped.last_mut().unwrap() ^= 1;
    tamper(&bad, |changes| changes.put_point(id, &flipped));
    let found = recompute(&bad);
    assert!(!found.is_sound() && found.damaged.is_empty() && recompute(&good).is_sound());
    assert_eq!(difference(&good, &bad), Some(Difference::Changed(RecordName::Point(id))));

    tamper(&bad, |changes| changes.put_point(id, &record[..5]));
    let found = recompute(&bad);
    assert_eq!(found.damaged.iter().map(|damaged| damaged.record).collect::<Vec<_>>(), [RecordName::Point(id)]);
    assert_eq!(difference(&good, &bad), Some(Difference::Changed(RecordName::Point(id))));

    tamper(&bad, |changes| changes.put_point(id, &record));
    assert_eq!(difference(&good, &bad), None);
    tamper(&bad, |changes| changes.remove_point(other));
    assert_eq!(difference(&good, &bad), Some(Difference::Missing(RecordName::Point(other))));
    assert_eq!(difference(&bad, &good), Some(Difference::Surplus(RecordName::Point(other))));
    assert!(!recompute(&bad).is_sound());
}

#[test]
fn a_damaged_replica_gives_out_no_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path());
    rig.apply(&[upsert(2, 2, None), upsert(4, 4, None)]);
    let mut record = rig.contents().points[&PointId::Num(2)].clone();
    *record.last_mut().unwrap() ^= 1;
    tamper(&rig, |changes| changes.put_point(PointId::Num(2), &record));
    use crate::raft::StateMachine;
    let mut checkpoint = rig.machine.checkpoint().unwrap();
    assert!(checkpoint.next_chunk().unwrap_err().to_string().contains("content hash"));
}

#[test]
fn replicas_remember_the_hashes_of_the_latest_rounds() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path());
    let mut expected = Vec::new();
    for n in 0..5 {
        rig.apply(&[upsert(n, n, None), upsert(n, n + 1, None)]);
        let contents = rig.contents();
        expected.push((contents.applied, contents.hash.0));
    }
    assert_eq!(rig.live.state().recent_hashes(), expected);
}

#[test]
fn data_without_a_hash_is_given_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path());
    rig.apply(&[upsert(2, 2, None), upsert(4, 4, Some(request(1)))]);
    let hash = rig.contents().hash;
    rig.live.state().records.forget_hash();
    drop(rig);
    assert_eq!(Rig::open(directory.path()).contents().hash, hash);
}

/// On files: the byte is flipped in what is stored, the node starts again, and the record is named.
#[test]
fn a_byte_flipped_in_one_replicas_store_is_found_after_a_restart() {
    let log: Vec<_> = (0..40).map(|n| upsert(n, n, Some(request(n)))).collect();
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let open = || directories.each_ref().map(|directory| Rig::open(directory.path()));
    let [mut good, mut bad] = open();
    good.apply(&log);
    bad.apply(&log);
    let id = PointId::Num(12);
    let mut record = good.contents().points[&id].clone();
    let at = record.windows(4).position(|four| four == 12f32.to_le_bytes()).expect("its first component");
    record[at] ^= 0x10;
    tamper(&bad, |changes| changes.put_point(id, &record));
    drop((good, bad));
    let [good, bad] = open();
    let (sound, flipped) = (recompute(&good), recompute(&bad));
    assert!(sound.is_sound() && !flipped.is_sound());
    assert_eq!((flipped.kept, flipped.points_found), (sound.kept, sound.points_found), "only the bytes tell");
    assert_eq!(difference(&good, &bad), Some(Difference::Changed(RecordName::Point(id))));
}
