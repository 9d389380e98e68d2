//! Replicas at the same log index give the same answers to the bit, whatever happened to them on the way: other rounds, work done
//! early or late, on one thread or several, restarts with and without an index file, checkpoints.

use super::rig::{Chunks, Rig};
use crate::{
    raft::StateMachine,
    shard::{
        cargo::Cargo,
        command::Command,
        commands,
        saving::IndexFile,
        search,
        settings::IndexSettings,
        upkeep::{Upkeep, Work},
    },
    store::keys::point,
    types::{
        CollectionSpec, DocumentId, Filter, IndexType, Metric, Payload, Point, PointId, SLOTS, SlotRange, Vector,
        VectorName, VectorSpec,
        operation::{DeleteRequest, Search},
        slot_of,
    },
};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;

pub(super) const DIMENSION: usize = 8;
pub(super) const LIST_ROWS: u32 = 12;

pub(super) fn settings(threads: usize) -> IndexSettings {
    IndexSettings {
        flat_points_max: 60,
        tail_rows_max: 16 + threads * 3,
        list_rows: LIST_ROWS as usize,
        build_threads_max: threads,
        ..IndexSettings::default()
    }
}

pub(super) fn open(path: &Path, index: IndexType, threads: usize) -> Rig {
    let spec = CollectionSpec::single(VectorSpec::new(DIMENSION, Metric::Euclidean, index).unwrap());
    Rig::open_spec(path, spec, settings(threads))
}

/// Numbers that look like chance.
fn number(seed: u64) -> f32 {
    (xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes()) >> 40) as f32 / 1e7
}

pub(super) fn vector(seed: u64) -> Vector {
    // A few clusters, so that lists differ in size.
    let centre = seed % 5;
    let at = |i: u64| number(centre * 31 + i) * 4.0 + number(seed * 17 + i + 1000);
    Vector::new((0..DIMENSION as u64).map(at).collect()).unwrap()
}

pub(super) fn point(id: u64, seed: u64) -> Point {
    Point {
        id: DocumentId::from_text(id.to_string()).unwrap(),
        vectors: vec![(VectorName::default(), vector(seed))],
        payload: Payload::from_json(format!(r#"{{"tag":{}}}"#, seed % 3).as_bytes()).unwrap(),
        if_version: None,
    }
}

/// What happens to the shard.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// So many points from an id on, with vectors of a seed.
    Write {
        first: u64,
        count: u64,
        seed: u64,
    },
    Delete {
        first: u64,
        count: u64,
    },
    Begin(Work),
    /// Of the latest beginning.
    Adopt,
    /// Slots at the end of the shard leave, with what is in them.
    Give(u16),
    /// As many points come with the slots that left last.
    Take(usize),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        6 => (0..300u64, 1..40u64, any::<u32>()).prop_map(|(first, count, seed)| Write { first, count, seed: seed.into() }),
        2 => (0..300u64, 1..25u64).prop_map(|(first, count)| Delete { first, count }),
        1 => Just(Begin(Work::Train)),
        4 => Just(Begin(Work::Arrange)),
        1 => Just(Begin(Work::Recalibrate)),
        5 => Just(Adopt),
        1 => (1..3_000u16).prop_map(Give),
        1 => (0..40usize).prop_map(Take),
    ]
}

/// The log of what happens; the first entries fill and train.
pub(super) fn log_of(happenings: &[Happening]) -> Vec<Bytes> {
    let mut log = Vec::new();
    let (mut begun, mut end, mut left) = (0, SLOTS, Vec::new());
    let first = [Happening::Write { first: 0, count: 150, seed: 1 }, Happening::Begin(Work::Train), Happening::Adopt];
    for happening in first.iter().chain(happenings) {
        let entry = match happening {
            Happening::Write { first, count, seed } => {
                let points = (0..*count).map(|n| point(first + n, seed + n));
                let points = points.filter(|point| slot_of(point.id.point_id()) < end).collect();
                commands::upsert(points, None).unwrap()
            }
            Happening::Delete { first, count } => {
                let ids = (0..*count).map(|n| DocumentId::from_text((first + n).to_string()).unwrap());
                let ids = ids.filter(|id| slot_of(id.point_id()) < end).collect();
                commands::delete(&DeleteRequest::Ids(ids), None).unwrap()
            }
            Happening::Begin(work) => {
                begun = log.len() as u64 + 1;
                Upkeep::Begin { vector: VectorName::default().as_str(), work: *work, list_rows: LIST_ROWS }.encode()
            }
            Happening::Adopt => Upkeep::Adopt { begun }.encode(),
            Happening::Give(count) => {
                let number = log.len() as u64 + 1;
                let slots = SlotRange { first: end.saturating_sub(*count), end };
                end = slots.first;
                left.push(slots);
                log.push(Command::Release { slots, to: 2, epoch: 1 }.encode(None).unwrap().into());
                Command::Forget { number }.encode(None).unwrap().into()
            }
            Happening::Take(count) => {
                let slots = left.pop().unwrap_or(SlotRange::NONE);
                end = end.max(slots.end);
                arrival(log.len() as u64, slots, *count)
            }
        };
        log.push(entry);
    }
    log
}

/// Points that another shard had come with slots at the edge.
fn arrival(number: u64, slots: SlotRange, count: usize) -> Bytes {
    let ids = (0..3_000u64).filter(|id| slots.contains(slot_of(PointId::Num(*id)))).take(count);
    let record = |id: u64| {
        let bytes = point::f32_bytes(vector(id * 3 + number).as_slice());
        (PointId::Num(id), point::encode(id + 7, None, None, &[("", &bytes)], br#"{"tag":1}"#).unwrap())
    };
    let records: Vec<_> = ids.map(record).collect();
    let points = records.iter().map(|(id, record)| (*id, &record[..])).collect();
    let cargo = Cargo { version_floor: 5_000, points, ..Cargo::default() }.encode().unwrap();
    Command::Receive { from: 2, number, slots, cargo: &cargo }.encode(None).unwrap().into()
}

/// Searches that see all that could differ: few lists, some, a filter.
pub(super) fn answers(rig: &Rig) -> Vec<(DocumentId, u64, u32)> {
    let state = rig.live.state();
    let tag = serde_json::json!({"must": [{"key": "tag", "match": {"value": 1}}]});
    let mut found = Vec::new();
    for seed in 0..12 {
        let plain = Search { nprobe: Some(1 + seed as usize % 4), ..Search::nearest(vector(seed * 7), 10) };
        let planned = Search::nearest(vector(seed * 7), 10);
        let filtered = Search { filter: Some(Filter::from_json(&tag).unwrap()), ..planned.clone() };
        for search in [plain, planned, filtered] {
            let hits = search::search(&state, &search).unwrap().hits;
            found.extend(hits.into_iter().map(|hit| (hit.point.id, hit.point.version, hit.score.to_bits())));
        }
    }
    found
}

pub(super) fn save(rig: &Rig) {
    let state = rig.live.state();
    let file = {
        let _standing_still = state.close_gate();
        if state.keeper().job.is_some() { None } else { IndexFile::capture(&state) }
    };
    if let Some(file) = file {
        file.write(&state, &rig.files).unwrap();
    }
}

/// How a replica gets along the log.
#[derive(Clone, Debug)]
enum Step {
    /// Applies so many entries at once.
    Apply(usize),
    /// Does the work under way before it is asked to.
    Work,
    Save,
    Restart,
    /// Becomes what a checkpoint of itself makes of another replica.
    Move,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..7usize).prop_map(Step::Apply),
        2 => Just(Step::Work),
        2 => Just(Step::Save),
        2 => Just(Step::Restart),
        1 => Just(Step::Move),
    ]
}

/// Applies the whole log in the given steps, then one by one.
fn go(log: &[Bytes], steps: &[Step], index: IndexType, threads: usize) -> (tempfile::TempDir, Rig) {
    let mut directory = tempfile::tempdir().unwrap();
    let mut rig = open(directory.path(), index, threads);
    for step in steps {
        match step {
            Step::Apply(count) => {
                let from = rig.machine.applied() as usize;
                rig.apply(&log[from..log.len().min(from + count)]);
            }
            Step::Work => {
                let state = rig.live.state();
                let job = state.keeper().job.clone();
                job.iter().for_each(|job| job.run(&state));
            }
            Step::Save => save(&rig),
            Step::Restart => {
                drop(rig);
                rig = open(directory.path(), index, threads);
            }
            Step::Move => {
                let checkpoint = rig.checkpoint();
                let other = tempfile::tempdir().unwrap();
                drop(rig);
                rig = open(other.path(), index, threads);
                rig.apply(&log[..1]);
                rig.install(Chunks { given: 0, ..checkpoint }).unwrap();
                directory = other;
            }
        }
    }
    let from = rig.machine.applied() as usize;
    log[from..].iter().for_each(|entry| drop(rig.apply(std::slice::from_ref(entry))));
    (directory, rig)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_same_log_gives_the_same_answers(
        happenings in prop::collection::vec(any_happening(), 1..40),
        steps in prop::collection::vec(any_step(), 0..25),
        is_coded: bool,
        threads in 1..4usize,
    ) {
        let index = if is_coded { IndexType::IvfPq } else { IndexType::IvfFlat };
        let log = log_of(&happenings);
        let (_one, straight) = go(&log, &[], index, 1);
        let (_two, crooked) = go(&log, &steps, index, threads);
        prop_assert_eq!(crooked.live.state().index_hash(), straight.live.state().index_hash());
        prop_assert!(straight.live.state().index_hash().1.is_some());
        prop_assert_eq!(answers(&crooked), answers(&straight));
        prop_assert_eq!(crooked.live.state().counters(), straight.live.state().counters());
    }
}
