//! Following the catalog and the shard table: whatever the coordinator says now is made so on this node, whoever changed it. Level,
//! not edge: each call compares what should be with what is, so a lost notification costs time and nothing else. Called after each
//! change made here, and by the tasks the roof starts, for the changes of others.
//!
//! A node opens the replicas the table gives it, and any of which it still has data: whether a group needs this node any more is
//! not for the table to say but for the group ([`leave`]). Where a shard is led, its group is made what the table says
//! ([`members`]).

mod aside;
mod give;
mod leave;
mod members;

use super::Service;
use crate::{
    cluster::{Collection, Collections, NodeId, catalog::Known, table::ShardEntry},
    mutants::mutant,
    types::{Error, ErrorKind, Result},
};
pub use aside::ReadInVain;
pub use leave::Agreed;
pub(super) use members::Changes;
use std::collections::{BTreeMap, BTreeSet};

impl Service {
    /// Opens shards that are to be here, shows their collections to requests, applies changed settings, and drops shards that are no
    /// more.
    ///
    /// # Errors
    /// Those of the coordinator and of the shards. What could be done is done; the rest is tried again by the next call.
    pub async fn follow_catalog(&self) -> Result<()> {
        let _one_at_a_time = self.0.following.lock().await;
        let Known { collections: mut wanted, aliases } = self.0.catalog.read()?;
        let mut failed = self.open_shards(&mut wanted).await;
        let shards: BTreeSet<u64> =
            wanted.values().flat_map(|collection| &collection.shards).map(|(id, _)| *id).collect();
        let known = self.0.catalog.collections();
        self.0.catalog.publish(Known { collections: wanted, aliases });
        for name in known.keys().filter(|name| self.0.catalog.collection(name).is_err()) {
            self.0.metrics.collections.forget(name.as_str());
        }
        // Of a collection that stays hidden nothing is dropped.
        let table = self.0.catalog.table();
        // Data without a replica is what a replica that could not be opened left behind.
        let stored = self.0.host.stored().into_iter().chain(self.0.host.left()).filter(|id| *id <= table.next_shard);
        let open = self.0.host.replicas().into_iter().map(|(id, _)| id);
        let here: BTreeSet<u64> = open.chain(self.0.host.failed().into_keys()).chain(stored).collect();
        for id in here.into_iter().filter(|id| !shards.contains(id) && !table.shards.contains_key(id)) {
            // A shard whose data could not be removed is removed at the next start.
            failed = self.0.host.drop_shard(id).await.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Opens the shards of `wanted` that are not; a collection of which one cannot be opened stays hidden.
    async fn open_shards(&self, wanted: &mut Collections) -> Option<Error> {
        let (stored, given_up) = (self.0.host.stored(), self.0.host.failed());
        let mut failed = Vec::new();
        for (name, collection) in wanted.iter() {
            if let Err(error) = self.open_collection(collection, &stored, &given_up).await {
                tracing::error!(table = %name, %error, "a table of the catalog cannot be opened");
                failed.push((name.clone(), error));
            }
        }
        for (name, _) in &failed {
            wanted.remove(name);
        }
        failed.pop().map(|(_, error)| error)
    }

    async fn open_collection(
        &self,
        collection: &Collection,
        stored: &BTreeSet<u64>,
        given_up: &BTreeMap<u64, String>,
    ) -> Result<()> {
        // Most changes of the catalog are other tables': a shard that is as it was is left in peace.
        let known = self.0.catalog.collection(&collection.name);
        let same_fields = known.is_ok_and(|known| known.spec.indexed_fields == collection.spec.indexed_fields);
        let table = self.0.catalog.table();
        for (id, _) in &collection.shards {
            let Some(entry) = table.shards.get(id).filter(|_| !given_up.contains_key(id)) else { continue };
            match self.0.host.find(*id) {
                Some(_) if same_fields => {}
                Some(replica) => replica.set_indexed_fields(collection.spec.indexed_fields.clone()).await,
                None if self.is_wanted(entry) || stored.contains(id) => self.open(*id, entry, collection).await?,
                None => {}
            }
        }
        Ok(())
    }

    /// Opens a replica. One that cannot be trusted is given up, if there are others to rebuild it from.
    async fn open(&self, id: u64, entry: &ShardEntry, collection: &Collection) -> Result<()> {
        let is_founder = entry.founders.contains(&self.0.identity.node_id);
        let founders: &[NodeId] = match is_founder {
            true => &entry.founders,
            false if mutant!(21) => &entry.replicas,
            false => &[],
        };
        match self.0.host.open(id, (collection.spec.clone(), entry.born), founders).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && self.has_others(entry) => {
                self.0.host.set_failed(id, error.to_string()).await;
                Ok(())
            }
            opened => opened,
        }
    }

    /// Whether this node is to hold a replica of a shard.
    pub(super) fn is_wanted(&self, entry: &ShardEntry) -> bool {
        let node = self.0.identity.node_id;
        entry.replicas.contains(&node) || entry.founders.contains(&node)
    }

    /// Whether other nodes hold the shard, too.
    fn has_others(&self, entry: &ShardEntry) -> bool {
        entry.replicas.iter().chain(&entry.founders).any(|node| *node != self.0.identity.node_id)
    }

    /// Gives up replicas that can no longer follow their log, if there are others to rebuild them from.
    ///
    /// # Errors
    /// Why the node cannot go on: a replica has failed that is the only one.
    pub async fn give_up_failed(&self) -> std::result::Result<(), String> {
        let table = self.0.catalog.table();
        for (id, replica) in self.0.host.replicas() {
            let Some(reason) = replica.failure() else { continue };
            if !self.0.host.can_write() {
                // It failed with the node, which is about to stop for it: nothing is wrong with the replica.
                return Ok(());
            }
            if !table.shards.get(&id).is_some_and(|entry| self.has_others(entry)) {
                return Err(reason);
            }
            let _one_at_a_time = self.0.following.lock().await;
            self.0.host.set_failed(id, reason).await;
        }
        Ok(())
    }
}
