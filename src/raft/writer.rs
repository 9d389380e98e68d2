//! Group commit: one task that takes every write waiting in its queue, whatever its group, writes them as one batch with
//! one sync, and reports all of them. While a sync runs the next batch gathers, so the more is under way, the more a sync
//! carries (Gawlick & Kinkade, "Varieties of Concurrency Control in IMS/VS Fast Path", 1985). The first failure is final:
//! nothing is retried. The queue is bounded by the driver, its only caller, which stops taking work when too many bytes are
//! unwritten.

use super::driver::Input;
use super::{GroupId, LogStats, LogStore, LogWrite};
use crate::rt::{self, compute, time};
use crate::telemetry::metrics::LogMetrics;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Requests merged into one batch, at most.
const REQUESTS_MAX: usize = 4096;

/// One group's write, and the number by which the group knows it.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) number: u64,
    pub(super) what: LogWrite,
}

/// A write that is on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) group: GroupId,
    pub(super) number: u64,
    pub(super) bytes: usize,
}

/// The queue to the log writer of a node; its task ends when this is dropped.
pub(super) struct LogWriter {
    requests: mpsc::UnboundedSender<Vec<Write>>,
}

impl LogWriter {
    /// Starts the task that writes to `log` and reports to `driver`.
    pub(super) fn start(
        log: LogStore,
        driver: mpsc::WeakUnboundedSender<Input>,
        stats: Arc<LogStats>,
        metrics: Option<LogMetrics>,
    ) -> LogWriter {
        let (requests, queue) = mpsc::unbounded_channel();
        rt::spawn("raft-log-writer", WriterTask { log, queue, driver, stats, metrics }.run());
        LogWriter { requests }
    }

    /// Queues the writes of a round, in order.
    pub(super) fn write(&self, writes: Vec<Write>) {
        // The task has ended after a failure, which the driver hears of.
        let _ = self.requests.send(writes);
    }
}

struct WriterTask {
    log: LogStore,
    queue: mpsc::UnboundedReceiver<Vec<Write>>,
    driver: mpsc::WeakUnboundedSender<Input>,
    stats: Arc<LogStats>,
    metrics: Option<LogMetrics>,
}

impl WriterTask {
    async fn run(mut self) {
        let mut requests = Vec::new();
        while self.queue.recv_many(&mut requests, REQUESTS_MAX).await > 0 {
            let writes: Vec<Write> = requests.drain(..).flatten().collect();
            let report = self.write(writes).await;
            let failed = matches!(report, Input::LogFailed(_));
            if let Some(driver) = self.driver.upgrade() {
                // The driver ends after this task; if not, nobody is left to be told.
                let _ = driver.send(report);
            }
            if failed {
                return;
            }
        }
    }

    async fn write(&self, writes: Vec<Write>) -> Input {
        let entries: usize = writes.iter().map(|write| write.what.entries.len()).sum();
        let written: Vec<Written> = writes
            .iter()
            .map(|write| Written { group: write.what.group, number: write.number, bytes: write.what.bytes() })
            .collect();
        let bytes: usize = written.iter().map(|write| write.bytes).sum();
        let log = self.log.clone();
        let started = time::now();
        let done = compute::io(move || {
            log.write(writes.iter().map(|write| &write.what))?;
            log.maintain()
        })
        .await;
        if let Err(error) = done {
            tracing::error!(%error, "the log cannot be written; the node must stop");
            self.metrics.iter().for_each(LogMetrics::sync_failed);
            return Input::LogFailed(error.to_string());
        }
        self.stats.record(written.len() as u64, entries as u64, bytes as u64, started.elapsed());
        if let Some(metrics) = &self.metrics {
            metrics.appended(entries as u64, bytes as u64);
            metrics.synced(entries as u64, started.elapsed());
        }
        Input::Written(written)
    }
}
