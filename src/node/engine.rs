//! The engine of a node: data directory, store, log, catalog and shards, opened in order and closed in reverse, with the
//! service over them. No listeners. Built by [`super::Node`] and by the embedded library.

use super::{Network, StartError};
use crate::{
    cluster::{Catalog, Members},
    config::{Config, Name},
    coordination::{Embedded, embedded},
    raft::{Forward, LogStore, MultiRaft, NodeId, RaftOptions, Route, log_options},
    rt::{self, shutdown::Shutdown},
    service::{Identity, Phase, Service},
    shard::{Host, IndexSettings, Parts},
    store::{DataDir, Store, StoreOptions},
    telemetry::metrics::Metrics,
    types::limits,
};
use rand::RngCore;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

/// How often the engine looks whether its disk has failed.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How often the simulation's stores flush and compact.
const MAINTAIN_INTERVAL: Duration = Duration::from_millis(500);
/// After a change of the catalog could not be followed.
const FOLLOW_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Trainings at once on a node: one, so that searches keep the other processors.
const TRAININGS_MAX: usize = 1;

/// See the module.
pub struct Engine {
    service: Service,
    raft: MultiRaft,
    coordinator: Embedded,
    store: Store,
    log: LogStore,
    stop: Shutdown,
    failed: Shutdown,
    // Last, so that the lock is given back after everything else is closed.
    directory: Arc<DataDir>,
}

/// The parts of an engine that peers' calls reach.
#[derive(Clone)]
pub(super) struct Inside {
    pub(super) raft: MultiRaft,
    pub(super) coordinator: Embedded,
    pub(super) service: Service,
}

/// The opened data directory and the stores in it.
pub struct Stores {
    directory: Arc<DataDir>,
    node_id: u64,
    store: Store,
    log: LogStore,
}

/// The group of the coordinator, to be opened once its members are known.
struct Control {
    raft: MultiRaft,
    coordinator: Embedded,
    forward: Arc<dyn Forward>,
}

impl Control {
    async fn open(&self, voters: &[NodeId]) -> Result<(), StartError> {
        let group = self.raft.open(embedded::GROUP, voters, self.coordinator.machine()?).await?;
        self.coordinator.attach(Route::new(group, self.forward.clone(), embedded::decode_outcome));
        Ok(())
    }
}

impl Engine {
    /// Opens the data directory and everything in it, alone. `identity` is completed by the caller: it knows the addresses.
    ///
    /// # Errors
    /// The directory is in use, damaged or newer than this program; nothing is changed then.
    pub async fn open(
        config: &Config,
        metrics: &Metrics,
        describe: impl FnOnce(Identity) -> Identity,
    ) -> Result<Engine, StartError> {
        let stores = Stores::open(config).await?;
        let network = Network::alone(stores.node_id);
        Engine::start(config, metrics, stores, network, describe).await
    }

    /// Starts everything over opened stores, as a member of a cluster. A cluster that has not met yet forms in the background.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn start(
        config: &Config,
        metrics: &Metrics,
        stores: Stores,
        network: Network,
        describe: impl FnOnce(Identity) -> Identity,
    ) -> Result<Engine, StartError> {
        let started = rt::time::now();
        let Stores { directory, node_id, store, log } = stores;
        let Network { transport, forward, others, members } = network;
        let mode = config.mode.name();
        let mut identity = Identity::new(node_id, config.cluster.name.as_str().to_owned(), zone(config), mode);
        identity.can_write = can_write(&store, &log);
        let coordinator = Embedded::open(store.clone())?;
        let asked = coordinator.clone();
        identity.leader = Arc::new(move || asked.leader());
        let identity = describe(identity);
        let raft = MultiRaft::start(
            node_id,
            log.clone(),
            Some(metrics.log.clone()),
            transport,
            Arc::from(make_directory(&directory, "checkpoint")?),
            raft_options(config),
        );
        let control = Control { raft: raft.clone(), coordinator: coordinator.clone(), forward: forward.clone() };
        let forming = match members.node_ids() {
            Ok(voters) => {
                control.open(&voters).await?;
                None
            }
            Err(_) => Some(control),
        };
        let catalog = Catalog::load(Arc::new(coordinator.clone()))?;
        let host = Host::new(Parts {
            store: store.clone(),
            log: log.clone(),
            raft: raft.clone(),
            forward,
            index_directory: Arc::from(make_directory(&directory, "index")?),
            settings: IndexSettings {
                flat_points_max: config.index.flat_points_max as usize,
                build_threads_max: config.index.build_threads_max as usize,
                memory: config.index.memory,
                tail_rows_max: config.index.tail_points_max as usize,
                list_rows: config.index.list_points as usize,
                ..IndexSettings::default()
            },
            trainings: Arc::new(tokio::sync::Semaphore::new(TRAININGS_MAX)),
        });
        remove_strays(&catalog, &host).await?;
        let (stop, failed) = (Shutdown::new(), Shutdown::new());
        let service = Service::new(catalog, host, members.clone(), others, identity, metrics.clone());
        service.follow_catalog().await?;
        tracing::debug!(ms = started.elapsed().as_secs_f64() * 1e3, "data opened");
        let engine = Engine { service, raft, coordinator, store, log, stop, failed, directory };
        engine.watch();
        engine.maintain();
        engine.follow();
        match forming {
            Some(control) => engine.form(control, members),
            None => engine.service.identity().enter(Phase::Up),
        }
        Ok(engine)
    }

    /// The operations.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// What peers' calls are answered with.
    pub(super) fn inside(&self) -> Inside {
        Inside { raft: self.raft.clone(), coordinator: self.coordinator.clone(), service: self.service.clone() }
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

    /// Makes on this node what others have changed in the catalog.
    fn follow(&self) {
        let (coordinator, service, stop) = (self.coordinator.clone(), self.service.clone(), self.stop.clone());
        rt::spawn("catalog-follow", async move {
            let mut behind = false;
            while !stop.is_triggered() {
                tokio::select! {
                    biased;
                    () = stop.wait() => return,
                    () = coordinator.changed() => {}
                    () = rt::time::sleep(FOLLOW_RETRY_INTERVAL), if behind => {}
                }
                let followed = service.follow_catalog().await;
                behind = followed.is_err();
                if let Err(error) = followed {
                    tracing::error!(%error, "the catalog could not be followed; it will be tried again");
                }
            }
        });
    }

    /// Waits for the members to meet, then opens the coordinator's group.
    fn form(&self, control: Control, members: Members) {
        let (service, stop, failed) = (self.service.clone(), self.stop.clone(), self.failed.clone());
        let directory = self.directory.clone();
        rt::spawn("cluster-form", async move {
            let voters = tokio::select! {
                biased;
                () = stop.wait() => return,
                voters = members.wait() => voters,
            };
            let (kept, ids) = (directory, voters.clone());
            let kept = rt::compute::io(move || kept.set_members(&ids)).await.map_err(StartError::from);
            let opened = match kept {
                Ok(()) => control.open(&voters).await,
                Err(error) => Err(error),
            };
            if let Err(error) = opened {
                tracing::error!(%error, "the cluster's own group cannot be opened; the node stops");
                failed.trigger();
                return;
            }
            service.identity().enter(Phase::Up);
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

impl Stores {
    /// Opens the data directory of `config`, making it if it is not there.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open(config: &Config) -> Result<Stores, StartError> {
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
        Ok(Stores { directory: Arc::new(directory), node_id, store: store?, log: log? })
    }

    /// Counts this start; its number, and the members of the cluster if they have met.
    ///
    /// # Errors
    /// Those of the data directory.
    pub async fn begin_boot(&self) -> Result<(u64, Option<Vec<NodeId>>), StartError> {
        let directory = self.directory.clone();
        rt::compute::io(move || Ok((directory.next_boot()?, directory.members()?))).await
    }

    /// The node's identity.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The data directory.
    pub fn directory(&self) -> &DataDir {
        &self.directory
    }
}

fn make_directory(directory: &DataDir, name: &str) -> Result<std::path::PathBuf, StartError> {
    let path = directory.join(name);
    crate::store::directory::make_directory(&path)?;
    Ok(path)
}

fn raft_options(config: &Config) -> RaftOptions {
    let log_bytes_max = config.raft.log_bytes_max.bytes() as usize;
    RaftOptions {
        entry_bytes_max: limits::COMMAND_BYTES_MAX,
        bytes_max: limits::COMMAND_BYTES_MAX * 2,
        compact_after_bytes: log_bytes_max,
        // Members this far behind are better served by the state itself.
        keep_bytes_max: log_bytes_max.saturating_mul(4),
        cache_bytes_max: log_bytes_max / 16,
        ..RaftOptions::default()
    }
}

fn zone(config: &Config) -> String {
    config.cluster.zone.as_ref().map_or("default", Name::as_str).to_owned()
}

async fn remove_strays(catalog: &Catalog, host: &Host) -> Result<(), StartError> {
    let collections = catalog.collections();
    let shards = collections.values().flat_map(|collection| &collection.shards).map(|(id, _)| *id);
    let wanted: BTreeSet<u64> = shards.chain([embedded::GROUP]).collect();
    Ok(host.remove_strays(&wanted, catalog.last_shard()).await?)
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
