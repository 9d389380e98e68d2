//! How long writes wait when the leader's process is killed, or stops answering: figures, not promises, run by
//! hand with the command at the first of them.

use super::{TABLE, leader, retried};
use crate::{client::Rest, processes::Cluster};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const ROUNDS: usize = 32;
/// How long a leader is left alone.
const BETWEEN: Duration = Duration::from_millis(400);
const ATTEMPT: Duration = Duration::from_millis(250);

/// When writes were acknowledged, by a client that sends each again, to another node, until it is.
type Acknowledged = Arc<Mutex<Vec<(Instant, Instant)>>>;

async fn write(nodes: Vec<Rest>, first: u64, stop: Arc<AtomicBool>, acknowledged: Acknowledged) {
    let (mut node, mut value) = (0, first);
    while !stop.load(SeqCst) {
        let began = Instant::now();
        loop {
            let document = [(value % 100, value)];
            let put = nodes[node].put(&document, None);
            if matches!(tokio::time::timeout(ATTEMPT, put).await, Ok(Ok(_))) {
                break;
            }
            node = (node + 1) % nodes.len();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        acknowledged.lock().expect("no panic while locked").push((began, Instant::now()));
        value += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn spread(what: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize].as_millis();
    println!("{what}: {} times, median {} ms, 99th {} ms, at most {} ms", waits.len(), at(0.5), at(0.99), at(1.0));
}

type Act = fn(&mut Cluster, usize);

async fn measure(what: &str, away: Duration, strike: Act, mend: Act) {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    nodes[0].create(2, 1).await.expect("a table");
    retried(|| nodes[1].put(&[(1, 1)], None)).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let writers: Vec<_> = (0..3u64)
        .map(|writer| {
            let mut nodes = nodes.clone();
            nodes.rotate_left(writer as usize);
            tokio::spawn(write(nodes, writer * 1_000_000, stop.clone(), acknowledged.clone()))
        })
        .collect();
    let (mut again, mut longest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        tokio::time::sleep(BETWEEN).await;
        let Some(leading) = leader(&cluster).await else { continue };
        let struck = Instant::now();
        strike(&mut cluster, leading);
        tokio::time::sleep(away).await;
        mend(&mut cluster, leading);
        cluster.wait_until_one_is_ready(leading).await;
        let all = acknowledged.lock().expect("no panic while locked");
        // The first write that was begun after the blow, and what the unluckiest one took that was under way.
        let first = all.iter().filter(|(began, _)| *began >= struck).map(|(_, end)| *end - struck).min();
        again.push(first.unwrap_or_else(|| struck.elapsed()));
        longest.extend(all.iter().filter(|(_, end)| *end >= struck).map(|(began, end)| *end - *began).max());
    }
    stop.store(true, SeqCst);
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    spread(&format!("{what}, until a later write is acknowledged"), again);
    spread("  the slowest write, retries included", longest);
}

/// `cargo test --release --test cluster figures -- --ignored --nocapture --test-threads=1`
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster figures -- --ignored --nocapture --test-threads=1"]
async fn a_leader_is_killed() {
    measure("leader killed", Duration::from_millis(800), Cluster::kill, Cluster::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: cargo test --release --test cluster figures -- --ignored --nocapture --test-threads=1"]
async fn a_leader_falls_silent() {
    let (stop, go) =
        (|cluster: &mut Cluster, i| cluster.signal(i, "STOP"), |cluster: &mut Cluster, i| cluster.signal(i, "CONT"));
    measure("leader stopped", Duration::from_millis(2_200), stop, go).await;
}
