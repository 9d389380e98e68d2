//! A configuration file as a flat list of entries: dotted key, value, line.
//!
//! Promise: whatever the format (YAML, TOML, INI; chosen by the file's ending), the result is the same list, in the
//! order of the file, with the line of each key; a file of more than [`FILE_BYTES_MAX`] or not well formed is a
//! [`Problem`], and the text of such a problem repeats no line of the file (it may hold a secret). Called by
//! `config::load`.

mod ini;
mod toml;
mod yaml;

use std::path::Path;

use super::error::Problem;
use super::value::Value;

/// Largest configuration file read.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// One `key: value` of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Dotted name as it stands in the file.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Line of the key or value, from 1; 0 where unknown.
    pub line: usize,
}

/// A syntax error inside a file.
#[derive(Debug, PartialEq)]
struct Malformed {
    line: usize,
    reason: String,
}

/// Reads `text` in the format that `path` ends in.
///
/// # Errors
/// [`Problem::UnknownFormat`] or [`Problem::Malformed`].
pub fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, Problem> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    if text.len() > FILE_BYTES_MAX {
        let reason = format!("expected at most {FILE_BYTES_MAX} bytes, got {}", text.len());
        return Err(Problem::Malformed { path: path.to_owned(), line: 0, reason });
    }
    let parsed = match ending.as_deref() {
        Some("yaml" | "yml") => yaml::parse(text),
        Some("toml") => toml::parse(text),
        Some("ini" | "conf") => ini::parse(text),
        other => {
            let got = other.map_or_else(|| "none".to_owned(), |ending| format!(".{ending}"));
            return Err(Problem::UnknownFormat { path: path.to_owned(), got });
        }
    };
    parsed.map_err(|Malformed { line, reason }| Problem::Malformed { path: path.to_owned(), line, reason })
}

/// Joins a section's name and a key's.
fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(entries: Vec<Entry>) -> Vec<(String, String, usize)> {
        entries.into_iter().map(|entry| (entry.key, entry.value.to_string(), entry.line)).collect()
    }

    #[test]
    fn three_formats_give_one_list() {
        let yaml = "mode: auto\n\nlisten:\n  http: [\"a\", \"b\"]\n  grpc: \"c\"\netcd:\n  tls:\n    ca_file: x\n";
        let toml = "mode = \"auto\"\n\n[listen]\nhttp = [\"a\", \"b\"]\ngrpc = \"c\"\n[etcd.tls]\n\nca_file = \"x\"\n";
        let ini = "mode = auto\n\n[listen]\nhttp = a,b\ngrpc = c\n[etcd.tls]\n\nca_file = x\n";
        let list = simple(parse(Path::new("a.yaml"), yaml).expect("good YAML"));
        assert_eq!(
            list,
            [
                ("mode".into(), "\"auto\"".into(), 1),
                ("listen.http".into(), "[\"a\",\"b\"]".into(), 4),
                ("listen.grpc".into(), "\"c\"".into(), 5),
                ("etcd.tls.ca_file".into(), "\"x\"".into(), 8),
            ]
        );
        assert_eq!(simple(parse(Path::new("a.TOML"), toml).expect("good TOML")), list);
        let mut ini = simple(parse(Path::new("a.ini"), ini).expect("good INI"));
        assert_eq!(ini[1].1, "\"a,b\"", "an INI file knows no lists; the reading type splits");
        ini[1].1 = list[1].1.clone();
        assert_eq!(ini, list);
    }

    #[test]
    fn other_endings_and_oversized_files_are_refused() {
        for (path, got) in [("a.json", ".json"), ("a", "none")] {
            let problem = parse(Path::new(path), "").expect_err("no known format");
            assert_eq!(problem, Problem::UnknownFormat { path: path.into(), got: got.into() });
        }
        let problem = parse(Path::new("a.yaml"), &"#".repeat(FILE_BYTES_MAX + 1)).expect_err("too large");
        assert!(problem.to_string().contains("expected at most 1048576 bytes, got 1048577"), "{problem}");
    }

    #[test]
    fn malformed_files_name_their_line_and_hide_their_text() {
        for (path, text, line) in [
            ("a.yaml", "a: 1\npassword: \"hunter2\n", 2..=3),
            ("a.yaml", "password: hunter2\npassword: hunter2\n", 2..=2),
            ("a.toml", "a = 1\npassword = hunter2\n", 2..=2),
            ("a.ini", "a = 1\nhunter2\n", 2..=2),
        ] {
            match parse(Path::new(path), text).expect_err(text) {
                Problem::Malformed { line: got, reason, .. } => {
                    assert!(line.contains(&got), "{path}: line {got}: {reason}");
                    assert!(!reason.contains("hunter2") && !reason.contains('\n'), "{reason}");
                }
                other => panic!("{other}"),
            }
        }
    }
}
