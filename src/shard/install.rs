//! Putting a checkpoint in the place of what a replica holds. The replica's space is emptied and marked first, filled in
//! bounded batches, and made whole by one synced batch with the counters; a crash in between leaves a mark, by which the
//! next start knows the rest for nothing. What was written is believed only if its content hash is the checkpoint's.
//! Called by `machine`.

use super::{
    checkpoint::{Head, Part, Parts, failed},
    content,
    files::IndexFiles,
    records::{Changes, Counters, Records},
};
use crate::{
    mutants::mutant,
    raft::{ApplyError, CheckpointReader, LogIndex},
    store::{
        StoreError,
        keys::{border, point::PointRecord, request::RequestRecord},
    },
    types::{PointId, RequestId},
};
use bytes::Bytes;

/// Bytes of one batch.
const BATCH_BYTES: usize = 4 << 20;

/// Writes the stream to `records`, which [`Records::begin_install`] has just made, and to the index file of `epoch`; the counters
/// last. Power-safe when it returns. `Err` leaves the mark standing.
///
/// # Errors
/// [`ApplyError::Checkpoint`] if the stream is not what one replica gave out whole; `Store`.
pub fn fill(
    (records, files, epoch): (&Records, &IndexFiles, u64),
    Head { counters, base }: &Head,
    parts: &mut Parts<'_>,
) -> Result<(), ApplyError> {
    let mut filling = Filling { records, changes: Changes::new(records), found: Counters::default(), last: None };
    let mut written = 0;
    let mut has_file = false;
    let mut next = parts.next()?;
    loop {
        match next {
            Part::Point(id, record) => filling.point(id, &record).map_err(|problem| parts.bad(problem))?,
            Part::Request(id, record) => filling.request(id, &record).map_err(|problem| parts.bad(problem))?,
            Part::Border(key, record) => filling.border(key, &record).map_err(|problem| parts.bad(problem))?,
            Part::Journal(at, entry) => filling.changes.restore_journal(at, &entry),
            Part::Before(id, version, value) => filling.changes.restore_before(id, version, &value),
            Part::Image(_) if has_file => return Err(parts.bad("it has two index files".to_owned())),
            Part::Image(first) => {
                let (pieces, behind) = receive(files, epoch, &first, parts)
                    .map_err(|error| failed(counters.applied, &Records::failed(error)))?;
                (has_file, next) = (true, behind?);
                written += pieces;
                continue;
            }
            Part::End(records) if records == written => break,
            Part::End(records) => return Err(parts.bad(format!("it has {written} records, expected {records}"))),
        }
        written += 1;
        if filling.changes.bytes() >= BATCH_BYTES {
            filling.commit().map_err(|error| failed(counters.applied, &error))?;
        }
        next = parts.next()?;
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
    if let Some(base) = base {
        changes.put_base(*base, if has_file { epoch } else { 0 });
    }
    changes.commit_installed().map_err(|error| failed(counters.applied, &error))
}

/// Writes the pieces of the index file; how many they were, and what comes behind them.
fn receive(
    files: &IndexFiles,
    epoch: u64,
    first: &[u8],
    parts: &mut Parts<'_>,
) -> Result<(u64, Result<Part, ApplyError>), StoreError> {
    let (mut pieces, mut behind) = (1, None);
    files.receive(epoch, |out| {
        out.write_all(first)?;
        behind = loop {
            match parts.next() {
                Ok(Part::Image(piece)) => out.write_all(&piece)?,
                other => break Some(other),
            }
            pieces += 1;
        };
        Ok(())
    })?;
    Ok((pieces, behind.unwrap_or_else(|| Err(parts.bad("it ends early".to_owned())))))
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

    fn border(&mut self, key: [u8; 2], record: &Bytes) -> Result<(), String> {
        if key != border::KEY && key != border::CARGO_KEY {
            return Err(format!("{key:?} is no key of a border"));
        }
        border::decode(record).map_err(|error| error.to_string())?;
        self.found.hash.add(content::of_border(key, record));
        self.changes.put_border(key, Some(record));
        Ok(())
    }

    fn commit(&mut self) -> crate::types::Result<()> {
        std::mem::replace(&mut self.changes, Changes::new(self.records)).commit()
    }
}

/// Reads the head and checks that it is of the state promised.
///
/// # Errors
/// [`ApplyError::Checkpoint`].
pub fn begin<'r>(at: LogIndex, chunks: &'r mut dyn CheckpointReader) -> Result<(Head, Parts<'r>), ApplyError> {
    let (head, parts) = Parts::open(at, chunks)?;
    if head.counters.applied != at {
        return Err(parts.bad(format!("it is of log index {}", head.counters.applied)));
    }
    Ok((head, parts))
}
