//! The bytes of a sealed index: the same everywhere, read back as they were, and never trusted.

use super::*;
use proptest::prelude::*;

fn built(kernels: &'static Kernels, metric: Metric, kind: IndexKind, dimension: usize, seed: u64) -> Built {
    let model = Generator::new(metric, dimension, 10, 77).model(900);
    train_with(kernels, &small(metric, kind, dimension), &mut ModelSource(&model), seed).expect("rows to train on")
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
                let bytes = (built.sealed.encode(), built.points.encode());
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

#[test]
fn the_seed_decides_the_bytes() {
    let of = |seed| built(kernels::active(), Metric::Euclidean, IndexKind::IvfPq, 24, seed).sealed.encode();
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn decoding_gives_back_what_was_encoded() {
    for metric in Metric::ALL {
        for kind in IndexKind::TRAINED {
            let built = built(kernels::active(), metric, kind, 30, 1);
            let bytes = built.sealed.encode();
            let sealed = Sealed::decode(&bytes).expect("its own bytes");
            assert_eq!(sealed.encode(), bytes);
            assert!(sealed.ordinals().eq(built.sealed.ordinals()) && sealed.len() == 900);
            let spec = small(metric, kind, 30);
            let decoded = Built { sealed, points: built.points.clone() };
            let (a, b) = (Whole::of(&spec, built), Whole::of(&spec, decoded));
            let mut generator = Generator::new(metric, 30, 10, 6);
            let mut scratch = Scratch::new();
            for _ in 0..10 {
                let query = generator.vector();
                let params = SearchParams::new(5);
                assert_eq!(a.search(&query, &params, &mut scratch), b.search(&query, &params, &mut scratch));
            }
        }
    }
}

/// Replaces the checksum with the right one.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn what_is_no_index_is_refused_by_name() {
    let bytes = built(kernels::active(), Metric::Dot, IndexKind::IvfPq, 12, 1).sealed.encode();
    assert_eq!(Sealed::decode(b"").err(), Some(IndexFileError::Magic));
    assert_eq!(Sealed::decode(b"VSIX").err(), Some(IndexFileError::Field { field: "length" }));
    let mut newer = bytes.clone();
    newer[4] = 99;
    assert_eq!(Sealed::decode(&newer).err(), Some(IndexFileError::Version { got: 99 }));
    let mut torn = bytes.clone();
    torn[bytes.len() / 2] ^= 1;
    assert!(matches!(Sealed::decode(&torn), Err(IndexFileError::Checksum { .. })));
    assert!(Sealed::decode(&bytes[..bytes.len() - 9]).is_err());
    let longer = signed(bytes.iter().copied().chain([0; 8]).collect());
    assert_eq!(Sealed::decode(&longer).err(), Some(IndexFileError::Field { field: "length" }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Sealed::decode(&garbage).is_err());
        let headed: Vec<u8> = b"VSIX\x03\0\0\0".iter().copied().chain(garbage).chain([0; 4]).collect();
        let _ = Sealed::decode(&signed(headed));
    }

    /// A well-signed file with some bytes changed is refused, or is an index that can be searched.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), head: bool) {
        thread_local!(static BYTES: Vec<u8> =
            built(kernels::active(), Metric::Euclidean, IndexKind::IvfPq, 6, 1).sealed.encode());
        let mut bytes = BYTES.with(Clone::clone);
        for (at, value) in changes {
            let span = if head { 60 } else { bytes.len() };
            bytes[at.index(span)] = value;
        }
        if let Ok(sealed) = Sealed::decode(&signed(bytes)) {
            let spec = IndexSpec::new(Metric::Euclidean, 6);
            let mut points = Points::new();
            (0..900).for_each(|n| _ = points.put(PointId::Num(n), 1));
            if let Ok(index) = VectorIndex::restore(spec, &points, sealed) {
                index.search(&points, &[0.5; 6], &SearchParams::new(3), &mut Scratch::new());
            }
        }
    }
}
