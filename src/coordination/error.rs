//! What can go wrong with the coordinator, told apart by what the caller may conclude. Called by both implementations.

use super::{LeaseId, Revision};

/// Why the coordinator gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinationError {
    /// The change may or may not have happened.
    #[error("the coordinator did not answer; the change may or may not have happened: {0}")]
    Indeterminate(String),
    /// Nothing happened; the same change may go through later.
    #[error("the coordinator cannot be reached; nothing was changed: {0}")]
    Unavailable(String),
    /// A key was to be bound to a lease that has ended; nothing happened.
    #[error("the lease {0:016x} has ended; nothing was changed")]
    LeaseGone(LeaseId),
    /// It can never be done as it was asked; nothing happened.
    #[error("the coordinator does not take this: {0}")]
    Rejected(String),
    /// What is stored cannot be read.
    #[error("the coordinator's data cannot be read: {0}")]
    Corrupt(String),
}

/// Why a watch has no next events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// What happened up to and at revision `oldest` is no longer known one by one: list again.
    #[error("changes up to revision {oldest} are no longer kept one by one")]
    Compacted {
        /// Watching after this revision, or a later one, would still do.
        oldest: Revision,
    },
    /// The coordinator cannot be reached just now.
    #[error("the coordinator cannot be reached: {0}")]
    Unavailable(String),
    /// What is stored cannot be read.
    #[error("the coordinator's data cannot be read: {0}")]
    Corrupt(String),
}
