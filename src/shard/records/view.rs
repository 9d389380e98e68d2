//! The records of one moment: points, requests, the journal of the indexes with the points kept for it, counters; also points as they
//! were at an earlier log index. Reads only. Called through `records`, by whoever reads a shard.

use super::{Counters, Records};
use crate::{
    shard::content::ContentHash,
    store::{
        Direction, Scan, Space, Value,
        keys::{
            before, journal,
            meta::{self, MetaKey},
            point::{self, PointRecord},
            request,
        },
    },
    types::{PointId, RequestId, Result},
};

/// The records of one moment.
pub struct View {
    pub(super) view: crate::store::View,
    pub(super) space: Space,
}

impl View {
    /// The record of a point.
    pub fn point(&self, id: PointId) -> Result<Option<Value>> {
        self.view.get(&self.space, &point::key(id)).map_err(Records::failed)
    }

    /// All points, in id order.
    pub fn points(&self) -> Points {
        Points(self.view.range(&self.space, &point::keys().start..&point::keys().end, Direction::Forward))
    }

    /// The points behind `id`, in id order.
    pub fn points_after(&self, id: PointId) -> Points {
        let keys = point::keys_after(id);
        Points(self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward))
    }

    /// The records of the journal from log index `from` on, in log order: their indexes and encoded entries.
    pub fn journal(&self, from: u64) -> impl Iterator<Item = Result<(u64, Value)>> + use<> {
        let keys = journal::keys_from(from);
        let entries = self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward);
        entries.map(|entry| {
            let (key, value) = entry.map_err(Records::failed)?;
            let index = journal::log_index(&key).ok_or_else(|| Records::corrupt("a journal's key is no log index"))?;
            Ok((index, value))
        })
    }

    /// The points that were kept as they were before they were replaced: id, version and encoded value, in id order.
    pub fn befores(&self) -> impl Iterator<Item = Result<(PointId, u64, Value)>> + use<> {
        let keys = before::keys();
        let entries = self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward);
        entries.map(|entry| {
            let (key, value) = entry.map_err(Records::failed)?;
            let (id, version) = before::of_key(&key).ok_or_else(|| Records::corrupt("a kept point's key is none"))?;
            Ok((id, version, value))
        })
    }

    /// Gives `see` the record that a point had at `version`, if it is still there or was kept.
    pub fn version<T>(&self, id: PointId, version: u64, see: impl FnOnce(&PointRecord<'_>) -> T) -> Result<Option<T>> {
        if let Some(current) = self.point(id)? {
            let record = PointRecord::decode(&current).map_err(Records::corrupt)?;
            if record.version == version {
                return Ok(Some(see(&record)));
            }
        }
        let kept = self.view.get(&self.space, &before::key(id, version)).map_err(Records::failed)?;
        let Some(kept) = kept else { return Ok(None) };
        let record = PointRecord::decode(replaced(&kept)?.1).map_err(Records::corrupt)?;
        Ok(Some(see(&record)))
    }

    /// Gives `visit` every point as it was when log index `at` had been applied, in id order; ends when that says so. Complete if the
    /// points replaced since then were kept. Cost: a pass over all points and all that were kept.
    pub fn visit_as_of(&self, at: u64, visit: &mut PointVisitor<'_>) -> Result<()> {
        let mut befores = self.befores().peekable();
        for point in self.points() {
            let (id, bytes) = point?;
            if !visit_befores(&mut befores, Some(id), at, visit)? {
                return Ok(());
            }
            let record = PointRecord::decode(&bytes).map_err(Records::corrupt)?;
            if record.version <= at && !visit(id, &record)? {
                return Ok(());
            }
        }
        visit_befores(&mut befores, None, at, visit).map(drop)
    }

    /// A number of the meta record; 0 if it was never written.
    pub fn number(&self, key: MetaKey) -> Result<u64> {
        match self.view.get(&self.space, &key.key()).map_err(Records::failed)? {
            None => Ok(0),
            Some(value) => meta::decode(&value).map_err(Records::corrupt),
        }
    }
}

/// The counters, and what else a view knows of requests.
impl View {
    /// What was counted up to this moment.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            applied: self.number(MetaKey::AppliedIndex)?,
            points: self.number(MetaKey::PointCount)?,
            requests: self.number(MetaKey::Requests)?,
            hash: ContentHash(self.number(MetaKey::ContentHash)?),
        })
    }

    /// Whether a number was ever written.
    pub fn has(&self, key: MetaKey) -> Result<bool> {
        self.view.contains(&self.space, &key.key()).map_err(Records::failed)
    }

    /// The record of a request.
    pub fn request(&self, id: RequestId) -> Result<Option<Value>> {
        self.view.get(&self.space, &request::key(id)).map_err(Records::failed)
    }

    /// The request with a sequence number.
    pub fn request_at(&self, sequence: u64) -> Result<Option<RequestId>> {
        let value = self.view.get(&self.space, &request::order_key(sequence)).map_err(Records::failed)?;
        value.map(|value| request::decode_order(&value).map_err(Records::corrupt)).transpose()
    }

    /// A record of the border, by its key.
    pub fn border(&self, key: [u8; 2]) -> Result<Option<Value>> {
        self.view.get(&self.space, &key).map_err(Records::failed)
    }

    /// All requests, in id order.
    pub fn requests(&self) -> RequestScan {
        let keys = request::keys();
        RequestScan(self.view.range(&self.space, &keys.start..&keys.end, Direction::Forward))
    }
}

/// What is given points; whether it wants more.
pub type PointVisitor<'a> = dyn FnMut(PointId, &PointRecord<'_>) -> Result<bool> + 'a;

/// Visits the kept points up to the id `through` that were current at `at`; whether more are wanted.
fn visit_befores(
    befores: &mut std::iter::Peekable<impl Iterator<Item = Result<(PointId, u64, Value)>>>,
    through: Option<PointId>,
    at: u64,
    visit: &mut PointVisitor<'_>,
) -> Result<bool> {
    let due = |entry: &Result<(PointId, u64, Value)>| match (entry, through) {
        (Ok((id, ..)), Some(through)) => *id <= through,
        _ => true,
    };
    while let Some(entry) = befores.next_if(due) {
        let (id, version, value) = entry?;
        let (replaced_at, record) = replaced(&value)?;
        if version <= at && at < replaced_at {
            let record = PointRecord::decode(record).map_err(Records::corrupt)?;
            if !visit(id, &record)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// When a kept point was replaced, and its record.
pub(super) fn replaced(value: &[u8]) -> Result<(u64, &[u8])> {
    before::decode(value).map_err(Records::corrupt)
}

/// Iterator over requests.
pub struct RequestScan(Scan);

impl Iterator for RequestScan {
    type Item = Result<(RequestId, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.0.next()?;
        Some(entry.map_err(Records::failed).and_then(|(key, value)| match request::id_of_key(&key) {
            Some(id) => Ok((id, value)),
            None => Err(Records::corrupt("a request's key is no id")),
        }))
    }
}

/// Iterator over points.
pub struct Points(Scan);

impl Iterator for Points {
    type Item = Result<(PointId, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.0.next()?;
        Some(entry.map_err(Records::failed).and_then(|(key, value)| match point::id_of_key(&key) {
            Some(id) => Ok((id, value)),
            None => Err(Records::corrupt("a point's key is no id")),
        }))
    }
}
