//! The master's loop: sees how the cluster is, plans, and has the plan carried out, again and again while its reign lasts. `node` lets it
//! stand for election; `plan` decides, the nodes act.
//!
//! It promises: every change it makes is one transaction, on the condition that its reign is not over and that what it was planned
//! by is still so. So it can be stopped at any point, two masters for a moment do no harm, and nothing is to be remembered: what is
//! under way is in the table and in the reports. What a new master does not know is how long nodes have been away; it waits anew.

#[cfg(test)]
mod tests;

use super::{
    control::{Draft, Stored},
    members::MemberRecord,
    plan::{Action, Limits, Plan, Planned, View, plan},
    report::{Observer, Reports},
    table::{NodeId, ShardTable},
};
use crate::{
    coordination::{BoxFuture, Compare, Coordinator, election},
    rt::{Shutdown, time, time::Instant},
    telemetry::metrics::MasterMetrics,
    types::Result,
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock},
    time::Duration,
};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// Changes begun in one round: with their history they fit one transaction.
const ACTIONS_MAX: usize = 64;

/// How the master works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerSettings {
    /// How long a node is waited for before its replicas are made anew elsewhere.
    pub replace_after: Duration,
    /// What a node may receive or send for evening out, in the long run.
    pub bytes_per_second: u64,
    /// Replicas that a node may be receiving or sending at once.
    pub moves_max: u32,
    /// A shard with more points than this is split; 0: none is.
    pub split_above: u64,
    /// Neighbours with fewer points than this together are merged.
    pub merge_below: u64,
}

impl Default for ControllerSettings {
    fn default() -> ControllerSettings {
        ControllerSettings {
            replace_after: Duration::from_secs(300),
            bytes_per_second: 50 << 20,
            moves_max: 2,
            split_above: 0,
            merge_below: 0,
        }
    }
}

impl ControllerSettings {
    /// The bounds of a plan, while evening out goes on or is `paused`.
    pub fn limits(&self, paused: bool, throttled: BTreeSet<NodeId>) -> Limits {
        let ControllerSettings { replace_after, moves_max, split_above, merge_below, .. } = *self;
        Limits { replace_after, moves_max, split_above, merge_below, paused, throttled }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Controller(Arc<Inner>);

struct Inner {
    node: NodeId,
    coordinator: Arc<dyn Coordinator>,
    observer: Arc<dyn Observer>,
    settings: ControllerSettings,
    metrics: MasterMetrics,
    /// What the last round saw and planned; none when not reigning.
    last: RwLock<Option<Arc<Seen>>>,
    master: RwLock<Option<NodeId>>,
}

/// What a round saw and planned.
#[derive(Clone, Debug)]
pub struct Seen {
    pub view: View,
    pub plan: Plan,
}

impl Controller {
    /// The controller of a node.
    pub fn new(
        node: NodeId,
        coordinator: Arc<dyn Coordinator>,
        observer: Arc<dyn Observer>,
        settings: ControllerSettings,
        metrics: MasterMetrics,
    ) -> Controller {
        Controller(Arc::new(Inner {
            node,
            coordinator,
            observer,
            settings,
            metrics,
            last: RwLock::default(),
            master: RwLock::default(),
        }))
    }

    /// The node it belongs to.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// How it works.
    pub fn settings(&self) -> &ControllerSettings {
        &self.0.settings
    }

    /// How the nodes that answer are, now.
    pub async fn observe(&self) -> Reports {
        self.0.observer.observe().await
    }

    /// What the last round saw and planned, if this node is the master.
    pub fn last(&self) -> Option<Arc<Seen>> {
        self.0.last.read().expect("no panic while changing").clone()
    }

    /// The master, as far as this node knows.
    pub fn master(&self) -> Option<NodeId> {
        *self.0.master.read().expect("no panic while changing")
    }

    /// Acts as master until the reign is over.
    async fn rule(&self, fence: Compare, ended: Shutdown) {
        let mut reign = Reign::new(self.clone(), fence, time::now());
        while !ended.is_triggered() {
            let round = async {
                let began = time::now();
                let done = reign.round(began, time::wall().0).await;
                self.0.metrics.did_round(began.elapsed(), done.is_ok());
                if let Err(error) = done {
                    tracing::warn!(%error, "the master could not do its round; it will try again");
                }
                time::sleep(INTERVAL).await;
            };
            tokio::select! {
                biased;
                () = ended.wait() => {}
                () = round => {}
            }
        }
        self.see(None);
    }

    fn see(&self, seen: Option<Seen>) {
        *self.0.last.write().expect("no panic while changing") = seen.map(Arc::new);
    }
}

impl election::Candidate for Controller {
    /// Whether what the cluster agrees on can be read here: a node that has just joined knows nothing of it yet.
    fn is_ready(&self) -> bool {
        self.0.coordinator.remembered(&MemberRecord::key(self.0.node)).is_ok_and(|known| !known.is_empty())
    }

    fn reign(&self, reign: election::Reign) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            tracing::info!(term = reign.term, "this node is the master");
            self.rule(reign.fence(), reign.ended.clone()).await;
            tracing::info!(term = reign.term, "this node is no longer the master");
        })
    }

    fn leader_changed(&self, leader: Option<&election::Leader>) {
        *self.0.master.write().expect("no panic while changing") = leader.map(|leader| leader.node);
    }
}

/// One reign and what it has learned.
struct Reign {
    controller: Controller,
    fence: Compare,
    began: Instant,
    /// When each node answered last.
    answered: BTreeMap<NodeId, Instant>,
    /// What each node told last.
    told: Reports,
    /// Until when each node has moved as much as it may.
    throttled_until: BTreeMap<NodeId, Instant>,
}

impl Reign {
    fn new(controller: Controller, fence: Compare, now: Instant) -> Reign {
        let (answered, told, throttled_until) = Default::default();
        Reign { controller, fence, began: now, answered, told, throttled_until }
    }

    /// Sees, plans and has carried out what can be begun.
    ///
    /// # Errors
    /// Those of the coordinator. What was not done is planned anew by the next round.
    async fn round(&mut self, now: Instant, wall_ms: u64) -> Result<()> {
        let inner = self.controller.0.clone();
        let reports = inner.observer.observe().await;
        let stored = Stored::remembered(&*inner.coordinator)?;
        self.learn(&stored, &reports, now);
        let view =
            stored.view(&reports, &self.told, |node| now - self.answered.get(&node).copied().unwrap_or(self.began));
        if !view.is_whole() {
            tracing::info!("the master waits until every node with replicas has a record");
            return Ok(());
        }
        let mut planned = plan(&view, &self.limits(&stored, now));
        planned.actions.truncate(ACTIONS_MAX);
        let begun = self.begin(&stored, &planned.actions, view.newer_version(), wall_ms).await?;
        if begun {
            self.charge(&view, &planned.actions, now);
            planned.actions.iter().for_each(|one| inner.metrics.began(one.action.kind(), one.bytes));
        }
        self.controller.see(Some(Seen { view, plan: planned }));
        Ok(())
    }

    fn learn(&mut self, stored: &Stored, reports: &Reports, now: Instant) {
        self.answered.extend(reports.keys().map(|node| (*node, now)));
        self.told.extend(reports.iter().map(|(node, report)| (*node, report.clone())));
        // What is kept of nodes is bounded by the members.
        self.answered.retain(|node, _| stored.members.contains_key(node));
        self.told.retain(|node, _| stored.members.contains_key(node));
        self.throttled_until.retain(|_, until| *until > now);
    }

    fn limits(&self, stored: &Stored, now: Instant) -> Limits {
        let throttled = self.throttled_until.iter().filter(|(_, until)| **until > now).map(|(node, _)| *node);
        self.controller.0.settings.limits(stored.rebalance.paused, throttled.collect())
    }

    /// Writes what is to be written, and asks leaders to hand over. Whether it was written: if something had changed, it was not.
    async fn begin(
        &self,
        stored: &Stored,
        actions: &[Planned],
        newer_version: Option<u32>,
        wall_ms: u64,
    ) -> Result<bool> {
        let inner = &self.controller.0;
        let mut draft = Draft::new(stored);
        let mut table = stored.table.clone();
        for planned in actions {
            write(&mut draft, stored, &mut table, planned);
        }
        if table != stored.table {
            draft.table(&table);
        }
        if let Some(version) = newer_version {
            draft.version(version);
            draft.tell(format!("the cluster speaks version {version}"), "every node does", 0);
        }
        let written = if draft.is_empty() {
            true
        } else {
            draft.only_if(self.fence.clone());
            let committed = draft.commit(&*inner.coordinator, inner.node, wall_ms).await;
            committed.map_err(super::catalog::coordination)?
        };
        // All at once: one leader that does not answer holds up neither the others nor the next round.
        let hand_overs = actions.iter().filter_map(|planned| match planned.action {
            Action::Lead { shard, from, to } => Some(inner.observer.hand_over(shard, from, to)),
            Action::Replicas { .. } | Action::Votes { .. } | Action::Split { .. } | Action::Merge { .. } => None,
        });
        join_all(hand_overs).await;
        Ok(written)
    }

    /// Nodes that take part in a move take part in no other that can wait until its bytes would have gone at the throttle's rate.
    fn charge(&mut self, view: &View, actions: &[Planned], now: Instant) {
        let rate = self.controller.0.settings.bytes_per_second.max(1) as f64;
        for planned in actions {
            let nodes = match planned.action {
                Action::Replicas { shard, add: Some(to), .. } => [Some(to), view.leading(shard)],
                Action::Split { shard, .. } => [view.leading(shard), None],
                Action::Merge { shard, to } => [view.leading(shard), view.leading(to)],
                Action::Replicas { add: None, .. } | Action::Lead { .. } | Action::Votes { .. } => continue,
            };
            let cost = Duration::from_secs_f64(planned.bytes as f64 / rate);
            for node in nodes.into_iter().flatten() {
                let until = self.throttled_until.entry(node).or_insert(now);
                *until = (*until).max(now) + cost;
            }
        }
    }
}

/// Puts an action into a draft, and tells of it.
fn write(draft: &mut Draft<'_>, stored: &Stored, table: &mut ShardTable, planned: &Planned) {
    match &planned.action {
        Action::Replicas { shard, replicas, .. } => {
            table.change_replicas(*shard, replicas.clone());
        }
        Action::Votes { give, take } => {
            let with = |nodes: &[NodeId], votes: bool| {
                let known = nodes.iter().filter_map(|node| Some((*node, stored.members.get(node)?.clone())));
                known.map(move |(node, record)| (node, MemberRecord { votes, ..record })).collect::<Vec<_>>()
            };
            for (node, record) in with(give, true).into_iter().chain(with(take, false)) {
                draft.member(node, &record);
            }
        }
        Action::Split { shard, at } => {
            if table.begin_split(*shard, *at).is_none() {
                return;
            }
        }
        Action::Merge { shard, to } => {
            if !table.begin_merge(*shard, *to) {
                return;
            }
        }
        // Who leads is not written anywhere.
        Action::Lead { .. } => return,
    }
    draft.tell(&planned.action, planned.reason, planned.bytes);
}
