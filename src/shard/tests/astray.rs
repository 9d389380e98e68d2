//! Replicas that have lost the lists of an index: one whose file is damaged or gone answers exactly until it is equal again, and
//! begins nothing that others do not, whatever stands in the log. Files that a crash left behind do no harm.

use super::{
    equal::{DIMENSION, Happening, LIST_ROWS, answers, log_of, open, point, save, settings, vector},
    rig::Rig,
};
use crate::{
    shard::{
        commands, saving, search,
        upkeep::{Upkeep, Work},
    },
    types::{CollectionSpec, IndexType, Metric, Point, VectorName, VectorSpec, operation::Search},
};
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// The same log on a replica with damage and on one without.
struct Two {
    directories: [tempfile::TempDir; 2],
    log: Vec<Bytes>,
}

impl Two {
    /// Trained, written to, filed and saved on both.
    fn new() -> Two {
        use Happening::*;
        let write = |seed| Write { first: 120, count: 90, seed };
        let log = log_of(&[write(5), Begin(Work::Arrange), Adopt]);
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for directory in &directories {
            let mut rig = open(directory.path(), IndexType::IvfPq, 1);
            rig.apply(&log);
            save(&rig);
        }
        Two { directories, log }
    }

    fn open(&self) -> [Rig; 2] {
        self.directories.each_ref().map(|directory| open(directory.path(), IndexType::IvfPq, 1))
    }

    fn index_file(&self) -> std::path::PathBuf {
        index_files(self.directories[1].path()).pop().expect("it was saved")
    }

    /// Whatever is wrong with the second is found; it answers exactly, says so, and is equal again with the next training.
    fn heals(&self, [mut good, mut bad]: [Rig; 2]) {
        let state = bad.live.state();
        if state.indexes().damage().found().is_some() {
            let _standing_still = state.close_gate();
            saving::go_astray(&state, &bad.files).unwrap();
        }
        assert!(good.live.state().index_hash().1.is_some());
        assert_eq!(bad.live.state().index_hash().1, None, "it knows that it is astray");
        let exactly = |rig: &Rig, exact| {
            let nearest = Search { exact, ..Search::nearest(vector(77), 15) };
            let hits = search::search(&rig.live.state(), &nearest).unwrap().hits;
            hits.into_iter().map(|hit| (hit.point.id, hit.score.to_bits())).collect::<Vec<_>>()
        };
        assert_eq!(exactly(&bad, false), exactly(&good, true));
        drop((state, bad));
        bad = open(self.directories[1].path(), IndexType::IvfPq, 1);
        assert_eq!(bad.live.state().index_hash().1, None, "and still after a restart");

        let begun = self.log.len() as u64 + 2;
        let vector = VectorName::default();
        let log = [
            Upkeep::Begin { vector: vector.as_str(), work: Work::Arrange, list_rows: LIST_ROWS }.encode(),
            Upkeep::Begin { vector: vector.as_str(), work: Work::Train, list_rows: LIST_ROWS }.encode(),
            commands::upsert(vec![point(7, 9999), point(400, 3)], None).unwrap(),
            Upkeep::Adopt { begun: begun - 1 }.encode(),
            Upkeep::Adopt { begun }.encode(),
        ];
        for rig in [&mut good, &mut bad] {
            rig.apply(&log);
        }
        assert!(good.live.state().index_hash().1.is_some());
        assert_eq!(bad.live.state().index_hash(), good.live.state().index_hash());
        assert_eq!(answers(&bad), answers(&good));
        save(&bad);
        drop(bad);
        let again = open(self.directories[1].path(), IndexType::IvfPq, 1);
        assert_eq!(again.live.state().index_hash(), good.live.state().index_hash());
    }
}

#[test]
fn a_replica_without_its_index_file_answers_exactly_until_the_next_training() {
    let two = Two::new();
    std::fs::remove_file(two.index_file()).unwrap();
    two.heals(two.open());
}

#[test]
fn a_replica_whose_index_file_was_changed_answers_exactly_until_the_next_training() {
    let two = Two::new();
    let file = two.index_file();
    let mut bytes = std::fs::read(&file).unwrap();
    // In the rows of the first list: found when the list is first used.
    bytes[70] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let rigs = two.open();
    rigs[1].live.state().indexes().iter().for_each(|(_, index)| index.verification().run());
    two.heals(rigs);
}

#[test]
fn a_damaged_file_is_found_by_the_work_that_needs_it() {
    let two = Two::new();
    let file = two.index_file();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut rigs = two.open();
    let begun = two.log.len() as u64 + 1;
    let vector = VectorName::default();
    let log = [
        Upkeep::Begin { vector: vector.as_str(), work: Work::Arrange, list_rows: LIST_ROWS }.encode(),
        Upkeep::Adopt { begun }.encode(),
    ];
    rigs.iter_mut().for_each(|rig| drop(rig.apply(&log)));
    let two = Two { log: [two.log, log.to_vec()].concat(), ..two };
    two.heals(rigs);
}

#[test]
fn damage_to_a_state_that_was_replaced_takes_nothing_from_the_new_one() {
    let two = Two::new();
    let [mut good, mut bad] = two.open();
    let old = bad.live.state();
    bad.install(good.checkpoint()).unwrap();
    save(&bad);
    assert!(bad.live.state().index_hash().1.is_some());
    {
        let _standing_still = old.close_gate();
        saving::go_astray(&old, &bad.files).unwrap();
    }
    drop((old, bad));
    let again = open(two.directories[1].path(), IndexType::IvfPq, 1);
    assert_eq!(again.live.state().index_hash(), good.live.state().index_hash());
    assert!(good.live.state().index_hash().1.is_some());
}

#[test]
fn files_that_a_crash_left_behind_do_no_harm() {
    let two = Two::new();
    let file = two.index_file();
    // One written whole or in part before the records said so, and the one before, not removed yet.
    let beside = |name: &str| file.with_file_name(name);
    let newer = beside("0000000000000007-0000000000000002.index");
    std::fs::copy(&file, &newer).unwrap();
    std::fs::write(beside("0000000000000007-0000000000000003.index"), b"VSIX").unwrap();
    std::fs::write(beside("0000000000000007-0000000000000000.index"), b"").unwrap();
    assert!(newer != file && index_files(two.directories[1].path()).len() == 4);
    let [mut good, mut bad] = two.open();
    assert_eq!(bad.live.state().index_hash(), good.live.state().index_hash());
    let more = log_of(&[Happening::Write { first: 400, count: 20, seed: 9 }]).pop().unwrap();
    [&mut good, &mut bad].into_iter().for_each(|rig| drop(rig.apply(std::slice::from_ref(&more))));
    save(&bad);
    drop(bad);
    assert_eq!(index_files(two.directories[1].path()), [newer]);
    let again = open(two.directories[1].path(), IndexType::IvfPq, 1);
    assert_eq!(again.live.state().index_hash(), good.live.state().index_hash());
    assert!(good.live.state().index_hash().1.is_some());
}

fn index_files(directory: &Path) -> Vec<PathBuf> {
    let files = crate::store::files::list(directory).unwrap();
    files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "index")).collect()
}

/// Points with two vectors.
fn write_both(ids: std::ops::Range<u64>) -> Bytes {
    let named = |name: &str, seed| (VectorName::new(name).unwrap(), vector(seed));
    let both = |id| Point { vectors: vec![named("a", id), named("b", id * 3)], ..point(id, id) };
    commands::upsert(ids.map(both).collect(), None).unwrap()
}

#[test]
fn what_is_astray_in_one_vector_begins_in_another_what_others_begin() {
    let spec = || {
        let of = |name: &str| {
            let spec = VectorSpec::new(DIMENSION, Metric::Euclidean, IndexType::IvfFlat).unwrap();
            (VectorName::new(name).unwrap(), spec)
        };
        CollectionSpec { vectors: [of("a"), of("b")].into(), ..CollectionSpec::single(of("a").1) }
    };
    let begin = |vector, work| Upkeep::Begin { vector, work, list_rows: LIST_ROWS }.encode();
    let adopt = |begun| Upkeep::Adopt { begun }.encode();
    let trained = [
        write_both(0..150),
        begin("a", Work::Train),
        adopt(2),
        begin("b", Work::Train),
        adopt(4),
        write_both(120..210),
    ];
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let open = |at: usize| Rig::open_spec(directories[at].path(), spec(), settings(1));
    for at in 0..2 {
        let mut rig = open(at);
        rig.apply(&trained);
        save(&rig);
    }
    index_files(directories[1].path()).iter().for_each(|file| std::fs::remove_file(file).unwrap());

    let [mut good, mut bad] = [open(0), open(1)];
    let of_a = [
        begin("a", Work::Train),
        adopt(7),
        // Cannot begin where the lists of b are lost.
        begin("b", Work::Arrange),
        begin("a", Work::Arrange),
        write_both(200..230),
        adopt(9),
        adopt(10),
    ];
    for rig in [&mut good, &mut bad] {
        rig.apply(&of_a);
    }
    assert_eq!(bad.live.state().index_hash().1, None, "b is astray");
    let of_b = [begin("b", Work::Train), adopt(14)];
    for rig in [&mut good, &mut bad] {
        rig.apply(&of_b);
    }
    assert!(good.live.state().index_hash().1.is_some());
    assert_eq!(bad.live.state().index_hash(), good.live.state().index_hash());
}
