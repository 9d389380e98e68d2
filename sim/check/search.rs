//! Search after acknowledgement: every put of a point has a vector of its own, nearly orthogonal to all others, and a
//! payload that names the put. A search for that vector, begun after the acknowledgement, must find it first; it must
//! never find what had been deleted or replaced before it began, or what nobody ever wrote; and the vector and the
//! payload of one hit belong to one put. A search that may be answered in part misses nothing but what is of the shards that it names.
//!
//! A search with a filter finds only what passes, and first what it looks for if that passes. An exact one, with a filter or without, that finds
//! fewer points than it asks for has found every point that was certainly there and passes.
use super::{
    export::{Describe, Described},
    filter::Where,
    gap::Gap,
    history::{History, Operation},
};
use serde_json::json;
use std::collections::BTreeMap;

/// Hits that every search asks for.
pub const TOP_K: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writes point `id` with the vector of `value`.
    Put {
        id: u64,
        value: u64,
    },
    Delete {
        id: u64,
    },
    /// Looks for the vector of `value`, which was put at `id`; `exact` asks for the search without an index, `within` for points whose value
    /// passes, `partly` for an answer without the shards that do not give one.
    Search {
        id: u64,
        value: u64,
        exact: bool,
        within: Option<Where>,
        partly: bool,
    },
}

/// One hit: the point, the value its payload names, and whether its vector is that value's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub id: u64,
    pub value: u64,
    pub vector_matches: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Hits(Vec<Hit>),
    /// Without what is in the gap.
    Partial(Vec<Hit>, Gap),
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, key, asked) = match self {
            Call::Put { id, value } => ("write", *id, json!(value)),
            Call::Delete { id } => ("delete", *id, json!(null)),
            Call::Search { id, value, exact, within, partly } => {
                let within = within.map(|within| [within.first, within.end, within.spared]);
                ("search", *id, json!({ "value": value, "exact": exact, "within": within, "partly": partly }))
            }
        };
        let value = match answer {
            Some(Answer::Hits(hits) | Answer::Partial(hits, _)) => {
                hits.iter().map(|hit| json!([hit.id, hit.value])).collect()
            }
            _ => asked,
        };
        Described { name, key: Some(key), value }
    }
}

/// A write of one point: `None` is a delete.
struct Write {
    value: Option<u64>,
    start: u64,
    end: u64,
}

/// What point `writes` may hold at some moment of `[start, end]`: every write begun by the end that was not certainly
/// overwritten before the start. `None` stands for absence.
fn possible(writes: &[Write], start: u64, end: u64) -> Vec<Option<u64>> {
    let overwritten = |one: &Write| writes.iter().any(|other| other.start > one.end && other.end < start);
    let mut values: Vec<_> =
        writes.iter().filter(|w| w.start < end && !overwritten(w)).map(|write| write.value).collect();
    // Before any write is certain, the point may also not exist yet.
    if !writes.iter().any(|write| write.end < start) {
        values.push(None);
    }
    values
}

/// Judges every search of the history. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let mut writes: BTreeMap<u64, Vec<Write>> = BTreeMap::new();
    for operation in history.operations.iter().filter(|o| !o.failed()) {
        let (id, value) = match operation.call {
            Call::Put { id, value } => (id, Some(value)),
            Call::Delete { id } => (id, None),
            Call::Search { .. } => continue,
        };
        writes.entry(id).or_default().push(Write { value, start: operation.start.index, end: operation.end_index() });
    }
    for search in &history.operations {
        let (hits, gap) = match search.answer() {
            Some(Answer::Hits(hits)) => (hits, None),
            Some(Answer::Partial(hits, gap)) => (hits, Some(gap)),
            Some(Answer::Done) | None => continue,
        };
        check_search(search, hits, gap, &writes).map_err(|wrong| {
            format!("{:?} of process {} at {}: {wrong}", search.call, search.process, search.start.index)
        })?;
    }
    Ok(())
}

fn check_search(
    search: &Operation<Call, Answer>,
    hits: &[Hit],
    gap: Option<&Gap>,
    writes: &BTreeMap<u64, Vec<Write>>,
) -> Result<(), String> {
    let (start, end) = (search.start.index, search.end_index());
    for (place, hit) in hits.iter().enumerate() {
        let Some(written) = writes.get(&hit.id) else { return Err(format!("point {} was never written", hit.id)) };
        if !possible(written, start, end).contains(&Some(hit.value)) {
            return Err(format!("point {} with value {} was deleted, replaced or not yet written", hit.id, hit.value));
        }
        if !hit.vector_matches {
            return Err(format!(
                "point {}: vector and payload (value {}) belong to different writes",
                hit.id, hit.value
            ));
        }
        if hits[..place].iter().any(|earlier| earlier.id == hit.id) {
            return Err(format!("point {} is there twice", hit.id));
        }
    }
    let Call::Search { id, value, exact, within, .. } = search.call else { return Ok(()) };
    let passes = |value: &Option<u64>| value.is_some_and(|value| within.is_none_or(|within| within.passes(value)));
    if let Some(hit) = hits.iter().find(|hit| !passes(&Some(hit.value))) {
        return Err(format!("point {} with value {} does not pass the filter", hit.id, hit.value));
    }
    // Whether the point was there and passed, whatever became of what is not known.
    let surely = |id: u64, written: &[Write]| {
        gap.is_none_or(|gap| !gap.has(id)) && possible(written, start, end).iter().all(passes)
    };
    if exact && hits.len() < TOP_K {
        let is_there = |id: u64| hits.iter().any(|hit| hit.id == id);
        if let Some((missing, _)) = writes.iter().find(|(id, written)| surely(**id, written) && !is_there(**id)) {
            return Err(format!("point {missing} is not among the {} hits of an exact search", hits.len()));
        }
    }
    let certain =
        writes.get(&id).is_some_and(|written| surely(id, written) && possible(written, start, end) == [Some(value)]);
    match hits.first() {
        Some(first) if !certain || (first.id == id && first.value == value) => Ok(()),
        None if !certain => Ok(()),
        first => Err(format!("acknowledged value {value} of point {id} is not the first hit: {first:?}")),
    }
}
