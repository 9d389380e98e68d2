//! What `/metrics` tells of collections, shards, databases, this node and the cluster, gathered when it is read. Called by `api` before
//! each scrape.

use super::{
    Service,
    administration::{KnownShard, NodePlacement, node_placement, shards_of},
};
use crate::{
    cluster::{
        MemberState, NodeId, ShardEntry,
        admin::Outlook,
        placement::copies_wanted,
        plan::{NodeView, ShardState, View},
    },
    rt::{self, time},
    shard::Room,
    telemetry::metrics::{MemberRow, NodeRow, ReplicaRow, WholeRow},
};
use futures_util::future::join_all;
use std::{collections::BTreeMap, time::Duration};

/// How long the databases are waited for: a disk that hangs in a sync keeps them from answering, and the rest is told all the same.
const STORES_LIMIT: Duration = Duration::from_secs(1);

impl Service {
    /// Tells the metrics how everything is now, before they are read out. Cost: a message to every replica of this node.
    pub async fn tell_metrics(&self) {
        let (replicas, ()) = tokio::join!(self.replica_rows(), self.tell_stores());
        self.tell_collections(&replicas);
        let metrics = &self.0.metrics;
        metrics.cluster.node.set(vec![self.node_row(&replicas)]);
        metrics.replicas.rows.set(replicas);
        let ruling = self.0.admin.get().and_then(|admin| admin.ruling().ok().flatten());
        let (whole, members) = ruling.as_ref().map(rows_of_master).unzip();
        metrics.cluster.whole.set(whole.into_iter().collect());
        metrics.cluster.members.set(members.unwrap_or_default());
    }

    /// The databases; as they were, where they do not answer. They are asked by one scrape at a time, however many there are.
    async fn tell_stores(&self) {
        let Ok(turn) = self.0.scraping.clone().try_acquire_owned() else { return };
        let host = self.0.host.clone();
        let asking = rt::compute::io(move || {
            let rows = host.store_rows();
            drop((host, turn));
            rows
        });
        if let Ok(rows) = time::timeout(STORES_LIMIT, asking).await {
            self.0.metrics.stores.rows.set(rows);
        }
    }

    /// Collections, over the shards of this node.
    fn tell_collections(&self, replicas: &[ReplicaRow]) {
        let mut here: BTreeMap<&str, Vec<&ReplicaRow>> = BTreeMap::new();
        for row in replicas {
            here.entry(&row.collection).or_default().push(row);
        }
        let collections = self.0.catalog.collections();
        self.0.metrics.collections.set_count(collections.len() as u64);
        self.0.metrics.collections.set_aliases(self.0.catalog.aliases().count() as u64);
        for collection in collections.values() {
            let here = here.get(collection.name.as_str()).map_or(&[][..], Vec::as_slice);
            let sum = |of: fn(&ReplicaRow) -> u64| here.iter().map(|row| of(row)).sum::<u64>();
            let (all, tail) = (sum(|row| row.index_rows), sum(|row| row.tail_rows));
            let gauges = self.0.metrics.collections.collection(collection.name.as_str());
            gauges.set_points(sum(|row| row.points));
            gauges.set_index(all.saturating_sub(tail), tail);
        }
    }

    /// Of every replica.
    async fn replica_rows(&self) -> Vec<ReplicaRow> {
        let table = self.0.catalog.table();
        let replicas = self.0.host.replicas();
        let rows = replicas.iter().filter_map(|(shard, replica)| {
            let collection = table.shards.get(shard)?.collection.as_str();
            Some(replica.row(collection.to_owned(), *shard))
        });
        join_all(rows).await
    }

    fn node_row(&self, replicas: &[ReplicaRow]) -> NodeRow {
        let (health, table) = (self.health(), self.0.catalog.table());
        let members: Vec<NodeId> = self.0.members.node_ids().unwrap_or_default();
        let others = self.0.others.nodes();
        let this = self.0.identity.node_id;
        let is_reached = |id: &NodeId| *id == this || others.get(id).is_some_and(|other| other.connected);
        let reads = self.0.reach.totals();
        let count = |is: fn(&ReplicaRow) -> bool| replicas.iter().filter(|row| is(row)).count() as u64;
        NodeRow {
            is_ready: health.ready,
            checks_failed: health.checks.iter().filter(|check| !check.ok).count() as u64,
            is_master: (self.0.identity.leader)() == Some(this),
            obeys: (self.0.identity.alarm)().is_none(),
            members: members.len() as u64,
            members_unreachable: members.iter().filter(|id| !is_reached(id)).count() as u64,
            shards: table.shards.len() as u64,
            table_epoch: table.epoch,
            replicas: replicas.len() as u64,
            replicas_leading: count(|row| row.leads),
            replicas_given_up: count(|row| row.is_given_up) + self.0.host.failed().len() as u64,
            shards_missing: self.missing_shards() as u64,
            shards_leaderless: self.leaderless_shards() as u64,
            disk_shortage: match self.0.host.room() {
                Room::Enough => 0,
                Room::Reserve => 1,
                Room::Last => 2,
            },
            reads_asked: reads.asked,
            reads_hedged: reads.hedged,
            reads_failed: reads.failed,
        }
    }
}

/// What only the master tells.
fn rows_of_master(outlook: &Outlook) -> (WholeRow, Vec<MemberRow>) {
    let shards = shards_of(&outlook.seen.view);
    let members = member_rows(&outlook.seen.view, &shards);
    (whole_row(outlook, &shards, &members), members)
}

fn whole_row(outlook: &Outlook, shards: &[KnownShard<'_>], members: &[MemberRow]) -> WholeRow {
    let (view, plan) = (&outlook.seen.view, &outlook.seen.plan);
    // By what is wanted, not by what the table has: there may be too few nodes for it.
    let candidates = view.candidates(Duration::MAX);
    let wanted = |copies: Option<u32>| copies_wanted(copies, &candidates) as usize;
    let count = |is: &dyn Fn(&ShardEntry, &ShardState) -> bool| {
        shards.iter().filter(|(_, entry, state)| is(entry, state)).count() as u64
    };
    let lags = shards.iter().flat_map(|(id, entry, state)| {
        let told = entry.replicas.iter().filter_map(|node| view.replica(*id, *node));
        told.map(|replica| state.committed.saturating_sub(replica.applied))
    });
    WholeRow {
        collections: view.shards_asked.len() as u64,
        shards: shards.len() as u64,
        shards_leaderless: count(&|_, state| state.leader.is_none()),
        shards_short: count(&|entry, state| state.healthy.len() < wanted(entry.copies)),
        shards_changing: count(&|_, state| state.in_flight),
        shards_giving: count(&|entry, _| entry.giving.is_some()),
        replicas: shards.iter().map(|(_, entry, _)| entry.replicas.len() as u64).sum(),
        lag_max: lags.max().unwrap_or_default(),
        points: shards.iter().map(|(.., state)| state.points).sum(),
        data_bytes: members.iter().map(|member| member.data_bytes).sum(),
        changes_in_flight: plan.in_flight.into(),
        changes_begun: plan.actions.len() as u64,
        changes_waiting: plan.waiting.into(),
        begun_bytes: plan.actions.iter().map(|planned| planned.bytes).sum(),
        findings: plan.findings.len() as u64,
        is_paused: outlook.rebalance.paused,
        protocol_version: view.version,
    }
}

/// Of every member; without those that were removed.
fn member_rows(view: &View, shards: &[KnownShard<'_>]) -> Vec<MemberRow> {
    let members = view.nodes.iter().filter(|(_, node)| node.record.is_member());
    let row = |(id, node): (&NodeId, &NodeView)| {
        let NodePlacement { id, zone, up, replicas, leads, bytes, .. } = node_placement(*id, node, shards);
        let is_draining = node.record.state == MemberState::Draining;
        MemberRow { node: id, zone, answers: up, away: node.away, is_draining, replicas, leads, data_bytes: bytes }
    };
    members.map(row).collect()
}
