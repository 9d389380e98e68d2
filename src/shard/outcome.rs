//! What applying a command did. Called by `machine` (making it) and `replica` (answering with it).

use crate::types::Error;

/// The outcome of one command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It took effect.
    Applied(Applied),
    /// It was refused, the same on every replica, and changed nothing.
    Refused(Error),
}

/// The effect of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Points were written and now have this version.
    Written { version: u64 },
    /// So many points were there and are gone.
    Deleted { count: u64 },
}
