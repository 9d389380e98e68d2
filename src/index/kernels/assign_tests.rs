//! Every table gives the bits of the int8 definition, and the definition is close to the f32 one.

use super::bytes::{BytePanels, ByteRows, Nearest};
use super::*;
use crate::index::random::SplitMix64;
use proptest::prelude::*;

fn numbers(rng: &mut SplitMix64, count: usize) -> Vec<f32> {
    (0..count).map(|_| (rng.below(20_001) as f32 - 10_000.0) / 1000.0).collect()
}

proptest! {
    #[test]
    fn int8_assignment_is_bit_equal(
        (d, columns, rows) in (1usize..70, 1usize..150, 1usize..40), seed: u64, factor in -3f32..3.0, huge: bool,
    ) {
        let mut rng = SplitMix64::new(seed);
        let (mut centroids, data) = (numbers(&mut rng, d * columns), numbers(&mut rng, d * rows));
        if huge {
            centroids[0] = f32::MAX;
        }
        let definition = &scalar::KERNELS;
        let panels = BytePanels::new(&centroids, d, definition);
        let bytes = ByteRows::new(&data, d, definition);
        let picked: Vec<u32> = (0..rows as u32).filter(|_| rng.below(4) > 0).collect();
        let first = rng.below(panels.panels());
        let span = first..first + rng.below(panels.panels() - first) + 1;
        let all = 0..panels.panels();
        let nearest = |kernels: &Kernels| {
            let mut nearest = vec![Nearest::NONE; rows];
            (kernels.nearest_i8)(&panels, span.clone(), &bytes, &picked, &mut nearest);
            (kernels.nearest_i8)(&panels, all.clone(), &bytes, &picked, &mut nearest);
            nearest
        };
        let scores = |kernels: &Kernels| {
            let mut scores = vec![0f32; rows * panels.columns_padded()];
            (kernels.scores_i8)(&panels, &bytes, factor, &mut scores);
            scores.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        for other in available().into_iter().skip(1) {
            prop_assert_eq!(nearest(definition), nearest(other));
            prop_assert_eq!(scores(definition), scores(other));
        }
    }

    #[test]
    fn bytes_are_equal_and_near(values in prop::collection::vec(prop_oneof![9 => -10f32..10.0, 1 => Just(0f32)], 0..200)) {
        let mut expected = vec![0; values.len()];
        let step = (scalar::KERNELS.to_bytes)(&values, &mut expected);
        for other in available().into_iter().skip(1) {
            let mut got = vec![0; values.len()];
            prop_assert_eq!((other.to_bytes)(&values, &mut got).to_bits(), step.to_bits());
            prop_assert_eq!(&got, &expected);
        }
        for (v, &b) in values.iter().zip(&expected) {
            prop_assert!((v - f32::from(b as i8) * step).abs() <= 0.501 * step);
        }
    }
}

#[test]
fn scores_are_near_the_exact_ones() {
    let (d, columns, rows) = (37, 50, 20);
    let mut rng = SplitMix64::new(4);
    let (centroids, data) = (numbers(&mut rng, d * columns), numbers(&mut rng, d * rows));
    let kernels = active();
    let panels = BytePanels::new(&centroids, d, kernels);
    let bytes = ByteRows::new(&data, d, kernels);
    let mut scores = vec![0f32; rows * panels.columns_padded()];
    (kernels.scores_i8)(&panels, &bytes, -2.0, &mut scores);
    for (row, scores) in data.chunks(d).zip(scores.chunks(panels.columns_padded())) {
        for (column, score) in centroids.chunks(d).zip(scores) {
            let exact = (kernels.dot)(column, column) - 2.0 * (kernels.dot)(row, column);
            // Components are below 10: steps below 0.08, errors of a product below 2 · 10 · 0.04, with random signs.
            assert!((exact - score).abs() < 2.0 * 0.8 * (d as f32).sqrt() * 4.0, "{exact} {score}");
        }
        assert!(scores[columns..].iter().all(|s| *s == f32::INFINITY));
    }
}

#[test]
fn the_least_of_all_places_is_the_nearest() {
    let mut nearest = Nearest::NONE;
    assert_eq!(nearest.least(), (f32::INFINITY, 0));
    nearest.scores[3] = 1.0;
    nearest.columns[3] = 35;
    nearest.scores[9] = 1.0;
    nearest.columns[9] = 25;
    nearest.scores[1] = 1.5;
    nearest.columns[1] = 1;
    assert_eq!(nearest.least(), (1.0, 25));
    assert_eq!(nearest.within(1.5).collect::<Vec<_>>(), [1, 35, 25]);
}
