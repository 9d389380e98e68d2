//! Looking at the node and its cluster: status, nodes, health.

use super::{Check, ClusterStatus, HealthReport, NodeInfo, OtherNode, Service};
use crate::{
    cluster::{Labels, MemberRecord, MemberState, NodeId, ShardId, WEIGHT_ORDINARY},
    rt::{self, time::Instant},
    shard::Room,
    types::operation::Consistency,
};
use std::collections::BTreeSet;
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::SeqCst},
};

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Up = 1,
    Stopping = 2,
}

/// What a node tells about itself. Cheap to clone; clones share the phase.
#[derive(Clone)]
pub struct Identity {
    pub node_id: u64,
    pub zone: String,
    pub labels: Labels,
    pub cluster_name: String,
    pub mode: &'static str,
    pub http: Vec<String>,
    pub grpc: String,
    pub started: Instant,
    /// The master, as far as this node knows.
    pub leader: Arc<dyn Fn() -> Option<NodeId> + Send + Sync>,
    /// Why the node does not obey its coordinator, while it does not.
    pub alarm: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    phase: Arc<AtomicU8>,
}

impl Identity {
    /// A node that is starting.
    pub fn new(node_id: u64, cluster_name: String, zone: String, mode: &'static str) -> Identity {
        Identity {
            node_id,
            zone,
            labels: Labels::default(),
            cluster_name,
            mode,
            http: Vec::new(),
            grpc: String::new(),
            started: rt::time::now(),
            leader: Arc::new(move || Some(node_id)),
            alarm: Arc::new(|| None),
            phase: Arc::new(AtomicU8::new(Phase::Starting as u8)),
        }
    }

    /// Moves the node on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, SeqCst);
    }

    /// Where the node is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Up,
            _ => Phase::Stopping,
        }
    }

    /// The node id as text.
    pub fn node_name(&self) -> String {
        node_name(self.node_id)
    }
}

/// A node's id as text.
pub(super) fn node_name(id: NodeId) -> String {
    format!("{id:016x}")
}

impl Service {
    /// The node this service runs on.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The cluster in one look.
    pub async fn cluster_status(&self) -> ClusterStatus {
        let identity = &self.0.identity;
        let nodes = self.nodes().await;
        let failed = self.health().checks.into_iter().filter(|check| !check.ok).map(|check| check.detail);
        let unreachable = nodes.iter().filter(|node| node.status == "unreachable");
        let unreachable = unreachable.map(|node| format!("node {} cannot be reached from here", node.id));
        let collections = self.0.catalog.collections();
        let shards: Vec<ShardId> = collections.values().flat_map(|collection| collection.shard_ids()).collect();
        // Whoever looks at a cluster in trouble must not wait for it.
        let (points, silent) = match self.figures_as_of(Consistency::Eventual, &shards).await {
            Ok(figures) => (figures.points(), figures.silent()),
            Err(error) => (0, vec![format!("the documents could not be counted: {error}")]),
        };
        let bad: Vec<String> = failed.chain(unreachable).chain(silent).collect();
        ClusterStatus {
            verdict: if bad.is_empty() { "healthy" } else { "degraded" },
            reasons: bad,
            cluster_name: identity.cluster_name.clone(),
            mode: identity.mode,
            master: (identity.leader)().map(node_name),
            nodes,
            collections: collections.len() as u64,
            shards: shards.len() as u64,
            points,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Every node of the cluster, as this one sees it.
    pub async fn nodes(&self) -> Vec<NodeInfo> {
        let others = self.0.others.nodes();
        let this = self.0.identity.node_id;
        let members = self.0.members.node_ids().unwrap_or_default();
        let mut ids: BTreeSet<NodeId> = members.into_iter().chain(others.keys().copied()).collect();
        ids.retain(|id| !self.0.members.is_removed(*id));
        ids.insert(this);
        let records = self.0.members.records();
        let node = |id| match id == this {
            true => self.this_node(records.get(&id)),
            false => other_node(id, records.get(&id), others.get(&id)),
        };
        ids.into_iter().map(node).collect()
    }

    fn this_node(&self, record: Option<&MemberRecord>) -> NodeInfo {
        let identity = &self.0.identity;
        let replicas = self.0.host.replicas();
        NodeInfo {
            id: identity.node_name(),
            zone: Some(identity.zone.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http: identity.http.clone(),
            grpc: identity.grpc.clone(),
            status: match identity.phase() {
                Phase::Starting => "starting",
                Phase::Up => "up",
                Phase::Stopping => "stopping",
            },
            roles: roles(identity.mode),
            weight: weight(record),
            labels: identity.labels.clone(),
            draining: is_draining(record),
            uptime_seconds: Some(identity.started.elapsed().as_secs()),
            memory_bytes: Some(replicas.iter().map(|(_, replica)| replica.stats().memory_bytes()).sum()),
            shards: Some(replicas.len() as u64),
        }
    }

    /// Whether the node works. Cost: no I/O.
    pub fn health(&self) -> HealthReport {
        let phase = self.0.identity.phase();
        let writable = self.0.host.can_write();
        let missing = self.missing_shards();
        let failed = self.0.host.failed();
        let leaderless = self.leaderless_shards();
        let check =
            |name, ok, good: &str, bad: String| Check { name, ok, detail: if ok { good.to_owned() } else { bad } };
        let checks = vec![
            check("phase", phase == Phase::Up, "the node is up", format!("the node is {phase:?}").to_lowercase()),
            check("store", writable, "the store takes writes", "the store has failed; restart the node".to_owned()),
            check("shards", missing == 0, "every shard is open", format!("{missing} shards are not open")),
            check(
                "leaders",
                leaderless == 0,
                "every shard has a leader",
                format!("{leaderless} shards have no leader"),
            ),
        ];
        let membership = self.membership();
        let ready = membership.ok && checks.iter().all(|check| check.ok);
        // What others have to put right does not keep this node from answering.
        let aside = self.0.host.replicas().iter().filter(|(_, replica)| replica.aside().is_some()).count();
        let given_up = failed.len() + aside;
        let told = format!("{given_up} replicas are given up and wait to be rebuilt");
        let replicas = check("replicas", given_up == 0, "no replica is given up", told);
        let own = [replicas, self.room(), membership, self.obedience()];
        HealthReport { live: writable, ready, checks: checks.into_iter().chain(own).collect() }
    }

    fn room(&self) -> Check {
        let room = self.0.host.room();
        let detail = match room {
            Room::Enough => "the disk has room",
            Room::Reserve => "less than storage.reserve is free: writes to what is led here are refused",
            Room::Last => "the disk is full: nothing is written",
        };
        Check { name: "disk", ok: room == Room::Enough, detail: detail.to_owned() }
    }

    fn membership(&self) -> Check {
        let removed = self.0.members.is_removed(self.0.identity.node_id);
        let detail = match removed {
            false => "the node belongs to its cluster",
            true => {
                "the node was removed from the cluster; stop it, and start it with an empty data directory to join anew"
            }
        };
        Check { name: "membership", ok: !removed, detail: detail.to_owned() }
    }

    fn obedience(&self) -> Check {
        let alarm = (self.0.identity.alarm)();
        let good = "what the coordinator says is obeyed".to_owned();
        Check { name: "coordinator", ok: alarm.is_none(), detail: alarm.unwrap_or(good) }
    }

    /// Shards that this node has a vote in and no leader for. A replica that is only being filled waits for its leader's first word,
    /// and keeps no request from being answered meanwhile.
    pub(super) fn leaderless_shards(&self) -> usize {
        let table = self.0.catalog.table();
        let wanted = |id: &u64| table.shards.get(id).is_some_and(|entry| self.is_wanted(entry));
        let replicas = self.0.host.replicas();
        replicas.iter().filter(|(id, replica)| wanted(id) && replica.votes() && replica.leader().is_none()).count()
    }

    pub(super) fn missing_shards(&self) -> usize {
        let table = self.0.catalog.table();
        let failed = self.0.host.failed();
        let wanted = table.shards.iter().filter(|(id, entry)| self.is_wanted(entry) && !failed.contains_key(id));
        wanted.filter(|(id, _)| self.0.host.find(**id).is_none()).count()
    }
}

fn weight(record: Option<&MemberRecord>) -> u32 {
    record.map_or(WEIGHT_ORDINARY, |record| record.weight)
}

fn is_draining(record: Option<&MemberRecord>) -> bool {
    record.is_some_and(|record| record.state == MemberState::Draining)
}

/// What a node of this mode may be; of one that is not known, either.
fn roles(mode: &str) -> Vec<&'static str> {
    match mode {
        "master" => vec!["master"],
        "worker" => vec!["worker"],
        _ => vec!["master", "worker"],
    }
}

fn other_node(id: NodeId, record: Option<&MemberRecord>, told: Option<&OtherNode>) -> NodeInfo {
    NodeInfo {
        id: node_name(id),
        zone: record.map(|record| record.zone.clone()).filter(|zone| !zone.is_empty()),
        version: told.map(|node| node.version.clone()).unwrap_or_default(),
        http: told.map(|node| node.http.clone()).unwrap_or_default(),
        grpc: told.map(|node| node.grpc.clone()).unwrap_or_default(),
        status: if told.is_some_and(|node| node.connected) { "up" } else { "unreachable" },
        roles: roles(record.map_or("", |record| record.mode.as_str())),
        weight: weight(record),
        labels: record.map(|record| record.labels.clone()).unwrap_or_default(),
        draining: is_draining(record),
        uptime_seconds: None,
        memory_bytes: None,
        shards: None,
    }
}
