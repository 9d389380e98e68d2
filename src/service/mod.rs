//! The list of operations: one function each. A request is checked whole, split by shard, routed, and its answers are
//! gathered. Every face calls these functions and no other. Called by `api` and the embedded library; built by `node`.

mod administration;
mod aliases;
mod collections;
mod deletion;
mod fan_out;
mod figures;
mod find;
mod follow;
mod gather;
mod info;
mod moves;
mod owners;
mod pages;
mod parts;
mod payload_indexes;
mod points;
mod reach;
mod read;
mod scrape;
mod search;
mod splits;
mod status;
mod under_way;
mod verify;
mod whole;
mod wire;
mod write;

pub use administration::{
    ChangeInfo, ClusterPlacement, NodePlacement, PlannedInfo, RebalanceForecast, ReplicaPlacement, ShardPlacement,
};
pub use aliases::{AliasInfo, AliasesChanged};
pub use follow::{Agreed, ReadInVain};
pub use info::{
    Check, ClusterStatus, CollectionInfo, CollectionStats, HealthReport, NodeFilter, NodeInfo, PayloadIndexInfo,
    ShardStats, VectorIndexInfo,
};
pub use moves::{Leaving, Newcomer, RebalanceProgress, TransferInfo, TransferPhase};
pub use status::{Identity, Phase};
pub use verify::{Answering, OtherNode, Others, ReplicaVerdict, ShardVerdict, VerifyReport};

use crate::{
    cluster::{Catalog, Members, ShardId, ShardTable, admin::Admin},
    rt::rng,
    shard::{Elsewhere, Host},
    telemetry::metrics::Metrics,
    types::{CollectionName, Limits},
};
use find::Refresh;
use rand::RngCore;
use reach::Reach;
use std::{sync::Arc, time::Duration};
use under_way::UnderWay;

/// All operations of a node. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    host: Arc<Host>,
    identity: Identity,
    metrics: Metrics,
    members: Members,
    others: Arc<dyn Others>,
    admin: std::sync::OnceLock<Admin>,
    /// The way of writes to shards that are not here.
    elsewhere: Elsewhere,
    reach: Reach,
    owners: owners::Owners,
    request_timeout: Duration,
    refresh: Refresh,
    /// Held while the shards follow the catalog, so that a table is never dropped while it is being opened.
    following: tokio::sync::Mutex<()>,
    changes: follow::Changes,
    /// Shards led here that give slots.
    givers: UnderWay<ShardId>,
    /// Deletions that this node goes on with.
    deletions: UnderWay<CollectionName>,
    /// One permit: for who asks the databases how they are.
    scraping: Arc<tokio::sync::Semaphore>,
}

/// What a service needs of the other nodes.
pub struct Beyond {
    pub members: Members,
    pub others: Arc<dyn Others>,
    pub elsewhere: Elsewhere,
    /// The longest time of one request.
    pub request_timeout: Duration,
}

impl Service {
    /// The operations over a loaded catalog and the host of its shards.
    pub fn new(catalog: Catalog, host: Arc<Host>, beyond: Beyond, identity: Identity, metrics: Metrics) -> Service {
        let Beyond { members, others, elsewhere, request_timeout } = beyond;
        Service(Arc::new(Inner {
            catalog,
            host,
            identity,
            metrics,
            members,
            others,
            admin: Default::default(),
            elsewhere,
            reach: Reach::new(rng::stream("service/reach").next_u64()),
            owners: owners::Owners::default(),
            request_timeout,
            refresh: Refresh::default(),
            following: tokio::sync::Mutex::default(),
            changes: follow::Changes::default(),
            givers: UnderWay::default(),
            deletions: UnderWay::default(),
            scraping: Arc::new(tokio::sync::Semaphore::new(1)),
        }))
    }

    /// The bounds of every request.
    pub fn limits(&self) -> Limits {
        Limits::CURRENT
    }

    /// The shards of this node; for opening them at start and closing them at the end.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The newest shard table this node has read; for looking only.
    pub fn shard_table(&self) -> Arc<ShardTable> {
        self.0.catalog.table()
    }
}
