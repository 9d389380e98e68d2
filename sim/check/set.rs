//! The set checker: ids are added and deleted, one by one and by filter, now and then everything is listed.
//!
//! A list that started after an add was acknowledged, with no delete of that id begun by then, has the id; one that
//! started after a delete was acknowledged, with no add begun since, does not; an id nobody ever tried to add is never
//! there; no id is there twice. What is open or of unknown outcome may show or not.
//!
//! A delete by filter is a delete of each id that passes, each at a moment of its own between its beginning and its end (it is not
//! atomic over several shards), and of no other. A delete tells how many ids were there and are gone: no fewer than certainly were
//! there, no more than may have been.
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
    DeleteWhere(Where),
    /// Lists every id, page by page.
    List,
}

/// A filter: ids of a range, but for those that end in one digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where {
    pub first: u64,
    pub end: u64,
    /// Ids that end in it stay; none do where it is no digit.
    pub spared: u64,
}

impl Where {
    pub fn passes(&self, id: u64) -> bool {
        (self.first..self.end).contains(&id) && !self.spares(id)
    }

    pub fn spares(&self, id: u64) -> bool {
        id % 10 == self.spared
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// So many were there and are gone.
    Deleted(u64),
    Listed(Vec<u64>),
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, asked) = match self {
            Call::Add(ids) => ("add", json!(ids)),
            Call::Delete(id) => ("remove", json!(id)),
            Call::DeleteWhere(Where { first, end, spared }) => ("remove-where", json!([first, end, spared])),
            Call::List => ("read", json!(null)),
        };
        let value = match answer {
            Some(Answer::Listed(ids)) => json!(ids),
            Some(Answer::Deleted(count)) => json!([asked, count]),
            _ => asked,
        };
        Described { name, key: None, value }
    }
}

/// What was tried with one id: where each try began, and by when it had happened.
#[derive(Default)]
struct Changes {
    adds: Vec<(u64, u64)>,
    deletes: Vec<(u64, u64)>,
}

impl Changes {
    /// Whether a look over `[start, end]` must, may or must not find the id; the look is no change itself, or the one that began there.
    fn at(&self, start: u64, end: u64) -> Presence {
        let begun = |changes: &[(u64, u64)]| changes.iter().any(|(from, _)| *from < end);
        // A change is certain to be the last word at `start` if it had ended by then and every change of the other
        // kind either had ended before it began or begins after the look is over.
        let last_word = |these: &[(u64, u64)], others: &[(u64, u64)]| {
            let mut others = others.iter().filter(|(begin, _)| *begin != start);
            these.iter().any(|(from, to)| *to < start && others.all(|(begin, done)| *done < *from || *begin > end))
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

/// Judges every list and every count of the history. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let changes = changes(history);
    for operation in history.operations.iter() {
        let judged = match operation.answer() {
            Some(Answer::Listed(ids)) => check_list(operation, ids, &changes),
            Some(Answer::Deleted(count)) => check_count(operation, *count, &changes),
            Some(Answer::Done) | None => Ok(()),
        };
        judged.map_err(|wrong| {
            let name = operation.call.describe(None).name;
            format!("{name} of process {} at {}: {wrong}", operation.process, operation.start.index)
        })?;
    }
    Ok(())
}

fn changes(history: &History<Call, Answer>) -> BTreeMap<u64, Changes> {
    let mut changes: BTreeMap<u64, Changes> = BTreeMap::new();
    let happened = || history.operations.iter().filter(|operation| !operation.failed());
    let when = |operation: &Operation<Call, Answer>| (operation.start.index, operation.end_index());
    for operation in happened() {
        match &operation.call {
            Call::Add(ids) => ids.iter().for_each(|id| changes.entry(*id).or_default().adds.push(when(operation))),
            Call::Delete(id) => changes.entry(*id).or_default().deletes.push(when(operation)),
            Call::DeleteWhere(_) | Call::List => {}
        }
    }
    for operation in happened() {
        let Call::DeleteWhere(filter) = &operation.call else { continue };
        for (_, of) in changes.range_mut(filter.first..filter.end).filter(|(id, _)| filter.passes(**id)) {
            of.deletes.push(when(operation));
        }
    }
    changes
}

/// Whether so many of the ids that `delete` names can have been there.
fn check_count(delete: &Operation<Call, Answer>, count: u64, changes: &BTreeMap<u64, Changes>) -> Result<(), String> {
    let named = |id: u64| match &delete.call {
        Call::Delete(one) => *one == id,
        Call::DeleteWhere(filter) => filter.passes(id),
        Call::Add(_) | Call::List => false,
    };
    let (mut certain, mut possible) = (0, 0);
    for (_, of) in changes.iter().filter(|(id, _)| named(**id)) {
        let presence = of.at(delete.start.index, delete.end_index());
        certain += u64::from(presence == Presence::Must);
        possible += u64::from(presence != Presence::MustNot);
    }
    match (certain..=possible).contains(&count) {
        true => Ok(()),
        false => Err(format!("{count} ids are said to be gone, and from {certain} to {possible} were there")),
    }
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
