//! What can be wrong with a configuration, each said with key, expected, got and origin.
//!
//! Promise: [`ConfigError`] holds every problem of a load, not only the first, in the order of the layers, and no
//! text in it shows the value of a secret. Built by `config::load` and `config::validate`, printed by the command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The code.
    Default,
    /// A file. `written_as` is the key as it stands there, where that is one of the seeds' names.
    File {
        /// The file.
        path: Arc<Path>,
        /// Line, from 1; 0 where unknown.
        line: usize,
        /// The seeds' name of the key, if that was used.
        written_as: Option<String>,
    },
    /// An environment variable, by name.
    Variable(String),
    /// A flag, by its text on the command line (`--http`, `--set log.level`).
    Flag(String),
}

impl Origin {
    /// Of an HTTP address: whether a seed's spelling of its port set it.
    pub(super) fn is_seeds_port(&self) -> bool {
        match self {
            Origin::File { written_as, .. } => written_as.is_some(),
            Origin::Flag(flag) => flag == "--port",
            Origin::Default | Origin::Variable(_) => false,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line, written_as } => {
                write!(f, "{}", path.display())?;
                if *line > 0 {
                    write!(f, ":{line}")?;
                }
                written_as.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// No key of that name.
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(.suggestion.as_deref()))]
    UnknownKey {
        /// As written.
        key: String,
        /// Where.
        origin: Origin,
        /// The nearest known key, if one is near.
        suggestion: Option<String>,
    },
    /// A value of another type or out of its bounds.
    #[error("{origin}: `{key}`: expected {expected}, got {got}")]
    BadValue {
        /// The key.
        key: String,
        /// What it accepts.
        expected: String,
        /// What stood there; of a secret only its type.
        got: String,
        /// Where.
        origin: Origin,
    },
    /// Two lines of one layer set one key.
    #[error("{second}: `{key}` is already set at {first}")]
    SetTwice {
        /// The key.
        key: String,
        /// Where first.
        first: Origin,
        /// Where again.
        second: Origin,
    },
    /// The value is well formed but does not go with another or with this version.
    #[error("{origin}: `{key}`: {reason}")]
    Refused {
        /// The key.
        key: String,
        /// Where.
        origin: Origin,
        /// Why, and what to do.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        reason: String,
    },
    /// A file is not well formed.
    #[error("{}{}: {reason}", .path.display(), at_line(*.line))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 where unknown.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file's ending names no format that is read.
    #[error("{}: expected a file ending in .yaml, .yml, .toml or .ini, got {got}", .path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its ending.
        got: String,
    },
    /// A `--set` without `=`.
    #[error("--set: expected KEY=VALUE, got {got:?}")]
    BadAssignment {
        /// As given.
        got: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!(":{line}") }
}

/// Everything wrong with a configuration. Never empty.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the layers.
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
