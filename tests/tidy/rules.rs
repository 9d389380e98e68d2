//! The rules about one file that are not about rooms: header, length, `cfg(madsim)`, unfinished work, `unsafe`, `select!`.
//!
//! Called by `tidy` for every file.

use crate::Complaint;
use crate::source::Source;

/// More lines than this in a file of `src/`: refused.
const FILE_LINES_MAX: usize = 600;
/// More lines than this: listed.
const FILE_LINES_NOTED: usize = 400;
/// Fewer bytes than this of header: it says nothing.
const HEADER_BYTES_MIN: usize = 20;

/// All rules of this file over one file.
pub fn check(source: &Source) -> Vec<Complaint> {
    let mut report = Report { source, found: Vec::new() };
    header(&mut report);
    if source.path.starts_with("src/") {
        length(&mut report);
        if !source.path.starts_with("src/rt/") {
            simulation_switch(&mut report);
        }
    }
    if source.path.starts_with("src/") || source.path.starts_with("sim/") {
        unfinished(&mut report);
    }
    unsafety(&mut report);
    selects(&mut report);
    report.found
}

/// A line for the listing, if the file is long but not too long.
pub fn long_file_note(source: &Source) -> Option<String> {
    let lines = source.raw.lines().count();
    let is_noted = source.path.starts_with("src/") && (FILE_LINES_NOTED + 1..=FILE_LINES_MAX).contains(&lines);
    is_noted.then(|| format!("tidy: {}: {lines} lines; look for the noun hiding in it", source.path))
}

struct Report<'a> {
    source: &'a Source,
    found: Vec<Complaint>,
}

impl Report<'_> {
    fn at_line(&mut self, line: usize, rule: &'static str, text: &str) {
        self.found.push(Complaint { file: self.source.path.clone(), line, rule, text: text.to_owned() });
    }

    fn at(&mut self, offset: usize, rule: &'static str, text: &str) {
        self.at_line(self.source.line_of(offset), rule, text);
    }
}

fn header(report: &mut Report) {
    let lines = report.source.raw.lines().map_while(|line| line.strip_prefix("//!"));
    let length: usize = lines.map(|line| line.trim().len()).sum();
    if length < HEADER_BYTES_MIN {
        report.at_line(1, "header", "open the file with `//!`: what it is, what it promises, who calls it");
    }
}

fn length(report: &mut Report) {
    let lines = report.source.raw.lines().count();
    if lines > FILE_LINES_MAX {
        let text = format!("{lines} lines, at most {FILE_LINES_MAX}; move the noun hiding in it to its own file");
        report.at_line(FILE_LINES_MAX + 1, "length", &text);
    }
}

fn simulation_switch(report: &mut Report) {
    let source = report.source;
    for at in source.words("madsim") {
        report.at(at, "madsim", "`madsim` is named only in src/rt; put the difference behind a function there");
    }
}

fn unfinished(report: &mut Report) {
    let source = report.source;
    for name in ["todo", "unimplemented", "dbg"] {
        for at in source.words(name) {
            if source.code[at + name.len()..].trim_start().starts_with('!') {
                report.at(
                    at,
                    "unfinished",
                    &format!("`{name}!` is not for committed code; finish it, or return an error"),
                );
            }
        }
    }
    for (at, _) in source.comments.match_indices("FIXME") {
        report.at(at, "unfinished", "mend it now, or write an issue");
    }
}

fn unsafety(report: &mut Report) {
    let source = report.source;
    let lines = Lines::of(source);
    for at in source.words("unsafe") {
        if promises_nothing(&source.code[at + "unsafe".len()..]) {
            continue;
        }
        if !lines.has_safety_before(source.line_of(at) - 1) {
            report.at(
                at,
                "unsafe",
                "say why it is sound in a `// SAFETY:` comment (`# Safety` for a function) right above",
            );
        }
    }
}

/// Whether what follows `unsafe` makes it a function pointer type or an attribute (`#[unsafe(no_mangle)]`): no block, no
/// function, no implementation.
fn promises_nothing(after: &str) -> bool {
    // The ABI string of `extern "C"` is blanked, as all strings are.
    let words: Vec<&str> = after.split_whitespace().take(2).collect();
    after.starts_with('(')
        || words.first().is_some_and(|word| word.starts_with("fn("))
        || matches!(words.as_slice(), ["extern", next] if next.starts_with("fn("))
}

/// A file by lines.
struct Lines<'a> {
    code: Vec<&'a str>,
    comments: Vec<&'a str>,
}

impl<'a> Lines<'a> {
    fn of(source: &'a Source) -> Lines<'a> {
        Lines { code: source.code.lines().collect(), comments: source.comments.lines().collect() }
    }

    /// Whether the statement on line `at` (from 0) has a safety comment on the line, or right above it or its attributes.
    fn has_safety_before(&self, at: usize) -> bool {
        if self.is_safety(at) {
            return true;
        }
        for above in (0..at).rev() {
            if self.is_safety(above) {
                return true;
            }
            let code = self.code[above].trim();
            let is_comment = code.is_empty() && !self.comments[above].trim().is_empty();
            let is_attribute = code.starts_with("#[") || code == ")]";
            // The statement began further up: `let a =`, an open call, a chained condition.
            let is_opening = ["=", "(", "&&", "||", "=>"].iter().any(|end| code.ends_with(end));
            if !(is_comment || is_attribute || is_opening) {
                return false;
            }
        }
        false
    }

    fn is_safety(&self, line: usize) -> bool {
        let comment = self.comments[line];
        comment.contains("SAFETY:") || comment.contains("# Safety")
    }
}

fn selects(report: &mut Report) {
    let source = report.source;
    for at in source.words("select") {
        let after = source.code[at + "select".len()..].trim_start();
        let Some(body) = after.strip_prefix('!') else { continue };
        let body = body.trim_start().trim_start_matches(['{', '(', '[']).trim_start();
        if !starts_with_biased(body) {
            report.at(at, "select", "begin it with `biased;`: a random order of branches cannot be replayed");
        }
    }
}

fn starts_with_biased(body: &str) -> bool {
    body.strip_prefix("biased").is_some_and(|rest| rest.trim_start().starts_with(';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "//! A file of a test, with a header that says enough.\n";

    fn refused(path: &str, body: &str) -> Vec<(usize, &'static str)> {
        let text = format!("{HEADER}{body}");
        check(&Source::new(path, &text)).into_iter().map(|c| (c.line, c.rule)).collect()
    }

    #[test]
    fn headers() {
        let rules = |text| check(&Source::new("sim/a.rs", text)).len();
        assert_eq!(rules(HEADER), 0);
        assert_eq!(rules("//! A header may be told\n//! on two lines or on more.\n"), 0);
        for text in
            ["", "//! placeholder\n", "fn a() {}\n", "// A comment that is no header, long enough as it may be.\n"]
        {
            assert_eq!(rules(text), 1, "{text:?}");
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(refused("src/a/b.rs", &"\n".repeat(600)), [(601, "length")]);
        assert_eq!(refused("src/a/b.rs", &"\n".repeat(599)), []);
        assert_eq!(refused("tests/b.rs", &"\n".repeat(1000)), []);
        let note = |lines: usize| long_file_note(&Source::new("src/a/b.rs", &"\n".repeat(lines)));
        assert_eq!(note(400), None);
        assert!(note(401).is_some_and(|text| text.contains("src/a/b.rs: 401 lines")));
        assert_eq!(note(601), None);
    }

    #[test]
    fn the_switch_stays_in_rt() {
        for body in [
            "#[cfg(madsim)]\nmod a;",
            "#[cfg(all(test, not(madsim)))]\nmod a;",
            "#![cfg_attr(madsim, allow(dead_code))]",
            "const A: bool = cfg!(madsim);",
            "use madsim::runtime;",
        ] {
            assert_eq!(refused("src/store/a.rs", body), [(2, "madsim")], "{body}");
            assert_eq!(refused("src/rt/a.rs", body), [], "{body}");
            assert_eq!(refused("sim/a.rs", body), [], "{body}");
        }
        assert_eq!(refused("src/store/a.rs", "// under cfg(madsim)\nlet a = \"madsim\";"), []);
    }

    #[test]
    fn unfinished_work() {
        for body in ["todo!()", "unimplemented!(\"x\")", "dbg!(a)", "// FIXME later", "todo! { }"] {
            assert_eq!(refused("src/a/b.rs", body), [(2, "unfinished")], "{body}");
            assert_eq!(refused("sim/b.rs", body), [(2, "unfinished")], "{body}");
        }
        assert_eq!(refused("src/a/b.rs", "let todo = \"todo!()\"; // not a todo!()"), []);
    }

    #[test]
    fn unsafe_without_reasons() {
        for body in [
            "let a = unsafe { b() };",
            "unsafe impl Send for A {}",
            "unsafe fn a() {}",
            "unsafe extern \"C\" { fn a(); }",
            "let a = 1; // SAFETY: about another line\nlet b = 2;\nunsafe { c() };",
        ] {
            assert_eq!(refused("src/a/b.rs", body).iter().map(|c| c.1).collect::<Vec<_>>(), ["unsafe"], "{body}");
        }
    }

    #[test]
    fn unsafe_with_reasons() {
        for body in [
            "// SAFETY: b has no preconditions.\nlet a = unsafe { b() };",
            "// SAFETY: a long reason,\n// on two lines.\nlet a =\n    unsafe { b() };",
            "// SAFETY: the feature was detected.\n#[allow(x)]\nlet a = f(\n    unsafe { b() },\n);",
            "/// # Safety\n/// `a` is not null.\n#[inline]\npub unsafe fn a() {}",
            "#[unsafe(no_mangle)]\npub extern \"C\" fn a() {}",
            "type A = unsafe fn(u8); type B = unsafe extern \"C\" fn(u8);",
            "// unsafe\nlet a = \"unsafe\";",
        ] {
            assert_eq!(refused("src/a/b.rs", body), [], "{body}");
        }
    }

    #[test]
    fn selects_are_biased() {
        assert_eq!(refused("sim/b.rs", "tokio::select! {\n a = b => {}\n}"), [(2, "select")]);
        assert_eq!(refused("src/a/b.rs", "select!(biased_one = b => {})"), [(2, "select")]);
        assert_eq!(refused("src/a/b.rs", "tokio::select! {\n    // first come\n    biased;\n a = b => {}\n}"), []);
        assert_eq!(refused("src/a/b.rs", "let select = !a; x.select(b);"), []);
    }
}
