//! A job of many steps makes of the index what it made of its copy, whatever the tail looked like in memory and however its rows
//! came there, with changes made while it runs.

use super::*;

/// The same points written in another order between two jobs, or written more often: other places in the tail, the same rows.
fn write(whole: &mut Whole, rows: &[(PointId, u64, Vec<f32>)], twice: bool) {
    let mut rows: Vec<_> = rows.iter().collect();
    if twice {
        for (id, version, vector) in rows.iter().rev() {
            let other: Vec<f32> = vector.iter().map(|x| x + 1.0).collect();
            whole.upsert(*id, *version, &other);
        }
        rows.reverse();
    }
    for (id, version, vector) in rows {
        whole.upsert(*id, *version, vector);
    }
}

#[test]
fn what_comes_out_does_not_depend_on_places_in_the_tail() {
    for kind in [IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfInt8] {
        let spec = small(Metric::Euclidean, kind, 10);
        let mut generator = Generator::new(spec.metric, spec.dimension, 6, 5);
        let model = generator.model(1500);
        let (mut one, mut other) = (trained(&spec, &model, 3), trained(&spec, &model, 3));
        let mut renewed = 0;
        for round in 0..6u64 {
            generator.centres.iter_mut().flatten().for_each(|x| *x += 0.7);
            let mut batch = |count: usize, version: u64| -> Vec<_> {
                (0..count).map(|i| (PointId::Num(i as u64 * 7 % 2500), version, generator.vector())).collect()
            };
            let (before, meanwhile) = (batch(700, 10 * round + 10), batch(60, 10 * round + 11));
            for (whole, twice) in [(&mut one, false), (&mut other, true)] {
                write(whole, &before, twice);
                let job = whole.index.arrange_job(&whole.points).expect("trained");
                assert!(whole.index.arrange_job(&whole.points).is_none(), "one at a time");
                write(whole, &meanwhile, twice);
                whole.remove_if_there(PointId::Num(round));
                let mut arranged = job.run().expect("sound lists");
                renewed += arranged.renewed_lists();
                assert!(whole.index.install_arranged(&mut arranged));
            }
            let hashes = [&one, &other].map(|model| model.index.hash_job(&model.points).run());
            assert_eq!(hashes[0], hashes[1], "{kind:?} {round}");
            let mut scratch = Scratch::new();
            for nprobe in [1, 3] {
                let params = SearchParams { nprobe: Some(nprobe), ..SearchParams::new(10) };
                let query = generator.vector();
                // But for ordinals, which are each index's own.
                let answers = [&one, &other].map(|whole| {
                    let hits = whole.search(&query, &params, &mut scratch).hits;
                    hits.into_iter().map(|hit| (hit.id, hit.version, hit.distance.to_bits())).collect::<Vec<_>>()
                });
                assert_eq!(answers[0], answers[1]);
            }
        }
        assert!(renewed > 10, "{renewed}");
    }
}
