//! The whole state of a shard as a stream of bytes, cut into chunks: what a replica gives to one that has fallen behind the
//! log. Points and remembered requests with the counters they belong to; of the indexes the file, the journal behind it and the
//! points kept for that, from which the receiver makes them as this replica did when it last started.
//!
//! The stream, integers little-endian: `VSHARD`, format 2 (3 if slots have moved, see kind 6), applied index u64, points u64, requests ever recorded u64, content
//! hash u64, log index of the base of the journal u64 (all ones: there is none); then records, each: kind u8, length u32, id,
//! record. Kinds: 1 point (id 17 bytes), 2 request (16), 3 entry of the journal (log index u64), 4 kept point (id 17, version
//! u64), 5 piece of the index file (no id), 6 record of the border (its key, 2 bytes); in the order 1, 2, 6, 3, 4, 5, and 1 to 4 by id. Then kind 0, how many records there were, u64, and xxh3-64
//! of the head and of all records of the kinds 3 to 5, u64 (the content hash is of the others). Chunks cut the stream anywhere. Whoever
//! gives it out checks it against the content hash too: a damaged replica fails instead of handing its damage on. Called by `machine`
//! (giving out) and `install` (taking in).

use super::{
    cargo::CARGO_BYTES_MAX,
    content::{self, ContentHash},
    records::{Counters, Points, Records, RequestScan, View},
    trust::Trust,
    upkeep::replay,
};
use crate::{
    index::Block,
    mutants::mutant,
    raft::{ApplyError, CHUNK_BYTES, Checkpoint, CheckpointReader, LogIndex},
    store::{Value, keys::border},
    types::{PointId, RequestId, Result, limits},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 6] = b"VSHARD";
const FORMAT: u8 = 2;
/// Format of a stream with records of a border.
const FORMAT_BORDER: u8 = 3;
const HEAD_BYTES: usize = MAGIC.len() + 1 + 5 * 8;
const KIND_END: u8 = 0;
const KIND_POINT: u8 = 1;
const KIND_REQUEST: u8 = 2;
const KIND_JOURNAL: u8 = 3;
const KIND_BEFORE: u8 = 4;
const KIND_IMAGE: u8 = 5;
const KIND_BORDER: u8 = 6;
/// Longest record that is believed in; a point's encoding is within its own bound by far.
const RECORD_BYTES_MAX: usize = 2 * limits::POINT_BYTES_MAX;
/// Longest record of a border that is believed in.
const BORDER_BYTES_MAX: usize = CARGO_BYTES_MAX + 1024;
/// Longest entry of the journal that is believed in: the base names every row of a tail, of which there may be as many as points.
const JOURNAL_BYTES_MAX: usize = 1 << 28;
/// Bytes of the index file in one record.
const PIECE_BYTES: usize = CHUNK_BYTES;
/// In place of the log index of a base that is not there.
const NO_BASE: u64 = u64::MAX;

/// One part of the stream.
#[derive(Debug, PartialEq)]
pub enum Part {
    Point(PointId, Bytes),
    Request(RequestId, Bytes),
    /// A record of the border, encoded, and its key.
    Border([u8; 2], Bytes),
    /// An entry of the journal, encoded, and its log index.
    Journal(u64, Bytes),
    /// A kept point, encoded, with its version.
    Before(PointId, u64, Bytes),
    /// The next piece of the index file.
    Image(Bytes),
    /// After so many records.
    End(u64),
}

/// What a stream begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    pub counters: Counters,
    /// Log index of the base of the journal, if there is one.
    pub base: Option<u64>,
}

/// Gives the state of a view out, chunk by chunk.
pub struct ShardCheckpoint {
    head: Head,
    /// Every record that is still to come.
    rest: Rest,
    /// Bytes of the stream that are in no chunk yet.
    pending: BytesMut,
    records: u64,
    /// Of the records so far.
    hash: ContentHash,
    /// Of the head and of what concerns the indexes.
    other_hash: Xxh3,
    /// Hears of damage to the records.
    trust: Arc<Trust>,
}

/// The records still to come, kind by kind.
struct Rest {
    points: Option<Points>,
    requests: Option<RequestScan>,
    /// With their keys, the next one last.
    border: Vec<([u8; 2], Value)>,
    journal: Option<Entries>,
    befores: Option<Befores>,
    file: Option<Arc<Block>>,
    /// Bytes of the file that are given out.
    given: usize,
    has_ended: bool,
}

type Entries = Box<dyn Iterator<Item = Result<(u64, Value)>> + Send>;
type Befores = Box<dyn Iterator<Item = Result<(PointId, u64, Value)>> + Send>;

impl ShardCheckpoint {
    /// The state as of `view`, whose index file is `file`; `trust` hears of damage. Cheap: nothing is read but the counters.
    pub fn new(trust: Arc<Trust>, view: &View, file: Option<Arc<Block>>) -> Result<ShardCheckpoint> {
        let base = replay::base_index(view)?;
        let head = Head { counters: view.counters()?, base };
        let mut pending = BytesMut::with_capacity(2 * CHUNK_BYTES);
        let mut border = Vec::new();
        for key in [border::CARGO_KEY, border::KEY] {
            border.extend(view.border(key)?.map(|record| (key, record)));
        }
        put_head(&mut pending, &head, if border.is_empty() { FORMAT } else { FORMAT_BORDER });
        let mut other_hash = Xxh3::new();
        other_hash.update(&pending);
        let rest = Rest {
            points: Some(view.points()),
            requests: Some(view.requests()),
            border,
            journal: base.map(|base| Box::new(view.journal(base)) as Entries),
            befores: base.map(|_| Box::new(view.befores()) as Befores),
            file: file.filter(|_| base.is_some()),
            given: 0,
            has_ended: false,
        };
        Ok(ShardCheckpoint { head, rest, pending, records: 0, hash: ContentHash::default(), other_hash, trust })
    }

    /// Adds the next part to the pending bytes; `false` after the last.
    fn put_next(&mut self) -> Result<bool> {
        if self.rest.has_ended {
            return Ok(false);
        }
        if !(self.put_point()? || self.put_request()? || self.put_border() || self.put_of_index()?) {
            self.rest.has_ended = true;
            self.finish()?;
        }
        Ok(true)
    }

    fn put_point(&mut self) -> Result<bool> {
        let Some((id, record)) = next(&mut self.rest.points)? else { return Ok(false) };
        self.hash.add(content::of_point(id, &record));
        self.put_record(KIND_POINT, &id.to_key(), &record);
        Ok(true)
    }

    fn put_request(&mut self) -> Result<bool> {
        if mutant!(14) {
            return Ok(false);
        }
        let Some((id, record)) = next(&mut self.rest.requests)? else { return Ok(false) };
        self.hash.add(content::of_request(id, &record)?);
        self.put_record(KIND_REQUEST, id.as_bytes(), &record);
        Ok(true)
    }

    fn put_border(&mut self) -> bool {
        let Some((key, record)) = self.rest.border.pop() else { return false };
        self.hash.add(content::of_border(key, &record));
        self.put_record(KIND_BORDER, &key, &record);
        true
    }

    fn put_of_index(&mut self) -> Result<bool> {
        if let Some((at, entry)) = next(&mut self.rest.journal)? {
            self.put_hashed(KIND_JOURNAL, &at.to_le_bytes(), &entry);
            return Ok(true);
        }
        if let Some((id, version, value)) = next(&mut self.rest.befores)? {
            self.put_hashed(KIND_BEFORE, &[&id.to_key()[..], &version.to_le_bytes()].concat(), &value);
            return Ok(true);
        }
        let Some(file) = self.rest.file.clone() else { return Ok(false) };
        let piece = &file[self.rest.given..file.len().min(self.rest.given + PIECE_BYTES)];
        self.rest.given += piece.len();
        if !piece.is_empty() {
            self.put_hashed(KIND_IMAGE, &[], piece);
        }
        Ok(!piece.is_empty())
    }

    fn put_hashed(&mut self, kind: u8, id: &[u8], record: &[u8]) {
        add_hashed(&mut self.other_hash, kind, id, record);
        self.put_record(kind, id, record);
    }

    fn put_record(&mut self, kind: u8, id: &[u8], record: &[u8]) {
        self.records += 1;
        self.pending.put_u8(kind);
        self.pending.put_u32_le(record.len() as u32);
        self.pending.put_slice(id);
        self.pending.put_slice(record);
    }

    fn finish(&mut self) -> Result<()> {
        let counters = &self.head.counters;
        if self.hash != counters.hash {
            return Err(Records::corrupt(format!(
                "the records of log index {} have the content hash {:016x}, expected {:016x}",
                counters.applied, self.hash.0, counters.hash.0
            )));
        }
        self.pending.put_u8(KIND_END);
        self.pending.put_u64_le(self.records);
        self.pending.put_u64_le(self.other_hash.digest());
        Ok(())
    }
}

/// The next of an iterator that is let go of at its end.
fn next<T>(iterator: &mut Option<impl Iterator<Item = Result<T>>>) -> Result<Option<T>> {
    let item = iterator.as_mut().and_then(Iterator::next).transpose()?;
    if item.is_none() {
        *iterator = None;
    }
    Ok(item)
}

fn add_hashed(hash: &mut Xxh3, kind: u8, id: &[u8], record: &[u8]) {
    hash.update(&[kind]);
    hash.update(&(record.len() as u32).to_le_bytes());
    hash.update(id);
    hash.update(record);
}

impl Checkpoint for ShardCheckpoint {
    fn index(&self) -> LogIndex {
        self.head.counters.applied
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        while self.pending.len() < CHUNK_BYTES {
            let put = self.put_next();
            if !self.trust.heard(put).map_err(|error| failed(self.head.counters.applied, &error))? {
                break;
            }
        }
        let length = self.pending.len().min(CHUNK_BYTES);
        Ok((length > 0).then(|| self.pending.split_to(length).freeze()))
    }
}

fn put_head(bytes: &mut BytesMut, Head { counters, base }: &Head, format: u8) {
    bytes.put_slice(MAGIC);
    bytes.put_u8(format);
    let base = base.unwrap_or(NO_BASE);
    for number in [counters.applied, counters.points, counters.requests, counters.hash.0, base] {
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
    /// Of the head and of what concerns the indexes, as far as it was read.
    other_hash: Xxh3,
}

impl<'r> Parts<'r> {
    /// Reads the head of the state that follows.
    ///
    /// # Errors
    /// [`ApplyError::Checkpoint`] for a stream no version of this program wrote, or a newer one did.
    pub fn open(at: LogIndex, chunks: &'r mut dyn CheckpointReader) -> Result<(Head, Parts<'r>), ApplyError> {
        let mut parts = Parts { chunks, at, pending: BytesMut::new(), has_ended: false, other_hash: Xxh3::new() };
        parts.need(HEAD_BYTES)?;
        let mut head = parts.pending.split_to(HEAD_BYTES);
        parts.other_hash.update(&head);
        if head.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(parts.bad("it is not one of a shard".to_owned()));
        }
        match head.get_u8() {
            FORMAT | FORMAT_BORDER => {}
            format => {
                let newest = FORMAT_BORDER;
                return Err(parts.bad(format!("its format is {format}, this program reads up to {newest}")));
            }
        }
        let (applied, points, requests) = (head.get_u64_le(), head.get_u64_le(), head.get_u64_le());
        let counters = Counters { applied, points, requests, hash: ContentHash(head.get_u64_le()) };
        let base = head.get_u64_le();
        Ok((Head { counters, base: Some(base).filter(|base| *base != NO_BASE) }, parts))
    }

    /// The next part; the last is [`Part::End`], and nothing may follow it.
    pub fn next(&mut self) -> Result<Part, ApplyError> {
        self.need(1)?;
        let (id_bytes, bytes_max) = match self.pending[0] {
            KIND_END => return self.end(),
            KIND_POINT => (PointId::KEY_LEN, RECORD_BYTES_MAX),
            KIND_REQUEST => (RequestId::BYTES, RECORD_BYTES_MAX),
            KIND_JOURNAL => (8, JOURNAL_BYTES_MAX),
            KIND_BEFORE => (PointId::KEY_LEN + 8, RECORD_BYTES_MAX),
            KIND_IMAGE => (0, PIECE_BYTES),
            KIND_BORDER => (border::KEY.len(), BORDER_BYTES_MAX),
            kind => return Err(self.bad(format!("there is no record of kind {kind}"))),
        };
        self.need(1 + 4)?;
        let kind = self.pending.get_u8();
        let length = self.pending.get_u32_le() as usize;
        if length > bytes_max {
            return Err(self.bad(format!("a record of {length} bytes, expected at most {bytes_max}")));
        }
        self.need(id_bytes + length)?;
        let id = self.pending.split_to(id_bytes);
        let record = self.pending.split_to(length).freeze();
        if (KIND_JOURNAL..=KIND_IMAGE).contains(&kind) {
            add_hashed(&mut self.other_hash, kind, &id, &record);
        }
        self.part(kind, &id, record).ok_or_else(|| self.bad("the id of a record is none".to_owned()))
    }

    /// A record whose id has the length of its kind.
    fn part(&self, kind: u8, id: &[u8], record: Bytes) -> Option<Part> {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
        Some(match kind {
            KIND_POINT => Part::Point(PointId::from_key(id)?, record),
            KIND_REQUEST => Part::Request(RequestId::from_bytes(id.try_into().ok()?), record),
            KIND_JOURNAL => Part::Journal(number(id)?, record),
            KIND_BEFORE => {
                let (id, version) = id.split_at(PointId::KEY_LEN);
                Part::Before(PointId::from_key(id)?, number(version)?, record)
            }
            KIND_BORDER => Part::Border(id.try_into().ok()?, record),
            _ => Part::Image(record),
        })
    }

    fn end(&mut self) -> Result<Part, ApplyError> {
        self.need(1 + 8 + 8)?;
        self.pending.advance(1);
        let (records, other_hash) = (self.pending.get_u64_le(), self.pending.get_u64_le());
        if !self.pending.is_empty() || self.chunks.next_chunk()?.is_some() {
            return Err(self.bad("bytes follow its end".to_owned()));
        }
        let found = self.other_hash.digest();
        if found != other_hash {
            return Err(self
                .bad(format!("its head and what it has of indexes hash to {found:016x}, expected {other_hash:016x}")));
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
