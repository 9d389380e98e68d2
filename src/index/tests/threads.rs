//! That a search on several threads finds what one thread finds, and tells the same of how it did. Run by `cargo test index::`.

use super::*;
use proptest::prelude::*;

const KINDS: [IndexKind; 5] =
    [IndexKind::Flat, IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfBinary, IndexKind::IvfInt8];

/// Trained on most rows, with some changed, some gone and some in the tail.
fn changed(metric: Metric, kind: IndexKind, rows: usize, generator: &mut Generator) -> Whole {
    let dimension = generator.centres[0].len();
    let spec = IndexSpec { tail_rows_max: 4 * rows, ..small(metric, kind, dimension) };
    let model = generator.model(rows);
    let mut whole = if kind == IndexKind::Flat { filled(&spec, &model) } else { trained(&spec, &model, 3) };
    for i in 0..rows / 4 {
        match i % 3 {
            0 => whole.remove_if_there(PointId::Num(i as u64 * 3)),
            1 => whole.upsert(PointId::Num((rows + i) as u64), 1, &generator.vector()),
            _ => whole.upsert(PointId::Num(i as u64 * 2), 2, &generator.vector()),
        }
    }
    whole
}

/// Ordinal, id, version, the bits of the distance (what is no number equals itself here), whether it is exact.
type HitBits = (u32, PointId, u64, u32, bool);

fn told(outcome: &SearchOutcome) -> (Vec<HitBits>, bool, SearchPlan, SearchStats) {
    let hit = |hit: &Hit| (hit.ordinal, hit.id, hit.version, hit.distance.to_bits(), hit.exact);
    (outcome.hits.iter().map(hit).collect(), outcome.settled, outcome.plan, outcome.stats)
}

/// Ways to ask for k.
fn ways(k: usize) -> [SearchParams; 6] {
    let plain = SearchParams::new(k);
    [
        plain,
        SearchParams { exact: true, ..plain },
        SearchParams { recall_target: Some(0.99), ..plain },
        SearchParams { recall_target: Some(0.5), ..plain },
        SearchParams { nprobe: Some(37), ..plain },
        SearchParams { nprobe: Some(usize::MAX), candidates: Some(3 * k), ..plain },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn answers_and_figures_do_not_depend_on_the_threads(
        kind in prop::sample::select(&KINDS[..]),
        metric in prop::sample::select(&Metric::ALL[..]),
        dimension in 1usize..40, rows in 400usize..2500, centres in 1usize..40, k in 0usize..60, share in 1usize..40, seed: u64,
    ) {
        let mut generator = Generator::new(metric, dimension, centres, seed);
        let whole = changed(metric, kind, rows, &mut generator);
        let query = generator.vector();
        let mut allowed = Allowed::none(whole.points.ordinals_end());
        // By chance, and by the side of a plane: a filter that follows the vectors.
        let mut corner = allowed.clone();
        for ordinal in (0..whole.points.ordinals_end()).filter(|&ordinal| whole.points.is_live(ordinal)) {
            if generator.rng.below(40) < share {
                allowed.insert(ordinal);
            }
            if ordinal as usize % rows < rows * share / 40 {
                corner.insert(ordinal);
            }
        }
        for params in ways(k) {
            let one = whole.search(&query, &params, &mut Scratch::new());
            let filtered = |scratch: &mut Scratch| {
                [&allowed, &corner].map(|allowed| {
                    let (outcome, plan) = whole.index.search_allowed(&whole.points, &query, &params, allowed, scratch);
                    (told(&outcome), plan)
                })
            };
            let filtered_by_one = filtered(&mut Scratch::new());
            for threads in [1, 2, 3, 7] {
                let mut scratch = Scratch::on_threads(threads);
                // Twice: buffers that were used tell nothing.
                for _ in 0..2 {
                    let found = whole.search(&query, &params, &mut scratch);
                    prop_assert_eq!(told(&found), told(&one), "{} threads, {:?}", threads, params);
                    prop_assert_eq!(&filtered(&mut scratch), &filtered_by_one, "{} threads, {:?}", threads, params);
                }
            }
            let found = whole.search(&query, &params, &mut Scratch::with_idle_cores());
            prop_assert_eq!(told(&found), told(&one), "idle cores, {:?}", params);
        }
    }
}
