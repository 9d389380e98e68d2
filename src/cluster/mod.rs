//! Who owns what: members, slots, the shard table and the catalog of collections. Called by `service`; loaded by `node`.

pub mod catalog;
mod members;
pub mod placement;
pub mod slots;
pub mod table;

pub use catalog::{Catalog, Collection, Collections};
pub use members::Members;
pub use placement::Candidate;
pub use slots::SlotRange;
pub use table::{NodeId, ShardEntry, ShardId, ShardTable};
