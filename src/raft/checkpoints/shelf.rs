//! The checkpoints a node gives out, and those whose streams broke a moment ago: they are kept for a while, so that the taker can go
//! on where it is. Bounded: no more of them are kept without a stream than are given at once, and none for longer than
//! [`GONE_ON_WITHIN`], because each holds a view of its state open. The driver's clock moves it on; used by [`serve`](super::serve()).

use super::GONE_ON_WITHIN;
use super::serve::Giving;
use crate::raft::{CheckpointHead, GroupId};
use crate::rt::rng::{self, Rng};
use crate::rt::time::Instant;
use rand::RngCore as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
pub struct Shelf {
    inner: Mutex<Inner>,
    unread_max: usize,
}

struct Inner {
    /// By their identities.
    kept: BTreeMap<u64, Kept>,
    rng: Rng,
}

/// One checkpoint on the shelf.
#[derive(Clone)]
pub struct Kept {
    pub group: GroupId,
    pub head: CheckpointHead,
    pub(super) giving: Arc<Mutex<Giving>>,
    /// The last of the streams that were begun.
    reader: u64,
    /// Since when it was seen without a stream.
    unread_since: Option<Instant>,
}

impl Kept {
    pub(super) fn new(group: GroupId, head: CheckpointHead, giving: Arc<Mutex<Giving>>) -> Kept {
        Kept { group, head, giving, reader: 0, unread_since: None }
    }

    /// Besides the shelf, each stream and whoever reads for it holds one.
    fn is_read(&self) -> bool {
        Arc::strong_count(&self.giving) > 1
    }
}

impl Shelf {
    /// Keeps so many at most that nobody reads.
    pub fn new(unread_max: usize) -> Arc<Shelf> {
        let inner = Inner { kept: BTreeMap::new(), rng: rng::stream("raft/checkpoints") };
        Arc::new(Shelf { inner: Mutex::new(inner), unread_max })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one more; its identity, by which a taker asks for it again.
    pub(super) fn put(&self, kept: Kept) -> u64 {
        let mut inner = self.inner();
        self.trim(&mut inner);
        // 0 stands for none.
        let id = inner.rng.next_u64().max(1);
        inner.kept.insert(id, kept);
        id
    }

    /// The one of that identity, if it is still here and of that group.
    pub fn find(&self, group: GroupId, id: u64) -> Option<Kept> {
        self.inner().kept.get(&id).filter(|kept| kept.group == group).cloned()
    }

    /// Another stream reads it.
    pub(super) fn taken(&self, id: u64, reader: u64) {
        if let Some(kept) = self.inner().kept.get_mut(&id) {
            (kept.reader, kept.unread_since) = (reader, None);
        }
    }

    /// It was given whole, or cannot be; unless another stream than the one that says so reads it by now.
    pub(super) fn remove(&self, id: u64, reader: u64) {
        let mut inner = self.inner();
        if inner.kept.get(&id).is_some_and(|kept| kept.reader == reader) {
            inner.kept.remove(&id);
        }
    }

    /// Lets go of what nobody has come back for.
    pub fn count_time(&self, now: Instant) {
        let mut inner = self.inner();
        inner.kept.retain(|_, kept| {
            kept.unread_since = if kept.is_read() { None } else { kept.unread_since.or(Some(now)) };
            kept.unread_since.is_none_or(|since| now < since + GONE_ON_WITHIN)
        });
        self.trim(&mut inner);
    }

    /// Lets go of those that nobody has read for longest, beyond the bound.
    fn trim(&self, inner: &mut Inner) {
        let unread = inner.kept.iter().filter(|(_, kept)| !kept.is_read());
        let mut unread: Vec<_> =
            unread.map(|(id, kept)| (kept.unread_since.is_none(), kept.unread_since, *id)).collect();
        unread.sort_unstable();
        let too_many = unread.len().saturating_sub(self.unread_max);
        for (.., id) in &unread[..too_many] {
            inner.kept.remove(id);
        }
    }

    /// The group is closed: no view of its state stays open.
    pub fn forget(&self, group: GroupId) {
        self.inner().kept.retain(|_, kept| kept.group != group);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.inner().kept.len()
    }
}
