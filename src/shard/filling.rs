//! Filling payload indexes from the records, while searches and writes go on. Called by `indexer`.
//!
//! Why nothing is missed: the fields to fill are known before the view is taken. A point of the view that was not written since has
//! the version its ordinal has, and is put in here. Any other was written after its field was added, and the write put it in.

use super::{records::Records, state::State};
use crate::{
    rt,
    rt::shutdown::Shutdown,
    store::keys::point::PointRecord,
    types::{Payload, PointId, Result},
};

/// Points put in while searches wait: about a quarter of a millisecond.
const POINTS_AT_ONCE: usize = 128;

/// A point of the view.
struct Seen {
    id: PointId,
    version: u64,
    payload: Payload,
}

/// Reads every point and puts it into those fields that are not filled. Ends early, with nothing said to be filled, if `stop` is
/// triggered. Cost: a pass over all records.
///
/// # Errors
/// `Corrupt` if stored records cannot be read.
pub fn fill(state: &State, stop: &Shutdown) -> Result<()> {
    let started = rt::time::now();
    let fields = state.indexes().payload().unfilled();
    let mut seen = Vec::with_capacity(POINTS_AT_ONCE);
    for point in state.records.view().points() {
        if stop.is_triggered() {
            return Ok(());
        }
        let (id, bytes) = point?;
        let record = PointRecord::decode(&bytes).map_err(Records::corrupt)?;
        seen.push(Seen { id, version: record.version, payload: super::read::payload(&record)? });
        if seen.len() == POINTS_AT_ONCE {
            put(state, &mut seen);
        }
    }
    put(state, &mut seen);
    state.indexes_mut().payload_mut().1.filled(&fields);
    let (points, seconds) = (state.points(), started.elapsed().as_secs_f64());
    tracing::info!(shard = state.id, fields = fields.len(), points, seconds, "payload indexes filled");
    Ok(())
}

fn put(state: &State, seen: &mut Vec<Seen>) {
    let mut indexes = state.indexes_mut();
    let (points, payload) = indexes.payload_mut();
    for point in seen.drain(..) {
        let current = points.ordinal(point.id).filter(|&at| points.get(at).is_some_and(|now| now.1 == point.version));
        if let Some(ordinal) = current {
            payload.fill(ordinal, point.payload.as_object());
        }
    }
}
