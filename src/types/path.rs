//! A path into a payload: `a.b`, `a[].b` (every element), `a[0].b` (one element), `"a.b".c` (a key with a dot).
//! Called by filters and payload indexes.

use super::{Error, Result, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// A parsed, non-empty payload path. Stored as its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
    Every,
}

impl Path {
    /// Parses the text form.
    ///
    /// # Errors
    /// `bad_path`, saying what is wrong with it.
    pub fn parse(text: &str) -> Result<Path> {
        let bad = |why: &str| {
            Error::invalid("bad_path", format!("this is not a path into the metadata: {why}"))
                .expected("keys joined by dots, as in a.b, a[].b, a[0].b or \"a.b\".c")
                .got(format!("{text:?}"))
        };
        if text.len() > limits::PATH_BYTES_MAX {
            return Err(bad("it is too long").got(format!("{} bytes", text.len())));
        }
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let key;
            (key, rest) = take_key(rest).map_err(bad)?;
            steps.push(Step::Key(key));
            while let Some(inside) = rest.strip_prefix('[') {
                let (index, after) = inside.split_once(']').ok_or_else(|| bad("a `[` is not closed"))?;
                steps.push(match index {
                    "" => Step::Every,
                    _ => Step::Index(index.parse().map_err(|_| bad("between brackets stands a number or nothing"))?),
                });
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some(after) => rest = after,
                None if rest.is_empty() => return Ok(Path(steps)),
                None => return Err(bad("a dot is missing")),
            }
        }
    }

    /// Calls `visit` with every value the path leads to; stops and returns true as soon as `visit` does.
    pub fn any<'v>(&self, object: &'v Map<String, Value>, visit: &mut dyn FnMut(&'v Value) -> bool) -> bool {
        let Some((Step::Key(key), rest)) = self.0.split_first() else { return false };
        object.get(key).is_some_and(|value| walk(rest, value, visit))
    }
}

fn walk<'v>(steps: &[Step], value: &'v Value, visit: &mut dyn FnMut(&'v Value) -> bool) -> bool {
    let Some((step, rest)) = steps.split_first() else { return visit(value) };
    match (step, value) {
        (Step::Key(key), Value::Object(object)) => object.get(key).is_some_and(|value| walk(rest, value, visit)),
        (Step::Index(i), Value::Array(items)) => items.get(*i).is_some_and(|value| walk(rest, value, visit)),
        (Step::Every, Value::Array(items)) => items.iter().any(|value| walk(rest, value, visit)),
        _ => false,
    }
}

/// Splits one key off: quoted, or up to the next `.` or `[`.
fn take_key(text: &str) -> std::result::Result<(String, &str), &'static str> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (key, rest) = quoted.split_once('"').ok_or("a quote is not closed")?;
        return Ok((key.to_owned(), rest));
    }
    let end = text.find(['.', '[']).unwrap_or(text.len());
    if end == 0 {
        return Err("a key is empty");
    }
    Ok((text[..end].to_owned(), &text[end..]))
}

impl TryFrom<String> for Path {
    type Error = Error;

    fn try_from(text: String) -> Result<Path> {
        Path::parse(&text)
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        path.to_string()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    if key.is_empty() || key.contains(['.', '[']) {
                        write!(f, "{dot}\"{key}\"")?;
                    } else {
                        write!(f, "{dot}{key}")?;
                    }
                }
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Every => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn found(path: &str, value: Value) -> Vec<Value> {
        let mut out = Vec::new();
        Path::parse(path).unwrap().any(value.as_object().unwrap(), &mut |v| {
            out.push(v.clone());
            false
        });
        out
    }

    #[test]
    fn leads_to_values() {
        let doc = json!({"a": {"b": 1}, "l": [{"x": 1}, {"x": 2}, 3], "p.q": {"r": 4}});
        assert_eq!(found("a.b", doc.clone()), [json!(1)]);
        assert_eq!(found("l[].x", doc.clone()), [json!(1), json!(2)]);
        assert_eq!(found("l[1].x", doc.clone()), [json!(2)]);
        assert_eq!(found("\"p.q\".r", doc.clone()), [json!(4)]);
        assert!(found("l.x", doc.clone()).is_empty());
        assert!(found("a.c", doc).is_empty());
    }

    #[test]
    fn refuses_what_is_no_path() {
        for text in ["", ".", "a..b", "a[", "a[x]", "a]b[", "\"a", "a[0]b", "a."] {
            assert_eq!(Path::parse(text).unwrap_err().code(), "bad_path", "{text:?}");
        }
        assert!(Path::parse(&"a".repeat(limits::PATH_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_and_prints_back(text in "[a-c.\\[\\]\"0-9]{0,12}") {
            if let Ok(path) = Path::parse(&text) {
                prop_assert_eq!(Path::parse(&path.to_string()).unwrap(), path);
            }
        }
    }
}
