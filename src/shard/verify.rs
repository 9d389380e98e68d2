//! Proving that a replica holds what it should: the content hash computed again from the records, and, where two replicas
//! differ, in which record. To compare cheaply, records are spread over buckets by the hash of their key; replicas whose
//! hashes differ exchange the hashes of buckets, then the records' hashes of one bucket. Numbers of two replicas can be
//! compared if they are of the same applied index. Called by `replica`.

use super::{
    content::{self, ContentHash},
    records::{Records, View},
    state::State,
};
use crate::{
    store::{
        Value,
        keys::{border, point, point::PointRecord, request},
    },
    types::{Error, ErrorKind, PointId, RequestId, Result},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt};
use xxhash_rust::xxh3::xxh3_64;

/// Buckets the records of a shard are spread over.
pub const BUCKETS: usize = 256;
/// Most damaged records that are named.
const DAMAGED_MAX: usize = 100;

/// Which record. Ordered as in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordName {
    Point(PointId),
    Request(RequestId),
    /// Of what the shard owns, or of what is on its way to another one: by its key.
    Border([u8; 2]),
}

impl RecordName {
    fn bucket(self) -> u8 {
        let hash = match self {
            RecordName::Point(id) => xxh3_64(&point::key(id)),
            RecordName::Request(id) => xxh3_64(&request::key(id)),
            RecordName::Border(key) => xxh3_64(&key),
        };
        (hash >> 56) as u8
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordName::Point(id) => write!(f, "point {id}"),
            RecordName::Request(id) => write!(f, "request {id}"),
            RecordName::Border(border::KEY) => write!(f, "border"),
            RecordName::Border(_) => write!(f, "cargo"),
        }
    }
}

/// A record that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    pub record: RecordName,
    pub problem: String,
}

/// First byte of reports between nodes.
const REPORT_FORMAT: u8 = 2;

/// The bytes in which a [`Recomputed`] or a [`Bucket`] goes to another node.
pub fn encode_report(report: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(report, vec![REPORT_FORMAT]);
    Bytes::from(bytes.expect("reports always encode"))
}

/// The inverse of [`encode_report`].
///
/// # Errors
/// `bad_report`: another version of this program, or not one at all.
pub fn decode_report<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    let bad = |why: String| Error::new(ErrorKind::Unavailable, "bad_report", format!("a peer's report: {why}"));
    match bytes.split_first() {
        Some((&REPORT_FORMAT, rest)) => postcard::from_bytes(rest).map_err(|error| bad(error.to_string())),
        _ => Err(bad("its format is not known".to_owned())),
    }
}

/// What the records of one moment come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recomputed {
    /// The applied index.
    pub applied: u64,
    /// The content hash as it was kept.
    pub kept: u64,
    /// The content hash as the records have it.
    pub found: u64,
    /// Points as they were counted, and as they were found.
    pub points_kept: u64,
    pub points_found: u64,
    /// Sums of the hashes of the records of each bucket; their sum is `found`.
    pub buckets: Vec<u64>,
    /// The first records that cannot be decoded.
    pub damaged: Vec<Damaged>,
    /// Why the store could not be read to its end, and behind which record.
    pub unreadable: Option<String>,
    /// Hash of all that approximate answers depend on; nothing if the replica is astray, or writes went on meanwhile.
    pub index_hash: Option<u64>,
}

impl Recomputed {
    /// Whether the replica holds what it has applied, as far as it can tell by itself.
    pub fn is_sound(&self) -> bool {
        self.damage().is_none()
    }

    /// What is damaged, in words, if the replica does not hold what it has applied.
    pub fn damage(&self) -> Option<String> {
        if let Some(damaged) = self.damaged.first() {
            return Some(format!("{} is damaged: {}", damaged.record, damaged.problem));
        }
        if let Some(why) = &self.unreadable {
            return Some(format!("the records cannot be read {why}"));
        }
        let Recomputed { kept, found, points_kept, points_found, .. } = self;
        ((kept, points_kept) != (found, points_found)).then(|| {
            format!(
                "the records, with {points_found} points, come to {found:016x}, not to {kept:016x} with {points_kept} points as was kept"
            )
        })
    }

    /// The buckets in which another replica, at the same applied index, holds something else.
    pub fn differing_buckets(&self, other: &Recomputed) -> Vec<u8> {
        let pairs = self.buckets.iter().zip(&other.buckets).enumerate();
        pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(bucket, _)| bucket as u8).collect()
    }
}

/// The records of one bucket with their hashes, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub applied: u64,
    pub records: Vec<(RecordName, u64)>,
}

/// In what two replicas differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has it.
    Missing(RecordName),
    /// Only the second has it.
    Surplus(RecordName),
    /// Both have it, with other bytes.
    Changed(RecordName),
}

impl Bucket {
    /// The first record in which another replica, at the same applied index, differs from this one.
    pub fn first_difference(&self, other: &Bucket) -> Option<Difference> {
        let (mut ours, mut theirs) = (self.records.iter().peekable(), other.records.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            match (order, ours.next_if(|_| order.is_le()), theirs.next_if(|_| order.is_ge())) {
                (Ordering::Less, Some((name, _)), _) => return Some(Difference::Missing(*name)),
                (Ordering::Greater, _, Some((name, _))) => return Some(Difference::Surplus(*name)),
                (_, Some((name, a)), Some((_, b))) if a != b => return Some(Difference::Changed(*name)),
                _ => {}
            }
        }
    }
}

/// Reads everything a replica holds. Cost: a pass over all records, and one over all posting lists.
///
/// # Errors
/// `Corrupt` if not even the counters can be read.
pub fn recompute_all(state: &State) -> Result<Recomputed> {
    let found = recompute(&state.records.view())?;
    let (applied, index_hash) = state.index_hash();
    Ok(Recomputed { index_hash: index_hash.filter(|_| applied == found.applied), ..found })
}

/// Reads everything in a view. Cost: a pass over all records.
///
/// # Errors
/// `Corrupt` if not even the counters can be read.
pub fn recompute(view: &View) -> Result<Recomputed> {
    let counters = view.counters()?;
    let mut sums = vec![ContentHash::default(); BUCKETS];
    let mut found = Recomputed {
        applied: counters.applied,
        kept: counters.hash.0,
        found: 0,
        points_kept: counters.points,
        points_found: 0,
        buckets: Vec::new(),
        damaged: Vec::new(),
        unreadable: None,
        index_hash: None,
    };
    let mut last = None;
    for entry in records(view) {
        let (name, record) = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let behind = last.map_or_else(|| "at the start".to_owned(), |last| format!("behind {last}"));
                found.unreadable = Some(format!("{behind}: {error}"));
                break;
            }
        };
        last = Some(name);
        found.points_found += u64::from(matches!(name, RecordName::Point(_)));
        match hash(name, &record) {
            Ok(hash) => sums[usize::from(name.bucket())].add(hash),
            Err(error) if found.damaged.len() < DAMAGED_MAX => {
                found.damaged.push(Damaged { record: name, problem: error.to_string() });
            }
            Err(_) => {}
        }
    }
    found.buckets = sums.iter().map(|sum| sum.0).collect();
    found.found = found.buckets.iter().fold(0, |all, bucket| all.wrapping_add(*bucket));
    Ok(found)
}

/// The records of one bucket. Cost: a pass over all records. A record that cannot be decoded has the hash of its bytes.
///
/// # Errors
/// `Corrupt` if the store cannot be read.
pub fn bucket(view: &View, bucket: u8) -> Result<Bucket> {
    let applied = view.counters()?.applied;
    let mut found = Vec::new();
    for entry in records(view) {
        let (name, record) = entry?;
        if name.bucket() == bucket {
            found.push((name, hash(name, &record).unwrap_or_else(|_| xxh3_64(&record))));
        }
    }
    Ok(Bucket { applied, records: found })
}

fn records(view: &View) -> impl Iterator<Item = Result<(RecordName, Value)>> {
    let points = view.points().map(|entry| entry.map(|(id, record)| (RecordName::Point(id), record)));
    let requests = view.requests().map(|entry| entry.map(|(id, record)| (RecordName::Request(id), record)));
    let border = [border::KEY, border::CARGO_KEY]
        .into_iter()
        .filter_map(|key| Some(view.border(key).transpose()?.map(|record| (RecordName::Border(key), record))));
    points.chain(requests).chain(border)
}

/// The record's part of the content hash, if it can be decoded.
fn hash(name: RecordName, record: &[u8]) -> Result<u64> {
    match name {
        RecordName::Point(id) => {
            PointRecord::decode(record).map_err(Records::corrupt)?;
            Ok(content::of_point(id, record))
        }
        RecordName::Request(id) => content::of_request(id, record),
        RecordName::Border(key) => {
            border::decode(record).map_err(Records::corrupt)?;
            Ok(content::of_border(key, record))
        }
    }
}
