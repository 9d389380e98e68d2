//! Group commit: one task that takes every append waiting in its queue, whatever its group, writes them as one batch with
//! one sync, and answers all of them. While a sync runs the next batch gathers, so the more is under way, the more a sync
//! carries (Gawlick & Kinkade, "Varieties of Concurrency Control in IMS/VS Fast Path", 1985). The first failure is final:
//! nothing is retried. Called by `solo`; started by the roof, once a node.

use super::{AppendError, Entry, GroupId, LogError, LogStats, LogStore};
use crate::rt::{self, compute, time};
use crate::telemetry::metrics::LogMetrics;
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Consecutive entries for the end of a group's log.
#[derive(Clone, Debug)]
pub struct Append {
    /// The group.
    pub group: GroupId,
    /// Its entries, shared with whoever applies them later.
    pub entries: Arc<[Entry]>,
}

impl Append {
    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }
}

/// Bounds of the queue, and where it is counted.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Appends waiting or being written.
    pub appends_max: usize,
    /// Bytes of their data; a single append larger than this is taken when nothing else is under way.
    pub bytes_max: usize,
    /// The node's metrics of its log, if it has any.
    pub metrics: Option<LogMetrics>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions { appends_max: 4096, bytes_max: 64 << 20, metrics: None }
    }
}

/// Handle to the log writer of a node. Cheap to clone; the task ends when the last one is dropped.
#[derive(Clone)]
pub struct LogWriter {
    requests: mpsc::Sender<Request>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    failure: Arc<OnceLock<String>>,
    stats: Arc<LogStats>,
}

struct Request {
    append: Append,
    answer: oneshot::Sender<Result<(), AppendError>>,
    bytes: OwnedSemaphorePermit,
}

impl LogWriter {
    /// Starts the task that writes to `log`.
    pub fn start(log: LogStore, options: WriterOptions) -> LogWriter {
        let (requests, queue) = mpsc::channel(options.appends_max.max(1));
        let bytes_max = u32::try_from(options.bytes_max).unwrap_or(u32::MAX).max(1);
        let failure = Arc::new(OnceLock::new());
        let stats = Arc::new(LogStats::default());
        let task = WriterTask {
            log,
            queue,
            most: options.appends_max.max(1),
            failure: failure.clone(),
            stats: stats.clone(),
            metrics: options.metrics,
        };
        rt::spawn("raft-log-writer", task.run());
        LogWriter { requests, bytes: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max, failure, stats }
    }

    /// Appends and returns when the entries are on the disk. `Exhausted` at once when the queue is full: nothing was
    /// written. Dropping the future does not take the entries back.
    pub async fn append(&self, append: Append) -> Result<(), AppendError> {
        let permits = u32::try_from(append.bytes()).unwrap_or(u32::MAX).clamp(1, self.bytes_max);
        let bytes = self.bytes.clone().try_acquire_many_owned(permits).map_err(|_| AppendError::Exhausted)?;
        let (answer, answered) = oneshot::channel();
        match self.requests.try_send(Request { append, answer, bytes }) {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(self.failed())),
            Err(mpsc::error::TrySendError::Full(_)) => Err(AppendError::Exhausted),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.failed()),
        }
    }

    /// Counters for metrics.
    pub fn stats(&self) -> &Arc<LogStats> {
        &self.stats
    }

    fn failed(&self) -> AppendError {
        AppendError::Failed(self.failure.get().cloned().unwrap_or_else(|| "the log writer ended".to_owned()))
    }
}

struct WriterTask {
    log: LogStore,
    queue: mpsc::Receiver<Request>,
    most: usize,
    failure: Arc<OnceLock<String>>,
    stats: Arc<LogStats>,
    metrics: Option<LogMetrics>,
}

impl WriterTask {
    async fn run(mut self) {
        let mut requests = Vec::new();
        while self.queue.recv_many(&mut requests, self.most).await > 0 {
            let written = self.write(&requests).await;
            if let Err(error) = &written {
                tracing::error!(%error, "the log cannot be written; the node must stop");
                // Set before anyone is answered, and only here, so it cannot be set already.
                let _ = self.failure.set(error.to_string());
                self.metrics.iter().for_each(LogMetrics::sync_failed);
            }
            let failed = written.is_err();
            for Request { answer, bytes, .. } in requests.drain(..) {
                let result = self.failure.get().map_or(Ok(()), |reason| Err(AppendError::Failed(reason.clone())));
                // Before the answer: whoever gets it may append again at once.
                drop(bytes);
                // Whoever gave up waiting does not want the answer.
                let _ = answer.send(result);
            }
            if failed {
                return;
            }
        }
    }

    async fn write(&self, requests: &[Request]) -> Result<(), LogError> {
        let appends: Vec<Append> = requests.iter().map(|request| request.append.clone()).collect();
        let entries: usize = appends.iter().map(|append| append.entries.len()).sum();
        let bytes: usize = appends.iter().map(Append::bytes).sum();
        let count = appends.len();
        let log = self.log.clone();
        let started = time::now();
        compute::io(move || log.append(&appends).and_then(|()| log.maintain())).await?;
        self.stats.record(count as u64, entries as u64, bytes as u64, started.elapsed());
        if let Some(metrics) = &self.metrics {
            metrics.appended(entries as u64, bytes as u64);
            metrics.synced(entries as u64, started.elapsed());
        }
        Ok(())
    }
}
