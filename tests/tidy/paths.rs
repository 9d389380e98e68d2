//! The paths a file names: `a::b::c` as it stands in code, with groups (`use a::{b, c::d}`) opened into one path each and
//! `self::`, `super::`, `crate::` resolved against the module the text stands in.
//!
//! Paths are found in use declarations, expressions, types and macro arguments alike. Names brought in by `use` are not
//! followed: the `use` itself is found, which is enough. Called by `rooms`.

use crate::source::{Source, is_word_byte};

/// One path and where it ends up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    /// Byte offset of its last segment.
    pub offset: usize,
    /// Segments; the first is `crate` for paths within the crate, whichever way they were written. `*` for a glob.
    pub segments: Vec<String>,
    /// Whether a `!` follows: a macro.
    pub is_macro: bool,
}

/// All paths of two or more segments, in the order of the text. Single names are left out: they lead nowhere new.
pub fn named_paths(source: &Source) -> Vec<NamedPath> {
    let mut reader = Reader { code: source.code.as_bytes(), at: 0, found: Vec::new() };
    let mut modules = Modules::of_file(&source.path);
    while reader.at < reader.code.len() {
        match reader.code[reader.at] {
            b'{' => modules.open(),
            b'}' => modules.close(),
            byte if is_word_byte(byte) => {
                let from = reader.found.len();
                reader.path(&mut Vec::new());
                for path in &mut reader.found[from..] {
                    modules.resolve(&mut path.segments);
                }
                modules.word(&reader.found[from..]);
                continue;
            }
            b';' => modules.pending = None,
            _ => {}
        }
        reader.at += 1;
    }
    reader.found.retain(|path| path.segments.len() > 1);
    reader.found
}

struct Reader<'a> {
    code: &'a [u8],
    at: usize,
    found: Vec<NamedPath>,
}

impl Reader<'_> {
    /// Reads one path at the cursor, after the segments in `prefix`, into `found`. The cursor ends past it.
    fn path(&mut self, prefix: &mut Vec<String>) {
        let depth = prefix.len();
        loop {
            let start = self.at;
            if self.peek() == Some(b'*') {
                self.at += 1;
                prefix.push("*".to_owned());
                break self.emit(start, prefix);
            }
            if self.peek() == Some(b'{') {
                break self.group(prefix);
            }
            let Some(name) = self.word() else { break };
            prefix.push(name);
            let past_name = self.at;
            self.blanks();
            if !self.code[self.at..].starts_with(b"::") {
                self.at = past_name;
                break self.emit(start, prefix);
            }
            self.at += 2;
            self.blanks();
            if !matches!(self.peek(), Some(byte) if byte == b'{' || byte == b'*' || is_word_byte(byte)) {
                // Generic arguments (`Vec::<u8>`) or the like: what was read is a path, the rest is other text.
                break self.emit(start, prefix);
            }
        }
        prefix.truncate(depth);
    }

    /// Reads `{a, b::c as d, …}`, each path with `prefix` before it.
    fn group(&mut self, prefix: &mut Vec<String>) {
        self.at += 1;
        let mut is_path_next = true;
        while let Some(byte) = self.peek() {
            match byte {
                b'}' => {
                    self.at += 1;
                    return;
                }
                _ if is_path_next && (byte == b'*' || byte == b'{' || is_word_byte(byte)) => {
                    self.path(prefix);
                    // Until the comma comes only `as name`.
                    is_path_next = false;
                }
                _ => {
                    is_path_next |= byte == b',';
                    self.at += 1;
                }
            }
        }
    }

    fn emit(&mut self, offset: usize, segments: &[String]) {
        let is_macro = self.peek() == Some(b'!') && self.code.get(self.at + 1) != Some(&b'=');
        self.found.push(NamedPath { offset, segments: segments.to_vec(), is_macro });
    }

    fn peek(&self) -> Option<u8> {
        self.code.get(self.at).copied()
    }

    fn word(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek().is_some_and(is_word_byte) {
            self.at += 1;
        }
        let word = String::from_utf8_lossy(&self.code[start..self.at]).into_owned();
        (!word.is_empty()).then_some(word)
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }
}

/// The module the cursor is in: that of the file, and the inline `mod name { … }` around it.
struct Modules {
    path: Vec<String>,
    /// For each open brace, whether it opened a module.
    braces: Vec<bool>,
    /// A `mod` was read; then its name.
    pending: Option<String>,
}

impl Modules {
    fn of_file(path: &str) -> Modules {
        let inside = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
        let mut segments: Vec<String> = inside.split('/').map(str::to_owned).collect();
        if matches!(segments.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            segments.pop();
        }
        Modules { path: segments, braces: Vec::new(), pending: None }
    }

    fn open(&mut self) {
        let name = self.pending.take().filter(|name| !name.is_empty());
        self.braces.push(name.is_some());
        self.path.extend(name);
    }

    fn close(&mut self) {
        if self.braces.pop() == Some(true) {
            self.path.pop();
        }
    }

    /// Follows `mod name`: the state goes from none, over an empty name, to the name.
    fn word(&mut self, read: &[NamedPath]) {
        self.pending = match (self.pending.take(), read) {
            (_, [path]) if path.segments == ["mod"] => Some(String::new()),
            (Some(name), [path]) if name.is_empty() => path.segments.first().cloned(),
            _ => None,
        };
    }

    /// Turns a leading `self::` or `super::…` into `crate::…`.
    fn resolve(&self, segments: &mut Vec<String>) {
        if segments.len() < 2 || !matches!(segments[0].as_str(), "self" | "super") {
            return;
        }
        let own = usize::from(segments[0] == "self");
        let ups = segments.iter().skip(own).take_while(|segment| *segment == "super").count();
        let stay = self.path.len().saturating_sub(ups);
        let tail = segments.split_off(own + ups);
        segments.clear();
        segments.push("crate".to_owned());
        segments.extend_from_slice(&self.path[..stay]);
        segments.extend(tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(file: &str, text: &str) -> Vec<String> {
        named_paths(&Source::new(file, text)).into_iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn groups_are_opened() {
        assert_eq!(
            paths("src/shard/a.rs", "use crate::{store::{self, keys::*}, types as t};\nuse std::fmt;"),
            ["crate::store::self", "crate::store::keys::*", "crate::types", "std::fmt"]
        );
    }

    #[test]
    fn paths_are_found_in_expressions_and_types() {
        assert_eq!(
            paths("src/shard/a.rs", "fn f(a: Vec<crate::store::View>) { std :: mem\n::swap(x, y::<u8>::z()) }"),
            ["crate::store::View", "std::mem::swap"]
        );
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(paths("src/shard/mod.rs", "use super::store::View;"), ["crate::store::View"]);
        assert_eq!(paths("src/shard/apply.rs", "use super::host::Host;"), ["crate::shard::host::Host"]);
        assert_eq!(paths("src/shard/apply.rs", "use super::super::store;"), ["crate::store"]);
        assert_eq!(
            paths(
                "src/shard/apply.rs",
                "mod tests { use super::*; fn a() { {} super::super::super::api::b() } } use super::c;"
            ),
            ["crate::shard::apply::*", "crate::api::b", "crate::shard::c"]
        );
        assert_eq!(paths("src/shard/mod.rs", "pub use self::host::Host; mod a;"), ["crate::shard::host::Host"]);
    }

    #[test]
    fn macros_are_told_apart() {
        let source = Source::new("src/shard/a.rs", "crate::mutant!(3); if a::b != c {}");
        let found = named_paths(&source);
        assert_eq!(found.iter().map(|path| path.is_macro).collect::<Vec<_>>(), [true, false]);
    }
}
