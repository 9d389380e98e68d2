//! [`Store`]: one fjall database and its spaces. The only file that opens the engine and sets its options.
//! A failed write or sync poisons the store: every later write answers `Poisoned` and nothing is retried, because after a
//! failed fsync the kernel may have dropped the dirty pages (Rebello et al., "Can Applications Recover from fsync
//! Failures?", USENIX ATC 2020). Opened by `node` (data) and by `raft` (log); used by every room above `store`.

use super::batch::{Batch, Durability};
use super::birth::{self, Catalogue};
use super::bounds::Bounds;
use super::error::StoreError;
use super::journal;
use super::keys::SYNC_MARK_KEY;
use super::view::View;
use crate::mutants::mutant;
use crate::rt;
use crate::telemetry::metrics::StoreRow;
use crate::types::limits::SPACES_PER_STORE_MAX;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Smallest `journal_bytes_max` the engine takes.
pub const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// Longest name of a space, in bytes.
pub const SPACE_NAME_BYTES_MAX: usize = 255;
/// Tables a space may have before [`Store::maintain`] merges them.
const TABLES_BEFORE_MERGE: usize = 4;

/// Who flushes and compacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// This many threads of the engine (at least 1).
    Threads(usize),
    /// The caller, by [`Store::maintain`]: nothing happens behind its back, as simulation needs.
    Caller,
}

/// How the writer of this store syncs; it decides what a damaged end of the journal means at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Every commit is `Synced`: only the very last batch can be torn, anything else is corruption.
    EveryCommitSynced,
    /// Commits are `Buffered` with a sync now and then: a power loss may tear any of the batches since the last sync. A sync
    /// is followed by a mark, so that damage before it can be told from a tear.
    SyncedNowAndThen,
}

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Cache for blocks read from disk.
    pub cache_bytes: u64,
    /// Journals kept before spaces are flushed to free them, and so what all spaces keep in memory; raised to [`JOURNAL_BYTES_MIN`].
    /// The one in use may be 64 MiB and a full memtable long, whatever this says.
    pub journal_bytes_max: u64,
    /// Writes a space keeps in memory before they are flushed to a table. Set when the space is created.
    pub memtable_bytes_max: u64,
    /// Values from this size on are kept apart from the keys; `None` never does. Set when a space is created. Measured with
    /// batches of 1,000 on 2 cores, apart against together: 600 B values 340k against 250–430k records/s written, point
    /// reads 3.7–3.9 against 3.6 µs; 2,400 B 0.36 against 0.58 s of compaction afterwards at the same read latency;
    /// 4,096 B 0.34–0.40 against 0.76–0.82 s and 4.4 against 3.9 µs. So small values stay together.
    pub separate_values_from_bytes: Option<u32>,
    /// Who flushes and compacts.
    pub maintenance: Maintenance,
    /// How this store is synced.
    pub discipline: Discipline,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            cache_bytes: 64 << 20,
            journal_bytes_max: JOURNAL_BYTES_MIN,
            memtable_bytes_max: 16 << 20,
            separate_values_from_bytes: Some(2048),
            maintenance: if rt::SIMULATED { Maintenance::Caller } else { Maintenance::Threads(2) },
            discipline: Discipline::SyncedNowAndThen,
        }
    }
}

/// A database: spaces of ordered keys, atomic batches, consistent views. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    path: PathBuf,
    options: StoreOptions,
    poisoned: AtomicBool,
    spaces: Mutex<BTreeMap<String, Space>>,
    bounds: Bounds,
    /// Whether the journal has batches that no mark follows.
    unmarked: Mutex<bool>,
}

/// A named, ordered key space of a [`Store`]. Cheap to clone. After [`Store::drop_space`] a handle reads what was there
/// and its writes are lost.
#[derive(Clone)]
pub struct Space {
    pub(super) keyspace: Keyspace,
}

impl Space {
    /// The name it was opened by.
    pub fn name(&self) -> &str {
        self.keyspace.name()
    }

    /// Bytes on disk, without what is only in the journal.
    pub fn disk_bytes(&self) -> u64 {
        self.keyspace.disk_space()
    }

    /// Bytes of what is stored, about: those on disk, and those in memory that only the journal has.
    pub fn stored_bytes(&self) -> u64 {
        self.keyspace.disk_space() + self.keyspace.tree.active_memtable().size()
    }

    pub(super) fn read_error(&self, error: fjall::Error) -> StoreError {
        StoreError::from_engine(self.keyspace.path(), "read", error)
    }
}

impl Store {
    /// Opens the database at `path`, creating it if there is none. Verifies every journal first, so that damage is refused
    /// with `Corrupt` before the engine can cut it away, and writes again what a failed sync may have left in the page cache only. Costs
    /// one pass over the journals (checksums), a sync for each space, then the journals' replay into memory.
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Store, StoreError> {
        let path = std::path::absolute(path.as_ref()).map_err(|e| StoreError::io(path.as_ref(), "resolve", e))?;
        let mut journaled = 0;
        if birth::is_complete(&path)? {
            birth::verify_catalogue(&path)?;
            journaled = journal::verify(&path, options.discipline)?;
            birth::sync_again(&path)?;
        } else {
            birth::clear_unfinished(&path)?;
        }
        let bounds = Bounds::new(&options);
        let database = open_engine(&path, &options, &bounds, journaled)?;
        let names: Vec<String> = database.list_keyspace_names().iter().map(|name| name.to_string()).collect();
        let store = Store {
            inner: Arc::new(Inner {
                database,
                path,
                options,
                poisoned: AtomicBool::new(false),
                spaces: Mutex::default(),
                bounds,
                unmarked: Mutex::new(true),
            }),
        };
        for name in names {
            store.space(&name)?;
        }
        // What the journal has now is there for good: the last mark may have been lost with the power.
        store.sync()?;
        store.keep_bounds(u64::MAX);
        Ok(store)
    }

    /// The directory of the database.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The space called `name` (1 to 255 bytes), created durably if there is none: `TooManySpaces` if there are [`SPACES_PER_STORE_MAX`] others.
    pub fn space(&self, name: &str) -> Result<Space, StoreError> {
        if name.is_empty() || name.len() > SPACE_NAME_BYTES_MAX {
            return Err(StoreError::OutOfBounds { field: "space name", got: name.len(), expected: "1 to 255" });
        }
        let mut spaces = self.spaces();
        if let Some(space) = spaces.get(name) {
            return Ok(space.clone());
        }
        let (options, path) = (&self.inner.options, &self.inner.path);
        if spaces.len() >= SPACES_PER_STORE_MAX && !self.inner.database.keyspace_exists(name) {
            return Err(StoreError::TooManySpaces { path: path.clone(), max: SPACES_PER_STORE_MAX });
        }
        let keyspace = self.write("open space", || self.inner.database.keyspace(name, || keyspace_options(options)))?;
        let space = Space { keyspace };
        spaces.insert(name.to_owned(), space.clone());
        Ok(space)
    }

    /// Removes a space and everything in it; `false` if there was none. The files go when the last handle is dropped.
    pub fn drop_space(&self, name: &str) -> Result<bool, StoreError> {
        let Some(space) = self.spaces().remove(name) else { return Ok(false) };
        self.write("drop space", || self.inner.database.delete_keyspace(space.keyspace))?;
        Ok(true)
    }

    /// Names of all spaces, in byte order.
    pub fn space_names(&self) -> Vec<String> {
        self.spaces().keys().cloned().collect()
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone(), self.inner.database.batch())
    }

    /// A consistent view over all spaces as they are now.
    pub fn view(&self) -> View {
        View::new(self.inner.database.snapshot())
    }

    /// Everything committed before this call survives a power loss. Blocks on the disk; call it on `rt::compute::io`.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.sync_in_order(PersistMode::SyncData)
    }

    /// Whether a write or sync has failed, so that no write is taken until the store is opened again. One of the engine's threads counts
    /// when a commit meets it, or [`Store::ask_engine`].
    pub fn is_poisoned(&self) -> bool {
        self.inner.poisoned.load(Ordering::Acquire)
    }

    /// Has the engine say whether one of its threads has failed, which [`Store::is_poisoned`] knows from then on. The next commit would be told as
    /// well, but one that waits for such a thread to flush waits for ever. May wait for a sync that is under way; call it on `rt::compute::io`.
    pub fn ask_engine(&self) {
        if self.inner.options.maintenance != Maintenance::Caller && !self.is_poisoned() {
            // Not in order with the commits: one of them may hold that lock while it waits. Nothing is written: every commit hands over all
            // it has. The answer is kept by `write`.
            let _ = self.write("look after its threads", || self.inner.database.persist(PersistMode::Buffer));
        }
    }

    /// As if a write had failed.
    #[cfg(test)]
    pub fn poison(&self) {
        self.inner.poisoned.store(true, Ordering::Release);
    }

    /// Bytes on disk, journals included.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.inner.database.disk_space().map_err(|e| StoreError::from_engine(&self.inner.path, "measure", e))
    }

    /// What the engine tells of itself, for metrics; what it cannot tell counts as nothing. Looks at the sizes of files.
    pub fn row(&self, database: &'static str) -> StoreRow {
        let Inner { database: engine, .. } = &*self.inner;
        StoreRow {
            database,
            spaces: self.spaces().len() as u64,
            disk_bytes: engine.disk_space().unwrap_or_default(),
            journals: engine.journal_count() as u64,
            journal_bytes: engine.journal_disk_space().unwrap_or_default(),
            unflushed_bytes: engine.write_buffer_size(),
            flushes_waiting: engine.outstanding_flushes() as u64,
            compactions_active: engine.active_compactions() as u64,
            compactions_done: engine.compactions_completed() as u64,
            cache_bytes: engine.cache_size(),
        }
    }

    /// With [`Maintenance::Caller`]: flushes every space whose writes in memory exceed `memtable_bytes_max`, then the largest until all are
    /// within `journal_bytes_max`, and merges tables when there are many, on this thread. With threads of the engine's own nothing is to do.
    pub fn maintain(&self) -> Result<(), StoreError> {
        if self.inner.options.maintenance != Maintenance::Caller {
            return Ok(());
        }
        for space in self.all_spaces() {
            if space.keyspace.tree.active_memtable().size() >= self.inner.options.memtable_bytes_max {
                self.flush(&space)?;
            }
        }
        self.inner.bounds.beyond(self.all_spaces()).iter().try_for_each(|space| self.flush(space))
    }

    /// After a commit of `bytes`, with no lock held: has the engine's threads keep the bounds. What fails is told to the next commit.
    pub(super) fn keep_bounds(&self, bytes: u64) {
        let Inner { database, path, options, bounds, .. } = &*self.inner;
        if options.maintenance != Maintenance::Caller && bounds.is_time(bytes) {
            let _ = self.write("flush", || bounds.keep(path, database, || self.all_spaces()));
        }
    }

    /// Runs one write of the engine, or refuses it because an earlier one failed.
    pub(super) fn write<T>(
        &self,
        action: &'static str,
        write: impl FnOnce() -> Result<T, fjall::Error>,
    ) -> Result<T, StoreError> {
        if self.is_poisoned() {
            return Err(StoreError::Poisoned { path: self.inner.path.clone() });
        }
        write().map_err(|error| {
            self.inner.poisoned.store(true, Ordering::Release);
            StoreError::from_engine(&self.inner.path, action, error)
        })
    }

    /// Runs a commit. Where syncs leave marks, one at a time, so that what a mark says of the batches before it is true. (The
    /// engine has one journal, so this serialises nothing that was not.)
    pub(super) fn write_in_order(
        &self,
        durability: Durability,
        write: impl FnOnce() -> Result<(), fjall::Error>,
    ) -> Result<(), StoreError> {
        if self.inner.options.discipline == Discipline::EveryCommitSynced {
            return self.write_journal(write);
        }
        let mut unmarked = self.inner.unmarked.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_journal(write)?;
        *unmarked = durability == Durability::Buffered || !self.mark()?;
        Ok(())
    }

    fn sync_in_order(&self, mode: PersistMode) -> Result<(), StoreError> {
        let mut unmarked = self.inner.unmarked.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_journal(|| self.inner.database.persist(mode))?;
        if *unmarked && self.inner.options.discipline == Discipline::SyncedNowAndThen {
            *unmarked = !self.mark()?;
        }
        Ok(())
    }

    /// Says in the journal that everything before had been synced; `false` if there is no space to say it in. Not synced itself: a
    /// mark that the power takes leaves what it was about as it would be without marks.
    fn mark(&self) -> Result<bool, StoreError> {
        let Some(space) = self.spaces().values().next().cloned() else { return Ok(false) };
        let mut mark = self.inner.database.batch().durability(Some(PersistMode::Buffer));
        mark.insert(&space.keyspace, SYNC_MARK_KEY, &b""[..]);
        self.write_journal(|| mark.commit())?;
        Ok(true)
    }

    fn write_journal(&self, write: impl FnOnce() -> Result<(), fjall::Error>) -> Result<(), StoreError> {
        match self.write("commit", write) {
            // Mutant 28: a full disk is passed over in silence.
            Err(StoreError::NoSpace { .. }) if mutant!(28) => {
                self.inner.poisoned.store(false, Ordering::Release);
                Ok(())
            }
            written => written,
        }
    }

    /// What the engine's own threads do with a full memtable. The journal is synced first: a table must never be more
    /// durable than the journal, or a power loss would leave half of a batch that spans two spaces.
    fn flush(&self, space: &Space) -> Result<(), StoreError> {
        let database = &self.inner.database;
        let tree = &space.keyspace.tree;
        self.sync_in_order(PersistMode::SyncAll)?;
        self.write("flush", || {
            tree.rotate_memtable();
            let oldest_read = database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
            tree.flush(&tree.get_flush_lock(), oldest_read)?;
            if tree.table_count() > TABLES_BEFORE_MERGE {
                space.keyspace.major_compact()?;
            }
            Ok(())
        })
    }

    /// In the order of their names.
    fn all_spaces(&self) -> Vec<Space> {
        self.spaces().values().cloned().collect()
    }

    fn spaces(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Space>> {
        // A panic while the map is held leaves it whole: every change is one insert or remove.
        self.inner.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `journaled` is the number of the last batch in the journals.
fn open_engine(path: &Path, options: &StoreOptions, bounds: &Bounds, journaled: u64) -> Result<Database, StoreError> {
    let threads = match options.maintenance {
        Maintenance::Threads(threads) => threads.max(1),
        Maintenance::Caller => 0,
    };
    let builder = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(bounds.sealed_max())
        // LZ4 gains nothing on f32 values (450 against 430 MB/s synced, within noise), and `journal` reads plain records.
        .journal_compression(CompressionType::None)
        .worker_threads_unchecked(threads);
    // The engine asserts some of its invariants on what it reads; on bad bytes that is a refusal, not a crash.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let Catalogue { last_number, spaces } = birth::read_catalogue(path)?;
        if spaces > SPACES_PER_STORE_MAX {
            let path = path.display();
            tracing::error!(%path, spaces, SPACES_PER_STORE_MAX, "too many spaces: the storage engine may not come to an end of opening them");
        }
        let database = builder.open().map_err(|e| StoreError::from_engine(path, "open", e))?;
        // The engine goes on behind the last number it finds in the spaces, though its catalogue may hold later ones, of spaces made or
        // dropped last, and the journals batches of such spaces. A change of the catalogue under a number that was used is lost, or half of it:
        // spaces come back, or go. And in the journals a number that does not grow is known to be damaged.
        database.supervisor.seqno.fetch_max(last_number.max(journaled).saturating_add(1));
        Ok(database)
    }));
    opened.unwrap_or_else(|_| Err(StoreError::corrupt(path, "the storage engine cannot read this database")))
}

fn keyspace_options(options: &StoreOptions) -> KeyspaceCreateOptions {
    let memtable_bytes_max = match options.maintenance {
        Maintenance::Threads(_) => options.memtable_bytes_max,
        // Nobody would serve the engine's requests to flush; `maintain` looks at the size itself.
        Maintenance::Caller => u64::MAX,
    };
    let separation = options
        .separate_values_from_bytes
        .map(|bytes| KvSeparationOptions::default().separation_threshold(bytes).compression(CompressionType::None));
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes_max)
        .data_block_compression_policy(CompressionPolicy::disabled())
        .expect_point_read_hits(true)
        .with_kv_separation(separation)
}
