//! The deliberate bugs of a replica that are more than a condition; see `mutants`.

use super::Replica;
use crate::mutants::mutant;
use crate::raft::convert;
use raft::eraftpb::ConfChangeV2;

impl Replica {
    /// Mutant 22: the voters change at once, without a time in which old and new both decide.
    pub(super) fn change_one_by_one(&mut self, change: &ConfChangeV2) -> raft::Result<raft::eraftpb::ConfState> {
        let mut state = Ok(convert::members_out(self.members()));
        for single in change.get_changes() {
            let mut alone = ConfChangeV2::default();
            alone.set_changes(vec![single.clone()].into());
            state = self.raw.apply_conf_change(&alone);
        }
        state
    }

    /// Mutants of counting: 1 a leader commits what only it has; 6 an entry of an older term is committed because a quorum
    /// has it; 23 a learner counts like a voter.
    pub(super) fn miscount(&mut self) {
        if !self.is_leader() {
            return;
        }
        let raft = &mut self.raw.raft;
        let mut reached = 0;
        if mutant!(1) {
            reached = raft.raft_log.persisted;
        }
        if mutant!(6) {
            reached = raft.mut_prs().maximal_committed_index().0;
        }
        if mutant!(23) {
            let mut matched: Vec<u64> = raft.prs().iter().map(|(_, progress)| progress.matched).collect();
            matched.sort_unstable_by(|a, b| b.cmp(a));
            let voters = raft.prs().conf().to_conf_state().voters.len();
            reached = matched[voters / 2];
        }
        if reached > raft.raft_log.committed && reached <= raft.raft_log.last_index() {
            raft.raft_log.commit_to(reached);
        }
    }
}
