//! A consistent, unchanging view over all spaces of a store: it shows every batch committed before it was opened and none
//! after. Cheap to open (a counter); keep it short-lived, old values stay on the disk as long as a view may read them.
//! Used by `shard` (search, get, scroll, content hash), `raft` (reading the log) and `coordination` (ranges).

use super::engine::Space;
use super::error::StoreError;
use fjall::Readable;
use std::ops::{Deref, Range};

/// Bytes read from the store: a key or a value. Cheap to clone; small ones are inline, large ones shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(fjall::Slice);

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

/// Order of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// A snapshot of every space at one moment.
#[derive(Clone)]
pub struct View {
    snapshot: fjall::Snapshot,
}

impl View {
    pub(super) fn new(snapshot: fjall::Snapshot) -> View {
        View { snapshot }
    }

    /// The value of `key`, if there is one. Costs a memory lookup, or one block read when the data is not cached.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let value = self.snapshot.get(&space.keyspace, key).map_err(|e| space.read_error(e))?;
        Ok(value.map(Value))
    }

    /// Whether `key` has a value.
    pub fn contains(&self, space: &Space, key: &[u8]) -> Result<bool, StoreError> {
        self.snapshot.contains_key(&space.keyspace, key).map_err(|e| space.read_error(e))
    }

    /// The keys of `keys.start..keys.end` (end excluded) with their values, in byte order. Reads lazily.
    pub fn range(&self, space: &Space, keys: Range<&[u8]>, direction: Direction) -> Scan {
        // The engine's behaviour on an inverted range is not specified; here it is empty.
        let entries = (keys.start < keys.end).then(|| self.snapshot.range(&space.keyspace, keys));
        Scan { entries, direction, space: space.clone() }
    }

    /// The keys that start with `prefix`, with their values, in byte order. Reads lazily.
    pub fn prefix(&self, space: &Space, prefix: &[u8], direction: Direction) -> Scan {
        Scan { entries: Some(self.snapshot.prefix(&space.keyspace, prefix)), direction, space: space.clone() }
    }
}

/// Iterator over a range of a [`View`]. After an error it ends.
pub struct Scan {
    entries: Option<fjall::Iter>,
    direction: Direction,
    space: Space,
}

impl Iterator for Scan {
    type Item = Result<(Value, Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.entries.as_mut()?;
        let entry = match self.direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.next_back(),
        }?;
        match entry.into_inner() {
            Ok((key, value)) => Some(Ok((Value(key), Value(value)))),
            Err(error) => {
                self.entries = None;
                Some(Err(self.space.read_error(error)))
            }
        }
    }
}
