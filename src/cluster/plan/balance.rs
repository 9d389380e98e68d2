//! Evening out: replicas over zones and nodes, leaders over replicas. Only shards that are well and left alone by everything else take
//! part. Called by `plan`.

use super::{Action, NodeView, Planned, Planner, Reason};
use crate::cluster::{
    placement::{Move, Standing},
    table::{NodeId, ShardId},
};
use std::collections::BTreeMap;

/// Moves looked at for one plan that cannot be begun, and all: those to the emptiest nodes come first, and these are soon busy.
const WAITING_LOOKED_AT_MAX: u32 = 8;
const MOVES_LOOKED_AT_MAX: u32 = 256;
/// Leaders asked to hand over by one plan.
const HAND_OVERS_MAX: usize = 16;

impl Planner<'_> {
    pub(super) fn even_out(&mut self) {
        self.spread_over_zones();
        self.move_replicas();
        // Leaders last: a move of replicas may take them along.
        if self.plan.actions.is_empty() && self.plan.waiting == 0 && self.plan.in_flight == 0 {
            self.move_leaders();
        }
    }

    /// Whether a shard may be moved, split or merged for no other reason than that things are uneven.
    pub(super) fn is_at_rest(&self, shard: ShardId) -> bool {
        let state = &self.states[&shard];
        state.leader.is_some()
            && !state.in_flight
            && !self.touched.contains(&shard)
            && state.healthy.len() == self.view.table.shards[&shard].replicas.len()
    }

    fn spread_over_zones(&mut self) {
        let shards: Vec<ShardId> = self.states.keys().copied().filter(|shard| self.is_at_rest(*shard)).collect();
        for shard in shards {
            if let Some(Move { shard, from, to }) = self.layout.misplaced(shard) {
                self.change(shard, Some(to), Some(from), Reason::Zone);
            }
        }
    }

    fn move_replicas(&mut self) {
        let waiting = self.plan.waiting;
        for _ in 0..MOVES_LOOKED_AT_MAX {
            let best = self.layout.best_move(&|shard| self.is_at_rest(shard));
            let Some(Move { shard, from, to }) = best else { return };
            self.change(shard, Some(to), Some(from), Reason::Balance);
            if self.plan.waiting - waiting > WAITING_LOOKED_AT_MAX {
                return;
            }
        }
    }

    fn move_leaders(&mut self) {
        // Who is away for a moment leads nothing, and should find its share when it is back.
        let away = |node: &NodeView| node.standing(self.limits.replace_after) == Standing::Away;
        if self.view.nodes.values().any(away) {
            return;
        }
        let mut excess = self.leaders_too_many();
        let mut moved: Vec<ShardId> = Vec::new();
        while moved.len() < HAND_OVERS_MAX {
            let Some((shard, from, to)) = self.best_hand_over(&excess, &moved) else { return };
            *excess.entry(from).or_default() -= 1.0;
            *excess.entry(to).or_default() += 1.0;
            moved.push(shard);
            let action = Action::Lead { shard, from, to };
            self.plan.actions.push(Planned { action, reason: Reason::Leaders, bytes: 0 });
        }
    }

    /// How many shards more each active node leads than its replicas would have it.
    fn leaders_too_many(&self) -> BTreeMap<NodeId, f64> {
        let mut excess: BTreeMap<NodeId, f64> = BTreeMap::new();
        for (shard, entry) in &self.view.table.shards {
            let Some(leader) = self.states[shard].leader else { continue };
            *excess.entry(leader).or_default() += 1.0;
            for node in &entry.replicas {
                *excess.entry(*node).or_default() -= 1.0 / entry.replicas.len() as f64;
            }
        }
        excess
    }

    /// The hand-over that evens out most: it must even out something.
    fn best_hand_over(&self, excess: &BTreeMap<NodeId, f64>, moved: &[ShardId]) -> Option<(ShardId, NodeId, NodeId)> {
        let of = |node: &NodeId| excess.get(node).copied().unwrap_or(0.0);
        let stays = |node: &NodeId| {
            let node = self.view.nodes.get(node);
            node.is_some_and(|node| node.standing(self.limits.replace_after) == Standing::Active)
        };
        let shards = self.states.iter().filter(|(shard, _)| self.is_at_rest(**shard) && !moved.contains(shard));
        let hand_overs = shards.filter_map(|(shard, state)| {
            let from = state.leader?;
            let others = state.healthy.iter().copied().filter(|node| *node != from && stays(node));
            let to = others.min_by(|a, b| of(a).total_cmp(&of(b)).then(a.cmp(b)))?;
            let gain = of(&from) - of(&to) - 1.0;
            (gain > 1e-6).then_some((gain, *shard, from, to))
        });
        let best = hand_overs.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, shard, from, to)| (shard, from, to))
    }
}
