//! Reading points of one replica by id and in id order. Called by `replica`, and by `search` for what a hit shows.

use super::{records::Records, round::document_not_found, selection, state::State};
use crate::{
    mutants::mutant,
    store::{
        Value,
        keys::point::{self, PointRecord},
    },
    types::{
        DocumentId, Payload, PointId, Result, StoredPoint, VectorName, limits,
        operation::{Cursor, ListAnswer, ListRequest},
    },
};

/// One point.
///
/// # Errors
/// `document_not_found`.
pub fn get(state: &State, id: &DocumentId) -> Result<StoredPoint> {
    let bytes = state.records.view().point(id.point_id())?.ok_or_else(|| document_not_found(id.clone()))?;
    let record = PointRecord::decode(&bytes).map_err(Records::corrupt)?;
    stored_point(id.point_id(), &record, true, true)
}

/// A page of points in id order, of one moment. Ends early at [`limits::LIST_BYTES_MAX`].
pub fn list(state: &State, request: &ListRequest) -> Result<ListAnswer> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for entry in points_to_look_at(state, request) {
        let (id, value) = entry?;
        let record = PointRecord::decode(&value).map_err(Records::corrupt)?;
        if let Some(filter) = &request.filter
            && !filter.passes(id, payload(&record)?.as_object())
        {
            continue;
        }
        let full = page.len() == request.limit || bytes + value.len() > limits::LIST_BYTES_MAX;
        if full && let Some(last) = page.last() {
            let last: &StoredPoint = last;
            let cursor = Some(Cursor { after: last.id.point_id() });
            return Ok(ListAnswer { points: page, cursor });
        }
        bytes += value.len();
        page.push(stored_point(id, &record, request.with_payload, request.with_vector)?);
    }
    Ok(ListAnswer { points: page, cursor: None })
}

/// The points behind the cursor, in id order: all, or those that the payload indexes do not rule out.
fn points_to_look_at(state: &State, request: &ListRequest) -> Box<dyn Iterator<Item = Result<(PointId, Value)>>> {
    let after = request.cursor.map(|cursor| cursor.after);
    if let Some(filter) = &request.filter {
        // Store and indexes of one moment.
        let standing_still = state.close_gate();
        let view = state.records.view();
        let ids = selection::page(&state.indexes(), filter, after, request.limit);
        drop(standing_still);
        if let Some(ids) = ids {
            let point = move |id| Some(view.point(id).transpose()?.map(|record| (id, record)));
            return Box::new(ids.into_iter().filter_map(point));
        }
    }
    let view = state.records.view();
    if let Some(after) = after
        && mutant!(19)
        && matches!(view.point(after), Ok(None))
    {
        return Box::new(view.points_after(after).skip(1));
    }
    Box::new(match after {
        Some(after) => view.points_after(after),
        None => view.points(),
    })
}

/// A record as the caller sees it.
pub fn stored_point(
    id: PointId,
    record: &PointRecord<'_>,
    with_payload: bool,
    with_vector: bool,
) -> Result<StoredPoint> {
    let vectors =
        with_vector.then(|| record.vectors.iter().map(named_vector).collect::<Result<Vec<_>>>()).transpose()?;
    let payload = with_payload.then(|| payload(record)).transpose()?;
    Ok(StoredPoint {
        id: DocumentId::restore(id, record.original_id),
        version: record.told_version(),
        vectors,
        payload,
    })
}

fn named_vector((name, bytes): (&str, &[u8])) -> Result<(VectorName, Vec<f32>)> {
    Ok((VectorName::new(name).map_err(Records::corrupt)?, point::f32s(bytes).collect()))
}

/// A record's payload.
pub fn payload(record: &PointRecord<'_>) -> Result<Payload> {
    Payload::from_json(record.payload).ok_or_else(|| Records::corrupt("a stored payload is no JSON object"))
}
