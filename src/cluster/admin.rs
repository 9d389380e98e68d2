//! What administrators ask of the cluster: drain a node, remove it, move a replica, split and merge shards, pause evening out, look at what is planned and what was done. Each
//! change is one transaction; any node may make it, the master acts on it. Called by `service`.

use super::{
    catalog,
    control::{Draft, REBALANCE, Rebalance, Stored, VERSION_OF_SPLITS},
    controller::{Controller, Seen},
    history::Entry,
    members::{MemberRecord, MemberState},
    plan::{Forecast, Limits, View, forecast, plan},
    report::{ReplicaReport, Reports},
    table::{NodeId, SHARDS_MAX, ShardEntry, ShardId, ShardTable},
};
use crate::{
    coordination::Coordinator,
    rt::compute,
    types::{CollectionName, Error, ErrorKind, Result, limits},
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

    /// How the cluster is, as the last round of this node's reign saw it; none if it is not the master. Asks nobody.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn ruling(&self) -> Result<Option<Outlook>> {
        let Some(seen) = self.controller.last() else { return Ok(None) };
        Ok(Some(Outlook { seen, rebalance: self.stored()?.rebalance }))
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

    /// What would be done until everything is in its place, if nothing else happened and nothing were paused. Cost: up to a thousand plans,
    /// on the compute pool.
    ///
    /// # Errors
    /// `Corrupt`.
    pub async fn forecast(&self) -> Result<Forecast> {
        let Outlook { seen, .. } = self.outlook().await?;
        let (rate, limits) = (self.controller.settings().bytes_per_second, self.limits(Rebalance { paused: false }));
        Ok(compute::cpu(move || forecast(&seen.view, &limits, rate)).await)
    }

    /// How the cluster is now, by asking every node, also where the master knows it as of its last round.
    ///
    /// # Errors
    /// `Corrupt`.
    pub async fn look_now(&self) -> Result<View> {
        Ok(self.look(&self.stored()?).await)
    }

    /// Gives a shard a replica on `to` in place of the one on `from`. When this returns the change is agreed on; it comes about like
    /// the master's own: where `from` leads, the group lets another lead first.
    ///
    /// # Errors
    /// `shard_not_found`, `node_not_found`; `replica_not_there` and `replica_there` if the shard is not on `from` or is on `to`;
    /// `node_takes_nothing` if `to` may hold no replicas, or does not answer; `too_many_shards_here` if it holds as many as it can; `shard_busy` if its replicas are being changed;
    /// `shard_without_leader`; those of the coordinator.
    pub async fn transfer(&self, shard: ShardId, from: NodeId, to: NodeId, wall_ms: u64) -> Result<()> {
        check_transfer(&self.look_now().await?, shard, from, to)?;
        self.change(wall_ms, |stored, draft| {
            let entry = stored.table.shards.get(&shard).ok_or_else(|| no_shard(shard))?;
            held(entry, from, to)?;
            let record = find(stored, to)?;
            if record.state != MemberState::Active || !record.holds_shards() {
                return Err(takes_nothing(to));
            }
            check_room(&stored.table, to)?;
            // So that it is still so when this is written.
            draft.only_if(stored.unchanged(&MemberRecord::key(to)));
            let mut table = stored.table.clone();
            let replicas = entry.replicas.iter().copied().filter(|node| *node != from).chain([to]).collect();
            table.change_replicas(shard, replicas);
            draft.table(&table);
            draft.tell(format!("shard {shard}: a replica goes from {from:016x} to {to:016x}"), "asked for", 0);
            Ok(())
        })
        .await
    }

    /// Begins to split a shard: a new one on the same nodes is to have its slots from `at` on, the upper half if nothing is said. When
    /// this returns it is agreed on; the leader of the shard does it. Returns the new shard's id.
    ///
    /// # Errors
    /// `shard_not_found` if it is none of the collection; `cannot_split` if one of the two would have no slots; `slots_move_already`,
    /// `too_many_shards`, `too_many_shards_here`; `version_too_old` while a node may not know how slots move; those of the coordinator.
    pub async fn split(&self, name: &CollectionName, shard: ShardId, at: Option<u16>, wall_ms: u64) -> Result<ShardId> {
        self.change(wall_ms, |stored, draft| {
            let entry = movable(stored, name, shard)?;
            if !stored.table.has_room_to_split(name) {
                let message = "there are so many shards that none is split";
                let error = Error::new(ErrorKind::Conflict, "too_many_shards", message);
                let expected =
                    format!("fewer than {} of the table, {SHARDS_MAX} in all", limits::SHARDS_PER_COLLECTION_MAX);
                return Err(error.expected(expected));
            }
            if !stored.table.have_room(&entry.replicas) {
                let message = "a node that holds this shard holds so many that none of its shards is split";
                return Err(full(message.to_owned()));
            }
            let mut table = stored.table.clone();
            let at = at.or(entry.slots.middle());
            let begun = at.and_then(|at| Some((at, table.begin_split(shard, at)?)));
            let (at, new) = begun.ok_or_else(|| {
                let (first, end) = (entry.slots.first, entry.slots.end);
                Error::new(ErrorKind::Conflict, "cannot_split", "one of the two shards would have no slots")
                    .at("at")
                    .expected(format!("a slot after {first} and before {end}"))
            })?;
            draft.table(&table);
            draft.tell(format!("shard {shard}: shard {new} gets its slots from {at} on"), "asked for", 0);
            Ok(new)
        })
        .await
    }

    /// Begins to merge a shard into its neighbour `to`, which is to have all its points; then the shard is no more. When this returns
    /// it is agreed on.
    ///
    /// # Errors
    /// `shard_not_found` if one of them is none of the collection; `no_neighbours`; `slots_move_already`; `version_too_old` while a
    /// node may not know how slots move; those of the coordinator.
    pub async fn merge(&self, name: &CollectionName, shard: ShardId, to: ShardId, wall_ms: u64) -> Result<()> {
        self.change(wall_ms, |stored, draft| {
            movable(stored, name, shard)?;
            movable(stored, name, to)?;
            let mut table = stored.table.clone();
            if !table.begin_merge(shard, to) {
                let message = "only two shards whose slots lie side by side can be one";
                let error = Error::new(ErrorKind::Conflict, "no_neighbours", message).at("into");
                return Err(error.got(to.to_string()));
            }
            draft.table(&table);
            draft.tell(format!("shard {shard}: all its slots go to shard {to}"), "asked for", 0);
            Ok(())
        })
        .await
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
            if stored.rebalance.paused == paused {
                draft.only_if(stored.unchanged(REBALANCE));
                return Ok(());
            }
            draft.rebalance(Rebalance { paused });
            draft.tell(if paused { "evening out is paused" } else { "evening out goes on" }, "asked for", 0);
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
            if record.state == state {
                draft.only_if(stored.unchanged(&MemberRecord::key(node)));
                return Ok(());
            }
            draft.member(node, &MemberRecord { state, ..record.clone() });
            let what = if drain { "is to be drained" } else { "is no longer to be drained" };
            draft.tell(format!("node {node:016x} {what}"), "asked for", 0);
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
                draft.only_if(stored.unchanged(&MemberRecord::key(node)));
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

    /// Tries a change until nothing comes between reading and writing. What needs no change is committed, too, with its conditions: this
    /// node may remember a cluster of the past, in which all was as it is asked for now.
    async fn change<T>(&self, wall_ms: u64, make: impl Fn(&Stored, &mut Draft<'_>) -> Result<T>) -> Result<T> {
        for _ in 0..TRIES_MAX {
            let stored = self.stored()?;
            let mut draft = Draft::new(&stored);
            let made = make(&stored, &mut draft)?;
            let committed = draft.commit(&*self.coordinator, self.controller.node(), wall_ms).await;
            if committed.map_err(catalog::coordination)? {
                return Ok(made);
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
        self.controller.settings().limits(rebalance.paused, Default::default())
    }
}

fn full(message: String) -> Error {
    let expected = format!("fewer than {} replicas of shards on a node", limits::SHARDS_PER_NODE_MAX);
    Error::new(ErrorKind::Conflict, "too_many_shards_here", message).expected(expected)
}

/// Whether a node may be given one more replica.
fn check_room(table: &ShardTable, node: NodeId) -> Result<()> {
    match table.have_room(&[node]) {
        true => Ok(()),
        false => Err(full(format!("node {node:016x} holds as many shards as it can"))),
    }
}

/// Whether a replica may be moved, by how everything is.
fn check_transfer(view: &View, shard: ShardId, from: NodeId, to: NodeId) -> Result<()> {
    let entry = view.table.shards.get(&shard).ok_or_else(|| no_shard(shard))?;
    held(entry, from, to)?;
    let node = view.nodes.get(&to).ok_or_else(|| no_node(to))?;
    if node.gives_away() || !node.answers() {
        return Err(takes_nothing(to));
    }
    check_room(&view.table, to)?;
    let state = view.shard(shard);
    if state.leader.is_none() {
        return Err(shard_refused("shard_without_leader", "it has no leader that answers", shard));
    }
    if state.in_flight {
        return Err(shard_refused("shard_busy", "its replicas are being changed already", shard));
    }
    Ok(())
}

/// A shard of a collection in which slots may begin to move.
fn movable<'a>(stored: &'a Stored, name: &CollectionName, shard: ShardId) -> Result<&'a ShardEntry> {
    let entry = stored.table.shards.get(&shard).filter(|entry| entry.collection == *name);
    let entry = entry.ok_or_else(|| no_shard(shard))?;
    if stored.version < VERSION_OF_SPLITS {
        let message = "a node of the cluster may not know yet how slots move between shards: upgrade every node first";
        return Err(Error::new(ErrorKind::Conflict, "version_too_old", message)
            .expected(format!("a cluster that speaks version {VERSION_OF_SPLITS}"))
            .got(stored.version));
    }
    if stored.table.is_giving(name) {
        return Err(shard_refused("slots_move_already", "slots of the table are on their way already", shard));
    }
    Ok(entry)
}

/// Whether a shard is where a replica is to be taken from, and not where it is to go.
fn held(entry: &ShardEntry, from: NodeId, to: NodeId) -> Result<()> {
    if !entry.replicas.contains(&from) {
        return Err(conflict_at("from_node", "replica_not_there", "the node holds no replica of the shard", from));
    }
    if entry.replicas.contains(&to) {
        return Err(conflict_at("to_node", "replica_there", "the node holds a replica of the shard already", to));
    }
    Ok(())
}

fn no_shard(shard: ShardId) -> Error {
    Error::new(ErrorKind::NotFound, "shard_not_found", "there is no such shard").at("shard").got(shard.to_string())
}

fn shard_refused(code: &'static str, message: &'static str, shard: ShardId) -> Error {
    Error::new(ErrorKind::Conflict, code, message).at("shard").got(shard.to_string())
}

fn takes_nothing(node: NodeId) -> Error {
    let message =
        "the node takes no replicas: it is being drained, was removed, runs in mode master, or does not answer";
    conflict_at("to_node", "node_takes_nothing", message, node)
}

fn find(stored: &Stored, node: NodeId) -> Result<&MemberRecord> {
    stored.members.get(&node).ok_or_else(|| no_node(node))
}

fn no_node(node: NodeId) -> Error {
    let message = "there is no such node in the cluster";
    Error::new(ErrorKind::NotFound, "node_not_found", message).at("node").got(format!("{node:016x}"))
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
        let deciding = view.deciding(*shard);
        // While nobody leads, and nobody who answers knows who has to agree on a leader, it may be the node.
        if needs(&entry.replicas) || deciding.is_empty() || deciding.into_iter().any(now) {
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
    conflict_at("node", code, message, node)
}

fn conflict_at(field: &'static str, code: &'static str, message: &'static str, node: NodeId) -> Error {
    Error::new(ErrorKind::Conflict, code, message).at(field).got(format!("{node:016x}"))
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
