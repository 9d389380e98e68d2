//! The scenarios: each is one simulated run, given a seed.
mod away;
mod chaos;
mod cluster;
mod coordination;
mod disk_faults;
mod disk_model;
mod fjall_power;
mod group;
mod moves;
mod node;
mod rest;
mod scale;
mod store_power;
mod tables;

use crate::{
    disk::{Disk, NameRule},
    workload::{register, search, set},
};
use futures_util::future::LocalBoxFuture;
use std::path::PathBuf;

/// One kind of run. It panics if what it checks does not hold.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(Run) -> LocalBoxFuture<'static, ()>,
    /// Every `sometimes!` mark it may hit; a batch reports those it missed.
    pub marks: &'static [&'static [&'static str]],
    pub name_rule: NameRule,
    /// It measures and takes minutes: only `--ignored` runs it.
    pub by_hand: bool,
}

/// What a run is given.
pub struct Run {
    pub seed: u64,
    /// The simulated disk; each node has a directory below its root.
    pub disk: Disk,
    /// Where artifacts go (`plan.json`, `history.edn`, …).
    pub scratch: PathBuf,
    /// JSON of the plan to follow instead of the seed's own.
    pub plan: Option<String>,
}

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "disk_model_agrees_with_its_specification",
            run: |run| Box::pin(disk_model::run(run)),
            marks: &[disk_model::MARKS],
            name_rule: NameRule::Strict,
            by_hand: false,
        },
        Scenario {
            name: "disk_faults_are_what_they_say",
            run: |run| Box::pin(disk_faults::run(run)),
            marks: &[],
            name_rule: NameRule::Strict,
            by_hand: false,
        },
        Scenario {
            name: "fjall_keeps_what_was_synced",
            run: |run| Box::pin(fjall_power::run(run)),
            marks: &[fjall_power::MARKS],
            name_rule: NameRule::Strict,
            by_hand: false,
        },
        Scenario {
            name: "store_keeps_what_was_durable",
            run: |run| Box::pin(store_power::run(run)),
            marks: &[store_power::MARKS],
            name_rule: NameRule::Journalled,
            by_hand: false,
        },
        Scenario {
            name: "group_is_linearizable_while_members_change",
            run: |run| Box::pin(group::run(run)),
            marks: &[group::MARKS],
            name_rule: NameRule::Journalled,
            by_hand: false,
        },
        marked("coordinators_keep_their_contract", &[], |run| Box::pin(coordination::contract(run))),
        marked("coordination_survives_its_etcd", &[coordination::MARKS], |run| Box::pin(coordination::recipes(run))),
        marked("an_etcd_of_the_past_is_told", &[coordination::PAST_MARKS], |run| Box::pin(coordination::restored(run))),
        Scenario {
            marks: &[node::MARKS, register::MARKS],
            ..node("node_register_is_linearizable", |run| Box::pin(node::register(run)))
        },
        Scenario {
            marks: &[node::MARKS, set::MARKS],
            ..node("node_set_keeps_what_was_acknowledged", |run| Box::pin(node::set(run)))
        },
        node("node_search_finds_what_was_acknowledged", |run| Box::pin(node::search(run))),
        marked("cluster_register_is_linearizable", REGISTER_MARKS, |run| Box::pin(cluster::register(run))),
        marked("cluster_set_keeps_what_was_acknowledged", SET_MARKS, |run| Box::pin(cluster::set(run))),
        marked("cluster_search_finds_what_was_acknowledged", SEARCH_MARKS, |run| Box::pin(cluster::search(run))),
        cluster("cluster_bank_loses_no_money", |run| Box::pin(cluster::bank(run))),
        cluster("cluster_append_loses_nothing", |run| Box::pin(cluster::append(run))),
        cluster("cluster_session_reads_its_writes", |run| Box::pin(cluster::session(run))),
        marked("cluster_retried_write_takes_effect_once", REGISTER_MARKS, |run| Box::pin(cluster::once(run))),
        Scenario {
            marks: &[node::MARKS, cluster::MARKS, RECREATE_MARKS],
            ..cluster("cluster_recreated_table_begins_empty", |run| Box::pin(cluster::recreate(run)))
        },
        Scenario {
            marks: &[node::MARKS, cluster::MARKS, ALIAS_MARKS],
            ..cluster("cluster_switched_alias_names_one_table", |run| Box::pin(cluster::alias(run)))
        },
        marked("cluster_moves_switched_alias_names_one_table", ALIAS_MOVES_MARKS, |run| Box::pin(moves::alias(run))),
        marked("etcd_cluster_switched_alias_names_one_table", ALIAS_ETCD_MARKS, |run| Box::pin(moves::etcd_alias(run))),
        marked("cluster_moves_register_is_linearizable", MOVES_MARKS, |run| Box::pin(moves::register(run))),
        marked("cluster_moves_keep_what_was_acknowledged", MOVES_MARKS, |run| Box::pin(moves::kept(run))),
        marked("cluster_moves_recreated_table_begins_empty", MOVES_MARKS, |run| Box::pin(moves::recreate(run))),
        marked("etcd_cluster_keeps_what_was_acknowledged", ETCD_MARKS, |run| Box::pin(moves::etcd(run))),
        marked("cluster_splits_register_is_linearizable", SPLIT_MARKS, |run| Box::pin(moves::split_register(run))),
        marked("cluster_splits_keep_what_was_acknowledged", SPLIT_MARKS, |run| Box::pin(moves::split_kept(run))),
        marked("cluster_upgrades_keep_what_was_acknowledged", UPGRADE_MARKS, |run| Box::pin(moves::upgrade(run))),
        marked("eleven_minutes_without_etcd", AWAY_MARKS, |run| Box::pin(away::register(run))),
        Scenario { by_hand: true, ..marked("scale_of_a_hundred_nodes", &[], |run| Box::pin(scale::run(run))) },
    ]
}

const ALIAS_MARKS: &[&str] = &[
    "aliases were switched, and every node had heard of it",
    "aliases were switched while a node was away",
    "a search by an alias was answered while it was switched",
];
const ALIAS_MOVES_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, moves::MARKS, ALIAS_MARKS];
const ALIAS_ETCD_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, moves::MARKS, ALIAS_MARKS, moves::ETCD_MARKS];
const SET_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, set::MARKS];
const SEARCH_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, search::MARKS];
const REGISTER_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, register::MARKS];
const RECREATE_MARKS: &[&str] = &[
    "a table was dropped and made again",
    "a table was deleted after its shards were closed",
    "a table was not deleted yet because a node may not know how shards are closed",
];
const MOVES_MARKS: &[&[&str]] =
    &[node::MARKS, cluster::MARKS, moves::MARKS, RECREATE_MARKS, set::MARKS, register::MARKS];
const SPLIT_MARKS: &[&[&str]] =
    &[node::MARKS, cluster::MARKS, moves::SPLIT_MARKS, set::MARKS, register::MARKS, search::MARKS];
const UPGRADE_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, moves::UPGRADE_MARKS, register::MARKS];
const ETCD_MARKS: &[&[&str]] = &[node::MARKS, cluster::MARKS, moves::MARKS, RECREATE_MARKS, moves::ETCD_MARKS];
const AWAY_MARKS: &[&[&str]] = &[away::MARKS, register::MARKS];

/// A scenario with marks of its own.
fn marked(
    name: &'static str,
    marks: &'static [&'static [&'static str]],
    run: fn(Run) -> LocalBoxFuture<'static, ()>,
) -> Scenario {
    Scenario { name, run, marks, name_rule: NameRule::Journalled, by_hand: false }
}

fn node(name: &'static str, run: fn(Run) -> LocalBoxFuture<'static, ()>) -> Scenario {
    Scenario { name, run, marks: &[node::MARKS], name_rule: NameRule::Journalled, by_hand: false }
}

fn cluster(name: &'static str, run: fn(Run) -> LocalBoxFuture<'static, ()>) -> Scenario {
    Scenario { name, run, marks: &[node::MARKS, cluster::MARKS], name_rule: NameRule::Journalled, by_hand: false }
}
