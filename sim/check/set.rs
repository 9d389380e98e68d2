//! The set checker: ids are added and deleted, one by one and by filter, now and then everything is listed.
//!
//! A list that started after an add was acknowledged, with no delete of that id begun by then, has the id; one that
//! started after a delete was acknowledged, with no add begun since, does not; an id nobody ever tried to add is never
//! there; no id is there twice. What is open or of unknown outcome may show or not.
//!
//! A delete by filter is a delete of each id that passes, each at a moment of its own between its beginning and its end (it is not
//! atomic over several shards), and of no other. A delete tells how many ids were there and are gone: no fewer than certainly were
//! there, no more than may have been.
//!
//! A list that may be partial lacks nothing but what is of the shards that it names; a count counts each shard at a moment of its own, but
//! for those that it names.
//!
//! What was added asynchronously is acknowledged before it is certain: it may be lost, but if it happens it is ordered by the
//! acknowledgement, before every delete begun later. Whatever was shown once has happened, whoever added it; and where the table has one
//! shard, a batch has happened with its first id that was shown.
use super::{
    export::{Describe, Described},
    filter::Where,
    gap::Gap,
    history::{History, Operation},
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Adds all the ids in one request, which is atomic.
    Add(Vec<u64>),
    /// The same, acknowledged when the leader alone has it.
    AddAsync(Vec<u64>),
    Delete(u64),
    DeleteWhere(Where),
    /// Lists every id, page by page.
    List,
    /// The same, without the shards that do not answer.
    ListPartly,
    /// How many there are, without the shards that do not answer.
    Count,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// So many were there and are gone.
    Deleted(u64),
    Listed(Vec<u64>),
    /// Page by page, each may have a gap.
    Partial {
        ids: Vec<u64>,
        gaps: Vec<Gap>,
    },
    Counted {
        count: u64,
        /// Shards that were not counted.
        gaps: Vec<Gap>,
    },
}

impl Answer {
    /// The ids that were shown.
    fn shown(&self) -> Option<&[u64]> {
        match self {
            Answer::Listed(ids) | Answer::Partial { ids, .. } => Some(ids),
            Answer::Done | Answer::Deleted(_) | Answer::Counted { .. } => None,
        }
    }
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, asked) = match self {
            Call::Add(ids) => ("add", json!(ids)),
            Call::AddAsync(ids) => ("add-async", json!(ids)),
            Call::Delete(id) => ("remove", json!(id)),
            Call::DeleteWhere(Where { first, end, spared }) => ("remove-where", json!([first, end, spared])),
            Call::List => ("read", json!(null)),
            Call::ListPartly => ("read-partly", json!(null)),
            Call::Count => ("count", json!(null)),
        };
        let value = match answer {
            Some(Answer::Listed(ids)) => json!(ids),
            Some(Answer::Deleted(count)) => json!([asked, count]),
            Some(Answer::Partial { ids, gaps }) => json!([ids, missing(gaps)]),
            Some(Answer::Counted { count, gaps }) => json!([count, missing(gaps)]),
            _ => asked,
        };
        Described { name, key: None, value }
    }
}

/// First and last id and slots of what is missing.
fn missing(gaps: &[Gap]) -> serde_json::Value {
    gaps.iter().map(|gap| json!([gap.first, gap.last, gap.slots])).collect()
}

/// What holds of the table of a history beyond what holds of every table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    /// It has one shard from the beginning to the end: a batch is written whole.
    pub one_shard: bool,
    /// Its shards have one copy each, always the same: what its leader has on disk is not lost.
    pub one_copy: bool,
}

/// An attempt to add an id.
#[derive(Clone, Copy)]
struct Add {
    from: u64,
    /// If it has happened, it had by then; what begins later comes after it.
    by: u64,
    /// By then it had happened for certain; `u64::MAX` if that is not known.
    surely_by: u64,
}

/// What was tried with one id; of a delete where it began, and by when it had happened.
#[derive(Default)]
struct Changes {
    adds: Vec<Add>,
    deletes: Vec<(u64, u64)>,
}

impl Changes {
    /// Whether a look over `[start, end]` must, may or must not find the id; a delete that began at `start` is the look itself.
    fn at(&self, start: u64, end: u64) -> Presence {
        let mut deletes = self.deletes.iter().filter(|(from, _)| *from != start);
        // A change is certain to be the last word at `start` if it had happened by then and every change of the other
        // kind either had happened before it began or begins after the look is over.
        let added = |add: &Add| {
            let mut deletes = deletes.clone();
            add.surely_by < start && deletes.all(|(from, by)| *by < add.from || *from > end)
        };
        if self.adds.iter().any(added) {
            return Presence::Must;
        }
        let deleted =
            deletes.any(|(from, by)| *by < start && self.adds.iter().all(|add| add.by < *from || add.from > end));
        match deleted || !self.adds.iter().any(|add| add.from < end) {
            true => Presence::MustNot,
            false => Presence::May,
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
pub fn check(history: &History<Call, Answer>, table: Table) -> Result<(), String> {
    let changes = changes(history, table);
    for operation in history.operations.iter() {
        let judged = match operation.answer() {
            Some(Answer::Listed(ids)) => check_list(operation, ids, &[], &changes),
            Some(Answer::Partial { ids, gaps }) => check_list(operation, ids, gaps, &changes),
            Some(Answer::Deleted(count)) => check_count(operation, *count, &[], &changes),
            Some(Answer::Counted { count, gaps }) => check_count(operation, *count, gaps, &changes),
            Some(Answer::Done) | None => Ok(()),
        };
        judged.map_err(|wrong| {
            let name = operation.call.describe(None).name;
            format!("{name} of process {} at {}: {wrong}", operation.process, operation.start.index)
        })?;
    }
    Ok(())
}

/// Ids that were added asynchronously, with an acknowledgement, and are lost: nobody tried to delete them, and the last list lacks them.
pub fn lost(history: &History<Call, Answer>) -> Vec<u64> {
    let changes = changes(history, Table::default());
    let lists = history.operations.iter().filter_map(|list| match list.answer() {
        Some(Answer::Listed(ids)) => Some((list.start.index, ids)),
        _ => None,
    });
    let Some((start, last)) = lists.max_by_key(|(start, _)| *start) else { return Vec::new() };
    let acknowledged = history.operations.iter().filter_map(|operation| match (&operation.call, operation.answer()) {
        (Call::AddAsync(ids), Some(_)) if operation.end_index() < start => Some(ids),
        _ => None,
    });
    let is_lost = |id: &u64| !last.contains(id) && changes[id].deletes.is_empty();
    acknowledged.flatten().copied().filter(is_lost).collect()
}

fn changes(history: &History<Call, Answer>, table: Table) -> BTreeMap<u64, Changes> {
    let mut changes: BTreeMap<u64, Changes> = BTreeMap::new();
    let shown = first_shown(history);
    let happened = || history.operations.iter().filter(|operation| !operation.failed());
    for operation in happened() {
        let (from, by) = (operation.start.index, operation.end_index());
        let (ids, surely_by) = match &operation.call {
            Call::Add(ids) => (ids, by),
            Call::AddAsync(ids) => (ids, if table.one_copy { by } else { u64::MAX }),
            Call::Delete(id) => {
                changes.entry(*id).or_default().deletes.push((from, by));
                continue;
            }
            Call::DeleteWhere(_) | Call::List | Call::ListPartly | Call::Count => continue,
        };
        let shown_by = |id: &u64| shown.get(id).copied().unwrap_or(u64::MAX);
        let any_shown_by = ids.iter().map(shown_by).min().unwrap_or(u64::MAX);
        for id in ids {
            let shown_by = if table.one_shard { any_shown_by } else { shown_by(id) };
            let add = Add { from, by: by.min(shown_by), surely_by: surely_by.min(shown_by) };
            changes.entry(*id).or_default().adds.push(add);
        }
    }
    for operation in happened() {
        let Call::DeleteWhere(filter) = &operation.call else { continue };
        for (_, of) in changes.range_mut(filter.first..filter.end).filter(|(id, _)| filter.passes(**id)) {
            of.deletes.push((operation.start.index, operation.end_index()));
        }
    }
    changes
}

/// By when each id had been shown for the first time. Every id is added by one request, which happens once.
fn first_shown(history: &History<Call, Answer>) -> BTreeMap<u64, u64> {
    let mut shown = BTreeMap::new();
    for operation in &history.operations {
        for id in operation.answer().and_then(Answer::shown).unwrap_or_default() {
            let first = shown.entry(*id).or_insert(u64::MAX);
            *first = operation.end_index().min(*first);
        }
    }
    shown
}

/// Whether so many of the ids that `operation` is about can have been there.
fn check_count(
    operation: &Operation<Call, Answer>,
    count: u64,
    gaps: &[Gap],
    changes: &BTreeMap<u64, Changes>,
) -> Result<(), String> {
    let is_about = |id: u64| match &operation.call {
        Call::Delete(one) => *one == id,
        Call::DeleteWhere(filter) => filter.passes(id),
        Call::Count => true,
        Call::Add(_) | Call::AddAsync(_) | Call::List | Call::ListPartly => false,
    };
    let (mut certain, mut possible) = (0, 0);
    for (id, of) in changes.iter().filter(|(id, _)| is_about(**id)) {
        let presence = of.at(operation.start.index, operation.end_index());
        certain += u64::from(presence == Presence::Must && !gaps.iter().any(|gap| gap.has(*id)));
        possible += u64::from(presence != Presence::MustNot);
    }
    match (certain..=possible).contains(&count) {
        true => Ok(()),
        false => Err(format!("{count} ids are said to be, or to have been, there; it is from {certain} to {possible}")),
    }
}

fn check_list(
    list: &Operation<Call, Answer>,
    ids: &[u64],
    gaps: &[Gap],
    changes: &BTreeMap<u64, Changes>,
) -> Result<(), String> {
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
            (Presence::Must, false) if !gaps.iter().any(|gap| gap.has(*id)) => {
                return Err(format!("acknowledged id {id} is missing"));
            }
            (Presence::MustNot, true) => return Err(format!("id {id} is there, but deleted or not yet added")),
            _ => {}
        }
    }
    Ok(())
}
