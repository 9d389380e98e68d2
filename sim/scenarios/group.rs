//! One consensus group whose members change, under every fault: linearizable registers, the same entries applied everywhere, one
//! leader a term; and once all is well again, it soon decides, and all its members have everything.
use super::Run;
use crate::{
    check::{history::Outcome, register, wgl::STEPS_MAX},
    disk::Disk,
    group::{
        Cluster, Identity,
        clients::{self, Notes},
        machine::Witness,
        member::{Ground, Member, first_identity},
        operator, plan, trouble,
        wire::{Weather, Wire},
    },
    world::{self, log},
};
use futures_util::future::{join, join_all};
use madsim::{runtime::Handle, time};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};
use vectorsphere::{
    raft::{RaftOptions, Role},
    rt::{self, Shutdown},
};

pub const MARKS: &[&str] = &[
    "the voters were changed",
    "a voter's disk was replaced by an empty one",
    "a leader that was to leave handed over",
    "a leader handed over when asked",
    "a leader was struck as soon as it was elected",
    "an entry of an old term was on a majority in a newer one, alone",
    "a leader was asked that did not know yet that it was deposed",
    "a shorter log of a newer term won",
    "a member lost its power right after its vote",
    "all members lost their power at once",
    "the power failed between two disk operations of a member",
    "a power failure took something of a member",
    "an fsync failed under a member",
    "a member's disk was full",
    "a member that does not lead answered a linearizable read",
    "a heartbeat changed nothing but a clock",
    "a replica caught up by a checkpoint",
    "a checkpoint went on where it broke",
    "a lane of state machines stood still, and another one began",
    "a restart installed the checkpoint that a crash had left",
];

/// A run that learnt less than this is vacuous, and fails.
const OK_MIN: usize = 60;
/// Clients, troubles and changes that take longer than this hang.
const LIMIT: Duration = Duration::from_secs(120);
/// When all is well, changes under way must be through, members must have caught up and writes must succeed this soon.
const WELL_LIMIT: Duration = Duration::from_secs(10);
/// Ten times as fast as in production.
const TICK: Duration = Duration::from_millis(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// On a good day.
const FAIR: Weather = Weather { loss_percent: 0, twice_percent: 1, late_percent: 0, delay_ms_max: 3 };

pub async fn run(run: Run) {
    let plan = plan(&run);
    let notes = Notes::new(plan.clients.len());
    let cluster = start(run.disk, plan, run.seed);
    let terms = Terms::default();
    let watched = async {
        let keeping = join(trouble::keep_running(&cluster), terms.watch(&cluster));
        tokio::select! {
            biased;
            () = course(&cluster, &notes, run.seed) => {}
            _ = keeping => unreachable!("they go on for ever"),
        }
    };
    watched.await;
    for (name, times) in rt::sim::marks() {
        log!("{name}: {times} times");
        world::mark(name);
    }
    judge(&notes);
}

fn plan(run: &Run) -> plan::GroupPlan {
    let plan = match &run.plan {
        Some(text) => serde_json::from_str(text).expect("SIM_PLAN holds a plan of a group"),
        None => plan::generate(run.seed),
    };
    let text = serde_json::to_string(&plan).expect("a plan is plain data");
    log!("PLAN {text}");
    std::fs::write(run.scratch.join("plan.json"), text).expect("the scratch directory takes a plan");
    plan
}

fn start(disk: Disk, plan: plan::GroupPlan, seed: u64) -> Cluster {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
    let air = Handle::current().create_node().name("air").ip(address).build();
    rt::sim::register(air.id(), "air", address);
    let options = RaftOptions {
        tick: TICK,
        message_bytes_max: plan.message_bytes_max,
        compact_after_bytes: plan.compact_after_bytes,
        keep_bytes_max: plan.keep_bytes_max,
        read_timeout: Duration::from_millis(500),
        ..RaftOptions::default()
    };
    let wire = Wire::new(seed, air);
    wire.set_weather(FAIR);
    let witness: Arc<Mutex<Witness>> = Arc::default();
    let ground = Ground { disk: Rc::new(disk), wire: wire.clone(), witness, options };
    let founders: Vec<Identity> = (0..plan.founders).map(first_identity).collect();
    let members = (0..plan.machines).map(|number| Member::start(&ground, number, &founders)).collect();
    Cluster { members, wire, plan, over: Shutdown::new() }
}

/// The whole run: trouble, then peace, then the last questions.
async fn course(cluster: &Cluster, notes: &Notes, seed: u64) {
    let asked =
        join_all((0..).zip(&cluster.plan.clients).map(|(process, steps)| clients::run(cluster, notes, process, steps)));
    let begun = async {
        asked.await;
        log!("the clients are through");
        cluster.over.trigger();
    };
    let all = join(join(begun, trouble::run(cluster, notes, seed)), operator_until_well(cluster));
    let (_, voters) = time::timeout(LIMIT, all).await.expect("the run hangs");
    cluster.wire.set_weather(FAIR);
    close(cluster, notes, &voters).await;
}

/// Changes the members; one that is under way when the trouble is over must soon be through.
async fn operator_until_well(cluster: &Cluster) -> BTreeSet<Identity> {
    let well = async {
        cluster.over.wait().await;
        cluster.wire.set_weather(FAIR);
        time::sleep(WELL_LIMIT).await;
    };
    tokio::select! {
        biased;
        wanted = operator::run(cluster) => wanted.voters,
        () = well => {
            tell(cluster).await;
            panic!("a change of members is not through {WELL_LIMIT:?} after all was well")
        }
    }
}

/// All is well: the group decides soon, every voter has everything, and everything can be read everywhere.
async fn close(cluster: &Cluster, notes: &Notes, voters: &BTreeSet<Identity>) {
    let deadline = time::Instant::now() + WELL_LIMIT;
    for key in 0..2 {
        loop {
            let process = notes.history.borrow_mut().retire();
            let value = 1_000_000 + key * 1_000 + process;
            let call = register::Call::Put { key, value, if_version: None };
            if let Outcome::Ok(_) = clients::attempt(cluster, notes, process, call, 0, 0).await {
                break;
            }
            if time::Instant::now() >= deadline {
                tell(cluster).await;
                panic!("not live: no write succeeds {WELL_LIMIT:?} after all was well");
            }
            time::sleep(LOOK_INTERVAL).await;
        }
    }
    wait_until_whole(cluster, voters).await;
    for member in cluster.members.iter().filter(|member| voters.contains(&member.identity())) {
        for key in 0..4 {
            let process = notes.history.borrow_mut().retire();
            let call = register::Call::Get { key };
            let read = clients::attempt(cluster, notes, process, call, member.number, 0).await;
            assert!(matches!(read, Outcome::Ok(_)), "a voter at rest does not answer: {read:?}");
        }
    }
}

/// What every member says of the group, into the log.
async fn tell(cluster: &Cluster) {
    for member in &cluster.members {
        let status = match member.inside() {
            Some(inside) => Some(time::timeout(WELL_LIMIT, inside.group.status()).await),
            None => None,
        };
        log!("member {} on machine {}: {status:?}", member.identity(), member.number + 1);
    }
}

/// Waits for the members to be the ones wanted, by the leader's word, and for each to have applied all there is.
async fn wait_until_whole(cluster: &Cluster, voters: &BTreeSet<Identity>) {
    let deadline = time::Instant::now() + WELL_LIMIT;
    loop {
        let missing = missing(cluster, voters).await;
        let Some(missing) = missing else { return };
        assert!(time::Instant::now() < deadline, "not whole {WELL_LIMIT:?} after all was well: {missing}");
        time::sleep(LOOK_INTERVAL).await;
    }
}

async fn missing(cluster: &Cluster, voters: &BTreeSet<Identity>) -> Option<String> {
    let Some(leader) = cluster.leader().and_then(|leader| leader.inside()) else { return Some("a leader".to_string()) };
    let Ok(index) = leader.group.read_index().await else { return Some("a leader's word".to_string()) };
    let Ok(status) = leader.group.status().await else { return Some("a leader's status".to_string()) };
    let now: BTreeSet<Identity> = status.members.voters.iter().copied().collect();
    if now != *voters || !status.members.voters_outgoing.is_empty() {
        return Some(format!("the voters are {:?}, and {voters:?} were wanted", status.members));
    }
    let behind = cluster.members.iter().filter(|member| voters.contains(&member.identity())).find(|member| {
        let inside = member.inside();
        inside.is_none_or(|inside| inside.group.applied() < index)
    });
    behind.map(|member| format!("member {} has not applied up to {index}", member.identity()))
}

/// Who led in which term, as every member says of itself.
#[derive(Default)]
struct Terms {
    leaders: RefCell<BTreeMap<u64, Identity>>,
}

impl Terms {
    async fn watch(&self, cluster: &Cluster) {
        loop {
            for member in &cluster.members {
                let Some(inside) = member.inside().filter(|inside| inside.group.is_leader()) else { continue };
                // A member that is paused or ends says nothing.
                let status = time::timeout(LOOK_INTERVAL, inside.group.status()).await;
                if let Ok(Ok(status)) = status
                    && status.role == Role::Leader
                {
                    let identity = member.identity();
                    let first = *self.leaders.borrow_mut().entry(status.term).or_insert_with(|| {
                        log!("member {identity} leads in term {}", status.term);
                        identity
                    });
                    assert!(first == identity, "term {} has two leaders: {first} and {identity}", status.term);
                }
            }
            time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn judge(notes: &Notes) {
    let history = notes.history.borrow();
    let (ok, failed, unknown) = history.counts();
    log!("{ok} operations succeeded, {failed} failed, {unknown} are unknown");
    if let Err(violation) = register::check(&history, STEPS_MAX) {
        panic!("{violation}");
    }
    assert!(ok >= OK_MIN, "vacuous: only {ok} operations succeeded ({failed} failed, {unknown} unknown)");
}
