//! One replica: a shard's state, its log group and its indexer, opened and closed together, and the operations on it.
//! Called by `host` (life cycle) and `service` (operations).

use super::{
    command::{Command, WriteBuffers},
    files::IndexFiles,
    indexer,
    machine::Machine,
    open,
    outcome::{Applied, Outcome},
    read,
    records::Records,
    search,
    settings::IndexSettings,
    state::State,
    stats::ReplicaStats,
};
use crate::{
    raft::{Group, LogStore, LogWriter, ProposeError, SoloOptions, start_solo},
    rt::{self, shutdown::Shutdown},
    store::Store,
    types::{
        CollectionSpec, DocumentId, Error, ErrorKind, IndexedFields, Point, PointPatch, Result, StoredPoint,
        operation::{DeleteRequest, ListAnswer, ListRequest, Search, SearchAnswer},
    },
};
use bytes::Bytes;
use std::{path::Path, sync::Arc};

/// What a replica is made of; the same for all replicas of a node.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub log: LogStore,
    pub writer: LogWriter,
    pub solo: SoloOptions,
    pub index_directory: Arc<Path>,
    pub settings: IndexSettings,
    /// Trainings that may run at once on the node.
    pub trainings: Arc<tokio::sync::Semaphore>,
}

/// See the module.
pub struct Replica {
    state: Arc<State>,
    group: Group<Outcome>,
    stop: Shutdown,
    indexer: std::sync::Mutex<Option<rt::Task<()>>>,
}

/// A write's place in the log and what it did.
pub struct Written {
    pub log_index: u64,
    pub applied: Applied,
}

impl Replica {
    /// Opens shard `id`: reads what is stored, replays the log behind it, starts the indexer.
    ///
    /// # Errors
    /// `Corrupt` if stored data cannot be trusted.
    pub async fn open(id: u64, spec: CollectionSpec, parts: &Parts) -> Result<Replica> {
        let files = IndexFiles::new(&parts.index_directory, id);
        let (store, settings, found_files) = (parts.store.clone(), parts.settings, files.clone());
        let state = rt::compute::io(move || {
            let records = Records::open(store, id)?;
            let found = open::find(&records, &spec, &settings, &found_files)?;
            Ok::<_, Error>(Arc::new(State::new(id, spec, records, settings, found)))
        })
        .await?;
        let machine = Machine::new(state.clone());
        let group = start_solo(id, parts.log.clone(), parts.writer.clone(), machine, parts.solo)
            .await
            .map_err(|error| Error::new(ErrorKind::Corrupt, "log_unusable", error.to_string()))?;
        let stop = Shutdown::new();
        let indexer = indexer::Indexer::new(state.clone(), files, parts.trainings.clone());
        let task = rt::spawn("indexer", indexer.run(stop.clone()));
        Ok(Replica { state, group, stop, indexer: std::sync::Mutex::new(Some(task)) })
    }

    /// Stops taking operations, finishes what is under way.
    pub async fn close(&self) {
        self.stop.trigger();
        self.group.stop().await;
        let task = self.indexer.lock().expect("no panic while closing").take();
        if let Some(task) = task {
            let _ended = task.await;
        }
    }

    /// Writes points, all or none.
    pub async fn upsert(&self, points: Vec<Point>) -> Result<Written> {
        let command = rt::compute::short(|| Command::Upsert(WriteBuffers::of_points(points).writes()).encode())?;
        self.propose(command).await
    }

    /// Changes one point.
    pub async fn patch(&self, patch: PointPatch) -> Result<Written> {
        let buffers = WriteBuffers::of_patch(patch);
        self.propose(Command::Patch(buffers.writes().remove(0)).encode()?).await
    }

    /// Removes points.
    pub async fn delete(&self, request: &DeleteRequest) -> Result<Written> {
        let command = match request {
            DeleteRequest::Ids(ids) => Command::Delete(ids.iter().map(DocumentId::point_id).collect()).encode()?,
            DeleteRequest::Filter(filter) => Command::DeleteWhere(&filter.source().to_string()).encode()?,
        };
        self.propose(command).await
    }

    async fn propose(&self, command: Vec<u8>) -> Result<Written> {
        match self.group.propose(Bytes::from(command)).await {
            Ok((log_index, Outcome::Applied(applied))) => Ok(Written { log_index, applied }),
            Ok((_, Outcome::Refused(error))) => Err(error),
            Err(error) => Err(not_proposed(error)),
        }
    }

    /// Waits until a read sees every write acknowledged before now, and at least log index `seen`; says how far it sees.
    pub async fn read_barrier(&self, seen: u64) -> Result<u64> {
        let index = self.group.read_index().await.map_err(not_proposed)?;
        if seen > index {
            return Err(Error::invalid("session_ahead", "the session token has seen more than this shard ever held")
                .at("session")
                .expected(format!("at most log index {index}"))
                .got(seen));
        }
        Ok(index)
    }

    /// One point, as of now.
    pub fn get(&self, id: &DocumentId) -> Result<StoredPoint> {
        read::get(&self.state, id)
    }

    /// A page of points. Runs on a compute thread.
    pub async fn list(&self, request: ListRequest) -> Result<ListAnswer> {
        let state = self.state.clone();
        rt::compute::cpu(move || read::list(&state, &request)).await
    }

    /// Runs one search. Blocks the calling thread for the time of the search.
    pub fn search(&self, request: &Search) -> Result<SearchAnswer> {
        search::search(&self.state, request)
    }

    /// Whether a search is over so soon that handing it to another thread would cost more.
    pub fn is_short(&self, request: &Search) -> bool {
        search::is_short(&self.state, request)
    }

    /// Makes these the indexed fields of payloads; new ones are filled in the background.
    pub async fn set_indexed_fields(&self, fields: IndexedFields) {
        let state = self.state.clone();
        rt::compute::io(move || state.set_indexed_fields(&fields)).await;
    }

    /// Number of points.
    pub fn points(&self) -> u64 {
        self.state.points()
    }

    /// How far the replica has applied its log.
    pub fn applied(&self) -> u64 {
        self.state.applied()
    }

    /// Why the replica can no longer follow its log, if it cannot.
    pub fn failure(&self) -> Option<String> {
        self.group.failure()
    }

    /// Sizes and states, as of now.
    pub fn stats(&self) -> ReplicaStats {
        ReplicaStats::of(&self.state)
    }
}

fn not_proposed(error: ProposeError) -> Error {
    let (kind, code) = match error {
        ProposeError::Exhausted => (ErrorKind::Exhausted, "queue_full"),
        ProposeError::TooLarge { .. } => (ErrorKind::Invalid, "command_too_large"),
        ProposeError::Stopped => (ErrorKind::Unavailable, "shard_stopped"),
        ProposeError::Indeterminate => (ErrorKind::Indeterminate, "outcome_unknown"),
        ProposeError::Failed(_) => (ErrorKind::Unavailable, "shard_failed"),
    };
    Error::new(kind, code, error.to_string())
}
