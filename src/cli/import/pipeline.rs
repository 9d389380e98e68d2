//! The import proper: one reader, several batches in flight, acknowledgements written down as they come. Whatever ends it (the
//! file, a refusal, Ctrl-C) first waits for the batches in flight and writes the checkpoint. Called by `import`.

use super::{
    batch::{Batch, BatchSource},
    checkpoint::Checkpoint,
    dead_letter::DeadLetters,
    fault::{ReadError, RowFault},
    progress::Progress,
    send::send,
};
use crate::{
    cli::client::{ApiClient, ApiError},
    rt::{
        self, Shutdown, Task,
        time::{self, Instant},
    },
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{sync::Arc, time::Duration};

/// Between two checkpoints: what a crash makes the next run send again.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// What ended an import before its file did.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("rows {} to {}: {source}", rows.0, rows.1 - 1)]
    Refused { rows: (u64, u64), source: ApiError },
    #[error("{0}\nnothing of its batch was sent; --dead-letter FILE collects such rows and imports the others")]
    BadRow(Box<RowFault>),
    #[error("{refused} rows were refused, --errors-max is {max}; the last: {last}")]
    TooManyBadRows { refused: u64, max: u64, last: Box<RowFault> },
    #[error("cannot write the dead-letter file: {0}")]
    DeadLetter(std::io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("internal error: {0}")]
    Internal(#[from] rt::TaskFailed),
}

/// How the import is done.
#[derive(Clone, Debug)]
pub struct Settings {
    pub table: String,
    pub concurrency: usize,
    /// Refused rows after which it ends.
    pub errors_max: u64,
}

/// Rows counted by this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub imported: u64,
    pub refused: u64,
}

/// What a batch came to.
struct Outcome {
    rows: (u64, u64),
    end_bytes: u64,
    imported: u64,
    faults: Vec<RowFault>,
}

type Sending = Task<Result<Outcome, Stopped>>;

/// Everything that is written down while batches come back.
pub struct Pipeline {
    client: ApiClient,
    settings: Settings,
    /// `None` with `--no-resume`, or when it cannot be written.
    checkpoint: Option<Checkpoint>,
    dead_letters: Option<DeadLetters>,
    progress: Progress,
    counts: Counts,
    position_bytes: u64,
    saved: Instant,
}

impl Pipeline {
    pub fn new(
        client: ApiClient,
        settings: Settings,
        checkpoint: Option<Checkpoint>,
        dead_letters: Option<DeadLetters>,
        progress: Progress,
    ) -> Pipeline {
        let saved = time::now();
        Pipeline {
            client,
            settings,
            checkpoint,
            dead_letters,
            progress,
            counts: Counts::default(),
            position_bytes: 0,
            saved,
        }
    }

    /// Imports until the file ends, something is wrong, or `stop` is triggered. The counts are right in every case.
    pub async fn run(mut self, source: BatchSource, stop: &Shutdown) -> (Counts, Duration, Result<(), Stopped>) {
        let mut in_flight = FuturesUnordered::new();
        let read = self.read_and_send(source, stop, &mut in_flight).await;
        let drained = self.drain(&mut in_flight).await;
        let ended = read.and(drained);
        if ended.is_ok() {
            if let Err(error) = self.checkpoint.as_ref().map_or(Ok(()), Checkpoint::remove) {
                self.progress.note(&format!("cannot remove the checkpoint: {error}"));
            }
        } else {
            self.save().await;
        }
        (self.counts, self.progress.finish(), ended)
    }

    async fn read_and_send(
        &mut self,
        mut source: BatchSource,
        stop: &Shutdown,
        in_flight: &mut FuturesUnordered<Sending>,
    ) -> Result<(), Stopped> {
        loop {
            if stop.is_triggered() {
                return Err(Stopped::Interrupted);
            }
            let (returned, batch) = rt::compute::io(move || {
                let batch = source.next_batch();
                (source, batch)
            })
            .await;
            source = returned;
            let Some(batch) = batch? else { return Ok(()) };
            in_flight.push(self.start(batch)?);
            while in_flight.len() >= self.settings.concurrency {
                tokio::select! {
                    biased;
                    () = stop.wait() => return Err(Stopped::Interrupted),
                    ended = in_flight.next() => self.ended(ended).await?,
                }
            }
        }
    }

    /// Waits for every batch in flight and writes down what succeeded; the first error is returned.
    async fn drain(&mut self, in_flight: &mut FuturesUnordered<Sending>) -> Result<(), Stopped> {
        let mut first = Ok(());
        while let Some(ended) = in_flight.next().await {
            first = first.and(self.ended(Some(ended)).await);
        }
        first
    }

    fn start(&self, batch: Batch) -> Result<Sending, Stopped> {
        let split = self.dead_letters.is_some();
        if let (false, Some(fault)) = (split, batch.faults.first()) {
            return Err(Stopped::BadRow(Box::new(fault.clone())));
        }
        let (client, table) = (self.client.clone(), self.settings.table.clone());
        let faults_max = self.settings.errors_max.saturating_sub(self.counts.refused);
        Ok(rt::spawn("import.batch", async move {
            let records = Arc::new(batch.records);
            let sent = send(&client, &table, records, split, faults_max).await;
            let sent = sent.map_err(|source| Stopped::Refused { rows: batch.rows, source })?;
            let mut faults = batch.faults;
            faults.extend(sent.faults);
            faults.sort_by_key(|fault| fault.row);
            Ok(Outcome { rows: batch.rows, end_bytes: batch.end_bytes, imported: sent.imported, faults })
        }))
    }

    async fn ended(&mut self, ended: Option<Result<Result<Outcome, Stopped>, rt::TaskFailed>>) -> Result<(), Stopped> {
        let Some(ended) = ended else { return Ok(()) };
        let outcome = ended??;
        self.counts.imported += outcome.imported;
        self.counts.refused += outcome.faults.len() as u64;
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.push(&outcome.faults).map_err(Stopped::DeadLetter)?;
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.done.insert(outcome.rows.0, outcome.rows.1);
            checkpoint.refused += outcome.faults.len() as u64;
        }
        self.position_bytes = self.position_bytes.max(outcome.end_bytes);
        self.progress.update(self.position_bytes, self.counts.imported, self.counts.refused);
        if self.saved.elapsed() >= CHECKPOINT_INTERVAL {
            self.save().await;
        }
        match outcome.faults.into_iter().next_back() {
            Some(last) if self.counts.refused > self.settings.errors_max => {
                let (refused, max, last) = (self.counts.refused, self.settings.errors_max, Box::new(last));
                Err(Stopped::TooManyBadRows { refused, max, last })
            }
            _ => Ok(()),
        }
    }

    /// Syncs the dead letters, then the checkpoint that counts them. A checkpoint that cannot be written costs the
    /// possibility to resume, not the import.
    async fn save(&mut self) {
        let (checkpoint, dead_letters) = (self.checkpoint.take(), self.dead_letters.take());
        let (checkpoint, dead_letters, saved) = rt::compute::io(move || {
            let mut dead_letters = dead_letters;
            let synced = dead_letters.as_mut().map_or(Ok(()), DeadLetters::sync);
            let saved = synced.and_then(|()| checkpoint.as_ref().map_or(Ok(()), Checkpoint::save));
            (checkpoint, dead_letters, saved)
        })
        .await;
        self.dead_letters = dead_letters;
        self.saved = time::now();
        self.checkpoint = match saved {
            Ok(()) => checkpoint,
            Err(error) => {
                self.progress.note(&format!("no checkpoint, so this import cannot be resumed: {error}"));
                None
            }
        };
    }
}
