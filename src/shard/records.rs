//! The records of one replica in the store: points, requests, the journal of the indexes and meta, under their keys. The only file of
//! the room that knows how they are laid out. Called by `round` and `upkeep` (writing), `search` and `read` (reading), `open`.

use super::content::ContentHash;
use crate::{
    store::{
        Batch, Direction, Durability, Scan, Space, Store, StoreError, Value,
        keys::{
            before,
            journal::{self, Base},
            meta::{self, MetaKey},
            point::{self, PointRecord},
            request, shard_space,
        },
    },
    types::{Error, ErrorKind, PointId, RequestId, Result},
};

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

    /// Records that there is nothing to know of the indexes but the records up to `at`.
    pub fn index_forgotten(&self, at: u64) -> Result<()> {
        let mut batch = self.store.batch();
        self.delete_journal(&mut batch, at)?;
        batch.put(&self.space, &MetaKey::IndexEpoch.key(), &meta::encode(0));
        batch.delete(&self.space, &MetaKey::IndexBase.key());
        batch.commit(Durability::Buffered).map_err(Records::failed)
    }

    fn delete_journal(&self, batch: &mut Batch, through: u64) -> Result<()> {
        let view = self.view();
        let end = journal::key(through.saturating_add(1));
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
            StoreError::Corrupt { .. } | StoreError::NewerFormat { .. } => Records::corrupt(error),
            other => Error::new(ErrorKind::Unavailable, "store_failed", other.to_string()),
        }
    }

    /// Stored bytes that mean nothing.
    pub fn corrupt(why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, "shard_corrupt", why.to_string())
    }
}

/// The records of one moment.
pub struct View {
    view: crate::store::View,
    space: Space,
}

impl View {
    /// The record of a point.
    pub fn point(&self, id: PointId) -> Result<Option<Value>> {
        self.view.get(&self.space, &point::key(id)).map_err(Records::failed)
    }

    /// All points, in id order.
    pub fn points(&self) -> Points {
        Points(self.view.range(&self.space, &point::keys().start..&point::keys().end, Direction::Forward))
    }

    /// The points behind `id`, in id order.
    pub fn points_after(&self, id: PointId) -> Points {
        let keys = point::keys_after(id);
        Points(self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward))
    }

    /// The records of the journal from log index `from` on, in log order: their indexes and encoded entries.
    pub fn journal(&self, from: u64) -> impl Iterator<Item = Result<(u64, Value)>> + use<> {
        let keys = journal::keys_from(from);
        let entries = self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward);
        entries.map(|entry| {
            let (key, value) = entry.map_err(Records::failed)?;
            let index = journal::log_index(&key).ok_or_else(|| Records::corrupt("a journal's key is no log index"))?;
            Ok((index, value))
        })
    }

    /// The points that were kept as they were before they were replaced: id, version and encoded value, in id order.
    pub fn befores(&self) -> impl Iterator<Item = Result<(PointId, u64, Value)>> + use<> {
        let keys = before::keys();
        let entries = self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward);
        entries.map(|entry| {
            let (key, value) = entry.map_err(Records::failed)?;
            let (id, version) = before::of_key(&key).ok_or_else(|| Records::corrupt("a kept point's key is none"))?;
            Ok((id, version, value))
        })
    }

    /// Gives `see` the record that a point had at `version`, if it is still there or was kept.
    pub fn version<T>(&self, id: PointId, version: u64, see: impl FnOnce(&PointRecord<'_>) -> T) -> Result<Option<T>> {
        if let Some(current) = self.point(id)? {
            let record = PointRecord::decode(&current).map_err(Records::corrupt)?;
            if record.version == version {
                return Ok(Some(see(&record)));
            }
        }
        let kept = self.view.get(&self.space, &before::key(id, version)).map_err(Records::failed)?;
        let Some(kept) = kept else { return Ok(None) };
        let record = PointRecord::decode(replaced(&kept)?.1).map_err(Records::corrupt)?;
        Ok(Some(see(&record)))
    }

    /// Gives `visit` every point as it was when log index `at` had been applied, in id order; ends when that says so. Complete if the
    /// points replaced since then were kept. Cost: a pass over all points and all that were kept.
    pub fn visit_as_of(&self, at: u64, visit: &mut PointVisitor<'_>) -> Result<()> {
        let mut befores = self.befores().peekable();
        for point in self.points() {
            let (id, bytes) = point?;
            if !visit_befores(&mut befores, Some(id), at, visit)? {
                return Ok(());
            }
            let record = PointRecord::decode(&bytes).map_err(Records::corrupt)?;
            if record.version <= at && !visit(id, &record)? {
                return Ok(());
            }
        }
        visit_befores(&mut befores, None, at, visit).map(drop)
    }

    /// A number of the meta record; 0 if it was never written.
    pub fn number(&self, key: MetaKey) -> Result<u64> {
        match self.view.get(&self.space, &key.key()).map_err(Records::failed)? {
            None => Ok(0),
            Some(value) => meta::decode(&value).map_err(Records::corrupt),
        }
    }
}

/// The counters, and what else a view knows of requests.
impl View {
    /// What was counted up to this moment.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            applied: self.number(MetaKey::AppliedIndex)?,
            points: self.number(MetaKey::PointCount)?,
            requests: self.number(MetaKey::Requests)?,
            hash: ContentHash(self.number(MetaKey::ContentHash)?),
        })
    }

    /// Whether a number was ever written.
    pub fn has(&self, key: MetaKey) -> Result<bool> {
        self.view.contains(&self.space, &key.key()).map_err(Records::failed)
    }

    /// The record of a request.
    pub fn request(&self, id: RequestId) -> Result<Option<Value>> {
        self.view.get(&self.space, &request::key(id)).map_err(Records::failed)
    }

    /// The request with a sequence number.
    pub fn request_at(&self, sequence: u64) -> Result<Option<RequestId>> {
        let value = self.view.get(&self.space, &request::order_key(sequence)).map_err(Records::failed)?;
        value.map(|value| request::decode_order(&value).map_err(Records::corrupt)).transpose()
    }

    /// All requests, in id order.
    pub fn requests(&self) -> RequestScan {
        let keys = request::keys();
        RequestScan(self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward))
    }
}

/// What is given points; whether it wants more.
pub type PointVisitor<'a> = dyn FnMut(PointId, &PointRecord<'_>) -> Result<bool> + 'a;

/// Visits the kept points up to the id `through` that were current at `at`; whether more are wanted.
fn visit_befores(
    befores: &mut std::iter::Peekable<impl Iterator<Item = Result<(PointId, u64, Value)>>>,
    through: Option<PointId>,
    at: u64,
    visit: &mut PointVisitor<'_>,
) -> Result<bool> {
    let due = |entry: &Result<(PointId, u64, Value)>| match (entry, through) {
        (Ok((id, ..)), Some(through)) => *id <= through,
        _ => true,
    };
    while let Some(entry) = befores.next_if(&due) {
        let (id, version, value) = entry?;
        let (replaced_at, record) = replaced(&value)?;
        if version <= at && at < replaced_at {
            let record = PointRecord::decode(record).map_err(Records::corrupt)?;
            if !visit(id, &record)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// When a kept point was replaced, and its record.
fn replaced(value: &[u8]) -> Result<(u64, &[u8])> {
    before::decode(value).map_err(Records::corrupt)
}

/// Iterator over requests.
pub struct RequestScan(Scan);

impl Iterator for RequestScan {
    type Item = Result<(RequestId, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.0.next()?;
        Some(entry.map_err(Records::failed).and_then(|(key, value)| match request::id_of_key(&key) {
            Some(id) => Ok((id, value)),
            None => Err(Records::corrupt("a request's key is no id")),
        }))
    }
}

/// Iterator over points.
pub struct Points(Scan);

impl Iterator for Points {
    type Item = Result<(PointId, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.0.next()?;
        Some(entry.map_err(Records::failed).and_then(|(key, value)| match point::id_of_key(&key) {
            Some(id) => Ok((id, value)),
            None => Err(Records::corrupt("a point's key is no id")),
        }))
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
