//! How long three nodes with the defaults' election are without a master when the one they have is stopped, is killed, or falls
//! silent: in the embedded coordinator and in a real etcd. Figures, not promises, run by hand with the command at the first of them.

use super::{
    TABLE,
    figures::spread,
    life,
    members::{Members, has_etcd},
    retried,
};
use crate::{client::Rest, processes::Cluster};
use http::{Method, Request};
use http_body_util::Full;
use std::time::{Duration, Instant};
use vectorsphere::rt::http::client::Client;

const ROUNDS: usize = 32;
/// How long a cluster is left alone before it is struck: who was away stands again.
const BETWEEN: Duration = Duration::from_millis(1_500);
/// Between two questions to the nodes that are left.
const EVERY: Duration = Duration::from_millis(2);
/// What the design allows after a crash.
const WISH: Duration = Duration::from_millis(1_500);
/// Without a master for so long something is broken, and there is nothing to measure.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of the master.
#[derive(Clone, Copy)]
enum Blow {
    Stopped,
    Killed,
    Silenced,
}

impl Blow {
    fn name(self) -> &'static str {
        match self {
            Blow::Stopped => "stopped (SIGTERM)",
            Blow::Killed => "killed (SIGKILL)",
            Blow::Silenced => "silent (SIGSTOP)",
        }
    }

    fn strike(self, cluster: &mut Cluster, i: usize) {
        match self {
            Blow::Stopped => cluster.signal(i, "TERM"),
            Blow::Killed => cluster.kill(i),
            Blow::Silenced => cluster.signal(i, "STOP"),
        }
    }

    /// Brings the node back.
    async fn mend(self, cluster: &mut Cluster, i: usize) {
        match self {
            Blow::Stopped => {
                let ended = cluster.wait_until_it_ends(i).await;
                assert!(ended.success(), "node {i} stopped with {ended}");
                cluster.restart(i);
            }
            Blow::Killed => cluster.restart(i),
            Blow::Silenced => cluster.signal(i, "CONT"),
        }
        cluster.wait_until_one_is_ready(i).await;
    }
}

/// What a node's own metrics tell of the election.
#[derive(Clone, Copy)]
struct Told {
    term: f64,
    /// How long it saw nobody reign before the last change.
    gap: Duration,
}

async fn told(node: &Client) -> Option<Told> {
    let request = Request::builder().uri("/metrics").body(Full::default()).expect("a request");
    let answer = node.request(request).await.ok()?;
    let text = String::from_utf8_lossy(answer.body());
    let figure = |name| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    let gap = Duration::from_secs_f64(figure("vectorsphere_election_gap_seconds ")?);
    Some(Told { term: figure("vectorsphere_election_term ")?, gap })
}

/// A cluster, and all that is asked of it.
struct Watched {
    cluster: Cluster,
    ids: Vec<String>,
    metrics: Vec<Client>,
}

impl Watched {
    async fn of(cluster: Cluster) -> Watched {
        let mut ids = Vec::new();
        for i in 0..cluster.len() {
            ids.push(life::id(&cluster, i, 0).await);
        }
        let metrics = (0..cluster.len()).map(|i| Client::new(cluster.monitoring(i))).collect();
        Watched { cluster, ids, metrics }
    }

    /// The master, once all of these nodes name the same one, and it is not `other`.
    async fn master(&self, nodes: &[usize], other: Option<usize>) -> usize {
        let begun = Instant::now();
        loop {
            let mut named = Vec::new();
            for i in nodes {
                let node = Rest::new(&self.cluster.http(*i), TABLE);
                let status = retried(|| node.call(Method::GET, "/api/v1/cluster/status", None)).await;
                named.push(self.ids.iter().position(|id| status["master"] == id.as_str()));
            }
            match named[0] {
                Some(one) if named.iter().all(|other| *other == Some(one)) && other != Some(one) => return one,
                _ => assert!(begun.elapsed() < PATIENCE, "the master is {named:?}, not {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// When the first of these nodes sees a reign after `term`, and the longest that any of them saw nobody reign.
    async fn next_reign(&self, nodes: &[usize], term: f64) -> (Instant, Duration) {
        let (begun, mut first) = (Instant::now(), None);
        loop {
            let mut gaps = Vec::new();
            for i in nodes {
                if let Some(told) = told(&self.metrics[*i]).await.filter(|told| told.term > term) {
                    first.get_or_insert_with(Instant::now);
                    gaps.push(told.gap);
                }
            }
            if let (Some(first), true) = (first, gaps.len() == nodes.len()) {
                return (first, gaps.into_iter().max().unwrap_or_default());
            }
            assert!(begun.elapsed() < PATIENCE, "no other master");
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Strikes the master; which node that was, how long it took until a node that is left saw the next reign, and how long nobody reigned
    /// by their count.
    async fn strike(&mut self, blow: Blow) -> (usize, Duration, Duration) {
        let all: Vec<usize> = (0..self.cluster.len()).collect();
        let master = self.master(&all, None).await;
        let left: Vec<usize> = all.into_iter().filter(|i| *i != master).collect();
        let before = told(&self.metrics[left[0]]).await.expect("it answers").term;
        let struck = Instant::now();
        blow.strike(&mut self.cluster, master);
        let (seen, gap) = self.next_reign(&left, before).await;
        // By what anybody is told, too, another one reigns.
        self.master(&left, Some(master)).await;
        (master, seen - struck, gap)
    }
}

/// Which cluster is struck.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    /// One, again and again: the embedded coordinator soon has its leader on the node that is never master.
    Same,
    /// Each time another that has just begun: there the master often leads the coordinator, too.
    New,
}

async fn measure(coordinator: &str, which: Which, etcd: &[String]) {
    let mut watched = Watched::of(begin(etcd).await).await;
    for blow in [Blow::Stopped, Blow::Killed, Blow::Silenced] {
        let (mut waits, mut gaps) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            tokio::time::sleep(BETWEEN).await;
            let (master, wait, gap) = watched.strike(blow).await;
            waits.push(wait);
            gaps.push(gap);
            match which {
                Which::Same => blow.mend(&mut watched.cluster, master).await,
                Which::New => watched = Watched::of(begin(etcd).await).await,
            }
        }
        let late = waits.iter().filter(|wait| **wait > WISH).count();
        println!("{coordinator}, the master {}: {late} of {ROUNDS} later than {WISH:?}", blow.name());
        spread("  until another node sees the next reign", waits);
        spread("  nobody reigned, by the metrics of the nodes left", gaps);
    }
}

async fn begin(etcd: &[String]) -> Cluster {
    let mut cluster = Cluster::prepare(3, etcd.to_vec());
    (0..3).for_each(|i| cluster.restart(i));
    cluster.wait_until_ready().await;
    cluster
}

/// `cargo test --release --test cluster elections -- --ignored --nocapture --test-threads=1`
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster elections -- --ignored --nocapture --test-threads=1"]
async fn the_master_goes_where_nodes_coordinate_themselves() {
    measure("embedded coordinator", Which::Same, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster elections -- --ignored --nocapture --test-threads=1"]
async fn the_first_master_goes_where_nodes_coordinate_themselves() {
    measure("embedded coordinator, a new cluster", Which::New, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster elections -- --ignored --nocapture --test-threads=1"]
async fn the_master_goes_where_nodes_meet_in_etcd() {
    if !has_etcd("the_master_goes_where_nodes_meet_in_etcd") {
        return;
    }
    let etcd = Members::start(1);
    measure("etcd", Which::Same, &etcd.clients).await;
}
