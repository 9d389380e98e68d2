//! The whole state of a shard as a stream of bytes, cut into chunks: what a replica gives to one that has fallen behind the
//! log. Points and remembered requests with the counters they belong to; indexes and deltas are made again from them.
//!
//! The stream, integers little-endian: `VSHARD`, format 1, applied index u64, points u64, requests ever recorded u64, content
//! hash u64; then records, each: kind u8 (1 point, 2 request), length u32, id (17 or 16 bytes), record; points first, each
//! kind in id order; then kind 0 and how many records there were, u64. Chunks cut the stream anywhere. Whoever gives it out
//! checks it against the content hash too: a damaged replica fails instead of handing its damage on. Called by `machine`
//! (giving out) and `install` (taking in).

use super::{
    content::{self, ContentHash},
    records::{Counters, Points, Records, RequestScan, View},
};
use crate::{
    mutants::mutant,
    raft::{ApplyError, CHUNK_BYTES, Checkpoint, CheckpointReader, LogIndex},
    types::{PointId, RequestId, Result, limits},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const MAGIC: &[u8; 6] = b"VSHARD";
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 1 + 4 * 8;
const KIND_END: u8 = 0;
const KIND_POINT: u8 = 1;
const KIND_REQUEST: u8 = 2;
/// Longest record that is believed in; a point's encoding is within its own bound by far.
const RECORD_BYTES_MAX: usize = 2 * limits::POINT_BYTES_MAX;

/// One part of the stream.
#[derive(Debug, PartialEq)]
pub enum Part {
    Point(PointId, Bytes),
    Request(RequestId, Bytes),
    /// After so many records.
    End(u64),
}

/// Gives the state of a view out, chunk by chunk.
pub struct ShardCheckpoint {
    counters: Counters,
    /// Every record that is still to come.
    rest: Rest,
    /// Bytes of the stream that are in no chunk yet.
    pending: BytesMut,
    records: u64,
    /// Of the records so far.
    hash: ContentHash,
}

/// The records still to come.
struct Rest {
    points: Option<Points>,
    requests: Option<RequestScan>,
}

impl ShardCheckpoint {
    /// The state as of `view`. Cheap: nothing is read but the counters.
    pub fn new(view: &View) -> Result<ShardCheckpoint> {
        let counters = view.counters()?;
        let mut pending = BytesMut::with_capacity(2 * CHUNK_BYTES);
        put_head(&mut pending, &counters);
        let rest = Rest { points: Some(view.points()), requests: Some(view.requests()) };
        Ok(ShardCheckpoint { counters, rest, pending, records: 0, hash: ContentHash::default() })
    }

    /// Adds the next part to the pending bytes; `false` after the last.
    fn put_next(&mut self) -> Result<bool> {
        if let Some(points) = &mut self.rest.points {
            let Some(next) = points.next().transpose()? else {
                self.rest.points = None;
                return Ok(true);
            };
            let (id, record) = next;
            self.hash.add(content::of_point(id, &record));
            self.put_record(KIND_POINT, &id.to_key(), &record);
            return Ok(true);
        }
        let Some(requests) = &mut self.rest.requests else { return Ok(false) };
        let next = if mutant!(14) { None } else { requests.next().transpose()? };
        match next {
            Some((id, record)) => {
                self.hash.add(content::of_request(id, &record)?);
                self.put_record(KIND_REQUEST, id.as_bytes(), &record);
            }
            None => {
                self.rest.requests = None;
                self.finish()?;
            }
        }
        Ok(true)
    }

    fn put_record(&mut self, kind: u8, id: &[u8], record: &[u8]) {
        self.records += 1;
        self.pending.put_u8(kind);
        self.pending.put_u32_le(record.len() as u32);
        self.pending.put_slice(id);
        self.pending.put_slice(record);
    }

    fn finish(&mut self) -> Result<()> {
        if self.hash != self.counters.hash {
            return Err(Records::corrupt(format!(
                "the records of log index {} have the content hash {:016x}, expected {:016x}",
                self.counters.applied, self.hash.0, self.counters.hash.0
            )));
        }
        self.pending.put_u8(KIND_END);
        self.pending.put_u64_le(self.records);
        Ok(())
    }
}

impl Checkpoint for ShardCheckpoint {
    fn index(&self) -> LogIndex {
        self.counters.applied
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        while self.pending.len() < CHUNK_BYTES {
            if !self.put_next().map_err(|error| failed(self.counters.applied, &error))? {
                break;
            }
        }
        let length = self.pending.len().min(CHUNK_BYTES);
        Ok((length > 0).then(|| self.pending.split_to(length).freeze()))
    }
}

fn put_head(bytes: &mut BytesMut, counters: &Counters) {
    bytes.put_slice(MAGIC);
    bytes.put_u8(FORMAT);
    for number in [counters.applied, counters.points, counters.requests, counters.hash.0] {
        bytes.put_u64_le(number);
    }
}

/// What an error of this room is to the group.
pub fn failed(at: LogIndex, error: &crate::types::Error) -> ApplyError {
    ApplyError::Checkpoint { at, problem: error.to_string() }
}

/// Puts the parts of a stream together again from its chunks.
pub struct Parts<'r> {
    chunks: &'r mut dyn CheckpointReader,
    /// For errors.
    at: LogIndex,
    pending: BytesMut,
    has_ended: bool,
}

impl<'r> Parts<'r> {
    /// Reads the head: the counters of the state that follows.
    ///
    /// # Errors
    /// [`ApplyError::Checkpoint`] for a stream no version of this program wrote, or a newer one did.
    pub fn open(at: LogIndex, chunks: &'r mut dyn CheckpointReader) -> Result<(Counters, Parts<'r>), ApplyError> {
        let mut parts = Parts { chunks, at, pending: BytesMut::new(), has_ended: false };
        parts.need(HEAD_BYTES)?;
        let mut head = parts.pending.split_to(HEAD_BYTES);
        if head.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(parts.bad("it is not one of a shard".to_owned()));
        }
        match head.get_u8() {
            FORMAT => {}
            format => return Err(parts.bad(format!("its format is {format}, this program reads {FORMAT}"))),
        }
        let (applied, points, requests) = (head.get_u64_le(), head.get_u64_le(), head.get_u64_le());
        Ok((Counters { applied, points, requests, hash: ContentHash(head.get_u64_le()) }, parts))
    }

    /// The next part; the last is [`Part::End`], and nothing may follow it.
    pub fn next(&mut self) -> Result<Part, ApplyError> {
        self.need(1)?;
        let id_bytes = match self.pending[0] {
            KIND_END => return self.end(),
            KIND_POINT => PointId::KEY_LEN,
            KIND_REQUEST => RequestId::BYTES,
            kind => return Err(self.bad(format!("there is no record of kind {kind}"))),
        };
        self.need(1 + 4)?;
        let kind = self.pending.get_u8();
        let length = self.pending.get_u32_le() as usize;
        if length > RECORD_BYTES_MAX {
            return Err(self.bad(format!("a record of {length} bytes, expected at most {RECORD_BYTES_MAX}")));
        }
        self.need(id_bytes + length)?;
        let id = self.pending.split_to(id_bytes);
        let record = self.pending.split_to(length).freeze();
        if kind == KIND_POINT {
            let id = PointId::from_key(&id).ok_or_else(|| self.bad("a point's id is none".to_owned()))?;
            return Ok(Part::Point(id, record));
        }
        Ok(Part::Request(RequestId::from_bytes(id[..].try_into().expect("split at its length")), record))
    }

    fn end(&mut self) -> Result<Part, ApplyError> {
        self.need(1 + 8)?;
        self.pending.advance(1);
        let records = self.pending.get_u64_le();
        if !self.pending.is_empty() || self.chunks.next_chunk()?.is_some() {
            return Err(self.bad("bytes follow its end".to_owned()));
        }
        Ok(Part::End(records))
    }

    /// Reads on until so many bytes are pending.
    fn need(&mut self, bytes: usize) -> Result<(), ApplyError> {
        while self.pending.len() < bytes {
            let chunk = if self.has_ended { None } else { self.chunks.next_chunk()? };
            match chunk {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => {
                    self.has_ended = true;
                    return Err(self.bad("it ends early".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// An error about this stream.
    pub fn bad(&self, problem: String) -> ApplyError {
        ApplyError::Checkpoint { at: self.at, problem }
    }
}
