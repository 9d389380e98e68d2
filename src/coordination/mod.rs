//! What the cluster agrees on about itself: a revisioned key-value store with transactions, leases and watches, behind one trait.
//!
//! [`Embedded`] keeps it in the stores of the nodes themselves, equal by Raft; [`Etcd`] in an etcd of its own. What nodes do with it is
//! written once, over the trait: a [`Mirror`] of some keys, the [`registry`] of nodes, an [`election`]. Every change is a compare-and-swap; nobody may
//! rest safety on a read alone, nor on a clock. Keys are relative (`table`, `nodes/000000000000002a`): the implementation puts
//! the cluster's own prefix before them. Called by `cluster`; plugged in by `node`.

mod bounds;
pub mod election;
pub mod embedded;
mod error;
pub mod etcd;
mod mirror;
mod prefix;
pub mod registry;

pub use bounds::{OPERATIONS_MAX, VALUE_BYTES_MAX};
pub use embedded::Embedded;
pub use error::{CoordinationError, WatchError};
pub use etcd::Etcd;
pub use mirror::{Entries, Mirror, Seen};
use serde::{Deserialize, Serialize};
use std::{future::Future, pin::Pin, time::Duration};

/// A boxed future, so that the trait can be used behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A version of the whole store: every transaction that changes something makes the next one.
pub type Revision = u64;

/// A lease: keys bound to it are deleted when it is no longer kept alive. Never 0.
pub type LeaseId = u64;

/// A key, its value, and where the value stands in the history of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// The revision at which the value was written.
    pub revision: Revision,
    /// The revision at which the key was made; it grows when a deleted key is made again, so it fences (`CreatedAt`).
    pub created: Revision,
    /// The lease it dies with.
    pub lease: Option<LeaseId>,
}

/// A condition of a transaction. Stored in the log: the variants of these types keep their order for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key is there and was last written at this revision.
    WrittenAt(String, Revision),
    /// The key is there and was made at this revision, however often it was written since.
    CreatedAt(String, Revision),
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Writes the key, which belongs to no lease then.
    Put(String, Vec<u8>),
    /// Deletes the key, if it is there.
    Delete(String),
    /// Writes the key and binds it to a lease; [`CoordinationError::LeaseGone`] if the lease is not there.
    PutLeased(String, Vec<u8>, LeaseId),
}

/// Changes that happen all at once, if all conditions hold. No key may be changed twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub changes: Vec<Change>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Committed {
    /// All changes happened, at this revision.
    At(Revision),
    /// A condition did not hold; nothing happened.
    Refused,
}

/// The keys below a prefix at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The revision of the store they were read at: [`Coordinator::watch`] after it misses nothing.
    pub revision: Revision,
    /// In the order of their keys.
    pub entries: Vec<KeyValue>,
}

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, or its lease ended, at this revision.
    Delete(String, Revision),
}

impl Event {
    /// The key it happened to.
    pub fn key(&self) -> &str {
        match self {
            Event::Put(kv) => &kv.key,
            Event::Delete(key, _) => key,
        }
    }

    /// When it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put(kv) => kv.revision,
            Event::Delete(_, revision) => *revision,
        }
    }
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptAlive {
    /// It lives this long, counted from before the call was made.
    For(Duration),
    /// It has ended, and its keys with it.
    Gone,
}

/// The events below a prefix after a revision.
pub trait Watch: Send {
    /// Waits for the next events: at least one, in order of their revisions, without a gap and without a duplicate; the events
    /// of one revision come together. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Compacted`: what was to come next is no longer known; list again and watch after that. `Unavailable`: the coordinator
    /// cannot be reached just now; another call goes on where this one stopped (and waits a little before it asks again).
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Event>, WatchError>>;
}

/// The coordinator. Reads are linearizable but for [`Coordinator::remembered`].
pub trait Coordinator: Send + Sync {
    /// The value of a key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>>;

    /// All keys that begin with `prefix`, in order.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>>;

    /// What this node last knew of the keys that begin with `prefix`, in order, asking nobody: to live on while the coordinator
    /// cannot be reached. Never keys of a lease.
    ///
    /// # Errors
    /// `Corrupt`.
    fn remembered(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError>;

    /// Runs a transaction; when it is answered it survives power loss. It is decided at a moment after the call began, also if it has
    /// no changes and only asks whether its conditions hold. What it changed is remembered here, unless this node hears nothing of
    /// it for a while.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>>;

    /// What happens to keys that begin with `prefix` after revision `after`, which [`Coordinator::list`] gave.
    fn watch(&self, prefix: &str, after: Revision) -> Box<dyn Watch>;

    /// A new lease that ends when it was not kept alive for `ttl`. The store may make that longer (etcd: at least its election
    /// timeout and a half, in whole seconds). An `Indeterminate` one ends by itself.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>>;

    /// Keeps a lease alive.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>>;

    /// Ends a lease and deletes its keys. A lease that is gone already is no error.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>>;
}
