//! Some nodes, some clients, a plan of faults: the workload of the plan over the real REST and gRPC faces, judged by its
//! checker when everything is over. Acknowledged writes survive, nothing never written appears, every node always comes
//! back, and at rest all nodes tell the same.
use super::{Run, rest};
use crate::{
    check::export,
    faults::{auditor, finale, fleet::Fleet, nemesis},
    plan::{Face, Plan, Step, Workload as Kind},
    workload::{Client, Failure, Service, Shared, TABLE, Workload, drive},
    world::{self, log, sometimes},
};
use futures_util::future::{join, join3};
use madsim::time;
use std::{fs, path::Path, time::Duration};

/// A run that learnt less than this is vacuous, and fails.
const OK_MIN: usize = 100;
/// Clients that take longer than this, in simulated time, hang.
const CLIENTS_LIMIT: Duration = Duration::from_secs(1_800);
/// A fleet must have formed this soon after its start, and be whole this soon after everything was healed.
const FORM_LIMIT: Duration = Duration::from_secs(40);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Between two requests to a leader that is cut off.
const FOLLOW_INTERVAL_MS: u64 = 100;
/// Between two attempts to make what a workload needs: a cluster may have to agree on its version first.
const PREPARE_PAUSE: Duration = Duration::from_millis(200);
/// A healed majority must carry out any operation within this.
const LIVE_LIMIT: Duration = Duration::from_secs(10);

/// Runs the seed's plan, or the one that was given; `generate` makes plans.
pub async fn run<W: Workload>(run: Run, kind: Kind, generate: fn(Kind, u64) -> Plan, mut workload: W) {
    let plan = plan(&run, kind, generate);
    workload.learn(&plan);
    let fleet = Fleet::start(run.disk, &plan);
    nemesis::first_start(&fleet, plan.first_start, run.seed).await;
    let everyone: Vec<usize> = (0..plan.nodes).collect();
    fleet.wait_until_ready(&everyone, FORM_LIMIT).await;
    let service = service(&fleet, &plan, &everyone);
    let shared = drive::Run::new(workload, plan.clients.len() as u64);
    prepare(&fleet, &service, &shared).await;
    let trouble = join3(
        nemesis::run(&fleet, &plan.faults, run.seed),
        drive_clients(&fleet, &service, &plan, &shared),
        auditor::run(&fleet, &plan.audits),
    );
    rest::witnessed(&fleet, trouble).await;
    if let Some(finale) = &plan.finale {
        let rest = finale::collapse(&fleet, finale, run.seed).await;
        ask_the_core(&fleet, &plan, &shared).await;
        finale::heal(&fleet, rest);
    }
    fleet.wait_until_ready(&everyone, READY_LIMIT).await;
    close(&fleet, &service, &shared).await;
    rest::check(&fleet, plan.copies()).await;
    list_everywhere(&fleet, &service).await;
    conclude(&run.scratch, &shared);
}

/// Keeps what was seen and judges it.
pub(super) fn conclude<W: Workload>(scratch: &Path, shared: &Shared<W>) {
    for (name, times) in vectorsphere::rt::sim::marks() {
        log!("{name}: {times} times");
        world::mark(name);
    }
    let history = shared.history.lock().expect("no panic while locked");
    keep(scratch, &*history);
    judge(&shared.workload, &*history);
}

pub(super) fn plan(run: &Run, kind: Kind, generate: fn(Kind, u64) -> Plan) -> Plan {
    let plan = match &run.plan {
        Some(text) => serde_json::from_str(text).expect("SIM_PLAN holds a plan"),
        None => generate(kind, run.seed),
    };
    assert_eq!(plan.workload, kind, "the plan is another workload's");
    let text = serde_json::to_string(&plan).expect("a plan is plain data");
    log!("PLAN {text}");
    fs::write(run.scratch.join("plan.json"), text).expect("the scratch directory takes a plan");
    plan
}

pub(super) fn service(fleet: &Fleet, plan: &Plan, nodes: &[usize]) -> Service {
    let addresses = nodes.iter().map(|node| (fleet.victims[*node].http(), fleet.victims[*node].grpc()));
    let (index, shards, copies) = (plan.index.clone(), plan.shards, plan.copies());
    Service { addresses: addresses.collect(), table: TABLE, index, shards, copies }
}

/// Runs `future` on the clients' machine.
async fn on_clients<T: Send + 'static>(fleet: &Fleet, future: impl Future<Output = T> + Send + 'static) -> T {
    fleet.clients.spawn(future).await.expect("no client panics")
}

/// Creates the table and writes what the workload begins with.
pub(super) async fn prepare<W: Workload>(fleet: &Fleet, service: &Service, shared: &Shared<W>) {
    let client = Client::new(service, Face::Rest, u64::MAX, 0);
    let (shared, puts) = (shared.clone(), shared.workload.preparation());
    let prepared = on_clients(fleet, async move {
        while let Err(failure) = client.create().await {
            log!("the table is not there yet: {failure:?}");
            client.find_ready().await;
        }
        while !puts.is_empty()
            && let Err(failure) = client.put_all(&puts, None).await
        {
            log!("the first documents are not there yet: {failure:?}");
            client.find_ready().await;
        }
        while let Err(failure) = shared.workload.prepare(&client).await {
            log!("what the workload needs is not there yet: {failure:?}");
            time::sleep(PREPARE_PAUSE).await;
            client.find_ready().await;
        }
    });
    time::timeout(FORM_LIMIT, prepared).await.expect("new nodes take a table and its first documents");
}

/// Returns when every client is through with its steps.
pub(super) async fn drive_clients<W: Workload>(fleet: &Fleet, service: &Service, plan: &Plan, shared: &Shared<W>) {
    let clients: Vec<_> = (0..)
        .zip(&plan.clients)
        .map(|(process, part)| {
            let client = Client::new(service, part.face, process, part.node);
            fleet.clients.spawn(drive::run(shared.clone(), client, process, part.steps.clone()))
        })
        .collect();
    let through = async {
        for client in clients {
            let ended = time::timeout(CLIENTS_LIMIT, client).await;
            ended.expect("the clients hang").expect("no client panics");
        }
    };
    if fleet.is_one() {
        return through.await;
    }
    // What goes wrong when they are through nobody would notice.
    let through = async {
        through.await;
        fleet.hurry();
    };
    join(through, follow_the_hunted(fleet, service, shared)).await;
}

/// Somebody who goes to whichever leader is cut off from the others, as long as that lasts.
async fn follow_the_hunted<W: Workload>(fleet: &Fleet, service: &Service, shared: &Shared<W>) {
    for number in 0.. {
        while fleet.hunted().is_none() && !fleet.is_over() {
            fleet.pass(FOLLOW_INTERVAL_MS).await;
        }
        let node = fleet.hunted().filter(|_| !fleet.is_over());
        let (Some(node), Some(action)) = (node, shared.workload.of_the_hunted(number)) else { return };
        let face = if number % 2 == 0 { Face::Rest } else { Face::Grpc };
        let process = shared.history.lock().expect("no panic while locked").retire();
        let client = Client::new(service, face, process, node);
        let steps = vec![Step { after_ms: FOLLOW_INTERVAL_MS, action }];
        on_clients(fleet, drive::run(shared.clone(), client, process, steps)).await;
    }
}

/// Every member of the core carries out what its client asks.
async fn ask_the_core<W: Workload>(fleet: &Fleet, plan: &Plan, shared: &Shared<W>) {
    let Some(finale) = &plan.finale else { return };
    let core = service(fleet, plan, &finale.core);
    let clients: Vec<_> = (plan.clients.len() as u64..)
        .zip(&finale.clients)
        .map(|(number, part)| {
            let home = finale.core.iter().position(|node| *node == part.node).unwrap_or(0);
            let client = Client::new(&core, part.face, number, home);
            fleet.clients.spawn(drive::insist(shared.clone(), client, part.steps.clone(), LIVE_LIMIT, true))
        })
        .collect();
    for client in clients {
        client.await.expect("no client panics");
    }
}

/// The closing reads: everything is well, so each must be answered.
pub(super) async fn close<W: Workload>(fleet: &Fleet, service: &Service, shared: &Shared<W>) {
    let actions = shared.workload.closing(&shared.memory.lock().expect("no panic while locked"));
    let before = shared.history.lock().expect("no panic while locked").operations.len();
    let present = fleet.present().count();
    for (place, victim) in fleet.present().enumerate() {
        let steps = actions.iter().skip(place).step_by(present);
        let steps = steps.map(|action| Step { after_ms: 1, action: *action }).collect();
        let process = shared.history.lock().expect("no panic while locked").retire();
        let client = Client::new(service, Face::Rest, process, victim.number);
        on_clients(fleet, drive::run(shared.clone(), client, process, steps)).await;
    }
    for read in &shared.history.lock().expect("no panic while locked").operations[before..] {
        assert!(read.answer().is_some(), "a node at rest does not answer {:?}: {:?}", read.call, read.end);
    }
}

/// At every node the same number of documents can be listed, and is its own count of them.
pub(super) async fn list_everywhere(fleet: &Fleet, service: &Service) {
    let mut counts = Vec::new();
    for victim in fleet.present() {
        let client = Client::new(service, Face::Rest, u64::MAX, victim.number);
        let told = on_clients(fleet, async move {
            let listed = client.list().await?;
            Ok::<_, Failure>((listed.len() as u64, client.describe().await?))
        });
        let (listed, table) = told.await.expect("a node at rest answers");
        log!("{}: {listed} documents listed; {table}", victim.name());
        assert_eq!(table["documents_count"].as_u64(), Some(listed), "{}'s count at rest: {table}", victim.name());
        sometimes!(table["index"]["state"] == "ready", "an index was trained");
        counts.push(listed);
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "nodes at rest list different numbers: {counts:?}");
}

fn keep<C: export::Describe<Answer = R>, R>(scratch: &Path, history: &crate::check::history::History<C, R>) {
    let events = export::events(history);
    for (name, text) in [("history.edn", export::to_edn(&events)), ("history.jsonl", export::to_jsonl(&events))] {
        fs::write(scratch.join(name), text).expect("the scratch directory takes a history");
    }
}

fn judge<W: Workload>(workload: &W, history: &crate::check::history::History<W::Call, W::Answer>) {
    let (ok, failed, unknown) = history.counts();
    log!("{ok} operations succeeded, {failed} failed, {unknown} are unknown");
    sometimes!(unknown > 0, "an outcome was unknown");
    if let Err(violation) = workload.check(history) {
        panic!("{violation}");
    }
    assert!(ok >= OK_MIN, "vacuous: only {ok} operations succeeded ({failed} failed, {unknown} unknown)");
    assert!(unknown * 2 <= ok + failed + unknown, "vacuous: {unknown} outcomes of {} unknown", ok + failed + unknown);
}
