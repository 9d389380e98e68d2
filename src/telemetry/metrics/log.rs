//! The synced log: appends, bytes, syncs and how long they take.
//!
//! Promise: recording is a few atomic additions. Called by `raft`'s log writer, once a group commit.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::SECONDS_BUCKETS;

/// Entries in one sync, by powers of four.
const ENTRIES_BUCKETS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0];

/// The log of a node, all groups together.
#[derive(Clone, Debug)]
pub struct LogMetrics {
    appends: Counter,
    append_bytes: Counter,
    syncs: Counter,
    sync_failures: Counter,
    sync_seconds: Histogram,
    entries_a_sync: Histogram,
}

impl LogMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            appends: Counter::default(),
            append_bytes: Counter::default(),
            syncs: Counter::default(),
            sync_failures: Counter::default(),
            sync_seconds: Histogram::new(SECONDS_BUCKETS),
            entries_a_sync: Histogram::new(ENTRIES_BUCKETS),
        };
        registry.register("log_appends", "Entries appended to the log", metrics.appends.clone());
        let help = "Bytes of entries appended to the log";
        registry.register_with_unit("log_append", help, Unit::Bytes, metrics.append_bytes.clone());
        registry.register("log_syncs", "Syncs of the log to disk", metrics.syncs.clone());
        registry.register("log_sync_failures", "Syncs of the log that failed", metrics.sync_failures.clone());
        let help = "Time of one sync of the log";
        registry.register_with_unit("log_sync_duration", help, Unit::Seconds, metrics.sync_seconds.clone());
        registry.register("log_sync_entries", "Entries made durable by one sync", metrics.entries_a_sync.clone());
        metrics
    }

    /// Records entries handed to the log.
    pub fn appended(&self, entries: u64, bytes: u64) {
        self.appends.inc_by(entries);
        self.append_bytes.inc_by(bytes);
    }

    /// Records a sync that made `entries` durable.
    pub fn synced(&self, entries: u64, duration: Duration) {
        self.syncs.inc();
        self.sync_seconds.observe(duration.as_secs_f64());
        self.entries_a_sync.observe(entries as f64);
    }

    /// Records a sync that failed; the node stops after it.
    pub fn sync_failed(&self) {
        self.sync_failures.inc();
    }
}
