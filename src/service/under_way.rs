//! What is being done in the background at the moment, so that nothing is begun a second time. Called by the tasks of `service`
//! that look again and again at what there is to do.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names of what is under way. Cheap to clone; clones share it.
#[derive(Clone)]
pub(super) struct UnderWay<K>(Arc<Mutex<BTreeSet<K>>>);

impl<K> Default for UnderWay<K> {
    fn default() -> UnderWay<K> {
        UnderWay(Arc::default())
    }
}

impl<K: Ord> UnderWay<K> {
    /// Whether it may be begun: it is not under way yet, and now it is.
    pub(super) fn begin(&self, key: K) -> bool {
        self.all().insert(key)
    }

    /// It is over, however it ended.
    pub(super) fn end(&self, key: &K) {
        self.all().remove(key);
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<K>> {
        // Changed by single calls only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
