//! What the cluster agrees on about itself: a revisioned key-value store with transactions, behind one trait.
//!
//! [`Embedded`] keeps it in the stores of the nodes themselves, equal by Raft. Every change is a compare-and-swap; nobody may
//! rest safety on a read alone. Called by `cluster`; plugged in by `node`.

pub mod embedded;

pub use embedded::Embedded;
use serde::{Deserialize, Serialize};
use std::{future::Future, pin::Pin};

/// A boxed future, so that the trait can be used behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key, its value, and the revision of the store at which the value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: u64,
}

/// A condition of a transaction. Stored in the log: the variants of these types keep their order for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key is there and was last written at this revision.
    WrittenAt(String, u64),
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Put(String, Vec<u8>),
    Delete(String),
}

/// Changes that happen all at once, if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub changes: Vec<Change>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Committed {
    /// All changes happened, at this revision.
    At(u64),
    /// A condition did not hold; nothing happened.
    Refused,
}

/// Why the coordinator gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CoordinationError {
    /// The change may or may not have happened.
    #[error("the coordinator did not answer; the change may or may not have happened: {0}")]
    Indeterminate(String),
    /// Nothing happened; the same change may go through later.
    #[error("the coordinator cannot be reached; nothing was changed: {0}")]
    Unavailable(String),
    /// What is stored cannot be read.
    #[error("the coordinator's data cannot be read: {0}")]
    Corrupt(String),
}

/// The coordinator.
pub trait Coordinator: Send + Sync {
    /// The value of a key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>>;

    /// All keys that begin with `prefix`, in order.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<KeyValue>, CoordinationError>>;

    /// Runs a transaction; when it is answered it survives power loss.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>>;
}
