//! Heartbeats of a group at rest, without a round through the library: each function here does to the library's state what
//! the library itself would do for that message in that state, and leaves every other case to it. So check-quorum, the
//! election clock and the terms are what they were. Called by `member`.

use super::Replica;
use crate::mutants::mutant;
use crate::raft::NodeId;
use crate::raft::beat::Beat;
use raft::eraftpb::Message;
use raft::{ProgressState, StateRole};

impl Replica {
    /// The heartbeats that a tick has left with the library, if that is all it has left and they need not wait; where they go.
    pub(in crate::raft) fn take_beats(&mut self) -> Vec<(NodeId, Beat)> {
        let (group, is_leader) = (self.group(), self.is_leader());
        // Mutant 34: members are told to commit what they are not known to have.
        let overstated = mutant!(34).then_some(self.committed());
        let has_its_term = self.has_its_term();
        let messages = &mut self.raw.raft.msgs;
        if messages.is_empty() || !is_leader || !has_its_term {
            return Vec::new();
        }
        let beat = |message: &Message| {
            let beat = Beat::of(group, message)?;
            Some((message.to, Beat { commit: overstated.unwrap_or(beat.commit), ..beat }))
        };
        let beats: Option<Vec<_>> = messages.iter().map(beat).collect();
        beats.inspect(|_| messages.clear()).unwrap_or_default()
    }

    /// Takes in what `from` says; `None` if it has to be stepped as a message. The inner value is what to answer.
    pub(in crate::raft) fn take_beat(&mut self, from: NodeId, beat: &Beat) -> Option<Option<Beat>> {
        if beat.term != self.term() {
            return None;
        }
        if beat.is_answer { self.heard_by(from, beat).then_some(None) } else { self.hear(from, beat).map(Some) }
    }

    /// The leader it follows already tells it nothing new: its clock starts again. Not while its own state is on the way to
    /// the disk, which answers wait for.
    fn hear(&mut self, from: NodeId, beat: &Beat) -> Option<Beat> {
        let raft = &self.raw.raft;
        let follows = raft.state == StateRole::Follower && raft.leader_id == from;
        let is_news = beat.commit > raft.raft_log.committed || raft.pending_request_snapshot != raft::INVALID_INDEX;
        if !follows || is_news || !self.writing.is_empty() || self.raw.has_ready() {
            return None;
        }
        self.raw.raft.election_elapsed = 0;
        Some(Beat { commit: self.committed(), is_answer: true, ..*beat })
    }

    /// A member that has everything is still there; whether that is all there is to it.
    fn heard_by(&mut self, from: NodeId, beat: &Beat) -> bool {
        let last = self.last_index();
        if !self.is_leader() {
            return false;
        }
        let Some(progress) = self.raw.raft.mut_prs().get_mut(from) else { return false };
        let lacks_nothing = progress.state == ProgressState::Replicate
            && progress.matched >= last
            && progress.pending_request_snapshot == raft::INVALID_INDEX
            && !progress.ins.full();
        if lacks_nothing {
            progress.update_committed(beat.commit);
            progress.recent_active = true;
            progress.resume();
        }
        lacks_nothing
    }

    /// Nothing has happened for long: lets go of what waits for more to happen.
    pub(in crate::raft) fn rest(&mut self) {
        let upto = self.mirror().applied().min(self.persisted());
        self.mirror_mut().evict(upto, 0);
        self.raw.raft.maybe_free_inflight_buffers();
    }
}
