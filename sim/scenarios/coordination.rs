//! The coordinator in the simulation: the contract every coordinator is held to, by the embedded one and by the client of a simulated
//! etcd; and three nodes that elect, register and count through that etcd while it misbehaves in every way it can.
use super::Run;
use crate::{
    etcd::{Knobs, SimEtcd},
    world::{self, log, sometimes},
};
use futures_util::future::{BoxFuture, join_all};
use madsim::{
    runtime::{Handle, NodeHandle},
    time,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use vectorsphere::{
    coordination::{
        Change, Committed, Compare, CoordinationError, Coordinator, Etcd, Mirror, Transaction,
        election::{Candidate, Election, ElectionSettings, Leader, Policy, Reign},
        etcd::EtcdOptions,
        registry::{Filter, NodeRecord, Registry},
    },
    rt,
};

#[path = "../../tests/coordination/contract.rs"]
mod contract;

pub const MARKS: &[&str] = &[
    "a fenced write of an old reign was refused",
    "a write's outcome was not known and it had happened",
    "a registration was lost and made again",
    "a candidate's lease lapsed",
    "a leader made place for a higher one",
    "a node that does not reign saw who does",
    "a mirror was shown an older state than its own",
];

pub const PAST_MARKS: &[&str] = &["a client found an etcd of the past"];

const NODES: u64 = 3;
const FAULTS: usize = 14;

/// The embedded coordinator, and the client of the simulated etcd, keep the contract.
pub async fn contract(run: Run) {
    let etcd = Arc::new(SimEtcd::start(run.disk.root().join("etcd")));
    time::sleep(Duration::from_secs(1)).await;
    let (address, file) = (etcd.address(), run.disk.root().join("known"));
    let checked = machine("client", 1).spawn(async move {
        let c: Arc<dyn Coordinator> = Arc::new(client(address, file));
        contract::check(&c, &Hooked(etcd), 1).await;
    });
    checked.await.expect("no panic");
    world::count("ops.ok", 1);
}

struct Hooked(Arc<SimEtcd>);

impl contract::Hooks for Hooked {
    fn compact(&self) -> BoxFuture<'_, ()> {
        self.0.compact();
        Box::pin(async {})
    }

    fn second_lasts_max(&self) -> Duration {
        // Two seconds, by clocks that may run 5 % slow.
        Duration::from_millis(2400)
    }

    fn show_the_past(&self, shown: bool) {
        self.0.set(Knobs { stale_reads: if shown { 100 } else { 0 }, ..Knobs::default() });
    }
}

fn machine(name: &str, number: u8) -> NodeHandle {
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 2, number));
    let node = Handle::current().create_node().name(name).ip(ip).build();
    rt::sim::register(node.id(), name, ip);
    node
}

fn client(address: String, file: PathBuf) -> Etcd {
    Etcd::open(&EtcdOptions::new(vec![address], "sim"), file).expect("the options are right")
}

/// What the nodes did, for the checks.
#[derive(Default)]
struct Chronicle {
    /// Tokens of reigns that wrote something, by the revision of the write.
    writes: Mutex<BTreeMap<u64, u64>>,
    /// Additions that are known to have happened.
    added: Mutex<u64>,
    /// Who reigned in a term, and the token of that reign, as somebody saw it first.
    reigns: Mutex<BTreeMap<u64, (u64, u64)>>,
}

impl Chronicle {
    /// Somebody has seen that `node` reigns in `term`.
    ///
    /// # Panics
    /// If another one was seen in that term, or the tokens do not grow with the terms.
    fn saw(&self, term: u64, node: u64, token: u64) {
        let mut reigns = self.reigns.lock().unwrap();
        let first = *reigns.entry(term).or_insert((node, token));
        assert!(first == (node, token), "term {term} is node {}'s, and node {node}'s: {reigns:?}", first.0);
        let tokens: Vec<u64> = reigns.values().map(|(_, token)| *token).collect();
        assert!(tokens.is_sorted_by(|one, next| one < next), "tokens do not grow from term to term: {reigns:?}");
    }
}

struct Subject {
    node: u64,
    /// The last term in which it saw somebody reign.
    seen: AtomicU64,
    coordinator: Arc<dyn Coordinator>,
    chronicle: Arc<Chronicle>,
}

impl Candidate for Subject {
    fn is_ready(&self) -> bool {
        true
    }

    /// Writes under its fence, and goes on a little beyond its end, as a process does that was paused.
    fn reign(&self, reign: Reign) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            log!("node {} reigns in term {}", self.node, reign.term);
            self.chronicle.saw(reign.term, self.node, reign.token());
            let mut late = 0;
            while late < 3 {
                late += u64::from(reign.ended.is_triggered());
                let changes = vec![contract::put("decided", &format!("{} {}", self.node, reign.term))];
                let transaction = Transaction { compares: vec![reign.fence()], changes };
                match self.coordinator.commit(transaction).await {
                    Ok(Committed::At(revision)) => {
                        let before = self.chronicle.writes.lock().unwrap().insert(revision, reign.token());
                        assert_eq!(before, None, "two writes at revision {revision}");
                    }
                    Ok(Committed::Refused) => sometimes!(late > 0, "a fenced write of an old reign was refused"),
                    Err(error) => log!("node {}: {error}", self.node),
                }
                rt::time::sleep(Duration::from_millis(50)).await;
            }
            log!("node {} reigned in term {}", self.node, reign.term);
        })
    }

    fn leader_changed(&self, leader: Option<&Leader>) {
        log!("node {} sees {:?}", self.node, leader.map(|leader| (leader.node, leader.term)));
        let Some(leader) = leader else { return };
        self.chronicle.saw(leader.term, leader.node, leader.created);
        let before = self.seen.swap(leader.term, Ordering::Relaxed);
        assert!(before <= leader.term, "node {} goes back from term {before} to {}", self.node, leader.term);
        sometimes!(leader.node != self.node, "a node that does not reign saw who does");
    }
}

/// Elections, a registry and counters over an etcd that fails in every way.
pub async fn recipes(run: Run) {
    let mut rng = StdRng::seed_from_u64(run.seed);
    let etcd = SimEtcd::start(run.disk.root().join("etcd"));
    let chronicle = Arc::<Chronicle>::default();
    time::sleep(Duration::from_secs(1)).await;
    let stop = rt::Shutdown::new();
    let policy = if rng.random_bool(0.5) { Policy::Priority } else { Policy::Random };
    let nodes = (1..=NODES).map(|node| {
        let (address, file) = (etcd.address(), run.disk.root().join(format!("known-{node}")));
        let (chronicle, stop) = (chronicle.clone(), stop.clone());
        let machine = machine(&format!("node-{node}"), node as u8);
        let running = machine.spawn(live(node, policy, address, file, chronicle, stop));
        (machine, running)
    });
    let nodes: Vec<_> = nodes.collect();
    time::sleep(Duration::from_secs(5)).await;
    for _ in 0..FAULTS {
        fault(&etcd, &mut rng).await;
        time::sleep(Duration::from_millis(rng.random_range(200..4000))).await;
    }
    etcd.set(Knobs::default());
    // Whatever was drawn, somebody is deposed.
    etcd.expire_leases().await;
    time::sleep(Duration::from_secs(15)).await;
    stop.trigger();
    let sums = join_all(nodes.into_iter().map(|(_, running)| running)).await;
    let sums: Vec<u64> = sums.into_iter().map(|sum| sum.expect("no panic")).collect();
    log!("sums {sums:?}");
    let added = *chronicle.added.lock().unwrap();
    assert!(sums.iter().all(|sum| *sum == added), "{sums:?}, expected {added}");
    let writes = chronicle.writes.lock().unwrap();
    let tokens: Vec<u64> = writes.values().copied().collect();
    assert!(tokens.is_sorted(), "a write of an old reign was taken after one of a new reign: {writes:?}");
    assert!(tokens.len() > 20 && added > 20, "{} writes, {added} additions: nothing was tried", tokens.len());
    let reigns = chronicle.reigns.lock().unwrap();
    assert!(reigns.len() > 1, "nobody was deposed: {reigns:?}");
    let known: Vec<u64> = reigns.values().map(|(_, token)| *token).collect();
    assert!(tokens.iter().all(|token| known.contains(token)), "a write of a reign nobody saw: {tokens:?}, {reigns:?}");
    world::count("ops.ok", added + tokens.len() as u64);
    world::count("reigns", tokens.iter().zip(tokens.iter().skip(1)).filter(|(one, next)| one != next).count() as u64);
}

async fn fault(etcd: &SimEtcd, rng: &mut StdRng) {
    let held = Duration::from_millis(rng.random_range(200..5000));
    match rng.random_range(0..8) {
        0 => etcd.compact(),
        1 => etcd.expire_leases().await,
        2 => etcd.cancel_watches(),
        3 => etcd.restart(time::sleep(held)).await,
        kind => {
            let knobs = match kind {
                4 => Knobs { unavailable: true, ..Knobs::default() },
                5 => Knobs { slow: Duration::from_millis(rng.random_range(10..3000)), ..Knobs::default() },
                6 => Knobs { lost_answers: 50, ..Knobs::default() },
                _ => Knobs { stale_reads: 30, ..Knobs::default() },
            };
            etcd.set(knobs);
            time::sleep(held).await;
            etcd.set(Knobs::default());
        }
    }
    world::count("fault.etcd", 1);
}

/// A node: stands for election, is registered, and counts; the sum it reads in the end.
async fn live(
    node: u64,
    policy: Policy,
    address: String,
    file: PathBuf,
    chronicle: Arc<Chronicle>,
    stop: rt::Shutdown,
) -> u64 {
    let coordinator: Arc<dyn Coordinator> = Arc::new(client(address, file));
    let subject =
        Subject { node, seen: AtomicU64::new(0), coordinator: coordinator.clone(), chronicle: chronicle.clone() };
    let settings = ElectionSettings {
        policy,
        priority: node as u32,
        steady: Duration::from_secs(2),
        reign_min: Duration::from_secs(4),
        ..ElectionSettings::of(node)
    };
    let election = Election::stand(coordinator.clone(), "master", settings, Arc::new(subject));
    let registry = Registry::follow(coordinator.clone());
    let registration = loop {
        if let Ok(registration) = registry.register(vec![NodeRecord { node, ..NodeRecord::default() }]).await {
            break registration;
        }
    };
    let mirror = Mirror::follow(coordinator.clone(), "count/");
    let mut number = 0;
    while !stop.is_triggered() {
        number += 1;
        add(&*coordinator, &format!("count/{node}-{number}"), &chronicle).await;
        rt::time::sleep(Duration::from_millis(300)).await;
    }
    // Everything is well again, and the others stop counting too: what is seen from here is what there is.
    rt::time::sleep(Duration::from_secs(4)).await;
    let listed = coordinator.list("count/").await.expect("etcd is well").entries;
    let sum = listed.iter().find(|kv| kv.key == "count/sum").map_or(0, |kv| number_of(&kv.value));
    assert_eq!(listed.len() as u64, sum + 1, "marks and sum agree");
    let expected: vectorsphere::coordination::Entries = listed.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    let mut looks = 0;
    while *mirror.entries() != expected {
        looks += 1;
        assert!(looks < 50, "node {node} follows {:?}, expected {expected:?}", mirror.entries());
        rt::time::sleep(Duration::from_millis(100)).await;
    }
    let found = registry.find(&Filter::default()).expect("etcd is well").nodes;
    assert_eq!(found.len() as u64, NODES, "node {node} finds {found:?}");
    assert!(election.leader().is_some(), "node {node} knows of no leader");
    rt::time::sleep(Duration::from_secs(2)).await;
    drop(election);
    drop(registration);
    sum
}

fn number_of(value: &[u8]) -> u64 {
    value.iter().fold(0, |number, byte| number * 256 + u64::from(*byte))
}

/// Adds one by compare-and-swap, with a mark that tells whether it happened.
async fn add(c: &dyn Coordinator, mark: &str, chronicle: &Chronicle) {
    let mut unknown = false;
    loop {
        let Ok(known) = c.get("count/sum").await else { continue };
        let (sum, guard) = match &known {
            None => (0, Compare::Absent("count/sum".to_owned())),
            Some(kv) => {
                let sum = u16::from_be_bytes([kv.value[0], kv.value[1]]);
                (sum, Compare::WrittenAt("count/sum".to_owned(), kv.revision))
            }
        };
        let changes = vec![
            Change::Put("count/sum".to_owned(), (sum + 1).to_be_bytes().to_vec()),
            Change::Put(mark.to_owned(), Vec::new()),
        ];
        let compares = vec![guard, Compare::Absent(mark.to_owned())];
        match c.commit(Transaction { compares, changes }).await {
            Ok(Committed::At(_)) => break,
            Ok(Committed::Refused) => {}
            Err(CoordinationError::Indeterminate(_)) => unknown = true,
            Err(_) => {}
        }
        // A read may be of the past; a mark that it shows was made all the same.
        if unknown && c.get(mark).await.is_ok_and(|kv| kv.is_some()) {
            sometimes!(true, "a write's outcome was not known and it had happened");
            break;
        }
    }
    *chronicle.added.lock().unwrap() += 1;
}

/// An etcd that comes back as it once was: what is followed says so, and what is remembered is the new truth only where it was asked.
pub async fn restored(run: Run) {
    let etcd = SimEtcd::start(run.disk.root().join("etcd"));
    time::sleep(Duration::from_secs(1)).await;
    let address = etcd.address();
    let file = run.disk.root().join("known");
    let node = machine("node-1", 1);
    let told = Arc::new(Mutex::new(Vec::new()));
    let (ready, go) = (rt::Shutdown::new(), rt::Shutdown::new());
    let following = {
        let (told, ready, go) = (told.clone(), ready.clone(), go.clone());
        node.spawn(async move {
            let c: Arc<dyn Coordinator> = Arc::new(client(address, file));
            contract::write(&*c, vec![contract::put("table", "1")]).await;
            let mut watch = c.watch("table", 0);
            ready.trigger();
            go.wait().await;
            for i in 2..10 {
                contract::write(&*c, vec![contract::put("table", &i.to_string())]).await;
            }
            // It sees the new values, then is told that the history it follows is not that of this etcd.
            let compacted = loop {
                match watch.next().await {
                    Ok(events) => told.lock().unwrap().extend(events),
                    Err(vectorsphere::coordination::WatchError::Compacted { oldest }) => break oldest,
                    Err(_) => {}
                }
            };
            let listed = c.list("table").await.expect("it is there");
            assert_eq!((&listed.entries[0].value[..], listed.revision), (&b"1"[..], compacted));
            sometimes!(true, "a client found an etcd of the past");
        })
    };
    ready.wait().await;
    etcd.back_up().await;
    go.trigger();
    time::sleep(Duration::from_secs(5)).await;
    etcd.restore().await;
    let done = time::timeout(Duration::from_secs(60), following).await;
    done.expect("the watch was told").expect("no panic");
    assert_eq!(told.lock().unwrap().len(), 9);
    world::count("ops.ok", 10);
}
