//! Tests of the plans that the simulation makes from its seeds (sim/plan): thousands are looked at, none is run.
#[path = "../sim/group/plan.rs"]
#[allow(dead_code)]
mod group;
#[path = "../sim/plan/mod.rs"]
#[allow(dead_code)]
mod plan;

use plan::{ACTIVE_MIN, Fault, Plan, Shape, Turn, Workload, action::REGISTERS, away, cluster, moves, node};
use std::collections::{BTreeMap, BTreeSet};
use vectorsphere::{
    types::PointId,
    types::{SlotRange, slot_of},
};

const SEEDS: u64 = 3_000;
const WORKLOADS: [Workload; 9] = [
    Workload::Register,
    Workload::Once,
    Workload::Set,
    Workload::Search,
    Workload::Bank,
    Workload::Append,
    Workload::Session,
    Workload::Recreate,
    Workload::Alias,
];

fn plans() -> impl Iterator<Item = (u64, Plan)> {
    (0..SEEDS).map(|seed| (seed, cluster::generate(WORKLOADS[seed as usize % WORKLOADS.len()], seed)))
}

#[test]
fn a_seed_has_one_plan_and_a_plan_survives_its_json() {
    for (seed, plan) in plans().step_by(10) {
        let text = serde_json::to_string(&plan).expect("plain data");
        let again = cluster::generate(plan.workload, seed);
        assert_eq!(text, serde_json::to_string(&again).expect("plain data"), "seed {seed}");
        let read: Plan = serde_json::from_str(&text).expect("its own JSON");
        assert_eq!(text, serde_json::to_string(&read).expect("plain data"), "seed {seed}");
    }
}

#[test]
fn a_plan_written_before_there_were_clusters_can_still_be_read() {
    let old = r#"{"workload":"register","dimension":8,"index_type":"flat","metric":"cosine","flat_points_max":9,
        "first_start":[3,"keep_some"],"clients":[{"face":"rest","steps":[{"after_ms":1,"action":{"get":{"id":1}}}]}],
        "faults":[{"at_ms":5,"fault":{"power_loss":{"model":"everything","down_ms":7}}}]}"#;
    let plan: Plan = serde_json::from_str(old).expect("an old plan");
    assert_eq!((plan.nodes, plan.shards, plan.clients[0].node), (1, 1, 0));
    assert!(plan.faults[0].nodes.is_empty() && plan.finale.is_none());
}

#[test]
fn plans_name_only_nodes_that_exist_and_bounds_hold() {
    for (seed, plan) in plans() {
        assert!([1, 3, 5, 7].contains(&plan.nodes), "seed {seed}: {} nodes", plan.nodes);
        assert!((1..=8).contains(&plan.shards) && (plan.workload != Workload::Bank || plan.shards == 1));
        let steps: usize = plan.clients.iter().map(|client| client.steps.len()).sum();
        assert!((290..500).contains(&steps), "seed {seed}: {steps} steps");
        assert!(plan.copies == 3 || plan.copies == plan.nodes, "seed {seed}: {} copies", plan.copies);
        assert!(plan.clients.iter().all(|client| client.node < plan.nodes));
        assert!(plan.faults.len() <= 10 && plan.faults.is_sorted_by_key(|fault| fault.at_ms));
        for fault in &plan.faults {
            let distinct: BTreeSet<_> = fault.nodes.iter().collect();
            assert_eq!(distinct.len(), fault.nodes.len(), "seed {seed}: {fault:?}");
            assert!(fault.nodes.iter().all(|node| *node < plan.nodes), "seed {seed}: {fault:?}");
        }
    }
}

#[test]
fn disks_fail_on_a_minority_at_most() {
    for (seed, plan) in plans().filter(|(_, plan)| plan.nodes > 1) {
        for fault in &plan.faults {
            let of_disk = matches!(
                fault.fault,
                Fault::SyncError { .. } | Fault::ReadError { .. } | Fault::Rot { .. } | Fault::DiskFull { .. }
            );
            assert!(!of_disk || fault.nodes.len() <= (plan.nodes - 1) / 2, "seed {seed}: {fault:?}");
        }
    }
}

#[test]
fn a_finale_heals_a_majority_of_every_group_and_asks_each_of_it() {
    let (mut sizes, mut rests) = (BTreeSet::new(), BTreeSet::new());
    for (seed, plan) in plans() {
        let Some(finale) = &plan.finale else {
            assert_eq!(plan.nodes, 1, "seed {seed}");
            continue;
        };
        let rest = (plan.nodes.min(5).min(plan.copies) - 1) / 2;
        assert_eq!(finale.core.len(), plan.nodes - rest, "seed {seed}");
        assert_eq!(finale.clients.len(), finale.core.len());
        assert!(finale.clients.iter().all(|client| finale.core.contains(&client.node) && !client.steps.is_empty()));
        sizes.insert(finale.core.len());
        rests.insert(format!("{:?}", finale.rest).split('(').next().map(str::to_string));
    }
    assert_eq!(sizes, BTreeSet::from([2, 3, 4, 5, 6]));
    assert_eq!(rests.len(), 5, "{rests:?}");
}

#[test]
fn every_kind_of_fault_and_every_shape_is_drawn() {
    let (mut kinds, mut shapes, mut none) = (BTreeMap::new(), BTreeSet::new(), 0);
    for (_, plan) in plans() {
        none += usize::from(plan.faults.is_empty());
        for fault in &plan.faults {
            *kinds.entry(fault.fault.name()).or_insert(0) += 1;
            if let Fault::Partition { shape, way, for_ms } = fault.fault {
                shapes.insert(format!("{shape:?} {way:?}"));
                assert!((100..=30_000).contains(&for_ms) && (shape != Shape::Ring || fault.nodes.len() == plan.nodes));
            }
        }
    }
    assert_eq!(kinds.len(), 27, "{kinds:?}");
    assert!(kinds.values().all(|count| *count > 50), "{kinds:?}");
    assert_eq!(shapes.len(), 15, "{shapes:?}");
    assert!(none < SEEDS as usize / 100, "{none} plans without a fault");
}

#[test]
fn every_value_is_written_once() {
    for (seed, plan) in plans() {
        let clients = plan.clients.iter().chain(plan.finale.iter().flat_map(|finale| &finale.clients));
        let mut seen = BTreeSet::new();
        for step in clients.flat_map(|client| &client.steps) {
            let value = match step.action {
                plan::Action::Put { value, .. }
                | plan::Action::PutIf { value, .. }
                | plan::Action::Append { value, .. } => value,
                plan::Action::Add { first, .. } => first,
                _ => continue,
            };
            assert!(seen.insert(value), "seed {seed}: {value} twice");
        }
    }
}

#[test]
fn the_registers_are_at_the_edges_of_shards() {
    let mut edges = BTreeSet::new();
    for shards in 2..=8 {
        for range in SlotRange::cut(shards) {
            edges.extend([(shards, range.first), (shards, range.end - 1)]);
        }
    }
    for shards in 2..=8_u32 {
        let at_edge = REGISTERS.iter().filter(|id| edges.contains(&(shards, slot_of(PointId::Num(**id))))).count();
        let wanted = if shards.is_multiple_of(2) || shards == 3 { 1 } else { 0 };
        assert!(at_edge >= wanted, "{at_edge} of {shards} shards");
    }
}

#[test]
fn every_node_is_upgraded_and_none_goes_back_once_all_may_have_been() {
    let mut went_back = 0;
    for seed in 0..SEEDS {
        let plan = moves::generate_upgrade(Workload::Append, seed);
        let moves = plan.moves.expect("that is what they are");
        assert_eq!(moves.founders, plan.nodes, "seed {seed}");
        let (mut upgraded, mut ever) = (BTreeSet::new(), BTreeSet::new());
        for step in &moves.steps {
            let Turn::Upgrade { node, back } = step.turn else { panic!("seed {seed}: {step:?}") };
            assert!(if back { upgraded.remove(&node) } else { upgraded.insert(node) }, "seed {seed}: {step:?}");
            assert!(!back || ever.len() < plan.nodes, "seed {seed}: {step:?}");
            ever.insert(node);
            went_back += u32::from(back);
        }
        assert_eq!(upgraded, (0..plan.nodes).collect(), "seed {seed}");
    }
    assert!(went_back > 0);
}

#[test]
fn plans_of_splits_have_some_of_each_and_survive_their_json() {
    let (mut splits, mut merges, mut by_the_master) = (0, 0, 0);
    for seed in 0..SEEDS {
        let plan = moves::generate_splits(WORKLOADS[seed as usize % WORKLOADS.len()], seed);
        let moves = plan.moves.as_ref().expect("that is what they are");
        let of = |wanted: fn(&Turn) -> bool| moves.steps.iter().filter(|step| wanted(&step.turn)).count();
        let (split, merge) =
            (of(|turn| matches!(turn, Turn::Split { .. })), of(|turn| matches!(turn, Turn::Merge { .. })));
        assert!((3..=8).contains(&(split + merge)) && moves.steps.len() <= split + merge + 2, "seed {seed}: {moves:?}");
        assert!((1..=3).contains(&plan.shards) && !moves.etcd && !moves.has_upgrades(), "seed {seed}");
        (splits, merges) = (splits + split, merges + merge);
        by_the_master += u64::from(moves.split_above.is_some());
        let text = serde_json::to_string(&plan).expect("plain data");
        let read: Plan = serde_json::from_str(&text).expect("its own JSON");
        assert_eq!(text, serde_json::to_string(&read).expect("plain data"), "seed {seed}");
    }
    assert!(
        splits > merges && merges > SEEDS as usize && by_the_master > SEEDS / 4,
        "{splits} {merges} {by_the_master}"
    );
}

#[test]
fn etcd_is_away_for_longer_than_ten_minutes_and_nodes_are_struck_one_at_a_time_meanwhile() {
    let mut kinds = BTreeSet::new();
    for seed in 0..SEEDS {
        let plan = away::generate(Workload::Register, seed);
        let moves = plan.moves.as_ref().expect("that is what they are");
        let (etcd, strikes): (Vec<_>, Vec<_>) =
            plan.faults.iter().partition(|planned| matches!(planned.fault, Fault::Etcd { .. }));
        assert!(moves.etcd && etcd.len() == 1 && etcd[0].at_ms == 0, "seed {seed}: {etcd:?}");
        let mut calm_from = 0;
        for strike in &strikes {
            assert!(strike.leader && strike.nodes.iter().all(|node| *node < moves.founders), "seed {seed}: {strike:?}");
            assert!(strike.at_ms > calm_from, "seed {seed}: two nodes are struck at once: {strikes:?}");
            let lasts_ms = away::lasts_ms(strike.fault);
            assert!(lasts_ms > moves.replace_after_ms, "seed {seed}: its replicas would be made anew by then");
            calm_from = strike.at_ms + lasts_ms;
        }
        assert!(strikes.len() == 3 && calm_from < away::AWAY_MS && away::AWAY_MS > 600_000, "seed {seed}: {strikes:?}");
        for client in &plan.clients {
            let ends_ms: u64 = client.steps.iter().map(|step| step.after_ms).sum();
            assert!((away::AWAY_MS..away::AWAY_MS + 60_000).contains(&ends_ms), "seed {seed}: ends at {ends_ms} ms");
        }
        assert!(matches!(moves.steps.last().expect("steps").turn, Turn::Drain { .. }), "seed {seed}");
        kinds.extend(plan.faults.iter().map(|planned| planned.fault.name()));
        let text = serde_json::to_string(&plan).expect("plain data");
        let read: Plan = serde_json::from_str(&text).expect("its own JSON");
        assert_eq!(text, serde_json::to_string(&read).expect("plain data"), "seed {seed}");
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

#[test]
fn nodes_join_before_they_leave_and_enough_stay() {
    let (mut kinds, mut blows, mut fault_kinds) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for seed in 0..SEEDS {
        let etcd = seed % 2 == 1;
        let generate = if etcd { moves::generate_with_etcd } else { moves::generate };
        let plan = generate(WORKLOADS[seed as usize % WORKLOADS.len()], seed);
        let moves = plan.moves.as_ref().expect("that is what they are");
        assert_eq!(moves.etcd, etcd);
        assert!(plan.finale.is_none() && (1..=ACTIVE_MIN).contains(&plan.copies), "seed {seed}");
        let (mut active, mut draining): (BTreeSet<usize>, _) = ((0..moves.founders).collect(), BTreeSet::new());
        assert!((ACTIVE_MIN..=plan.nodes).contains(&active.len()));
        for step in &moves.steps {
            let is_possible = match step.turn {
                Turn::Join { node } => node >= moves.founders && node < plan.nodes && active.insert(node),
                Turn::Drain { node } => active.remove(&node) && draining.insert(node),
                Turn::Keep { node } => draining.remove(&node) && active.insert(node),
                Turn::Remove { node, .. } => draining.remove(&node),
                Turn::Pause { .. } => true,
                Turn::Upgrade { .. } | Turn::Split { .. } | Turn::Merge { .. } => false,
            };
            assert!(is_possible && active.len() >= ACTIVE_MIN, "seed {seed}: {step:?} of {moves:?}");
            kinds.insert(format!("{:?}", step.turn).split(' ').next().map(str::to_string));
        }
        for fault in &plan.faults {
            assert!(fault.nodes.iter().all(|node| *node < plan.nodes), "seed {seed}: {fault:?}");
            fault_kinds.insert(fault.fault.name());
            if let Fault::MasterAmbush { blow, .. } = fault.fault {
                blows.insert(format!("{blow:?}"));
            }
            assert!(etcd || !matches!(fault.fault, Fault::Etcd { .. }));
        }
        assert!(plan.faults.is_sorted_by_key(|fault| fault.at_ms));
    }
    assert_eq!((kinds.len(), blows.len(), fault_kinds.len()), (5, 4, 30), "{kinds:?} {blows:?} {fault_kinds:?}");
}

#[test]
fn the_plans_of_one_node_are_plans_of_one_node() {
    for seed in 0..300 {
        let plan = node::generate(Workload::Set, seed);
        assert_eq!((plan.nodes, plan.shards), (1, 1));
        assert!(plan.faults.iter().all(|fault| fault.nodes.is_empty()) && plan.finale.is_none());
    }
}

#[test]
fn plans_of_a_group_name_only_machines_that_exist_and_survive_their_json() {
    let mut kinds = BTreeSet::new();
    for seed in 0..SEEDS {
        let plan = group::generate(seed);
        assert!((1..=plan.machines).contains(&plan.founders) && (3..=6).contains(&plan.machines), "seed {seed}");
        let exists = |machine: &usize| *machine < plan.machines;
        for planned in &plan.troubles {
            kinds.insert(planned.trouble.name());
            let others = match &planned.trouble {
                group::Trouble::Cut { machines, .. } => machines.clone(),
                group::Trouble::LossyLink { to, .. } => vec![*to],
                _ => Vec::new(),
            };
            assert!(exists(&planned.machine) && others.iter().all(exists), "seed {seed}: {planned:?}");
        }
        for change in &plan.changes {
            let machines = match change {
                group::Change::Voters { machines, learners, .. } => {
                    assert!(machines.iter().all(|machine| !learners.contains(machine)), "seed {seed}: {change:?}");
                    [&machines[..], learners].concat()
                }
                group::Change::NewDisk { machine, .. } | group::Change::Transfer { machine, .. } => vec![*machine],
            };
            assert!(!machines.is_empty() && machines.iter().all(exists), "seed {seed}: {change:?}");
        }
        let text = serde_json::to_string(&plan).expect("plain data");
        let read: group::GroupPlan = serde_json::from_str(&text).expect("its own JSON");
        assert_eq!(text, serde_json::to_string(&read).expect("plain data"), "seed {seed}");
    }
    assert_eq!(kinds.len(), 17, "{kinds:?}");
}

/// A failure that needs the 3rd and the 17th fault, and two steps of different clients.
fn needs_four_things(plan: &serde_json::Value) -> bool {
    let chance = |wanted: u64| move |fault: &serde_json::Value| fault["chance"] == wanted;
    let faults = plan["faults"].as_array().expect("faults");
    let steps = |client: usize| plan["clients"][client]["steps"].as_array().into_iter().flatten();
    faults.iter().any(chance(3))
        && faults.iter().any(chance(17))
        && steps(1).any(|step| step["action"] == "eleventh")
        && steps(2).any(|step| step["action"] == "last")
}

#[test]
fn a_plan_shrinks_to_what_its_failure_needs_and_nothing_changes_its_time_or_chance() {
    let step = |action: &str| serde_json::json!({"after_ms": 10, "action": action});
    let client = |nth: usize, special: &str| {
        let steps: Vec<_> = (0..40).map(|i| step(if i == nth { special } else { "usual" })).collect();
        serde_json::json!({"face": "rest", "steps": steps})
    };
    let faults: Vec<_> = (0..25).map(|i| serde_json::json!({"at_ms": i * 100, "fault": "x"})).collect();
    let clients = [client(0, "usual"), client(10, "eleventh"), client(39, "last")];
    let plan = serde_json::json!({"faults": faults, "clients": clients, "finale": {"core": [0]}});
    let mut asked = 0;
    let smallest = plan::shrink::shrink(plan, &mut |plan| {
        asked += 1;
        needs_four_things(plan)
    });
    let sizes: Vec<usize> = plan::shrink::sizes(&smallest).into_iter().map(|(_, items)| items).collect();
    assert_eq!(sizes, [2, 0, 1, 1], "{smallest}");
    assert_eq!((&smallest["faults"][0]["at_ms"], &smallest["faults"][0]["chance"]), (&200.into(), &3.into()));
    assert_eq!(smallest["clients"][1]["steps"][0]["after_ms"], 110, "as late as it was");
    assert_eq!(smallest["clients"][2]["steps"][0]["after_ms"], 400, "as late as it was");
    assert!(smallest.get("finale").is_none() && asked < 200, "{asked} runs: {smallest}");
}

#[test]
fn the_plan_of_a_group_shrinks_too() {
    let plan = serde_json::to_value(group::generate(5)).expect("plain data");
    let needs = |plan: &serde_json::Value| plan["clients"][1].as_array().is_some_and(|steps| steps.len() >= 7);
    let smallest = plan::shrink::shrink(plan, &mut |plan| needs(plan));
    let sizes = plan::shrink::sizes(&smallest);
    assert_eq!(sizes.iter().map(|(_, items)| items).sum::<usize>(), 7, "{sizes:?}");
    let _: group::GroupPlan = serde_json::from_value(smallest).expect("it is a plan still");
}
