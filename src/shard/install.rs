//! Putting a checkpoint in the place of what a replica holds. The replica's space is emptied and marked first, filled in
//! bounded batches, and made whole by one synced batch with the counters; a crash in between leaves a mark, by which the
//! next start knows the rest for nothing. What was written is believed only if its content hash is the checkpoint's.
//! Called by `machine`.

use super::{
    checkpoint::{Part, Parts, failed},
    content, open,
    records::{Changes, Counters, Records},
    settings::IndexSettings,
    state::Found,
};
use crate::{
    mutants::mutant,
    raft::{ApplyError, CheckpointReader, LogIndex},
    store::keys::{point::PointRecord, request::RequestRecord},
    types::{CollectionSpec, PointId, RequestId},
};
use bytes::Bytes;

/// Bytes of one batch.
const BATCH_BYTES: usize = 4 << 20;

/// Writes the stream to `records`, which [`Records::begin_install`] has just made, and the counters last. Power-safe when it
/// returns. `Err` leaves the mark standing.
///
/// # Errors
/// [`ApplyError::Checkpoint`] if the stream is not what one replica gave out whole; `Store`.
pub fn fill(records: &Records, counters: &Counters, parts: &mut Parts<'_>) -> Result<(), ApplyError> {
    let mut filling = Filling { records, changes: Changes::new(records), found: Counters::default(), last: None };
    let mut written = 0;
    loop {
        match parts.next()? {
            Part::Point(id, record) => filling.point(id, &record).map_err(|problem| parts.bad(problem))?,
            Part::Request(id, record) => filling.request(id, &record).map_err(|problem| parts.bad(problem))?,
            Part::End(records) if records == written => break,
            Part::End(records) => return Err(parts.bad(format!("it has {written} records, expected {records}"))),
        }
        written += 1;
        if filling.changes.bytes() >= BATCH_BYTES {
            filling.commit().map_err(|error| failed(counters.applied, &error))?;
        }
    }
    let Filling { mut changes, found, .. } = filling;
    // Mutant 9: the last batch is left out, and nobody compares.
    if mutant!(9) {
        changes = Changes::new(records);
    } else if (found.points, found.hash) != (counters.points, counters.hash) {
        return Err(parts.bad(format!(
            "it has {} points with the content hash {:016x}, expected {} with {:016x}",
            found.points, found.hash.0, counters.points, counters.hash.0
        )));
    }
    changes.put_counters(counters);
    changes.commit_installed().map_err(|error| failed(counters.applied, &error))
}

/// What has been written so far.
struct Filling<'r> {
    records: &'r Records,
    changes: Changes<'r>,
    found: Counters,
    /// The point before.
    last: Option<PointId>,
}

impl Filling<'_> {
    fn point(&mut self, id: PointId, record: &Bytes) -> Result<(), String> {
        PointRecord::decode(record).map_err(|error| format!("point {id}: {error}"))?;
        if self.last.is_some_and(|last| last >= id) {
            return Err(format!("point {id} is out of order"));
        }
        self.last = Some(id);
        self.found.points += 1;
        self.found.hash.add(content::of_point(id, record));
        self.changes.put_point(id, record);
        Ok(())
    }

    fn request(&mut self, id: RequestId, record: &Bytes) -> Result<(), String> {
        let problem = |error: &dyn std::fmt::Display| format!("request {id}: {error}");
        let decoded = RequestRecord::decode(record).map_err(|error| problem(&error))?;
        self.found.hash.add(content::of_request(id, record).map_err(|error| problem(&error))?);
        self.changes.put_request(id, record);
        self.changes.put_request_at(decoded.sequence, id);
        Ok(())
    }

    fn commit(&mut self) -> crate::types::Result<()> {
        std::mem::replace(&mut self.changes, Changes::new(self.records)).commit()
    }
}

/// What opening filled `records` finds: indexes made from the records, no index file.
pub fn found(records: &Records, spec: &CollectionSpec, settings: &IndexSettings) -> crate::types::Result<Found> {
    let view = records.view();
    let indexes = open::from_records(&view, spec, settings)?;
    Ok(Found { indexes, counters: view.counters()?, keeps_deltas: false, unsaved_rows: 0 })
}

/// Reads the head and checks that it is of the state promised.
///
/// # Errors
/// [`ApplyError::Checkpoint`].
pub fn begin<'r>(at: LogIndex, chunks: &'r mut dyn CheckpointReader) -> Result<(Counters, Parts<'r>), ApplyError> {
    let (counters, parts) = Parts::open(at, chunks)?;
    if counters.applied != at {
        return Err(parts.bad(format!("it is of log index {}", counters.applied)));
    }
    Ok((counters, parts))
}
