//! What `/metrics` tells of collections, shards, this node and the cluster, gathered when it is read: nothing of it is counted as it
//! happens. Called by `api` before each scrape.

use super::{Service, status::node_name};
use crate::{
    cluster::{
        MemberState, NodeId,
        admin::Outlook,
        placement::copies_wanted,
        plan::{NodeView, View},
    },
    rt::{self, time},
    shard::Room,
    telemetry::metrics::{MemberRow, NodeRow, ReplicaRow, WholeRow},
};
use futures_util::future::join_all;
use std::time::Duration;

/// How long the databases are waited for: a disk that hangs in a sync keeps them from answering, and the rest is told all the same.
const STORES_LIMIT: Duration = Duration::from_secs(1);

impl Service {
    /// Tells the metrics how everything is now, before they are read out. Cost: a message to every replica of this node.
    pub async fn tell_metrics(&self) {
        let (replicas, ()) = tokio::join!(self.replica_rows(), self.tell_stores());
        self.tell_collections();
        let metrics = &self.0.metrics;
        metrics.cluster.node.set(vec![self.node_row(&replicas)]);
        metrics.replicas.rows.set(replicas);
        let ruling = self.0.admin.get().and_then(|admin| admin.ruling().ok().flatten());
        let (whole, members) = ruling.as_ref().map(|outlook| (whole_row(outlook), member_rows(outlook))).unzip();
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
    fn tell_collections(&self) {
        let collections = self.0.catalog.collections();
        self.0.metrics.collections.set_count(collections.len() as u64);
        self.0.metrics.collections.set_aliases(self.0.catalog.aliases().count() as u64);
        for collection in collections.values() {
            let here = collection.shards.iter().filter_map(|(shard, _)| self.0.host.find(*shard));
            let stats: Vec<_> = here.map(|replica| replica.stats()).collect();
            let rows = |part: fn(&crate::shard::IndexState) -> usize| {
                stats.iter().flat_map(|shard| &shard.indexes).map(|(_, state)| part(state) as u64).sum::<u64>()
            };
            let (all, tail) = (rows(|state| state.rows), rows(|state| state.tail_rows));
            let gauges = self.0.metrics.collections.collection(collection.name.as_str());
            gauges.set_points(stats.iter().map(|shard| shard.points).sum());
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

fn whole_row(outlook: &Outlook) -> WholeRow {
    let (view, plan) = (&outlook.seen.view, &outlook.seen.plan);
    let entries = &view.table.shards;
    let states = view.shards();
    // By what is wanted, not by what the table has: there may be too few nodes for it.
    let candidates = view.candidates(Duration::MAX);
    let wanted = |copies: Option<u32>| copies_wanted(copies, &candidates) as usize;
    let shards = || entries.iter().filter_map(|(id, entry)| Some((id, entry, states.get(id)?)));
    let lags = shards().flat_map(|(id, entry, state)| {
        let told = entry.replicas.iter().filter_map(|node| view.replica(*id, *node));
        told.map(|replica| state.committed.saturating_sub(replica.applied))
    });
    WholeRow {
        collections: view.shards_asked.len() as u64,
        shards: entries.len() as u64,
        shards_leaderless: shards().filter(|(.., state)| state.leader.is_none()).count() as u64,
        shards_short: shards().filter(|(_, entry, state)| state.healthy.len() < wanted(entry.copies)).count() as u64,
        shards_changing: shards().filter(|(.., state)| state.in_flight).count() as u64,
        shards_giving: shards().filter(|(_, entry, _)| entry.giving.is_some()).count() as u64,
        replicas: shards().map(|(_, entry, _)| entry.replicas.len() as u64).sum(),
        lag_max: lags.max().unwrap_or_default(),
        points: shards().map(|(.., state)| state.points).sum(),
        data_bytes: members(view).map(|(_, node)| stored_bytes(node)).sum(),
        changes_in_flight: plan.in_flight.into(),
        changes_begun: plan.actions.len() as u64,
        changes_waiting: plan.waiting.into(),
        begun_bytes: plan.actions.iter().map(|planned| planned.bytes).sum(),
        findings: plan.findings.len() as u64,
        is_paused: outlook.rebalance.paused,
        protocol_version: view.version,
    }
}

/// Of every member.
fn member_rows(outlook: &Outlook) -> Vec<MemberRow> {
    let view = &outlook.seen.view;
    let states = view.shards();
    let row = |(id, node): (&NodeId, &NodeView)| MemberRow {
        node: node_name(*id),
        zone: node.record.zone.clone(),
        answers: node.answers(),
        away: node.away,
        is_draining: node.record.state == MemberState::Draining,
        replicas: view.table.shards.values().filter(|entry| entry.replicas.contains(id)).count() as u64,
        leads: states.values().filter(|state| state.leader == Some(*id)).count() as u64,
        data_bytes: stored_bytes(node),
    };
    members(view).map(row).collect()
}

/// Without those that were removed.
fn members(view: &View) -> impl Iterator<Item = (&NodeId, &NodeView)> {
    view.nodes.iter().filter(|(_, node)| node.record.is_member())
}

fn stored_bytes(node: &NodeView) -> u64 {
    node.report.replicas.values().map(|replica| replica.bytes).sum()
}
