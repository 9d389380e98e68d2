//! One replica: a shard's state, its log group and its indexer, opened and closed together, and the operations on it.
//! Called by `host` (life cycle) and `service` (operations).

mod fresh;
mod moves;
mod row;
mod writes;

pub use moves::Sending;

use super::{
    files::IndexFiles,
    indexer::Proposer,
    live::Live,
    machine::Machine,
    open,
    outcome::{Applied, Outcome},
    read,
    records::Records,
    search,
    settings::IndexSettings,
    state::State,
    stats::ReplicaStats,
    verify::{self, Bucket, Recomputed},
};
use crate::{
    raft::{Forward, GroupStatus, LogError, LogStore, MultiRaft, NodeId, ProposeError, Route, StartError},
    rt,
    store::{Store, StoreError, room::RoomSeen},
    types::{
        Ack, CollectionSpec, DocumentId, Error, ErrorKind, IndexedFields, Result, SlotRange, StoredPoint,
        operation::{Consistency, ListAnswer, ListRequest, Search, SearchAnswer},
    },
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// What a replica is made of; the same for all replicas of a node.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub log: LogStore,
    pub raft: MultiRaft,
    /// The way to leaders on other nodes.
    pub forward: Arc<dyn Forward>,
    pub index_directory: Arc<Path>,
    pub settings: IndexSettings,
    /// Trainings that may run at once on the node.
    pub trainings: Arc<tokio::sync::Semaphore>,
    /// The room on the disk, as it was seen last.
    pub room: RoomSeen,
    /// How old what an eventual read shows may be.
    pub staleness_max: Duration,
}

/// See the module.
pub struct Replica {
    live: Arc<Live>,
    route: Route<Outcome>,
    confirmed: fresh::Confirmed,
    /// The last term in which this replica, as leader, is known to have applied all that was logged before; 0 at first.
    settled_in: AtomicU64,
    room: RoomSeen,
    /// Whether its group was told that it shall not lead.
    stands_aside: AtomicBool,
    indexer: std::sync::Mutex<Option<rt::Task<()>>>,
}

/// A write's place in the log and what it did.
pub struct Written {
    pub log_index: u64,
    pub applied: Applied,
}

impl Written {
    /// What became of the entry at `log_index`.
    ///
    /// # Errors
    /// The refusal.
    pub fn of(log_index: u64, outcome: Outcome) -> Result<Written> {
        match outcome {
            Outcome::Applied(applied) => Ok(Written { log_index, applied }),
            Outcome::Refused(error) => Err(error),
        }
    }
}

impl Replica {
    /// Opens shard `id`, which had the slots `born` when it was made: reads what is stored, replays the log behind it, starts the
    /// indexer. If there is no log, `voters` are the group's first; with none it waits to be added.
    ///
    /// # Errors
    /// `Corrupt` if stored data cannot be trusted.
    pub async fn open(
        id: u64,
        (spec, born): (CollectionSpec, SlotRange),
        voters: &[NodeId],
        parts: &Parts,
    ) -> Result<Replica> {
        let files = IndexFiles::new(&parts.index_directory, id);
        let (store, settings, found_files) = (parts.store.clone(), parts.settings, files.clone());
        let live = rt::compute::io(move || {
            let records = Records::open(store, id)?;
            Ok::<_, Error>(Arc::new(Live::new(open::state(id, (spec, born), records, settings, &found_files)?)))
        })
        .await?;
        let machine = Machine::new(live.clone(), files.clone());
        let group = parts.raft.open(id, voters, machine).await.map_err(not_opened)?;
        let decode = |bytes: &[u8]| Outcome::decode(bytes).map_err(|error| error.to_string());
        let route = Route::new(group, parts.forward.clone(), decode);
        let proposer = Arc::new(route.clone());
        let task = rt::spawn("indexer", live.clone().keep_up(files, proposer, parts.trainings.clone()));
        Ok(Replica {
            live,
            route,
            room: parts.room.clone(),
            confirmed: fresh::Confirmed::new(parts.staleness_max),
            settled_in: AtomicU64::new(0),
            stands_aside: AtomicBool::new(false),
            indexer: std::sync::Mutex::new(Some(task)),
        })
    }

    /// Stops taking operations, finishes what is under way.
    pub async fn close(&self) {
        self.live.close();
        self.route.group().stop().await;
        let task = self.indexer.lock().expect("no panic while closing").take();
        if let Some(task) = task {
            let _ended = task.await;
        }
    }

    /// How this replica's group stands.
    ///
    /// # Errors
    /// `Unavailable` when the replica has stopped or failed.
    pub async fn status(&self) -> Result<GroupStatus> {
        self.route.group().status().await.map_err(not_proposed)
    }

    /// Whether the shard's group has agreed on `nodes` as its voters, and on nobody else.
    ///
    /// # Errors
    /// As [`Replica::status`]; `no_leader` where it is not led, and where a new leader does not know yet what was agreed on before.
    pub async fn is_held_by(&self, nodes: &[NodeId]) -> Result<bool> {
        let GroupStatus { members, leader, is_settled, .. } = self.status().await?;
        if !is_settled {
            return Err(not_proposed(ProposeError::NotLeader { leader }));
        }
        let sorted = |nodes: &[NodeId]| nodes.iter().copied().collect::<std::collections::BTreeSet<_>>();
        let others = [&members.learners, &members.learners_next, &members.voters_outgoing];
        Ok(sorted(&members.voters) == sorted(nodes) && others.into_iter().all(Vec::is_empty))
    }

    /// Makes `nodes` the holders of the shard's replicas; to be called where it is led, and again until it succeeds.
    ///
    /// # Errors
    /// `no_leader` also when this leader was not to stay and has handed over; `no_quorum` when it takes longer than `limit`.
    pub async fn change_members(&self, nodes: &[NodeId], limit: Duration) -> Result<()> {
        self.route.group().change_members(nodes, &[], limit).await.map_err(not_proposed)
    }

    /// Hands leadership, if it is here, to whoever is best prepared.
    ///
    /// # Errors
    /// `no_quorum` if there is nobody, or it did not come to that in time.
    pub async fn hand_over(&self) -> Result<()> {
        self.route.group().hand_over().await.map_err(not_proposed)
    }

    /// Lets `to`, a voter, lead; to be called where the shard is led.
    ///
    /// # Errors
    /// `NotLeader` where it is not led; `Unavailable` if it did not come to that in time: then it is led where the votes put it.
    pub async fn transfer_leader(&self, to: NodeId) -> std::result::Result<(), ProposeError> {
        self.route.group().transfer_leader(to).await
    }

    /// Bytes of its records, about, on disk or only in the journal yet: what a copy of it would send.
    pub fn stored_bytes(&self) -> u64 {
        self.state().records.stored_bytes()
    }

    /// The node that leads the shard, as far as is known here.
    pub fn leader(&self) -> Option<NodeId> {
        self.route.group().leader()
    }

    /// Whether this replica leads the shard, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.route.group().is_leader()
    }

    /// Whether this replica has a vote in its group: not one that is only being filled.
    pub fn votes(&self) -> bool {
        self.route.group().votes()
    }

    /// Whether a read here need not wait for long: nothing is to be asked for it, or the shard is led and nothing is in the way of what
    /// it has committed.
    pub fn answers_soon(&self, consistency: Consistency) -> bool {
        let needs_nobody = consistency == Consistency::Eventual && self.is_fresh();
        needs_nobody || self.leader().is_some() && !self.state().waits_for_job()
    }

    /// The term in which this replica leads the shard, as far as it knows, if it does.
    pub fn leads_in(&self) -> Option<u64> {
        self.route.group().leads_in()
    }

    /// One point, as of now.
    pub fn get(&self, id: &DocumentId) -> Result<StoredPoint> {
        let state = self.state();
        state.trust.heard(read::get(&state, id))
    }

    /// A page of points. Runs on a compute thread.
    pub async fn list(&self, request: ListRequest) -> Result<ListAnswer> {
        let state = self.state();
        rt::compute::cpu(move || state.trust.heard(read::list(&state, &request))).await
    }

    /// Runs one search. Blocks the calling thread for the time of the search.
    pub fn search(&self, request: &Search) -> Result<SearchAnswer> {
        let state = self.state();
        state.trust.heard(search::search(&state, request))
    }

    /// The places of the searches in the order in which they cost least. Blocks the calling thread for some microseconds a search.
    ///
    /// # Errors
    /// `unknown_vector`.
    pub fn order(&self, requests: &[Search]) -> Result<Vec<usize>> {
        search::order(&self.state(), requests)
    }

    /// Whether a search is over so soon that handing it to another thread would cost more.
    pub fn is_short(&self, request: &Search) -> bool {
        search::is_short(&self.state(), request)
    }

    /// Makes these the indexed fields of payloads; new ones are filled in the background.
    pub async fn set_indexed_fields(&self, fields: IndexedFields) {
        let live = self.live.clone();
        rt::compute::io(move || live.set_indexed_fields(&fields)).await;
    }

    fn state(&self) -> Arc<State> {
        self.live.state()
    }

    /// Number of points.
    pub fn points(&self) -> u64 {
        self.state().points()
    }

    /// How far the replica has applied its log.
    pub fn applied(&self) -> u64 {
        self.state().applied()
    }

    /// The log index up to which what was read here before this call may have been written.
    pub fn reaching(&self) -> u64 {
        self.state().reaching()
    }

    /// Log index and content hash of one moment: replicas at the same index hold the same if the hashes are equal.
    pub fn content_hash(&self) -> Result<(u64, u64)> {
        let counters = self.state().records.view().counters()?;
        Ok((counters.applied, counters.hash.0))
    }

    /// Log index and hash of all that approximate answers depend on: replicas at the same index give the same answers if the hashes
    /// are equal. `None` while this one has lost its lists and answers exactly. Cost: a pass over all lists.
    pub async fn index_hash(&self) -> (u64, Option<u64>) {
        let state = self.state();
        rt::compute::io(move || state.index_hash()).await
    }

    /// The content hash after each of the latest rounds of applying, oldest first.
    pub fn recent_hashes(&self) -> Vec<(u64, u64)> {
        self.state().recent_hashes()
    }

    /// Computes the content hash again from all records. Cost: a pass over the shard's data.
    pub async fn recompute_hash(&self) -> Result<Recomputed> {
        let state = self.state();
        let found = rt::compute::io(move || {
            let found = state.trust.heard(verify::recompute_all(&state))?;
            if let Some(damage) = found.damage() {
                state.trust.note(damage);
            }
            Ok(found)
        });
        found.await
    }

    /// The records of one bucket of [`Recomputed::buckets`], to find the one in which two replicas differ. Cost: as
    /// [`Replica::recompute_hash`].
    pub async fn bucket(&self, bucket: u8) -> Result<Bucket> {
        let state = self.state();
        rt::compute::io(move || state.trust.heard(verify::bucket(&state.records.view(), bucket))).await
    }

    /// Why the replica can no longer follow its log, if it cannot.
    pub fn failure(&self) -> Option<String> {
        self.route.group().failure()
    }

    /// What damage was met in the replica's records, if any was.
    pub fn damage(&self) -> Option<String> {
        self.state().trust.damage().map(str::to_owned)
    }

    /// Why the replica neither leads nor serves, if it stands aside.
    pub fn aside(&self) -> Option<String> {
        if self.stands_aside.load(SeqCst) { self.damage() } else { None }
    }

    /// From now on the replica votes and follows only, until it is told otherwise. Hands over what it leads: to be called again while
    /// it is still the leader.
    ///
    /// # Errors
    /// As [`Replica::hand_over`]; `Unavailable` when the replica has stopped or failed.
    pub async fn stand_aside(&self, aside: bool) -> Result<()> {
        if self.stands_aside.load(SeqCst) != aside {
            self.route.group().set_may_lead(!aside).map_err(not_proposed)?;
            self.stands_aside.store(aside, SeqCst);
        }
        if aside { self.hand_over().await } else { Ok(()) }
    }

    /// Whether the replica has been told to stand aside, for whatever damage it had then.
    pub fn was_set_aside(&self) -> bool {
        self.stands_aside.load(SeqCst)
    }

    /// Sizes and states, as of now.
    pub fn stats(&self) -> ReplicaStats {
        ReplicaStats::of(&self.state())
    }
}

fn not_opened(error: StartError) -> Error {
    let (kind, code) = match &error {
        StartError::Log(LogError::Corrupt { .. } | LogError::Store(StoreError::Corrupt { .. }))
        | StartError::Apply { .. } => (ErrorKind::Corrupt, "log_unusable"),
        StartError::Log(_) => (ErrorKind::Unavailable, "store_failed"),
        StartError::Refused { .. } => (ErrorKind::Unavailable, "shard_stopped"),
    };
    Error::new(kind, code, error.to_string())
}

impl Proposer for Route<Outcome> {
    fn leads(&self) -> bool {
        self.group().is_leader()
    }

    fn propose(&self, entry: Bytes) -> BoxFuture<'static, Result<()>> {
        let route = self.clone();
        Box::pin(async move { route.propose(entry, Ack::Quorum).await.map(drop).map_err(not_proposed) })
    }
}

/// What a proposal's failure means to the client.
pub(super) fn not_proposed(error: ProposeError) -> Error {
    let (kind, code) = match error {
        ProposeError::Exhausted => (ErrorKind::Exhausted, "queue_full"),
        ProposeError::TooLarge { .. } => (ErrorKind::Invalid, "command_too_large"),
        ProposeError::NotLeader { .. } => (ErrorKind::Unavailable, "no_leader"),
        ProposeError::Unreachable(_) => (ErrorKind::Unavailable, "leader_unreachable"),
        ProposeError::Unavailable => (ErrorKind::Unavailable, "no_quorum"),
        ProposeError::Stopped => (ErrorKind::Unavailable, "shard_stopped"),
        ProposeError::Indeterminate => (ErrorKind::Indeterminate, "outcome_unknown"),
        ProposeError::Failed(_) => (ErrorKind::Unavailable, "shard_failed"),
    };
    Error::new(kind, code, error.to_string())
}
