//! Counters of the log writer. Plain atomics: `telemetry` reads them when it is scraped, nothing here knows of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters since the start of the process, shared between the log writer and whoever reads them.
#[derive(Debug, Default)]
pub struct LogStats {
    appends: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
    sync_nanos: AtomicU64,
    sync_nanos_max: AtomicU64,
    entries_per_sync_max: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTotals {
    /// Appends of a group that were answered with success.
    pub appends: u64,
    /// Entries in them; divided by `syncs`, the entries a sync carries.
    pub entries: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Syncs of the disk.
    pub syncs: u64,
    /// Time spent writing and syncing.
    pub sync_duration: Duration,
    /// The longest write and sync.
    pub sync_duration_max: Duration,
    /// The most entries one sync carried.
    pub entries_per_sync_max: u64,
}

impl LogStats {
    /// The counters now; each is exact, they may be of slightly different moments.
    pub fn totals(&self) -> LogTotals {
        LogTotals {
            appends: self.appends.load(Relaxed),
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            sync_duration: Duration::from_nanos(self.sync_nanos.load(Relaxed)),
            sync_duration_max: Duration::from_nanos(self.sync_nanos_max.load(Relaxed)),
            entries_per_sync_max: self.entries_per_sync_max.load(Relaxed),
        }
    }

    /// Counts one sync and what it carried.
    pub(super) fn record(&self, appends: u64, entries: u64, bytes: u64, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.appends.fetch_add(appends, Relaxed);
        self.entries.fetch_add(entries, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.syncs.fetch_add(1, Relaxed);
        self.sync_nanos.fetch_add(nanos, Relaxed);
        self.sync_nanos_max.fetch_max(nanos, Relaxed);
        self.entries_per_sync_max.fetch_max(entries, Relaxed);
    }
}
