//! What a layer holds for a key before its type is known ([`Value`]), and how each type reads and shows itself
//! ([`Setting`]).
//!
//! Promise: `T::read(&x.show())` gives `x` back for every type a key may have; a value of another type is refused, not
//! coerced. Text from the environment, a flag or an INI file carries no type ([`Value::Bare`]) and is parsed by the
//! type that reads it. Called by `config::keys` and the document readers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::units::{self, ByteSize};

/// A value as a layer gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// YAML's `null`; unsets an optional key.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    /// A string of a format that knows types.
    Text(String),
    /// Text of a source that knows no types: environment, flags, INI.
    Bare(String),
    /// A list.
    List(Vec<Value>),
    /// A mapping where none is wanted (inside a list); only its presence is kept, to be refused.
    Mapping,
}

impl Value {
    /// The type's name, for error texts.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::Bare(_) => "text",
            Value::List(_) => "a list",
            Value::Mapping => "a mapping",
        }
    }

    /// The value and its type, for error texts; long values are cut.
    pub fn describe(&self) -> String {
        const SHOWN_CHARACTERS_MAX: usize = 80;
        let shown: String = match self {
            Value::Null | Value::Mapping => return self.kind().to_owned(),
            Value::Bare(text) => return format!("{:?}", cut(text, SHOWN_CHARACTERS_MAX)),
            _ => cut(&self.to_string(), SHOWN_CHARACTERS_MAX),
        };
        format!("{shown} ({})", self.kind())
    }

    /// The value as a JSON document, for `config show -o json`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null | Value::Mapping => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Integer(number) => {
                i64::try_from(*number).map_or_else(|_| number.to_string().into(), serde_json::Value::from)
            }
            Value::Float(number) => (*number).into(),
            Value::Text(text) | Value::Bare(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Value::to_json).collect::<Vec<_>>().into(),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Bare(text) => Some(text.trim()),
            _ => None,
        }
    }
}

/// YAML's flow style, which is JSON: what `config show` prints and `conf/default.yaml` holds.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to_json())
    }
}

fn cut(text: &str, characters_max: usize) -> String {
    if text.chars().count() <= characters_max {
        return text.to_owned();
    }
    text.chars().take(characters_max).chain(std::iter::once('…')).collect()
}

/// A type that a configuration key can have.
pub trait Setting: Sized {
    /// What is read, in the words of an error text ("a duration with a unit, such as …").
    const EXPECTED: &'static str;
    /// Whether the value must never be shown.
    const SECRET: bool = false;
    /// The value of this type, or `None` where `value` is of another type or out of its domain.
    fn read(value: &Value) -> Option<Self>;
    /// The value in the form the layers use.
    fn show(&self) -> Value;
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(*flag),
            Value::Bare(text) => match text.trim() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    fn show(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Bare(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn show(&self) -> Value {
        Value::Integer(i128::from(*self))
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        u64::read(value).and_then(|number| usize::try_from(number).ok())
    }

    fn show(&self) -> Value {
        Value::Integer(*self as i128)
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a string";

    fn read(value: &Value) -> Option<Self> {
        value.text().map(str::to_owned)
    }

    fn show(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(value: &Value) -> Option<Self> {
        value.text().filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string_lossy().into_owned())
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = units::DURATION_EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        value.text().and_then(|text| units::parse_duration(text).ok())
    }

    fn show(&self) -> Value {
        Value::Text(units::show_duration(*self))
    }
}

impl Setting for ByteSize {
    const EXPECTED: &'static str = units::BYTE_SIZE_EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        value.text().and_then(|text| text.parse().ok())
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an IP address and port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";

    fn read(value: &Value) -> Option<Self> {
        let text = value.text()?;
        match text.strip_prefix("localhost:") {
            // A listener binds an address, not a name; this one name has one meaning everywhere.
            Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)),
            None => text.parse().ok(),
        }
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string())
    }
}

/// Optional: `null`, or empty text from the environment, unsets it.
impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const SECRET: bool = T::SECRET;

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            // The seeds write `username: ""` for "none".
            Value::Bare(text) | Value::Text(text) if text.trim().is_empty() => Some(None),
            _ => T::read(value).map(Some),
        }
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::show)
    }
}

/// How a list of `T` is called in an error text, because a constant cannot be put together from another.
pub trait ListItem: Setting {
    /// See [`Setting::EXPECTED`].
    const LIST_EXPECTED: &'static str;
}

impl ListItem for SocketAddr {
    const LIST_EXPECTED: &'static str = "a list of IP addresses and ports, such as [\"127.0.0.1:8080\"]";
}

/// A list; from text without types, separated by commas. One bare or quoted item stands for a list of one.
impl<T: ListItem> Setting for Vec<T> {
    const EXPECTED: &'static str = T::LIST_EXPECTED;
    const SECRET: bool = T::SECRET;

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => items.iter().map(T::read).collect(),
            Value::Text(text) | Value::Bare(text) if text.trim().is_empty() => Some(Vec::new()),
            Value::Text(text) | Value::Bare(text) => {
                text.split(',').map(|item| T::read(&Value::Bare(item.trim().to_owned()))).collect()
            }
            _ => None,
        }
    }

    fn show(&self) -> Value {
        Value::List(self.iter().map(T::show).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(text: &str) -> Value {
        Value::Bare(text.to_owned())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn every_type_reads_back_what_it_shows() {
        fn round<T: Setting + PartialEq + std::fmt::Debug>(value: T) {
            assert_eq!(T::read(&value.show()), Some(value));
        }
        round(true);
        round(u64::MAX);
        round(7usize);
        round("text".to_owned());
        round(PathBuf::from("./data"));
        round(Duration::from_millis(1500));
        round(ByteSize::gib(2));
        round::<SocketAddr>("[::1]:80".parse().expect("an address"));
        round(None::<u64>);
        round(Some(3u64));
        round::<Vec<SocketAddr>>(vec!["127.0.0.1:1".parse().expect("an address")]);
    }

    #[test]
    fn a_typed_value_of_another_type_is_refused() {
        assert_eq!(bool::read(&text("true")), None);
        assert_eq!(u64::read(&text("5")), None);
        assert_eq!(u64::read(&Value::Integer(-5)), None);
        assert_eq!(u64::read(&Value::Float(5.0)), None);
        assert_eq!(String::read(&Value::Integer(5)), None);
        assert_eq!(Duration::read(&Value::Integer(30)), None);
        assert_eq!(Duration::read(&bare("30")), None);
        assert_eq!(ByteSize::read(&Value::Integer(1024)), None);
        assert_eq!(PathBuf::read(&text("")), None);
        assert_eq!(Vec::<SocketAddr>::read(&Value::List(vec![Value::Mapping])), None);
    }

    #[test]
    fn bare_text_is_parsed_by_the_type_that_reads_it() {
        assert_eq!(bool::read(&bare("true")), Some(true));
        assert_eq!(bool::read(&bare("yes")), None);
        assert_eq!(u64::read(&bare(" 5 ")), Some(5));
        assert_eq!(Option::<String>::read(&bare("")), Some(None));
        let two = Vec::<SocketAddr>::read(&bare("127.0.0.1:1, localhost:2")).expect("two addresses");
        assert_eq!(two, ["127.0.0.1:1".parse().expect("one"), "127.0.0.1:2".parse().expect("two")]);
    }

    #[test]
    fn descriptions_name_value_and_type_and_stay_short() {
        assert_eq!(Value::Integer(30).describe(), "30 (an integer)");
        assert_eq!(text("x").describe(), "\"x\" (a string)");
        assert_eq!(bare("x").describe(), "\"x\"");
        assert_eq!(Value::Null.describe(), "nothing");
        assert!(text(&"x".repeat(1000)).describe().chars().count() < 120);
    }
}
