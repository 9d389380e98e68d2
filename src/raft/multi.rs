//! The handle to a node's groups: open and close them, give the network's messages to them, give out checkpoints. One driver
//! task and one log writer stand behind it. Built by `node`; used by `shard`, `coordination` and `peer`.

use super::apply::Tasks;
use super::beat::BEATS;
use super::cache::NodeCache;
use super::checkpoints::{self, FoundCheckpoint, Partials, Shelf, Throttle, Turn};
use super::compute;
use super::driver::{Driver, Given, Input};
use super::lanes::Lanes;
use super::log_size::LogSize;
use super::member::Parts;
use super::open::Opening;
use super::replica::Replica;
use super::round::{Round, RoundParts};
use super::shared::Shared;
use super::writer::LogWriter;
use super::{ApplyError, Checkpoint, CheckpointHead, CheckpointPart, CheckpointPlace, CheckpointStream};
use super::{CheckpointWanted, FetchError, Group, GroupId};
use super::{GroupMessage, LogIndex, LogStats, LogStore, NodeId, RaftOptions, StartError, StateMachine, Transport};
use crate::mutants::mutant;
use crate::rt;
use crate::store::StoreError;
use crate::telemetry::metrics::LogMetrics;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::RngCore;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Handle to the driver of a node. Cheap to clone; the driver ends when it is stopped, or when the last handle to it and
/// to its groups is dropped.
#[derive(Clone)]
pub struct MultiRaft {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    log: LogStore,
    options: RaftOptions,
    driver: mpsc::UnboundedSender<Input>,
    received_bytes: Arc<AtomicUsize>,
    checkpoints: Arc<Path>,
    /// What a run before this one left there; looked for once.
    left: Mutex<Option<Vec<FoundCheckpoint>>>,
    throttle: Arc<Throttle>,
    shelf: Arc<Shelf>,
    partials: Arc<Partials>,
    stats: Arc<LogStats>,
    lanes: Lanes,
    cache: NodeCache,
}

impl MultiRaft {
    /// Starts the driver of node `node` (not 0) over `log`. Checkpoints on their way in are kept in `checkpoints`, a directory
    /// that exists.
    ///
    /// # Panics
    /// If `node` is 0, which stands for nobody.
    pub fn start(
        node: NodeId,
        log: LogStore,
        metrics: Option<LogMetrics>,
        transport: Arc<dyn Transport>,
        checkpoints: Arc<Path>,
        options: RaftOptions,
    ) -> MultiRaft {
        assert_ne!(node, 0, "a node's identity is not 0");
        let (driver, inbox) = mpsc::unbounded_channel();
        let (stats, received_bytes) = (Arc::new(LogStats::default()), Arc::new(AtomicUsize::new(0)));
        let lanes = Lanes::new(driver.downgrade());
        let (shelf, partials) = (Shelf::new(options.checkpoints_max), Arc::new(Partials::default()));
        let parts = RoundParts {
            log: log.clone(),
            writer: LogWriter::start(log.clone(), driver.downgrade(), stats.clone(), metrics),
            transport,
            checkpoints: checkpoints.clone(),
            driver: driver.downgrade(),
            lanes: lanes.clone(),
            shelf: shelf.clone(),
            partials: partials.clone(),
        };
        let boot = rt::rng::stream("raft/boot").next_u64();
        let round = Round::new(node, options, boot, rt::rng::stream("raft/driver"), parts);
        rt::spawn("raft-driver", Driver::new(inbox, received_bytes.clone(), round).run());
        let throttle = Throttle::new(options.checkpoints_max, options.checkpoint_bytes_per_second);
        let left = Mutex::new(None);
        MultiRaft {
            inner: Arc::new(Inner {
                node,
                log,
                options,
                driver,
                received_bytes,
                checkpoints,
                left,
                throttle,
                shelf,
                partials,
                stats,
                lanes,
                cache: NodeCache::new(options.cache_node_bytes_max),
            }),
        }
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The log of all groups.
    pub fn log(&self) -> &LogStore {
        &self.inner.log
    }

    /// Counters of the log writer.
    pub fn log_stats(&self) -> &Arc<LogStats> {
        &self.inner.stats
    }

    /// Opens a group, creating its log if there is none: with `voters` as its first members (the same on each of them), or,
    /// with none, as a member that is to be added to a group that exists. `voters` matter only then. Committed entries that
    /// the machine lacks are applied before this returns; where this node alone votes, it leads when this returns, and all of
    /// its log is applied.
    ///
    /// # Errors
    /// `Corrupt` when log and state do not join.
    pub async fn open<M: StateMachine>(
        &self,
        group: GroupId,
        voters: &[NodeId],
        machine: M,
    ) -> Result<Group<M::Outcome>, StartError> {
        let inner = &*self.inner;
        let refused = |problem: String| StartError::Refused { group, problem };
        if group == BEATS {
            return Err(refused("no group has that identity".to_owned()));
        }
        let opened = self.prepare(group, voters.to_vec(), machine).await?;
        let options = inner.options;
        let shared = Arc::new(Shared::new(group, opened.machine.applied()));
        let (last_index, members) = (opened.mirror.last_index(), opened.mirror.members().clone());
        let alone = members.voters == [inner.node] && members.voters_outgoing.is_empty();
        let is_first = opened.is_new && first_leader(group, &members.voters) == Some(inner.node);
        let replica = Replica::new(inner.node, opened.mirror, opened.applied, options.pace())
            .map_err(|error| refused(error.to_string()))?;
        let tasks = Tasks::new(shared.clone(), opened.machine, options.apply_bounds(), inner.lanes.clone());
        let parts = Parts {
            shared: shared.clone(),
            replica,
            tasks,
            size: LogSize::new(options.compact_after_bytes, last_index, opened.replayed_bytes),
            awaits_state: opened.awaits_state,
            is_eager: alone || is_first,
        };
        let (answer, answered) = oneshot::channel();
        let input = Input::Open { parts: Box::new(parts), answer };
        inner.driver.send(input).map_err(|_| refused("the driver has ended".to_owned()))?;
        answered.await.unwrap_or_else(|_| Err("the driver has ended".to_owned())).map_err(refused)?;
        let group = Group::new(shared.clone(), inner.driver.clone(), options.bounds());
        if alone {
            // Its first entry as leader is behind everything that was in the log.
            group.wait_applied(last_index + 1).await.map_err(|error| refused(error.to_string()))?;
        }
        Ok(group)
    }

    /// Closes a group: it takes no more proposals, and this returns when those under way are through. The log stays. A group
    /// that is not open is no error.
    pub async fn close(&self, group: GroupId) {
        self.tell_and_wait(|done| Input::Close { group, done }).await;
    }

    /// Messages of another node, in the order in which they came. Dropped when too much is waiting already, as the network
    /// might have dropped them.
    pub fn receive(&self, from: NodeId, messages: Vec<GroupMessage>) {
        let bytes = messages.iter().map(|message| message.message.len()).sum();
        let before = self.inner.received_bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = before + bytes <= self.inner.options.receive_bytes_max || before == 0;
        if !fits || self.inner.driver.send(Input::Received { from, messages, bytes }).is_err() {
            self.inner.received_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
    }

    /// The connection to a node broke: what was under way to it may be lost, and its process may have ended.
    pub fn peer_lost(&self, node: NodeId) {
        // A driver that has ended has nothing to learn.
        let _ = self.inner.driver.send(Input::PeerLost(node));
    }

    /// The node is about to stop: its groups vote and follow, but neither try to lead nor take leadership that is handed to them. What
    /// is led goes on to be, until it is handed over.
    pub fn withdraw(&self) {
        // A driver that has ended leads nothing.
        let _ = self.inner.driver.send(Input::Withdraw);
    }

    /// Whether the disk has no room: then groups here take neither entries nor checkpoints of others, as if they had been lost.
    pub fn set_full(&self, is_full: bool) {
        // A driver that has ended takes nothing.
        let _ = self.inner.driver.send(Input::DiskFull(is_full));
    }

    /// The state of a group here for another node.
    pub fn serve_checkpoint(
        &self,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        let raft = self.clone();
        async move { raft.serve(group, wanted).await }.boxed()
    }

    /// Bytes of log entries in memory, of all groups.
    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> usize {
        self.inner.cache.bytes()
    }

    /// Closes every group and ends the driver.
    pub async fn stop(&self) {
        self.tell_and_wait(Input::Stop).await;
    }

    async fn tell_and_wait(&self, input: impl FnOnce(oneshot::Sender<()>) -> Input) {
        let (done, finished) = oneshot::channel();
        if self.inner.driver.send(input(done)).is_ok() {
            // An error means the driver has ended, or knows of nothing to wait for.
            let _ = finished.await;
        }
    }

    async fn prepare<M: StateMachine>(
        &self,
        group: GroupId,
        voters: Vec<NodeId>,
        machine: M,
    ) -> Result<super::open::Opened<M>, StartError> {
        let raft = self.clone();
        compute::io(move || {
            let inner = &*raft.inner;
            let checkpoints = inner.take_left(group)?;
            let (node, apply_bytes_max) = (inner.node, inner.options.apply_bytes_max);
            Opening { node, group, voters: &voters, log: &inner.log, checkpoints, apply_bytes_max, cache: &inner.cache }
                .open(machine)
        })
        .await
    }

    async fn serve(&self, group: GroupId, wanted: CheckpointWanted) -> Result<Box<dyn CheckpointStream>, FetchError> {
        let refused = |why: &str| FetchError::Refused(why.to_owned());
        let ended = |_| refused("the node stops");
        // Before the state's view, which would be held open while it waits.
        let turn = self.inner.throttle.begin()?;
        let turn = match self.go_on(group, wanted, turn).await? {
            Ok(parts) => return Ok(parts),
            Err(turn) => turn,
        };
        let (answer, given) = oneshot::channel();
        self.ask(Input::Serve { group, at_least: wanted.at_least, answer })?;
        let Given { checkpoint, giving: _giving } = given.await.map_err(ended)??;
        let checkpoint = checkpoint.await.map_err(ended)?.map_err(FetchError::Refused)?;
        let head = self.head(group, checkpoint.index()).await?;
        let (head, giving) = head.ok_or_else(|| refused("the members have changed meanwhile"))?;
        let checkpoint = if mutant!(9) { Box::new(WithoutLast::new(checkpoint)?) } else { checkpoint };
        let parts = checkpoints::serve(&self.inner.shelf, group, head, checkpoint, turn);
        Ok(Box::new(Giving { parts, _giving: giving }))
    }

    /// The rest of a checkpoint whose stream broke, if it is still here and the log still follows it; the turn, if not.
    async fn go_on(
        &self,
        group: GroupId,
        wanted: CheckpointWanted,
        turn: Turn,
    ) -> Result<Result<Box<dyn CheckpointStream>, Turn>, FetchError> {
        let kept = |place: CheckpointPlace| Some((place, self.inner.shelf.find(group, place.id)?));
        let Some((place, kept)) = wanted.goes_on.and_then(kept) else { return Ok(Err(turn)) };
        match self.head(group, kept.head.index).await? {
            Some((head, giving)) if head == kept.head => {
                let parts = checkpoints::go_on(&self.inner.shelf, kept, place, turn).await;
                Ok(parts.map(|parts| Box::new(Giving { parts, _giving: giving }) as Box<dyn CheckpointStream>))
            }
            _ => Ok(Err(turn)),
        }
    }

    async fn head(&self, group: GroupId, index: LogIndex) -> Result<Option<(CheckpointHead, Arc<()>)>, FetchError> {
        let (answer, head) = oneshot::channel();
        self.ask(Input::Head { group, index, answer })?;
        head.await.map_err(|_| FetchError::Refused("the node stops".to_owned()))
    }

    fn ask(&self, input: Input) -> Result<(), FetchError> {
        self.inner.driver.send(input).map_err(|_| FetchError::Refused("the node stops".to_owned()))
    }
}

impl Inner {
    /// What an earlier run left in the directory.
    fn found(&self) -> Result<Vec<FoundCheckpoint>, StoreError> {
        checkpoints::partials(&self.checkpoints)?.into_iter().for_each(|partial| self.partials.put(partial));
        checkpoints::found(&self.checkpoints)
    }

    /// The checkpoints of a group that an earlier run left. Reads the directory the first time.
    fn take_left(&self, group: GroupId) -> Result<Vec<FoundCheckpoint>, StartError> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let all = match left.take() {
            Some(all) => all,
            None => self.found().map_err(|error| StartError::Log(error.into()))?,
        };
        let (own, rest) = all.into_iter().partition(|found| found.group == group);
        *left = Some(rest);
        Ok(own)
    }
}

/// Who is to lead a new group first, so that leaders are spread and no election timeout has to pass.
fn first_leader(group: GroupId, voters: &[NodeId]) -> Option<NodeId> {
    let at = group % u64::try_from(voters.len()).ok()?.max(1);
    voters.get(usize::try_from(at).ok()?).copied()
}

/// A checkpoint being given; while it is, the group knows.
struct Giving {
    parts: Box<dyn CheckpointStream>,
    _giving: Arc<()>,
}

impl CheckpointStream for Giving {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        self.parts.next()
    }
}

/// Mutant 9: a checkpoint whose last chunk is missing.
struct WithoutLast {
    inner: Box<dyn Checkpoint>,
    next: Option<Bytes>,
}

impl WithoutLast {
    fn new(mut inner: Box<dyn Checkpoint>) -> Result<WithoutLast, FetchError> {
        let next = inner.next_chunk().map_err(|error| FetchError::Refused(error.to_string()))?;
        Ok(WithoutLast { inner, next })
    }
}

impl Checkpoint for WithoutLast {
    fn index(&self) -> LogIndex {
        self.inner.index()
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        let after = self.inner.next_chunk()?;
        let this = std::mem::replace(&mut self.next, after);
        Ok(this.filter(|_| self.next.is_some()))
    }
}
