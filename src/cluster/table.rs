//! The shard table: which shards there are, which slots and replicas each has. Stored in the coordinator under one key,
//! changed only by compare-and-swap, never recomputed by readers. Called by `catalog` and `controller`, which change it;
//! everybody else reads the snapshot the catalog publishes.

mod stored;

use crate::{
    mutants::mutant,
    types::{CollectionName, SlotRange, limits},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A shard's id: unique in the cluster, never used again.
pub type ShardId = u64;

/// A node's id.
pub type NodeId = u64;

/// Shards of all collections beyond which none is split: a table of so many fits one value of the coordinator, whatever their names.
pub const SHARDS_MAX: usize = 10_000;

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    pub collection: CollectionName,
    pub slots: SlotRange,
    /// The slots it had when it was made; what it has now is in its own log, and what it is said to have in `slots`.
    pub born: SlotRange,
    /// The nodes that shall be the voters of the shard's group, in order. What the group has now is for its leader to tell.
    pub replicas: Vec<NodeId>,
    /// The nodes that may open the group with a fresh log, as its first voters: those of `replicas` at first, and nobody ever again
    /// after the first change of them. From then on a node without the shard's log is added by its leader, so that a lost disk
    /// can never vote anew.
    pub founders: Vec<NodeId>,
    /// Copies that were asked for; none: as many as is the default for the size of the cluster.
    pub copies: Option<u32>,
    /// What the shard is giving to a neighbour. How far that is, the two shards' logs tell.
    pub giving: Option<EntryGiving>,
    /// Version of the replica set; fences old owners.
    pub epoch: u64,
}

/// Slots that a shard gives away, and to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryGiving {
    pub to: ShardId,
    pub slots: SlotRange,
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
            born: slots,
            replicas: replicas.clone(),
            founders: replicas.clone(),
            copies,
            giving: None,
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

    /// How many replicas a node holds, or is to hold. Cost: a pass over all shards.
    pub fn held_by(&self, node: NodeId) -> usize {
        self.shards.values().filter(|entry| entry.replicas.contains(&node)).count()
    }

    /// Whether each of `nodes` may be given one more replica.
    pub fn have_room(&self, nodes: &[NodeId]) -> bool {
        nodes.iter().all(|node| self.held_by(*node) < limits::SHARDS_PER_NODE_MAX)
    }

    /// The shards of a collection.
    pub fn shards_of(&self, name: &CollectionName) -> BTreeSet<ShardId> {
        self.shards.iter().filter(|(_, entry)| entry.collection == *name).map(|(id, _)| *id).collect()
    }

    /// Whether one more shard of a collection is allowed: it has fewer than `limits::SHARDS_PER_COLLECTION_MAX`, all together fewer than
    /// [`SHARDS_MAX`].
    pub fn has_room_to_split(&self, name: &CollectionName) -> bool {
        self.shards.len() < SHARDS_MAX && self.shards_of(name).len() < limits::SHARDS_PER_COLLECTION_MAX as usize
    }

    /// Removes the shards of a collection.
    pub fn remove_collection(&mut self, name: &CollectionName) {
        self.epoch += 1;
        self.shards.retain(|_, entry| entry.collection != *name);
        if mutant!(29) {
            self.next_shard = self.shards.keys().next_back().copied().unwrap_or(0);
        }
    }

    /// Begins to split a shard: a new one, on the same nodes, is to have its slots from `at` on. `None`, with nothing changed, if there is
    /// no such shard, one of the collection's is giving slots already, or `at` leaves one of the two without slots.
    pub fn begin_split(&mut self, shard: ShardId, at: u16) -> Option<ShardId> {
        let entry = self.shards.get(&shard).filter(|entry| entry.slots.first < at && at < entry.slots.end)?.clone();
        if self.is_giving(&entry.collection) {
            return None;
        }
        let new = self.next_shard + 1;
        (self.next_shard, self.epoch) = (new, self.epoch + 1);
        let slots = SlotRange { first: at, end: entry.slots.end };
        let giver = ShardEntry { giving: Some(EntryGiving { to: new, slots }), epoch: self.epoch, ..entry.clone() };
        self.shards.insert(shard, giver);
        let founders = entry.replicas.clone();
        let (none, epoch) = (SlotRange::NONE, self.epoch);
        self.shards.insert(new, ShardEntry { slots: none, born: none, founders, giving: None, epoch, ..entry });
        Some(new)
    }

    /// Begins to merge a shard into its neighbour `to`, which is to have all its slots. `false`, with nothing changed, if they are no
    /// neighbours of one collection, or one of its shards is giving slots already.
    pub fn begin_merge(&mut self, shard: ShardId, to: ShardId) -> bool {
        let Some((from, into)) = self.shards.get(&shard).zip(self.shards.get(&to)) else { return false };
        let is_beside = !from.slots.is_empty() && !into.slots.is_empty() && into.slots.with(from.slots).is_some();
        if from.collection != into.collection || !is_beside || self.is_giving(&from.collection) {
            return false;
        }
        let giving = Some(EntryGiving { to, slots: from.slots });
        self.epoch += 1;
        let epoch = self.epoch;
        self.shards.entry(shard).and_modify(|entry| (entry.giving, entry.epoch) = (giving, epoch));
        true
    }

    /// Ends the move of a shard's slots, which are all where they were to go: the shard is no more if it has none left. `false`, with
    /// nothing changed, if it gives none.
    pub fn end_giving(&mut self, shard: ShardId) -> bool {
        let Some((mut from, giving)) = self.shards.get(&shard).and_then(|entry| Some((entry.clone(), entry.giving?)))
        else {
            return false;
        };
        let taken = self.shards.get(&giving.to).and_then(|to| to.slots.with(giving.slots));
        let Some((left, taken)) = from.slots.without(giving.slots).zip(taken) else { return false };
        self.epoch += 1;
        let epoch = self.epoch;
        self.shards.entry(giving.to).and_modify(|to| (to.slots, to.epoch) = (taken, epoch));
        (from.slots, from.giving, from.epoch) = (left, None, epoch);
        match left.is_empty() {
            true => drop(self.shards.remove(&shard)),
            false => drop(self.shards.insert(shard, from)),
        }
        true
    }

    /// Whether a shard of the collection is giving slots.
    pub fn is_giving(&self, collection: &CollectionName) -> bool {
        self.shards.values().any(|entry| entry.collection == *collection && entry.giving.is_some())
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
    fn a_collection_is_split_up_to_its_bound() {
        let most = limits::SHARDS_PER_COLLECTION_MAX as usize;
        let mut table = ShardTable::default();
        table.add_collection(&name("a"), None, &vec![vec![1]; most - 1]);
        table.add_collection(&name("b"), None, &[vec![1]]);
        assert!(table.has_room_to_split(&name("a")));
        assert!(table.begin_split(1, 3).is_some());
        assert!(!table.has_room_to_split(&name("a")) && table.has_room_to_split(&name("b")));
    }

    fn slots(table: &ShardTable) -> Vec<(ShardId, u16, u16)> {
        table.shards.iter().map(|(id, entry)| (*id, entry.slots.first, entry.slots.end)).collect()
    }

    #[test]
    fn a_shard_is_split_and_merged_again() {
        let mut table = ShardTable::default();
        table.add_collection(&name("a"), Some(2), &[vec![1, 2]]);
        assert_eq!(
            (table.begin_split(1, 0), table.begin_split(1, 16_384), table.begin_split(7, 5)),
            (None, None, None)
        );
        assert_eq!((table.epoch, table.end_giving(1)), (1, false));
        assert_eq!(table.begin_split(1, 4_000), Some(2));
        assert_eq!(slots(&table), [(1, 0, 16_384), (2, 0, 0)], "until they are there");
        let new = &table.shards[&2];
        assert_eq!(
            (&new.founders, &new.replicas, new.born, new.giving),
            (&vec![1, 2], &vec![1, 2], SlotRange::NONE, None)
        );
        assert_eq!((table.begin_split(1, 2_000), table.begin_merge(2, 1)), (None, false), "one move at a time");
        let stored = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<ShardTable>(&stored).unwrap(), table);
        assert!(table.end_giving(1) && !table.end_giving(1));
        assert_eq!(slots(&table), [(1, 0, 4_000), (2, 4_000, 16_384)]);
        assert_eq!(table.begin_split(2, 9_000), Some(3));
        assert!(table.end_giving(2));
        assert!(!table.begin_merge(1, 3) && !table.begin_merge(1, 1) && !table.begin_merge(1, 9), "no neighbours");
        assert!(table.begin_merge(2, 1) && table.end_giving(2));
        assert_eq!(slots(&table), [(1, 0, 9_000), (3, 9_000, 16_384)], "what has no slots is no more");
        let stored = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<ShardTable>(&stored).unwrap(), table);
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
