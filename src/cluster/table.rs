//! The shard table: which shards there are, which slots and replicas each has. Stored in the coordinator under one key,
//! changed only by compare-and-swap, never recomputed by readers. Called by `catalog`.

use super::slots::SlotRange;
use crate::types::CollectionName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A shard's id: unique in the cluster, never used again.
pub type ShardId = u64;

/// A node's id.
pub type NodeId = u64;

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    pub collection: CollectionName,
    pub slots: SlotRange,
    /// The nodes that hold a replica.
    pub replicas: Vec<NodeId>,
    /// Version of the replica set; fences old owners.
    pub epoch: u64,
}

/// All shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardTable {
    /// Version of the whole table.
    pub epoch: u64,
    /// Every shard id below this one has been given out.
    pub next_shard: ShardId,
    pub shards: BTreeMap<ShardId, ShardEntry>,
}

impl ShardTable {
    /// Adds the shards of a new collection, each with a replica on every node of `replicas`; returns their ids in slot order.
    pub fn add_collection(&mut self, name: &CollectionName, shards: u32, replicas: &[NodeId]) -> Vec<ShardId> {
        self.epoch += 1;
        SlotRange::cut(shards)
            .into_iter()
            .map(|slots| {
                self.next_shard += 1;
                let entry =
                    ShardEntry { collection: name.clone(), slots, replicas: replicas.to_vec(), epoch: self.epoch };
                self.shards.insert(self.next_shard, entry);
                self.next_shard
            })
            .collect()
    }

    /// Removes the shards of a collection.
    pub fn remove_collection(&mut self, name: &CollectionName) {
        self.epoch += 1;
        self.shards.retain(|_, entry| entry.collection != *name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_ids_are_never_used_again() {
        let name = |n: &str| CollectionName::new(n).unwrap();
        let mut table = ShardTable::default();
        assert_eq!(table.add_collection(&name("a"), 2, &[9]), [1, 2]);
        assert_eq!(table.add_collection(&name("b"), 1, &[9]), [3]);
        table.remove_collection(&name("a"));
        assert_eq!(table.shards.keys().copied().collect::<Vec<_>>(), [3]);
        assert_eq!(table.add_collection(&name("a"), 1, &[9]), [4]);
        assert_eq!((table.epoch, table.shards.len()), (4, 2));
    }
}
