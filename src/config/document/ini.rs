//! INI as the seeds' `conf/master.ini` writes it: `[section]` lines, `key = value` lines, comments after `#` or `;`.
//!
//! Promise: a comment starts at the beginning of a line or after white space, so a value may contain `#`; one pair of
//! quotes around a value is taken off and what is inside is kept as it is. Values are text without a type. Called by
//! `config::document`.

use super::{Entry, Malformed, join};
use crate::config::value::Value;

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Malformed> {
    let mut section = String::new();
    let mut entries = Vec::new();
    // Editors of the seeds' platform put a byte-order mark in front.
    for (position, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line_number = position + 1;
        let malformed = |reason: &str| Malformed { line: line_number, reason: reason.to_owned() };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = without_comment(rest).strip_suffix(']').map(str::trim).filter(|name| !name.is_empty());
            section = name.ok_or_else(|| malformed("expected [section]"))?.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| malformed("expected [section] or key = value"))?;
        let key = key.trim();
        if key.is_empty() {
            return Err(malformed("expected a key before ="));
        }
        let value = Value::Bare(unquoted(value.trim()).to_owned());
        entries.push(Entry { key: join(&section, key), value, line: line_number });
    }
    Ok(entries)
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some((inside, rest)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote))
            && without_comment(rest).is_empty()
        {
            return inside;
        }
    }
    without_comment(value)
}

fn without_comment(value: &str) -> &str {
    let starts_comment =
        |&(at, c): &(usize, char)| "#;".contains(c) && value[..at].chars().next_back().is_none_or(char::is_whitespace);
    let end = value.char_indices().find(starts_comment).map_or(value.len(), |(at, _)| at);
    value[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        match parse(text).expect("good INI").remove(0).value {
            Value::Bare(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn comments_end_a_value_only_after_white_space() {
        assert_eq!(one("a = 2147483648          # 2 GiB"), "2147483648");
        assert_eq!(one("a = p#ss;word"), "p#ss;word");
        assert_eq!(one("a = \"x # y\" ; note"), "x # y");
        assert_eq!(one("a = 'x"), "'x");
        assert_eq!(one("a ="), "");
        assert_eq!(one("a = # nothing"), "");
    }

    #[test]
    fn keys_carry_section_and_line() {
        let entries = parse("\u{feff}; top\n[server] # s\nport=8080\r\n\n[cache]\nmax = 1\n").expect("good INI");
        let list: Vec<_> = entries.iter().map(|entry| (entry.key.as_str(), entry.line)).collect();
        assert_eq!(list, [("server.port", 3), ("cache.max", 6)]);
    }

    #[test]
    fn broken_lines_are_refused_with_their_number() {
        for (text, line) in [("[open", 1), ("a = 1\n[]", 2), ("\nnothing", 2), ("= 5", 1)] {
            assert_eq!(parse(text).expect_err(text).line, line, "{text}");
        }
    }
}
