//! An atomic set of writes over any number of spaces of one store: all of them happen, or none.
//! Built by [`crate::store::Store::batch`]; used by `raft` (log), `shard` (apply) and `coordination` (embedded).

use super::engine::{Space, Store};
use super::error::StoreError;
use super::journal;
use fjall::PersistMode;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value, in bytes: half of what the engine can express, so that no length on disk comes near its limit.
pub const VALUE_BYTES_MAX: usize = (u32::MAX / 2) as usize;

/// What a commit promises when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// With the operating system: survives the end of the process (kill −9), not a power loss.
    Buffered,
    /// On the disk: survives a power loss, together with everything committed before it.
    Synced,
}

/// Writes not yet committed. Dropping it writes nothing.
pub struct Batch {
    store: Store,
    writes: fjall::OwnedWriteBatch,
    bytes: usize,
    refused: Option<StoreError>,
}

impl Batch {
    pub(super) fn new(store: Store, writes: fjall::OwnedWriteBatch) -> Batch {
        Batch { store, writes, bytes: 0, refused: None }
    }

    /// Sets `key` to `value`; the last write to a key within a batch wins. A key or value out of bounds makes
    /// [`Batch::commit`] fail with nothing written.
    pub fn put(&mut self, space: &Space, key: &[u8], value: &[u8]) {
        if self.accepts(key, value.len()) {
            self.bytes += key.len() + value.len();
            self.writes.insert(&space.keyspace, key, value);
        }
    }

    /// Removes `key`; removing an absent key is not an error.
    pub fn delete(&mut self, space: &Space, key: &[u8]) {
        if self.accepts(key, 0) {
            self.bytes += key.len();
            self.writes.remove(&space.keyspace, key);
        }
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes everything at once. Blocks: on the disk with [`Durability::Synced`], and on the engine's back-pressure with
    /// both. An error other than `OutOfBounds` poisons the store: whether the batch is on the disk is not known.
    pub fn commit(self, durability: Durability) -> Result<(), StoreError> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let mode = match durability {
            Durability::Buffered => PersistMode::Buffer,
            Durability::Synced => PersistMode::SyncData,
        };
        if self.writes.is_empty() {
            return if durability == Durability::Synced { self.store.sync() } else { Ok(()) };
        }
        let journaled = (self.bytes + self.writes.len() * journal::ITEM_HEAD_BYTES) as u64;
        let writes = self.writes.durability(Some(mode));
        self.store.write_in_order(durability, || writes.commit())?;
        self.store.keep_bounds(journaled);
        Ok(())
    }

    fn accepts(&mut self, key: &[u8], value_bytes: usize) -> bool {
        let refused = if key.is_empty() || key.len() > KEY_BYTES_MAX {
            StoreError::OutOfBounds { field: "key", got: key.len(), expected: "1 to 65535" }
        } else if value_bytes > VALUE_BYTES_MAX {
            StoreError::OutOfBounds { field: "value", got: value_bytes, expected: "at most 2 GiB" }
        } else {
            return true;
        };
        self.refused.get_or_insert(refused);
        false
    }
}
