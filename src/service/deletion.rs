//! Deleting a collection. First its shards are closed, by an entry in each one's log: from then on nobody reads or writes them, not even
//! through nodes that cannot reach the coordinator and know of nothing. Then it is taken out of the catalog. A deletion that was
//! begun goes on in the background, with whoever leads the first shard. Called by `api` and by the roof's task.

use super::{
    Service,
    collections::{afterwards, to_its_end},
    find::shard_gone,
    whole::{Tries, is_about_slots},
};
use crate::{
    cluster::{Marked, ShardId, catalog},
    mutants::mutant,
    rt::{self, time},
    shard::commands,
    types::{Ack, CollectionName, Error, ErrorKind, Result},
};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;

/// Shards that are closed at once.
const AT_ONCE: usize = 16;

impl Service {
    /// Deletes a collection with all its points. Goes on to its end even if the caller goes away. With `force` shards that have no
    /// leader do not hinder it, nor members that do not answer; clients that still reach a majority of such a shard, and not the
    /// coordinator, may use it for a while.
    ///
    /// # Errors
    /// `table_not_found`, also if another call's deletion was faster; `version_too_old` if until the deadline a member may not
    /// know how a shard is closed: nothing happened; `table_deleting`, `Indeterminate`, if a shard cannot be closed now: it will be as
    /// soon as it has a leader.
    pub async fn delete_collection(&self, name: &CollectionName, force: bool) -> Result<()> {
        let (service, name) = (self.clone(), name.clone());
        to_its_end(rt::spawn("delete-table", async move { service.delete_now(&name, force).await })).await
    }

    async fn delete_now(&self, name: &CollectionName, force: bool) -> Result<()> {
        self.can_agree()?;
        // Mutant 40: shards are not closed before their collection is gone.
        match force || mutant!(40) || self.is_served_here_only()? {
            true => self.0.catalog.delete_open(name).await?,
            false => self.mark_and_delete(name).await?,
        }
        self.follow_catalog().await.map_err(afterwards)?;
        tracing::info!(table = %name, "table deleted");
        Ok(())
    }

    /// Whether no other node serves collections, nor ever has to read this one's log: the only one that could go on with a collection hears
    /// of its end at once. In a cluster a node that is away would be back with it, and as long as the coordinator is not reached, take
    /// writes to it that are lost.
    fn is_served_here_only(&self) -> Result<bool> {
        Ok(self.0.admin.get().is_none() && !self.0.catalog.knows_closing()?)
    }

    /// Marks a collection. In a cluster that is new it waits for the master, which learns in its first rounds what every member speaks.
    async fn mark(&self, name: &CollectionName) -> Result<Marked> {
        let mut tries = Tries::new(self.deadline(time::now()));
        loop {
            match self.0.catalog.mark_for_deletion(name).await {
                Err(error) if error.code() == "version_too_old" => {
                    rt::mark("a table was not deleted yet because a node may not know how shards are closed");
                    tries.wait(error).await?;
                }
                marked => return marked,
            }
        }
    }

    async fn mark_and_delete(&self, name: &CollectionName) -> Result<()> {
        let marked = self.mark(name).await?;
        match self.close_and_delete(name).await {
            // Somebody who saw the mark was faster.
            Err(error) if error.kind() == ErrorKind::NotFound && marked == Marked::Now => Ok(()),
            Ok(()) if marked == Marked::Before => Err(catalog::not_found(name)),
            done => done,
        }
    }

    /// Closes the shards of a marked collection and takes it out of the catalog.
    async fn close_and_delete(&self, name: &CollectionName) -> Result<()> {
        let (mut closed, mut tries) = (BTreeSet::new(), Tries::new(self.deadline(time::now())));
        // A split that was under way may have added one.
        while let Some(shards) = self.0.catalog.delete_closed(name, &closed).await? {
            let open: BTreeSet<ShardId> = shards.difference(&closed).copied().collect();
            closed.extend(self.close(&open).await?);
            if let Some(unknown) = open.difference(&closed).next() {
                // This node's table may be older than the one that was asked.
                tries.wait(not_closed(*unknown, &shard_gone(*unknown))).await?;
                self.look_again().await;
            }
        }
        rt::mark("a table was deleted after its shards were closed");
        Ok(())
    }

    /// Closes shards, and returns those that are closed now: all that this node's table knows.
    async fn close(&self, shards: &BTreeSet<ShardId>) -> Result<BTreeSet<ShardId>> {
        let (command, mut done) = (commands::close()?, BTreeSet::new());
        let mut closing = stream::iter(shards.iter().copied())
            .map(|shard| {
                let command = command.clone();
                async move { (shard, self.write_shard(shard, command, Ack::Quorum).await) }
            })
            .buffer_unordered(AT_ONCE);
        while let Some((shard, closed)) = closing.next().await {
            match closed {
                Ok(_) => drop(done.insert(shard)),
                Err(error) if is_about_slots(&error) => {}
                Err(error) => return Err(not_closed(shard, &error)),
            }
        }
        Ok(done)
    }

    /// Goes on, in the background, with deletions that were begun anywhere, of collections whose first shard is led here.
    pub fn finish_deletions(&self) {
        let collections = self.0.catalog.collections();
        for collection in collections.values().filter(|collection| collection.deleting) {
            let first = collection.shards.iter().map(|(id, _)| *id).min();
            let leads = first.and_then(|id| self.0.host.find(id)).is_some_and(|replica| replica.is_leader());
            if leads && self.0.deletions.begin(collection.name.clone()) {
                let (service, name) = (self.clone(), collection.name.clone());
                drop(rt::spawn("finish-deletion", async move {
                    match service.close_and_delete(&name).await {
                        Ok(()) => service.look_again().await,
                        // Whoever began it was faster.
                        Err(error) if error.kind() == ErrorKind::NotFound => service.look_again().await,
                        Err(error) => tracing::info!(table = %name, %error, "a table is not deleted yet"),
                    }
                    service.0.deletions.end(&name);
                }));
            }
        }
    }
}

fn not_closed(shard: ShardId, error: &Error) -> Error {
    let message = format!("the table is being deleted, but shard {shard} could not be closed yet: {}", error.message());
    Error::new(ErrorKind::Indeterminate, "table_deleting", message)
}
