//! What the handles of a group, its driver and its state machine's worker all see: how far it is, who leads, whether it still
//! runs, and the readers that wait for an index. Cheap to read; written by the driver (role, commit) and the worker
//! (applied).

use super::{GroupId, LogIndex, NodeId, ProposeError, Role};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// See the module.
pub(super) struct Shared {
    id: GroupId,
    committed: AtomicU64,
    applied: AtomicU64,
    role: AtomicU8,
    /// 0 for none.
    leader: AtomicU64,
    /// The term in which this replica leads; 0 if it does not.
    leads_in: AtomicU64,
    decides_alone: AtomicBool,
    votes: AtomicBool,
    phase: Mutex<Phase>,
    readers: Mutex<BTreeMap<LogIndex, Vec<oneshot::Sender<()>>>>,
}

/// What a replica is in its group.
pub(super) struct Standing {
    pub(super) role: Role,
    /// Whom it follows; itself if it leads.
    pub(super) leader: Option<NodeId>,
    /// The term in which it leads, if it does.
    pub(super) leads_in: Option<u64>,
    /// Whether it leads and nobody else votes.
    pub(super) decides_alone: bool,
    /// Whether it has a vote.
    pub(super) votes: bool,
}

impl Standing {
    /// Of a replica that takes part in nothing.
    fn out() -> Standing {
        Standing { role: Role::Follower, leader: None, leads_in: None, decides_alone: false, votes: false }
    }
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
            role: (Role::Follower as u8).into(),
            leader: 0.into(),
            leads_in: 0.into(),
            decides_alone: false.into(),
            // Until the driver has looked: who waits for a leader is not taken for one who need not.
            votes: true.into(),
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

    pub(super) fn role(&self) -> Role {
        Role::from_code(self.role.load(Ordering::Acquire))
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(self.leader.load(Ordering::Acquire)).filter(|&leader| leader != 0)
    }

    /// The term in which this replica leads, if it does.
    pub(super) fn leads_in(&self) -> Option<u64> {
        Some(self.leads_in.load(Ordering::Acquire)).filter(|&term| term != 0)
    }

    /// Whether this replica leads and nobody else votes: then nothing is committed without it.
    pub(super) fn decides_alone(&self) -> bool {
        self.decides_alone.load(Ordering::Acquire)
    }

    /// Everything up to `index` is committed.
    pub(super) fn advance_committed(&self, index: LogIndex) {
        self.committed.fetch_max(index, Ordering::AcqRel);
    }

    /// Whether this replica has a vote, by the members it knows of.
    pub(super) fn votes(&self) -> bool {
        self.votes.load(Ordering::Acquire)
    }

    pub(super) fn set_standing(&self, now: Standing) {
        self.decides_alone.store(now.decides_alone, Ordering::Release);
        self.votes.store(now.votes, Ordering::Release);
        self.role.store(now.role as u8, Ordering::Release);
        self.leader.store(now.leader.unwrap_or(0), Ordering::Release);
        self.leads_in.store(now.leads_in.unwrap_or(0), Ordering::Release);
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
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Failed(_)) {
            tracing::error!(group = self.id, %reason, "the group failed; the node must stop");
            *phase = Phase::Failed(reason);
        }
        drop(phase);
        self.set_standing(Standing::out());
        self.readers().clear();
    }

    /// Takes no more proposals.
    pub(super) fn stop(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Running) {
            *phase = Phase::Stopped;
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        match &*self.phase() {
            Phase::Failed(reason) => Some(reason.clone()),
            Phase::Running | Phase::Stopped => None,
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
