//! Remember. The engine (fjall) behind a narrow API: spaces of ordered keys, atomic batches, consistent views, and a word
//! for how durable a write is. Knows how records are encoded (`keys`), never what they mean. Every file it writes carries
//! a format version and checksums; damaged or newer data is refused and left as it is. Called by `raft`, `shard`,
//! `coordination` and `security`; the roof opens it.

mod batch;
mod birth;
pub mod blocks;
mod bounds;
pub mod directory;
mod engine;
mod error;
pub mod files;
mod journal;
pub mod keys;
pub mod room;
mod view;

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use journal::look as look_at_journal;

pub use batch::{Batch, Durability, KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use directory::DataDir;
pub use engine::{Discipline, JOURNAL_BYTES_MIN, Maintenance, SPACE_NAME_BYTES_MAX, Space, Store, StoreOptions};
pub use error::StoreError;
pub use view::{Direction, Scan, Value, View};
