//! One document as a register: put, patch, both also conditional, get and delete of one id, each put and patch with a value of its own.
//!
//! A document has two parts, so that a patch is a read and a write in one: a put writes both, a patch only the upper one ([`patched`]).
//! A patch of what is not there changes nothing.
//!
//! The state is the value with its version, or nothing. Versions are the server's choice; the model asks that a put's
//! version is larger than the one it replaces, that a get sees the version the put answered, and that a conditional put
//! succeeds exactly when the version it names is the current one. A put whose answer was lost leaves a version nobody
//! has seen; the first answer that shows it fixes it.
use super::{
    export::{Describe, Described},
    history::{History, Operation},
    wgl::{self, Model, Verdict},
};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write};

/// What a client asks about the document `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Get { key: u64 },
    Put { key: u64, value: u64, if_version: Option<u64> },
    Patch { key: u64, patch: u64, if_version: Option<u64> },
    Delete { key: u64 },
}

/// Bits of a value that a put gives it; a patch sets those above.
const PUT_BITS: u32 = 32;

/// The value of a document that was put with `value` and then patched; a put is as if by patch 0.
pub fn patched(value: u64, patch: u64) -> u64 {
    (value & ((1 << PUT_BITS) - 1)) | (patch << PUT_BITS)
}

impl Call {
    pub fn key(&self) -> u64 {
        match self {
            Call::Get { key } | Call::Put { key, .. } | Call::Patch { key, .. } | Call::Delete { key } => *key,
        }
    }
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Found {
        value: u64,
        version: u64,
    },
    Absent,
    Written {
        version: u64,
    },
    /// `if_version` named a version that is not the current one.
    Conflict,
    /// Whether there was something to delete.
    Deleted {
        existed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Present {
    pub value: u64,
    /// `None`: written by a put whose answer was lost.
    pub version: Option<u64>,
}

/// The sequential model of one document.
pub struct Register;

impl Model for Register {
    type State = Option<Present>;
    type Call = Call;
    type Answer = Answer;

    fn initial(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, call: &Call, answer: Option<&Answer>) -> Option<Self::State> {
        match call {
            Call::Get { .. } => get(state, answer),
            Call::Put { value, if_version, .. } => put(state, *value, *if_version, answer),
            Call::Patch { patch, if_version, .. } => change(state, *patch, *if_version, answer),
            Call::Delete { .. } => match answer {
                Some(Answer::Deleted { existed }) => (*existed == state.is_some()).then_some(None),
                None => Some(None),
                _ => None,
            },
        }
    }

    fn reads_only(&self, call: &Call) -> bool {
        matches!(call, Call::Get { .. })
    }
}

fn get(state: &Option<Present>, answer: Option<&Answer>) -> Option<Option<Present>> {
    match (state, answer) {
        (_, None) => Some(*state),
        (None, Some(Answer::Absent)) => Some(None),
        (Some(present), Some(Answer::Found { value, version })) => {
            let same = present.value == *value && present.version.is_none_or(|known| known == *version);
            same.then_some(Some(Present { value: *value, version: Some(*version) }))
        }
        _ => None,
    }
}

fn put(
    state: &Option<Present>,
    value: u64,
    if_version: Option<u64>,
    answer: Option<&Answer>,
) -> Option<Option<Present>> {
    let holds = holds(state, if_version);
    match answer {
        Some(Answer::Conflict) => (holds != Some(true)).then_some(*state),
        Some(Answer::Written { version }) => {
            let replaced = state.and_then(|present| present.version);
            let newer = replaced.is_none_or(|replaced| *version > replaced);
            (holds != Some(false) && newer).then_some(Some(Present { value, version: Some(*version) }))
        }
        None => (holds != Some(false)).then_some(Some(Present { value, version: None })),
        _ => None,
    }
}

/// Whether the condition holds, does not, or cannot be told because the current version was never seen.
fn holds(state: &Option<Present>, if_version: Option<u64>) -> Option<bool> {
    match (if_version, state.as_ref().map(|present| present.version)) {
        (None, _) => Some(true),
        // Version 0 stands for "it does not exist".
        (Some(0), current) => Some(current.is_none()),
        (Some(_), None) => Some(false),
        (Some(_), Some(None)) => None,
        (Some(wanted), Some(Some(version))) => Some(wanted == version),
    }
}

/// A patch of what is there is a put of the rest with the change; of what is not there it is none.
fn change(
    state: &Option<Present>,
    patch: u64,
    if_version: Option<u64>,
    answer: Option<&Answer>,
) -> Option<Option<Present>> {
    match (state, answer) {
        (Some(_), Some(Answer::Absent)) | (None, Some(Answer::Written { .. })) => None,
        (Some(present), answer) => put(state, patched(present.value, patch), if_version, answer),
        (None, Some(Answer::Absent)) => (holds(state, if_version) == Some(true)).then_some(None),
        (None, Some(Answer::Conflict)) => (holds(state, if_version) == Some(false)).then_some(None),
        (None, None) => Some(None),
        (None, Some(_)) => None,
    }
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let told = answer.map(|answer| match answer {
            Answer::Found { value, version } => json!([value, version]),
            Answer::Absent => json!(null),
            Answer::Written { version } => json!({ "version": version }),
            Answer::Conflict => json!("conflict"),
            Answer::Deleted { existed } => json!(existed),
        });
        let (name, asked) = match self {
            Call::Get { .. } => ("read", json!(null)),
            Call::Put { value, if_version: None, .. } => ("write", json!(value)),
            Call::Put { value, if_version: Some(version), .. } => ("cas", json!([version, value])),
            Call::Patch { patch, if_version: None, .. } => ("patch", json!(patch)),
            Call::Patch { patch, if_version: Some(version), .. } => ("patch-if", json!([version, patch])),
            Call::Delete { .. } => ("delete", json!(null)),
        };
        Described { name, key: Some(self.key()), value: told.unwrap_or(asked) }
    }
}

/// Judges a history of many documents, each on its own: linearizability is local (Herlihy and Wing, 1990).
/// `Err` is text for people, with the smallest violation found.
pub fn check(history: &History<Call, Answer>, steps_max: u64) -> Result<(), String> {
    let mut keys: BTreeMap<u64, Vec<&Operation<Call, Answer>>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(operation.call.key()).or_default().push(operation);
    }
    for (key, operations) in keys {
        match wgl::check(&Register, &operations, steps_max) {
            Verdict::Linearizable => {}
            Verdict::BudgetSpent => {
                return Err(format!(
                    "key {key}: no verdict after {steps_max} steps on {} operations",
                    operations.len()
                ));
            }
            Verdict::Violation { .. } => {
                let part = wgl::smallest_violation(&Register, &operations, steps_max);
                return Err(format!("key {key} is not linearizable:\n{}", explain(&part)));
            }
        }
    }
    Ok(())
}

fn explain(operations: &[Operation<Call, Answer>]) -> String {
    let mut text = String::new();
    for operation in operations {
        let end = operation.end.as_ref().map_or("…".to_string(), |(stamp, _)| stamp.index.to_string());
        let told = match &operation.end {
            Some((_, outcome)) => format!("{outcome:?}"),
            None => "open".to_string(),
        };
        let _ = writeln!(
            text,
            "    [{:>5} {end:>5}] process {:<3} {:?} -> {told}",
            operation.start.index, operation.process, operation.call
        );
    }
    text
}
