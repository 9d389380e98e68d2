//! The state a replica has now. There is one after another: installing a checkpoint puts a new state, with records and indexes
//! of its own, in the place of the old one, at once and whole. Whoever has taken the old one may finish with it: it still
//! reads what was there. Called by `replica` (operations), `machine` (replacing it).

use super::{
    files::IndexFiles,
    indexer::{Indexer, Proposer},
    state::State,
};
use crate::{rt, store::StoreError, types::IndexedFields};
use arc_swap::ArcSwap;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

/// See the module.
pub struct Live {
    state: ArcSwap<State>,
    /// Held while the state, or its indexed fields, change: no change of fields falls between two states.
    changing: Mutex<()>,
    is_closed: AtomicBool,
}

impl Live {
    /// Begins with this state.
    pub fn new(state: State) -> Live {
        Live { state: ArcSwap::from_pointee(state), changing: Mutex::new(()), is_closed: AtomicBool::new(false) }
    }

    /// The present state.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts `state` in the place of the present one; it keeps the indexed fields, whose indexes are filled in the background.
    pub fn replace(&self, state: State) {
        let _changing = self.changing();
        let old = self.state();
        state.set_indexed_fields(&old.indexes().payload().fields());
        self.state.store(Arc::new(state));
        old.retired.trigger();
        if self.is_closed.load(SeqCst) {
            self.state().retired.trigger();
        }
    }

    /// Makes these the indexed fields. Cost: may wait for a round of the machine.
    pub fn set_indexed_fields(&self, fields: &IndexedFields) {
        let _changing = self.changing();
        self.state().set_indexed_fields(fields);
    }

    /// Ends the upkeep of the present state and of any that follows.
    pub fn close(&self) {
        let _changing = self.changing();
        self.is_closed.store(true, SeqCst);
        self.state().retired.trigger();
    }

    /// Keeps up the indexes of one state after another until [`Live::close`].
    pub async fn keep_up(
        self: Arc<Live>,
        files: IndexFiles,
        proposer: Arc<dyn Proposer>,
        trainings: Arc<tokio::sync::Semaphore>,
    ) {
        loop {
            let state = self.state();
            let indexer = Indexer::new(state.clone(), files.clone(), proposer.clone(), trainings.clone());
            indexer.run(state.retired.clone()).await;
            if self.is_closed.load(SeqCst) {
                return;
            }
            let (state, files) = (self.state(), files.clone());
            if let Err(error) = rt::compute::io(move || keep_own_files(&state, &files)).await {
                tracing::warn!(%error, "index files of a replaced state could not be removed");
            }
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // It guards no data: what is swapped is whole at any time.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the index files that are not the state's own: nothing writes those of states before it any more.
fn keep_own_files(state: &State, files: &IndexFiles) -> Result<(), StoreError> {
    let _saving = state.saving();
    if state.retired.is_triggered() {
        return Ok(());
    }
    let epoch = state.keeper().files.keys().last().copied();
    files.keep_only(epoch)
}
