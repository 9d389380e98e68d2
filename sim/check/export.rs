//! Writes a history as Jepsen's EDN, one map a line, and as JSON lines; both have the same fields:
//! `process`, `type` (invoke, ok, fail, info), `f`, `key`, `value`, `time` (ns), `index`.
//! Jepsen's own tools (Knossos, Elle) read the EDN.
use super::history::{History, Outcome};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// What one event says besides process, time and index.
pub struct Described {
    /// The operation's name, `:f`.
    pub name: &'static str,
    /// The object it is about, if it is about one.
    pub key: Option<u64>,
    /// Arguments of a start, answer of an end.
    pub value: Value,
}

/// Calls and answers that can be written down.
pub trait Describe {
    type Answer;
    /// The call alone (`answer` = `None`) or with its answer.
    fn describe(&self, answer: Option<&Self::Answer>) -> Described;
}

/// Every start and end in the order of their indexes, as JSON objects.
pub fn events<C: Describe<Answer = R>, R>(history: &History<C, R>) -> Vec<Value> {
    let mut events = Vec::with_capacity(history.operations.len() * 2);
    for operation in &history.operations {
        let start = (operation.start, "invoke", operation.call.describe(None), None);
        events.push((operation.process, start));
        let Some((stamp, outcome)) = &operation.end else { continue };
        let (kind, answer, error) = match outcome {
            Outcome::Ok(answer) => ("ok", Some(answer), None),
            Outcome::Failed(why) => ("fail", None, Some(why.clone())),
            Outcome::Unknown(why) => ("info", None, Some(why.clone())),
        };
        events.push((operation.process, (*stamp, kind, operation.call.describe(answer), error)));
    }
    events.sort_by_key(|(_, (stamp, ..))| stamp.index);
    events.into_iter().map(|(process, (stamp, kind, what, error))| {
        let mut event = json!({ "process": process, "type": kind, "f": what.name, "key": what.key, "value": what.value,
            "time": stamp.time_ns, "index": stamp.index });
        if let Some(error) = error {
            event["error"] = error.into();
        }
        event
    }).collect()
}

/// One JSON object a line.
pub fn to_jsonl(events: &[Value]) -> String {
    events.iter().fold(String::new(), |mut out, event| {
        let _ = writeln!(out, "{event}");
        out
    })
}

/// One EDN map a line. Names (`type`, `f`) become keywords, as Jepsen writes them.
pub fn to_edn(events: &[Value]) -> String {
    let mut out = String::new();
    for event in events {
        let Value::Object(fields) = event else { continue };
        out.push('{');
        for (place, (name, value)) in fields.iter().enumerate() {
            let _ = write!(out, "{}:{name} ", if place == 0 { "" } else { ", " });
            match (name.as_str(), value) {
                ("type" | "f", Value::String(word)) => drop(write!(out, ":{word}")),
                _ => edn(&mut out, value),
            }
        }
        out.push_str("}\n");
    }
    out
}

fn edn(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("nil"),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { " " });
                edn(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => edn_map(out, fields),
        scalar => drop(write!(out, "{scalar}")),
    }
}

fn edn_map(out: &mut String, fields: &Map<String, Value>) {
    out.push('{');
    for (place, (name, value)) in fields.iter().enumerate() {
        let _ = write!(out, "{}:{name} ", if place == 0 { "" } else { ", " });
        edn(out, value);
    }
    out.push('}');
}
