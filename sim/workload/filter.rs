//! Filters as the node takes them: lists of values where they are few, else ranges with exceptions. Called by the set and the search
//! workload.
use crate::check::filter::Where;
use serde_json::{Value, json};

/// Ranges of so few values are asked for by these.
const FEW: u64 = 10;

/// The filter of both faces, on the metadata's `value`.
pub fn json(asked: &Where) -> Value {
    let (spared, passing): (Vec<u64>, Vec<u64>) = (asked.first..asked.end).partition(|value| asked.spares(*value));
    if asked.end - asked.first <= FEW {
        return json!({ "must": [{ "key": "value", "match": { "any": passing } }] });
    }
    let range = json!({ "key": "value", "range": { "gte": asked.first, "lt": asked.end } });
    match spared.is_empty() {
        true => json!({ "must": [range] }),
        false => json!({ "must": [range], "must_not": [{ "key": "value", "match": { "any": spared } }] }),
    }
}
