//! Clients that write and read a few documents at random, through whichever node answers, and keep a history of it, which the checker
//! of the simulation judges in the end. Called by the tests of `cluster`.

use super::{
    TABLE,
    check::{
        export,
        history::{History, Outcome},
        register::{self, Answer, Call},
        wgl::STEPS_MAX,
    },
    client::{Failure, Rest},
    retried,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const KEYS: u64 = 8;
const CLIENTS: u64 = 5;

type Shared = Arc<Mutex<History<Call, Answer>>>;

/// Clients at work on the table `TABLE`.
pub struct Load {
    history: Shared,
    begun: Instant,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins; each client prefers another of the nodes at these addresses, of which some may not be there.
    pub fn begin(addresses: &[String]) -> Load {
        let history: Shared = Arc::new(Mutex::new(History::new(CLIENTS)));
        let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let values = Arc::new(AtomicU64::new(1));
        let clients = (0..CLIENTS).map(|process| {
            let mut nodes: Vec<Rest> = addresses.iter().map(|address| Rest::new(address, TABLE)).collect();
            nodes.rotate_left(process as usize % addresses.len());
            let worker = Worker { nodes, history: history.clone(), begun, values: values.clone(), stop: stop.clone() };
            tokio::spawn(worker.run(process))
        });
        let clients = clients.collect();
        Load { history, begun, stop, clients }
    }

    /// Ends it, reads every document from each of these nodes, which are at rest, keeps the history as `NAME.edn`, and judges it.
    ///
    /// # Panics
    /// If it is not linearizable, or too little happened for that to mean anything.
    pub async fn end(self, addresses: &[String], name: &str) {
        self.stop.store(true, SeqCst);
        for client in self.clients {
            client.await.expect("no client panics");
        }
        close(addresses, &self.history, self.begun).await;
        judge(&self.history, name);
    }
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
            75..85 => Call::Put { key, value, if_version: Some(versions.get(&key).copied().unwrap_or(0)) },
            85..93 => Call::Patch { key, patch: value, if_version: None },
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
        Call::Get { key } => node.get_parts(*key).await.map(|found| match found {
            Some((value, patch, version)) => {
                versions.insert(*key, version);
                Answer::Found { value: register::patched(value, patch), version }
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
        Call::Patch { key, patch, if_version } => match node.patch(*key, *patch, *if_version).await {
            Ok(Some(version)) => {
                versions.insert(*key, version);
                Ok(Answer::Written { version })
            }
            Ok(None) => Ok(Answer::Absent),
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
async fn close(addresses: &[String], history: &Shared, begun: Instant) {
    let now = || begun.elapsed().as_nanos() as u64;
    for address in addresses {
        let node = Rest::new(address, TABLE);
        for key in 0..KEYS {
            let process = history.lock().unwrap().retire();
            let open = history.lock().unwrap().start(process, now(), Call::Get { key });
            let found = retried(|| node.get_parts(key)).await;
            let answer = found.map_or(Answer::Absent, |(value, patch, version)| Answer::Found {
                value: register::patched(value, patch),
                version,
            });
            history.lock().unwrap().end(open, now(), Outcome::Ok(answer));
        }
    }
}

fn judge(history: &Shared, name: &str) {
    let history = history.lock().unwrap();
    let (ok, failed, unknown) = history.counts();
    let events = export::events(&history);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.edn"));
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
