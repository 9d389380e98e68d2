//! One node, some clients, a plan of faults: the workloads of the plan over the real REST and gRPC faces, judged by
//! their checkers when everything is over. Acknowledged writes survive, nothing never written appears, a node always
//! comes back, and at rest its own count is the number of documents there are.
use super::Run;
use crate::{
    check::export,
    faults::{
        nemesis,
        victim::{self, Victim},
    },
    plan::{Plan, Workload as Kind},
    workload::{Client, Failure, Memory, Shared, Workload, drive, register::Register, search::Search, set::Set},
    world::{log, sometimes},
};
use madsim::{
    runtime::{Handle, NodeHandle},
    time,
};
use rand::{SeedableRng, rngs::StdRng};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

pub const MARKS: &[&str] = &[
    "a power failure took something",
    "something unsynced survived a power failure",
    "an fsync failed under the node",
    "a node refused to start on a read error",
    "a read failed under the node",
    "the disk was full under the node",
    "a node stopped on a disk fault and came back",
    "an outcome was unknown",
    "an index was trained",
    "an index was trained again",
    "rows were filed",
    "lists got new centroids",
    "small lists were dissolved",
    "plans were chosen anew",
    "the power failed during the first start",
    "the power failed between two disk operations of a start",
    "the power failed between two disk operations of a running node",
    "an index file rotted",
    "a node lived on without an index file",
];

const TABLE: &str = "things";
/// A run that learnt less than this is vacuous, and fails.
const OK_MIN: usize = 100;
/// Clients that take longer than this, in simulated time, hang.
const CLIENTS_LIMIT: Duration = Duration::from_secs(600);

pub async fn register(run: Run) {
    simulate(run, Kind::Register, Register).await;
}

pub async fn set(run: Run) {
    simulate(run, Kind::Set, Set).await;
}

pub async fn search(run: Run) {
    simulate(run, Kind::Search, Search).await;
}

async fn simulate<W: Workload>(run: Run, kind: Kind, workload: W) {
    let plan = plan(&run, kind);
    let workload = Arc::new(workload);
    let mut rng = StdRng::seed_from_u64(run.seed ^ 0x00c0_ffee);
    let victim = Victim::start(Rc::new(run.disk), plan.index(), plan.first_start);
    nemesis::first_start(&victim, plan.first_start, &mut rng).await;
    let machine = clients_machine();
    create_table(&machine, &plan).await;
    let processes = plan.clients.len() as u64 + 1;
    let history = Arc::new(Mutex::new(crate::check::history::History::new(processes)));
    let memory = Arc::new(Mutex::new(Memory::default()));
    let clients: Vec<_> = (0..)
        .zip(&plan.clients)
        .map(|(process, part)| {
            let client = Client::new(part.face, victim::HTTP, victim::GRPC, TABLE, plan.dimension);
            let (workload, history, memory) = (workload.clone(), history.clone(), memory.clone());
            machine.spawn(drive::run(workload, history, memory, client, process, part.steps.clone()))
        })
        .collect();
    nemesis::run(&victim, &plan.faults, &mut rng).await;
    for client in clients {
        let ended = time::timeout(CLIENTS_LIMIT, client).await;
        ended.expect("the clients hang").expect("no client panics");
    }
    victim.wait_until_up().await;
    close(&machine, &plan, workload.clone(), &history, memory, processes - 1).await;
    let history = history.lock().expect("no panic while locked");
    keep(&run.scratch, &*history);
    judge(&*workload, &*history);
}

fn plan(run: &Run, kind: Kind) -> Plan {
    let plan = match &run.plan {
        Some(text) => serde_json::from_str(text).expect("SIM_PLAN holds a plan"),
        None => Plan::generate(kind, run.seed),
    };
    assert_eq!(plan.workload, kind, "the plan is another workload's");
    let text = serde_json::to_string(&plan).expect("a plan is plain data");
    log!("PLAN {text}");
    fs::write(run.scratch.join("plan.json"), text).expect("the scratch directory takes a plan");
    plan
}

/// All clients share a machine: it never fails.
fn clients_machine() -> NodeHandle {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    let machine = Handle::current().create_node().name("clients").ip(address).build();
    vectorsphere::rt::sim::register(machine.id(), "clients", address);
    machine
}

fn new_client(plan: &Plan) -> Client {
    Client::new(crate::plan::Face::Rest, victim::HTTP, victim::GRPC, TABLE, plan.dimension)
}

async fn create_table(machine: &NodeHandle, plan: &Plan) {
    let client = new_client(plan);
    let (index_type, metric) = (plan.index_type.clone(), plan.metric.clone());
    let created = machine.spawn(async move { client.create(&index_type, &metric).await });
    created.await.expect("no client panics").expect("a new node takes a table");
}

/// Everything is well again: the closing reads, and the node's own count against what can be listed.
async fn close<W: Workload>(
    machine: &NodeHandle,
    plan: &Plan,
    workload: Arc<W>,
    history: &Shared<W>,
    memory: Arc<Mutex<Memory>>,
    process: u64,
) {
    let actions = workload.closing(&memory.lock().expect("no panic while locked"));
    let steps = actions.into_iter().map(|action| crate::plan::Step { after_ms: 1, action }).collect();
    let before = history.lock().expect("no panic while locked").operations.len();
    let closing = drive::run(workload, history.clone(), memory, new_client(plan), process, steps);
    machine.spawn(closing).await.expect("no client panics");
    for read in &history.lock().expect("no panic while locked").operations[before..] {
        assert!(read.answer().is_some(), "a node at rest does not answer {:?}: {:?}", read.call, read.end);
    }
    let client = new_client(plan);
    let counts = machine.spawn(async move {
        let listed = client.list().await?;
        Ok::<_, Failure>((listed.len() as u64, client.describe().await?))
    });
    let (listed, table) = counts.await.expect("no client panics").expect("a node at rest answers");
    log!("{listed} documents listed; {table}");
    assert_eq!(table["documents_count"].as_u64(), Some(listed), "the node's count at rest: {table}");
    sometimes!(table["index"]["state"] == "ready", "an index was trained");
    for (name, times) in vectorsphere::rt::sim::marks() {
        log!("{name}: {times} times");
        crate::world::mark(name);
    }
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
