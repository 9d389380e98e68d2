//! The handle to a consensus group: propose, read index, stop. It is the same for a group of one and for a replicated group;
//! whoever drives the group holds the other end. Called by `shard` and, through it, by everything that writes.

use super::{GroupId, LogIndex, ProposeError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Handle to a group whose entries answer `O`. Cheap to clone.
pub struct Group<O> {
    shared: Arc<Shared>,
    messages: mpsc::Sender<Message<O>>,
    bytes: Arc<Semaphore>,
    entry_bytes_max: usize,
}

impl<O> Clone for Group<O> {
    fn clone(&self) -> Self {
        Group {
            shared: self.shared.clone(),
            messages: self.messages.clone(),
            bytes: self.bytes.clone(),
            entry_bytes_max: self.entry_bytes_max,
        }
    }
}

/// What the driver of a group receives.
pub(super) enum Message<O> {
    Propose(Proposal<O>),
    Stop(oneshot::Sender<()>),
}

/// An entry on its way, and where its outcome goes. Dropped unanswered, the proposer gets `Indeterminate`.
pub(super) struct Proposal<O> {
    pub(super) data: Bytes,
    pub(super) answer: oneshot::Sender<Result<(LogIndex, O), ProposeError>>,
    /// Held until the answer, so that everything under way is within the bound.
    bytes: OwnedSemaphorePermit,
}

impl<O> Proposal<O> {
    pub(super) fn answer(self, result: Result<(LogIndex, O), ProposeError>) {
        // Before the answer: whoever gets it may propose again at once.
        drop(self.bytes);
        // Whoever gave up waiting does not want the answer.
        let _ = self.answer.send(result);
    }
}

impl<O: Send + 'static> Group<O> {
    pub(super) fn new(
        shared: Arc<Shared>,
        messages: mpsc::Sender<Message<O>>,
        bytes_max: usize,
        entry_bytes_max: usize,
    ) -> Group<O> {
        let bytes = Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS)));
        Group { shared, messages, bytes, entry_bytes_max }
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.shared.id
    }

    /// Commits `data` to the log, applies it, and answers its index and outcome. Dropping the future does not take the
    /// proposal back.
    pub async fn propose(&self, data: Bytes) -> Result<(LogIndex, O), ProposeError> {
        self.shared.check_running()?;
        if data.len() > self.entry_bytes_max {
            return Err(ProposeError::TooLarge { got: data.len(), limit: self.entry_bytes_max });
        }
        let permits = u32::try_from(data.len()).unwrap_or(u32::MAX).max(1);
        let bytes = self.bytes.clone().try_acquire_many_owned(permits).map_err(|_| ProposeError::Exhausted)?;
        let (answer, answered) = oneshot::channel();
        match self.messages.try_send(Message::Propose(Proposal { data, answer, bytes })) {
            Ok(()) => answered.await.unwrap_or(Err(ProposeError::Indeterminate)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ProposeError::Exhausted),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.shared.why_not_running()),
        }
    }

    /// An index such that a read that has applied up to it sees everything acknowledged before this call; returns when this
    /// replica has applied up to it (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4).
    pub async fn read_index(&self) -> Result<LogIndex, ProposeError> {
        self.shared.check_running()?;
        let index = self.shared.committed();
        match self.shared.wait_for(index) {
            None => Ok(index),
            Some(applied) => applied.await.map(|()| index).map_err(|_| self.shared.why_not_running()),
        }
    }

    /// Returns when this replica has applied everything up to `index`.
    pub async fn wait_applied(&self, index: LogIndex) -> Result<(), ProposeError> {
        match self.shared.wait_for(index) {
            None => Ok(()),
            Some(applied) => applied.await.map_err(|_| self.shared.why_not_running()),
        }
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> LogIndex {
        self.shared.applied()
    }

    /// Why the group failed, if it has; the node must then stop.
    pub fn failure(&self) -> Option<String> {
        match &*self.shared.phase() {
            Phase::Failed(reason) => Some(reason.clone()),
            Phase::Running | Phase::Stopped => None,
        }
    }

    /// Takes no more proposals, finishes those under way and returns when their effects are in the state. What is queued
    /// behind the call is answered `Stopped`.
    pub async fn stop(&self) {
        let (done, finished) = oneshot::channel();
        if self.messages.send(Message::Stop(done)).await.is_ok() {
            // An error means the driver has ended, which is what is waited for.
            let _ = finished.await;
        }
    }
}

/// What the handle and the driver both see.
pub(super) struct Shared {
    id: GroupId,
    committed: AtomicU64,
    applied: AtomicU64,
    phase: Mutex<Phase>,
    readers: Mutex<BTreeMap<LogIndex, Vec<oneshot::Sender<()>>>>,
}

enum Phase {
    Running,
    Stopped,
    Failed(String),
}

impl Shared {
    pub(super) fn new(id: GroupId, applied: LogIndex) -> Shared {
        Shared {
            id,
            committed: applied.into(),
            applied: applied.into(),
            phase: Mutex::new(Phase::Running),
            readers: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.id
    }

    pub(super) fn committed(&self) -> LogIndex {
        self.committed.load(Ordering::Acquire)
    }

    pub(super) fn applied(&self) -> LogIndex {
        self.applied.load(Ordering::Acquire)
    }

    /// Everything up to `index` is committed.
    pub(super) fn advance_committed(&self, index: LogIndex) {
        self.committed.fetch_max(index, Ordering::AcqRel);
    }

    /// Everything up to `index` is applied; releases the readers that waited for it.
    pub(super) fn advance_applied(&self, index: LogIndex) {
        let mut readers = self.readers();
        let before = self.applied.swap(index, Ordering::AcqRel);
        assert!(before <= index, "applied went back from {before} to {index}");
        let later = readers.split_off(&(index + 1));
        for reader in std::mem::replace(&mut *readers, later).into_values().flatten() {
            // A reader that gave up waiting is not there any more.
            let _ = reader.send(());
        }
    }

    /// Ends the group for good; the first reason stays.
    pub(super) fn fail(&self, reason: String) {
        tracing::error!(group = self.id, %reason, "the group failed; the node must stop");
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Failed(_)) {
            *phase = Phase::Failed(reason);
        }
        drop(phase);
        self.readers().clear();
    }

    /// Takes no more proposals.
    pub(super) fn stop(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Running) {
            *phase = Phase::Stopped;
        }
    }

    /// Releases the readers that nothing can serve any more.
    pub(super) fn drop_readers(&self) {
        self.readers().clear();
    }

    pub(super) fn check_running(&self) -> Result<(), ProposeError> {
        match &*self.phase() {
            Phase::Running => Ok(()),
            Phase::Stopped => Err(ProposeError::Stopped),
            Phase::Failed(reason) => Err(ProposeError::Failed(reason.clone())),
        }
    }

    /// Why nothing can be done here now, when it is known that nothing can.
    pub(super) fn why_not_running(&self) -> ProposeError {
        self.check_running().err().unwrap_or(ProposeError::Stopped)
    }

    /// `None` if `index` is applied, else what resolves when it is (or is dropped when it cannot be).
    pub(super) fn wait_for(&self, index: LogIndex) -> Option<oneshot::Receiver<()>> {
        // Looked at under the lock that `advance_applied` holds, or the wake-up could fall in between.
        let mut readers = self.readers();
        if self.applied() >= index {
            return None;
        }
        let (reader, applied) = oneshot::channel();
        if self.check_running().is_ok() {
            readers.entry(index).or_default().push(reader);
        }
        Some(applied)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, BTreeMap<LogIndex, Vec<oneshot::Sender<()>>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
