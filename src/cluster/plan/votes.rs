//! Who votes in the coordinator's own group: three or five nodes, in different zones where there are zones, among those that answer.
//! Called by `plan`. With etcd there is no such group, and nobody reports one.

use super::{Action, NodeView, Planned, Planner, Reason};
use crate::cluster::{members::MemberState, table::NodeId};
use std::collections::BTreeMap;

/// Entries a learner may be behind and still be given a vote.
const LAG_MAX: u64 = 1_000;

/// How many nodes should vote, of `nodes` that could, where `now` do. Two nodes are left as they are: a second voter of two would make
/// nothing safer.
fn voters_wanted(nodes: usize, now: usize) -> usize {
    match nodes {
        0..=2 => now.clamp(1, nodes.max(1)),
        3 | 4 => 3,
        _ => 5,
    }
}

impl Planner<'_> {
    /// Gives and takes votes, all at once, when the last change is done and those who get one have caught up.
    pub(super) fn seat_voters(&mut self) {
        let Some(committed) = self.settled_at() else { return };
        let votes: Vec<NodeId> = self.with(|node| node.record.votes);
        let (give, take) = self.seats(&votes, committed);
        if give.is_empty() && take.is_empty() {
            return;
        }
        let after = votes.iter().chain(&give).filter(|node| !take.contains(node));
        let (after, well) = after.fold((0, 0), |(all, well), node| (all + 1, well + usize::from(self.is_well(*node))));
        if after > 0 && well * 2 > after {
            self.plan.actions.push(Planned { action: Action::Votes { give, take }, reason: Reason::Voters, bytes: 0 });
        }
    }

    /// The commit index of the coordinator's group, if it has a leader and its voters are what the records say.
    fn settled_at(&self) -> Option<u64> {
        let leading = self.view.control()?;
        let mut voters = leading.voters.clone();
        voters.sort_unstable();
        let settled = leading.voters_outgoing.is_empty() && voters == self.with(|node| node.record.votes);
        settled.then_some(leading.committed)
    }

    fn with(&self, test: impl Fn(&NodeView) -> bool) -> Vec<NodeId> {
        self.view.nodes.iter().filter(|(_, node)| test(node)).map(|(id, _)| *id).collect()
    }

    fn is_well(&self, node: NodeId) -> bool {
        self.view.nodes.get(&node).is_some_and(NodeView::answers)
    }

    /// Who should get a vote and who should lose his.
    fn seats(&self, votes: &[NodeId], committed: u64) -> (Vec<NodeId>, Vec<NodeId>) {
        let stays = self.with(|node| node.record.state == MemberState::Active && node.away < self.limits.replace_after);
        let away = |id: &NodeId| !self.is_well(*id);
        let wanted = voters_wanted(stays.len(), votes.len());
        let mut seated: Vec<NodeId> = votes.iter().copied().filter(|id| stays.contains(id)).collect();
        while seated.len() > wanted {
            let zones = self.zones(&seated);
            let crowd = |id: &NodeId| zones[self.zone(*id)];
            let last = seated.iter().copied().max_by_key(|id| (away(id), crowd(id), *id));
            seated.retain(|id| Some(*id) != last);
        }
        let caught_up = |id: &NodeId| {
            let control = self.view.nodes[id].report.control.as_ref();
            control.is_some_and(|control| control.failure.is_none() && control.applied + LAG_MAX >= committed)
        };
        while seated.len() < wanted {
            let zones = self.zones(&seated);
            let crowd = |id: &NodeId| zones.get(self.zone(*id)).copied().unwrap_or(0);
            let open = stays.iter().copied().filter(|id| !seated.contains(id) && !away(id));
            let Some(next) = open.filter(caught_up).min_by_key(|id| (!votes.contains(id), crowd(id), *id)) else {
                break;
            };
            seated.push(next);
        }
        // An even number is no safer than one less.
        if seated.len().is_multiple_of(2) && seated.last().is_some_and(|last| !votes.contains(last)) {
            seated.pop();
        }
        // A voter that is gone or drained keeps its vote until somebody can have it.
        let missing = wanted.saturating_sub(seated.len());
        let keep = votes.iter().copied().filter(|id| !seated.contains(id) && !stays.contains(id)).take(missing);
        let kept: Vec<NodeId> = keep.filter(|id| self.view.nodes[id].record.state != MemberState::Removed).collect();
        seated.extend(kept);
        let give = seated.iter().copied().filter(|id| !votes.contains(id)).collect();
        let take = votes.iter().copied().filter(|id| !seated.contains(id)).collect();
        (give, take)
    }

    fn zone(&self, node: NodeId) -> &str {
        &self.view.nodes[&node].record.zone
    }

    fn zones(&self, nodes: &[NodeId]) -> BTreeMap<&str, usize> {
        let mut zones = BTreeMap::new();
        nodes.iter().for_each(|node| *zones.entry(self.zone(*node)).or_default() += 1);
        zones
    }
}

#[cfg(test)]
mod tests {
    use super::voters_wanted;

    #[test]
    fn three_or_five_vote_where_there_are_so_many() {
        let wanted =
            [(1, 1), (2, 1), (2, 2), (3, 1), (4, 3), (5, 3), (100, 5), (7, 7)].map(|(n, now)| voters_wanted(n, now));
        assert_eq!(wanted, [1, 1, 2, 3, 3, 5, 5, 5]);
    }
}
