//! What the payload of one point has at one path, as filters see it: the values the path leads to, arrays opened once.
//! Called by `field`, for what a point is put under and taken from.

use super::number::NumberKey;
use crate::types::{filter, path::Path};
use serde_json::{Map, Value};

/// See the module. Lists are ascending and without duplicates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leaves<'v> {
    /// The path leads to a null (an array's nulls do not count).
    pub null: bool,
    /// It leads to something that is neither null nor an array of nothing.
    pub exists: bool,
    pub strings: Vec<&'v str>,
    pub numbers: Vec<NumberKey>,
    pub has_false: bool,
    pub has_true: bool,
    /// An object, or an array in an array: equal to no scalar.
    pub has_other: bool,
}

impl<'v> Leaves<'v> {
    /// Reads a payload. Cost: linear in what the path leads through.
    pub fn of(payload: &'v Map<String, Value>, path: &Path) -> Leaves<'v> {
        let mut leaves = Leaves::default();
        path.any(payload, &mut |value| {
            leaves.null |= value.is_null();
            leaves.exists |= !filter::is_empty(value);
            match value {
                Value::Array(items) => items.iter().for_each(|item| leaves.add(item)),
                other => leaves.add(other),
            }
            false
        });
        leaves.strings.sort_unstable();
        leaves.strings.dedup();
        leaves.numbers.sort_unstable();
        leaves.numbers.dedup();
        leaves
    }

    fn add(&mut self, value: &'v Value) {
        match value {
            Value::Null => {}
            Value::Bool(false) => self.has_false = true,
            Value::Bool(true) => self.has_true = true,
            Value::Number(number) => self.numbers.push(NumberKey::of(number)),
            Value::String(text) => self.strings.push(text),
            Value::Array(_) | Value::Object(_) => self.has_other = true,
        }
    }

    /// Different values other than null.
    pub fn distinct(&self) -> usize {
        let one = usize::from;
        self.strings.len() + self.numbers.len() + one(self.has_false) + one(self.has_true) + one(self.has_other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arrays_are_opened_once() {
        let payload = json!({"a": [1, 1, "x", null, [2], true], "b": null, "c": [], "d": {"e": 1.0}});
        let read = |path: &str| Leaves::of(payload.as_object().unwrap(), &Path::parse(path).unwrap());
        let a = read("a");
        assert_eq!((a.strings.as_slice(), a.numbers.len(), a.has_other, a.distinct()), (&["x"][..], 1, true, 4));
        assert!(a.exists && !a.null && a.has_true && !a.has_false);
        assert!(read("a[]").null && read("a[]").numbers.len() == 2);
        assert!(read("b").null && !read("b").exists && !read("c").exists && !read("c").null);
        assert!(read("d").has_other && read("d.e").numbers.len() == 1);
        assert_eq!(read("z"), Leaves::default());
    }
}
