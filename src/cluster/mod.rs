//! Who owns what: members, the shard table and the catalog of collections. Called by `service`; loaded by `node`.

pub mod admin;
pub mod catalog;
mod control;
pub mod controller;
pub mod history;
pub mod members;
#[cfg(test)]
mod memory;
pub mod placement;
pub mod plan;
pub mod report;
pub mod table;

pub use catalog::{Aliases, Catalog, Collection, Collections, Giving, Marked};
pub use control::{VERSION_OF_ALIASES, VERSION_OF_SPLITS, spoken_version};
pub use members::{Founded, Labels, MemberRecord, MemberState, Members, SelfTold, WEIGHT_ORDINARY};
pub use placement::Candidate;
pub use table::{NodeId, ShardEntry, ShardId, ShardTable};
