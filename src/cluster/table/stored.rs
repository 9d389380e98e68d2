//! How the shard table is stored: as JSON, small enough that ten thousand shards fit one value of the coordinator. Nodes are listed
//! once and named by their place in that list, shards stand under their collection. Called by `table`.

use super::{EntryGiving, NodeId, ShardEntry, ShardId, ShardTable, SlotRange};
use crate::types::CollectionName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A table as any version has stored it.
#[derive(Serialize, Deserialize)]
pub struct StoredTable {
    epoch: u64,
    next_shard: ShardId,
    #[serde(default)]
    nodes: Vec<NodeId>,
    #[serde(default)]
    collections: BTreeMap<CollectionName, StoredCollection>,
    /// What the first version stored instead of nodes and collections.
    #[serde(default, skip_serializing)]
    shards: BTreeMap<ShardId, FirstEntry>,
}

#[derive(Default, Serialize, Deserialize)]
struct StoredCollection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copies: Option<u32>,
    shards: Vec<StoredShard>,
}

/// Id, first slot, slot after the last, epoch, whether the replicas are the founders (1 or 0), replicas; then, if slots of it
/// have moved, what is to know of that.
#[derive(Serialize, Deserialize)]
struct StoredShard(
    ShardId,
    u16,
    u16,
    u64,
    u8,
    Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<Moved>,
);

/// What is to know of a shard of which slots have moved.
#[derive(Serialize, Deserialize)]
struct Moved {
    /// The first slot when it was made, and the one after the last.
    born: (u16, u16),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    giving: Option<EntryGiving>,
}

/// The replicas were the first voters.
#[derive(Deserialize)]
struct FirstEntry {
    collection: CollectionName,
    slots: SlotRange,
    replicas: Vec<NodeId>,
    epoch: u64,
}

impl TryFrom<StoredTable> for ShardTable {
    type Error = String;

    fn try_from(stored: StoredTable) -> Result<ShardTable, String> {
        let StoredTable { epoch, next_shard, nodes, collections, shards } = stored;
        let mut table = ShardTable { epoch, next_shard, shards: BTreeMap::new() };
        table.shards.extend(shards.into_iter().map(|(id, first)| (id, first.into())));
        for (collection, stored) in collections {
            for StoredShard(id, first, end, epoch, founding, replicas, stated) in stored.shards {
                let named = replicas.iter().map(|place| nodes.get(*place).copied());
                let replicas: Option<Vec<NodeId>> = named.collect();
                let replicas = replicas.ok_or_else(|| format!("shard {id} is on a node that is not listed"))?;
                let (born_first, born_end) = stated.as_ref().map_or((first, end), |moved| moved.born);
                let born = SlotRange::new(born_first, born_end);
                let born =
                    born.ok_or_else(|| format!("shard {id} was made with the slots {born_first}..{born_end}"))?;
                let giving = stated.as_ref().and_then(|moved| moved.giving);
                if first > end || (first == end && stated.is_none()) || id > next_shard {
                    return Err(format!("shard {id} has the slots {first}..{end}; the last id is {next_shard}"));
                }
                let founders = if founding == 0 { Vec::new() } else { replicas.clone() };
                let (collection, slots, copies) = (collection.clone(), SlotRange { first, end }, stored.copies);
                table
                    .shards
                    .insert(id, ShardEntry { collection, slots, born, replicas, founders, copies, giving, epoch });
            }
        }
        Ok(table)
    }
}

impl From<FirstEntry> for ShardEntry {
    fn from(first: FirstEntry) -> ShardEntry {
        let FirstEntry { collection, slots, replicas, epoch } = first;
        ShardEntry {
            collection,
            slots,
            born: slots,
            founders: replicas.clone(),
            replicas,
            copies: None,
            giving: None,
            epoch,
        }
    }
}

impl From<ShardTable> for StoredTable {
    fn from(table: ShardTable) -> StoredTable {
        let mut nodes: Vec<NodeId> = table.shards.values().flat_map(|entry| entry.replicas.iter().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let place = |id: &NodeId| nodes.binary_search(id).expect("every node is listed");
        let mut collections: BTreeMap<CollectionName, StoredCollection> = BTreeMap::new();
        for (id, entry) in table.shards {
            assert!(
                entry.founders.is_empty() || entry.founders == entry.replicas,
                "shard {id} is founded by its replicas or by nobody"
            );
            let collection = collections.entry(entry.collection).or_default();
            collection.copies = entry.copies;
            let replicas = entry.replicas.iter().map(place).collect();
            let founding = u8::from(!entry.founders.is_empty());
            let SlotRange { first, end } = entry.slots;
            let (born, giving) = ((entry.born.first, entry.born.end), entry.giving);
            let has_moved = entry.born != entry.slots || entry.slots.is_empty() || giving.is_some();
            let moved = has_moved.then_some(Moved { born, giving });
            collection.shards.push(StoredShard(id, first, end, entry.epoch, founding, replicas, moved));
        }
        let (epoch, next_shard) = (table.epoch, table.next_shard);
        StoredTable { epoch, next_shard, nodes, collections, shards: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> ShardTable {
        let mut table = ShardTable::default();
        let name = |name| CollectionName::new(name).unwrap();
        table.add_collection(&name("a"), Some(2), &[vec![5, u64::MAX], vec![5, 6]]);
        table.add_collection(&name("b"), None, &[vec![6]]);
        table.change_replicas(2, vec![6]);
        table
    }

    #[test]
    fn the_stored_form_never_changes() {
        let golden = concat!(
            r#"{"epoch":3,"next_shard":3,"nodes":[5,6,18446744073709551615],"collections":{"#,
            r#""a":{"copies":2,"shards":[[1,0,8192,1,1,[0,2]],[2,8192,16384,3,0,[1]]]},"#,
            r#""b":{"shards":[[3,0,16384,2,1,[1]]]}}}"#
        );
        assert_eq!(serde_json::to_string(&table()).unwrap(), golden);
        assert_eq!(serde_json::from_str::<ShardTable>(golden).unwrap(), table());
        let none = serde_json::to_string(&ShardTable::default()).unwrap();
        assert_eq!(serde_json::from_str::<ShardTable>(&none).unwrap(), ShardTable::default());
    }

    #[test]
    fn the_first_form_can_be_read() {
        let first = r#"{"epoch":1,"next_shard":1,"shards":{"1":
            {"collection":"a","slots":{"first":0,"end":16384},"replicas":[5,6],"epoch":1}}}"#;
        let table: ShardTable = serde_json::from_str(first).unwrap();
        let entry = &table.shards[&1];
        assert_eq!((&entry.founders, &entry.replicas, entry.copies), (&vec![5, 6], &vec![5, 6], None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = serde_json::to_string(&table()).unwrap();
        for (from, to) in [("[0,2]", "[0,3]"), ("8192,16384", "16384,16384"), ("\"next_shard\":3", "\"next_shard\":2")]
        {
            let bad = good.replacen(from, to, 1);
            assert!(bad != good && serde_json::from_str::<ShardTable>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ten_thousand_shards_fit_one_value() {
        let mut table = ShardTable::default();
        let nodes: Vec<Vec<NodeId>> =
            (0..1000).map(|i| vec![u64::MAX - i % 97, u64::MAX - 100, u64::MAX - 101]).collect();
        for i in 0..10 {
            table.add_collection(&CollectionName::new(format!("collection-{i}")).unwrap(), Some(3), &nodes);
        }
        let bytes = serde_json::to_vec(&table).unwrap().len();
        assert!(bytes < crate::coordination::VALUE_BYTES_MAX / 2, "{bytes} bytes");
    }
}
