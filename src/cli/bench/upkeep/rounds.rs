//! The rounds of the upkeep measurement: threads that search, write and keep up one index behind a lock, as a shard does; and the
//! judgement when they rest. Called by `upkeep`.

use super::{Round, world::World};
use crate::{
    cli::bench::histogram::Histogram,
    index::{
        Adoption, FilingJob, Hit, IndexSpec, Points, Rearranged, ReshapeJob, RowSource, RowVisitor, Scratch,
        SearchParams, SourceError, TrainOptions, VectorIndex, distance, train,
    },
    rt::{compute::parallel, time},
    types::PointId,
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{
    sync::{
        Condvar, Mutex, RwLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

const K: usize = 10;
/// Rows written under one hold of the lock, as a batch of a log would be.
const BATCH_ROWS: usize = 16;
/// How long searches are timed while nothing else happens.
const IDLE: Duration = Duration::from_millis(1_500);
/// How long a thread with nothing to do waits before it looks again.
const REST: Duration = Duration::from_millis(2);

/// How fast, and by how many threads.
#[derive(Clone, Copy)]
pub struct Pace {
    pub writes_per_second: u32,
    pub searchers: usize,
}

/// The index with the points it knows, and the version of each row.
struct Held {
    points: Points,
    index: VectorIndex,
    versions: Vec<u8>,
}

pub struct Experiment<'a> {
    world: &'a World,
    pace: Pace,
    held: RwLock<Held>,
    /// The order in which rows are replaced.
    order: Vec<u64>,
    replaced: usize,
    work: Work,
    idle: Histogram,
    busy: Searches,
}

/// What background work was done since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    trainings: usize,
    filings: usize,
    reshapings: usize,
    recalibrations: usize,
    moved_rows: usize,
    filed_rows: usize,
    copied_bytes: usize,
    longest_install: Duration,
}

/// Of one round: how long searches took, and the longest wait for the lock.
#[derive(Clone, Debug, Default)]
struct Searches {
    took: Histogram,
    longest_wait: Duration,
}

/// Says when the writer has ended; waited for, it is a rest that ends early.
#[derive(Default)]
struct Ended {
    flag: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Ended {
    fn is_set(&self) -> bool {
        self.flag.load(SeqCst)
    }

    fn set(&self) {
        self.flag.store(true, SeqCst);
        self.bell.notify_all();
    }

    fn rest(&self, at_most: Duration) {
        let guard = self.lock.lock().expect("invariant: nobody panics while holding it");
        if !self.is_set() {
            drop(self.bell.wait_timeout(guard, at_most));
        }
    }
}

/// Live rows of a moment.
struct View<'a> {
    world: &'a World,
    versions: Vec<u8>,
}

impl RowSource for View<'_> {
    fn rows_hint(&self) -> usize {
        self.versions.len()
    }

    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError> {
        for (row, &version) in (0..).zip(&self.versions) {
            visit(PointId::Num(row), u64::from(version), self.world.vector(row, u64::from(version)));
        }
        Ok(())
    }
}

impl<'a> Experiment<'a> {
    /// An index of the first vectors, trained.
    pub fn start(world: &'a World, pace: Pace, seed: u64) -> Result<Experiment<'a>, String> {
        let versions = vec![1; world.rows()];
        let held = build(world, &versions)?;
        let mut order: Vec<u64> = (0..world.rows() as u64).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let (idle, busy) = (Histogram::default(), Searches::default());
        let held = RwLock::new(held);
        Ok(Experiment { world, pace, held, order, replaced: 0, work: Work::default(), idle, busy })
    }

    /// Replaces rows until so many are, with searches and upkeep meanwhile; returns when the index is at rest.
    pub fn replace_up_to(&mut self, replaced: usize) -> Result<(), String> {
        let rows: Vec<u64> = self.order[self.replaced..replaced].to_vec();
        self.replaced = replaced;
        let stop = Ended::default();
        self.idle = self.search_for(IDLE, &stop).took;
        let (written, rested) = (Ended::default(), Ended::default());
        let this = &*self;
        let roles: Vec<usize> = (0..2 + self.pace.searchers).collect();
        let done = parallel(roles.len(), roles, |role| match role {
            0 => {
                this.write(&rows, &written);
                Done::Written
            }
            1 => Done::Kept(this.keep_up(&written, &rested)),
            _ => Done::Searched(Box::new(this.search_for(Duration::MAX, &rested))),
        });
        self.busy = Searches::default();
        for done in done {
            match done {
                Done::Written => {}
                Done::Kept(work) => self.work.add(work?),
                Done::Searched(searches) => self.busy.merge(&searches),
            }
        }
        Ok(())
    }

    fn write(&self, rows: &[u64], written: &Ended) {
        let started = time::now();
        let pause = Duration::from_secs(1) / self.pace.writes_per_second;
        for (batch, rows) in (1u32..).zip(rows.chunks(BATCH_ROWS)) {
            let mut held = self.held.write().expect(NO_PANIC);
            for &row in rows {
                let Held { points, index, versions } = &mut *held;
                index.upsert(points.put(PointId::Num(row), 2), self.world.vector(row, 2));
                versions[row as usize] = 2;
            }
            drop(held);
            let due = pause * batch * BATCH_ROWS as u32;
            written.rest(due.saturating_sub(started.elapsed()));
        }
        written.set();
    }

    /// Does what the index wants until the writer has ended and it wants nothing more.
    fn keep_up(&self, written: &Ended, rested: &Ended) -> Result<Work, String> {
        let mut work = Work::default();
        let outcome = loop {
            let ended = written.is_set();
            match self.work_once(&mut work) {
                Ok(true) => {}
                Ok(false) if ended => break Ok(work),
                Ok(false) => written.rest(REST),
                Err(error) => break Err(error),
            }
        };
        rested.set();
        outcome
    }

    /// One piece of work; whether there was any.
    fn work_once(&self, work: &mut Work) -> Result<bool, String> {
        let held = self.held.read().expect(NO_PANIC);
        let (training, filing) = (held.index.wants_training(), held.index.wants_filing());
        let reshaping = held.index.wants_reshaping();
        let recalibrating = held.index.wants_recalibration() && !reshaping && !filing;
        let recalibration_job = held.index.recalibration_job(&held.points).filter(|_| recalibrating);
        let filing_job = held.index.filing_job(&held.points).filter(|_| filing);
        let reshape_job = held.index.reshape_job().filter(|_| reshaping && !filing);
        drop(held);
        if training {
            work.trainings += 1;
            self.train(work)?;
        } else if let Some(job) = filing_job {
            work.filings += 1;
            work.filed_rows += job.tail_rows();
            let rearranged = FilingJob::run(job).expect(NO_FILE);
            work.copied_bytes += rearranged.written_bytes();
            self.install(rearranged, work);
        } else if let Some(job) = reshape_job {
            work.reshapings += 1;
            let rearranged = ReshapeJob::run(job).expect(NO_FILE);
            work.moved_rows += rearranged.moved_rows();
            self.install(rearranged, work);
        } else if let Some(job) = recalibration_job {
            work.recalibrations += 1;
            let recalibrated = job.run(1, &|| false).expect(NO_FILE);
            self.held.write().expect(NO_PANIC).index.install_recalibrated(recalibrated);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn install(&self, mut rearranged: Rearranged, work: &mut Work) {
        let mut held = self.held.write().expect(NO_PANIC);
        let started = time::now();
        held.index.install_rearranged(&mut rearranged);
        work.longest_install = work.longest_install.max(started.elapsed());
    }

    fn train(&self, work: &mut Work) -> Result<(), String> {
        let mut held = self.held.write().expect(NO_PANIC);
        held.index.training_started();
        let (spec, versions) = (held.index.spec().clone(), held.versions.clone());
        drop(held);
        let built = train(&spec, &mut View { world: self.world, versions }, &TrainOptions::new(1))
            .map_err(|error| error.to_string())?;
        let mut adoption = Adoption::new(built);
        loop {
            while self.adopt_some(&mut adoption) {}
            let mut held = self.held.write().expect(NO_PANIC);
            let started = time::now();
            let installed = held.index.install_adopted(&mut adoption);
            work.longest_install = work.longest_install.max(started.elapsed());
            drop(held);
            if let Some(installed) = installed {
                return installed.map(|_| ()).map_err(|error| error.to_string());
            }
        }
    }

    fn adopt_some(&self, adoption: &mut Adoption) -> bool {
        let held = self.held.read().expect(NO_PANIC);
        held.index.adopt_some(&held.points, adoption)
    }

    /// Searches one query after another.
    fn search_for(&self, duration: Duration, stop: &Ended) -> Searches {
        let queries = self.world.queries(self.replaced);
        let (mut scratch, mut searches) = (Scratch::new(), Searches::default());
        let started = time::now();
        for query in queries.iter().cycle() {
            if stop.is_set() || started.elapsed() >= duration {
                break;
            }
            let asked = time::now();
            let held = self.held.read().expect(NO_PANIC);
            searches.longest_wait = searches.longest_wait.max(asked.elapsed());
            let outcome = held.index.search(&held.points, query, &SearchParams::new(K), &mut scratch);
            drop(held);
            self.nearest(query, outcome.hits);
            searches.took.record(asked.elapsed());
        }
        searches
    }

    /// The rows of hits, scored again in f32 where they have to be.
    fn nearest(&self, query: &[f32], mut hits: Vec<Hit>) -> Vec<u64> {
        for hit in hits.iter_mut().filter(|hit| !hit.exact) {
            hit.distance = distance(self.world.metric, query, self.world.vector(row_of(hit.id), hit.version));
        }
        hits.sort_by(Hit::order);
        hits.iter().take(K).map(|hit| row_of(hit.id)).collect()
    }

    /// Recall and shape, beside an index built afresh from the same rows.
    pub fn judge(&mut self, replaced: usize) -> Round {
        let held = self.held.get_mut().expect(NO_PANIC);
        let versions = held.versions.clone();
        let queries = self.world.queries(replaced);
        let cores = crate::rt::compute::cores();
        let truth = parallel(cores, queries.iter().copied(), |query| brute_force(self.world, &versions, query));
        let held = self.held.read().expect(NO_PANIC);
        let fresh = build(self.world, &versions).expect("invariant: the first build was of as many rows");
        let (recall, codes) = self.recall(&held, &queries, &truth);
        let (fresh_recall, fresh_codes) = self.recall(&fresh, &queries, &truth);
        let state = held.index.state();
        let (smallest, largest) = held.index.list_sizes().unwrap_or_default();
        let us = |duration: Duration| duration.as_nanos() as f64 / 1e3;
        Round {
            replaced_percent: 100.0 * replaced as f64 / self.world.rows() as f64,
            recall_at_10: recall,
            recall_at_10_of_a_fresh_build: fresh_recall,
            codes_per_query: codes,
            codes_per_query_of_a_fresh_build: fresh_codes,
            lists: state.lists,
            smallest_list: smallest,
            largest_list: largest,
            tail_rows: state.tail_rows,
            dead_rows: state.dead_rows,
            trainings: self.work.trainings,
            filings: self.work.filings,
            reshapings: self.work.reshapings,
            recalibrations: self.work.recalibrations,
            moved_rows: self.work.moved_rows,
            bytes_copied_per_row_filed: self.work.copied_bytes / self.work.filed_rows.max(1),
            idle_p50_us: us(self.idle.quantile(0.5)),
            idle_p99_us: us(self.idle.quantile(0.99)),
            upkeep_p50_us: us(self.busy.took.quantile(0.5)),
            upkeep_p99_us: us(self.busy.took.quantile(0.99)),
            longest_wait_us: us(self.busy.longest_wait),
            longest_install_us: us(self.work.longest_install),
        }
    }

    /// The share of the true neighbours found at the defaults, and the codes looked at for it by a query.
    fn recall(&self, held: &Held, queries: &[&[f32]], truth: &[Vec<u64>]) -> (f64, usize) {
        let mut scratch = Scratch::new();
        let (mut found, mut wanted, mut codes) = (0, 0, 0);
        for (query, truth) in queries.iter().zip(truth) {
            let outcome = held.index.search(&held.points, query, &SearchParams::new(K), &mut scratch);
            codes += outcome.stats.codes_scanned;
            let nearest = self.nearest(query, outcome.hits);
            wanted += truth.len();
            found += truth.iter().filter(|row| nearest.contains(row)).count();
        }
        (found as f64 / wanted.max(1) as f64, codes / queries.len().max(1))
    }
}

const NO_PANIC: &str = "invariant: nobody panics while changing the index";
const NO_FILE: &str = "invariant: lists that are in no file are sound";

enum Done {
    Written,
    Kept(Result<Work, String>),
    Searched(Box<Searches>),
}

impl Work {
    fn add(&mut self, more: Work) {
        self.trainings += more.trainings;
        self.filings += more.filings;
        self.reshapings += more.reshapings;
        self.recalibrations += more.recalibrations;
        self.moved_rows += more.moved_rows;
        self.filed_rows += more.filed_rows;
        self.copied_bytes += more.copied_bytes;
        self.longest_install = more.longest_install;
    }
}

impl Searches {
    fn merge(&mut self, other: &Searches) {
        self.took.merge(&other.took);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

/// An index of the rows at these versions, trained whatever their number.
fn build(world: &World, versions: &[u8]) -> Result<Held, String> {
    let spec = IndexSpec { flat_rows_max: 0, ..IndexSpec::new(world.metric, world.dimension()) };
    let mut view = View { world, versions: versions.to_vec() };
    let built = train(&spec, &mut view, &TrainOptions::new(1)).map_err(|error| error.to_string())?;
    let (points, index) = VectorIndex::of_built(spec, built).map_err(|error| error.to_string())?;
    Ok(Held { points, index, versions: view.versions })
}

fn row_of(id: PointId) -> u64 {
    match id {
        PointId::Num(row) => row,
        PointId::Uuid(_) => unreachable!("invariant: ids are row numbers"),
    }
}

/// The true nearest rows.
fn brute_force(world: &World, versions: &[u8], query: &[f32]) -> Vec<u64> {
    let scored = (0..).zip(versions).map(|(row, &version)| {
        let distance = distance(world.metric, query, world.vector(row, u64::from(version)));
        (distance, row)
    });
    let mut all: Vec<(f32, u64)> = scored.collect();
    let order = |a: &(f32, u64), b: &(f32, u64)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if all.len() > K {
        all.select_nth_unstable_by(K, order);
        all.truncate(K);
    }
    all.into_iter().map(|(_, row)| row).collect()
}
