//! Checkpoints: a machine that took one in goes on as if it had applied the whole log; one that was torn has nothing.

use super::rig::{Chunks, Rig, any_command, indexed_field, request, upsert};
use crate::{
    raft::{ApplyError, CHUNK_BYTES, CHUNK_BYTES_MAX, StateMachine},
    shard::commands,
    store::keys::journal::Base,
    types::{DocumentId, Payload, Point, Vector, VectorName},
};
use bytes::Bytes;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the log is cut into rounds, and whatever a machine held before a checkpoint took its place.
    #[test]
    fn machines_that_saw_the_same_log_are_equal(
        log in prop::collection::vec(any_command(), 1..60),
        cut: prop::sample::Index,
        before in prop::collection::vec(any_command(), 0..20),
        chunk_bytes in 1..200usize,
        is_indexed: bool,
    ) {
        let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [mut one_by_one, mut at_once, mut installed] = directories.each_ref().map(|d| Rig::open(d.path()));
        if is_indexed {
            installed.live.set_indexed_fields(&indexed_field());
        }
        let outcomes: Vec<_> = log.iter().flat_map(|command| one_by_one.apply(std::slice::from_ref(command))).collect();
        let cut = cut.index(log.len());
        let (first, rest) = log.split_at(cut);
        prop_assert_eq!(&at_once.apply(first), &outcomes[..cut]);
        installed.apply(&before);
        let checkpoint = at_once.checkpoint().recut(chunk_bytes);
        installed.install(checkpoint).unwrap();
        prop_assert_eq!(installed.contents(), at_once.contents());
        prop_assert_eq!(&at_once.apply(rest), &outcomes[cut..]);
        prop_assert_eq!(&installed.apply(rest), &outcomes[cut..]);
        prop_assert_eq!(at_once.contents(), one_by_one.contents());
        prop_assert_eq!(installed.contents(), one_by_one.contents());
        drop(installed);
        prop_assert_eq!(Rig::open(directories[2].path()).contents(), one_by_one.contents());
    }

    /// The reader fails, or the process ends, before chunk `torn`.
    #[test]
    fn a_torn_install_leaves_nothing_and_can_be_done_again(
        log in prop::collection::vec(any_command(), 1..40),
        before in prop::collection::vec(any_command(), 0..20),
        torn: prop::sample::Index,
        is_crash: bool,
    ) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut source, mut target) = (Rig::open(from.path()), Rig::open(to.path()));
        source.apply(&log);
        target.apply(&before);
        let whole = source.checkpoint().recut(100);
        // The head is read before anything is given up.
        let torn = Chunks { fails_at: Some(1 + torn.index(whole.chunks.len())), ..whole.clone() };
        let is_refused = matches!(target.install(torn), Err(ApplyError::Checkpoint { .. }));
        prop_assert!(is_refused);
        if is_crash {
            drop(target);
            target = Rig::open(to.path());
        }
        let contents = target.contents();
        prop_assert!(contents.applied == 0 && contents.points.is_empty() && contents.requests.is_empty());
        prop_assert_eq!(contents.hash.0, 0);
        target.install(whole).unwrap();
        prop_assert_eq!(target.contents(), source.contents());
    }

    #[test]
    fn garbage_never_panics(chunks: Vec<Vec<u8>>, changes: Vec<(prop::sample::Index, u8)>) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut source, mut target) = (Rig::open(from.path()), Rig::open(to.path()));
        let _ = target.install(Chunks::new(0, chunks.into_iter().map(Bytes::from).collect()));
        source.apply(&[upsert(1, 1, None), upsert(2, 2, Some(request(1)))]);
        let mut stream = source.checkpoint().chunks.concat();
        let whole = stream.clone();
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let installed = target.install(Chunks::new(2, vec![stream.clone().into()]));
        prop_assert_eq!(installed.is_ok(), stream == whole, "any change is noticed");
    }
}

#[test]
fn golden_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path());
    rig.apply(&[upsert(2, 1, Some(request(9)))]);
    let chunks = rig.checkpoint().chunks;
    let contents = rig.contents();
    let (point, request_record) =
        (contents.points.values().next().unwrap(), contents.requests.values().next().unwrap());
    let mut expected = b"VSHARD\x02".to_vec();
    for number in [1, 1, 1, contents.hash.0, u64::MAX] {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    let of_head = xxhash_rust::xxh3::xxh3_64(&expected);
    expected.push(1);
    expected.extend_from_slice(&(point.len() as u32).to_le_bytes());
    expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    expected.extend_from_slice(point);
    expected.push(2);
    expected.extend_from_slice(&(request_record.len() as u32).to_le_bytes());
    expected.extend_from_slice(&[9; 16]);
    expected.extend_from_slice(request_record);
    expected.push(0);
    expected.extend_from_slice(&2u64.to_le_bytes());
    expected.extend_from_slice(&of_head.to_le_bytes());
    assert_eq!(chunks, [expected]);
}

#[test]
fn chunks_are_about_as_long_as_they_should_be() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut source, mut target) = (Rig::open(from.path()), Rig::open(to.path()));
    let large = |id: usize| {
        // One record is longer than any chunk may be.
        let text = "x".repeat(if id == 3 { (1 << 20) - 20 } else { 100_000 });
        Point {
            id: DocumentId::from_text(id.to_string()).unwrap(),
            vectors: vec![(VectorName::default(), Vector::new(vec![id as f32, 0.0]).unwrap())],
            payload: Payload::from_json(format!(r#"{{"text":"{text}"}}"#).as_bytes()).unwrap(),
            if_version: None,
        }
    };
    source.apply(&[commands::upsert((0..70).map(large).collect(), None).unwrap()]);
    let checkpoint = source.checkpoint();
    let (last, others) = checkpoint.chunks.split_last().unwrap();
    assert!(others.len() > 25 && others.iter().all(|chunk| chunk.len() == CHUNK_BYTES) && last.len() <= CHUNK_BYTES);
    const { assert!(CHUNK_BYTES <= CHUNK_BYTES_MAX) };
    target.install(checkpoint).unwrap();
    assert_eq!(target.contents(), source.contents());
}

#[test]
fn a_checkpoint_shows_one_moment_and_what_is_applied_meanwhile_stays_out() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut source, mut target) = (Rig::open(from.path()), Rig::open(to.path()));
    source.apply(&[upsert(1, 1, None), upsert(2, 2, Some(request(1)))]);
    let then = source.contents();
    let mut checkpoint = source.machine.checkpoint().unwrap();
    source.apply(&[upsert(1, 9, None), upsert(3, 3, Some(request(2)))]);
    let mut chunks = Vec::new();
    while let Some(chunk) = checkpoint.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    target.install(Chunks::new(2, chunks)).unwrap();
    assert_eq!(target.contents(), then);
}

#[test]
fn a_checkpoint_of_another_index_or_format_changes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut source, mut target) = (Rig::open(from.path()), Rig::open(to.path()));
    source.apply(&[upsert(1, 1, None)]);
    target.apply(&[upsert(2, 2, None), upsert(3, 3, None)]);
    let before = target.contents();
    let good = source.checkpoint();
    let mut stream = good.chunks.concat();
    stream[6] = 4;
    for bad in [Chunks { at: 5, ..good.clone() }, Chunks::new(1, vec![stream.into()]), Chunks::new(1, vec![])] {
        assert!(matches!(target.install(bad), Err(ApplyError::Checkpoint { .. })));
        assert_eq!(target.contents(), before);
    }
}

#[test]
fn readers_of_the_old_state_finish_with_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut source, mut target) = (Rig::open(from.path()), Rig::open(to.path()));
    source.apply(&[upsert(1, 1, None)]);
    target.apply(&[upsert(2, 2, None), upsert(3, 3, None)]);
    let (old, before) = (target.live.state(), target.contents().points);
    target.install(source.checkpoint()).unwrap();
    let still = old.records.view().points().map(|point| point.unwrap()).map(|(id, record)| (id, record.to_vec()));
    assert_eq!(still.collect::<std::collections::BTreeMap<_, _>>(), before);
    assert!(old.retired.is_triggered() && !target.live.state().retired.is_triggered());
    // What upkeep of the old state writes late is lost.
    old.records.index_saved(9, 2, Base::default()).unwrap();
    drop((old, target));
    assert_eq!(Rig::open(to.path()).contents(), source.contents());
}
