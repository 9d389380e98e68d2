//! Deliberate bugs in what is proposed and applied, for the simulation to catch: asked for where a mutant is chosen, which no
//! release can do. Called by `replica`, `round`, `search` and `upkeep`.

use super::{
    command::{Command, PointWrite, VectorBytes},
    records::Records,
    state::State,
};
use crate::{
    index::Hit,
    rt,
    store::keys::point::PointRecord,
    types::{Error, ErrorKind, Payload, Result},
};
use bytes::Bytes;
use rand::RngCore;
use std::{cell::RefCell, collections::BTreeMap};

/// Mutant 15: a batch as two entries.
pub fn halves(command: &Bytes) -> Option<(Bytes, Bytes)> {
    let (id, Command::Upsert(mut writes)) = Command::decode(command).ok()? else { return None };
    let rest = writes.split_off(writes.len() / 2);
    if writes.is_empty() {
        return None;
    }
    let first = Command::Upsert(writes).encode(None).ok()?;
    Some((first.into(), Command::Upsert(rest).encode(id).ok()?.into()))
}

/// Mutant 26: versions are compared before the command is proposed, and no more when it is applied.
pub fn unguarded(state: &State, command: &Bytes) -> Result<Bytes> {
    let (id, mut command) = Command::decode(command)?;
    match &mut command {
        Command::Upsert(writes) => writes.iter_mut().try_for_each(|write| compare(state, write))?,
        Command::Patch(write) => compare(state, write)?,
        _ => {}
    }
    Ok(command.encode(id)?.into())
}

/// Mutant 44: a change is made to the document as it is before the command is proposed, and the whole of that is what is proposed.
pub fn merged(state: &State, command: &Bytes) -> Result<Bytes> {
    let (request, Command::Patch(change)) = Command::decode(command)? else { return Ok(command.clone()) };
    // What is refused is refused when it is applied.
    let Some(record) = state.records.view().point(change.id)? else { return Ok(command.clone()) };
    let record = PointRecord::decode(&record).map_err(Records::corrupt)?;
    let payload = |bytes| Payload::from_json(bytes).ok_or_else(|| Records::corrupt("a payload is no JSON object"));
    let payload = payload(record.payload)?.merged(&payload(change.payload)?)?.to_json();
    let mut vectors: BTreeMap<&str, &[u8]> = record.vectors.iter().collect();
    vectors.extend(change.vectors.iter().map(|vector| (vector.name, vector.components)));
    let vectors = vectors.into_iter().map(|(name, components)| VectorBytes { name, components }).collect();
    let whole = PointWrite { vectors, payload: &payload, ..change.clone() };
    Ok(Command::Upsert(vec![whole]).encode(request)?.into())
}

/// Mutant 18: a search sees the rows that the search before it could have seen, not those written since.
pub fn as_of_the_last_search(state: &State, hits: &mut Vec<Hit>) {
    thread_local! {
        static SEEN: RefCell<BTreeMap<u64, u64>> = RefCell::default();
    }
    let now = state.counters().applied;
    let seen = SEEN.with_borrow_mut(|seen| seen.insert(state.id, now)).unwrap_or(now);
    hits.retain(|hit| hit.version <= seen);
}

/// Mutant 31: a version that is the node's wall clock, in milliseconds.
pub fn time_of_day() -> u64 {
    rt::time::wall().0
}

/// Mutant 33: a number that no other replica has.
pub fn own_seed() -> u64 {
    rt::rng::stream("a seed of one's own").next_u64()
}

fn compare(state: &State, write: &mut PointWrite<'_>) -> Result<()> {
    let Some(wanted) = write.if_version.take() else { return Ok(()) };
    let record = state.records.view().point(write.id)?;
    let current = record.map(|record| PointRecord::decode(&record).map(|record| record.told_version()));
    if current.transpose().map_err(Records::corrupt)?.unwrap_or(0) == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "version_mismatch", "the document has another version").expected(wanted))
}

#[cfg(test)]
mod tests {
    use super::super::tests::upserts;
    use super::*;

    #[test]
    fn halves_make_the_whole() {
        let writes = |bytes: &Bytes| match Command::decode(bytes).unwrap().1 {
            Command::Upsert(writes) => writes.iter().map(|write| write.id).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let whole = upserts(5);
        let (first, rest) = halves(&whole).unwrap();
        assert_eq!([writes(&first), writes(&rest)].concat(), writes(&whole));
        assert_eq!(halves(&upserts(1)), None);
    }
}
