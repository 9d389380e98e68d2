//! What one replica holds: its space in the store, its indexes in memory, and the counters both agree on.
//!
//! Invariants: the index holds a row for exactly the points the store holds (by id and version) whenever `gate` is free;
//! `applied` moves in the same batch as the effects it stands for. Which slots the shard owns changes behind the gate, too; a reader
//! without it asks before and after whether they were the same ([`State::owned`]). Called by `machine` (writing), `search` and `read`
//! (reading), `indexer` (maintaining).

use crate::{
    index::HashJob,
    rt::shutdown::Shutdown,
    shard::{
        border::Border,
        content::ContentHash,
        indexes::Indexes,
        records::{Counters, Records},
        settings::IndexSettings,
        trust::Trust,
        upkeep::keeper::Keeper,
    },
    types::{CollectionSpec, IndexedFields, SlotRange, limits::REQUEST_IDS_MAX},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
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
    /// Whether the records can be trusted.
    pub trust: Arc<Trust>,
    /// Held by the machine from before a batch commits until the index shows it.
    gate: Mutex<()>,
    indexes: RwLock<Indexes>,
    applied: AtomicU64,
    /// The log index of the last entry whose effects a reader may find: ahead of `applied` while a batch is committed.
    reaching: AtomicU64,
    points: AtomicU64,
    requests: AtomicU64,
    content_hash: AtomicU64,
    border: RwLock<Arc<Border>>,
    /// How often the border has changed, twice; odd while it does.
    border_changes: AtomicU64,
    /// Applied index and content hash after each of the latest rounds.
    recent_hashes: Mutex<VecDeque<(u64, u64)>>,
    /// How many requests are remembered: the same on every replica.
    pub request_ids_max: u64,
    /// What is known of upkeep. Locked for moments, and after `indexes` where both are.
    keeper: Mutex<Keeper>,
    /// Held while index files are written or removed.
    saving: Mutex<()>,
    /// Rows written, or filed, since the index file was.
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
        border: Border,
    ) -> State {
        indexes.set_applied(counters.applied);
        indexes.payload_mut().1.set_fields(&spec.indexed_fields, counters.points);
        State {
            id,
            spec,
            records,
            settings,
            trust: Arc::new(Trust::in_shard(id)),
            gate: Mutex::new(()),
            indexes: RwLock::new(indexes),
            applied: AtomicU64::new(counters.applied),
            reaching: AtomicU64::new(counters.applied),
            points: AtomicU64::new(counters.points),
            requests: AtomicU64::new(counters.requests),
            content_hash: AtomicU64::new(counters.hash.0),
            border: RwLock::new(Arc::new(border)),
            border_changes: AtomicU64::new(0),
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
        self.indexes_mut().payload_mut().1.set_fields(fields, self.points());
        self.changed.notify_one();
    }

    /// Puts indexes made from the records in place of the present ones; their payload indexes are filled in the background. The
    /// caller holds the gate.
    pub fn replace_indexes(&self, mut indexes: Indexes) {
        let mut present = self.indexes_mut();
        indexes.set_applied(present.applied());
        indexes.payload_mut().1.set_fields(&present.payload().fields(), self.points());
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

    /// The log index up to which what was read here before this call may have been written. The caller of a read tells it to its
    /// session.
    pub fn reaching(&self) -> u64 {
        self.reaching.load(SeqCst)
    }

    /// The effects of everything up to `applied` are about to be seen. The caller holds the gate.
    pub fn reach(&self, applied: u64) {
        self.reaching.store(applied, SeqCst);
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

    /// What the shard owns, and what is on its way to another one.
    pub fn border(&self) -> Arc<Border> {
        self.border.read().expect("no panic while changing the border").clone()
    }

    /// The slots the shard owns, and a number that is another one after every change of them. Everything that was read between two
    /// calls with equal answers is of these slots. `None` while they change.
    pub fn owned(&self) -> Option<(u64, SlotRange)> {
        let changes = self.border_changes.load(SeqCst);
        let owned = self.border().owned;
        (changes.is_multiple_of(2) && changes == self.border_changes.load(SeqCst)).then_some((changes, owned))
    }

    /// Goes on counting changes of the border where the state before this one was.
    pub fn replaces(&self, old: &State) {
        self.border_changes.store(old.border_changes.load(SeqCst).next_multiple_of(2) + 2, SeqCst);
    }

    /// The border is about to change, with the points in store and indexes. The caller holds the gate.
    pub fn begin_border_change(&self) {
        let before = self.border_changes.fetch_add(1, SeqCst);
        assert!(before.is_multiple_of(2), "one change of the border at a time");
    }

    /// It has changed.
    pub fn end_border_change(&self, border: Border) {
        *self.border.write().expect("no panic while changing the border") = Arc::new(border);
        self.border_changes.fetch_add(1, SeqCst);
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
        // Asked last: the pass may have found damage, which the indexer then hears of.
        let is_damaged = damage.found().is_some();
        if is_damaged {
            self.changed.notify_one();
        }
        (applied, (!is_damaged && !is_astray).then_some(sum))
    }

    /// Rows the index file does not have.
    pub fn unsaved_rows(&self) -> u64 {
        self.unsaved_rows.load(SeqCst)
    }

    /// The index file now has so many of them.
    pub fn saved(&self, rows: u64) {
        self.unsaved_rows.fetch_sub(rows.min(self.unsaved_rows()), SeqCst);
    }

    /// So many more rows are not as the index file has them.
    pub fn unsaved(&self, rows: u64) {
        self.unsaved_rows.fetch_add(rows, SeqCst);
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
