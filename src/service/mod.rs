//! The list of operations: one function each. A request is checked whole, split by shard, routed, and its answers are
//! gathered. Every face calls these functions and no other. Called by `api` and the embedded library; built by `node`.

mod collections;
mod follow;
mod info;
mod payload_indexes;
mod points;
mod search;
mod status;
mod verify;

pub use follow::Agreed;
pub use info::{
    Check, ClusterStatus, CollectionInfo, CollectionStats, HealthReport, NodeInfo, PayloadIndexInfo, ShardStats,
    VectorIndexInfo,
};
pub use status::{Identity, Phase};
pub use verify::{Answering, OtherNode, Others, ReplicaVerdict, ShardVerdict, VerifyReport};

use crate::{
    cluster::{Catalog, Collection, Members},
    shard::{Host, Replica},
    telemetry::metrics::Metrics,
    types::{
        Limits, Result, Session,
        operation::{Consistency, ReadOptions},
    },
};
use std::sync::Arc;

/// All operations of a node. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    host: Host,
    identity: Identity,
    metrics: Metrics,
    members: Members,
    others: Arc<dyn Others>,
    /// Held while the shards follow the catalog, so that a table is never dropped while it is being opened.
    following: tokio::sync::Mutex<()>,
    changes: follow::Changes,
}

impl Service {
    /// The operations over a loaded catalog and the host of its shards.
    pub fn new(
        catalog: Catalog,
        host: Host,
        members: Members,
        others: Arc<dyn Others>,
        identity: Identity,
        metrics: Metrics,
    ) -> Service {
        let following = tokio::sync::Mutex::default();
        let changes = follow::Changes::default();
        Service(Arc::new(Inner { catalog, host, members, others, identity, metrics, following, changes }))
    }

    /// The bounds of every request.
    pub fn limits(&self) -> Limits {
        Limits::CURRENT
    }

    /// The shards of this node; for opening them at start and closing them at the end.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Brings the gauges of collections up to date; called before the metrics are read out.
    pub fn refresh_gauges(&self) {
        let collections = self.0.catalog.collections();
        self.0.metrics.collections.set_count(collections.len() as u64);
        for collection in collections.values() {
            let Ok(replicas) = self.replicas(collection) else { continue };
            let stats: Vec<_> = replicas.iter().map(|(_, replica)| replica.stats()).collect();
            let rows = |part: fn(&crate::shard::IndexState) -> usize| {
                stats.iter().flat_map(|shard| &shard.indexes).map(|(_, state)| part(state) as u64).sum::<u64>()
            };
            let (all, tail) = (rows(|state| state.rows), rows(|state| state.tail_rows));
            let gauges = self.0.metrics.collections.collection(collection.name.as_str());
            gauges.set_points(stats.iter().map(|shard| shard.points).sum());
            gauges.set_index(all.saturating_sub(tail), tail);
        }
    }

    /// Every shard of a collection, in slot order.
    fn replicas(&self, collection: &Collection) -> Result<Vec<(u64, Arc<Replica>)>> {
        collection.shards.iter().map(|(id, _)| Ok((*id, self.0.host.replica(*id)?))).collect()
    }

    /// Waits until reading `replica` is as fresh as `options` ask; notes in `session` how far it sees.
    async fn wait_to_read(
        &self,
        id: u64,
        replica: &Replica,
        options: &ReadOptions,
        session: &mut Session,
    ) -> Result<()> {
        let seen = options.session.as_ref().map_or(0, |session| session.seen(id));
        let index = match options.consistency {
            Consistency::Eventual => replica.applied(),
            Consistency::Session => replica.session_barrier(seen).await?,
            Consistency::Linearizable => replica.read_barrier(seen).await?,
        };
        session.saw(id, index);
        Ok(())
    }
}
