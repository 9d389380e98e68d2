//! What can go wrong in the store, told apart by what the caller should do. Everything the engine reports passes through
//! [`StoreError::from_engine`], so no other file knows the engine's error types.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of the store. Nothing is ever overwritten or deleted because of one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Stored bytes are not what was written. A person must look.
    #[error("{}: corrupt: {detail}", path.display())]
    Corrupt {
        /// The file or directory that holds the bad bytes.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// The data was written by a newer version of the program.
    #[error("{}: data format {found} is newer than this program's ({supported}); use a newer program", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this program reads.
        supported: u32,
    },
    /// Another process holds the data directory.
    #[error("data directory {} is in use by {}", path.display(), holder(*pid))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it, as far as its lock file tells.
        pid: Option<u32>,
    },
    /// A directory that is not empty and was not made by this program.
    #[error("{} is not empty and is not a data directory of this program; it is left as it is", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The disk is full (or a quota is reached).
    #[error("{}: no space left on the disk", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// An earlier write or sync failed, so what is on the disk is not known. No write is taken until a restart.
    #[error("an earlier write to {} failed; the node must be restarted", path.display())]
    Poisoned {
        /// The database.
        path: PathBuf,
    },
    /// The store has as many spaces as the engine is sure to open again. Nothing was made.
    #[error("{}: there are {max} spaces already, and the storage engine would not open more", path.display())]
    TooManySpaces {
        /// The database.
        path: PathBuf,
        /// How many there may be.
        max: usize,
    },
    /// A key, value or name outside the engine's bounds. Nothing was written.
    #[error("{field}: {got} bytes, expected {expected}")]
    OutOfBounds {
        /// What is too long or too short.
        field: &'static str,
        /// Its length.
        got: usize,
        /// The bounds.
        expected: &'static str,
    },
    /// The operating system refused.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StoreError {
    /// A failed system call on `path`; a full disk gets its own kind.
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { path: path.into() },
            _ => StoreError::Io { path: path.into(), action, source },
        }
    }

    /// Bad bytes in `path`.
    pub fn corrupt(path: &Path, detail: impl Into<String>) -> StoreError {
        StoreError::Corrupt { path: path.into(), detail: detail.into() }
    }

    /// An error of the engine while doing `action` on `path`.
    pub(super) fn from_engine(path: &Path, action: &'static str, error: fjall::Error) -> StoreError {
        match error {
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
                Self::io(path, action, source)
            }
            fjall::Error::Poisoned => StoreError::Poisoned { path: path.into() },
            fjall::Error::Locked => StoreError::InUse { path: path.into(), pid: None },
            other => Self::corrupt(path, format!("{action}: {other}")),
        }
    }
}
