//! The load itself: a closed loop of workers, each with one kept connection, each sending its next request when the last is answered.
//! Requests are written before their clock starts; recall is counted after it stops. Called by `bench`.

use super::{histogram::Histogram, truth::hits};
use crate::{
    cli::{
        client::{ApiClient, DocumentsBody, Found, plain},
        import::{
            batch::encode,
            row::{Record, RowId},
        },
    },
    rt::{
        self, Shutdown,
        time::{self, Instant},
    },
};
use bytes::Bytes;
use rand::Rng as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// After this many errors in a row a worker gives up.
const ERRORS_IN_A_ROW_MAX: u32 = 50;

/// What every worker does.
#[derive(Debug)]
pub struct Plan {
    pub table: String,
    pub dimension: usize,
    pub k: usize,
    /// Bodies of the searches, and the true neighbours of their queries where known.
    pub searches: Vec<Bytes>,
    pub truth: Vec<Vec<u64>>,
    /// Share of the requests that insert, from 0 (searches only) to 1.
    pub insert_share: f64,
    pub insert_batch: usize,
    pub first_id: u64,
    /// Requests of all workers together; `u64::MAX` for no bound.
    pub requests: u64,
    pub duration: Duration,
    pub warm_up: Duration,
}

/// What the workers found.
#[derive(Debug, Default)]
pub struct Measured {
    pub search: Histogram,
    pub insert: Histogram,
    pub inserted: u64,
    pub true_hits: u64,
    pub true_neighbours: u64,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Measured {
    fn merge(&mut self, other: Measured) {
        self.search.merge(&other.search);
        self.insert.merge(&other.insert);
        self.inserted += other.inserted;
        self.true_hits += other.true_hits;
        self.true_neighbours += other.true_neighbours;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// Runs `workers` workers until the requests are used up, the time is, or `stop` is triggered. Returns what was measured after the warm-up
/// and how long that took.
pub async fn run(
    client: &ApiClient,
    plan: Plan,
    workers: u32,
    stop: &Shutdown,
) -> Result<(Measured, Duration), rt::TaskFailed> {
    let shared = Arc::new(Turns { next: AtomicU64::new(0), next_id: AtomicU64::new(plan.first_id), plan });
    let begin = time::now() + shared.plan.warm_up;
    let end = begin + shared.plan.duration;
    let tasks: Vec<_> = (0..workers)
        .map(|_| rt::spawn("bench.worker", work(client.apart(), shared.clone(), begin, end, stop.clone())))
        .collect();
    let mut measured = Measured::default();
    for task in tasks {
        measured.merge(task.await?);
    }
    Ok((measured, time::now() - begin))
}

/// What workers take from.
struct Turns {
    /// Requests measured so far.
    next: AtomicU64,
    next_id: AtomicU64,
    plan: Plan,
}

async fn work(client: ApiClient, turns: Arc<Turns>, begin: Instant, end: Instant, stop: Shutdown) -> Measured {
    let mut measured = Measured::default();
    let mut rng = rt::rng::stream("cli.bench");
    let mut errors_in_a_row = 0;
    while !stop.is_triggered() && time::now() < end && errors_in_a_row < ERRORS_IN_A_ROW_MAX {
        let counts = time::now() >= begin;
        let turn = if counts { turns.next.fetch_add(1, Ordering::Relaxed) } else { rng.random_range(0..u64::MAX) };
        if counts && turn >= turns.plan.requests {
            break;
        }
        let inserts = rng.random_bool(turns.plan.insert_share);
        let done =
            if inserts { insert(&client, &turns, &mut rng).await } else { search(&client, &turns.plan, turn).await };
        errors_in_a_row = if done.is_ok() { 0 } else { errors_in_a_row + 1 };
        if counts {
            measured.count(done);
        }
    }
    measured
}

enum Done {
    Search { took: Duration, true_hits: usize, true_neighbours: usize },
    Insert { took: Duration, documents: usize },
}

impl Measured {
    fn count(&mut self, done: Result<Done, String>) {
        match done {
            Ok(Done::Search { took, true_hits, true_neighbours }) => {
                self.search.record(took);
                self.true_hits += true_hits as u64;
                self.true_neighbours += true_neighbours as u64;
            }
            Ok(Done::Insert { took, documents }) => {
                self.insert.record(took);
                self.inserted += documents as u64;
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }
}

async fn search(client: &ApiClient, plan: &Plan, turn: u64) -> Result<Done, String> {
    let at = (turn % plan.searches.len() as u64) as usize;
    let started = time::now();
    let answer = client.search_raw(&plan.table, plan.searches[at].clone()).await.map_err(|error| error.to_string())?;
    let took = started.elapsed();
    let (mut true_hits, mut true_neighbours) = (0, 0);
    if let Some(truth) = plan.truth.get(at) {
        let found: Found =
            serde_json::from_slice(&answer).map_err(|error| format!("an answer that is no search result: {error}"))?;
        let ids: Vec<String> = found.results.iter().map(|hit| plain(&hit.document_id)).collect();
        (true_hits, true_neighbours) = (hits(&ids, truth, plan.k), plan.k.min(truth.len()));
    }
    Ok(Done::Search { took, true_hits, true_neighbours })
}

async fn insert(client: &ApiClient, turns: &Turns, rng: &mut rt::rng::Rng) -> Result<Done, String> {
    let plan = &turns.plan;
    let first = turns.next_id.fetch_add(plan.insert_batch as u64, Ordering::Relaxed);
    let body = random_documents(first, plan.insert_batch, plan.dimension, rng);
    let started = time::now();
    client.add_documents(&plan.table, body).await.map_err(|error| error.to_string())?;
    Ok(Done::Insert { took: started.elapsed(), documents: plan.insert_batch })
}

/// A binary body of random vectors, uniform in the cube: what they are does not matter to a write.
fn random_documents(first_id: u64, count: usize, dimension: usize, rng: &mut rt::rng::Rng) -> DocumentsBody {
    let mut record = |row: u64| {
        let vector = (0..dimension).map(|_| rng.random_range(-1.0f32..1.0)).collect();
        (row, Record { id: RowId::Number(first_id.wrapping_add(row)), vector, metadata: Default::default() })
    };
    let records: Vec<(u64, Record)> = (0..count as u64).map(&mut record).collect();
    encode(&records)
}
