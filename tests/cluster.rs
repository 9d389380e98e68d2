//! Three real nodes on loopback, as a user would start them: they form a cluster, answer on every node, lose no acknowledged
//! write and stay linearizable while their leaders are killed with SIGKILL in a loop. The history is judged by the checker the
//! simulation uses, and kept as EDN.

#![allow(clippy::disallowed_methods)] // real processes under a real clock, from outside

#[path = "../sim/workload/answer.rs"]
#[allow(dead_code)]
mod answer;
#[path = "../sim/check/mod.rs"]
#[allow(dead_code)]
mod check;
#[path = "cluster/client.rs"]
mod client;
#[path = "cluster/figures.rs"]
mod figures;
#[path = "cluster/processes.rs"]
mod processes;

use check::{
    export,
    history::{History, Outcome},
    register::{self, Answer, Call},
    wgl::STEPS_MAX,
};
use client::{Failure, Reply, Rest};
use http::Method;
use processes::Cluster;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const TABLE: &str = "things";
const KEYS: u64 = 8;
const CLIENTS: u64 = 5;
/// Leaders killed, and how long a killed node stays down.
const KILLS: usize = 6;
const DOWN: Duration = Duration::from_millis(700);
const BETWEEN_KILLS: Duration = Duration::from_millis(1_500);

type Shared = Arc<Mutex<History<Call, Answer>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_and_what_one_took_all_have() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    nodes[0].create(2, 2).await.expect("a table");
    for id in 0..60 {
        // A node may hear of the new table a moment later than the one that made it.
        let point = [(id, id)];
        retried(|| nodes[id as usize % 3].put(&point, None)).await;
    }
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(node.get(7).await.expect("a read").map(|(value, _)| value), Some(7), "node {i}");
        assert_eq!(node.search(42, 1).await.expect("a search"), [42], "node {i}");
    }
    cluster.kill(1);
    for id in 100..140 {
        let point = [(id, id)];
        retried(|| nodes[0].put(&point, None)).await;
    }
    cluster.restart(1);
    cluster.wait_until_ready().await;
    let one = Rest::new(&cluster.http(1), TABLE);
    assert_eq!(one.search(139, 1).await.expect("a search"), [139], "a node that was away has caught up");
    let verified = retried(|| one.call(Method::POST, "/api/v1/cluster/verify", Some(json!({})))).await;
    assert_eq!(verified["equal"], json!(true), "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_lose_nothing_and_reads_stay_linearizable() {
    let mut cluster = Cluster::start(3).await;
    retried(|| async {
        let created = Rest::new(&cluster.http(0), TABLE).create(2, 1).await;
        created.map(drop).or_else(|failure| if matches!(failure, Failure::Conflict) { Ok(()) } else { Err(failure) })
    })
    .await;
    let history: Shared = Arc::new(Mutex::new(History::new(CLIENTS)));
    let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let values = Arc::new(AtomicU64::new(1));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|process| {
            let nodes = (0..3).map(|i| Rest::new(&cluster.http((process as usize + i) % 3), TABLE)).collect();
            let worker = Worker { nodes, history: history.clone(), begun, values: values.clone(), stop: stop.clone() };
            tokio::spawn(worker.run(process))
        })
        .collect();
    for round in 0..KILLS {
        tokio::time::sleep(BETWEEN_KILLS).await;
        let leader = leader(&cluster).await.unwrap_or(round % 3);
        cluster.kill(leader);
        tokio::time::sleep(DOWN).await;
        cluster.restart(leader);
        cluster.wait_until_one_is_ready(leader).await;
    }
    tokio::time::sleep(BETWEEN_KILLS).await;
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("no client panics");
    }
    cluster.wait_until_ready().await;
    close(&cluster, &history, begun).await;
    judge(&history);
}

/// The node that leads the first shard of the table, as any node sees it.
async fn leader(cluster: &Cluster) -> Option<usize> {
    for i in 0..cluster.len() {
        let node = Rest::new(&cluster.http(i), TABLE);
        let Ok(stats) = node.call(Method::GET, &format!("/api/v1/tables/{TABLE}/stats"), None).await else { continue };
        if stats["shards"][0]["role"] == "leader" {
            return Some(i);
        }
    }
    None
}

/// One client: random operations on a few documents, on its own node as long as that answers.
struct Worker {
    nodes: Vec<Rest>,
    history: Shared,
    begun: Instant,
    values: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    async fn run(self, mut process: u64) {
        let mut rng = StdRng::seed_from_u64(process);
        let (mut node, mut versions) = (0, BTreeMap::new());
        while !self.stop.load(SeqCst) {
            let call = self.draw(&mut rng, &versions);
            let open = self.with(|history, now| history.start(process, now, call.clone()));
            let outcome = perform(&self.nodes[node], &call, &mut versions).await;
            let unknown = matches!(outcome, Outcome::Unknown(_));
            if !matches!(outcome, Outcome::Ok(_)) {
                node = (node + 1) % self.nodes.len();
            }
            self.with(|history, now| history.end(open, now, outcome));
            if unknown {
                process = self.with(|history, _| history.retire());
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..12))).await;
        }
    }

    fn draw(&self, rng: &mut StdRng, versions: &BTreeMap<u64, u64>) -> Call {
        let (key, value) = (rng.random_range(0..KEYS), self.values.fetch_add(1, SeqCst));
        match rng.random_range(0..100) {
            0..45 => Call::Get { key },
            45..75 => Call::Put { key, value, if_version: None },
            75..90 => Call::Put { key, value, if_version: Some(versions.get(&key).copied().unwrap_or(0)) },
            _ => Call::Delete { key },
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut History<Call, Answer>, u64) -> T) -> T {
        let now = self.begun.elapsed().as_nanos() as u64;
        change(&mut self.history.lock().expect("no panic while locked"), now)
    }
}

async fn perform(node: &Rest, call: &Call, versions: &mut BTreeMap<u64, u64>) -> Outcome<Answer> {
    let answer = match call {
        Call::Get { key } => node.get(*key).await.map(|found| match found {
            Some((value, version)) => {
                versions.insert(*key, version);
                Answer::Found { value, version }
            }
            None => Answer::Absent,
        }),
        Call::Put { key, value, if_version } => match node.put(&[(*key, *value)], *if_version).await {
            Ok(version) => {
                versions.insert(*key, version);
                Ok(Answer::Written { version })
            }
            Err(Failure::Conflict) if if_version.is_some() => Ok(Answer::Conflict),
            Err(failure) => Err(failure),
        },
        Call::Delete { key } => node.delete(*key).await.map(|existed| Answer::Deleted { existed }),
    };
    match answer {
        Ok(answer) => Outcome::Ok(answer),
        Err(Failure::Unknown(why)) if !matches!(call, Call::Get { .. }) => Outcome::Unknown(why),
        Err(Failure::Unknown(why) | Failure::Refused(why)) => Outcome::Failed(why),
        Err(Failure::Conflict) => Outcome::Failed("conflict".to_owned()),
    }
}

/// At rest every node answers, and all the same.
async fn close(cluster: &Cluster, history: &Shared, begun: Instant) {
    let now = || begun.elapsed().as_nanos() as u64;
    for i in 0..cluster.len() {
        let node = Rest::new(&cluster.http(i), TABLE);
        for key in 0..KEYS {
            let process = history.lock().unwrap().retire();
            let open = history.lock().unwrap().start(process, now(), Call::Get { key });
            let found = retried(|| node.get(key)).await;
            let answer = found.map_or(Answer::Absent, |(value, version)| Answer::Found { value, version });
            history.lock().unwrap().end(open, now(), Outcome::Ok(answer));
        }
    }
}

fn judge(history: &Shared) {
    let history = history.lock().unwrap();
    let (ok, failed, unknown) = history.counts();
    let events = export::events(&history);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed-leaders.edn");
    std::fs::write(&path, export::to_edn(&events)).expect("the history is kept");
    println!("{ok} ok, {failed} failed, {unknown} unknown; history: {}", path.display());
    let gap = longest_gap(&history);
    println!("longest time without a successful write: {gap:?}");
    assert!(ok > 500 && unknown * 2 < ok, "a vacuous run: {ok} ok, {failed} failed, {unknown} unknown");
    register::check(&history, STEPS_MAX).unwrap_or_else(|problem| panic!("{problem}"));
}

/// The longest time between two successful writes.
fn longest_gap(history: &History<Call, Answer>) -> Duration {
    let mut ends: Vec<u64> = history
        .operations
        .iter()
        .filter(|operation| matches!(operation.answer(), Some(Answer::Written { .. })))
        .filter_map(|operation| operation.end.as_ref().map(|(stamp, _)| stamp.time_ns))
        .collect();
    ends.sort_unstable();
    let gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    Duration::from_nanos(gap)
}

/// The answer of a call that is repeated while the cluster is between two leaders.
async fn retried<T, F: Future<Output = Reply<T>>>(call: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(failure) => assert!(begun.elapsed() < Duration::from_secs(30), "no answer in time: {failure:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
