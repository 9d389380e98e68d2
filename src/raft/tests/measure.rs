//! Figures, not promises: `cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1`.

use super::ledger::Memo;
use super::network::{Faults, Network, join};
use super::*;
use crate::telemetry::metrics::ProcessUse;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seconds of processor time of this process, and its resident MiB.
fn used() -> (f64, u64) {
    let now = ProcessUse::now().unwrap();
    (now.cpu_seconds, now.resident_bytes >> 20)
}

async fn load(groups: &[Group<LogIndex>], clients: usize, bytes: usize) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let until = rt::time::now() + Duration::from_secs(5);
    let clients = (0..clients).map(|client| {
        let (group, done) = (groups[client % groups.len()].clone(), done.clone());
        rt::spawn("client", async move {
            while rt::time::now() < until {
                if group.propose(Bytes::from(vec![b'x'; bytes])).await.is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    let (cpu, _) = used();
    let started = rt::time::now();
    join_all(clients).await;
    let (after, memory) = used();
    let seconds = started.elapsed().as_secs_f64();
    let rate = done.load(Ordering::Relaxed) as f64 / seconds;
    println!("  {rate:.0} writes/s, {:.0} % of a core, {memory} MiB", (after - cpu) / seconds * 100.0);
    rate
}

#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn one_group_alone() {
    for clients in [1, 16, 256] {
        run(async move {
            let directory = tempfile::tempdir().unwrap();
            let log = open_log(directory.path());
            let path = Arc::from(directory.path());
            let raft = MultiRaft::start(NODE, log, None, Arc::new(Nobody), path, RaftOptions::default());
            let group = raft.open(GROUP, &[NODE], Memo::default()).await.unwrap();
            println!("one group, one voter, {clients} clients, 1 KiB:");
            load(&[group], clients, 1024).await;
            println!("  {:?}", raft.log_stats().totals());
        });
    }
}

#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn one_group_of_three() {
    for clients in [1, 256] {
        run(async move {
            let cluster = super::network::Cluster::start(3, 1, RaftOptions::default(), Faults::default()).await;
            let leader = cluster.leader().await;
            println!("one group, three voters, {clients} clients, 128 B:");
            load(&[cluster.groups[&leader].clone()], clients, 128).await;
            let reads = AtomicU64::new(0);
            let until = rt::time::now() + Duration::from_secs(2);
            join_all((0..64).map(|reader| {
                let (group, reads) = (&cluster.groups[&(reader % 3 + 1)], &reads);
                async move {
                    while rt::time::now() < until {
                        group.read_index().await.unwrap();
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }))
            .await;
            println!("  64 readers on all three: {} read indices/s", reads.into_inner() / 2);
        });
    }
}

/// A thousand groups on three nodes, opened and led; `machine` makes their machines. What is in the directories goes with them.
struct Thousand {
    nodes: Vec<MultiRaft>,
    groups: Vec<Vec<Group<LogIndex>>>,
    _directories: Vec<tempfile::TempDir>,
}

impl Thousand {
    async fn open<M: StateMachine<Outcome = LogIndex>>(options: RaftOptions, machine: impl Fn() -> M) -> Thousand {
        let network = Network::new(1, Faults::default());
        let mut nodes = Vec::new();
        let started = rt::time::now();
        let directories: Vec<_> = (1..=3).map(|_| tempfile::tempdir().unwrap()).collect();
        for node in 1..=3 {
            let directory = directories[node as usize - 1].path();
            nodes.push(join(&network, node, open_log(directory), directory, options));
        }
        let machine = &machine;
        let opened = nodes
            .iter()
            .map(|raft| async move { join_all((1..=1000).map(|group| raft.open(group, &[1, 2, 3], machine()))).await });
        let groups: Vec<Vec<Group<LogIndex>>> =
            join_all(opened).await.into_iter().map(|all| all.into_iter().map(Result::unwrap).collect()).collect();
        println!("1,000 groups on three nodes opened after {:?}", started.elapsed());
        let opened = Thousand { nodes, groups, _directories: directories };
        while opened.leaders().len() < 1000 {
            rt::time::sleep(Duration::from_millis(10)).await;
        }
        let led = |all: &Vec<Group<LogIndex>>| all.iter().filter(|group| group.is_leader()).count();
        let spread: Vec<usize> = opened.groups.iter().map(led).collect();
        println!("elected after {:?}, by node {spread:?}", started.elapsed());
        opened
    }

    fn leaders(&self) -> Vec<Group<LogIndex>> {
        self.groups.iter().flatten().filter(|group| group.is_leader()).cloned().collect()
    }

    /// A figure with a failed group in it is none.
    fn check(&self) {
        assert_eq!(self.groups.iter().flatten().find_map(Group::failure), None);
    }
}

#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn a_thousand_groups_of_three() {
    run(async {
        let (_, before) = used();
        let thousand = Thousand::open(RaftOptions::default(), Memo::default).await;
        rt::time::sleep(Duration::from_secs(6)).await;
        let (cpu, _) = used();
        rt::time::sleep(Duration::from_secs(10)).await;
        let (after, memory) = used();
        println!("idle: {:.1} % of a core and {} MiB for all three", (after - cpu) * 10.0, memory - before);
        for clients in [256, 2000] {
            println!("{clients} clients over 1,000 groups, 128 B:");
            load(&thousand.leaders(), clients, 128).await;
            thousand.check();
        }
    });
}

/// Applies by forgetting.
#[derive(Default)]
struct Forgetful {
    applied: LogIndex,
}

impl StateMachine for Forgetful {
    type Outcome = LogIndex;

    fn applied(&self) -> LogIndex {
        self.applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<LogIndex>, ApplyError> {
        self.applied = entries.last().map_or(self.applied, |entry| entry.index);
        Ok(entries.iter().map(|entry| entry.index).collect())
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        Ok(self.applied)
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        Err(ApplyError::Checkpoint { at: self.applied, problem: "it is forgotten".into() })
    }

    fn install(&mut self, at: LogIndex, _: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        Err(ApplyError::Checkpoint { at, problem: "it would be forgotten".into() })
    }
}

/// In this order, because freed memory stays with the process.
#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn what_a_thousand_groups_hold_under_load() {
    for (what, cache_bytes_max, keeps) in [
        ("nothing kept, no cache of the log", 0, false),
        ("nothing kept, the usual cache", 1 << 20, false),
        ("machines that keep all entries", 1 << 20, true),
    ] {
        run(async move {
            let options = RaftOptions { cache_bytes_max, ..RaftOptions::default() };
            let thousand = match keeps {
                true => Thousand::open(options, Memo::default).await,
                false => Thousand::open(options, Forgetful::default).await,
            };
            println!("{what}: {} MiB before", used().1);
            load(&thousand.leaders(), 2000, 128).await;
            thousand.check();
            for raft in &thousand.nodes {
                raft.stop().await;
            }
        });
    }
}

/// The value at a share of sorted ones.
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn spread(what: &str, mut ms: Vec<f64>) {
    ms.sort_by(f64::total_cmp);
    let (median, late, most) = (at(&ms, 0.5), at(&ms, 0.99), at(&ms, 1.0));
    println!("{what}: {} times, median {median:.1} ms, 99th {late:.1} ms, at most {most:.1} ms", ms.len());
}

#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn transfers_of_a_leader_under_load() {
    run(async {
        let cluster = super::network::Cluster::start(3, 1, RaftOptions::default(), Faults::default()).await;
        let stop = Arc::new(AtomicU64::new(0));
        for group in cluster.groups.values() {
            let (group, stop) = (group.clone(), stop.clone());
            rt::spawn("client", async move {
                while stop.load(Ordering::Relaxed) == 0 {
                    if group.propose(Bytes::from_static(&[b'x'; 128])).await.is_err() {
                        rt::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        }
        let mut took = Vec::new();
        for _ in 0..40 {
            rt::time::sleep(Duration::from_millis(100)).await;
            let leader = cluster.leader().await;
            let to = leader % 3 + 1;
            let began = rt::time::now();
            cluster.groups[&leader].transfer_leader(to).await.unwrap();
            while cluster.groups[&to].propose(Bytes::from_static(b"after")).await.is_err() {
                rt::time::sleep(Duration::from_micros(200)).await;
            }
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        stop.store(1, Ordering::Relaxed);
        spread("from the call to a write acknowledged by the new leader", took);
    });
}

#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn how_far_followers_lag_under_load() {
    run(async {
        let cluster = super::network::Cluster::start(3, 1, RaftOptions::default(), Faults::default()).await;
        let leader = cluster.leader().await;
        let follower = cluster.groups[&(leader % 3 + 1)].clone();
        let leading = cluster.groups[&leader].clone();
        let lag = rt::spawn("lag", async move {
            let mut lag = Vec::new();
            let until = rt::time::now() + Duration::from_secs(5);
            while rt::time::now() < until {
                // From when the leader has applied an entry to when the follower has.
                let index = leading.applied();
                let began = rt::time::now();
                follower.wait_applied(index).await.unwrap();
                lag.push(began.elapsed().as_secs_f64() * 1e3);
                rt::time::sleep(Duration::from_millis(2)).await;
            }
            lag
        });
        load(&[cluster.groups[&leader].clone()], 256, 128).await;
        spread("lag of a follower behind the leader's state", lag.await.unwrap());
    });
}

/// Latency of writes one after the other, ms, while `busy`.
async fn latencies(group: &Group<LogIndex>, busy: impl Fn() -> bool) -> Vec<f64> {
    let mut took = Vec::new();
    while busy() {
        let began = rt::time::now();
        group.propose(Bytes::from_static(&[b'x'; 128])).await.unwrap();
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took
}

#[test]
#[ignore = "a measurement: cargo test --release --lib raft::tests::measure -- --ignored --nocapture --test-threads=1"]
fn a_follower_far_behind_catches_up() {
    const MIB: usize = 1024;
    for (what, keep_bytes_max) in [("by its log", 4 << 30), ("by a checkpoint", 1 << 20)] {
        run(async move {
            let options = RaftOptions { keep_bytes_max, ..RaftOptions::default() };
            let mut cluster = super::network::Cluster::start(3, 1, options, Faults::default()).await;
            let leader = cluster.leader().await;
            let behind = leader % 3 + 1;
            cluster.kill(behind, true);
            let group = cluster.groups[&leader].clone();
            // The test's machines give an entry as a chunk of a checkpoint, with eight bytes before it.
            for _ in 0..MIB / 16 {
                let some = (0..32).map(|_| group.propose(Bytes::from(vec![b'x'; 1 << 19])));
                assert!(join_all(some).await.iter().all(Result::is_ok));
            }
            let until = rt::time::now() + Duration::from_secs(3);
            let quiet = latencies(&group, || rt::time::now() < until).await;
            let (target, began) = (group.applied(), rt::time::now());
            cluster.start_node(behind).await;
            let late = cluster.groups[&behind].clone();
            let busy = latencies(&group, || late.applied() < target).await;
            let seconds = began.elapsed().as_secs_f64();
            println!("1 GiB behind, {what}: {seconds:.1} s, {:.0} MiB/s", MIB as f64 / seconds);
            spread("  commits before", quiet);
            spread("  commits while it catches up", busy);
        });
    }
}
