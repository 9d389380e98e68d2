//! A cluster that is held together by etcd loses the whole of it for eleven minutes, while clients read and write. One after the other
//! nodes that lead are killed or fall silent, for longer than the master would wait for them, and come back; somebody asks for changes.
//!
//! What must hold: every operation succeeds, soon even when its node has just been struck, at the first attempt while none is; the shard
//! table stays as it is, and no change of it is acknowledged; nodes that begin without etcd serve what they had. A copy of the registry,
//! as gateways have it, is served for ten minutes, marked as old, and not for longer. When etcd is back all is ready within the usual
//! time, what was refused is done, and the node that came meanwhile gets its share.
use super::{
    Run, chaos, moves, rest,
    tables::{self, Tables},
};
use crate::{
    check::history::History,
    etcd::SimEtcd,
    faults::{
        control,
        fleet::Fleet,
        nemesis,
        operator::{self, Books},
    },
    plan::{Fault, Plan, PlannedFault, Turn, Workload as Kind, away},
    workload::{Client, Service, Shared, drive, register::Register},
    world::{self, log, sometimes},
};
use futures_util::future::{join_all, join4};
use madsim::time::{self, Instant};
use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};
use vectorsphere::{
    cluster::ShardTable,
    config::{Authority, Config, Mode},
    coordination::registry::{Filter, Found, Registry, STALE_MAX, Unknown},
    node::looked_at,
    rt::Shutdown,
};

pub const MARKS: &[&str] = &[
    "an operation was tried again while etcd was away",
    "a node began without etcd and served what it had",
    "a change was refused because etcd was away",
    "a copy of the registry was served, marked as old",
    "a copy of the registry was too old to be served",
    "a shard changed its leader under its clients",
    "a node was drained",
    "a node joined while the cluster was in use",
];

/// A client's request may wait in vain for a silent node and then for a voter, five seconds each.
const OPERATION_LIMIT: Duration = Duration::from_secs(15);
/// So long after a strike is over an attempt may still fail for it.
const GRACE_MS: u64 = 10_000;
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Around the moment at which a copy of the registry becomes old, and too old: how far its last confirmation may be from etcd's end.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(15);
/// What a copy shows is confirmed again so soon after etcd is back.
const FRESH_LIMIT: Duration = Duration::from_secs(15);

pub async fn register(run: Run) {
    let plan = chaos::plan(&run, Kind::Register, away::generate);
    let fleet = Fleet::start(run.disk, &plan);
    fleet.wait_until_ready(&fleet.present_numbers(), moves::FORM_LIMIT).await;
    let everyone: Vec<usize> = (0..plan.nodes).collect();
    let service = chaos::service(&fleet, &plan, &everyone);
    let shared = drive::Run::new(Register { once: false }, plan.clients.len() as u64);
    chaos::prepare(&fleet, &service, &shared).await;
    let (books, seen) = (Books::default(), Tables::default());
    moves::wait_until_whole(&fleet, plan.copies(), &books, &seen).await;
    let registry = look(&fleet, plan.founders()).await;
    let course = Course { fleet, plan, registry, back: Shutdown::new(), begun: Instant::now() };
    let (begun_ns, fleet) = (world::now_ns(), &course.fleet);
    let strikes = course.strikes();
    let trouble = join4(
        course.absence(),
        nemesis::run(fleet, &strikes, run.seed),
        course.clients(&service, &shared),
        course.changes(&books),
    );
    rest::witnessed(fleet, seen.watched(fleet, trouble)).await;
    course.check_calm(begun_ns, &shared.history.lock().expect("no panic while locked"));
    moves::wait_until_whole(fleet, course.plan.copies(), &books, &seen).await;
    moves::tell_marks(fleet);
    chaos::close(fleet, &service, &shared).await;
    rest::check(fleet, course.plan.copies()).await;
    assert_eq!(seen.lost(fleet), None, "lost in the end");
    chaos::list_everywhere(fleet, &service).await;
    chaos::conclude(&run.scratch, &shared);
}

struct Course {
    fleet: Fleet,
    plan: Plan,
    /// A copy of who is there, kept by somebody who only looks.
    registry: Registry,
    /// Etcd is back.
    back: Shutdown,
    begun: Instant,
}

impl Course {
    /// Etcd goes, and comes back. Until then nothing may change, and then all must be ready soon.
    async fn absence(&self) {
        let trouble = self.plan.faults.iter().find_map(|planned| match planned.fault {
            Fault::Etcd { trouble } => Some(trouble),
            _ => None,
        });
        let trouble = trouble.expect("a plan in which etcd goes");
        log!("etcd goes: {trouble:?}");
        world::count("fault.etcd_away", 1);
        let kept = tables::newest(&self.fleet).expect("every node is up");
        tokio::select! {
            biased;
            () = control::trouble_etcd(&self.fleet, trouble) => {}
            () = self.watch(&kept) => unreachable!("it looks for ever"),
        }
        log!("etcd is back");
        self.back.trigger();
        self.fleet.wait_until_ready(&self.fleet.present_numbers(), moves::READY_LIMIT).await;
        time::sleep(FRESH_LIMIT).await;
        let fresh = found(&self.registry);
        assert!(
            matches!(&fresh, Ok(found) if found.stale.is_none() && is_whole(&self.fleet, self.plan.founders(), found)),
            "{fresh:?}"
        );
    }

    /// # Panics
    /// If a node knows another table than `kept`, or gives up a replica, or the copy of the registry is not what it should be.
    async fn watch(&self, kept: &ShardTable) {
        let (founders, mut ended) = (&self.fleet.victims[..self.plan.founders()], BTreeSet::new());
        loop {
            for founder in founders {
                let (Some(inside), Some(node)) = (founder.inside(), founder.node_id()) else {
                    ended.insert(founder.number);
                    continue;
                };
                sometimes!(ended.remove(&founder.number), "a node began without etcd and served what it had");
                assert!(*inside.shard_table() == *kept, "{} knows another table without etcd", founder.name());
                let given = kept.shards.iter().filter(|(_, entry)| entry.replicas.contains(&node));
                let stored = inside.host().stored();
                assert!(stored == given.map(|(shard, _)| *shard).collect(), "{}: {stored:?}", founder.name());
            }
            self.check_registry();
            time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// # Panics
    /// If the copy is not served for ten minutes, or for longer, or not marked as old.
    fn check_registry(&self) {
        let (away, known) = (self.begun.elapsed(), found(&self.registry));
        let whole = matches!(&known, Ok(found) if is_whole(&self.fleet, self.plan.founders(), found));
        let known = known.map(|found| found.stale);
        let marked = matches!(known, Ok(Some(age)) if age <= away + CONFIRMED_WITHIN);
        assert!(whole || away + CONFIRMED_WITHIN > STALE_MAX, "{away:?} after etcd went, as old as {known:?}");
        let old = CONFIRMED_WITHIN..STALE_MAX - CONFIRMED_WITHIN;
        assert!(marked || !old.contains(&away), "{away:?} after etcd went, as old as {known:?}");
        sometimes!(marked, "a copy of the registry was served, marked as old");
        let refused = matches!(known, Err(Unknown::TooOld(_)));
        assert!(refused || away < STALE_MAX + CONFIRMED_WITHIN, "{away:?} after etcd went, as old as {known:?}");
        sometimes!(refused, "a copy of the registry was too old to be served");
    }

    /// What befalls the nodes.
    fn strikes(&self) -> Vec<PlannedFault> {
        self.plan.faults.iter().filter(|planned| !matches!(planned.fault, Fault::Etcd { .. })).cloned().collect()
    }

    /// Every client carries out its steps, whatever happens to the nodes.
    async fn clients(&self, service: &Service, shared: &Shared<Register>) {
        let clients = (0..).zip(&self.plan.clients).map(|(number, part)| {
            let client = Client::new(service, part.face, number, part.node);
            self.fleet.clients.spawn(drive::insist(shared.clone(), client, part.steps.clone(), OPERATION_LIMIT, false))
        });
        let clients: Vec<_> = clients.collect();
        join_all(clients).await.into_iter().for_each(|ended| ended.expect("no client panics"));
    }

    /// Asks for changes while etcd is away, which must not be acknowledged, and for the last one when it is back, which must come about.
    async fn changes(&self, books: &Books) {
        let steps = &self.plan.moves.as_ref().expect("a plan of moves").steps;
        let Some((last, before)) = steps.split_last() else { return };
        for step in before {
            self.fleet.pass(step.after_ms).await;
            let done = self.carry_out(step.turn, books).await;
            let joins = matches!(step.turn, Turn::Join { .. });
            assert!(joins || !done || self.back.is_triggered(), "acknowledged without etcd: {:?}", step.turn);
            sometimes!(!done, "a change was refused because etcd was away");
        }
        self.back.wait().await;
        self.fleet.pass(last.after_ms).await;
        assert!(self.carry_out(last.turn, books).await, "not done though etcd is back: {:?}", last.turn);
    }

    async fn carry_out(&self, turn: Turn, books: &Books) -> bool {
        log!("STEP {turn:?}");
        let done = operator::carry_out(&self.fleet, turn, books).await;
        log!("STEP {turn:?}: {}", if done { "done" } else { "given up" });
        done
    }

    /// # Panics
    /// If an attempt failed while etcd was away and no node had been struck.
    fn check_calm<C: std::fmt::Debug, R: std::fmt::Debug>(&self, begun_ns: u64, history: &History<C, R>) {
        let strikes = self.strikes();
        let windows: Vec<_> = strikes.iter().map(window).collect();
        let ms = |ns: u64| ns.saturating_sub(begun_ns) / 1_000_000;
        for operation in &history.operations {
            let (from, until) =
                (ms(operation.start.time_ns), operation.end.as_ref().map_or(u64::MAX, |end| ms(end.0.time_ns)));
            let struck = windows.iter().any(|window| *window.start() <= until && from <= *window.end());
            let failed = operation.answer().is_none();
            sometimes!(failed && struck, "an operation was tried again while etcd was away");
            assert!(
                !failed || struck || until >= away::AWAY_MS,
                "{from} ms after etcd went, with every node well: {operation:?}"
            );
        }
    }
}

/// Begins to keep a copy of the registry as a gateway does, and waits until it names every founder.
async fn look(fleet: &Fleet, founders: usize) -> Registry {
    let mut config = Config { mode: Mode::Auto, ..Config::default() };
    config.etcd.endpoints = vec![Authority::from(SimEtcd::ADDRESS)];
    let follow = async move {
        let etcd = looked_at(&config).expect("the options are right").expect("an endpoint is named");
        Registry::follow(Arc::new(etcd))
    };
    let registry = fleet.observe(follow).await;
    let deadline = Instant::now() + FRESH_LIMIT;
    while !found(&registry).is_ok_and(|found| is_whole(fleet, founders, &found)) {
        assert!(Instant::now() < deadline, "the registry does not name every node: {:?}", found(&registry));
        time::sleep(LOOK_INTERVAL).await;
    }
    registry
}

/// Whether every founder is named.
fn is_whole(fleet: &Fleet, founders: usize, found: &Found) -> bool {
    let named = |id: u64| found.nodes.iter().any(|record| record.node == id);
    fleet.victims[..founders].iter().all(|founder| founder.node_id().is_some_and(named))
}

/// When, in ms since etcd went, an attempt may fail for a strike.
fn window(strike: &PlannedFault) -> RangeInclusive<u64> {
    strike.at_ms..=strike.at_ms + away::lasts_ms(strike.fault) + GRACE_MS
}

/// Whom the copy of the registry names.
fn found(registry: &Registry) -> Result<Found, Unknown> {
    registry.find(&Filter::default())
}
