//! The catalog: which collections there are, under which aliases too, and which shards they have, as the coordinator holds it, with a copy in
//! memory that every request reads without waiting. A change is made in the coordinator only; [`Catalog::read`] sees it, on
//! every node, and [`Catalog::publish`] shows it to requests once the node has followed it. Called by `service`; `node` loads it
//! before serving.

mod aliases;
mod delete;
#[cfg(test)]
mod tests;

pub use aliases::{Aliases, Changed};
pub use delete::Marked;

use super::{
    members::{self, MemberRecord},
    placement::{Candidate, TooFewNodes, place},
    table::{NodeId, ShardId, ShardTable},
};
use crate::{
    coordination::{
        Change, Committed, Compare, CoordinationError, Coordinator, KeyValue, Revision, Transaction, VALUE_BYTES_MAX,
    },
    rt::time,
    types::{CollectionName, CollectionSpec, Error, ErrorKind, PointId, Result, SLOTS, SlotRange, limits, slot_of},
};
use aliases::ALIASES;
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Where the coordinator keeps collections, by name, and the shard table.
pub(super) const COLLECTIONS: &str = "collections/";
pub(super) const TABLE: &str = "table";
/// How long this node may take to hear of what the coordinator already holds, and how often it looks.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);
const CATCH_UP_PAUSE: Duration = Duration::from_millis(5);
/// The same for what was changed by a call here, which cannot be undone by giving up: a copy of the coordinator's keys that was lost is
/// listed again within seconds.
const HEAR_LIMIT: Duration = Duration::from_secs(10);
/// Before the coordinator is read again where what it showed was not so: a member of it that is behind goes on showing that for a while.
const AGAIN_PAUSE: Duration = Duration::from_millis(10);

/// A collection as it is stored, under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CollectionRecord {
    spec: CollectionSpec,
    /// Milliseconds since 1970 by the clock of the node that made it.
    created_ms: u64,
    /// Whether it is being deleted. Its shards are being closed, and whoever sees this goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleting: bool,
}

/// A collection with its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    pub name: CollectionName,
    pub spec: CollectionSpec,
    pub created_ms: u64,
    /// In slot order; together they own every slot, as far as the table says. While slots move, some may have none.
    pub shards: Vec<(ShardId, SlotRange)>,
    /// The moves of slots that are under way.
    pub giving: Vec<Giving>,
    /// Whether it is being deleted: its shards are closed or will be in a moment.
    pub deleting: bool,
    /// The epoch of the shard table that all this is of.
    pub table_epoch: u64,
}

/// Slots that are on their way from one shard to its neighbour, or still or already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Giving {
    pub from: ShardId,
    pub to: ShardId,
    /// All that move, from the first step to the last.
    pub slots: SlotRange,
}

impl Collection {
    /// The shard that owns a point.
    pub fn shard_of(&self, id: PointId) -> ShardId {
        let slot = slot_of(id);
        let i = self.shards.partition_point(|(_, range)| range.end <= slot);
        self.shards[i].0
    }

    /// The shards between which a slot moves: from the first to the second.
    pub fn moving(&self, slot: u16) -> Option<(ShardId, ShardId)> {
        let giving = self.giving.iter().find(|giving| giving.slots.contains(slot))?;
        Some((giving.from, giving.to))
    }

    /// The ids of its shards, in slot order.
    pub fn shard_ids(&self) -> Vec<ShardId> {
        self.shards.iter().map(|(id, _)| *id).collect()
    }
}

/// All collections, by name.
pub type Collections = BTreeMap<CollectionName, Arc<Collection>>;

/// All that the catalog tells, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub collections: Collections,
    pub aliases: Aliases,
}

impl Known {
    /// Whether there is a collection of this name or alias.
    pub fn has(&self, name: &CollectionName) -> bool {
        self.collections.contains_key(self.aliases.get(name).unwrap_or(name))
    }
}

/// See the module.
pub struct Catalog {
    coordinator: Arc<dyn Coordinator>,
    collections: ArcSwap<Collections>,
    aliases: ArcSwap<Aliases>,
    /// The newest table seen.
    table: ArcSwap<ShardTable>,
    hear_limit: Duration,
}

impl Catalog {
    /// Reads the catalog from what this node remembers of the coordinator.
    ///
    /// # Errors
    /// `Corrupt`, from the coordinator.
    pub fn load(coordinator: Arc<dyn Coordinator>) -> Result<Catalog> {
        let (collections, aliases, table) = Default::default();
        let catalog = Catalog { coordinator, collections, aliases, table, hear_limit: HEAR_LIMIT };
        let known = catalog.read()?;
        catalog.publish(known);
        Ok(catalog)
    }

    /// Every collection, by name. Cost: one atomic load.
    pub fn collections(&self) -> Arc<Collections> {
        self.collections.load_full()
    }

    /// One collection, by its own name.
    ///
    /// # Errors
    /// `table_not_found`.
    pub fn collection(&self, name: &CollectionName) -> Result<Arc<Collection>> {
        self.collections.load().get(name).cloned().ok_or_else(|| not_found(name))
    }

    /// One collection, by its own name or an alias; none if this node knows of none. Cost: one or three atomic loads.
    pub fn resolve(&self, name: &CollectionName) -> Option<Arc<Collection>> {
        let collections = self.collections.load();
        // An alias first heard of here may name a collection that was heard of together with it.
        let named = || self.aliases.load().get(name).and_then(|table| self.collections.load().get(table).cloned());
        collections.get(name).cloned().or_else(named)
    }

    /// The newest shard table this node has read. It may be newer than [`Catalog::collections`]. Cost: one atomic load.
    pub fn table(&self) -> Arc<ShardTable> {
        self.table.load_full()
    }

    /// The nodes that shall hold a shard, in order; empty if there is no such shard. Cost: one atomic load.
    pub fn replicas_of(&self, shard: ShardId) -> Vec<NodeId> {
        self.table.load().shards.get(&shard).map_or_else(Vec::new, |entry| entry.replicas.clone())
    }

    /// The slots a shard had when it was made; none if there is no such shard. Cost: one atomic load.
    pub fn born(&self, shard: ShardId) -> SlotRange {
        self.table.load().shards.get(&shard).map_or(SlotRange::NONE, |entry| entry.born)
    }

    /// The greatest shard id ever given out; 0 before the first.
    pub fn last_shard(&self) -> ShardId {
        self.table.load().next_shard
    }

    /// Creates a collection and its shards, placed on those of `nodes` that have not been removed from the cluster meanwhile, in
    /// one transaction. When it returns, [`Catalog::read`] shows it.
    ///
    /// # Errors
    /// `table_exists`, `alias_exists`, `too_many_tables`, `too_many_replicas`, `too_many_shards`, `too_many_shards_here`; `Unavailable` or `Indeterminate` if the coordinator
    /// did not answer; `Indeterminate`, too, if this node does not hear of what it did.
    pub async fn create(
        &self,
        name: &CollectionName,
        spec: CollectionSpec,
        now_ms: u64,
        nodes: &[Candidate],
    ) -> Result<()> {
        loop {
            let key = collection_key(name);
            if let Some(there) = self.stored(&key).await? {
                match self.still(Compare::WrittenAt(key, there.revision)).await? {
                    true => return Err(exists(name, "table_name")),
                    false => continue,
                }
            }
            let (aliases, same_aliases) = self.stored_aliases().await?;
            if let Some(named) = aliases.get(name) {
                match self.still(same_aliases).await? {
                    true => return Err(aliases::alias_exists(name, named)),
                    false => continue,
                }
            }
            if self.read()?.collections.len() >= limits::COLLECTIONS_MAX {
                return Err(Error::new(ErrorKind::Conflict, "too_many_tables", "there are too many tables")
                    .expected(format!("at most {}", limits::COLLECTIONS_MAX)));
            }
            let (mut table, guard) = self.stored_table().await?;
            let nodes = self.not_removed(nodes).await?;
            let placement = place(&nodes, &table, table.next_shard + 1, spec.shards, spec.replicas).map_err(too_few)?;
            table.add_collection(name, spec.replicas, &placement);
            let holders: BTreeSet<NodeId> = placement.into_iter().flatten().collect();
            if let Some(full) = holders.iter().find(|node| table.held_by(**node) > limits::SHARDS_PER_NODE_MAX) {
                return Err(too_many_here(*full, table.held_by(*full)));
            }
            let stored_table = to_json(&table);
            if stored_table.len() > VALUE_BYTES_MAX {
                return Err(Error::new(ErrorKind::Conflict, "too_many_shards", "the cluster's shard table is full")
                    .expected(format!("at most {VALUE_BYTES_MAX} bytes for all shards"))
                    .got(format!("{} bytes", stored_table.len())));
            }
            let record = CollectionRecord { spec: spec.clone(), created_ms: now_ms, deleting: false };
            let transaction = Transaction {
                compares: vec![guard, same_aliases, Compare::Absent(collection_key(name))],
                changes: vec![
                    Change::Put(collection_key(name), to_json(&record)),
                    Change::Put(TABLE.to_owned(), stored_table),
                ],
            };
            if let Some(revision) = self.commit(transaction).await? {
                return self.shown(TABLE, revision).await;
            }
        }
    }

    /// Changes what of a collection's spec may change: `change` gives the new spec, of which vectors and shards stay as they are. When
    /// it returns, [`Catalog::read`] shows that.
    ///
    /// # Errors
    /// `table_not_found`; those of `change`; `Unavailable` or `Indeterminate` as for [`Catalog::create`].
    pub async fn alter(
        &self,
        name: &CollectionName,
        change: impl Fn(CollectionSpec) -> Result<CollectionSpec>,
    ) -> Result<()> {
        loop {
            let (as_read, record) = self.record(name).await?;
            let spec = change(record.spec.clone())?;
            debug_assert!(spec.vectors == record.spec.vectors && spec.shards == record.spec.shards);
            let transaction = Transaction {
                compares: vec![as_read],
                changes: vec![Change::Put(collection_key(name), to_json(&CollectionRecord { spec, ..record }))],
            };
            if let Some(revision) = self.commit(transaction).await? {
                return self.shown(&collection_key(name), revision).await;
            }
        }
    }

    /// Changes the shard table by compare-and-swap; `change` is called again when another change came first.
    ///
    /// # Errors
    /// Those of `change`; `Unavailable` or `Indeterminate` if the coordinator did not answer.
    pub async fn alter_table<T>(&self, mut change: impl FnMut(&mut ShardTable) -> Result<T>) -> Result<T> {
        loop {
            let (mut table, guard) = self.stored_table().await?;
            let changed = change(&mut table)?;
            let changes = vec![Change::Put(TABLE.to_owned(), to_json(&table))];
            if self.commit(Transaction { compares: vec![guard], changes }).await?.is_some() {
                return Ok(changed);
            }
        }
    }

    /// Those of `nodes` that the coordinator now says were not removed. Whoever removes one changes the table too, so that this holds
    /// for as long as a table that was read before is unchanged.
    async fn not_removed(&self, nodes: &[Candidate]) -> Result<Vec<Candidate>> {
        let listed = self.coordinator.list(members::PREFIX).await.map_err(coordination)?;
        let mut removed = BTreeSet::new();
        for kv in &listed.entries {
            if let Some(node) = MemberRecord::node_of(&kv.key)
                && !MemberRecord::decode(&kv.key, &kv.value)?.is_member()
            {
                removed.insert(node);
            }
        }
        Ok(nodes.iter().filter(|node| !removed.contains(&node.id)).cloned().collect())
    }

    /// The revision at which the transaction's changes happened, if its conditions held. If not, it is time to read again when this
    /// returns.
    async fn commit(&self, transaction: Transaction) -> Result<Option<Revision>> {
        match self.coordinator.commit(transaction).await.map_err(coordination)? {
            Committed::At(revision) => Ok(Some(revision)),
            Committed::Refused => {
                time::sleep(AGAIN_PAUSE).await;
                Ok(None)
            }
        }
    }

    /// Waits until this node remembers `key` as new as revision `at`.
    async fn hear_of(&self, key: &str, at: Revision) -> Result<()> {
        loop {
            let known = self.coordinator.remembered(key).map_err(coordination)?;
            if known.iter().any(|known| known.key == key && known.revision >= at) {
                return Ok(());
            }
            time::sleep(CATCH_UP_PAUSE).await;
        }
    }

    /// Waits until this node remembers its own change of `key`, which happened at revision `at`.
    async fn shown(&self, key: &str, at: Revision) -> Result<()> {
        time::timeout(self.hear_limit, self.hear_of(key, at)).await.unwrap_or_else(|elapsed| {
            let message =
                format!("the change was made, but this node has not heard of it from the coordinator: {elapsed}");
            Err(Error::new(ErrorKind::Indeterminate, "outcome_unknown", message))
        })
    }

    /// A collection as the coordinator holds it, and the condition that it has not changed since.
    ///
    /// # Errors
    /// `table_not_found`; `table_is_alias`.
    async fn record(&self, name: &CollectionName) -> Result<(Compare, CollectionRecord)> {
        let key = collection_key(name);
        loop {
            if let Some(stored) = self.stored(&key).await? {
                let record = from_json(&key, &stored.value)?;
                return Ok((Compare::WrittenAt(key, stored.revision), record));
            }
            let (aliases, same_aliases) = self.stored_aliases().await?;
            let compares = vec![Compare::Absent(key.clone()), same_aliases];
            if self.commit(Transaction { compares, changes: Vec::new() }).await?.is_some() {
                return Err(aliases.get(name).map_or_else(|| not_found(name), |named| aliases::is_alias(name, named)));
            }
        }
    }

    /// Whether it is so at a moment after this call began. What a read has shown may be of the past; an answer that ends the matter must not.
    async fn still(&self, compare: Compare) -> Result<bool> {
        Ok(self.commit(Transaction { compares: vec![compare], changes: Vec::new() }).await?.is_some())
    }

    /// Shows these collections to requests, and then their aliases: who finds an alias finds what it names.
    pub fn publish(&self, known: Known) {
        self.collections.store(Arc::new(known.collections));
        self.aliases.store(Arc::new(known.aliases));
    }

    /// Waits until what this node remembers is at least as new as what the coordinator holds now.
    ///
    /// # Errors
    /// `Unavailable` if the coordinator did not answer, or this node has not heard of it within a second.
    pub async fn catch_up(&self) -> Result<()> {
        let (table, aliases) = futures_util::future::try_join(self.stored(TABLE), self.stored(ALIASES)).await?;
        let hear_of_both = async {
            for stored in table.iter().chain(&aliases) {
                self.hear_of(&stored.key, stored.revision).await?;
            }
            Ok(())
        };
        time::timeout(CATCH_UP_LIMIT, hear_of_both).await.unwrap_or_else(|elapsed| {
            Err(Error::new(ErrorKind::Unavailable, "coordinator", format!("the coordinator is ahead: {elapsed}")))
        })
    }

    /// Every collection and every alias, as this node remembers them; nobody is asked.
    ///
    /// # Errors
    /// `Corrupt`, from the coordinator.
    pub fn read(&self) -> Result<Known> {
        // All at once: table, collections and aliases have to be of one moment.
        let mut stored = self.coordinator.remembered("").map_err(coordination)?;
        let table: ShardTable = match stored.iter().find(|kv| kv.key == TABLE) {
            None => ShardTable::default(),
            Some(stored) => from_json(TABLE, &stored.value)?,
        };
        let aliases = aliases::remembered(&stored)?;
        stored.retain(|kv| kv.key.starts_with(COLLECTIONS));
        let mut shards: BTreeMap<&CollectionName, Vec<(ShardId, SlotRange)>> = BTreeMap::new();
        for (id, entry) in &table.shards {
            shards.entry(&entry.collection).or_default().push((*id, entry.slots));
        }
        let mut collections = Collections::new();
        for stored in stored {
            let name = CollectionName::new(&stored.key[COLLECTIONS.len()..])?;
            let record: CollectionRecord = from_json(&stored.key, &stored.value)?;
            let mut shards = shards.remove(&name).unwrap_or_default();
            shards.sort_by_key(|(_, range)| (range.first, range.end));
            let ids = || shards.iter().map(|(id, _)| *id);
            let giving = ids().filter_map(|from| {
                let giving = table.shards.get(&from)?.giving?;
                Some(Giving { from, to: giving.to, slots: giving.slots })
            });
            let giving = giving.collect();
            if !owns_every_slot(&shards) {
                return Err(corrupt(&stored.key, "its shards do not own every slot exactly once"));
            }
            let CollectionRecord { spec, created_ms, deleting } = record;
            let table_epoch = table.epoch;
            let collection = Collection { name: name.clone(), spec, created_ms, shards, giving, deleting, table_epoch };
            collections.insert(name, Arc::new(collection));
        }
        self.saw(table);
        Ok(Known { collections, aliases })
    }

    /// Keeps a table that was read, unless a newer one is known.
    fn saw(&self, table: ShardTable) {
        let table = Arc::new(table);
        self.table.rcu(|known| if known.epoch < table.epoch { table.clone() } else { known.clone() });
    }

    /// A key, as the coordinator holds it now.
    async fn stored(&self, key: &str) -> Result<Option<KeyValue>> {
        self.coordinator.get(key).await.map_err(coordination)
    }

    /// The table as the coordinator holds it now, and the condition that it has not changed since.
    ///
    /// # Errors
    /// `Unavailable` if it is older than the one that is known here: shard ids would be given out a second time.
    async fn stored_table(&self) -> Result<(ShardTable, Compare)> {
        let key = TABLE.to_owned();
        let (table, guard): (ShardTable, Compare) = match self.stored(&key).await? {
            None => (ShardTable::default(), Compare::Absent(key)),
            Some(stored) => (from_json(&key, &stored.value)?, Compare::WrittenAt(key, stored.revision)),
        };
        let (known, found) = (self.table().epoch, table.epoch);
        if found < known {
            let message = format!("the coordinator's shard table has epoch {found}, but epoch {known} was seen here");
            return Err(Error::new(ErrorKind::Unavailable, "coordinator", message));
        }
        Ok((table, guard))
    }
}

fn collection_key(name: &CollectionName) -> String {
    format!("{COLLECTIONS}{name}")
}

fn owns_every_slot(shards: &[(ShardId, SlotRange)]) -> bool {
    shards.first().is_some_and(|(_, range)| range.first == 0)
        && shards.last().is_some_and(|(_, range)| range.end == SLOTS)
        && shards.windows(2).all(|pair| pair[0].1.end == pair[1].1.first)
}

/// The error of whoever asks for a collection that is not there.
pub fn not_found(name: &CollectionName) -> Error {
    Error::new(ErrorKind::NotFound, "table_not_found", "there is no such table").at("table_name").got(name)
}

fn exists(name: &CollectionName, field: &str) -> Error {
    Error::new(ErrorKind::Conflict, "table_exists", "there is a table of this name already").at(field).got(name)
}

fn too_few(TooFewNodes { asked, nodes }: TooFewNodes) -> Error {
    Error::invalid("too_many_replicas", "the copies of a shard are on different nodes, and there are too few")
        .at("replicas")
        .expected(format!("at most {nodes}"))
        .got(asked)
}

fn too_many_here(node: NodeId, replicas: usize) -> Error {
    let message = format!("node {node:016x} would hold too many shards");
    Error::new(ErrorKind::Conflict, "too_many_shards_here", message)
        .at("shards")
        .expected(format!("at most {} replicas of shards on a node", limits::SHARDS_PER_NODE_MAX))
        .got(replicas)
}

fn corrupt(key: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "catalog_corrupt", format!("the coordinator's {key} cannot be used: {why}"))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records of the catalog always encode")
}

fn from_json<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| corrupt(key, error))
}

/// What an error of the coordinator is to a caller.
pub fn coordination(error: CoordinationError) -> Error {
    let kind = match error {
        CoordinationError::Indeterminate(_) => ErrorKind::Indeterminate,
        CoordinationError::Unavailable(_) | CoordinationError::LeaseGone(_) => ErrorKind::Unavailable,
        CoordinationError::Rejected(_) => ErrorKind::Internal,
        CoordinationError::Corrupt(_) => ErrorKind::Corrupt,
    };
    Error::new(kind, "coordinator", error.to_string())
}
