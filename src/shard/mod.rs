//! One shard on one node: commands from its log become effects in store and index; searches and reads over a consistent
//! view; the background work that keeps its indexes fast. Called by `service` and opened by `node`.

mod border;
mod cargo;
mod checkpoint;
mod command;
pub mod commands;
mod content;
mod elsewhere;
mod files;
mod filling;
mod host;
mod indexer;
mod indexes;
mod install;
mod live;
mod machine;
mod mutated;
mod open;
mod outcome;
mod payload;
mod read;
mod records;
mod replica;
mod requests;
mod round;
mod saving;
mod search;
mod selection;
mod settings;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod trust;
mod upkeep;
mod verify;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use cargo::Cargo;
#[cfg(test)]
pub(crate) use cargo::CarriedRequest;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use command::Command;
#[cfg(test)]
pub(crate) use command::{PointWrite, VectorBytes};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use upkeep::Upkeep;
#[cfg(test)]
pub(crate) use upkeep::Work;

pub use crate::index::IndexState;
pub use crate::store::room::Room;
pub use border::{Border, Leaving, add_range};
pub use elsewhere::{Elsewhere, Missed};
pub use host::Host;
pub use outcome::{Applied, Outcome};
pub use replica::{Parts, Replica, Sending, Written};
pub use settings::IndexSettings;
pub use stats::ReplicaStats;
pub use verify::{BUCKETS, Bucket, Damaged, Difference, Recomputed, RecordName, decode_report, encode_report};
