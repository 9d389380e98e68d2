//! Aliases: other names of collections. All of them are one record of the coordinator's, so that several change at once, a node knows
//! them as of one moment, and whoever makes or deletes a collection can make it a condition that they are as it has read them. Only
//! names of collections stand behind them, never aliases. Called by `service`; the rest of the catalog asks here what a name is.

use super::{Catalog, CollectionRecord, coordination, corrupt, from_json, not_found, to_json};
use crate::{
    cluster::{
        NodeId,
        control::{self, VERSION, VERSION_OF_ALIASES},
        members::{self, MemberRecord},
    },
    coordination::{Change, Compare, OPERATIONS_MAX, Transaction, VALUE_BYTES_MAX},
    mutants::mutant,
    types::{AliasChange, CollectionName, Error, ErrorKind, Result, limits},
};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where the coordinator keeps them.
pub(super) const ALIASES: &str = "aliases";

const _: () = assert!(
    limits::ALIASES_MAX * (2 * limits::COLLECTION_NAME_BYTES_MAX + 6) + 64 <= VALUE_BYTES_MAX,
    "all aliases fit one record, however long their names"
);
const _: () =
    assert!(2 * limits::ALIAS_CHANGES_MAX + 2 <= OPERATIONS_MAX, "a request's conditions fit one transaction");

/// All aliases, and how often they have changed. Stored as it is: once written the record stays, so that the epoch only ever grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aliases {
    epoch: u64,
    /// The collection of each.
    collections: BTreeMap<CollectionName, CollectionName>,
}

/// What came of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Aliases that are otherwise than before.
    pub count: usize,
    /// Who has heard of this epoch, or of a later one, knows of the changes.
    pub epoch: u64,
}

/// What the coordinator holds under a name, and the condition that it still does.
type LookedUp = BTreeMap<CollectionName, (Compare, Option<CollectionRecord>)>;

impl Aliases {
    /// How often they have changed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The collection that an alias names.
    pub fn get(&self, alias: &CollectionName) -> Option<&CollectionName> {
        self.collections.get(alias)
    }

    /// Alias and collection, by alias.
    pub fn iter(&self) -> impl Iterator<Item = (&CollectionName, &CollectionName)> {
        self.collections.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.collections.len()
    }

    /// Without those of a collection; none if it has none.
    pub(super) fn without(&self, collection: &CollectionName) -> Option<Aliases> {
        let mut left = self.collections.clone();
        left.retain(|_, named| named != collection);
        (left.len() < self.collections.len()).then(|| Aliases { epoch: self.epoch + 1, collections: left })
    }

    /// As they are after `changes`.
    ///
    /// # Errors
    /// Those of [`Catalog::change_aliases`] that are about what is there.
    fn after(&self, changes: &[AliasChange], there: &LookedUp) -> Result<Aliases> {
        let mut next = self.collections.clone();
        for (row, change) in changes.iter().enumerate() {
            apply(&mut next, change, there).map_err(|error| error.at(format!("changes[{row}]")))?;
        }
        if next.len() > limits::ALIASES_MAX {
            let message = "there would be too many aliases";
            return Err(too_many(message, limits::ALIASES_MAX, next.len()));
        }
        for table in changes.iter().filter_map(AliasChange::table) {
            let count = next.values().filter(|named| *named == table).count();
            if count > limits::ALIASES_PER_COLLECTION_MAX {
                let message = format!("table {table} would have too many aliases");
                return Err(too_many(&message, limits::ALIASES_PER_COLLECTION_MAX, count));
            }
        }
        Ok(Aliases { epoch: self.epoch + 1, collections: next })
    }

    /// How many aliases are otherwise in `other`.
    fn differences(&self, other: &Aliases) -> usize {
        let names: BTreeSet<_> = self.collections.keys().chain(other.collections.keys()).collect();
        names.into_iter().filter(|name| self.get(name) != other.get(name)).count()
    }
}

fn apply(
    next: &mut BTreeMap<CollectionName, CollectionName>,
    change: &AliasChange,
    there: &LookedUp,
) -> Result<(), Error> {
    let record = |name| there.get(name).and_then(|(_, record)| record.as_ref());
    let free = |name, field| match record(name) {
        Some(_) => Err(super::exists(name, field)),
        None => Ok(()),
    };
    match change {
        AliasChange::Create { alias, table } => {
            match record(table) {
                Some(record) if record.deleting => Err(being_deleted(table)),
                Some(_) => free(alias, "alias_name"),
                None if next.contains_key(table) => Err(alias_of_alias(table)),
                None => Err(not_found(table)),
            }
            .map_err(|error| error.at("create"))?;
            next.insert(alias.clone(), table.clone());
        }
        AliasChange::Delete { alias } => drop(next.remove(alias)),
        AliasChange::Rename { alias, to } => {
            free(to, "new_alias_name").map_err(|error| error.at("rename"))?;
            let table = next.remove(alias).ok_or_else(|| alias_not_found(alias).at("rename"))?;
            next.insert(to.clone(), table);
        }
    }
    Ok(())
}

impl Catalog {
    /// The aliases that requests are served by. Cost: one atomic load.
    pub fn aliases(&self) -> std::sync::Arc<Aliases> {
        self.aliases.load_full()
    }

    /// Makes changes of aliases, all or none, in one transaction. `is_alone`: there is no other node that has to understand them. When
    /// it returns, [`Catalog::read`] shows them.
    ///
    /// # Errors
    /// Nothing was changed: `table_not_found`, `table_deleting`, `table_exists`, `alias_not_found`, `alias_of_alias`,
    /// `too_many_aliases`; `version_too_old` while a node may not know what an alias is; `Unavailable`. `Indeterminate` as for
    /// [`Catalog::create`].
    pub async fn change_aliases(&self, changes: &[AliasChange], is_alone: bool) -> Result<Changed> {
        // Mutant 41: changes of one request are made one after the other.
        if mutant!(41) && changes.len() > 1 {
            let mut changed = Changed { count: 0, epoch: 0 };
            for change in changes {
                changed = Box::pin(self.change_aliases(std::slice::from_ref(change), is_alone)).await?;
            }
            return Ok(changed);
        }
        loop {
            let mut transaction = Transaction::default();
            self.understood(is_alone, &mut transaction).await?;
            let (aliases, guard) = self.stored_aliases().await?;
            let there = self.looked_up(changes).await?;
            let at = match &guard {
                Compare::WrittenAt(_, revision) => Some(*revision),
                _ => None,
            };
            transaction.compares.extend(there.values().map(|(compare, _)| compare.clone()).chain([guard]));
            let asked = Transaction { compares: transaction.compares.clone(), changes: Vec::new() };
            let after = match aliases.after(changes, &there) {
                Ok(after) => after,
                Err(error) if self.commit(asked).await?.is_some() => return Err(error),
                Err(_) => continue,
            };
            let count = aliases.differences(&after);
            if count == 0 {
                if self.commit(asked).await?.is_none() {
                    continue;
                }
                // It was done before, perhaps by a try whose answer was lost; this node need not have heard of it.
                if let Some(revision) = at {
                    self.shown(ALIASES, revision).await?;
                }
                return Ok(Changed { count, epoch: aliases.epoch });
            }
            transaction.changes.push(Change::Put(ALIASES.to_owned(), to_json(&after)));
            if let Some(revision) = self.commit(transaction).await? {
                self.shown(ALIASES, revision).await?;
                return Ok(Changed { count, epoch: after.epoch });
            }
        }
    }

    /// Everybody who may be asked by an alias: the members of the cluster, as this node remembers them. Who became one after a change
    /// that this node remembers, knows of that change.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn recorded_members(&self) -> Result<BTreeSet<NodeId>> {
        let mut recorded = BTreeSet::new();
        for kv in self.coordinator.remembered(members::PREFIX).map_err(coordination)? {
            if let Some(node) = MemberRecord::node_of(&kv.key)
                && MemberRecord::decode(&kv.key, &kv.value)?.is_member()
            {
                recorded.insert(node);
            }
        }
        Ok(recorded)
    }

    /// Sees to it that whoever uses this catalog knows what an alias is. A node that is alone says by the cluster's version that it
    /// does: no older program uses its data then, nor joins it.
    async fn understood(&self, is_alone: bool, transaction: &mut Transaction) -> Result<()> {
        let spoken = control::spoken_version(&*self.coordinator)?;
        if spoken >= VERSION_OF_ALIASES {
            return Ok(());
        }
        if !is_alone {
            let message = "a node of the cluster may not know yet what an alias is: upgrade every node first";
            return Err(Error::new(ErrorKind::Conflict, "version_too_old", message)
                .expected(format!("a cluster that speaks version {VERSION_OF_ALIASES}"))
                .got(spoken));
        }
        let stored = self.stored(VERSION).await?;
        transaction.compares.push(match stored {
            None => Compare::Absent(VERSION.to_owned()),
            Some(stored) => Compare::WrittenAt(VERSION.to_owned(), stored.revision),
        });
        transaction.changes.push(Change::Put(VERSION.to_owned(), to_json(&VERSION_OF_ALIASES)));
        Ok(())
    }

    /// What there is under the names that changes need to be collections, or not to be.
    async fn looked_up(&self, changes: &[AliasChange]) -> Result<LookedUp> {
        let names: BTreeSet<_> =
            changes.iter().flat_map(|change| change.named().into_iter().chain(change.table())).collect();
        let look_up = async |name: &CollectionName| {
            let key = super::collection_key(name);
            let found = match self.stored(&key).await? {
                None => (Compare::Absent(key), None),
                Some(stored) => {
                    let record = from_json(&key, &stored.value)?;
                    (Compare::WrittenAt(key, stored.revision), Some(record))
                }
            };
            Ok::<_, Error>((name.clone(), found))
        };
        Ok(try_join_all(names.into_iter().map(look_up)).await?.into_iter().collect())
    }

    /// The aliases as the coordinator holds them now, and the condition that they have not changed since.
    ///
    /// # Errors
    /// `Unavailable` if they are older than those that are known here.
    pub(super) async fn stored_aliases(&self) -> Result<(Aliases, Compare)> {
        let key = ALIASES.to_owned();
        let (aliases, guard): (Aliases, Compare) = match self.stored(&key).await? {
            None => (Aliases::default(), Compare::Absent(key)),
            Some(stored) => (from_json(&key, &stored.value)?, Compare::WrittenAt(key, stored.revision)),
        };
        let (known, found) = (self.aliases().epoch, aliases.epoch);
        if found < known {
            let message = format!("the coordinator's aliases have epoch {found}, but epoch {known} was seen here");
            return Err(Error::new(ErrorKind::Unavailable, "coordinator", message));
        }
        Ok((aliases, guard))
    }
}

/// Reads the aliases from what is remembered.
pub(super) fn remembered(stored: &[crate::coordination::KeyValue]) -> Result<Aliases> {
    match stored.iter().find(|kv| kv.key == ALIASES) {
        None => Ok(Aliases::default()),
        Some(stored) => serde_json::from_slice(&stored.value).map_err(|error| corrupt(ALIASES, error)),
    }
}

/// The error of whoever makes a collection under the name of an alias.
pub(super) fn alias_exists(name: &CollectionName, table: &CollectionName) -> Error {
    Error::new(ErrorKind::Conflict, "alias_exists", format!("there is an alias of this name, of table {table}"))
        .at("table_name")
        .got(name)
}

/// The error of whoever deletes a collection by an alias. It may name another one by the time that is done.
pub(super) fn is_alias(name: &CollectionName, table: &CollectionName) -> Error {
    let message = "this is an alias, which may name another table any moment: a table is deleted by its own name";
    Error::new(ErrorKind::Conflict, "table_is_alias", message).at("table_name").expected(table).got(name)
}

fn being_deleted(table: &CollectionName) -> Error {
    Error::new(ErrorKind::Conflict, "table_deleting", "the table is being deleted").at("table_name").got(table)
}

fn alias_of_alias(table: &CollectionName) -> Error {
    let message = "an alias names a table, and this is an alias itself";
    Error::new(ErrorKind::Conflict, "alias_of_alias", message).at("table_name").expected("a table").got(table)
}

fn alias_not_found(alias: &CollectionName) -> Error {
    Error::new(ErrorKind::NotFound, "alias_not_found", "there is no such alias").at("alias_name").got(alias)
}

fn too_many(message: &str, limit: usize, got: usize) -> Error {
    Error::new(ErrorKind::Conflict, "too_many_aliases", message)
        .at("changes")
        .expected(format!("at most {limit}"))
        .got(got)
}
