//! Writes as the bytes that go into a shard's log, so that whoever has them can propose them here or send them to the node
//! that leads the shard. Checks nothing but the size: `service` has checked the write whole. Called by `service` and
//! `replica`.

use super::{
    border,
    command::{Command, WriteBuffers},
};
use crate::{
    rt,
    types::{DocumentId, Error, Point, PointId, PointPatch, RequestId, Result, SlotRange, operation::DeleteRequest},
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Writing points whole, all of them or none.
///
/// # Errors
/// `command_too_large`, as for the others.
pub fn upsert(points: Vec<Point>, id: Option<RequestId>) -> Result<Bytes> {
    rt::compute::short(|| Ok(Command::Upsert(WriteBuffers::of_points(points).writes()).encode(id)?.into()))
}

/// Changing one point.
///
/// # Errors
/// `command_too_large`.
pub fn patch(patch: PointPatch, id: Option<RequestId>) -> Result<Bytes> {
    Ok(Command::Patch(WriteBuffers::of_patch(patch).writes().remove(0)).encode(id)?.into())
}

/// Removing points by id, or those that pass a filter.
///
/// # Errors
/// `command_too_large`.
pub fn delete(request: &DeleteRequest, id: Option<RequestId>) -> Result<Bytes> {
    let bytes = match request {
        DeleteRequest::Ids(ids) => Command::Delete(ids.iter().map(DocumentId::point_id).collect()).encode(id),
        DeleteRequest::Filter(filter) => Command::DeleteWhere(&filter.source().to_string()).encode(id),
    };
    Ok(bytes?.into())
}

/// A part of a command that was cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Where its points stood in the whole, in order.
    pub rows: Vec<usize>,
    pub command: Bytes,
}

/// Cuts an encoded write by the shard that `owner` says its points have now, for a write that was cut when slots were elsewhere. Each
/// part carries the id of the whole's request. What names no points stays whole, and its own shard's.
///
/// # Errors
/// `Corrupt` if it is no command.
pub fn cut(command: &Bytes, shard: u64, owner: impl Fn(PointId) -> u64) -> Result<BTreeMap<u64, Part>> {
    let (request, decoded) = Command::decode(command)?;
    let mut parts: BTreeMap<u64, (Vec<usize>, Command<'_>)> = BTreeMap::new();
    match decoded {
        Command::Upsert(writes) => {
            for (row, write) in writes.into_iter().enumerate() {
                let part = parts.entry(owner(write.id)).or_insert_with(|| (Vec::new(), Command::Upsert(Vec::new())));
                part.0.push(row);
                if let Command::Upsert(writes) = &mut part.1 {
                    writes.push(write);
                }
            }
        }
        Command::Delete(ids) => {
            for (row, id) in ids.into_iter().enumerate() {
                let part = parts.entry(owner(id)).or_insert_with(|| (Vec::new(), Command::Delete(Vec::new())));
                part.0.push(row);
                if let Command::Delete(ids) = &mut part.1 {
                    ids.push(id);
                }
            }
        }
        Command::Patch(write) => drop(parts.insert(owner(write.id), (vec![0], Command::Patch(write)))),
        other => drop(parts.insert(shard, (Vec::new(), other))),
    }
    let part = |(shard, (rows, command)): (u64, (Vec<usize>, Command<'_>))| {
        Ok((shard, Part { rows, command: command.encode(request)?.into() }))
    };
    parts.into_iter().map(part).collect()
}

/// The command after which a shard takes and answers nothing: its collection is being deleted.
pub fn close() -> Result<Bytes> {
    Ok(Command::Close.encode(None)?.into())
}

/// The slots that a shard owns, by its refusal of a slot it does not; `None` for any other error.
pub fn owner_says(error: &Error) -> Option<SlotRange> {
    border::owned_by_refusal(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shard::border::Border,
        types::{Payload, Vector, VectorName, slot_of},
    };

    fn point(id: u64) -> Point {
        let vector = Vector::new(vec![id as f32]).unwrap();
        let id = DocumentId::from_text(id.to_string()).unwrap();
        Point { id, vectors: vec![(VectorName::default(), vector)], payload: Payload::default(), if_version: None }
    }

    #[test]
    fn a_write_is_cut_by_owner_and_keeps_its_request() {
        let request = Some(RequestId::from_bytes([3; 16]));
        let owner = |id: PointId| if slot_of(id) < 8_192 { 1 } else { 2 };
        let whole = upsert((0..20).map(point).collect(), request).unwrap();
        let parts = cut(&whole, 1, owner).unwrap();
        assert_eq!(parts.keys().copied().collect::<Vec<_>>(), [1, 2]);
        for (shard, part) in &parts {
            let points: Vec<Point> = part.rows.iter().map(|row| point(*row as u64)).collect();
            assert!(points.iter().all(|point| owner(point.id.point_id()) == *shard));
            assert_eq!(part.command, upsert(points, request).unwrap());
        }
        assert_eq!(parts.values().map(|part| part.rows.len()).sum::<usize>(), 20);
        let ids = |ids: &[u64]| DeleteRequest::Ids(ids.iter().map(|id| point(*id).id).collect());
        let parts = cut(&delete(&ids(&[4, 5, 6, 7]), request).unwrap(), 1, owner).unwrap();
        for part in parts.values() {
            let rows: Vec<u64> = part.rows.iter().map(|row| *row as u64 + 4).collect();
            assert_eq!(part.command, delete(&ids(&rows), request).unwrap());
        }
        let filter = crate::types::Filter::from_json(&serde_json::json!({"must": []})).unwrap();
        let everywhere = delete(&DeleteRequest::Filter(filter), request).unwrap();
        assert_eq!(
            cut(&everywhere, 9, owner).unwrap(),
            BTreeMap::from([(9, Part { rows: vec![], command: everywhere })])
        );
    }

    #[test]
    fn a_refusal_says_what_the_shard_owns() {
        let border = Border::born(SlotRange { first: 100, end: 300 });
        let elsewhere = (0..).map(PointId::Num).find(|id| !border.owned.contains(slot_of(*id))).unwrap();
        let refusal = border.check([elsewhere].into_iter()).unwrap_err();
        assert_eq!(owner_says(&refusal), Some(border.owned));
        assert_eq!(owner_says(&Error::invalid("shard_movedd", "")), None);
    }
}
