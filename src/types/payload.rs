//! The attributes of a point: a JSON object, bounded in depth and size, without duplicate keys.
//! Called by `api` (parsing), `shard` (merging) and filters (reading).

use super::{Error, Result, limits};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// A validated JSON object. `Payload::default()` is the empty object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload(Map<String, Value>);

impl Payload {
    /// Takes an object over after checking depth and encoded size.
    ///
    /// # Errors
    /// `metadata_too_deep`, `metadata_too_large`.
    pub fn new(object: Map<String, Value>) -> Result<Payload> {
        let payload = Payload(object);
        let depth = payload.0.values().map(depth).max().unwrap_or(0) + 1;
        if depth > limits::PAYLOAD_DEPTH_MAX {
            return Err(Error::invalid("metadata_too_deep", "the metadata is nested too deeply")
                .expected(format!("at most {} levels", limits::PAYLOAD_DEPTH_MAX))
                .got(format!("{depth} levels")));
        }
        check_size(payload.to_json().len())?;
        Ok(payload)
    }

    /// Reads what [`Payload::to_json`] wrote. `None` if the bytes are not a JSON object.
    pub fn from_json(bytes: &[u8]) -> Option<Payload> {
        if bytes.is_empty() {
            return Some(Payload::default());
        }
        serde_json::from_slice(bytes).ok().map(Payload)
    }

    /// The object as JSON bytes; the empty object is no bytes at all.
    pub fn to_json(&self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        serde_json::to_vec(&self.0).expect("a JSON object of owned values always encodes")
    }

    /// The object.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Sets every top-level key of `changes`; a null removes its key.
    ///
    /// # Errors
    /// `metadata_too_large` if the merged object is over the bound; `self` is then unchanged.
    pub fn merged(&self, changes: &Payload) -> Result<Payload> {
        let mut object = self.0.clone();
        for (key, value) in &changes.0 {
            if value.is_null() {
                object.remove(key);
            } else {
                object.insert(key.clone(), value.clone());
            }
        }
        let merged = Payload(object);
        check_size(merged.to_json().len())?;
        Ok(merged)
    }
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes <= limits::PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid("metadata_too_large", "the metadata is too large")
        .expected(format!("at most {} bytes of JSON", limits::PAYLOAD_BYTES_MAX))
        .got(format!("{bytes} bytes")))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Reads any JSON value, refusing an object that names a key twice. `serde_json::Value` alone would keep the last one,
/// which silently loses what the caller wrote first.
#[derive(Clone, Copy)]
pub struct UniqueKeys;

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(UniqueKeys)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(UniqueKeys)?;
            if out.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn payload(value: Value) -> Payload {
        Payload::new(value.as_object().expect("an object").clone()).expect("valid")
    }

    #[test]
    fn merge_sets_and_removes_top_level_keys() {
        let merged = payload(json!({"a": 1, "b": {"c": 2}, "d": 3}))
            .merged(&payload(json!({"a": null, "b": 4, "e": 5})))
            .unwrap();
        assert_eq!(merged, payload(json!({"b": 4, "d": 3, "e": 5})));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let mut value = json!(1);
        for _ in 0..limits::PAYLOAD_DEPTH_MAX {
            value = json!({ "a": value });
        }
        assert!(Payload::new(value.as_object().unwrap().clone()).is_ok());
        let deeper = json!({ "a": value });
        assert_eq!(Payload::new(deeper.as_object().unwrap().clone()).unwrap_err().code(), "metadata_too_deep");
        let large = json!({ "a": "x".repeat(limits::PAYLOAD_BYTES_MAX) });
        assert_eq!(Payload::new(large.as_object().unwrap().clone()).unwrap_err().code(), "metadata_too_large");
    }

    #[test]
    fn json_round_trips_and_empty_is_no_bytes() {
        let p = payload(json!({"ä": [1, -2, 1.5, null, true, {"x": "y"}]}));
        assert_eq!(Payload::from_json(&p.to_json()), Some(p));
        assert_eq!(Payload::default().to_json(), b"");
        assert_eq!(Payload::from_json(b""), Some(Payload::default()));
        assert_eq!(Payload::from_json(b"[1]"), None);
    }

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        let read = |text: &str| UniqueKeys.deserialize(&mut serde_json::Deserializer::from_str(text));
        assert!(read(r#"{"a":1,"b":{"a":1}}"#).is_ok());
        assert!(read(r#"{"a":1,"a":2}"#).unwrap_err().to_string().contains("duplicate field `a`"));
        assert!(read(r#"{"x":[{"a":1,"a":1}]}"#).is_err());
    }
}
