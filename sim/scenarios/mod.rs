//! The scenarios: each is one simulated run, given a seed.
mod chaos;
mod cluster;
mod coordination;
mod disk_faults;
mod disk_model;
mod fjall_power;
mod node;
mod rest;
mod store_power;

use crate::disk::{Disk, NameRule};
use futures_util::future::LocalBoxFuture;
use std::path::PathBuf;

/// One kind of run. It panics if what it checks does not hold.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(Run) -> LocalBoxFuture<'static, ()>,
    /// Every `sometimes!` mark it may hit; a batch reports those it missed.
    pub marks: &'static [&'static [&'static str]],
    pub name_rule: NameRule,
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
        },
        Scenario {
            name: "disk_faults_are_what_they_say",
            run: |run| Box::pin(disk_faults::run(run)),
            marks: &[],
            name_rule: NameRule::Strict,
        },
        Scenario {
            name: "fjall_keeps_what_was_synced",
            run: |run| Box::pin(fjall_power::run(run)),
            marks: &[fjall_power::MARKS],
            name_rule: NameRule::Strict,
        },
        Scenario {
            name: "store_keeps_what_was_durable",
            run: |run| Box::pin(store_power::run(run)),
            marks: &[store_power::MARKS],
            name_rule: NameRule::Journalled,
        },
        coordination("coordinators_keep_their_contract", &[], |run| Box::pin(coordination::contract(run))),
        coordination("coordination_survives_its_etcd", &[coordination::MARKS], |run| {
            Box::pin(coordination::recipes(run))
        }),
        coordination("an_etcd_of_the_past_is_told", &[coordination::PAST_MARKS], |run| {
            Box::pin(coordination::restored(run))
        }),
        node("node_register_is_linearizable", |run| Box::pin(node::register(run))),
        node("node_set_keeps_what_was_acknowledged", |run| Box::pin(node::set(run))),
        node("node_search_finds_what_was_acknowledged", |run| Box::pin(node::search(run))),
        cluster("cluster_register_is_linearizable", |run| Box::pin(cluster::register(run))),
        cluster("cluster_set_keeps_what_was_acknowledged", |run| Box::pin(cluster::set(run))),
        cluster("cluster_search_finds_what_was_acknowledged", |run| Box::pin(cluster::search(run))),
        cluster("cluster_bank_loses_no_money", |run| Box::pin(cluster::bank(run))),
        cluster("cluster_append_loses_nothing", |run| Box::pin(cluster::append(run))),
        cluster("cluster_session_reads_its_writes", |run| Box::pin(cluster::session(run))),
        cluster("cluster_retried_write_takes_effect_once", |run| Box::pin(cluster::once(run))),
    ]
}

fn node(name: &'static str, run: fn(Run) -> LocalBoxFuture<'static, ()>) -> Scenario {
    Scenario { name, run, marks: &[node::MARKS], name_rule: NameRule::Journalled }
}

fn cluster(name: &'static str, run: fn(Run) -> LocalBoxFuture<'static, ()>) -> Scenario {
    Scenario { name, run, marks: &[node::MARKS, cluster::MARKS], name_rule: NameRule::Journalled }
}

fn coordination(
    name: &'static str,
    marks: &'static [&'static [&'static str]],
    run: fn(Run) -> LocalBoxFuture<'static, ()>,
) -> Scenario {
    Scenario { name, run, marks, name_rule: NameRule::Journalled }
}
