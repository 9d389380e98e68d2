//! The beginnings of checkpoints that broken fetches left in a node's directory, in this run or the last one. Bounded: one a group, and
//! none for longer than a giver keeps the rest of it ([`GONE_ON_WITHIN`]); the driver's clock moves that on, and it removes the files.
//! Used by [`fetch`](super::fetch()).

use super::GONE_ON_WITHIN;
use super::files::FoundPartial;
use crate::raft::GroupId;
use crate::rt::time::Instant;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Default)]
pub struct Partials {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// With the moment at which each was first seen to lie unused.
    left: BTreeMap<GroupId, (FoundPartial, Option<Instant>)>,
    of_no_use: Vec<PathBuf>,
}

impl Partials {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more that can be gone on with; it takes the place of an older one.
    pub fn put(&self, partial: FoundPartial) {
        let mut inner = self.inner();
        let path = partial.path.clone();
        let older = inner.left.insert(partial.group, (partial, None)).map(|(older, _)| older.path);
        inner.of_no_use.extend(older.filter(|older| *older != path));
    }

    /// What there is of a group, which is its taker's from here on.
    pub(super) fn take(&self, group: GroupId) -> Option<FoundPartial> {
        self.inner().left.remove(&group).map(|(partial, _)| partial)
    }

    /// The files that are of no use any more.
    pub fn count_time(&self, now: Instant) -> Vec<PathBuf> {
        let mut inner = self.inner();
        let mut of_no_use = std::mem::take(&mut inner.of_no_use);
        inner.left.retain(|_, (partial, since)| {
            let stays = now < *since.get_or_insert(now) + GONE_ON_WITHIN;
            if !stays {
                of_no_use.push(partial.path.clone());
            }
            stays
        });
        of_no_use
    }
}
