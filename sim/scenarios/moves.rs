//! A cluster that is rebuilt while clients use it: nodes join, are drained and removed, are away for so long that their replicas are made
//! anew elsewhere; shards are split and merged; the master is struck at any step of it. The workload's checker judges what clients were told; in the end every
//! shard has its copies where the table says and nowhere else, spread evenly, and those who were drained have nothing.
//!
//! With etcd as the coordinator, that etcd in the end is restored from an old backup: it is not obeyed.
use super::{
    Run, chaos, rest,
    tables::{Tables, newest},
};
use crate::{
    faults::{
        auditor,
        fleet::Fleet,
        nemesis,
        operator::{self, Books},
        upgrade,
    },
    plan::{Plan, Workload as Kind, moves},
    workload::{
        Workload, alias::Alias, append::Append, bank::Bank, drive, recreate::Recreate, register::Register,
        search::Search, session::Session, set::Set,
    },
    world::{log, sometimes},
};
use futures_util::future::join4;
use madsim::time::{self, Instant};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub const MARKS: &[&str] = &[
    "a node was drained",
    "a node was removed",
    "a node joined while the cluster was in use",
    "the master was struck after it had changed the table",
    "another master ruled while the old one was away",
    "a replica was made anew elsewhere",
    "replicas were moved to even them out",
    "a replica that was to be given up is needed after all",
];

pub const SPLIT_MARKS: &[&str] = &[
    "a shard was to be split",
    "shards were to be merged",
    "slots of a shard moved to its neighbour",
    "all slots that a shard was to give are with its neighbour",
    "a read asked all shards again because slots had moved",
    "slots on their way were found and sent on",
    "the master split a shard by itself",
    "the master merged shards by itself",
    "a read began again because slots moved in its middle",
    "a write went to another shard because slots had moved",
    "a delete by filter was done again because slots had moved",
];

pub const UPGRADE_MARKS: &[&str] = &[
    "a split was refused because a node did not know how",
    "an alias was refused because a node did not know what it is",
    "a cluster was upgraded node by node",
    "a node went back to the program before",
    "the program before was refused",
    "a candidate's lease lapsed",
    "another master ruled while the old one was away",
];

pub const ETCD_MARKS: &[&str] = &[
    "a candidate's lease lapsed",
    "nodes lived through a trouble of etcd",
    "an etcd of the past was not obeyed",
    "a node could not open a table that others serve, and said so",
];

/// A cluster must have formed this soon, with etcd or without.
pub(super) const FORM_LIMIT: Duration = Duration::from_secs(40);
/// When nothing is wrong any more, no node may be without being ready for so long.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(30);
/// What nobody has this long after that is lost, and not only late.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// And everything in its place this soon.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How soon an etcd of the past must be noticed.
const ALARM_LIMIT: Duration = Duration::from_secs(30);

pub async fn register(run: Run) {
    course(run, Kind::Register, moves::generate, Register { once: false }).await;
}

/// Seeds take turns.
pub async fn kept(run: Run) {
    match kind(&run, &[Kind::Set, Kind::Bank, Kind::Append]) {
        Kind::Set => course(run, Kind::Set, moves::generate, Set::default()).await,
        Kind::Bank => course(run, Kind::Bank, moves::generate, Bank).await,
        _ => course(run, Kind::Append, moves::generate, Append).await,
    }
}

pub async fn recreate(run: Run) {
    course(run, Kind::Recreate, moves::generate, Recreate).await;
}

pub async fn alias(run: Run) {
    course(run, Kind::Alias, moves::generate, Alias).await;
}

/// Shards are split and merged; seeds take turns.
pub async fn split_register(run: Run) {
    match kind(&run, &[Kind::Register, Kind::Once, Kind::Session]) {
        Kind::Session => course(run, Kind::Session, moves::generate_splits, Session).await,
        Kind::Once => course(run, Kind::Once, moves::generate_splits, Register { once: true }).await,
        _ => course(run, Kind::Register, moves::generate_splits, Register { once: false }).await,
    }
}

/// Seeds take turns.
pub async fn split_kept(run: Run) {
    match kind(&run, &[Kind::Set, Kind::Append, Kind::Search, Kind::Recreate]) {
        Kind::Recreate => course(run, Kind::Recreate, moves::generate_splits, Recreate).await,
        Kind::Set => course(run, Kind::Set, moves::generate_splits, Set::default()).await,
        Kind::Append => course(run, Kind::Append, moves::generate_splits, Append).await,
        _ => course(run, Kind::Search, moves::generate_splits, Search::default()).await,
    }
}

/// Every node, begun as the program before, gets this one; seeds take turns.
pub async fn upgrade(run: Run) {
    match kind(&run, &[Kind::Append, Kind::Register]) {
        Kind::Append => course(run, Kind::Append, moves::generate_upgrade, Append).await,
        _ => course(run, Kind::Register, moves::generate_upgrade, Register { once: false }).await,
    }
}

/// Seeds take turns.
pub async fn etcd(run: Run) {
    match kind(&run, &[Kind::Append, Kind::Recreate]) {
        Kind::Append => course(run, Kind::Append, moves::generate_with_etcd, Append).await,
        Kind::Alias => course(run, Kind::Alias, moves::generate_with_etcd, Alias).await,
        _ => course(run, Kind::Recreate, moves::generate_with_etcd, Recreate).await,
    }
}

pub async fn etcd_alias(run: Run) {
    course(run, Kind::Alias, moves::generate_with_etcd, Alias).await;
}

/// The workload of the plan that was given, or the seed's.
fn kind(run: &Run, kinds: &[Kind]) -> Kind {
    match &run.plan {
        Some(text) => serde_json::from_str::<Plan>(text).expect("SIM_PLAN holds a plan").workload,
        None => kinds[run.seed as usize % kinds.len()],
    }
}

async fn course<W: Workload>(run: Run, kind: Kind, generate: fn(Kind, u64) -> Plan, mut workload: W) {
    let plan = chaos::plan(&run, kind, generate);
    workload.learn(&plan);
    let moves = plan.moves.clone().expect("a plan of moves");
    let fleet = Fleet::start(run.disk, &plan);
    fleet.wait_until_ready(&fleet.present_numbers(), FORM_LIMIT).await;
    let everyone: Vec<usize> = (0..plan.nodes).collect();
    let service = chaos::service(&fleet, &plan, &everyone);
    let shared = drive::Run::new(workload, plan.clients.len() as u64);
    chaos::prepare(&fleet, &service, &shared).await;
    if let Some(etcd) = &fleet.etcd {
        etcd.back_up().await;
    }
    let (books, tables) = (Books::default(), Tables::default());
    let trouble = join4(
        nemesis::run(&fleet, &plan.faults, run.seed),
        chaos::drive_clients(&fleet, &service, &plan, &shared),
        operator::run(&fleet, &moves.steps, &books),
        auditor::run(&fleet, &plan.audits),
    );
    rest::witnessed(&fleet, tables.watched(&fleet, trouble)).await;
    if moves.has_upgrades() {
        upgrade::finish(&fleet).await;
        upgrade::refuse_the_program_before(&fleet).await;
    }
    wait_until_whole(&fleet, plan.copies(), &books, &tables).await;
    tell_marks(&fleet);
    chaos::close(&fleet, &service, &shared).await;
    rest::check(&fleet, plan.copies()).await;
    assert_eq!(tables.lost(&fleet), None, "lost in the end");
    chaos::list_everywhere(&fleet, &service).await;
    if fleet.etcd.is_some() {
        restore_etcd(&fleet).await;
        chaos::close(&fleet, &service, &shared).await;
    }
    chaos::conclude(&run.scratch, &shared);
}

/// Waits until nothing is left to do: every node that belongs to the cluster ready, every replica in its place.
///
/// # Panics
/// If it takes too long.
pub(super) async fn wait_until_whole(fleet: &Fleet, copies: usize, books: &Books, tables: &Tables) {
    let begun = Instant::now();
    let mut resumed = false;
    let mut unready = Unready::default();
    loop {
        let status = status(fleet).await;
        retire_removed(fleet, &status).await;
        resumed = resumed || operator::resume(fleet).await;
        unready.look(fleet).await;
        tables.look(fleet);
        if begun.elapsed() > LOST_AFTER
            && let Some(lost) = tables.lost(fleet)
        {
            panic!("lost, {LOST_AFTER:?} after all was well: {lost}");
        }
        let missing = match (&status, resumed && unready.is_empty()) {
            (Some(status), true) => missing(fleet, status, copies),
            _ => Some("a master's word".to_string()),
        };
        let Some(missing) = missing else { break };
        assert!(
            begun.elapsed() < WHOLE_LIMIT,
            "not whole {WHOLE_LIMIT:?} after all was well: {missing}; the master says {}",
            status.map_or(Value::Null, |status| status["placement"].clone())
        );
        time::sleep(LOOK_INTERVAL).await;
    }
    log!("whole after {:?}", begun.elapsed());
    let gone = |node: &usize| !fleet.is_present(*node);
    assert!(books.removed.borrow().iter().all(gone), "a removed node belongs to the cluster again");
}

/// Nodes that are not ready, with nothing wrong any more, and since when without a break. While replicas are moved a node is not
/// ready again and again, each time until the leader of a replica that it has just made first speaks to it.
#[derive(Default)]
struct Unready(BTreeMap<usize, Instant>);

impl Unready {
    /// # Panics
    /// If a node has not been ready for too long.
    async fn look(&mut self, fleet: &Fleet) {
        let mut now = BTreeMap::new();
        for node in fleet.present_numbers() {
            let why = fleet.not_ready(&[node]).await;
            if why.is_empty() {
                continue;
            }
            let since = self.0.get(&node).copied().unwrap_or_else(Instant::now);
            let what = why.join(", ");
            assert!(since.elapsed() < READY_LIMIT, "not ready for {READY_LIMIT:?} with nothing wrong: {what}");
            now.insert(node, since);
        }
        self.0 = now;
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the master says of the cluster.
async fn status(fleet: &Fleet) -> Option<Value> {
    let master = fleet.master()?;
    let status = operator::status(fleet, master).await?;
    // Another one may be it by now; what that one says counts.
    (fleet.master() == Some(master)).then_some(status)
}

/// A removal may have come about without an answer; that too is for ever.
async fn retire_removed(fleet: &Fleet, status: &Option<Value>) {
    let Some(status) = status else { return };
    for node in fleet.present_numbers() {
        if state_of(fleet, status, node) == Some("removed") {
            operator::retire(fleet, node, 0).await;
        }
    }
}

fn state_of<'a>(fleet: &Fleet, status: &'a Value, node: usize) -> Option<&'a str> {
    let id = format!("{:016x}", fleet.victims[node].node_id()?);
    nodes(status).find(|one| one["id"] == id.as_str())?["state"].as_str()
}

fn nodes(status: &Value) -> impl Iterator<Item = &Value> {
    status["placement"]["nodes"].as_array().into_iter().flatten()
}

/// What is not as it should be in the end.
fn missing(fleet: &Fleet, status: &Value, copies: usize) -> Option<String> {
    let placement = &status["placement"];
    let empty = |list: &str| placement[list].as_array().is_some_and(Vec::is_empty);
    if placement["in_flight"] != 0 || placement["waiting"] != 0 || !empty("next") || !empty("findings") {
        return Some("the master has something to do".to_string());
    }
    let table = newest(fleet)?;
    let states = fleet.present().map(|victim| (victim.number, state_of(fleet, status, victim.number)));
    let states: BTreeMap<usize, Option<&str>> = states.collect();
    if let Some((node, state)) = states.iter().find(|(_, state)| !matches!(state, Some("active" | "draining"))) {
        return Some(format!("node-{} as a member: it is {state:?}", node + 1));
    }
    let active = |victim: &&crate::faults::victim::Victim| states[&victim.number] == Some("active");
    let active: BTreeSet<u64> = fleet.present().filter(active).filter_map(|victim| victim.node_id()).collect();
    for (shard, entry) in &table.shards {
        if entry.replicas.len() != copies || !entry.replicas.iter().all(|node| active.contains(node)) {
            return Some(format!("{copies} copies of shard {shard} on nodes that stay: {:x?}", entry.replicas));
        }
    }
    for victim in fleet.present() {
        let (inside, node) = (victim.inside()?, victim.node_id()?);
        let given = table.shards.iter().filter(|(_, entry)| entry.replicas.contains(&node));
        let given: BTreeSet<u64> = given.map(|(shard, _)| *shard).collect();
        for shard in &given {
            let Some(replica) = inside.host().find(*shard) else { continue };
            let (border, slots) = (replica.border(), table.shards[shard].slots);
            if border.owned != slots || border.leaving.is_some() {
                return Some(format!("{}: shard {shard} with the slots {slots:?}: {border:?}", victim.name()));
            }
        }
        let stored = inside.host().stored();
        if stored != given || inside.host().replicas().len() != given.len() {
            return Some(format!("{} has data of shards {stored:?}, and should of {given:?}", victim.name()));
        }
    }
    let held = |node: &u64| table.shards.values().filter(|entry| entry.replicas.contains(node)).count();
    let (most, fewest) = (active.iter().map(held).max()?, active.iter().map(held).min()?);
    (most > fewest + 1).then(|| format!("even shares: one node holds {most} replicas, another {fewest}"))
}

/// What the history of the cluster tells was done.
pub(super) fn tell_marks(fleet: &Fleet) {
    let Some(inside) = fleet.present().find_map(|victim| victim.inside()) else { return };
    let changes = inside.cluster_history().expect("the history can be read");
    let because = |why: &str| changes.iter().any(|change| change.why.contains(why));
    sometimes!(because("has been away for too long"), "a replica was made anew elsewhere");
    sometimes!(because("hold unequal shares"), "replicas were moved to even them out");
    sometimes!(because("documents, more than"), "the master split a shard by itself");
    sometimes!(because("both together have"), "the master merged shards by itself");
    let joined = fleet.present().filter(|victim| victim.joined_late()).count();
    sometimes!(joined > 0, "a node joined while the cluster was in use");
    for change in changes.iter().rev() {
        log!("history: {} {}: {}, because {}", change.number, change.by, change.what, change.why);
    }
}

/// Puts the etcd of an old backup in place of the one there is: every node must say so, change nothing, and go on.
///
/// # Panics
/// If a node obeys it, or does not notice.
async fn restore_etcd(fleet: &Fleet) {
    let Some(etcd) = &fleet.etcd else { return };
    let epochs = || {
        let known = fleet.present().filter_map(|victim| Some((victim.number, victim.inside()?.shard_table().epoch)));
        known.collect::<BTreeMap<usize, u64>>()
    };
    let before = epochs();
    if !etcd.is_backup_past().await {
        return;
    }
    etcd.restore().await;
    let deadline = Instant::now() + ALARM_LIMIT;
    loop {
        let quiet =
            fleet.present().find(|victim| victim.inside().is_none_or(|inside| (inside.identity().alarm)().is_none()));
        let Some(quiet) = quiet else { break };
        assert!(Instant::now() < deadline, "{} says nothing of an etcd of the past", quiet.name());
        time::sleep(LOOK_INTERVAL).await;
    }
    sometimes!(true, "an etcd of the past was not obeyed");
    time::sleep(Duration::from_secs(3)).await;
    assert_eq!(before, epochs(), "an etcd of the past was obeyed");
}
