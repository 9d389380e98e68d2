//! Filters: must / should / must_not over payload paths and ids, nested at will.
//!
//! A filter is read from JSON with errors that name the exact place, and tells of one point whether it passes. An array
//! at the end of a path passes if any of its elements does. Called by `api` (reading), `shard` (testing).

use super::{Error, PointId, Result, limits, path::Path};
use serde_json::{Map, Number, Value};
use std::{cmp::Ordering, collections::BTreeSet};

/// A validated filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    clause: Clause,
    source: Value,
}

/// One level of a filter. Empty lists constrain nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clause {
    /// All of these hold.
    pub must: Vec<Condition>,
    /// At least one of these holds.
    pub should: Vec<Condition>,
    /// None of these holds.
    pub must_not: Vec<Condition>,
}

/// What a point is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// One of the values at the path passes the test.
    Field(Path, Test),
    /// No value at the path is anything but null or an array of nothing.
    IsEmpty(Path),
    /// The path leads to a null.
    IsNull(Path),
    /// The opposite of empty.
    Exists(Path),
    /// The point is one of these.
    HasId(BTreeSet<PointId>),
    /// A filter within.
    Nested(Clause),
}

/// A test of one value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Equal to the scalar.
    Is(Scalar),
    /// Equal to one of them.
    Any(Vec<Scalar>),
    /// Not null and equal to none of them.
    Except(Vec<Scalar>),
    /// A string that has all these tokens.
    Text(Vec<String>),
    /// A number in the range.
    Range(Range),
}

/// A value that can be matched exactly.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Text(String),
    Bool(bool),
    Number(Number),
}

/// Bounds of a number; at least one is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Range {
    pub gt: Option<Number>,
    pub gte: Option<Number>,
    pub lt: Option<Number>,
    pub lte: Option<Number>,
}

impl Filter {
    /// Reads a filter from its JSON form (API.md, "Filter").
    ///
    /// # Errors
    /// `bad_filter` and `bad_path`, with the path of the offending part in `field`; the caller adds where the filter
    /// itself stands with [`Error::at`].
    pub fn from_json(value: &Value) -> Result<Filter> {
        let mut conditions_left = limits::FILTER_CONDITIONS_MAX;
        Ok(Filter { clause: read_clause(value, 1, &mut conditions_left)?, source: value.clone() })
    }

    /// The JSON it was read from; reading that again gives the same filter.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Whether the point passes. Cost: linear in the filter and in the arrays its paths lead through.
    pub fn passes(&self, id: PointId, payload: &Map<String, Value>) -> bool {
        self.clause.passes(id, payload)
    }

    /// Its outermost level, for whoever answers it from an index.
    pub fn clause(&self) -> &Clause {
        &self.clause
    }

    /// The only ids that can pass, if the filter says so at its top level.
    pub fn ids(&self) -> Option<&BTreeSet<PointId>> {
        self.clause.must.iter().find_map(|condition| match condition {
            Condition::HasId(ids) => Some(ids),
            _ => None,
        })
    }
}

impl Clause {
    fn passes(&self, id: PointId, payload: &Map<String, Value>) -> bool {
        self.must.iter().all(|c| c.holds(id, payload))
            && (self.should.is_empty() || self.should.iter().any(|c| c.holds(id, payload)))
            && !self.must_not.iter().any(|c| c.holds(id, payload))
    }
}

impl Condition {
    fn holds(&self, id: PointId, payload: &Map<String, Value>) -> bool {
        match self {
            Condition::Field(path, test) => path.any(payload, &mut |value| test.passes_any(value)),
            Condition::IsNull(path) => path.any(payload, &mut Value::is_null),
            Condition::IsEmpty(path) => !path.any(payload, &mut |value| !is_empty(value)),
            Condition::Exists(path) => path.any(payload, &mut |value| !is_empty(value)),
            Condition::HasId(ids) => ids.contains(&id),
            Condition::Nested(clause) => clause.passes(id, payload),
        }
    }
}

/// Empty means: null or an array of nothing. (A path that leads nowhere is empty too; it has no value to test.)
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

impl Test {
    /// An array passes if any of its elements does.
    fn passes_any(&self, value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(|item| self.passes(item)),
            other => self.passes(other),
        }
    }

    fn passes(&self, value: &Value) -> bool {
        match self {
            Test::Is(scalar) => scalar.equals(value),
            Test::Any(scalars) => scalars.iter().any(|scalar| scalar.equals(value)),
            Test::Except(scalars) => !value.is_null() && !scalars.iter().any(|scalar| scalar.equals(value)),
            Test::Text(tokens) => value.as_str().is_some_and(|text| {
                let have: BTreeSet<String> = tokens_of(text).collect();
                tokens.iter().all(|token| have.contains(token))
            }),
            Test::Range(range) => value.as_number().is_some_and(|number| range.contains(number)),
        }
    }
}

/// Lower-cased runs of letters and digits.
pub fn tokens_of(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|token| !token.is_empty()).map(str::to_lowercase)
}

impl Scalar {
    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Scalar::Text(a), Value::String(b)) => a == b,
            (Scalar::Bool(a), Value::Bool(b)) => a == b,
            // 1 and 1.0 are one number to a user, and two to serde_json.
            (Scalar::Number(a), Value::Number(b)) => a == b || (a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64()),
            _ => false,
        }
    }
}

impl Range {
    /// Whether the number is within all bounds.
    pub fn contains(&self, number: &Number) -> bool {
        let holds = |bound: &Option<Number>, test: fn(Ordering) -> bool| {
            bound.as_ref().is_none_or(|bound| compare(number, bound).is_some_and(test))
        };
        holds(&self.gt, Ordering::is_gt)
            && holds(&self.gte, Ordering::is_ge)
            && holds(&self.lt, Ordering::is_lt)
            && holds(&self.lte, Ordering::is_le)
    }
}

/// Whole numbers are compared as such: as f64 the last digits of a large id or of nanoseconds would be lost.
fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

// ---- reading ----

fn bad(message: impl Into<String>) -> Error {
    Error::invalid("bad_filter", message)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn object<'v>(value: &'v Value, what: &str) -> Result<&'v Map<String, Value>> {
    value.as_object().ok_or_else(|| bad(format!("{what} is an object")).expected("an object").got(kind_of(value)))
}

fn read_clause(value: &Value, depth: usize, left: &mut usize) -> Result<Clause> {
    if depth > limits::FILTER_DEPTH_MAX {
        return Err(bad("the filter is nested too deeply")
            .expected(format!("at most {} levels", limits::FILTER_DEPTH_MAX))
            .got(format!("{depth} or more levels")));
    }
    let mut clause = Clause::default();
    for (key, conditions) in object(value, "a filter")? {
        let list = match key.as_str() {
            "must" => &mut clause.must,
            "should" => &mut clause.should,
            "must_not" => &mut clause.must_not,
            _ => return Err(bad("a filter has no such part").at(key).expected("must, should or must_not").got(key)),
        };
        *list = read_conditions(conditions, depth, left).map_err(|error| error.at(key))?;
    }
    Ok(clause)
}

/// One condition, an array of them, or null for none.
fn read_conditions(value: &Value, depth: usize, left: &mut usize) -> Result<Vec<Condition>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, item)| read_condition(item, depth, left).map_err(|error| error.at(format!("[{i}]"))))
            .collect(),
        one => Ok(vec![read_condition(one, depth, left)?]),
    }
}

fn read_condition(value: &Value, depth: usize, left: &mut usize) -> Result<Condition> {
    *left = left.checked_sub(1).ok_or_else(|| {
        bad("the filter has too many conditions").expected(format!("at most {}", limits::FILTER_CONDITIONS_MAX))
    })?;
    let object = object(value, "a condition")?;
    if object.keys().any(|key| matches!(key.as_str(), "must" | "should" | "must_not")) {
        return read_clause(value, depth + 1, left).map(Condition::Nested);
    }
    if object.contains_key("key") {
        return read_field(object);
    }
    let mut entries = object.iter();
    let (Some((name, inner)), None) = (entries.next(), entries.next()) else {
        return Err(bad("a condition has exactly one kind").expected(CONDITION_KINDS).got(shape(object)));
    };
    match name.as_str() {
        "has_id" => read_ids(inner).map(Condition::HasId).map_err(|error| error.at(name)),
        "is_empty" => read_key_of(inner).map(Condition::IsEmpty).map_err(|error| error.at(name)),
        "is_null" => read_key_of(inner).map(Condition::IsNull).map_err(|error| error.at(name)),
        "exists" => read_key_of(inner).map(Condition::Exists).map_err(|error| error.at(name)),
        _ => Err(bad("there is no such condition").at(name).expected(CONDITION_KINDS).got(name)),
    }
}

const CONDITION_KINDS: &str =
    "{key, match}, {key, range}, {has_id}, {is_empty: {key}}, {is_null: {key}}, {exists: {key}} or a nested filter";

fn shape(object: &Map<String, Value>) -> String {
    let keys: Vec<&str> = object.keys().map(String::as_str).take(8).collect();
    format!("{{{}}}", keys.join(", "))
}

fn read_field(object: &Map<String, Value>) -> Result<Condition> {
    let path = read_path(&object["key"])?;
    let mut tests = object.iter().filter(|(name, _)| *name != "key");
    let (Some((name, test)), None) = (tests.next(), tests.next()) else {
        return Err(bad("a condition on a key has exactly one test").expected("match or range").got(shape(object)));
    };
    let test = match name.as_str() {
        "match" => read_match(test),
        "range" => read_range(test).map(Test::Range),
        _ => return Err(bad("there is no such test").at(name).expected("match or range").got(name)),
    };
    Ok(Condition::Field(path, test.map_err(|error| error.at(name))?))
}

fn read_path(value: &Value) -> Result<Path> {
    let text =
        value.as_str().ok_or_else(|| bad("a key is a path").at("key").expected("a string").got(kind_of(value)))?;
    Path::parse(text).map_err(|error| error.at("key"))
}

fn read_key_of(value: &Value) -> Result<Path> {
    let object = object(value, "this condition")?;
    match object.get("key") {
        Some(key) if object.len() == 1 => read_path(key),
        _ => Err(bad("this condition names one key").expected("{key}").got(shape(object))),
    }
}

fn read_match(value: &Value) -> Result<Test> {
    let object = object(value, "match")?;
    let mut entries = object.iter();
    let (Some((name, inner)), None) = (entries.next(), entries.next()) else {
        return Err(bad("match has exactly one form").expected("value, any, except or text").got(shape(object)));
    };
    match name.as_str() {
        "value" => read_scalar(inner).map(Test::Is),
        "any" => read_scalars(inner).map(Test::Any),
        "except" => read_scalars(inner).map(Test::Except),
        "text" => match inner.as_str() {
            Some(text) => Ok(Test::Text(tokens_of(text).collect())),
            None => Err(bad("text is matched by a string").expected("a string").got(kind_of(inner))),
        },
        _ => return Err(bad("there is no such match").at(name).expected("value, any, except or text").got(name)),
    }
    .map_err(|error| error.at(name))
}

fn read_scalar(value: &Value) -> Result<Scalar> {
    match value {
        Value::String(text) => Ok(Scalar::Text(text.clone())),
        Value::Bool(flag) => Ok(Scalar::Bool(*flag)),
        Value::Number(number) => Ok(Scalar::Number(number.clone())),
        other => {
            Err(bad("a value is matched by a scalar").expected("a string, a number or a boolean").got(kind_of(other)))
        }
    }
}

fn bounded_array(value: &Value) -> Result<&Vec<Value>> {
    let items = value.as_array().ok_or_else(|| bad("a list is wanted").expected("an array").got(kind_of(value)))?;
    if items.len() > limits::FILTER_VALUES_MAX {
        return Err(bad("the list is too long")
            .expected(format!("at most {} values", limits::FILTER_VALUES_MAX))
            .got(format!("{} values", items.len())));
    }
    Ok(items)
}

fn read_scalars(value: &Value) -> Result<Vec<Scalar>> {
    bounded_array(value)?
        .iter()
        .enumerate()
        .map(|(i, item)| read_scalar(item).map_err(|error| error.at(format!("[{i}]"))))
        .collect()
}

fn read_ids(value: &Value) -> Result<BTreeSet<PointId>> {
    bounded_array(value)?
        .iter()
        .enumerate()
        .map(|(i, item)| match item {
            Value::String(text) => Ok(PointId::from_text(text)),
            other => other.as_u64().map(PointId::Num).ok_or_else(|| {
                bad("an id is a string or a whole number")
                    .at(format!("[{i}]"))
                    .expected("a string or a number of 0 or more")
                    .got(other)
            }),
        })
        .collect()
}

fn read_range(value: &Value) -> Result<Range> {
    let mut range = Range::default();
    for (name, bound) in object(value, "range")? {
        let slot = match name.as_str() {
            "gt" => &mut range.gt,
            "gte" => &mut range.gte,
            "lt" => &mut range.lt,
            "lte" => &mut range.lte,
            _ => return Err(bad("a range has no such bound").at(name).expected("gt, gte, lt or lte").got(name)),
        };
        if bound.is_null() {
            continue;
        }
        *slot =
            Some(bound.as_number().cloned().ok_or_else(|| {
                bad("a bound of a range is a number").at(name).expected("a number").got(kind_of(bound))
            })?);
    }
    if range == Range::default() {
        return Err(bad("a range has at least one bound").expected("gt, gte, lt or lte").got("none"));
    }
    Ok(range)
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
