//! The engine of a node: data directory, store, log, catalog and shards, opened in order and closed in reverse, with the
//! service over them. No listeners. Built by [`super::Node`] and by the embedded library.

use super::{
    Network, StartError,
    coordination::{self, Coordination, Forming},
    mastership::Mastership,
    membership::{self, Keeper},
    network::InCluster,
    observer::NodeObserver,
    registration::{Registered, Registering},
    room::RoomWatch,
    stores::Stores,
    version,
};
use crate::{
    cluster::{Catalog, Labels, Members, SelfTold},
    config::{Cluster, Config, Name},
    coordination::{Embedded, embedded},
    raft::{LogStore, MultiRaft, RaftOptions},
    rt::{self, shutdown::Shutdown},
    service::{Beyond, Identity, Phase, ReadInVain, Service},
    shard::{Elsewhere, Host, IndexSettings, Parts},
    store::{DataDir, Store, room::RoomSeen},
    telemetry::metrics::Metrics,
    types::limits,
};
use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// How often the engine looks whether its disk has failed.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How often the simulation's stores flush and compact.
const MAINTAIN_INTERVAL: Duration = Duration::from_millis(500);
/// How long a node whose disk has failed waits for what is under way: it may wait for a thread of the store's engine that is gone.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// After a change of the catalog could not be followed.
const FOLLOW_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a node that stops waits for others to lead in its place.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks whether replicas have met damage.
const ASIDE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks whether replicas are where the table says.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Trainings at once on a node: one, so that searches keep the other processors.
const TRAININGS_MAX: usize = 1;

/// See the module.
pub struct Engine {
    service: Service,
    members: Members,
    raft: MultiRaft,
    coordination: Coordination,
    /// None on a node that is alone.
    mastership: Option<Arc<Mastership>>,
    /// None where etcd is not the coordinator.
    registered: Option<Registered>,
    store: Store,
    log: LogStore,
    stop: Shutdown,
    failed: Shutdown,
    /// Why the node cannot take part in its cluster, if it cannot.
    refused: Arc<OnceLock<StartError>>,
    // Last, so that the lock is given back after everything else is closed.
    directory: Arc<DataDir>,
}

/// The parts of an engine that peers' calls reach.
#[derive(Clone)]
pub(super) struct Inside {
    pub(super) raft: MultiRaft,
    /// None where etcd is the coordinator.
    pub(super) coordinator: Option<Embedded>,
    /// None on a node that is alone.
    pub(super) mastership: Option<Arc<Mastership>>,
    pub(super) service: Service,
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
        stores.check_alone()?;
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
        let Network { transport, forward, others, members, cluster } = network;
        let mode = config.mode.name();
        let mut identity = Identity::new(node_id, config.cluster.name.as_str().to_owned(), zone(config), mode);
        identity.labels = labels(config);
        let mut identity = describe(identity);
        let raft = MultiRaft::start(
            node_id,
            log.clone(),
            Some(metrics.log.clone()),
            transport,
            Arc::from(make_directory(&directory, "checkpoint")?),
            raft_options(config),
        );
        let (coordination, own) = coordination::open(config, &directory, &store, &raft).await?;
        let (asked, alarmed) = (coordination.clone(), coordination.clone());
        identity.leader = Arc::new(move || asked.leader());
        identity.alarm = Arc::new(move || alarmed.alarm());
        let coordinator = coordination.shared();
        membership::follow(&*coordinator, &members)?;
        version::check(&*coordinator)?;
        let catalog = Catalog::load(coordinator.clone())?;
        // What was this node's alone comes into the cluster only once that is known.
        let before = own.as_ref().map(|own| Catalog::load(Arc::new(own.clone()))).transpose()?;
        let forming = Forming {
            coordination: coordination.clone(),
            members: members.clone(),
            directory: directory.clone(),
            raft: raft.clone(),
            forward: forward.clone(),
            own,
        };
        let is_formed = forming.open().await?;
        let (to_leaders, room) = (forward.clone(), RoomSeen::default());
        let host = Arc::new(Host::new(Parts {
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
            room: room.clone(),
            staleness_max: config.limits.staleness,
        }));
        remove_strays(before.as_ref().unwrap_or(&catalog), &host).await?;
        let (stop, failed) = (Shutdown::new(), Shutdown::new());
        let (told, mastership) = match cluster {
            Some(InCluster { told, monitoring, peers }) => {
                let control = coordination.embedded().cloned();
                let observer =
                    NodeObserver { node: node_id, control, host: host.clone(), members: members.clone(), peers };
                (Some((told, monitoring)), Some(Arc::new(Mastership::begin(config, coordinator, observer, metrics))))
            }
            None => (None, None),
        };
        if let Some(mastership) = mastership.clone() {
            identity.leader = Arc::new(move || mastership.master());
        }
        let beyond = Beyond {
            members: members.clone(),
            others,
            elsewhere: Elsewhere::new(to_leaders),
            request_timeout: config.limits.request_timeout,
        };
        let service = Service::new(catalog, host, beyond, identity, metrics.clone());
        if let Some(mastership) = &mastership {
            service.administer(mastership.admin());
        }
        service.follow_catalog().await?;
        tracing::debug!(ms = started.elapsed().as_secs_f64() * 1e3, "data opened");
        let mut engine = Engine {
            service,
            members: members.clone(),
            raft,
            coordination,
            mastership,
            registered: None,
            store,
            log,
            stop,
            failed,
            refused: Arc::default(),
            directory,
        };
        engine.watch();
        engine.ask_engines();
        engine.watch_room(config.storage.reserve.bytes(), room);
        engine.maintain();
        engine.follow();
        engine.keep_replicas();
        engine.keep_damaged_aside();
        if let Some((told, monitoring)) = told {
            engine.register(told.clone(), monitoring, metrics);
            engine.keep_members(told, members);
        }
        match is_formed {
            true => engine.service.identity().enter(Phase::Up),
            false => engine.form(forming),
        }
        Ok(engine)
    }

    /// The operations.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The members of the cluster, as far as this node knows.
    #[cfg(test)]
    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// What peers' calls are answered with.
    pub(super) fn inside(&self) -> Inside {
        Inside {
            raft: self.raft.clone(),
            coordinator: self.coordination.embedded().cloned(),
            mastership: self.mastership.clone(),
            service: self.service.clone(),
        }
    }

    /// Where the data is.
    pub fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    /// Fires when the disk has failed, or the node cannot take part in its cluster, and the process must end.
    pub fn failed(&self) -> &Shutdown {
        &self.failed
    }

    /// Why the node cannot take part in its cluster, if that is why it [failed](Engine::failed).
    pub fn refused(&self) -> Option<&StartError> {
        self.refused.get()
    }

    /// Hands mastership and the groups led here to others, as far as there are any that can lead and it comes to that in time, so that nobody has to
    /// wait for an election when this node is gone.
    pub async fn hand_over(&self) {
        // First: it is written by the coordinator's group.
        if let Some(mastership) = &self.mastership {
            mastership.leave().await;
        }
        self.raft.withdraw();
        let led = self.service.host().replicas();
        let shards = led.iter().map(|(_, replica)| async { replica.hand_over().await.is_ok() });
        let control = async {
            match self.coordination.embedded().and_then(Embedded::group) {
                Some(group) => group.hand_over().await.is_ok(),
                None => true,
            }
        };
        let all = futures_util::future::join(control, futures_util::future::join_all(shards));
        match rt::time::timeout(HAND_OVER_LIMIT, all).await {
            Ok((control, shards)) => {
                let kept = shards.into_iter().chain([control]).filter(|handed| !handed).count();
                tracing::info!(kept, "leadership was handed over");
            }
            Err(_) => tracing::warn!("leadership could not be handed over in time; others will elect their leaders"),
        }
    }

    /// Finishes what is under way, syncs, and closes. Where the disk has failed it does not wait for that without limit.
    pub async fn close(self) {
        let failed = self.failed.clone();
        let given_up = async {
            failed.wait().await;
            rt::time::sleep(CLOSE_LIMIT).await;
        };
        tokio::select! {
            biased;
            () = self.close_in_peace() => {}
            () = given_up => tracing::error!("what was under way when the disk failed does not end; the log has what it lacks"),
        }
    }

    async fn close_in_peace(mut self) {
        self.service.identity().enter(Phase::Stopping);
        if let Some(registered) = self.registered.take() {
            registered.leave().await;
        }
        if let Some(mastership) = &self.mastership {
            mastership.stop();
        }
        self.service.host().close().await;
        self.raft.stop().await;
        self.stop.trigger();
        self.coordination.close().await;
        let store = self.store.clone();
        if let Err(error) = rt::compute::io(move || store.sync()).await {
            tracing::error!(%error, "the store could not be synced; the log has what it lacks");
        }
    }

    fn watch(&self) {
        let (store, log, service) = (self.store.clone(), self.log.clone(), self.service.clone());
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        rt::spawn("disk-watch", async move {
            while !stop.is_triggered() {
                if let Some(reason) = failure(&store, &log, &service).await {
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

    /// Asks the stores' engines whether their threads are well; what they say, [`Engine::watch`] sees. Apart from it, because the question waits
    /// while the disk is slow.
    fn ask_engines(&self) {
        if rt::SIMULATED {
            return;
        }
        let (store, log, stop) = (self.store.clone(), self.log.clone(), self.stop.clone());
        rt::spawn("engines-watch", async move {
            while !stop.is_triggered() {
                let (store, log) = (store.clone(), log.clone());
                rt::compute::io(move || {
                    store.ask_engine();
                    log.ask_engine();
                })
                .await;
                tokio::select! {
                    biased;
                    () = stop.wait() => {}
                    () = rt::time::sleep(WATCH_INTERVAL) => {}
                }
            }
        });
    }

    fn watch_room(&self, reserve: u64, seen: RoomSeen) {
        let directory = self.directory.path().to_owned();
        let watch = RoomWatch { directory, reserve, seen, raft: self.raft.clone(), service: self.service.clone() };
        drop(rt::spawn("room-watch", watch.run(self.stop.clone())));
    }

    /// Keeps groups and replicas as the shard table says, where this node leads and where it is not wanted any more.
    fn keep_replicas(&self) {
        let (service, stop) = (self.service.clone(), self.stop.clone());
        rt::spawn("replicas-follow", async move {
            let keep = async {
                loop {
                    rt::time::sleep(KEEP_INTERVAL).await;
                    service.lead_members().await;
                    service.give_slots();
                    service.finish_deletions();
                    if let Err(error) = service.leave_unwanted().await {
                        tracing::error!(%error, "the data of a replica that was moved away could not be removed");
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = keep => {}
            }
        });
    }

    /// Keeps replicas whose records are damaged from leading and serving.
    fn keep_damaged_aside(&self) {
        let (service, stop) = (self.service.clone(), self.stop.clone());
        rt::spawn("damaged-aside", async move {
            let mut in_vain = ReadInVain::default();
            let keep = async {
                loop {
                    rt::time::sleep(ASIDE_INTERVAL).await;
                    service.keep_damaged_aside(&mut in_vain).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = keep => {}
            }
        });
    }

    /// Makes on this node what others have changed in the catalog.
    fn follow(&self) {
        let (coordination, service, stop) = (self.coordination.clone(), self.service.clone(), self.stop.clone());
        let (members, failed, refused) = (self.members.clone(), self.failed.clone(), self.refused.clone());
        rt::spawn("catalog-follow", async move {
            let mut behind = false;
            while !stop.is_triggered() {
                tokio::select! {
                    biased;
                    () = stop.wait() => return,
                    () = coordination.changed() => {}
                    () = rt::time::sleep(FOLLOW_RETRY_INTERVAL), if behind => {}
                }
                if let Err(error) = version::check(&*coordination.shared()) {
                    tracing::error!(%error, "this node cannot take part in the cluster any more; it stops");
                    // The first reason counts.
                    let _ = refused.set(error.in_cluster());
                    failed.trigger();
                    return;
                }
                let known = membership::follow(&*coordination.shared(), &members);
                let followed = service.follow_catalog().await.and(known);
                behind = followed.is_err();
                if let Err(error) = followed {
                    tracing::error!(%error, "the catalog could not be followed; it will be tried again");
                }
            }
        });
    }

    /// Says in etcd that this node is there.
    fn register(&mut self, told: SelfTold, monitoring: String, metrics: &Metrics) {
        if self.coordination.embedded().is_some() {
            return;
        }
        let (coordinator, members) = (self.coordination.shared(), self.members.clone());
        let (service, metrics) = (self.service.clone(), metrics.clone());
        let registering = Registering { coordinator, members, service, told, monitoring, metrics };
        self.registered = Some(registering.start());
    }

    /// Keeps the records of the members and the coordinator's group as they should be.
    fn keep_members(&self, told: SelfTold, members: Members) {
        let keeper = Keeper { node: self.raft.node(), told, members, coordination: self.coordination.clone() };
        drop(rt::spawn("cluster-members", keeper.run(self.stop.clone())));
    }

    /// Waits until there is a cluster, found or joined, then takes part.
    fn form(&self, forming: Forming) {
        let (service, stop, failed) = (self.service.clone(), self.stop.clone(), self.failed.clone());
        let refused = self.refused.clone();
        rt::spawn("cluster-form", async move {
            let formed = tokio::select! {
                biased;
                () = stop.wait() => return,
                formed = forming.form() => formed,
            };
            match formed {
                Ok(()) => {
                    // What requests see is as new as what the node has learned on its way here.
                    if let Err(error) = service.follow_catalog().await {
                        tracing::error!(%error, "the catalog could not be followed; it will be tried again");
                    }
                    service.identity().enter(Phase::Up);
                }
                Err(error) => {
                    tracing::error!(%error, "this node cannot take part in the cluster; it stops");
                    // Set once: it forms once.
                    let _ = refused.set(error.in_cluster());
                    failed.trigger();
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
        checkpoint_bytes_per_second: NonZeroU64::new(config.raft.checkpoint_bytes_per_second.bytes()),
        ..RaftOptions::default()
    }
}

/// What the node is looked for by.
pub(super) fn labels(config: &Config) -> Labels {
    let text = |name: &Name| name.as_str().to_owned();
    let Cluster { tags, group, .. } = &config.cluster;
    Labels { tags: tags.iter().map(text).collect(), group: group.as_ref().map(text).unwrap_or_default() }
}

pub(super) fn zone(config: &Config) -> String {
    config.cluster.zone.as_ref().map_or("default", Name::as_str).to_owned()
}

async fn remove_strays(catalog: &Catalog, host: &Host) -> Result<(), StartError> {
    let collections = catalog.collections();
    let shards = collections.values().flat_map(|collection| &collection.shards).map(|(id, _)| *id);
    let wanted: BTreeSet<u64> = shards.chain([embedded::GROUP]).collect();
    Ok(host.remove_strays(&wanted, catalog.last_shard()).await?)
}

/// Why the node must stop, if it must. Replicas that others can rebuild are given up here.
async fn failure(store: &Store, log: &LogStore, service: &Service) -> Option<String> {
    if store.is_poisoned() {
        return Some("a write, sync or flush of the store has failed".to_owned());
    }
    // All replicas fail with the log. They hold nothing wrong, and are not for others to rebuild.
    if log.is_poisoned() {
        return Some("a write, sync or flush of the log has failed".to_owned());
    }
    service.give_up_failed().await.err()
}
