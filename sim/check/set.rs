//! The set checker: ids are added and deleted, now and then everything is listed.
//!
//! A list that started after an add was acknowledged, with no delete of that id begun by then, has the id; one that
//! started after a delete was acknowledged, with no add begun since, does not; an id nobody ever tried to add is never
//! there; no id is there twice. What is open or of unknown outcome may show or not.
use super::{
    export::{Describe, Described},
    history::{History, Operation},
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Adds all the ids in one request, which is atomic.
    Add(Vec<u64>),
    Delete(u64),
    /// Lists every id, page by page.
    List,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Listed(Vec<u64>),
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, asked) = match self {
            Call::Add(ids) => ("add", json!(ids)),
            Call::Delete(id) => ("remove", json!(id)),
            Call::List => ("read", json!(null)),
        };
        let value = match answer {
            Some(Answer::Listed(ids)) => json!(ids),
            _ => asked,
        };
        Described { name, key: None, value }
    }
}

#[derive(Default)]
struct Changes {
    adds: Vec<(u64, u64)>,
    deletes: Vec<(u64, u64)>,
}

impl Changes {
    /// Whether a list over `[start, end]` must, may or must not show the id.
    fn at(&self, start: u64, end: u64) -> Presence {
        let begun = |changes: &[(u64, u64)]| changes.iter().any(|(from, _)| *from < end);
        // A change is certain to be the last word at `start` if it had ended by then and every change of the other
        // kind either had ended before it began or begins after the list is over.
        let last_word = |these: &[(u64, u64)], others: &[(u64, u64)]| {
            these
                .iter()
                .any(|(from, to)| *to < start && others.iter().all(|(begin, done)| *done < *from || *begin > end))
        };
        if last_word(&self.adds, &self.deletes) {
            Presence::Must
        } else if !begun(&self.adds) || last_word(&self.deletes, &self.adds) {
            Presence::MustNot
        } else {
            Presence::May
        }
    }
}

#[derive(PartialEq, Eq)]
enum Presence {
    Must,
    May,
    MustNot,
}

/// Judges every list of the history. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let changes = changes(history);
    for list in history.operations.iter() {
        let Some(Answer::Listed(ids)) = list.answer() else { continue };
        check_list(list, ids, &changes)
            .map_err(|wrong| format!("list of process {} at {}: {wrong}", list.process, list.start.index))?;
    }
    Ok(())
}

fn changes(history: &History<Call, Answer>) -> BTreeMap<u64, Changes> {
    let mut changes: BTreeMap<u64, Changes> = BTreeMap::new();
    for operation in history.operations.iter().filter(|o| !o.failed()) {
        let when = (operation.start.index, operation.end_index());
        match &operation.call {
            Call::Add(ids) => ids.iter().for_each(|id| changes.entry(*id).or_default().adds.push(when)),
            Call::Delete(id) => changes.entry(*id).or_default().deletes.push(when),
            Call::List => {}
        }
    }
    changes
}

fn check_list(list: &Operation<Call, Answer>, ids: &[u64], changes: &BTreeMap<u64, Changes>) -> Result<(), String> {
    let shown: BTreeSet<u64> = ids.iter().copied().collect();
    if shown.len() != ids.len() {
        return Err(format!("{} ids listed, only {} different ones", ids.len(), shown.len()));
    }
    if let Some(id) = shown.iter().find(|id| !changes.contains_key(id)) {
        return Err(format!("id {id} was never added"));
    }
    let (start, end) = (list.start.index, list.end_index());
    for (id, changes) in changes {
        match (changes.at(start, end), shown.contains(id)) {
            (Presence::Must, false) => return Err(format!("acknowledged id {id} is missing")),
            (Presence::MustNot, true) => return Err(format!("id {id} is there, but deleted or not yet added")),
            _ => {}
        }
    }
    Ok(())
}
