//! The checker of a table that is dropped and made again, under one name, while others use it.
//!
//! Every id is added at most once. A list that started after an add was acknowledged has the id, unless the table may have been made
//! anew since the add began. A list that started after the table was made anew has nothing that was acknowledged before that
//! began. An id nobody has begun to add is never there, and none is there twice. What is open or of unknown outcome may
//! show or not: it may have arrived in either table.
use super::{
    export::{Describe, Described},
    history::{History, Operation},
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Adds all the ids in one request.
    Add(Vec<u64>),
    /// Lists every id, page by page.
    List,
    /// Drops the table and makes it again.
    Recreate,
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
            Call::List => ("read", json!(null)),
            Call::Recreate => ("recreate", json!(null)),
        };
        let value = match answer {
            Some(Answer::Listed(ids)) => json!(ids),
            _ => asked,
        };
        Described { name, key: None, value }
    }
}

/// When something began and when it was acknowledged; never, if it may still come about.
type Span = (u64, u64);

/// Judges every list of the history. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let (mut added, mut recreated) = (BTreeMap::<u64, Span>::new(), Vec::<Span>::new());
    for operation in history.operations.iter().filter(|o| !o.failed()) {
        let span = (operation.start.index, operation.end_index());
        match &operation.call {
            Call::Add(ids) => added.extend(ids.iter().map(|id| (*id, span))),
            Call::Recreate => recreated.push(span),
            Call::List => {}
        }
    }
    for list in history.operations.iter() {
        let Some(Answer::Listed(ids)) = list.answer() else { continue };
        check_list(list, ids, &added, &recreated)
            .map_err(|wrong| format!("list of process {} at {}: {wrong}", list.process, list.start.index))?;
    }
    Ok(())
}

fn check_list(
    list: &Operation<Call, Answer>,
    ids: &[u64],
    added: &BTreeMap<u64, Span>,
    recreated: &[Span],
) -> Result<(), String> {
    let shown: BTreeSet<u64> = ids.iter().copied().collect();
    if shown.len() != ids.len() {
        return Err(format!("{} ids listed, only {} different ones", ids.len(), shown.len()));
    }
    let (start, end) = (list.start.index, list.end_index());
    if let Some(id) = shown.iter().find(|id| added.get(id).is_none_or(|(begun, _)| *begun > end)) {
        return Err(format!("id {id} was never added"));
    }
    for (id, (begun, done)) in added {
        // Between the add's beginning and the list's end the table stayed what it was.
        let stayed = recreated.iter().all(|(from, to)| to < begun || *from > end);
        let is_of_the_past = recreated.iter().any(|(from, to)| done < from && *to < start);
        match shown.contains(id) {
            false if *done < start && stayed => return Err(format!("acknowledged id {id} is missing")),
            true if is_of_the_past => return Err(format!("id {id} is of a table that was dropped")),
            _ => {}
        }
    }
    Ok(())
}
