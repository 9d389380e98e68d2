//! What a member tells about itself, and its end.

use super::{Closing, Member};
use crate::raft::apply::Task;
use crate::raft::{GroupStatus, NodeId, PeerState, PeerStatus};
use crate::rt::time::Instant;
use raft::Storage as _;
use tokio::sync::oneshot;

impl Member {
    pub(in crate::raft) fn status(&self) -> GroupStatus {
        let replica = &self.replica;
        let peer = |(node, progress): (NodeId, &raft::Progress)| PeerStatus {
            node,
            match_index: progress.matched,
            state: match progress.state {
                raft::ProgressState::Probe => PeerState::Probing,
                raft::ProgressState::Replicate => PeerState::Replicating,
                raft::ProgressState::Snapshot => PeerState::AwaitingCheckpoint,
            },
            active: progress.recent_active,
        };
        let own = replica.node();
        GroupStatus {
            role: replica.role(),
            term: replica.term(),
            leader: replica.leader(),
            committed: replica.committed(),
            applied: self.shared.applied(),
            first_index: replica.mirror().compacted_index() + 1,
            last_index: replica.last_index(),
            awaits_state: self.awaits_state(),
            members: replica.members().clone(),
            // Members change when an entry is delivered; one of its own term is behind all that others committed.
            is_settled: replica.is_leader()
                && replica.mirror().term(replica.delivered()).is_ok_and(|term| term == replica.term()),
            peers: replica.progress().into_iter().filter(|(node, _)| *node != own).map(peer).collect(),
        }
    }

    /// Takes no more proposals; ends when what is under way is through, or the time is up.
    pub(in crate::raft) fn close(&mut self, deadline: Instant, done: oneshot::Sender<()>) {
        let closing = self.closing.get_or_insert(Closing { deadline, done: Vec::new(), told_worker: false });
        closing.done.push(done);
        self.shared.stop();
    }

    pub(in crate::raft) fn worker_ended(&mut self) {
        self.worker_ended = true;
    }

    /// Whether a round has to look at it though nothing came for it but a tick.
    pub(in crate::raft) fn is_busy(&self) -> bool {
        self.replica.has_ready()
            || !self.reads.is_empty()
            || !self.queued.is_empty()
            || !self.matched.is_empty()
            || !self.incoming.is_none()
            || self.closing.is_some()
    }

    /// Whether a closing member is through, now that nothing else happened at `now`; those who wait for it.
    pub(in crate::raft) fn try_end(&mut self, now: Instant) -> Option<Vec<oneshot::Sender<()>>> {
        let failed = self.has_failed;
        let is_through = self.queued.is_empty()
            && self.proposed.is_empty()
            && self.replica.delivered() == self.replica.committed()
            && self.replica.mirror().applied() == self.replica.delivered();
        let no_write = failed || !self.replica.is_writing();
        let closing = self.closing.as_mut()?;
        if (is_through || failed || now >= closing.deadline) && no_write && self.jobs == 0 && !closing.told_worker {
            closing.told_worker = true;
            self.tasks.send(Task::End);
        }
        let over = closing.told_worker && self.worker_ended && self.jobs == 0 && (failed || !self.replica.is_writing());
        over.then(|| std::mem::take(&mut closing.done))
    }
}
