//! Shards that have grown too large are split, neighbours that have become small are merged: one such transfer of slots at a time in a
//! collection, and only between shards that are well. Sizes are points, which every replica counts alike and which change with the
//! step that moves them; bytes on a disk shrink some time later, and a shard would be split again and again meanwhile. Called by
//! `plan`.

use super::{Action, Finding, Planned, Planner, Reason, ShardState};
use crate::{
    cluster::{
        control::VERSION_OF_SPLITS,
        table::{ShardEntry, ShardId},
    },
    types::CollectionName,
};
use std::collections::BTreeMap;

impl Planner<'_> {
    /// Begins the transfers that should be and can be; what should be and cannot is named.
    pub(super) fn resize(&mut self) {
        let mut by_collection: BTreeMap<&CollectionName, Vec<ShardId>> = BTreeMap::new();
        for (shard, entry) in &self.view.table.shards {
            by_collection.entry(&entry.collection).or_default().push(*shard);
        }
        for (collection, mut shards) in by_collection {
            // Of a collection whose slots move nothing is known for certain before they are there.
            if self.view.table.is_giving(collection) {
                continue;
            }
            shards.sort_by_key(|shard| self.entry(*shard).slots.first);
            let wanted = self.split(&shards).or_else(|| self.merge(collection, &shards));
            if let Some(wanted) = wanted {
                self.begin_resize(wanted);
            }
        }
    }

    /// Counts the transfers that are under way, for those who lead the shards.
    pub(super) fn count_transfers(&mut self) {
        for (shard, entry) in &self.view.table.shards {
            let Some(giving) = entry.giving else { continue };
            self.plan.in_flight += 1;
            self.touched.extend([*shard, giving.to]);
            for node in self.leaders([*shard, giving.to]) {
                *self.busy.entry(node).or_default() += 1;
            }
        }
    }

    fn entry(&self, shard: ShardId) -> &ShardEntry {
        &self.view.table.shards[&shard]
    }

    fn leaders(&self, shards: [ShardId; 2]) -> Vec<u64> {
        let mut leaders: Vec<u64> =
            shards.iter().filter_map(|shard| self.states.get(shard).and_then(|state| state.leader)).collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }

    /// The split of the largest shard that has more than one slot, if it is too large.
    fn split(&self, shards: &[ShardId]) -> Option<Planned> {
        let most = self.limits.split_above;
        let middles = shards.iter().filter_map(|shard| Some((*shard, self.entry(*shard).slots.middle()?)));
        let (shard, at) = middles.max_by_key(|(shard, _)| (self.states[shard].points, *shard))?;
        let ShardState { points, bytes, .. } = self.states[&shard];
        if most == 0 || points <= most {
            return None;
        }
        let bytes = bytes / 2 * self.entry(shard).replicas.len() as u64;
        Some(Planned { action: Action::Split { shard, at }, reason: Reason::TooLarge { points, most }, bytes })
    }

    /// The merge of the two smallest neighbours, if they are small and the collection has more shards than it was made with.
    fn merge(&self, collection: &CollectionName, shards: &[ShardId]) -> Option<Planned> {
        let asked = self.view.shards_asked.get(collection).map_or(usize::MAX, |asked| *asked as usize);
        if shards.len() <= asked {
            return None;
        }
        // How many points a shard without a leader has nobody says.
        let known = |pair: &&[ShardId]| pair.iter().all(|shard| self.states[shard].leader.is_some());
        let both = |pair: &[ShardId]| pair.iter().map(|shard| self.states[shard].points).sum::<u64>();
        let pair = shards.windows(2).filter(known).min_by_key(|pair| both(pair))?;
        let points = both(pair);
        if points >= self.limits.merge_below {
            return None;
        }
        // The smaller one's points are moved.
        let is_smaller = |one: ShardId, other: ShardId| self.states[&one].points < self.states[&other].points;
        let (shard, to) = if is_smaller(pair[0], pair[1]) { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
        let bytes = self.states[&shard].bytes * self.entry(to).replicas.len() as u64;
        Some(Planned { action: Action::Merge { shard, to }, reason: Reason::TooSmall { points }, bytes })
    }

    /// Puts a transfer into the plan if it can be begun; else it waits, or is named if nothing but an administrator can help.
    fn begin_resize(&mut self, planned: Planned) {
        let (shards, finding) = match (&planned.action, planned.reason) {
            (Action::Split { shard, .. }, Reason::TooLarge { points, .. }) => {
                ([*shard; 2], Finding::Split { shard: *shard, points })
            }
            (Action::Merge { shard, to }, Reason::TooSmall { points }) => {
                ([*shard, *to], Finding::Merge { shard: *shard, to: *to, points })
            }
            other => unreachable!("{other:?} changes no size"),
        };
        let is_split = matches!(planned.action, Action::Split { .. });
        let (table, entry) = (&self.view.table, self.entry(shards[0]));
        let has_room = table.has_room_to_split(&entry.collection) && table.have_room(&entry.replicas);
        let is_full = is_split && !has_room;
        if self.limits.paused || self.view.version < VERSION_OF_SPLITS || is_full {
            self.plan.findings.push(finding);
            return;
        }
        let leaders = self.leaders(shards);
        let has_time = leaders.iter().all(|node| self.may_begin(Some(*node), None, planned.reason));
        if !has_time || !shards.iter().all(|shard| self.is_at_rest(*shard)) {
            self.plan.waiting += 1;
            return;
        }
        for node in leaders {
            *self.busy.entry(node).or_default() += 1;
        }
        self.touched.extend(shards);
        self.plan.actions.push(planned);
    }
}
