//! Shards whose replicas are not what they should be: replaced, added, drained, given up. Called by `plan`.

use super::{Action, Finding, Planned, Planner, Reason};
use crate::cluster::{
    members::MemberState,
    placement::Standing,
    table::{NodeId, ShardId},
};

impl Planner<'_> {
    /// Does something about every shard that needs it, those with the fewest healthy replicas first.
    pub(super) fn mend_shards(&mut self) {
        let mut shards: Vec<ShardId> = self.states.keys().copied().collect();
        shards.sort_by_key(|shard| (self.states[shard].healthy.len(), *shard));
        for shard in shards {
            match self.states[&shard].leader {
                None => self.name_leaderless(shard),
                Some(_) if self.states[&shard].in_flight => self.mend_flight(shard),
                Some(leader) => self.mend_settled(shard, leader),
            }
        }
    }

    fn name_leaderless(&mut self, shard: ShardId) {
        let wanted = &self.view.table.shards[&shard].replicas;
        let answering = wanted.iter().filter(|node| self.works(shard, **node)).count();
        self.plan.findings.push(match answering * 2 > wanted.len() {
            true => Finding::NoLeader { shard },
            false => Finding::NoQuorum { shard, answering: answering as u32, voters: wanted.len() as u32 },
        });
    }

    /// Whether a node answers, and has not given the replica up.
    fn works(&self, shard: ShardId, node: NodeId) -> bool {
        let answers = self.view.nodes.get(&node).is_some_and(super::NodeView::answers);
        answers && self.view.replica(shard, node).is_none_or(|replica| replica.failure.is_none())
    }

    /// Why a replica must be made anew elsewhere, if it must.
    fn lost(&self, shard: ShardId, node: NodeId) -> Option<Reason> {
        // A node without a record has not been heard of yet; only a record says that it was removed.
        let known = self.view.nodes.get(&node)?;
        let failed = self.view.replica(shard, node).is_some_and(|replica| replica.failure.is_some());
        match known.standing(self.limits.replace_after) {
            _ if known.record.state == MemberState::Removed => Some(Reason::Removed(node)),
            Standing::Gone => Some(Reason::Gone(node)),
            _ if failed => Some(Reason::Failed(node)),
            // A node that is drained and does not answer is gone like any other.
            Standing::Draining if known.away >= self.limits.replace_after => Some(Reason::Gone(node)),
            _ => None,
        }
    }

    /// A change is under way: it is left alone, unless what it waits for will not come.
    fn mend_flight(&mut self, shard: ShardId) {
        self.touched.insert(shard);
        let state = &self.states[&shard];
        let wanted = &self.view.table.shards[&shard].replicas;
        let awaited = wanted.iter().copied().filter(|node| !state.voters.contains(node));
        let draining = |node: &NodeId| self.view.nodes.get(node).is_some_and(super::NodeView::gives_away);
        let stranded = awaited.into_iter().find(|node| self.lost(shard, *node).is_some() || draining(node));
        let Some(stranded) = stranded else { return self.take_back(shard, None) };
        let instead = self.layout.target(shard, Some(stranded));
        let remaining = wanted.len() - 1;
        let healthy = state.healthy.len();
        match instead.is_some() || (remaining > 0 && healthy * 2 > remaining) {
            true => self.turn(shard, instead, stranded),
            false => self.take_back(shard, Some(stranded)),
        }
    }

    /// Voters that were to stay are lost while others are on their way out: the group cannot change without a majority of those
    /// that stay, so one that leaves and is well takes a lost one's place, that of `stranded` before any other.
    fn take_back(&mut self, shard: ShardId, stranded: Option<NodeId>) {
        let (state, wanted) = (&self.states[&shard], &self.view.table.shards[&shard].replicas);
        if state.healthy.len() * 2 > wanted.len() {
            return;
        }
        let lost = |node: &NodeId| self.lost(shard, *node).is_some();
        let answers = |node: &NodeId| self.view.nodes.get(node).is_some_and(super::NodeView::answers);
        let leaving =
            state.voters.iter().copied().filter(|node| !wanted.contains(node) && !lost(node) && answers(node));
        let back = leaving.max_by_key(|node| Some(*node) == state.leader);
        let gone = || wanted.iter().copied().find(|node| state.voters.contains(node) && lost(node));
        if let (Some(back), Some(gone)) = (back, stranded.or_else(gone)) {
            self.turn(shard, Some(back), gone);
        }
    }

    /// Changes what is under way for a shard: it goes on in the place it has, with the leader that sends it. If it had to wait for a
    /// place of its own, changes that will not come to their end could keep each other waiting for ever.
    fn turn(&mut self, shard: ShardId, add: Option<NodeId>, remove: NodeId) {
        let before = self.busy.clone();
        let state = &self.states[&shard];
        let awaited = (!state.voters.contains(&remove)).then_some(remove);
        for node in state.leader.into_iter().chain(awaited) {
            self.busy.entry(node).and_modify(|count| *count = count.saturating_sub(1));
        }
        let begun = self.plan.actions.len();
        self.change(shard, add, Some(remove), Reason::Stranded(remove));
        if self.plan.actions.len() == begun {
            self.busy = before;
        }
    }

    fn mend_settled(&mut self, shard: ShardId, leader: NodeId) {
        let lost = self.find_replica(shard, |planner, node| planner.lost(shard, node));
        if let Some((node, reason)) = lost
            && self.replace(shard, node, reason)
        {
            return;
        }
        let (have, want) = (self.layout.replicas(shard).len(), self.layout.copies(shard));
        if have < want && self.add_copy(shard, have as u32, want as u32) {
            return;
        }
        if self.drain(shard, leader) {
            return;
        }
        if have > want {
            self.give_up_copy(shard, have as u32, want as u32);
        }
    }

    fn find_replica<T>(&self, shard: ShardId, test: impl Fn(&Self, NodeId) -> Option<T>) -> Option<(NodeId, T)> {
        let replicas = self.view.table.shards[&shard].replicas.iter();
        let mut found: Vec<(NodeId, T)> = replicas.filter_map(|node| Some((*node, test(self, *node)?))).collect();
        // The one that leads is of use for longest.
        found.sort_by_key(|(node, _)| (Some(*node) == self.states[&shard].leader, *node));
        found.into_iter().next()
    }

    /// Makes a lost replica anew elsewhere, or where it is. Whether anything is done.
    fn replace(&mut self, shard: ShardId, node: NodeId, reason: Reason) -> bool {
        if let Some(target) = self.layout.target(shard, Some(node)) {
            self.change(shard, Some(target), Some(node), reason);
            return true;
        }
        let replicas = self.layout.replicas(shard).len();
        let rest_is_well = self.healthy_without(shard, node) == replicas - 1 && replicas > 1;
        let spare = replicas > self.layout.copies(shard);
        let rebuild = matches!(reason, Reason::Failed(_));
        if rest_is_well && (spare || rebuild) {
            // A failed one is given up, removed by its node, and then added again.
            self.change(shard, None, Some(node), reason);
            return true;
        }
        self.plan.findings.push(Finding::NoRoom { shard, node });
        false
    }

    fn add_copy(&mut self, shard: ShardId, have: u32, want: u32) -> bool {
        let target = self.layout.target(shard, None);
        match target {
            Some(target) => self.change(shard, Some(target), None, Reason::TooFew { have, want }),
            None => self.plan.findings.push(Finding::TooFewNodes { shard, have, want }),
        }
        target.is_some()
    }

    /// Moves the leader, then the replica, from a node that is being drained. Whether anything is done.
    fn drain(&mut self, shard: ShardId, leader: NodeId) -> bool {
        let draining = |planner: &Self, node: NodeId| planner.view.nodes.get(&node)?.gives_away().then_some(());
        let Some((node, ())) = self.find_replica(shard, draining) else { return false };
        let replicas = self.layout.replicas(shard).len();
        let target = self.layout.target(shard, Some(node));
        let well = self.healthy_without(shard, node);
        let spare = replicas > self.layout.copies(shard);
        if target.is_some() && (well + 1) * 2 > replicas {
            self.change(shard, target, Some(node), Reason::Drain(node));
            return true;
        }
        if target.is_none() && spare && well == replicas - 1 && replicas > 1 {
            self.change(shard, None, Some(node), Reason::Drain(node));
            return true;
        }
        if target.is_none() {
            self.plan.findings.push(Finding::NoRoom { shard, node });
        }
        self.hand_over_from(shard, leader, Reason::Drain(leader))
    }

    /// Lets another replica lead a shard whose leader is being drained.
    fn hand_over_from(&mut self, shard: ShardId, leader: NodeId, reason: Reason) -> bool {
        let drained = self.view.nodes.get(&leader).is_some_and(super::NodeView::gives_away);
        let heir = self.view.heir(shard, &self.states[&shard]).filter(|_| drained);
        if let Some(to) = heir {
            self.touched.insert(shard);
            self.plan.actions.push(Planned { action: Action::Lead { shard, from: leader, to }, reason, bytes: 0 });
        }
        heir.is_some()
    }

    fn give_up_copy(&mut self, shard: ShardId, have: u32, want: u32) {
        let healthy = self.states[&shard].healthy.clone();
        // What cannot be reached goes first; what remains must all be well.
        let can_go = |node: NodeId| healthy.iter().filter(|other| **other != node).count() as u32 == have - 1;
        if let Some(node) = self.layout.surplus(shard, &can_go) {
            self.change(shard, None, Some(node), Reason::TooMany { have, want });
        }
    }

    /// Healthy replicas of a shard, but for the one on `node`.
    fn healthy_without(&self, shard: ShardId, node: NodeId) -> usize {
        self.states[&shard].healthy.iter().filter(|healthy| **healthy != node).count()
    }
}
