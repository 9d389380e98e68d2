//! Deleting a collection, in two steps: it is marked, and it goes once its shards are closed. In between it is served as before, by
//! those of its shards that are open: a node that has not heard of the mark answers no other than one that has. Its aliases go with
//! it, in the same transaction. Nothing is marked before every member is known to know what that means. Called by `service`.

use super::{ALIASES, Catalog, CollectionRecord, TABLE, collection_key, not_found, to_json};
use crate::{
    cluster::{control, table::ShardId},
    coordination::{Change, Transaction},
    types::{CollectionName, Error, ErrorKind, Result},
};
use std::collections::BTreeSet;

/// Whose doing the end of a collection will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// This call's.
    Now,
    /// An earlier call's.
    Before,
}

impl Catalog {
    /// Whether every node of the cluster knows how a shard is closed.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn knows_closing(&self) -> Result<bool> {
        Ok(control::spoken_version(&*self.coordinator)? >= control::VERSION_OF_CLOSING)
    }

    /// Refuses to begin what ends with the closing of shards while a member may not know how they are closed.
    ///
    /// # Errors
    /// `version_too_old`: nothing happened.
    fn check_closing(&self) -> Result<()> {
        if self.knows_closing()? {
            return Ok(());
        }
        let message = "a node of the cluster that is away, or older, may not know yet how shards are closed, and could serve the table \
                       again: every node has to answer and speak the newer version first";
        Err(Error::new(ErrorKind::Conflict, "version_too_old", message)
            .expected(format!("a cluster that speaks version {}", control::VERSION_OF_CLOSING)))
    }

    /// Marks a collection as one that is being deleted: whoever follows the catalog goes on with it if the caller cannot.
    ///
    /// # Errors
    /// `table_not_found`; `table_is_alias`; `version_too_old` if a member may not know how shards are closed; `Unavailable` or `Indeterminate`
    /// if the coordinator did not answer.
    pub async fn mark_for_deletion(&self, name: &CollectionName) -> Result<Marked> {
        loop {
            let (as_read, record) = self.record(name).await?;
            if record.deleting {
                match self.still(as_read).await? {
                    true => return Ok(Marked::Before),
                    false => continue,
                }
            }
            self.check_closing()?;
            let marked = CollectionRecord { deleting: true, ..record };
            let transaction = Transaction {
                compares: vec![as_read],
                changes: vec![Change::Put(collection_key(name), to_json(&marked))],
            };
            if self.commit(transaction).await?.is_some() {
                return Ok(Marked::Now);
            }
        }
    }

    /// Deletes a marked collection if it has no shards but these, which are closed; else returns all that it has.
    ///
    /// # Errors
    /// `table_not_found`, also if there is one of the name that is not marked: another one. `Unavailable` or `Indeterminate` if the
    /// coordinator did not answer.
    pub async fn delete_closed(
        &self,
        name: &CollectionName,
        closed: &BTreeSet<ShardId>,
    ) -> Result<Option<BTreeSet<ShardId>>> {
        self.delete_if(name, |record, shards| match record.deleting {
            false => Err(not_found(name)),
            true => Ok(shards.is_subset(closed)),
        })
        .await
    }

    /// Deletes a collection whose shards are not closed: whoever has not heard of it yet may go on writing to them for a while.
    ///
    /// # Errors
    /// `table_not_found`; `Unavailable` or `Indeterminate` if the coordinator did not answer.
    pub async fn delete_open(&self, name: &CollectionName) -> Result<()> {
        self.delete_if(name, |_, _| Ok(true)).await.map(drop)
    }

    async fn delete_if(
        &self,
        name: &CollectionName,
        may_go: impl Fn(&CollectionRecord, &BTreeSet<ShardId>) -> Result<bool>,
    ) -> Result<Option<BTreeSet<ShardId>>> {
        loop {
            let (mut table, guard) = self.stored_table().await?;
            let (as_read, record) = self.record(name).await?;
            let shards = table.shards_of(name);
            match may_go(&record, &shards) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(shards)),
                Err(error) if self.still(as_read).await? => return Err(error),
                Err(_) => continue,
            }
            table.remove_collection(name);
            let (aliases, same_aliases) = self.stored_aliases().await?;
            let aliases = aliases.without(name).map(|left| Change::Put(ALIASES.to_owned(), to_json(&left)));
            let gone = [Change::Delete(collection_key(name)), Change::Put(TABLE.to_owned(), to_json(&table))];
            let transaction = Transaction {
                compares: vec![guard, as_read, same_aliases],
                changes: gone.into_iter().chain(aliases).collect(),
            };
            if self.commit(transaction).await?.is_some() {
                return Ok(None);
            }
        }
    }
}
