//! Sessions: each client writes documents and reads them back at whichever node, with what its session tokens say.
//!
//! A session read shows at least the client's own last acknowledged write of that document, and never less than the client
//! was shown before, where it was given a token for that. An eventual read shows at least what anybody's put had been answered for longer
//! than [`STALENESS_MAX`] before it. Any read shows a put that had begun, with the version that put was given.
use super::{
    export::{Describe, Described},
    history::{History, Operation, Outcome},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// What the nodes are told of how old an eventual read may be.
pub const STALENESS_MAX: Duration = Duration::from_secs(2);
/// How much longer that is by a clock that goes slowly.
const DRIFT: f64 = 1.05;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Put { session: u64, key: u64, value: u64 },
    Get { session: u64, key: u64, eventual: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Written {
        version: u64,
    },
    Absent,
    Found {
        value: u64,
        version: u64,
        /// Whether the answer came with a token, so that the session may not go back behind it.
        token: bool,
    },
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let told = answer.map(|answer| match answer {
            Answer::Written { version } => json!({ "version": version }),
            Answer::Absent => json!(null),
            Answer::Found { value, version, .. } => json!([value, version]),
        });
        let (name, key, asked) = match self {
            Call::Put { key, value, .. } => ("write", *key, json!(value)),
            Call::Get { key, eventual: false, .. } => ("session-read", *key, json!(null)),
            Call::Get { key, .. } => ("eventual-read", *key, json!(null)),
        };
        Described { name, key: Some(key), value: told.unwrap_or(asked) }
    }
}

/// A put that may have happened.
struct Written {
    start: u64,
    version: Option<u64>,
}

/// Judges every read. `Err` is text for people.
pub fn check(history: &History<Call, Answer>) -> Result<(), String> {
    let mut puts: BTreeMap<(u64, u64), Written> = BTreeMap::new();
    for operation in history.operations.iter().filter(|operation| !operation.failed()) {
        if let Call::Put { key, value, .. } = operation.call {
            let version = match operation.answer() {
                Some(Answer::Written { version }) => Some(*version),
                _ => None,
            };
            puts.insert((key, value), Written { start: operation.start.index, version });
        }
    }
    for read in &history.operations {
        let Call::Get { session, key, eventual } = read.call else { continue };
        let shown = match read.answer() {
            Some(Answer::Found { value, version, .. }) => {
                was_written(read, puts.get(&(key, *value)), *value, *version)?;
                *version
            }
            Some(_) => 0,
            None => continue,
        };
        let least = if eventual { old(history, read, key) } else { floor(history, read, session, key) };
        if shown < least {
            let who = if eventual { "anybody could have" } else { "the session had" };
            return Err(format!(
                "{:?} at {} shows version {shown}, and {who} seen {least}",
                read.call, read.start.index
            ));
        }
    }
    Ok(())
}

fn was_written(read: &Operation<Call, Answer>, put: Option<&Written>, value: u64, version: u64) -> Result<(), String> {
    let at = || format!("{:?} at {}", read.call, read.start.index);
    match put {
        None => Err(format!("{} shows value {value}, which nobody wrote", at())),
        Some(put) if put.start > read.end_index() => Err(format!("{} shows value {value}, not yet written", at())),
        Some(Written { version: Some(given), .. }) if *given != version => {
            Err(format!("{} shows value {value} with version {version}; its put was given {given}", at()))
        }
        Some(_) => Ok(()),
    }
}

/// The version that an eventual read must show at least.
fn old(history: &History<Call, Answer>, read: &Operation<Call, Answer>, key: u64) -> u64 {
    let staleness_ns = (STALENESS_MAX.as_nanos() as f64 * DRIFT) as u64;
    let puts = history.operations.iter().filter_map(|put| match (&put.call, &put.end) {
        (Call::Put { key: of, .. }, Some((end, Outcome::Ok(Answer::Written { version })))) if *of == key => {
            Some((end.time_ns, *version))
        }
        _ => None,
    });
    let before = puts.filter(|(end_ns, _)| end_ns + staleness_ns < read.start.time_ns);
    before.map(|(_, version)| version).max().unwrap_or(0)
}

/// The version the session's read must show at least.
fn floor(history: &History<Call, Answer>, read: &Operation<Call, Answer>, session: u64, key: u64) -> u64 {
    let before = history.operations.iter().filter(|other| other.end_index() < read.start.index);
    let seen = before.filter_map(|other| match (&other.call, other.answer()?) {
        (Call::Put { session: by, key: of, .. }, Answer::Written { version }) if (*by, *of) == (session, key) => {
            Some(*version)
        }
        (Call::Get { session: by, key: of, .. }, Answer::Found { version, token: true, .. })
            if (*by, *of) == (session, key) =>
        {
            Some(*version)
        }
        _ => None,
    });
    seen.max().unwrap_or(0)
}
