//! The checker of two aliases that are switched between two tables again and again while others read and write by them.
//!
//! The switches of a run are numbered from 1; nobody else changes aliases. Before the first, and after every second one, `Live` names
//! table 0 and `Spare` table 1; else the other way round. An alias is never missing. An answer is wholly one table's. It is the one that
//! was named at a moment of the operation: by the last switch that every node is known to have heard of before the operation began
//! (its answer named no node that is behind), or by a later one that began before the operation ended. Documents that were added by
//! an alias in one request are in one table together, named so too; who lists that table afterwards finds them, and nobody finds them
//! in the other.
use super::{
    export::{Describe, Described},
    history::{History, Operation},
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Documents that are in both tables from the beginning, with ids from 0 on; their value says which table they are in.
pub const MARKERS: u64 = 8;

/// The value of a marker in a table.
pub fn marker(id: u64, table: u64) -> u64 {
    2 * id + table
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Live,
    Spare,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Adds all the ids in one request.
    Add(Name, Vec<u64>),
    /// Lists everything, in one page.
    List(Name),
    /// The nearest to a marker of table 0.
    Search(Name, u64),
    /// Lists everything of a table, by its own name.
    ListTable(u64),
    /// The switch of this number.
    Switch(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// There is no such alias.
    Missing,
    /// Id and value of what was found.
    Shown(Vec<(u64, u64)>),
    /// So many nodes may not have heard of it.
    Switched {
        behind: u64,
    },
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, asked) = match self {
            Call::Add(_, ids) => ("add", json!(ids)),
            Call::List(_) | Call::Search(..) | Call::ListTable(_) => ("read", json!(null)),
            Call::Switch(number) => ("switch", json!(number)),
        };
        let value = match answer {
            Some(Answer::Shown(shown)) => json!(shown),
            Some(Answer::Missing) => json!("missing"),
            Some(Answer::Switched { behind }) => json!([asked, behind]),
            _ => asked,
        };
        Described { name, key: None, value }
    }
}

/// A switch: its number, where it began, and from where on everybody has heard of it.
struct Switch {
    number: u64,
    begun: u64,
    heard: u64,
}

/// Judges the whole history. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let switches: Vec<Switch> = history.operations.iter().filter_map(switch).collect();
    let homes = homes(history)?;
    for operation in &history.operations {
        judge(operation, &switches, &homes).map_err(|wrong| {
            format!("process {} at {}, {:?}: {wrong}", operation.process, operation.start.index, operation.call)
        })?;
    }
    lost(history, &homes)
}

/// What was acknowledged is in a table, and in every list of that table that began later.
fn lost(history: &History<Call, Answer>, homes: &BTreeMap<u64, u64>) -> Result<(), String> {
    let shown = |operation: &Operation<Call, Answer>| match (&operation.call, operation.answer()) {
        (Call::List(_) | Call::ListTable(_), Some(Answer::Shown(shown))) => {
            let table = table_of(shown).ok().flatten()?;
            Some((operation.start.index, table, shown.iter().map(|(id, _)| *id).collect::<BTreeSet<u64>>()))
        }
        _ => None,
    };
    let lists: Vec<_> = history.operations.iter().filter_map(shown).collect();
    for add in &history.operations {
        let (Call::Add(_, ids), Some(Answer::Done)) = (&add.call, add.answer()) else { continue };
        for id in ids {
            let after = || lists.iter().filter(|(start, ..)| *start > add.end_index());
            let home = homes.get(id);
            if home.is_none() && (0..2).all(|table| after().any(|(_, of, _)| *of == table)) {
                return Err(format!("acknowledged id {id} is in neither table"));
            }
            if let Some((start, ..)) = after().find(|(_, of, ids)| Some(of) == home && !ids.contains(id)) {
                return Err(format!("the list at {start} lacks the acknowledged id {id}"));
            }
        }
    }
    Ok(())
}

fn switch(operation: &Operation<Call, Answer>) -> Option<Switch> {
    let Call::Switch(number) = operation.call else { return None };
    let everybody = matches!(operation.answer(), Some(Answer::Switched { behind: 0 }));
    let heard = if everybody { operation.end_index() } else { u64::MAX };
    Some(Switch { number, begun: operation.start.index, heard })
}

/// The table of every added document that was shown anywhere.
fn homes(history: &History<Call, Answer>) -> Result<BTreeMap<u64, u64>, String> {
    let mut homes = BTreeMap::new();
    for operation in &history.operations {
        let Some(Answer::Shown(shown)) = operation.answer() else { continue };
        let table = match operation.call {
            Call::ListTable(table) => Some(table),
            _ => table_of(shown)?,
        };
        let Some(table) = table else { continue };
        for (id, _) in shown.iter().filter(|(id, _)| *id >= MARKERS) {
            if homes.insert(*id, table).is_some_and(|other| other != table) {
                return Err(format!("id {id} was found in both tables"));
            }
        }
    }
    Ok(homes)
}

/// The table whose markers are shown; none if none is.
fn table_of(shown: &[(u64, u64)]) -> Result<Option<u64>, String> {
    let markers = shown.iter().filter(|(id, _)| *id < MARKERS);
    if let Some((id, value)) = markers.clone().find(|(id, value)| (0..2).all(|table| marker(*id, table) != *value)) {
        return Err(format!("id {id} never had the value {value}"));
    }
    let tables: BTreeSet<u64> = markers.map(|(id, value)| value - marker(*id, 0)).collect();
    match tables.len() {
        0 | 1 => Ok(tables.first().copied()),
        _ => Err(format!("one answer of two tables: {shown:?}")),
    }
}

fn judge(operation: &Operation<Call, Answer>, switches: &[Switch], homes: &BTreeMap<u64, u64>) -> Result<(), String> {
    match (&operation.call, operation.answer()) {
        (_, Some(Answer::Missing)) => Err("the alias is missing".to_string()),
        (Call::List(name), Some(Answer::Shown(shown))) => {
            let table = table_of(shown)?.ok_or("no marker is shown")?;
            named(*name, table, operation, switches)?;
            whole(shown, table)
        }
        (Call::ListTable(table), Some(Answer::Shown(shown))) => match table_of(shown)? {
            Some(other) if other != *table => Err(format!("table {table} shows what is in table {other}")),
            _ => whole(shown, *table),
        },
        (Call::Search(name, _), Some(Answer::Shown(shown))) => {
            let of_added = || shown.iter().find_map(|(id, _)| homes.get(id).copied());
            match table_of(shown)?.or_else(of_added) {
                Some(table) => named(*name, table, operation, switches),
                None => Ok(()),
            }
        }
        (Call::Add(name, ids), answer) => {
            let tables: BTreeSet<u64> = ids.iter().filter_map(|id| homes.get(id).copied()).collect();
            if tables.len() > 1 {
                return Err("one request's documents are in two tables".to_string());
            }
            if operation.failed() && !tables.is_empty() {
                return Err("refused, and there all the same".to_string());
            }
            match (answer, tables.first()) {
                (Some(_), Some(table)) => named(*name, *table, operation, switches),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn whole(shown: &[(u64, u64)], table: u64) -> Result<(), String> {
    let ids: BTreeSet<u64> = shown.iter().map(|(id, _)| *id).collect();
    if ids.len() != shown.len() {
        return Err(format!("{} documents listed, of which {} are different", shown.len(), ids.len()));
    }
    match (0..MARKERS).find(|id| !ids.contains(id)) {
        Some(id) => Err(format!("marker {id} of table {table} is missing")),
        None => Ok(()),
    }
}

/// Whether the alias named the table at a moment of the operation.
fn named(name: Name, table: u64, operation: &Operation<Call, Answer>, switches: &[Switch]) -> Result<(), String> {
    let (start, end) = (operation.start.index, operation.end_index());
    let known = switches.iter().filter(|switch| switch.heard < start).map(|switch| switch.number).max().unwrap_or(0);
    let later = switches.iter().filter(|switch| switch.number > known && switch.begun < end);
    let mut possible = later.map(|switch| switch.number).chain([known]);
    let names = |number: u64| (number + u64::from(name == Name::Spare)) % 2;
    match possible.any(|number| names(number) == table) {
        true => Ok(()),
        false => Err(format!("it is of table {table}, which {name:?} had not named since switch {known}")),
    }
}
