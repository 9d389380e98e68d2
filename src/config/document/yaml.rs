//! YAML read into entries, with the line of every key.
//!
//! Promise: duplicate keys, several documents, deep nesting and alias bombs are refused by the parser's own bounds, set
//! here. Called by `config::document`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{Entry, Malformed, join};
use crate::config::value::Value;

const NESTING_MAX: usize = 16;

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Malformed> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_depth: NESTING_MAX, max_aliases: 64, max_nodes: 10_000, },
    };
    let root: Node = serde_saphyr::from_str_with_options(text, options).map_err(|error| malformed(&error))?;
    let mut entries = Vec::new();
    match root {
        Node::Mapping(pairs) => flatten("", pairs, &mut entries),
        Node::Leaf(Value::Null) => {}
        Node::Leaf(other) => {
            return Err(Malformed { line: 1, reason: format!("expected a mapping of keys, got {}", other.kind()) });
        }
    }
    Ok(entries)
}

fn malformed(error: &serde_saphyr::Error) -> Malformed {
    let line = error.location().map_or(0, |location| usize::try_from(location.line()).unwrap_or(0));
    let text = error.without_snippet().to_string();
    // A repeated key is reported with its name, which is safe to show; everything else is cut at its first line.
    Malformed { line, reason: text.lines().next().unwrap_or("not well formed").to_owned() }
}

fn flatten(section: &str, pairs: Vec<(String, usize, Node)>, entries: &mut Vec<Entry>) {
    for (key, line, node) in pairs {
        let key = join(section, &key);
        match node {
            Node::Mapping(inner) => flatten(&key, inner, entries),
            Node::Leaf(value) => entries.push(Entry { key, value, line }),
        }
    }
}

enum Node {
    Leaf(Value),
    /// Key, line, value.
    Mapping(Vec<(String, usize, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Integer(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Integer(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(node) = sequence.next_element::<Node>()? {
            items.push(match node {
                Node::Leaf(value) => value,
                Node::Mapping(_) => Value::Mapping,
            });
        }
        Ok(Node::Leaf(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let node = map.next_value::<Node>()?;
            pairs.push((key.value, usize::try_from(key.referenced.line()).unwrap_or(0), node));
        }
        Ok(Node::Mapping(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_kept() {
        let text = "a: 1000\nb: \"5\"\nc: 1.5\nd: true\ne: [1, {x: 1}]\nf:\ng: -3\nh: 24h\ni: 127.0.0.1:80\nj: no\n";
        let values: Vec<_> = parse(text).expect("good YAML").into_iter().map(|entry| entry.value).collect();
        assert_eq!(
            values,
            [
                Value::Integer(1000),
                Value::Text("5".into()),
                Value::Float(1.5),
                Value::Bool(true),
                Value::List(vec![Value::Integer(1), Value::Mapping]),
                Value::Null,
                Value::Integer(-3),
                Value::Text("24h".into()),
                Value::Text("127.0.0.1:80".into()),
                Value::Text("no".into()),
            ]
        );
    }

    #[test]
    fn an_empty_file_or_section_holds_nothing() {
        assert_eq!(parse("").expect("empty"), []);
        assert_eq!(parse("# only a comment\n").expect("a comment"), []);
        assert_eq!(parse("log: {}\n").expect("an empty section"), []);
    }

    #[test]
    fn what_is_no_mapping_or_too_deep_is_refused() {
        assert!(parse("- 1\n").expect_err("a list").reason.contains("expected a mapping"));
        assert!(parse("5").expect_err("a number").reason.contains("got an integer"));
        let deep = format!("a: {}{}", "[".repeat(1000), "]".repeat(1000));
        parse(&deep).expect_err("too deep");
        parse("a: 1\n---\nb: 2\n").expect_err("two documents");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let row = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{row}]\n"));
        }
        parse(&text).expect_err("nine to the twelfth nodes");
    }
}
