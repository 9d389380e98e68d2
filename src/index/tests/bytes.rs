//! The bytes of a sealed index: the same everywhere, read back as they were, and never trusted.

use super::*;
use crate::index::list::LiveList;
use crate::types::Rerank;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

fn built(kernels: &'static Kernels, metric: Metric, kind: IndexKind, dimension: usize, seed: u64) -> Built {
    let model = Generator::new(metric, dimension, 10, 77).model(900);
    train_with(kernels, &small(metric, kind, dimension), &mut ModelSource(&model), &TrainOptions::new(seed))
        .expect("rows to train on")
}

#[test]
fn every_cpu_builds_the_same_bytes_and_finds_the_same() {
    for metric in Metric::ALL {
        let more = [(IndexKind::IvfBinary, 33), (IndexKind::IvfInt8, 21)];
        for (kind, dimension) in
            [(IndexKind::IvfPq, 37), (IndexKind::IvfPq, 64), (IndexKind::IvfFlat, 20)].into_iter().chain(more)
        {
            let spec = small(metric, kind, dimension);
            let mut generator = Generator::new(metric, dimension, 10, 78);
            let queries: Vec<_> = (0..10).map(|_| generator.vector()).collect();
            let of = |kernels: &'static Kernels| {
                let built = built(kernels, metric, kind, dimension, 3);
                let bytes = bytes_of(&built.points, built.sealed.clone());
                let index = Whole::of(&spec, built);
                let mut scratch = Scratch::with_kernels(kernels);
                let answers: Vec<_> =
                    queries.iter().map(|q| index.search(q, &SearchParams::new(10), &mut scratch)).collect();
                (bytes, answers)
            };
            let mut tables = kernels::available().into_iter();
            let expected = of(tables.next().expect("the definition"));
            for kernels in tables {
                assert!(of(kernels) == expected, "{} {metric:?} {kind:?}", kernels.name);
            }
        }
    }
}

/// Enough lists for two levels of assignment, and rows for several parts and more than one batch.
#[test]
fn threads_do_not_matter() {
    let dimension = 20;
    let spec = IndexSpec { list_rows: 18, calibration_queries: 8, ..small(Metric::Dot, IndexKind::IvfPq, dimension) };
    let model = Generator::new(Metric::Dot, dimension, 200, 79).model(14_000);
    let of = |kernels: &'static Kernels, threads: usize| {
        let options = TrainOptions { threads, ..TrainOptions::new(4) };
        let built = train_with(kernels, &spec, &mut ModelSource(&model), &options).expect("rows to train on");
        assert!(built.sealed.lists.len() > 512, "{} lists are one group", built.sealed.lists.len());
        bytes_of(&built.points, built.sealed)
    };
    let expected = of(kernels::active(), 1);
    for threads in [2, 3, 7] {
        assert!(of(kernels::active(), threads) == expected, "{threads} threads");
    }
    for kernels in kernels::available() {
        assert!(of(kernels, 2) == expected, "{}", kernels.name);
    }
}

#[test]
fn a_build_is_cancelled_wherever_it_is() {
    let model = Generator::new(Metric::Euclidean, 12, 10, 77).model(3000);
    let spec = small(Metric::Euclidean, IndexKind::IvfPq, 12);
    let asked = AtomicUsize::new(0);
    let count = |stop_at: usize| {
        asked.store(0, Ordering::Relaxed);
        let cancelled = || asked.fetch_add(1, Ordering::Relaxed) + 1 >= stop_at;
        let options = TrainOptions { cancelled: &cancelled, ..TrainOptions::new(4) };
        train(&spec, &mut ModelSource(&model), &options)
    };
    assert!(count(usize::MAX).is_ok());
    let questions = asked.load(Ordering::Relaxed);
    assert!(questions > 20, "asked {questions} times only");
    for stop_at in (1..=questions).step_by(questions / 20) {
        assert!(matches!(count(stop_at), Err(TrainError::Cancelled)), "cancelled at {stop_at} of {questions}");
    }
}

#[test]
fn the_seed_decides_the_bytes() {
    let of = |seed| {
        let built = built(kernels::active(), Metric::Euclidean, IndexKind::IvfPq, 24, seed);
        bytes_of(&built.points, built.sealed)
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn decoding_gives_back_what_was_encoded() {
    for metric in Metric::ALL {
        for kind in IndexKind::TRAINED {
            let built = built(kernels::active(), metric, kind, 30, 1);
            let bytes = bytes_of(&built.points, built.sealed.clone());
            let spec = small(metric, kind, 30);
            let (b, damage) = Whole::of_bytes(&spec, &bytes).expect("its own bytes");
            assert!(b.bytes() == bytes);
            assert!(built.sealed.ordinals().eq(b.index.sealed().expect("trained").ordinals()) && b.index.len() == 900);
            let a = Whole::of(&spec, built);
            let mut generator = Generator::new(metric, 30, 10, 6);
            let mut scratch = Scratch::new();
            for _ in 0..10 {
                let query = generator.vector();
                let params = SearchParams::new(5);
                assert_eq!(a.search(&query, &params, &mut scratch), b.search(&query, &params, &mut scratch));
            }
            assert_eq!(damage.found(), None);
        }
    }
}

/// A file of an index, its answers, and what damaging the file may make of them.
struct Original {
    spec: IndexSpec,
    bytes: Vec<u8>,
    queries: Vec<Vec<f32>>,
    answers: Vec<SearchOutcome>,
}

/// What came of a damaged file.
#[derive(Debug, PartialEq)]
enum Fate {
    Refused,
    /// Found damaged at use, at the latest when everything was verified.
    Found,
    /// The damage lies where nothing is.
    Harmless,
}

impl Original {
    fn new(kind: IndexKind) -> Original {
        let spec = small(Metric::Euclidean, kind, 6);
        let built = built(kernels::active(), Metric::Euclidean, kind, 6, 1);
        let bytes = bytes_of(&built.points, built.sealed.clone());
        let whole = Whole::of(&spec, built);
        let mut generator = Generator::new(Metric::Euclidean, 6, 10, 4);
        let queries: Vec<_> = (0..3).map(|_| generator.vector()).collect();
        let answers = Original::ask(&whole, &queries);
        Original { spec, bytes, queries, answers }
    }

    fn ask(whole: &Whole, queries: &[Vec<f32>]) -> Vec<SearchOutcome> {
        let mut scratch = Scratch::new();
        let params = SearchParams { nprobe: Some(usize::MAX), ..SearchParams::new(10) };
        queries.iter().map(|query| whole.search(query, &params, &mut scratch)).collect()
    }

    /// Opens the bytes, asks, changes, verifies. Whatever is not refused or found must be answered as before.
    fn fate(&self, bytes: &[u8]) -> Fate {
        let Ok((mut whole, damage)) = Whole::of_bytes(&self.spec, bytes) else { return Fate::Refused };
        let answers = Original::ask(&whole, &self.queries);
        assert!(damage.found().is_some() || answers == self.answers, "a wrong answer");
        whole.points.verify();
        whole.index.verification().run();
        let found = damage.found().is_some();
        for n in (0..900).step_by(7) {
            whole.remove_if_there(PointId::Num(n));
            whole.upsert(PointId::Num(n + 450), 2, &[0.25; 6]);
        }
        Original::ask(&whole, &self.queries);
        if found { Fate::Found } else { Fate::Harmless }
    }
}

#[test]
fn what_is_no_index_is_refused_by_name() {
    let original = Original::new(IndexKind::IvfPq);
    let refused = |bytes: &[u8]| open(bytes, &Damage::default()).err();
    assert_eq!(refused(b""), Some(IndexFileError::Magic));
    assert!(matches!(
        refused(b"VSIX"),
        Some(IndexFileError::Field { field: "length" } | IndexFileError::Version { .. })
    ));
    let mut newer = original.bytes.clone();
    newer[4] += 1;
    assert_eq!(refused(&newer), Some(IndexFileError::Version { got: u32::from(newer[4]) }));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for kind in [IndexKind::IvfFlat, IndexKind::IvfPq] {
        let original = Original::new(kind);
        let len = original.bytes.len();
        for cut in (0..len).step_by(131).chain(len - 100..len) {
            assert_eq!(original.fate(&original.bytes[..cut]), Fate::Refused, "cut to {cut} of {len}");
        }
        let longer: Vec<u8> = original.bytes.iter().copied().chain([0; 64]).collect();
        assert_eq!(original.fate(&longer), Fate::Refused);
    }
}

#[test]
fn a_byte_changed_anywhere_is_found_or_harmless() {
    for kind in [IndexKind::IvfFlat, IndexKind::IvfPq] {
        let original = Original::new(kind);
        let (mut refused, mut found) = (0, 0);
        let mut changed = original.bytes.clone();
        for at in (0..changed.len()).step_by(97) {
            changed[at] ^= 0x10;
            match original.fate(&changed) {
                Fate::Refused => refused += 1,
                Fate::Found => found += 1,
                Fate::Harmless => assert_eq!(original.bytes[at], 0, "only gaps may change: {at}"),
            }
            changed[at] ^= 0x10;
        }
        assert!(refused > 5 && found > 100, "{refused} {found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(open(&garbage, &Damage::default()).is_err());
    }

    /// A directory with some bytes changed and well signed is refused, or is an index that can be searched and changed.
    #[test]
    fn a_signed_directory_of_anything_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        thread_local!(static ORIGINAL: Original = Original::new(IndexKind::IvfPq));
        ORIGINAL.with(|original| {
            let mut bytes = original.bytes.clone();
            let trailer = bytes.len() - 32;
            let start = u64::from_le_bytes(bytes[trailer..trailer + 8].try_into().unwrap()) as usize;
            for (at, value) in changes {
                bytes[start + at.index(trailer - start)] = value;
            }
            let sum = crc32c::crc32c(&bytes[start..trailer]);
            bytes[trailer + 16..trailer + 20].copy_from_slice(&sum.to_le_bytes());
            let sum = crc32c::crc32c(&bytes[trailer..trailer + 28]);
            bytes[trailer + 28..].copy_from_slice(&sum.to_le_bytes());
            if let Ok((mut whole, _)) = Whole::of_bytes(&original.spec, &bytes) {
                Original::ask(&whole, &original.queries);
                whole.upsert(PointId::Num(3), 2, &[0.25; 6]);
                whole.remove_if_there(PointId::Num(4));
            }
        });
    }
}

#[test]
fn lists_answer_the_same_from_any_memory() {
    for kind in IndexKind::TRAINED {
        for rerank in [Rerank::F32, Rerank::Int8] {
            let spec = IndexSpec { rerank, ..small(Metric::Euclidean, kind, 9) };
            let mut generator = Generator::new(Metric::Euclidean, 9, 10, 77);
            let built =
                train(&spec, &mut ModelSource(&generator.model(900)), &TrainOptions::new(1)).expect("rows to train on");
            let (bytes, whole) = (bytes_of(&built.points, built.sealed.clone()), Whole::of(&spec, built));
            let query = generator.vector();
            let params = SearchParams { nprobe: Some(usize::MAX), ..SearchParams::new(10) };
            let ask = |whole: &Whole| whole.search(&query, &params, &mut Scratch::new());
            for memory in [Memory::Low, Memory::Balanced, Memory::Fast] {
                let file = tempfile::tempfile().expect("a file");
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).expect("written");
                // SAFETY: nobody else has the file.
                let block = Block::mapped(unsafe { memmap2::Mmap::map(&file) }.expect("mapped"));
                let image = Image::open(&block, &Damage::default()).expect("its own bytes");
                let saved = image.parts.into_iter().next().expect("one index");
                let index = VectorIndex::open(spec.clone(), saved).expect("the same specification");
                let mut opened = Whole { points: image.points, index };
                assert!(opened.index.wants_placement() && ask(&opened) == ask(&whole));
                let placed = opened.index.placement(memory).run().expect("memory");
                opened.index.install_placed(placed);
                assert!(!opened.index.wants_placement(), "{kind:?} {memory:?}");
                assert!((0..9).all(|_| ask(&opened) == ask(&whole)), "{kind:?} {rerank:?} {memory:?}");
                assert!(opened.bytes() == bytes, "{kind:?} {memory:?}: saved again as it was");
            }
        }
    }
}

/// An index whose lists were filed into, split and dissolved.
fn worn(kind: IndexKind) -> Whole {
    let spec = small(Metric::Euclidean, kind, 8);
    let mut generator = Generator::new(Metric::Euclidean, 8, 6, 3);
    let mut whole = trained(&spec, &generator.model(1000), 1);
    generator.centres.iter_mut().flatten().for_each(|x| *x += 1.0);
    for n in 0..1200 {
        whole.upsert(PointId::Num(n + 500), 2, &generator.vector());
    }
    let filed = &mut whole.index.filing_job(&whole.points).expect("trained").run().expect("sound lists");
    assert!(whole.index.install_rearranged(filed) && whole.index.wants_reshaping());
    let reshaped = &mut whole.index.reshape_job().expect("trained").run().expect("sound lists");
    assert!(whole.index.install_rearranged(reshaped) && reshaped.renewed_lists() > 0);
    whole
}

#[test]
fn what_lists_know_of_their_rows_survives_the_file() {
    for kind in IndexKind::TRAINED {
        let mut whole = worn(kind);
        for n in 0..60 {
            whole.remove_if_there(PointId::Num(n * 20));
        }
        let (opened, _) = Whole::of_bytes(whole.index.spec(), &whole.bytes()).expect("its own bytes");
        let [before, after] = [&whole, &opened].map(|whole| whole.index.sealed().expect("trained").lists);
        for (before, after) in before.iter().zip(&after) {
            let of = |live: &LiveList| {
                let known = (live.list.inherited_error.to_bits(), live.list.residual_sum.to_bits());
                (known, live.departed, live.unparted_rows, live.changed_rows, live.live_rows)
            };
            assert_eq!(of(before), of(after));
        }
        let inherits = before.iter().any(|live| live.list.inherited_error > 0.0);
        assert!(inherits != (kind == IndexKind::IvfFlat) && before.iter().any(|live| live.changed_rows > 0));
        assert_eq!(opened.index.state().drift.to_bits(), whole.index.state().drift.to_bits());
        let params = SearchParams::new(10);
        assert_eq!(opened.index.plan(&params), whole.index.plan(&params), "as many of the lists are probed as before");
    }
}

/// A damaged list that is copied would be saved with a checksum of its own, and the damage be sound for ever.
#[test]
fn no_job_copies_a_damaged_list() {
    for kind in IndexKind::TRAINED {
        let whole = worn(kind);
        let spec = whole.index.spec();
        let mut bytes = whole.bytes();
        let job = |whole: &Whole| {
            (whole.index.filing_job(&whole.points).expect("trained"), whole.index.reshape_job().expect("trained"))
        };
        let open = |bytes: &[u8]| {
            let (mut opened, damage) = Whole::of_bytes(spec, bytes).expect("the directory is sound");
            for n in 0..600 {
                opened.upsert(PointId::Num(10_000 + n), 1, &[0.5; 8]);
            }
            (opened, damage)
        };
        let (mut sound, damage) = open(&bytes);
        let (filing, _) = job(&sound);
        assert!(filing.tail_rows() > 0);
        assert!(sound.index.install_rearranged(&mut filing.run().expect("sound lists")));
        let saved = sound.bytes();
        let (again, later) = Whole::of_bytes(spec, &saved).expect("its own bytes");
        again.index.verification().run();
        assert_eq!((damage.found(), later.found()), (None, None), "a list that grew has a checksum of its own");
        // The first bytes behind the head are of the first list.
        bytes[64] ^= 1;
        for takes_filing in [true, false] {
            let (opened, damage) = open(&bytes);
            let (filing, reshaping) = job(&opened);
            assert_eq!(damage.found(), None, "nobody has looked");
            let outcome = if takes_filing { filing.run() } else { reshaping.run() };
            assert!(outcome.is_none() && damage.found().is_some());
        }
    }
}
