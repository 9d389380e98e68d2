//! Writes as the bytes that go into a shard's log, so that whoever has them can propose them here or send them to the node
//! that leads the shard. Checks nothing but the size: `service` has checked the write whole. Called by `service` and
//! `replica`.

use super::command::{Command, WriteBuffers};
use crate::{
    rt,
    types::{DocumentId, Point, PointPatch, RequestId, Result, operation::DeleteRequest},
};
use bytes::Bytes;

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
