//! The engine of a node: data directory, store, log, catalog and shards, opened in order and closed in reverse, with the
//! service over them. No listeners. Built by [`super::Node`] and by the embedded library.

use super::StartError;
use crate::{
    cluster::Catalog,
    config::{Config, Name},
    coordination::Embedded,
    raft::{
        CheckpointStream, FetchError, GroupId, GroupMessage, LogIndex, LogStore, MultiRaft, NodeId, RaftOptions,
        SendError, Transport, log_options,
    },
    rt::{self, shutdown::Shutdown},
    service::{Identity, Phase, Service},
    shard::{Host, IndexSettings, Parts},
    store::{DataDir, Store, StoreOptions},
    telemetry::metrics::Metrics,
    types::limits,
};
use futures_util::future::BoxFuture;
use rand::RngCore;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

/// How often the engine looks whether its disk has failed.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How often the simulation's stores flush and compact.
const MAINTAIN_INTERVAL: Duration = Duration::from_millis(500);
/// Trainings at once on a node: one, so that searches keep the other processors.
const TRAININGS_MAX: usize = 1;

/// Under which name a node's own coordinator keeps the catalog. Not the cluster's name: that is a setting and may change,
/// and the data must be found again whatever it is.
const LOCAL_CATALOG: &str = "local";

/// The network of a node that stands alone.
struct Nobody;

impl Transport for Nobody {
    fn send(&self, _to: NodeId, _messages: Vec<GroupMessage>) -> Result<(), SendError> {
        Err(SendError::Unknown)
    }

    fn fetch_checkpoint(
        &self,
        _from: NodeId,
        _group: GroupId,
        _at_least: LogIndex,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        let nobody = FetchError::Unreachable("there is no such node".to_owned());
        Box::pin(std::future::ready(Err(nobody)))
    }
}

/// See the module.
pub struct Engine {
    service: Service,
    store: Store,
    log: LogStore,
    raft: MultiRaft,
    stop: Shutdown,
    failed: Shutdown,
    // Last, so that the lock is given back after everything else is closed.
    directory: DataDir,
}

struct Opened {
    directory: DataDir,
    node_id: u64,
    store: Store,
    log: LogStore,
}

impl Engine {
    /// Opens the data directory and everything in it. `identity` is completed by the caller: it knows the addresses.
    ///
    /// # Errors
    /// The directory is in use, damaged or newer than this program; nothing is changed then.
    pub async fn open(
        config: &Config,
        metrics: &Metrics,
        describe: impl FnOnce(Identity) -> Identity,
    ) -> Result<Engine, StartError> {
        let started = rt::time::now();
        let opened = open_stores(config).await?;
        let stores_ms = started.elapsed().as_secs_f64() * 1e3;
        let Opened { directory, node_id, store, log } = opened;
        let raft = MultiRaft::start(
            node_id,
            log.clone(),
            Some(metrics.log.clone()),
            Arc::new(Nobody),
            Arc::from(make_directory(&directory, "checkpoint")?),
            raft_options(config),
        );
        let mut identity = Identity::new(node_id, config.cluster.name.as_str().to_owned(), zone(config), "standalone");
        identity.can_write = can_write(&store, &log);
        let identity = describe(identity);
        let coordinator = Arc::new(Embedded::open(store.clone())?);
        let catalog = Catalog::load(coordinator, LOCAL_CATALOG, node_id).await?;
        let host = Host::new(Parts {
            store: store.clone(),
            raft: raft.clone(),
            voters: Arc::from([node_id]),
            index_directory: Arc::from(make_directory(&directory, "index")?),
            settings: IndexSettings {
                flat_points_max: config.index.flat_points_max as usize,
                build_threads_max: config.index.build_threads_max as usize,
                memory: config.index.memory,
                ..IndexSettings::default()
            },
            trainings: Arc::new(tokio::sync::Semaphore::new(TRAININGS_MAX)),
        });
        open_shards(&catalog, &host).await?;
        tracing::debug!(stores_ms, all_ms = started.elapsed().as_secs_f64() * 1e3, "data opened");
        let (stop, failed) = (Shutdown::new(), Shutdown::new());
        let service = Service::new(catalog, host, identity, metrics.clone());
        let engine = Engine { service, store, log, raft, stop, failed, directory };
        engine.watch();
        engine.maintain();
        Ok(engine)
    }

    /// The operations.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Where the data is.
    pub fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    /// Fires when the disk has failed and the process must end.
    pub fn failed(&self) -> &Shutdown {
        &self.failed
    }

    /// Finishes what is under way, syncs, and closes.
    pub async fn close(self) {
        self.service.identity().enter(Phase::Stopping);
        self.service.host().close().await;
        self.raft.stop().await;
        self.stop.trigger();
        let store = self.store.clone();
        if let Err(error) = rt::compute::io(move || store.sync()).await {
            tracing::error!(%error, "the store could not be synced; the log has what it lacks");
        }
    }

    fn watch(&self) {
        let (store, service) = (self.store.clone(), self.service.clone());
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        rt::spawn("disk-watch", async move {
            while !stop.is_triggered() {
                if let Some(reason) = failure(&store, &service) {
                    tracing::error!(reason, "the node can no longer promise what it writes; it stops");
                    failed.trigger();
                    return;
                }
                tokio::select! {
                    biased;
                    () = stop.wait() => {}
                    () = rt::time::sleep(WATCH_INTERVAL) => {}
                }
            }
        });
    }

    /// Drives flush and compaction where the store has no threads of its own.
    fn maintain(&self) {
        if !rt::SIMULATED {
            return;
        }
        let (store, log, stop) = (self.store.clone(), self.log.clone(), self.stop.clone());
        rt::spawn("store-maintain", async move {
            while !stop.is_triggered() {
                let (store, log) = (store.clone(), log.clone());
                let done = rt::compute::io(move || {
                    store.maintain().map_err(|error| error.to_string())?;
                    log.maintain().map_err(|error| error.to_string())
                });
                if let Err(error) = done.await {
                    tracing::error!(error, "store upkeep failed");
                }
                tokio::select! {
                    biased;
                    () = stop.wait() => {}
                    () = rt::time::sleep(MAINTAIN_INTERVAL) => {}
                }
            }
        });
    }
}

async fn open_stores(config: &Config) -> Result<Opened, StartError> {
    let path = config.data_dir.clone();
    let options = StoreOptions {
        cache_bytes: config.storage.cache.bytes(),
        journal_bytes_max: config.storage.journal_max.bytes(),
        ..StoreOptions::default()
    };
    let candidate = rt::rng::stream("node/id").next_u64();
    let (directory, node_id) = rt::compute::io(move || {
        let directory = DataDir::open(path)?;
        let node_id = directory.node_id(candidate)?;
        Ok::<_, StartError>((directory, node_id))
    })
    .await?;
    let (log_path, store_path) = (directory.join("log"), directory.join("store"));
    // At once: after a crash both read their journals, which is most of the time a start takes.
    let log = rt::compute::io(move || LogStore::open(log_path, log_options()));
    let store = rt::compute::io(move || Store::open(store_path, options));
    let (log, store) = futures_util::future::join(log, store).await;
    Ok(Opened { directory, node_id, store: store?, log: log? })
}

fn make_directory(directory: &DataDir, name: &str) -> Result<std::path::PathBuf, StartError> {
    let path = directory.join(name);
    crate::store::directory::make_directory(&path)?;
    Ok(path)
}

fn raft_options(config: &Config) -> RaftOptions {
    RaftOptions {
        entry_bytes_max: limits::COMMAND_BYTES_MAX,
        bytes_max: limits::COMMAND_BYTES_MAX * 2,
        compact_after_bytes: config.raft.log_bytes_max.bytes() as usize,
        ..RaftOptions::default()
    }
}

fn zone(config: &Config) -> String {
    config.cluster.zone.as_ref().map_or("default", Name::as_str).to_owned()
}

async fn open_shards(catalog: &Catalog, host: &Host) -> Result<(), StartError> {
    let collections = catalog.collections();
    let wanted: BTreeSet<u64> = collections.values().flat_map(|c| c.shards.iter().map(|(id, _)| *id)).collect();
    host.remove_strays(&wanted, catalog.last_shard()).await?;
    for collection in collections.values() {
        for (id, _) in &collection.shards {
            host.open(*id, collection.spec.clone()).await?;
        }
    }
    Ok(())
}

fn can_write(store: &Store, log: &LogStore) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let (store, log) = (store.clone(), log.clone());
    Arc::new(move || !store.is_poisoned() && !log.is_poisoned())
}

/// Why the node must stop, if it must.
fn failure(store: &Store, service: &Service) -> Option<String> {
    if store.is_poisoned() {
        return Some("a write or sync of the store has failed".to_owned());
    }
    service.host().replicas().iter().find_map(|(_, replica)| replica.failure())
}
