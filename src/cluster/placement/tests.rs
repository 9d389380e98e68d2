//! Tests of placement: spread, balance, minimal movement, determinism.

use super::*;
use proptest::prelude::*;

fn name() -> CollectionName {
    CollectionName::new("c").unwrap()
}

/// Nodes with ids that look nothing like 1, 2, 3.
fn nodes(count: usize, zones: usize) -> Vec<Candidate> {
    let id = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let zone = |i: usize| format!("zone-{}", i % zones);
    (0..count).map(|i| Candidate { zone: zone(i), ..Candidate::active(id(i)) }).collect()
}

fn placed(nodes: &[Candidate], shards: u32, copies: u32) -> ShardTable {
    let mut table = ShardTable::default();
    let placement = place(nodes, &table, 1, shards, Some(copies)).unwrap();
    table.add_collection(&name(), Some(copies), &placement);
    table
}

fn counts(table: &ShardTable) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for id in table.shards.values().flat_map(|entry| &entry.replicas) {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

fn assert_distinct(nodes: &[Candidate], table: &ShardTable) {
    let zone = |id: &NodeId| nodes.iter().find(|node| node.id == *id).map(|node| node.zone.as_str());
    let zones = nodes.iter().map(|node| &node.zone).collect::<std::collections::BTreeSet<_>>().len();
    for (shard, entry) in &table.shards {
        assert!(entry.replicas.windows(2).all(|pair| pair[0] < pair[1]), "shard {shard}: {:?}", entry.replicas);
        let used = entry.replicas.iter().map(zone).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(used, entry.replicas.len().min(zones), "shard {shard} is spread over all the zones it can be");
    }
}

/// Carries out moves until none evens out anything; how many there were.
fn settle(table: &mut ShardTable, nodes: &[Candidate]) -> usize {
    let mut layout = Layout::new(nodes, table);
    let mut moves = 0;
    while let Some(change) = layout.best_move(&|_| true) {
        layout.apply(change);
        moves += 1;
        assert!(moves <= 10_000, "balancing ends");
    }
    store(table, &layout);
    moves
}

fn store(table: &mut ShardTable, layout: &Layout) {
    for shard in table.shards.keys().copied().collect::<Vec<_>>() {
        table.change_replicas(shard, layout.replicas(shard));
    }
}

/// The largest deviation of a node from the mean.
fn deviation(table: &ShardTable, nodes: usize) -> f64 {
    let counts = counts(table);
    let mean = counts.values().sum::<usize>() as f64 / nodes as f64;
    assert_eq!(counts.len(), nodes, "every node has something");
    counts.values().map(|count| (*count as f64 / mean - 1.0).abs()).fold(0.0, f64::max)
}

#[test]
fn a_thousand_shards_are_even_on_three_to_a_hundred_nodes() {
    for (count, zones) in
        [(3, 1), (3, 3), (4, 1), (5, 5), (7, 1), (10, 2), (16, 4), (30, 3), (33, 1), (64, 4), (99, 3), (100, 1)]
    {
        let nodes = nodes(count, zones);
        let table = placed(&nodes, 1000, 3);
        assert_distinct(&nodes, &table);
        let off = deviation(&table, count);
        assert!(off < 0.05, "{count} nodes in {zones} zones: {:.1} %", off * 100.0);
        assert_eq!(Layout::new(&nodes, &table).best_move(&|_| true), None, "nothing is left to even out");
    }
}

#[test]
fn a_node_that_comes_gets_its_share_and_nothing_else_moves() {
    for count in [3, 4, 10, 31, 99] {
        let before = nodes(count, 1);
        let mut table = placed(&before, 1000, 3);
        let after = nodes(count + 1, 1);
        let newcomer = after[count].id;
        let moves = settle(&mut table, &after);
        let share = 3000 / (count + 1);
        assert!((share..=share + 1).contains(&moves), "{moves} moves for a share of {share} among {count} nodes");
        assert_eq!(counts(&table)[&newcomer], moves, "every move was to the newcomer");
        assert!(deviation(&table, count + 1) < 0.05);
    }
}

#[test]
fn a_node_that_goes_is_replaced_and_nothing_else_moves() {
    // Three nodes cannot hold a thousand shards each.
    for (count, shards) in [(4, 900), (5, 1000), (11, 1000), (32, 1000), (100, 1000)] {
        let mut all = nodes(count, 1);
        let mut table = placed(&all, shards, 3);
        all[1].standing = Standing::Gone;
        let (lost, before) = (all[1].id, table.clone());
        let mut layout = Layout::new(&all, &table);
        for (shard, entry) in &before.shards {
            if entry.replicas.contains(&lost) {
                let to = layout.target(*shard, Some(lost)).expect("there are nodes enough");
                layout.apply(Move { shard: *shard, from: lost, to });
            }
        }
        store(&mut table, &layout);
        let extra = settle(&mut table, &all);
        assert!(extra * 100 <= counts(&before)[&lost], "{extra} moves beyond those of the lost node's replicas");
        assert!(deviation(&table, count - 1) < 0.05, "{count} nodes: {:?}", counts(&table));
        let kept = |(shard, entry): (&ShardId, &super::super::table::ShardEntry)| {
            entry.replicas.iter().filter(|id| before.shards[shard].replicas.contains(id)).count()
        };
        let kept: usize = table.shards.iter().map(kept).sum();
        assert!(shards as usize * 3 - kept <= counts(&before)[&lost] + extra, "what could stay has stayed");
    }
}

#[test]
fn what_a_lost_node_held_is_made_anew_by_all_others() {
    let nodes = nodes(20, 1);
    let table = placed(&nodes, 1000, 3);
    let mut partners = std::collections::BTreeSet::new();
    for entry in table.shards.values().filter(|entry| entry.replicas.contains(&nodes[0].id)) {
        partners.extend(entry.replicas.iter().copied());
    }
    assert_eq!(partners.len(), 20, "its shards have their other replicas everywhere");
}

#[test]
fn weights_count() {
    let mut nodes = nodes(6, 1);
    nodes[0].weight *= 3;
    let table = placed(&nodes, 800, 2);
    let counts = counts(&table);
    assert!((598..=602).contains(&counts[&nodes[0].id]), "{counts:?}");
}

#[test]
fn small_collections_fill_the_emptiest_nodes() {
    let nodes = nodes(7, 1);
    let mut table = ShardTable::default();
    for i in 0..70 {
        let placement = place(&nodes, &table, table.next_shard + 1, 1, Some(1)).unwrap();
        table.add_collection(&CollectionName::new(format!("c{i}")).unwrap(), Some(1), &placement);
    }
    let counts = counts(&table);
    assert!(counts.len() == 7 && counts.values().all(|count| (9..=11).contains(count)), "{counts:?}");
}

#[test]
fn the_number_of_copies_follows_the_nodes_that_stay() {
    let mut four = nodes(4, 1);
    assert_eq!(copies_wanted(None, &four), 3);
    assert_eq!(copies_wanted(None, &four[..1]), 1);
    four[0].standing = Standing::Gone;
    four[1].standing = Standing::Away;
    assert_eq!(copies_wanted(None, &four), 3, "a node that is away comes back or is removed");
    four[0].standing = Standing::Draining;
    four[1].standing = Standing::Draining;
    assert_eq!((copies_wanted(None, &four), copies_wanted(Some(5), &four)), (2, 5));
    let table = ShardTable::default();
    assert_eq!(place(&four, &table, 1, 1, Some(3)), Err(TooFewNodes { asked: 3, nodes: 2 }));
    assert_eq!(place(&[], &table, 1, 1, None), Err(TooFewNodes { asked: 1, nodes: 0 }));
    four[2].standing = Standing::Away;
    let both = place(&four, &table, 1, 1, None).unwrap();
    assert_eq!(both[0].len(), 2, "a node that is away is used where there is no other");
}

#[test]
fn a_zone_that_is_away_does_not_keep_others_from_taking_its_copies() {
    let mut three = nodes(3, 3);
    three[1].zone = three[0].zone.clone();
    three[2].standing = Standing::Away;
    let placement = place(&three, &ShardTable::default(), 1, 4, Some(2)).unwrap();
    let mut both = vec![three[0].id, three[1].id];
    both.sort_unstable();
    assert_eq!(placement, vec![both; 4]);
}

#[test]
fn replicas_crowded_into_one_zone_spread_when_another_zone_comes() {
    let mut crowded = nodes(3, 1);
    let table = placed(&crowded, 4, 3);
    crowded.extend(nodes(6, 3).into_iter().skip(3));
    let layout = Layout::new(&crowded, &table);
    let change = layout.misplaced(1).expect("three replicas in one of three zones");
    let zone = |id: NodeId| &crowded.iter().find(|node| node.id == id).unwrap().zone;
    assert!(zone(change.from) == "zone-0" && zone(change.to) != "zone-0", "{change:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// From any state: replicas stay apart, balancing ends, and the order in which nodes are told makes no difference.
    #[test]
    fn balancing_keeps_the_rules(
        zones in prop::collection::vec(0..4_usize, 3..12),
        weights in prop::collection::vec(1..5_u32, 12),
        shards in 1..60_u32,
        copies in 1..4_u32,
        later in 0..4_usize,
    ) {
        let of = |(i, zone): (usize, &usize)| Candidate {
            zone: format!("z{zone}"),
            weight: weights[i],
            ..Candidate::active(1000 - i as u64)
        };
        let all: Vec<Candidate> = zones.iter().enumerate().map(of).collect();
        let first = &all[..all.len() - later.min(all.len() - 3)];
        let mut table = placed(first, shards, copies);
        let mut reversed = all.clone();
        reversed.reverse();
        prop_assert_eq!(place(first, &table, 100, shards, None), {
            let mut reversed = first.to_vec();
            reversed.reverse();
            place(&reversed, &table, 100, shards, None)
        });
        let mut twin = table.clone();
        settle(&mut table, &all);
        settle(&mut twin, &reversed);
        prop_assert_eq!(&table, &twin);
        for entry in table.shards.values() {
            prop_assert!(entry.replicas.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(entry.replicas.len(), copies as usize);
        }
    }
}

#[test]
fn a_node_that_holds_all_it_can_is_given_nothing() {
    let nodes = nodes(3, 3);
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let mut table = ShardTable::default();
    let full = vec![vec![ids[1]]; SHARDS_PER_NODE_MAX];
    table.add_collection(&CollectionName::new("full").unwrap(), Some(1), &full);
    table.add_collection(&name(), Some(2), &[vec![ids[0]]]);
    let shard = SHARDS_PER_NODE_MAX as ShardId + 1;
    assert_eq!(table.shards[&shard].collection, name());
    assert_eq!(Layout::new(&nodes, &table).target(shard, None), Some(ids[2]));
    assert_eq!(Layout::new(&nodes[..2], &table).target(shard, None), None, "there is no room for it");
    // Where one goes another fits.
    let mut layout = Layout::new(&nodes[..2], &table);
    layout.take(1, ids[1]);
    assert_eq!(layout.target(shard, None), Some(ids[1]));
}
