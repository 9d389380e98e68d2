//! Everything at once: loss, delay, repetition, cuts of both kinds, and kills, while clients write and read. Afterwards nothing
//! acknowledged is missing, nothing is there twice that was proposed once, and all members agree.

use super::network::{Cluster, Faults};
use super::*;
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;

async fn storm(seed: u64, nodes: u64, rounds: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let short = RaftOptions { compact_after_bytes: 2 << 10, keep_bytes_max: 4 << 10, ..options() };
    let mut cluster =
        Cluster::start(nodes, seed, if seed.is_multiple_of(2) { short } else { options() }, Faults::default()).await;
    let mut acknowledged = Vec::new();
    let mut sequence = 0;
    for _ in 0..rounds {
        let faults = Faults {
            loss: rng.random_range(0.0..0.2),
            repeat: rng.random_range(0.0..0.2),
            delay_ms_max: rng.random_range(0..10),
        };
        cluster.network.set_faults(faults);
        cluster.network.heal();
        let node = rng.random_range(1..=nodes);
        match rng.random_range(0..5) {
            0 => cluster.network.isolate(node),
            1 => cluster.network.cut_one_way(node, node % nodes + 1),
            2 | 3 => {
                cluster.kill(node, rng.random());
                cluster.start_node(node).await;
            }
            _ => {}
        }
        for _ in 0..20 {
            sequence += 1;
            let text = format!("{sequence:0>60}");
            let leaders: Vec<_> = cluster.groups.values().filter(|group| group.is_leader()).cloned().collect();
            for group in leaders {
                let proposed = rt::time::timeout(Duration::from_millis(200), group.propose(Bytes::from(text.clone())));
                if matches!(proposed.await, Ok(Ok(_))) {
                    acknowledged.push(text.clone());
                    break;
                }
            }
            rt::time::sleep(Duration::from_millis(rng.random_range(0..5))).await;
        }
    }
    cluster.network.set_faults(Faults::default());
    cluster.network.heal();
    cluster.write("the end").await;
    let all = cluster.agree().await;
    let mut times = BTreeMap::<&str, usize>::new();
    all.iter().for_each(|text| *times.entry(text).or_default() += 1);
    for text in &acknowledged {
        assert!(times.contains_key(text.as_str()), "seed {seed}: {text} was acknowledged and is lost");
    }
    assert!(cluster.groups.values().all(|group| group.failure().is_none()));
    assert!(acknowledged.len() > rounds, "seed {seed}: only {} were acknowledged", acknowledged.len());
}

#[test]
fn nothing_acknowledged_is_lost_in_a_storm() {
    for (seed, nodes) in [(100, 3), (101, 5)] {
        run(storm(seed, nodes, 12));
    }
}

/// For a long look: `cargo test --release storms -- --ignored`.
#[test]
#[ignore = "minutes: cargo test --release --lib storms -- --ignored"]
fn storms() {
    for seed in 200..240 {
        run(storm(seed, if seed.is_multiple_of(3) { 5 } else { 3 }, 30));
    }
}
