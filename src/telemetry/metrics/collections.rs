//! Collections: how many, how many points each, and the state of each one's index.
//!
//! Promise: a collection's series appear with its handle and vanish with [`CollectionsMetrics::forget`]. Called by
//! `shard` (per collection) and `service` (the count).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::requests::Seconds;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    collection: String,
}

/// The collections of a node.
#[derive(Clone, Debug)]
pub struct CollectionsMetrics {
    count: Gauge,
    aliases: Gauge,
    written: Counter,
    deleted: Counter,
    points: Family<Of, Gauge>,
    index_rows: Family<Of, Gauge>,
    tail_rows: Family<Of, Gauge>,
    trainings: Family<Of, Counter>,
    training_seconds: Family<Of, Histogram, Seconds>,
}

impl CollectionsMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            count: Gauge::default(),
            aliases: Gauge::default(),
            written: Counter::default(),
            deleted: Counter::default(),
            points: Family::default(),
            index_rows: Family::default(),
            tail_rows: Family::default(),
            trainings: Family::default(),
            training_seconds: Family::new_with_constructor(Seconds),
        };
        registry.register("collections", "Collections on this node", metrics.count.clone());
        registry.register("aliases", "Aliases of collections, as this node knows them", metrics.aliases.clone());
        registry.register("points_written", "Points added or replaced", metrics.written.clone());
        registry.register("points_deleted", "Points deleted", metrics.deleted.clone());
        registry.register("collection_points", "Live points of a collection", metrics.points.clone());
        let sealed = "Rows of a collection's index in posting lists";
        registry.register("index_rows", sealed, metrics.index_rows.clone());
        let tail = "Rows of a collection's index not yet filed in a posting list";
        registry.register("index_tail_rows", tail, metrics.tail_rows.clone());
        registry.register("index_trainings", "Trainings of a collection's index", metrics.trainings.clone());
        let help = "Time of one training of an index";
        registry.register_with_unit("index_training_duration", help, Unit::Seconds, metrics.training_seconds.clone());
        metrics
    }

    /// Sets the number of collections.
    pub fn set_count(&self, collections: u64) {
        self.count.set(signed(collections));
    }

    /// Sets the number of aliases.
    pub fn set_aliases(&self, aliases: u64) {
        self.aliases.set(signed(aliases));
    }

    /// Counts points added, replaced and deleted.
    pub fn changed(&self, written: u64, deleted: u64) {
        self.written.inc_by(written);
        self.deleted.inc_by(deleted);
    }

    /// The handle of one collection; its series exist from now on. Keep it: getting it again is a locked look-up.
    pub fn collection(&self, name: &str) -> CollectionMetrics {
        let of = Of { collection: name.to_owned() };
        CollectionMetrics {
            points: self.points.get_or_create_owned(&of),
            index_rows: self.index_rows.get_or_create_owned(&of),
            tail_rows: self.tail_rows.get_or_create_owned(&of),
            trainings: self.trainings.get_or_create_owned(&of),
            training_seconds: self.training_seconds.get_or_create_owned(&of),
        }
    }

    /// Removes the series of a deleted collection.
    pub fn forget(&self, name: &str) {
        let of = Of { collection: name.to_owned() };
        self.points.remove(&of);
        self.index_rows.remove(&of);
        self.tail_rows.remove(&of);
        self.trainings.remove(&of);
        self.training_seconds.remove(&of);
    }
}

/// One collection.
#[derive(Clone, Debug)]
pub struct CollectionMetrics {
    points: Gauge,
    index_rows: Gauge,
    tail_rows: Gauge,
    trainings: Counter,
    training_seconds: Histogram,
}

impl CollectionMetrics {
    /// Sets the number of live points.
    pub fn set_points(&self, points: u64) {
        self.points.set(signed(points));
    }

    /// Sets the number of index rows in posting lists and in tails.
    pub fn set_index(&self, filed_rows: u64, tail_rows: u64) {
        self.index_rows.set(signed(filed_rows));
        self.tail_rows.set(signed(tail_rows));
    }

    /// Records a finished training.
    pub fn trained(&self, duration: Duration) {
        self.trainings.inc();
        self.training_seconds.observe(duration.as_secs_f64());
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
