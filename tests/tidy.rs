//! Tidy: the house rules that neither rustc nor clippy can enforce, checked over the source text.
//!
//! It promises that what ARCHITECTURE.md says about the rooms stays true: who may import whom, where `cfg(madsim)` may
//! stand, that every file says what it is, and that clocks, chance, threads, files and sockets come in by their one door.
//! Each rule has a test that shows what it refuses. Run by `cargo test --test tidy`; a complaint reads
//! `file:line: rule: what is wrong; how to mend it`.
//!
//! - `source`: a file split into code, comments and blanks, by a small lexer.
//! - `paths`: the paths a file names, with `use a::{b, c}` groups opened.
//! - `rooms`: the import table, and the doors of the world outside.
//! - `rules`: everything else.
//! - `locks`: the lock file of the fuzz targets.
//! - `exceptions`: the written exceptions, each with its reason.

#[path = "tidy/exceptions.rs"]
mod exceptions;
#[path = "tidy/locks.rs"]
mod locks;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use source::Source;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories whose `.rs` files are checked; those that do not exist are passed over.
const ROOTS: &[&str] = &["src", "sim", "tests", "benches", "examples"];

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Path below the repository root, with `/`.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Short name of the rule, as in `exceptions`.
    pub rule: &'static str,
    /// What is wrong, and how to mend it.
    pub text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.text)
    }
}

/// Every rule over one file, before exceptions.
fn check(source: &Source) -> Vec<Complaint> {
    let mut found = rules::check(source);
    found.extend(rooms::check(source));
    found.sort();
    found
}

#[test]
fn the_tree_is_tidy() {
    let sources = read_tree(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(sources.iter().any(|s| s.path == "src/lib.rs"), "tidy reads the wrong directory");
    for source in &sources {
        if let Some(note) = rules::long_file_note(source) {
            println!("{note}");
        }
    }
    let complaints = exceptions::apply(sources.iter().flat_map(check).collect());
    let report: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
    println!("tidy: {} files, {} complaints", sources.len(), report.len());
    assert!(report.is_empty(), "{} complaints\n{}\n", report.len(), report.join("\n"));
}

/// All Rust files of the repository, in path order.
fn read_tree(root: &Path) -> Vec<Source> {
    let mut files: Vec<PathBuf> = Some(root.join("build.rs")).into_iter().filter(|file| file.exists()).collect();
    for directory in ROOTS {
        collect_rust_files(&root.join(directory), &mut files);
    }
    files.sort();
    files.iter().map(|file| read_source(root, file)).collect()
}

fn read_source(root: &Path, file: &Path) -> Source {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let below_root = file.strip_prefix(root).expect("collected below the root");
    Source::new(&below_root.to_string_lossy().replace('\\', "/"), &text)
}

fn collect_rust_files(directory: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            collect_rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}
