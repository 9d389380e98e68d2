//! The coordinator in an etcd of its own (3.4 and later): the same promises as [`Embedded`](super::Embedded), kept by etcd. Everything
//! lies below `/vectorsphere/{cluster}/`. A member that fails is left for the next endpoint; what the cluster's keys were is kept in a
//! file, so that a node can start and go on while etcd is away. Plugged in by `node`, and by `gateway` to look who is there.
//!
//! The wire is etcd's own (`proto/etcd/v3.proto`), generated like the rest of our protocols, over [`rpc`](crate::rt::rpc): no `protoc`,
//! no second transport, and the very same client in the simulation.

mod client;
mod convert;
mod memory;
mod watch;

/// etcd's messages, and its services from both sides: the server's is for those who stand in for etcd.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    tonic::include_proto!("etcdserverpb");
}

pub use client::{EtcdOptions, EtcdUser, InvalidEtcd};

use super::{
    BoxFuture, Committed, CoordinationError, Coordinator, Entries, KeptAlive, KeyValue, LeaseId, Listed, Mirror,
    Revision, Transaction, Watch, bounds, prefix::Prefix,
};
use crate::{
    rt::{
        self, Shutdown, Task,
        time::{self, Instant},
    },
    store::StoreError,
};
use client::Client;
use memory::Memory;
pub use memory::Vet;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use watch::EtcdWatch;

/// See the module.
pub struct Etcd {
    client: Arc<Client>,
    prefix: Prefix,
    memory: Arc<Memory>,
    /// Whether it is used only while what it holds is taken.
    is_vetted: bool,
    keeping: Option<Keeping>,
}

/// The task that keeps the memory as etcd is.
struct Keeping {
    mirror: Mirror,
    since: Instant,
    task: tokio::sync::Mutex<Option<Task<()>>>,
    stop: Shutdown,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// Why etcd could not be begun with.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The options are wrong.
    #[error(transparent)]
    Options(#[from] InvalidEtcd),
    /// What is remembered cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Etcd {
    /// Begins to use etcd; `file` keeps what is remembered. Asks nobody yet. To be called inside the executor.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub fn open(options: &EtcdOptions, file: PathBuf) -> Result<Etcd, EtcdError> {
        Etcd::begin(options, Some(file), Arc::new(|_, _| Ok(())), false)
    }

    /// The same; what etcd holds is taken only if `vet` finds that it may follow what is known here. Until then nothing is asked of
    /// it nor changed in it, and what is known stays.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub fn open_vetted(options: &EtcdOptions, file: PathBuf, vet: Vet) -> Result<Etcd, EtcdError> {
        Etcd::begin(options, Some(file), vet, true)
    }

    /// The same for a process without data, which knows nothing when it starts.
    ///
    /// # Errors
    /// The options are wrong.
    pub fn open_unkept(options: &EtcdOptions, vet: Vet) -> Result<Etcd, EtcdError> {
        Etcd::begin(options, None, vet, true)
    }

    /// What `file` keeps of an etcd, before one is begun with; nothing if there is no such file. Blocking.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn kept(file: &Path) -> Result<Entries, StoreError> {
        memory::read(file)
    }

    fn begin(options: &EtcdOptions, file: Option<PathBuf>, vet: Vet, is_vetted: bool) -> Result<Etcd, EtcdError> {
        let prefix = Prefix::of(&options.cluster);
        let client = Arc::new(Client::new(options)?);
        let memory = Arc::new(Memory::open(file, vet)?);
        let etcd = |is_vetted, keeping| Etcd {
            client: client.clone(),
            prefix: prefix.clone(),
            memory: memory.clone(),
            is_vetted,
            keeping,
        };
        // The mirror's own handle: it keeps neither the mirror nor the file alive.
        let mirror = Mirror::follow(Arc::new(etcd(false, None)), "");
        let stop = Shutdown::new();
        let task = rt::spawn("etcd-memory", memory::keep(mirror.clone(), memory.clone(), stop.clone()));
        let task = tokio::sync::Mutex::new(Some(task));
        Ok(etcd(is_vetted, Some(Keeping { mirror, since: time::now(), task, stop })))
    }

    /// Writes its file no more: another may be opened over it when this returns.
    pub async fn close(&self) {
        let Some(keeping) = &self.keeping else { return };
        keeping.stop.trigger();
        if let Some(task) = keeping.task.lock().await.take() {
            // One that was torn down writes nothing either.
            let _ended = task.await;
        }
    }

    /// For how long etcd has not told how it is; in all that time what is remembered may have become old.
    pub fn silence(&self) -> Duration {
        let Some(keeping) = &self.keeping else { return Duration::ZERO };
        keeping.mirror.confirmed().unwrap_or(keeping.since).elapsed()
    }

    /// Why etcd does not tell what it holds, while it does not.
    pub fn problem(&self) -> Option<String> {
        self.keeping.as_ref()?.mirror.problem()
    }

    /// Why what etcd holds is not obeyed, while it is not.
    pub fn alarm(&self) -> Option<Arc<String>> {
        self.memory.alarm()
    }

    /// Waits for a change of what is remembered after version `seen` (0 at first); which version that is.
    pub async fn changed(&self, seen: u64) -> u64 {
        self.memory.changed(seen).await
    }

    /// # Errors
    /// `Unavailable` while what etcd holds is not known yet, or not obeyed.
    fn check(&self) -> Result<(), CoordinationError> {
        if !self.is_vetted {
            return Ok(());
        }
        match self.memory.alarm() {
            Some(why) => Err(CoordinationError::Unavailable(why.to_string())),
            None if self.memory.has_heard() => Ok(()),
            None => {
                let why = self.problem().unwrap_or_else(|| "it was asked a moment ago".to_owned());
                Err(CoordinationError::Unavailable(format!("etcd has not told yet what it holds: {why}")))
            }
        }
    }

    async fn range(&self, key: Vec<u8>, range_end: Vec<u8>) -> Result<Listed, CoordinationError> {
        self.check()?;
        let request = proto::RangeRequest { key, range_end, ..proto::RangeRequest::default() };
        let response = self.client.range(request).await?;
        let entries = response.kvs.into_iter().map(|kv| convert::key_value(&self.prefix, kv));
        Ok(Listed {
            revision: convert::revision(response.header.as_ref())?,
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

impl Coordinator for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
        Box::pin(async move {
            let mut found = self.range(self.prefix.stored(key).into_bytes(), Vec::new()).await?;
            Ok(found.entries.pop())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
        Box::pin(async move {
            let beginning = self.prefix.stored(prefix);
            self.range(beginning.clone().into_bytes(), convert::range_end(&beginning)).await
        })
    }

    fn remembered(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        Ok(self.memory.list(prefix))
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
        Box::pin(async move {
            self.check()?;
            let stored = convert::stored_transaction(&self.prefix, transaction.clone());
            bounds::check(&stored)?;
            let response = self.client.txn(&stored, transaction.changes.is_empty()).await?;
            match response.succeeded {
                true => {
                    let revision = convert::revision(response.header.as_ref())?;
                    // Whoever changes something reads it back here; it happened, whether or not that comes about.
                    let _shown = time::timeout(bounds::SHOW_LIMIT, self.memory.shows(&transaction, revision)).await;
                    Ok(Committed::At(revision))
                }
                false => Ok(Committed::Refused),
            }
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Box<dyn Watch> {
        Box::new(EtcdWatch::new(self.client.clone(), self.prefix.clone(), prefix, after))
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
        Box::pin(async move {
            self.check()?;
            let ttl_ms = bounds::ttl_ms(ttl)?;
            self.client.grant(ttl_ms.div_ceil(1000)).await
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
        Box::pin(async move {
            self.check()?;
            self.client.keep_alive(lease).await
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
        Box::pin(async move {
            self.check()?;
            self.client.revoke(lease).await
        })
    }
}
