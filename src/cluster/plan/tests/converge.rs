//! Whatever happens to a cluster on paper, the planner never takes a majority away and comes to rest with everything in its place.

use super::world::World;
use super::*;
use crate::cluster::placement::{Layout, Standing};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Rounds in which things happen.
const WILD_ROUNDS: usize = 60;
/// Rounds in which the planner must come to rest.
const CALM_ROUNDS: usize = 600;

fn pick<T: Copy>(rng: &mut StdRng, items: &[T]) -> Option<T> {
    (!items.is_empty()).then(|| items[rng.random_range(0..items.len())])
}

/// Whether every group would still have a majority without the node.
fn survivable(world: &World, node: NodeId) -> bool {
    let mut without = world.clone();
    without.kill(node);
    without.groups.values().all(|group| group.leader.is_some()) && without.control.leader.is_some()
}

/// Something that a cluster must live through.
fn event(world: &mut World, rng: &mut StdRng) {
    let of = |world: &World, state| {
        let nodes = world.records.iter().filter(|(_, record)| record.state == state);
        nodes.map(|(id, _)| *id).collect::<Vec<_>>()
    };
    let active = of(world, MemberState::Active);
    match rng.random_range(0..8) {
        0 if world.records.len() < 14 => world.join(world.records.keys().max().unwrap() + 1),
        1 | 2 => {
            if let Some(node) = pick(rng, &active).filter(|node| survivable(world, *node)) {
                world.kill(node);
            }
        }
        3 => {
            if let Some(node) = pick(rng, &world.dead.iter().copied().collect::<Vec<_>>()) {
                world.revive(node);
            }
        }
        4 if active.len() > 2 => {
            if let Some(node) = pick(rng, &active) {
                world.set_state(node, MemberState::Draining);
            }
        }
        5 => {
            if let Some(node) = pick(rng, &of(world, MemberState::Draining)) {
                world.set_state(node, MemberState::Active);
            }
        }
        6 => {
            let shard = pick(rng, &world.table.shards.keys().copied().collect::<Vec<_>>()).unwrap();
            let voters = world.groups[&shard].voters.clone();
            let mut failed = world.clone();
            if let Some(node) = pick(rng, &voters) {
                failed.fail(shard, node);
                if failed.groups[&shard].leader.is_some() {
                    *world = failed;
                }
            }
        }
        _ => {
            for (node, away) in &mut world.away {
                if world.dead.contains(node) {
                    *away += Duration::from_secs(200);
                }
            }
        }
    }
}

/// Every shard has a leader, and one change of at most one in and one out.
fn check(world: &World, before: &World) -> Result<(), TestCaseError> {
    for (shard, group) in &world.groups {
        prop_assert!(group.leader.is_some(), "shard {} has lost its majority: {:?}", shard, group);
        let (was, is) = (&before.table.shards[shard].replicas, &world.table.shards[shard].replicas);
        prop_assert!(is.iter().filter(|node| !was.contains(node)).count() <= 1, "{:?} {:?}", was, is);
        prop_assert!(was.iter().filter(|node| !is.contains(node)).count() <= 1, "{:?} {:?}", was, is);
        if was != is {
            let well = is.iter().filter(|node| world.works(*shard, **node)).count();
            prop_assert!(well * 2 > is.len(), "shard {} was given replicas without a majority", shard);
        }
    }
    prop_assert!(world.control.leader.is_some(), "the coordinator has lost its majority");
    Ok(())
}

fn is_in_place(world: &World) -> Result<(), TestCaseError> {
    let view = world.view();
    let candidates = view.candidates(REPLACE_AFTER);
    let layout = Layout::new(&candidates, &world.table);
    let standing = |node: &NodeId| candidates.iter().find(|candidate| candidate.id == *node).unwrap().standing;
    let active = candidates.iter().filter(|candidate| candidate.standing == Standing::Active).count();
    for (shard, entry) in &world.table.shards {
        prop_assert_eq!(&world.groups[shard].voters, &entry.replicas);
        let good = entry.replicas.iter().filter(|node| standing(node) == Standing::Active).count();
        let away = entry.replicas.iter().filter(|node| standing(node) == Standing::Away).count();
        prop_assert!(good + away >= layout.copies(*shard).min(active), "shard {}: {:?}", shard, entry);
        if away == 0 && active >= layout.copies(*shard) {
            prop_assert_eq!(entry.replicas.len(), layout.copies(*shard), "shard {}: {:?}", shard, entry);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_comes_to_rest(seed in any::<u64>(), nodes in 1..8_u64, zones in 1..4_u64, copies in 0..4_u32, shards in 1..12_u32) {
        let mut rng = StdRng::seed_from_u64(seed);
        let copies = (copies > 0 && u64::from(copies) <= nodes).then_some(copies);
        let mut world = World::new(nodes, zones).with_collection("a", shards, copies).with_collection("b", 2, None);
        for _ in 0..WILD_ROUNDS {
            if rng.random_bool(0.5) {
                event(&mut world, &mut rng);
            }
            let before = world.clone();
            // The master may be old, slow or replaced half-way: any part of what it plans is accepted.
            let planned = plan(&world.view(), &Limits::default());
            let actions = planned.actions.iter().filter(|_| rng.random_bool(0.8));
            let actions: Vec<Action> = actions.map(|planned| planned.action.clone()).collect();
            actions.iter().for_each(|action| world.obey(action));
            check(&world, &before)?;
            for shard in world.table.shards.keys().copied().collect::<Vec<_>>() {
                if rng.random_bool(0.3) {
                    world.land(shard);
                }
            }
            if rng.random_bool(0.3) {
                world.land_votes();
            }
            check(&world, &world)?;
        }
        // Who is away stays away.
        world.away.values_mut().for_each(|away| *away += REPLACE_AFTER);
        let mut quiet = 0;
        let changes = world.changes;
        for _ in 0..CALM_ROUNDS {
            let before = world.clone();
            let planned = plan(&world.view(), &Limits::default());
            quiet = if planned.is_done() { quiet + 1 } else { 0 };
            if quiet > 2 {
                break;
            }
            world.accept(&planned);
            check(&world, &before)?;
            world.land_all();
        }
        let last = plan(&world.view(), &Limits::default());
        prop_assert!(quiet > 2, "it never comes to rest: {:?}", last);
        let replicas: usize = world.table.shards.values().map(|entry| entry.replicas.len()).sum();
        prop_assert!(world.changes - changes <= 2 * replicas + 4, "{} changes for {} replicas", world.changes - changes, replicas);
        is_in_place(&world)?;
    }
}
