//! Who owns what: slots, the shard table and the catalog of collections. Called by `service`; loaded by `node`.

pub mod catalog;
pub mod slots;
pub mod table;

pub use catalog::{Catalog, Collection};
pub use slots::SlotRange;
pub use table::{NodeId, ShardId};
