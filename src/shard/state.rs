//! What one replica holds: its space in the store, its indexes in memory, and the counters both agree on.
//!
//! Invariants: the index holds a row for exactly the points the store holds (by id and version) whenever `gate` is free;
//! `applied` moves in the same batch as the effects it stands for. Called by `machine` (writing), `search` and `read`
//! (reading), `indexer` (maintaining).

use crate::{
    index::{Damage, HashJob, IndexKind, IndexSpec, Points, VectorIndex},
    rt::shutdown::Shutdown,
    shard::{
        content::ContentHash,
        payload::PayloadIndexes,
        records::{Counters, Records},
        settings::IndexSettings,
        upkeep::keeper::Keeper,
    },
    types::{
        CollectionSpec, IndexType, IndexedFields, Metric, Payload, PointId, VectorName, VectorSpec,
        limits::REQUEST_IDS_MAX,
    },
};
use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};
use xxhash_rust::xxh3::xxh3_64;

/// Rounds whose content hash is remembered: some seconds of writing.
const RECENT_HASHES_MAX: usize = 1_024;

/// See the module.
pub struct State {
    pub id: u64,
    pub spec: CollectionSpec,
    pub records: Records,
    pub settings: IndexSettings,
    /// Held by the machine from before a batch commits until the index shows it.
    gate: Mutex<()>,
    indexes: RwLock<Indexes>,
    applied: AtomicU64,
    points: AtomicU64,
    requests: AtomicU64,
    content_hash: AtomicU64,
    /// Applied index and content hash after each of the latest rounds.
    recent_hashes: Mutex<VecDeque<(u64, u64)>>,
    /// How many requests are remembered: the same on every replica.
    pub request_ids_max: u64,
    /// What is known of upkeep. Locked for moments, and after `indexes` where both are.
    keeper: Mutex<Keeper>,
    /// Held while index files are written or removed.
    saving: Mutex<()>,
    /// Rows written since the index file was.
    unsaved_rows: AtomicU64,
    /// The epoch of the last index file begun.
    last_epoch: AtomicU64,
    /// Whether the machine waits for a job.
    waits_for_job: AtomicBool,
    /// Rung after every change, for the indexer.
    pub changed: tokio::sync::Notify,
    /// Triggered when this is no longer what the replica holds, or the replica closes.
    pub retired: Shutdown,
}

impl State {
    /// A state over `records`, with the indexes, counters and knowledge of upkeep found there.
    pub fn new(
        id: u64,
        spec: CollectionSpec,
        records: Records,
        settings: IndexSettings,
        (mut indexes, counters, keeper): (Indexes, Counters, Keeper),
    ) -> State {
        indexes.set_applied(counters.applied);
        indexes.payload.set_fields(&spec.indexed_fields, counters.points);
        State {
            id,
            spec,
            records,
            settings,
            gate: Mutex::new(()),
            indexes: RwLock::new(indexes),
            applied: AtomicU64::new(counters.applied),
            points: AtomicU64::new(counters.points),
            requests: AtomicU64::new(counters.requests),
            content_hash: AtomicU64::new(counters.hash.0),
            recent_hashes: Mutex::default(),
            request_ids_max: REQUEST_IDS_MAX as u64,
            keeper: Mutex::new(keeper),
            saving: Mutex::new(()),
            unsaved_rows: AtomicU64::new(0),
            last_epoch: AtomicU64::new(0),
            waits_for_job: AtomicBool::new(false),
            changed: tokio::sync::Notify::new(),
            retired: Shutdown::new(),
        }
    }

    /// Makes these the indexed fields; new ones are filled in the background. Cost: may wait for a round of the machine.
    pub fn set_indexed_fields(&self, fields: &IndexedFields) {
        let _standing_still = self.close_gate();
        self.indexes_mut().payload.set_fields(fields, self.points());
        self.changed.notify_one();
    }

    /// Puts indexes made from the records in place of the present ones; their payload indexes are filled in the background. The
    /// caller holds the gate.
    pub fn replace_indexes(&self, mut indexes: Indexes) {
        let mut present = self.indexes_mut();
        indexes.applied = present.applied;
        indexes.payload.set_fields(&present.payload.fields(), self.points());
        *present = indexes;
    }

    /// Keeps the machine out, so that store and index stand still together.
    pub fn close_gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().expect("no panic behind the gate")
    }

    /// The indexes, to search.
    pub fn indexes(&self) -> RwLockReadGuard<'_, Indexes> {
        self.indexes.read().expect("no panic while changing the index")
    }

    /// The indexes, to search, if that needs no waiting.
    pub fn try_indexes(&self) -> Option<RwLockReadGuard<'_, Indexes>> {
        self.indexes.try_read().ok()
    }

    /// The indexes, to change.
    pub fn indexes_mut(&self) -> RwLockWriteGuard<'_, Indexes> {
        self.indexes.write().expect("no panic while changing the index")
    }

    /// The log index of the last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied.load(SeqCst)
    }

    /// Number of points.
    pub fn points(&self) -> u64 {
        self.points.load(SeqCst)
    }

    /// All counters, as of one moment to whoever holds the gate.
    pub fn counters(&self) -> Counters {
        Counters {
            applied: self.applied(),
            points: self.points(),
            requests: self.requests.load(SeqCst),
            hash: ContentHash(self.content_hash.load(SeqCst)),
        }
    }

    /// Publishes what a committed round that touched `rows` points has made of the counters.
    pub fn publish(&self, counters: &Counters, rows: u64) {
        assert!(counters.applied >= self.applied(), "the applied index never goes back");
        if self.keeper().has_journal() {
            self.unsaved_rows.fetch_add(rows, SeqCst);
        }
        self.remember_hash(counters);
        self.requests.store(counters.requests, SeqCst);
        self.content_hash.store(counters.hash.0, SeqCst);
        self.points.store(counters.points, SeqCst);
        self.applied.store(counters.applied, SeqCst);
        self.changed.notify_one();
    }

    fn remember_hash(&self, counters: &Counters) {
        let mut recent = self.recent_hashes.lock().expect("no panic while remembering");
        if recent.len() == RECENT_HASHES_MAX {
            recent.pop_front();
        }
        recent.push_back((counters.applied, counters.hash.0));
    }

    /// Applied index and content hash after each of the latest rounds, oldest first: replicas whose rounds ended at a common
    /// index can be compared while writes go on.
    pub fn recent_hashes(&self) -> Vec<(u64, u64)> {
        self.recent_hashes.lock().expect("no panic while remembering").iter().copied().collect()
    }

    /// What is known of upkeep.
    pub fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().expect("no panic while looking after upkeep")
    }

    /// Keeps others from writing or removing index files.
    pub fn saving(&self) -> MutexGuard<'_, ()> {
        // It guards files, which are whole at any time.
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of the next index file, greater than `before` and than any that was given out.
    pub fn next_epoch(&self, before: u64) -> u64 {
        let next = self.last_epoch.load(SeqCst).max(before) + 1;
        self.last_epoch.store(next, SeqCst);
        next
    }

    /// Hash of all that approximate answers depend on, and the log index it is of: equal on replicas at the same index. `None` while
    /// this replica is astray, and so answers exactly. Cost: a pass over all lists, off every lock.
    pub fn index_hash(&self) -> (u64, Option<u64>) {
        let indexes = self.indexes();
        let (applied, damage) = (indexes.applied(), indexes.damage().clone());
        let is_astray = !self.keeper().astray().is_empty();
        let jobs: Vec<HashJob> = indexes.iter().map(|(_, index)| index.hash_job(indexes.points())).collect();
        drop(indexes);
        let sum = xxh3_64(&jobs.iter().flat_map(|job| job.run().to_le_bytes()).collect::<Vec<u8>>());
        // Asked last: the pass may have found damage.
        (applied, (damage.found().is_none() && !is_astray).then_some(sum))
    }

    /// Rows the index file does not have.
    pub fn unsaved_rows(&self) -> u64 {
        self.unsaved_rows.load(SeqCst)
    }

    /// The index file now has so many of them.
    pub fn saved(&self, rows: u64) {
        self.unsaved_rows.fetch_sub(rows.min(self.unsaved_rows()), SeqCst);
    }

    /// So many rows came after the index file.
    pub fn restored(&self, unsaved_rows: u64) {
        self.unsaved_rows.store(unsaved_rows, SeqCst);
    }

    /// Whether the machine waits for a job of upkeep that the leader has done and this replica has not.
    pub fn waits_for_job(&self) -> bool {
        self.waits_for_job.load(SeqCst)
    }

    /// Says whether it does.
    pub fn set_waits_for_job(&self, waits: bool) {
        self.waits_for_job.store(waits, SeqCst);
    }
}

/// The points of the shard by ordinal, one index for every vector of the collection, by name, and those of the payload's fields.
/// Every row of an index belongs to a point, and is of the version the point has.
pub struct Indexes {
    points: Points,
    vectors: Vec<(VectorName, VectorIndex)>,
    /// Of the index files that parts of all this may be in.
    damage: Damage,
    payload: PayloadIndexes,
    /// The log index whose effects it shows.
    applied: u64,
}

impl Indexes {
    /// Empty indexes.
    pub fn new(spec: &CollectionSpec, settings: &IndexSettings) -> Indexes {
        let index = |spec: &VectorSpec| VectorIndex::new(index_spec(spec, settings));
        let vectors = spec.vectors.iter().map(|(name, spec)| (name.clone(), index(spec))).collect();
        Indexes {
            points: Points::new(),
            vectors,
            damage: Damage::default(),
            payload: PayloadIndexes::new(),
            applied: 0,
        }
    }

    /// The index of one vector; `None` if the collection has no such vector.
    pub fn get(&self, name: &VectorName) -> Option<&VectorIndex> {
        self.vectors.iter().find(|(n, _)| n == name).map(|(_, index)| index)
    }

    /// The same, to change, with the points whose ordinals it holds.
    pub fn get_mut(&mut self, name: &VectorName) -> Option<(&Points, &mut VectorIndex)> {
        let (_, index) = self.vectors.iter_mut().find(|(n, _)| n == name)?;
        Some((&self.points, index))
    }

    /// The points by ordinal.
    pub fn points(&self) -> &Points {
        &self.points
    }

    /// What is known of the health of the index file. Once damage is found the answers of these indexes mean nothing.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// The payload indexes.
    pub fn payload(&self) -> &PayloadIndexes {
        &self.payload
    }

    /// The payload indexes, to fill, with the points whose ordinals they hold.
    pub fn payload_mut(&mut self) -> (&Points, &mut PayloadIndexes) {
        (&self.points, &mut self.payload)
    }

    /// The log index whose effects it shows: a view of the records that has the same applied index is of the same moment.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Everything up to this log index is shown.
    pub fn set_applied(&mut self, applied: u64) {
        self.applied = applied;
    }

    /// Everything up to this log index, if it is not behind what is shown already, is shown.
    pub fn reach(&mut self, applied: u64) {
        self.applied = self.applied.max(applied);
    }

    /// Takes the points that restored indexes hold by ordinal. Comes before any other change.
    pub fn set_points(&mut self, points: Points) {
        self.points = points;
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&VectorName, &VectorIndex)> {
        self.vectors.iter().map(|(name, index)| (name, index))
    }

    /// Makes every index show the vector a point now has, or none; and every payload index what `payload` says has changed.
    pub fn put<'v>(
        &mut self,
        id: PointId,
        version: u64,
        vector: impl Fn(&str) -> Option<Cow<'v, [f32]>>,
        payload: Option<&PayloadChange>,
    ) {
        let ordinal = self.points.put(id, version);
        if let Some(PayloadChange { before, after: Some(after) }) = payload {
            self.payload.put(ordinal, before.as_ref().map(Payload::as_object), after.as_object());
        }
        for (name, index) in &mut self.vectors {
            show(index, ordinal, vector(name.as_str()));
        }
    }

    /// The same for the index called `name`.
    pub fn put_one(&mut self, name: &VectorName, id: PointId, version: u64, vector: Option<Cow<'_, [f32]>>) {
        let ordinal = self.points.put(id, version);
        if let Some((_, index)) = self.get_mut(name) {
            show(index, ordinal, vector);
        }
    }

    /// Makes the indexes forget a point, whose payload was as `payload` says.
    pub fn remove(&mut self, id: PointId, payload: Option<&PayloadChange>) {
        let Some(ordinal) = self.points.ordinal(id) else { return };
        if let Some(PayloadChange { before: Some(before), .. }) = payload {
            self.payload.remove(ordinal, before.as_object());
        }
        for (_, index) in &mut self.vectors {
            index.remove(ordinal);
        }
        self.points.remove(id);
    }
}

/// What a write made of a point's payload: nothing `before` if there was no such point, nothing `after` if there no longer is.
pub struct PayloadChange {
    pub before: Option<Payload>,
    pub after: Option<Payload>,
}

fn show(index: &mut VectorIndex, ordinal: u32, vector: Option<Cow<'_, [f32]>>) {
    match vector {
        Some(components) => index.upsert(ordinal, &prepared(index.spec().metric, components)),
        None => {
            index.remove(ordinal);
        }
    }
}

/// A vector as the index wants it: of length 1 for cosine.
pub fn prepared(metric: Metric, mut components: Cow<'_, [f32]>) -> Cow<'_, [f32]> {
    if metric == Metric::Cosine {
        crate::index::normalize(components.to_mut());
    }
    components
}

fn index_spec(spec: &VectorSpec, settings: &IndexSettings) -> IndexSpec {
    let kind = match spec.index.served_by() {
        IndexType::Flat => IndexKind::Flat,
        IndexType::IvfFlat => IndexKind::IvfFlat,
        IndexType::IvfPq | IndexType::Hnsw => IndexKind::IvfPq,
        IndexType::IvfBinary => IndexKind::IvfBinary,
        IndexType::IvfScalar => IndexKind::IvfInt8,
    };
    IndexSpec {
        kind,
        subspace_width: spec.codes.compression.dimensions_per_code(),
        rerank: spec.codes.rerank,
        flat_rows_max: settings.flat_points_max,
        tail_rows_max: settings.tail_rows_max,
        list_rows: settings.list_rows,
        ..IndexSpec::new(spec.metric, spec.dimension)
    }
}
