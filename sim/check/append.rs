//! Lists that grow: an append reads the list, adds a value of its own at the end and writes it back on the condition of the
//! version it read.
//!
//! All lists read of one key are beginnings of the longest; a value stands there once, and only if somebody tried to append
//! it and was not told that it failed; a read that begins after an append was acknowledged, or after another read ended,
//! shows at least as much.
use super::{
    export::{Describe, Described},
    history::{History, Operation},
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Append { key: u64, value: u64 },
    Read { key: u64 },
}

impl Call {
    pub fn key(&self) -> u64 {
        match self {
            Call::Append { key, .. } | Call::Read { key } => *key,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Read(Vec<u64>),
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, asked) = match self {
            Call::Append { value, .. } => ("append", json!(value)),
            Call::Read { .. } => ("read", json!(null)),
        };
        let value = match answer {
            Some(Answer::Read(list)) => json!(list),
            _ => asked,
        };
        Described { name, key: Some(self.key()), value }
    }
}

type Of<'a> = Vec<&'a Operation<Call, Answer>>;

/// Judges every read. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let mut keys: BTreeMap<u64, Of> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(operation.call.key()).or_default().push(operation);
    }
    keys.into_iter().try_for_each(|(key, of)| check_key(&of).map_err(|wrong| format!("list {key}: {wrong}")))
}

fn check_key(operations: &Of) -> Result<(), String> {
    let reads: Vec<(&Operation<Call, Answer>, &Vec<u64>)> = operations
        .iter()
        .filter_map(|operation| match operation.answer() {
            Some(Answer::Read(list)) => Some((*operation, list)),
            _ => None,
        })
        .collect();
    let Some((_, longest)) = reads.iter().max_by_key(|(_, list)| list.len()) else { return Ok(()) };
    check_values(operations, longest)?;
    let place: BTreeMap<u64, usize> = longest.iter().enumerate().map(|(place, value)| (*value, place)).collect();
    for (read, list) in &reads {
        let at = || format!("the read of process {} at {}", read.process, read.start.index);
        if !longest.starts_with(list) {
            return Err(format!("{} shows {list:?}, another {longest:?}", at()));
        }
        for earlier in operations.iter().filter(|other| other.end_index() < read.start.index) {
            let least = match (&earlier.call, earlier.answer()) {
                (Call::Append { value, .. }, Some(_)) => match place.get(value) {
                    Some(place) => place + 1,
                    None => return Err(format!("{} shows {list:?}, without the acknowledged {value}", at())),
                },
                (Call::Read { .. }, Some(Answer::Read(shown))) => shown.len(),
                _ => 0,
            };
            if list.len() < least {
                let (call, index) = (&earlier.call, earlier.start.index);
                return Err(format!("{} shows {list:?}, less than {call:?} at {index} before it", at()));
            }
        }
    }
    Ok(())
}

/// Every value is there once and was tried, without being told that it failed.
fn check_values(operations: &Of, longest: &[u64]) -> Result<(), String> {
    let tried: BTreeSet<u64> = operations
        .iter()
        .filter(|operation| !operation.failed())
        .filter_map(|operation| match operation.call {
            Call::Append { value, .. } => Some(value),
            Call::Read { .. } => None,
        })
        .collect();
    let mut seen = BTreeSet::new();
    for value in longest {
        if !seen.insert(value) {
            return Err(format!("{value} is there twice: {longest:?}"));
        }
        if !tried.contains(value) {
            return Err(format!("{value} was never appended, or its append failed: {longest:?}"));
        }
    }
    Ok(())
}
