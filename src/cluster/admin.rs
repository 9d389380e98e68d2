//! What administrators ask of the cluster: drain a node, remove it, pause evening out, look at what is planned and what was done. Each
//! change is one transaction; any node may make it, the master acts on it. Called by `service`.

use super::{
    catalog,
    control::{Draft, Rebalance, Stored},
    controller::{Controller, Seen},
    history::Entry,
    members::{MemberRecord, MemberState},
    plan::{Forecast, Limits, View, forecast, plan},
    report::{ReplicaReport, Reports},
    table::{NodeId, ShardId},
};
use crate::{
    coordination::Coordinator,
    types::{Error, ErrorKind, Result},
};
use std::{sync::Arc, time::Duration};

/// How often a change is tried again because something else was changed in between.
const TRIES_MAX: u32 = 32;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    coordinator: Arc<dyn Coordinator>,
    controller: Controller,
}

/// How the cluster is and what is to become of it.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// What was seen and planned: by the master's last round, or by this node now.
    pub seen: Arc<Seen>,
    pub rebalance: Rebalance,
}

impl Admin {
    /// Over what the cluster agrees on, and this node's controller, whether it reigns or not.
    pub fn new(coordinator: Arc<dyn Coordinator>, controller: Controller) -> Admin {
        Admin { coordinator, controller }
    }

    /// How the cluster is.
    ///
    /// # Errors
    /// `Corrupt`.
    pub async fn outlook(&self) -> Result<Outlook> {
        let stored = self.stored()?;
        let rebalance = stored.rebalance;
        if let Some(seen) = self.controller.last() {
            return Ok(Outlook { seen, rebalance });
        }
        let view = self.look(&stored).await;
        let planned = if view.is_whole() { plan(&view, &self.limits(rebalance)) } else { Default::default() };
        Ok(Outlook { seen: Arc::new(Seen { view, plan: planned }), rebalance })
    }

    /// What would be done until everything is in its place, if nothing else happened.
    ///
    /// # Errors
    /// `Corrupt`.
    pub async fn forecast(&self) -> Result<Forecast> {
        let Outlook { seen, rebalance } = self.outlook().await?;
        let rate = self.controller.settings().bytes_per_second;
        Ok(forecast(&seen.view, &self.limits(rebalance), rate))
    }

    /// The last changes, newest first.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn history(&self) -> Result<Vec<Entry>> {
        Ok(self.stored()?.history.newest_first())
    }

    /// Stops evening out, or goes on with it.
    ///
    /// # Errors
    /// `Unavailable` or `Indeterminate` if the coordinator did not answer.
    pub async fn pause(&self, paused: bool, wall_ms: u64) -> Result<()> {
        self.change(wall_ms, |stored, draft| {
            if stored.rebalance.paused != paused {
                draft.rebalance(Rebalance { paused });
                draft.tell(if paused { "evening out is paused" } else { "evening out goes on" }, "asked for", 0);
            }
            Ok(())
        })
        .await
    }

    /// Lets a node's leaders and replicas move to others, or stops that.
    ///
    /// # Errors
    /// `node_not_found`, `node_removed`; `last_node` if no other could take anything.
    pub async fn drain(&self, node: NodeId, drain: bool, wall_ms: u64) -> Result<()> {
        let state = if drain { MemberState::Draining } else { MemberState::Active };
        self.change(wall_ms, |stored, draft| {
            let record = find(stored, node)?;
            if record.state == MemberState::Removed {
                return Err(conflict("node_removed", "the node was removed from the cluster", node));
            }
            let stays = |(id, other): (&NodeId, &MemberRecord)| *id != node && other.state == MemberState::Active;
            if drain && !stored.members.iter().any(stays) {
                return Err(conflict("last_node", "no other node could take what this one has", node));
            }
            if record.state != state {
                draft.member(node, &MemberRecord { state, ..record.clone() });
                let what = if drain { "is to be drained" } else { "is no longer to be drained" };
                draft.tell(format!("node {node:016x} {what}"), "asked for", 0);
            }
            Ok(())
        })
        .await
    }

    /// Removes a node from the cluster, for ever: one that was drained and holds nothing, or one that does not answer and is not
    /// needed for anything's majority. From then on nobody talks to it, so what it has must have arrived elsewhere before.
    ///
    /// # Errors
    /// `node_not_found`; `node_not_drained` if it answers and holds replicas (or still has those that are on their way to
    /// others) or has not been drained; `node_needed` if without it a shard's group or the coordinator's, as it is now or as it is
    /// to be, has no majority of nodes that answer.
    pub async fn remove(&self, node: NodeId, wall_ms: u64) -> Result<()> {
        let Outlook { seen, .. } = self.outlook().await?;
        self.change(wall_ms, |stored, draft| {
            let record = find(stored, node)?;
            if record.state == MemberState::Removed {
                return Ok(());
            }
            let told = seen.view.nodes.get(&node).filter(|known| known.answers());
            let answers = told.is_some();
            // The table says where replicas shall be; a node that gives one away has it until it has arrived.
            let has = |shard: &ShardId| told.is_some_and(|known| known.report.replicas.contains_key(shard));
            let shards = stored.table.shards.iter();
            let held = shards.filter(|(shard, entry)| entry.replicas.contains(&node) || has(shard)).count();
            if answers && (held > 0 || record.state != MemberState::Draining) {
                let message = "a node that answers is drained before it is removed";
                let error = conflict("node_not_drained", message, node).expected("a drained node, without replicas");
                return Err(error.got(format!("{held} replicas")));
            }
            majorities_without(&seen.view, stored, node)?;
            // No replica may be placed there: whoever has read the table before this has to read it, and this record, again.
            let mut table = stored.table.clone();
            table.epoch += 1;
            draft.table(&table);
            let record = MemberRecord { state: MemberState::Removed, votes: false, ..record.clone() };
            draft.member(node, &record);
            draft.tell(format!("node {node:016x} is removed"), "asked for", 0);
            Ok(())
        })
        .await
    }

    /// Tries a change until nothing comes between reading and writing.
    async fn change(&self, wall_ms: u64, make: impl Fn(&Stored, &mut Draft<'_>) -> Result<()>) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let stored = self.stored()?;
            let mut draft = Draft::new(&stored);
            make(&stored, &mut draft)?;
            if draft.is_empty() {
                return Ok(());
            }
            let committed = draft.commit(&*self.coordinator, self.controller.node(), wall_ms).await;
            if committed.map_err(catalog::coordination)? {
                return Ok(());
            }
        }
        let message = "the cluster was changed by others all the time, or this node has not heard of the last changes";
        Err(Error::new(ErrorKind::Unavailable, "cluster_busy", message))
    }

    fn stored(&self) -> Result<Stored> {
        Stored::remembered(&*self.coordinator)
    }

    async fn look(&self, stored: &Stored) -> View {
        let reports = self.controller.observe().await;
        // This node has not watched: who does not answer now may have done so a moment ago.
        stored.view(&reports, &Reports::new(), |_| Duration::from_secs(1))
    }

    fn limits(&self, rebalance: Rebalance) -> Limits {
        let settings = self.controller.settings();
        Limits {
            replace_after: settings.replace_after,
            moves_max: settings.moves_max,
            paused: rebalance.paused,
            ..Limits::default()
        }
    }
}

fn find(stored: &Stored, node: NodeId) -> Result<&MemberRecord> {
    stored.members.get(&node).ok_or_else(|| {
        let message = "there is no such node in the cluster";
        Error::new(ErrorKind::NotFound, "node_not_found", message).at("node").got(format!("{node:016x}"))
    })
}

/// Whether every shard's group, and the coordinator's own, keeps a majority of nodes that answer when `node` is taken from it:
/// of those that decide now, without whom nothing can be changed, and of those that shall.
fn majorities_without(view: &View, stored: &Stored, node: NodeId) -> Result<()> {
    let answers = |id: &NodeId| *id != node && view.nodes.get(id).is_some_and(super::plan::NodeView::answers);
    let needs =
        |group: &[NodeId]| group.contains(&node) && group.iter().filter(|id| answers(id)).count() * 2 <= group.len();
    let needed = |what: String| {
        Err(conflict("node_needed", "without the node there is no majority of what it belongs to", node).got(what))
    };
    let now = |report: &ReplicaReport| needs(&report.voters) || needs(&report.voters_outgoing);
    for (shard, entry) in &stored.table.shards {
        let leading = view.leading(*shard).and_then(|leader| view.replica(*shard, leader));
        if needs(&entry.replicas) || leading.is_some_and(now) {
            return needed(format!("shard {shard}"));
        }
    }
    let voting = stored.members.iter().filter(|(_, record)| record.votes);
    let voters: Vec<NodeId> = voting.map(|(id, _)| *id).collect();
    if needs(&voters) || view.control().is_some_and(now) {
        return needed("the coordinator".to_owned());
    }
    Ok(())
}

fn conflict(code: &'static str, message: &'static str, node: NodeId) -> Error {
    Error::new(ErrorKind::Conflict, code, message).at("node").got(format!("{node:016x}"))
}
