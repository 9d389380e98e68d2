//! The shard table: which shards there are, which slots and replicas each has. Stored in the coordinator under one key,
//! changed only by compare-and-swap, never recomputed by readers. Called by `catalog` and `controller`, which change it;
//! everybody else reads the snapshot the catalog publishes.

mod stored;

use super::slots::SlotRange;
use crate::types::CollectionName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A shard's id: unique in the cluster, never used again.
pub type ShardId = u64;

/// A node's id.
pub type NodeId = u64;

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    pub collection: CollectionName,
    pub slots: SlotRange,
    /// The nodes that shall be the voters of the shard's group, in order. What the group has now is for its leader to tell.
    pub replicas: Vec<NodeId>,
    /// The nodes that may open the group with a fresh log, as its first voters: those of `replicas` at first, and nobody ever again
    /// after the first change of them. From then on a node without the shard's log is added by its leader, so that a lost disk
    /// can never vote anew.
    pub founders: Vec<NodeId>,
    /// Copies that were asked for; none: as many as is the default for the size of the cluster.
    pub copies: Option<u32>,
    /// Version of the replica set; fences old owners.
    pub epoch: u64,
}

/// All shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "stored::StoredTable", into = "stored::StoredTable")]
pub struct ShardTable {
    /// Version of the whole table.
    pub epoch: u64,
    /// Every shard id up to this one has been given out.
    pub next_shard: ShardId,
    pub shards: BTreeMap<ShardId, ShardEntry>,
}

impl ShardTable {
    /// Adds the shards of a new collection, one for each set of replicas; returns their ids in slot order.
    pub fn add_collection(
        &mut self,
        name: &CollectionName,
        copies: Option<u32>,
        placement: &[Vec<NodeId>],
    ) -> Vec<ShardId> {
        self.epoch += 1;
        let ranges = SlotRange::cut(placement.len() as u32);
        let entries = ranges.into_iter().zip(placement).map(|(slots, replicas)| ShardEntry {
            collection: name.clone(),
            slots,
            replicas: replicas.clone(),
            founders: replicas.clone(),
            copies,
            epoch: self.epoch,
        });
        let first = self.next_shard + 1;
        let ids: Vec<ShardId> = (first..)
            .zip(entries)
            .map(|(id, entry)| {
                self.shards.insert(id, entry);
                id
            })
            .collect();
        self.next_shard += ids.len() as u64;
        ids
    }

    /// Removes the shards of a collection.
    pub fn remove_collection(&mut self, name: &CollectionName) {
        self.epoch += 1;
        self.shards.retain(|_, entry| entry.collection != *name);
    }

    /// Gives a shard other replicas. From then on nobody founds its group. `false`, with nothing changed, if there is no such
    /// shard or these are its replicas already.
    pub fn change_replicas(&mut self, shard: ShardId, mut replicas: Vec<NodeId>) -> bool {
        replicas.sort_unstable();
        replicas.dedup();
        assert!(!replicas.is_empty(), "a shard has a replica");
        let Some(entry) = self.shards.get_mut(&shard) else { return false };
        if entry.replicas == replicas {
            return false;
        }
        self.epoch += 1;
        entry.replicas = replicas;
        entry.founders.clear();
        entry.epoch = self.epoch;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    #[test]
    fn shard_ids_are_never_used_again() {
        let mut table = ShardTable::default();
        let on_nine = |shards| vec![vec![9]; shards];
        assert_eq!(table.add_collection(&name("a"), None, &on_nine(2)), [1, 2]);
        assert_eq!(table.add_collection(&name("b"), None, &on_nine(1)), [3]);
        table.remove_collection(&name("a"));
        assert_eq!(table.shards.keys().copied().collect::<Vec<_>>(), [3]);
        assert_eq!(table.add_collection(&name("a"), None, &on_nine(1)), [4]);
        assert_eq!((table.epoch, table.shards.len()), (4, 2));
    }

    #[test]
    fn the_first_change_of_replicas_ends_founding_for_ever() {
        let mut table = ShardTable::default();
        table.add_collection(&name("a"), Some(2), &[vec![1, 2]]);
        assert!(!table.change_replicas(1, vec![2, 1]) && !table.change_replicas(7, vec![1]));
        assert_eq!(table.shards[&1].founders, [1, 2], "nothing has changed");
        assert!(table.change_replicas(1, vec![3, 1]));
        assert!(table.change_replicas(1, vec![1, 2]));
        let entry = &table.shards[&1];
        assert_eq!((entry.replicas.as_slice(), entry.founders.len(), entry.epoch), ([1, 2].as_slice(), 0, 3));
    }
}
