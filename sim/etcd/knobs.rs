//! How the simulated etcd misbehaves, and what outlives its process.
use super::engine::Engine;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::Notify;
use vectorsphere::{
    coordination::{Change, Coordinator, KeyValue, LeaseId, Listed, OPERATIONS_MAX, Transaction},
    rt::time,
};

/// See the module. Chances are in percent.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    /// Nothing is answered but that there is no leader.
    pub unavailable: bool,
    /// Every answer takes so long.
    pub slow: Duration,
    /// A change happens, and the answer is that its outcome is not known.
    pub lost_answers: u64,
    /// A read shows an old state; a transaction without operations is one.
    pub stale_reads: u64,
}

/// What outlives the process of the simulated etcd.
pub struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    /// How often watches were cancelled.
    cancels: AtomicU64,
    cancelled: Notify,
}

struct State {
    engine: Option<Arc<Engine>>,
    /// How often it was restored: each state has a directory of its own.
    restores: u64,
    knobs: Knobs,
    rng: StdRng,
    leases: BTreeSet<LeaseId>,
    /// What stale reads show.
    old: Option<Listed>,
    backup: Vec<KeyValue>,
}

impl Shared {
    pub fn new(dir: PathBuf) -> Shared {
        let state = State {
            engine: None,
            restores: 0,
            knobs: Knobs::default(),
            rng: StdRng::seed_from_u64(0),
            leases: BTreeSet::new(),
            old: None,
            backup: Vec::new(),
        };
        Shared { dir, state: Mutex::new(state), cancels: AtomicU64::new(0), cancelled: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    pub fn next_dir(&self) -> PathBuf {
        self.dir.join(self.state().restores.to_string())
    }

    pub fn engine(&self) -> Option<Arc<Engine>> {
        self.state().engine.clone()
    }

    pub fn set_engine(&self, engine: Option<Engine>) {
        self.state().engine = engine.map(Arc::new);
    }

    pub fn set(&self, knobs: Knobs) {
        self.state().knobs = knobs;
    }

    pub fn knobs(&self) -> Knobs {
        self.state().knobs.clone()
    }

    /// Draws whether something of this chance, in percent, happens.
    pub fn chance(&self, percent: u64) -> bool {
        self.state().rng.next_u64() % 100 < percent
    }

    pub fn granted(&self, lease: LeaseId) {
        self.state().leases.insert(lease);
    }

    /// The state that a stale read shows: that of the last time one was asked for and none was there.
    pub fn old(&self) -> Option<Listed> {
        self.state().old.clone()
    }

    /// What stale reads show from now on.
    pub fn remember(&self, listed: Listed) {
        self.state().old = Some(listed);
    }

    pub fn cancel_watches(&self) {
        self.cancels.fetch_add(1, SeqCst);
        self.cancelled.notify_waiters();
    }

    pub fn cancels(&self) -> u64 {
        self.cancels.load(SeqCst)
    }

    /// Waits until watches have been cancelled once more than `seen` times.
    pub async fn cancelled(&self, seen: u64) {
        loop {
            let mut cancelled = pin!(self.cancelled.notified());
            cancelled.as_mut().enable();
            if self.cancels() > seen {
                return;
            }
            cancelled.await;
        }
    }

    pub async fn expire_leases(&self) {
        let leases = std::mem::take(&mut self.state().leases);
        let Some(engine) = self.engine() else { return };
        for lease in leases {
            engine.embedded.revoke(lease).await.expect("a group of one answers");
        }
    }

    pub async fn back_up(&self) {
        let Some(engine) = self.engine() else { return };
        let listed = engine.embedded.list("").await.expect("a group of one answers");
        self.state().backup = listed.entries.into_iter().filter(|kv| kv.lease.is_none()).collect();
    }

    /// Whether anything lasting was written since the last backup that the backup does not hold so.
    pub async fn is_backup_past(&self) -> bool {
        let Some(engine) = self.engine() else { return false };
        let now = engine.embedded.list("").await.expect("a group of one answers").entries;
        let backup = self.state().backup.clone();
        let is_kept = |kv: &KeyValue| backup.iter().any(|old| old.key == kv.key && old.value == kv.value);
        now.iter().filter(|kv| kv.lease.is_none()).any(|kv| !is_kept(kv))
    }

    pub async fn restore(&self) {
        let (old, backup, dir) = {
            let mut state = self.state();
            state.restores += 1;
            (state.engine.take(), state.backup.clone(), self.dir.join(state.restores.to_string()))
        };
        if let Some(old) = old {
            old.close().await;
        }
        // Whoever holds the old one lets go of it.
        time::sleep(Duration::from_millis(500)).await;
        let engine = Engine::open(dir).await;
        for some in backup.chunks(OPERATIONS_MAX) {
            let changes = some.iter().map(|kv| Change::Put(kv.key.clone(), kv.value.clone())).collect();
            let transaction = Transaction { compares: Vec::new(), changes };
            engine.embedded.commit(transaction).await.expect("a group of one answers");
        }
        self.set_engine(Some(engine));
        self.cancel_watches();
    }
}
