//! The records of one replica in the store: points, requests, the journal of the indexes and meta, under their keys. The only file of
//! the room that knows how they are laid out. Called by `round` and `upkeep` (writing), `search` and `read` (reading), `open`.

mod view;

use super::content::ContentHash;
use crate::{
    store::{
        Batch, Direction, Durability, Space, Store, StoreError,
        keys::{
            before,
            journal::{self, Base},
            meta::{self, MetaKey},
            point, request, shard_space,
        },
    },
    types::{Error, ErrorKind, PointId, RequestId, Result},
};

use view::replaced;
pub use view::{Points, RequestScan, View};

/// What is counted along with the records, in the same batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The log index of the last applied entry.
    pub applied: u64,
    /// Live points.
    pub points: u64,
    /// Requests ever recorded.
    pub requests: u64,
    /// Of all points and requests.
    pub hash: ContentHash,
}

/// The space of one replica.
#[derive(Clone)]
pub struct Records {
    store: Store,
    space: Space,
}

impl Records {
    /// Opens the space of shard `id`, making it if it is not there. What a checkpoint that was never whole has left there
    /// is thrown away.
    pub fn open(store: Store, id: u64) -> Result<Records> {
        let space = store.space(&shard_space(id)).map_err(Records::failed)?;
        let records = Records { store, space };
        if records.view().number(MetaKey::Installing)? == 0 {
            return Ok(records);
        }
        tracing::warn!(shard = id, "a checkpoint was not installed whole; the replica begins again with nothing");
        records.emptied(id)
    }

    /// Removes the space of shard `id` with all it holds.
    pub fn remove(store: &Store, id: u64) -> Result<()> {
        store.drop_space(&shard_space(id)).map(|_| ()).map_err(Records::failed)
    }

    /// Records of shard `id` that hold nothing but that a checkpoint is on its way, in place of those there are; handles to
    /// those go on reading what was there, and what they write is lost. Power-safe when it returns. Until
    /// [`Changes::commit_installed`] the replica opens as one that has applied nothing.
    pub fn begin_install(&self, id: u64) -> Result<Records> {
        let records = self.emptied(id)?;
        let mut batch = records.store.batch();
        batch.put(&records.space, &MetaKey::Installing.key(), &meta::encode(1));
        batch.commit(Durability::Synced).map_err(Records::failed)?;
        Ok(records)
    }

    /// Empty records of shard `id` in place of those there are.
    pub fn emptied(&self, id: u64) -> Result<Records> {
        Records::remove(&self.store, id)?;
        Records::open(self.store.clone(), id)
    }

    /// Leaves no content hash, as versions that kept none did.
    #[cfg(test)]
    pub fn forget_hash(&self) {
        let mut batch = self.store.batch();
        batch.delete(&self.space, &MetaKey::ContentHash.key());
        batch.commit(Durability::Buffered).unwrap();
    }

    /// What is there now, all of one moment.
    pub fn view(&self) -> View {
        View { view: self.store.view(), space: self.space.clone() }
    }

    /// Makes everything committed so far survive power loss.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.space.disk_bytes()
    }

    /// Bytes of all records, about, wherever they are yet.
    pub fn stored_bytes(&self) -> u64 {
        self.space.stored_bytes()
    }

    /// Records that the index file of `epoch` (0: none) is of log index `at`, and what it lacks. The journal up to there and the
    /// points kept for it are no longer wanted. Power-safe when it returns.
    pub fn index_saved(&self, epoch: u64, at: u64, base: Base) -> Result<()> {
        let mut batch = self.store.batch();
        self.delete_journal(&mut batch, at)?;
        batch.put(&self.space, &MetaKey::IndexEpoch.key(), &meta::encode(epoch));
        batch.put(&self.space, &MetaKey::IndexBase.key(), &meta::encode(at));
        let base = journal::encode(&journal::Entry::Base(base)).map_err(Records::corrupt)?;
        batch.put(&self.space, &journal::key(at), &base);
        batch.commit(Durability::Synced).map_err(Records::failed)
    }

    /// Records that there is nothing to know of the indexes but the records up to `at`. Power-safe when it returns: the file goes next.
    pub fn index_forgotten(&self, at: u64) -> Result<()> {
        let mut batch = self.store.batch();
        self.delete_journal(&mut batch, at)?;
        batch.delete(&self.space, &journal::key(at));
        batch.put(&self.space, &MetaKey::IndexEpoch.key(), &meta::encode(0));
        batch.delete(&self.space, &MetaKey::IndexBase.key());
        batch.commit(Durability::Synced).map_err(Records::failed)
    }

    /// Removes the journal below `through` (what is there is the caller's to write) and the points kept for what is now in the base.
    fn delete_journal(&self, batch: &mut Batch, through: u64) -> Result<()> {
        let view = self.view();
        let end = journal::key(through);
        for entry in view.view.range(&self.space, &journal::key(0)..&end, Direction::Forward) {
            batch.delete(&self.space, &entry.map_err(Records::failed)?.0);
        }
        for before in view.befores() {
            let (id, version, value) = before?;
            if replaced(&value)?.0 <= through {
                batch.delete(&self.space, &before::key(id, version));
            }
        }
        Ok(())
    }

    /// What a failure of the store is to the caller of an operation.
    pub fn failed(error: StoreError) -> Error {
        match error {
            StoreError::NoSpace { .. } => Error::new(ErrorKind::Exhausted, "disk_full", error.to_string()),
            StoreError::TooManySpaces { .. } => {
                Error::new(ErrorKind::Exhausted, "too_many_shards_here", error.to_string())
            }
            StoreError::Corrupt { .. } | StoreError::NewerFormat { .. } => Records::corrupt(error),
            other => Error::new(ErrorKind::Unavailable, "store_failed", other.to_string()),
        }
    }

    /// Stored bytes that mean nothing.
    pub fn corrupt(why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, "shard_corrupt", why.to_string())
    }
}

/// Changes that become visible, and survive, all together.
pub struct Changes<'r> {
    records: &'r Records,
    batch: Batch,
}

impl<'r> Changes<'r> {
    /// No changes yet.
    pub fn new(records: &'r Records) -> Changes<'r> {
        Changes { records, batch: records.store.batch() }
    }

    /// Writes a point's record.
    pub fn put_point(&mut self, id: PointId, record: &[u8]) {
        self.batch.put(&self.records.space, &point::key(id), record);
    }

    /// Removes a point's record.
    pub fn remove_point(&mut self, id: PointId) {
        self.batch.delete(&self.records.space, &point::key(id));
    }

    /// Adds to the journal of the indexes.
    pub fn put_journal(&mut self, at: u64, entry: &journal::Entry<'_>) -> Result<()> {
        let value = journal::encode(entry).map_err(Records::corrupt)?;
        self.batch.put(&self.records.space, &journal::key(at), &value);
        Ok(())
    }

    /// Puts an encoded record of the journal where another replica had it.
    pub fn restore_journal(&mut self, at: u64, value: &[u8]) {
        self.batch.put(&self.records.space, &journal::key(at), value);
    }

    /// Begins the journal, behind log index `at`, on an index file of `epoch` (0: on none).
    pub fn put_base(&mut self, at: u64, epoch: u64) {
        self.batch.put(&self.records.space, &MetaKey::IndexEpoch.key(), &meta::encode(epoch));
        self.batch.put(&self.records.space, &MetaKey::IndexBase.key(), &meta::encode(at));
    }

    /// Keeps a point as it is before the command at `replaced_at`.
    pub fn put_before(&mut self, id: PointId, version: u64, replaced_at: u64, record: &[u8]) {
        self.restore_before(id, version, &before::encode(replaced_at, record));
    }

    /// Puts an encoded kept point where another replica had it.
    pub fn restore_before(&mut self, id: PointId, version: u64, value: &[u8]) {
        self.batch.put(&self.records.space, &before::key(id, version), value);
    }

    /// Writes a request's record.
    pub fn put_request(&mut self, id: RequestId, record: &[u8]) {
        self.batch.put(&self.records.space, &request::key(id), record);
    }

    /// Removes a request's record.
    pub fn remove_request(&mut self, id: RequestId) {
        self.batch.delete(&self.records.space, &request::key(id));
    }

    /// Writes an encoded record of the border, by its key; or removes it.
    pub fn put_border(&mut self, key: [u8; 2], value: Option<&[u8]>) {
        match value {
            Some(value) => self.batch.put(&self.records.space, &key, value),
            None => self.batch.delete(&self.records.space, &key),
        }
    }

    /// Gives a request its sequence number.
    pub fn put_request_at(&mut self, sequence: u64, id: RequestId) {
        self.batch.put(&self.records.space, &request::order_key(sequence), &request::encode_order(id));
    }

    /// Takes a sequence number back.
    pub fn remove_request_at(&mut self, sequence: u64) {
        self.batch.delete(&self.records.space, &request::order_key(sequence));
    }

    /// Moves the counters.
    pub fn put_counters(&mut self, counters: &Counters) {
        let numbers = [
            (MetaKey::AppliedIndex, counters.applied),
            (MetaKey::PointCount, counters.points),
            (MetaKey::Requests, counters.requests),
            (MetaKey::ContentHash, counters.hash.0),
        ];
        for (key, number) in numbers {
            self.batch.put(&self.records.space, &key.key(), &meta::encode(number));
        }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Commits; survives the end of the process, and power loss after the next [`Records::sync`]. The log, synced before
    /// an entry is applied, has everything else.
    pub fn commit(self) -> Result<()> {
        self.batch.commit(Durability::Buffered).map_err(Records::failed)
    }

    /// Commits what makes a checkpoint whole. Power-safe when it returns, with all that was committed before.
    pub fn commit_installed(mut self) -> Result<()> {
        self.batch.delete(&self.records.space, &MetaKey::Installing.key());
        self.batch.commit(Durability::Synced).map_err(Records::failed)
    }
}
