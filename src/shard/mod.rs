//! One shard on one node: commands from its log become effects in store and index; searches and reads over a consistent
//! view; the background work that keeps its indexes fast. Called by `service` and opened by `node`.

mod command;
mod files;
mod filling;
mod host;
mod indexer;
mod machine;
mod open;
mod outcome;
mod payload;
mod read;
mod records;
mod replica;
mod round;
mod search;
mod selection;
mod settings;
mod state;
mod stats;

pub use crate::index::IndexState;
pub use host::Host;
pub use outcome::Applied;
pub use replica::{Parts, Replica, Written};
pub use settings::IndexSettings;
pub use stats::ReplicaStats;
