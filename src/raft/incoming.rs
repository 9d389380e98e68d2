//! A checkpoint on its way into one group: being fetched, lying here whole, or being installed. One at a time. Owned by
//! `member`.

use super::checkpoints::Fetched;
use super::log::Members;
use super::{GroupId, LogIndex};
use std::path::PathBuf;

/// See the module.
#[derive(Debug, Default)]
pub(super) enum Incoming {
    /// None is on its way.
    #[default]
    None,
    /// Another member gives it.
    Fetching,
    /// It lies here whole; the group has not made use of it yet.
    Here { index: LogIndex, term: u64, members: Members, path: PathBuf },
    /// The log has begun anew behind it, which is on its way to the disk.
    Adopted { path: PathBuf },
    /// The state machine takes it in.
    Installing,
}

impl Incoming {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Incoming::None)
    }

    /// Whether a fetch may begin now; then it has.
    pub(super) fn begin(&mut self) -> bool {
        let may = self.is_none();
        if may {
            *self = Incoming::Fetching;
        }
        may
    }

    /// A fetch ended well. The file, if it is of no use.
    pub(super) fn fetched(&mut self, group: GroupId, fetched: Fetched) -> Option<PathBuf> {
        let Fetched { head, path } = fetched;
        let members = match Members::decode(group, &head.members) {
            Ok(members) if !members.voters.is_empty() => members,
            _ => {
                tracing::warn!(group, index = head.index, "a checkpoint without members is dropped");
                *self = Incoming::None;
                return Some(path);
            }
        };
        *self = Incoming::Here { index: head.index, term: head.term, members, path };
        None
    }

    /// Index, term and members of the one that lies here unused.
    pub(super) fn here(&self) -> Option<(LogIndex, u64, Members)> {
        match self {
            Incoming::Here { index, term, members, .. } => Some((*index, *term, members.clone())),
            _ => None,
        }
    }

    /// The log begins anew behind it.
    pub(super) fn adopted(&mut self) {
        if let Incoming::Here { path, .. } = std::mem::take(self) {
            *self = Incoming::Adopted { path };
        }
    }

    /// The state machine takes it in, from this file.
    ///
    /// # Panics
    /// If there is none: the library asks for a state that nobody brought.
    pub(super) fn install(&mut self) -> PathBuf {
        match std::mem::replace(self, Incoming::Installing) {
            Incoming::Here { path, .. } | Incoming::Adopted { path } => path,
            other => panic!("a state is to be installed, but the checkpoint is {other:?}"),
        }
    }

    /// It is of no use: the file to remove.
    pub(super) fn drop_file(&mut self) -> Option<PathBuf> {
        match std::mem::take(self) {
            Incoming::Here { path, .. } => Some(path),
            other => {
                *self = other;
                None
            }
        }
    }
}
