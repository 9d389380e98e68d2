//! Tests of the planner: every kind of change, and that whatever happens it comes to rest without losing a majority.

mod converge;
pub mod world;

use super::*;
use crate::cluster::{control::VERSION_OF_SPLITS, members::MemberState};
use world::World;

const REPLACE_AFTER: Duration = Duration::from_secs(300);

fn replicas(world: &World, shard: ShardId) -> Vec<NodeId> {
    world.table.shards[&shard].replicas.clone()
}

fn planned(world: &World) -> Plan {
    plan(&world.view(), &Limits::default())
}

fn holders(world: &World, node: NodeId) -> usize {
    world.table.shards.values().filter(|entry| entry.replicas.contains(&node)).count()
}

#[test]
fn nothing_is_done_where_all_is_well() {
    let world = World::new(5, 1).with_collection("c", 20, Some(3));
    let plan = planned(&world);
    assert!(plan.is_done() && plan.findings.is_empty(), "{plan:?}");
}

#[test]
fn a_node_that_is_away_is_waited_for_and_then_replaced() {
    let mut world = World::new(4, 1).with_collection("c", 6, Some(3));
    world.kill(2);
    let lost = holders(&world, 2);
    world.away.insert(2, REPLACE_AFTER - Duration::from_secs(1));
    assert_eq!(planned(&world).actions, [], "it may come back");
    world.away.insert(2, REPLACE_AFTER);
    let plan = planned(&world);
    let (votes, moves): (Vec<_>, Vec<_>) = plan.actions.iter().partition(|planned| planned.reason == Reason::Voters);
    let all_gone = moves.iter().all(|planned| planned.reason == Reason::Gone(2));
    assert!(all_gone && !moves.is_empty() && votes.len() == 1, "{plan:?}");
    assert_eq!(moves.len() + plan.waiting as usize, lost, "every replica it had");
    world.run(100);
    assert_eq!(holders(&world, 2), 0);
    assert!(world.table.shards.values().all(|entry| entry.replicas.len() == 3));
}

#[test]
fn no_node_receives_or_sends_more_than_it_may() {
    let mut world = World::new(6, 1).with_collection("c", 60, Some(3));
    world.kill(1);
    world.away.insert(1, REPLACE_AFTER);
    let mut begun = 0;
    for _ in 0..3 {
        let plan = planned(&world);
        begun += plan.actions.iter().filter(|planned| planned.bytes > 0).count();
        world.accept(&plan);
        let mut busy: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (shard, entry) in &world.table.shards {
            let group = &world.groups[shard];
            for to in entry.replicas.iter().filter(|node| !group.voters.contains(node)) {
                *busy.entry(*to).or_default() += 1;
                *busy.entry(group.leader.unwrap()).or_default() += 1;
            }
        }
        assert!(busy.values().all(|count| *count <= 2), "{busy:?}");
    }
    assert!((2..=5).contains(&begun), "{begun} begun among five nodes, two each");
}

#[test]
fn a_replica_that_will_not_arrive_holds_no_place() {
    let mut world = World::new(5, 1).with_collection("c", 1, Some(3));
    let one_at_once = Limits { moves_max: 1, ..Limits::default() };
    let lost = replicas(&world, 1)[0];
    world.kill(lost);
    world.away.insert(lost, one_at_once.replace_after);
    let first = plan(&world.view(), &one_at_once);
    world.accept(&first);
    let to = replicas(&world, 1).into_iter().find(|node| !world.groups[&1].voters.contains(node)).unwrap();
    world.kill(to);
    world.away.insert(to, one_at_once.replace_after);
    let turned = plan(&world.view(), &one_at_once);
    assert!(turned.actions.iter().any(|planned| planned.reason == Reason::Stranded(to)), "{turned:?}");
}

#[test]
fn a_node_that_is_said_to_be_twice_as_large_gets_twice_as_much() {
    let mut world = World::new(4, 1).with_collection("c", 40, Some(1));
    assert_eq!(holders(&world, 1), 10);
    world.records.get_mut(&1).unwrap().weight *= 2;
    world.run(400);
    assert_eq!([1, 2, 3, 4].map(|node| holders(&world, node)), [16, 8, 8, 8]);
    assert!(planned(&world).is_done());
}

#[test]
fn draining_moves_leaders_then_replicas_and_ends() {
    let mut world = World::new(5, 1).with_collection("c", 10, Some(3));
    world.set_state(3, MemberState::Draining);
    let plan = planned(&world);
    for planned in plan.actions.iter().filter(|planned| planned.reason != Reason::Voters) {
        assert_eq!(planned.reason, Reason::Drain(3));
        let shard = match &planned.action {
            Action::Lead { shard, from: 3, .. } => shard,
            Action::Replicas { shard, remove: Some(3), add: Some(_), .. } => shard,
            other => panic!("{other}"),
        };
        let leads = world.groups[shard].leader == Some(3);
        assert_eq!(leads, matches!(planned.action, Action::Lead { .. }), "leaders first");
    }
    world.run(100);
    assert_eq!(holders(&world, 3), 0);
    assert!(planned(&world).is_done());
}

#[test]
fn a_drain_that_leaves_too_few_nodes_gives_up_copies_nobody_asked_for() {
    let mut world = World::new(3, 1).with_collection("default", 4, None).with_collection("asked", 2, Some(3));
    world.set_state(2, MemberState::Draining);
    world.run(100);
    let of = |name: &str| {
        let entries = world.table.shards.values().filter(|entry| entry.collection.as_str() == name);
        entries.map(|entry| entry.replicas.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("default"), vec![vec![1, 3]; 4]);
    assert_eq!(of("asked"), vec![vec![1, 2, 3]; 2]);
    let findings = planned(&world).findings;
    assert!(findings.iter().all(|finding| matches!(finding, Finding::NoRoom { node: 2, .. })) && findings.len() == 2);
    assert!(world.groups.values().all(|group| group.leader != Some(2)), "it leads nothing all the same");
}

#[test]
fn copies_grow_with_the_cluster() {
    let mut world = World::new(1, 1).with_collection("c", 3, None);
    assert_eq!(replicas(&world, 1), [1]);
    world.join(2);
    world.join(3);
    world.run(100);
    assert!(world.table.shards.values().all(|entry| entry.replicas == [1, 2, 3]), "{:?}", world.table);
    assert!(world.table.shards.values().all(|entry| entry.founders.is_empty()));
}

#[test]
fn a_failed_replica_is_made_anew_elsewhere_or_in_place() {
    let mut world = World::new(4, 1).with_collection("c", 1, Some(3));
    let failed = replicas(&world, 1)[0];
    world.fail(1, failed);
    world.run(20);
    assert!(!replicas(&world, 1).contains(&failed));
    let mut world = World::new(3, 1).with_collection("c", 1, Some(3));
    world.fail(1, 2);
    let plan = planned(&world);
    assert!(matches!(plan.actions[0].action, Action::Replicas { add: None, remove: Some(2), .. }), "{plan:?}");
    world.run(20);
    assert_eq!(replicas(&world, 1), [1, 2, 3]);
    assert!(!world.failed.contains(&(1, 2)) && planned(&world).is_done());
}

#[test]
fn what_is_away_costs_no_healthy_replica() {
    // One of three is away: nothing may be moved off the others, which are the majority.
    let mut world = World::new(3, 1).with_collection("c", 4, Some(3));
    world.kill(1);
    world.join(4);
    world.join(5);
    let plan = planned(&world);
    assert_eq!(plan.actions.iter().filter(|planned| planned.reason == Reason::Balance).count(), 0, "{plan:?}");
    // Draining another then must not take the majority either: it goes only when its stand-in has arrived.
    world.set_state(2, MemberState::Draining);
    world.run(60);
    assert!(world.groups.values().all(|group| group.leader.is_some()));
}

#[test]
fn a_change_that_cannot_arrive_is_made_another() {
    let mut world = World::new(5, 1).with_collection("c", 1, Some(3));
    let lost = replicas(&world, 1)[0];
    world.kill(lost);
    world.away.insert(lost, REPLACE_AFTER);
    let first = planned(&world);
    world.accept(&first);
    let Action::Replicas { add: Some(to), .. } = first.actions[0].action else { panic!("{first:?}") };
    assert_eq!(planned(&world).actions.len(), 0, "one change at a time");
    world.kill(to);
    assert_eq!(planned(&world).actions.len(), 0, "it is waited for");
    world.away.insert(to, REPLACE_AFTER);
    let second = planned(&world);
    assert_eq!(second.actions[0].reason, Reason::Stranded(to));
    world.run(20);
    let last = replicas(&world, 1);
    assert!(last.len() == 3 && !last.contains(&lost) && !last.contains(&to), "{last:?}");
}

#[test]
fn a_change_that_cannot_end_anywhere_is_undone() {
    let mut world = World::new(4, 1).with_collection("c", 3, Some(3));
    let drained = replicas(&world, 1)[2];
    world.set_state(drained, MemberState::Draining);
    world.accept(&planned(&world));
    let receiving = |world: &World| {
        let voters = world.groups[&1].voters.clone();
        replicas(world, 1).into_iter().find(|node| !voters.contains(node))
    };
    let to = receiving(&world).expect("a stand-in for the drained one");
    // The stand-in and one that was to stay are lost for good: the drained one is needed, and no other node is there.
    let stays = replicas(&world, 1).into_iter().find(|node| *node != to && *node != drained).unwrap();
    for node in [to, stays] {
        world.kill(node);
        world.away.insert(node, REPLACE_AFTER);
    }
    // Nothing is sent for it: nodes that have their hands full do not hinder it.
    let none_at_once = Limits { moves_max: 0, ..Limits::default() };
    world.accept(&plan(&world.view(), &none_at_once));
    assert_eq!(receiving(&world), None, "{:?}", world.table.shards[&1]);
    assert_eq!(replicas(&world, 1), world.groups[&1].voters);
}

#[test]
fn shards_without_a_majority_are_named() {
    let mut world = World::new(4, 1).with_collection("c", 1, Some(3));
    let on = replicas(&world, 1);
    world.kill(on[0]);
    world.kill(on[1]);
    world.away.extend([(on[0], REPLACE_AFTER), (on[1], REPLACE_AFTER)]);
    let plan = planned(&world);
    assert_eq!(plan.findings, [Finding::NoQuorum { shard: 1, answering: 1, voters: 3 }]);
    assert_eq!(plan.actions, [], "nobody could carry anything out");
}

#[test]
fn what_can_wait_waits_while_paused_or_throttled() {
    let mut world = World::new(3, 1).with_collection("c", 30, Some(3));
    world.join(4);
    let paused = Limits { paused: true, ..Limits::default() };
    assert!(plan(&world.view(), &paused).is_done());
    let throttled = Limits { throttled: [4].into(), ..Limits::default() };
    let waiting = plan(&world.view(), &throttled);
    assert!(waiting.actions.iter().all(|planned| matches!(planned.action, Action::Lead { .. })) && waiting.waiting > 0);
    world.kill(1);
    world.away.insert(1, REPLACE_AFTER);
    let urgent = plan(&world.view(), &Limits { paused: true, ..throttled });
    assert!(urgent.actions.iter().any(|planned| planned.reason == Reason::Gone(1)), "what is lost does not wait");
}

#[test]
fn leaders_spread_over_their_replicas() {
    let mut world = World::new(3, 1).with_collection("c", 30, Some(3));
    world.groups.values_mut().for_each(|group| group.leader = Some(1));
    world.run(30);
    for node in 1..=3 {
        let leads = world.groups.values().filter(|group| group.leader == Some(node)).count();
        assert!((9..=11).contains(&leads), "{node} leads {leads}");
    }
}

#[test]
fn voters_are_three_or_five_and_replaced() {
    let mut world = World::new(1, 3);
    world.join(2);
    world.run(5);
    assert_eq!(world.control.voters, [1], "two voters are no safer than one");
    world.join(3);
    world.join(4);
    world.run(5);
    assert_eq!(world.control.voters, [1, 2, 3], "one in each zone");
    world.kill(2);
    world.away.insert(2, REPLACE_AFTER);
    world.run(5);
    assert_eq!(world.control.voters, [1, 3, 4]);
    (5..=9).for_each(|node| world.join(node));
    world.run(5);
    assert_eq!(world.control.voters.len(), 5);
    let drained = world.control.voters[0];
    world.set_state(drained, MemberState::Draining);
    world.run(5);
    assert!(world.control.voters.len() == 5 && !world.control.voters.contains(&drained));
}

fn sizes() -> Limits {
    Limits { split_above: 300, merge_below: 100, ..Limits::default() }
}

fn within(world: &World, limits: &Limits) -> Plan {
    plan(&world.view(), limits)
}

#[test]
fn large_shards_are_split_one_at_a_time_and_small_ones_merged_again() {
    let mut world = World::new(3, 1).with_collection("c", 2, Some(3)).with_collection("d", 1, Some(3));
    (world.version, world.shards_asked) = (VERSION_OF_SPLITS, 1);
    world.points.extend([(1, 2000), (2, 500), (3, 600)]);
    let first = within(&world, &sizes());
    let splits = [Action::Split { shard: 1, at: 4096 }, Action::Split { shard: 3, at: 8192 }];
    assert_eq!(first.actions.iter().map(|planned| planned.action.clone()).collect::<Vec<_>>(), splits, "{first:?}");
    assert_eq!(first.actions[0].reason, Reason::TooLarge { points: 2000, most: 300 });
    world.accept(&first);
    let busy = within(&world, &sizes());
    assert_eq!((busy.actions.len(), busy.in_flight, busy.waiting), (0, 2, 0), "one at a time: {busy:?}");
    let told = forecast(&world.view(), &sizes(), world::SHARD_BYTES);
    world.run_within(&sizes(), 60);
    assert!(within(&world, &sizes()).is_done() && within(&world, &sizes()).findings.is_empty());
    let of = |world: &World, name: &str| {
        let entries = world.table.shards.iter().filter(|(_, entry)| entry.collection.as_str() == name);
        let mut shards: Vec<(u16, u64)> = entries.map(|(id, entry)| (entry.slots.first, world.points[id])).collect();
        shards.sort_unstable();
        shards.into_iter().map(|(_, points)| points).collect::<Vec<_>>()
    };
    assert_eq!(of(&world, "c"), [[250; 8].as_slice(), &[250, 250]].concat());
    assert_eq!(of(&world, "d"), [300, 300]);
    let splits = told.steps.iter().filter(|step| matches!(step.action, Action::Split { .. })).count();
    assert_eq!((splits, &told.findings), (7, &Vec::new()), "the forecast knew: {told:?}");
    // Most documents are deleted.
    world.points.values_mut().for_each(|points| *points /= 10);
    let merge = within(&world, &sizes());
    assert!(matches!(merge.actions[0].action, Action::Merge { .. }), "{merge:?}");
    world.run_within(&sizes(), 60);
    assert!(within(&world, &sizes()).is_done());
    assert_eq!((of(&world, "c"), of(&world, "d")), (vec![50; 5], vec![60]), "no two have fewer than 100 together");
}

#[test]
fn what_cannot_be_split_is_named() {
    let mut world = World::new(3, 1).with_collection("c", 1, Some(3));
    world.points.insert(1, 301);
    let named = [Finding::Split { shard: 1, points: 301 }];
    let old = within(&world, &sizes());
    assert_eq!((old.findings.as_slice(), old.actions.len()), (&named[..], 0), "a node may not know how");
    world.version = VERSION_OF_SPLITS;
    let paused = within(&world, &Limits { paused: true, ..sizes() });
    assert_eq!((paused.findings.as_slice(), paused.actions.len()), (&named[..], 0));
    assert_eq!(within(&world, &Limits::default()), Plan::default(), "nobody asked for it");
    let throttled = within(&world, &Limits { throttled: [1, 2, 3].into(), ..sizes() });
    assert_eq!((throttled.actions.len(), throttled.waiting), (0, 1));
    world.kill(if world.groups[&1].leader == Some(3) { 2 } else { 3 });
    let unwell = within(&world, &sizes());
    assert_eq!((unwell.actions.len(), unwell.waiting), (0, 1), "only shards that are well: {unwell:?}");
}

#[test]
fn a_forecast_tells_the_whole_way() {
    let mut world = World::new(3, 1).with_collection("c", 40, Some(3));
    assert_eq!(forecast(&world.view(), &Limits::default(), 1), Forecast::default());
    world.join(4);
    let told = forecast(&world.view(), &Limits::default(), 10 * world::SHARD_BYTES);
    let moves: Vec<&Planned> = told.steps.iter().filter(|step| step.bytes > 0).collect();
    assert_eq!((moves.len(), told.bytes), (30, 30 * world::SHARD_BYTES), "a quarter of 120 replicas");
    assert_eq!(told.eta, Duration::from_secs(3));
    world.run(200);
    assert_eq!(holders(&world, 4), 30, "and so it came");
}

#[test]
fn a_hundred_nodes_with_a_thousand_shards_lose_one_and_gain_one() {
    let mut world = World::new(100, 5).with_collection("c", 1000, Some(3));
    let lost = holders(&world, 50);
    world.kill(50);
    world.away.insert(50, REPLACE_AFTER);
    world.run(20);
    assert_eq!((world.changes, holders(&world, 50)), (lost, 0), "what it held, and nothing else");
    world.set_state(50, MemberState::Removed);
    world.join(101);
    world.run(30);
    let gained = holders(&world, 101);
    assert!((28..=31).contains(&gained) && world.changes <= lost + gained + 3, "{gained} of {}", world.changes - lost);
    assert!(planned(&world).is_done());
}
