//! Following the catalog: whatever the coordinator says now is made so on this node, whoever changed it. Level, not edge: each
//! call compares what should be open with what is, so a lost notification costs time and nothing else. Called after each change
//! made here, and by the task the roof starts, for the changes of others.

use super::Service;
use crate::{
    cluster::{Collection, Collections},
    types::{Error, Result},
};
use std::collections::BTreeSet;

impl Service {
    /// Opens shards that are new, shows their collections to requests, applies changed settings, and drops shards that are gone.
    ///
    /// # Errors
    /// Those of the coordinator and of the shards. What could be done is done; the rest is tried again by the next call.
    pub async fn follow_catalog(&self) -> Result<()> {
        let _one_at_a_time = self.0.following.lock().await;
        let mut wanted = self.0.catalog.read()?;
        let mut failed = self.open_shards(&mut wanted).await;
        let shards: BTreeSet<u64> =
            wanted.values().flat_map(|collection| &collection.shards).map(|(id, _)| *id).collect();
        let known = self.0.catalog.collections();
        self.0.catalog.publish(wanted);
        for name in known.keys().filter(|name| self.0.catalog.collection(name).is_err()) {
            self.0.metrics.collections.forget(name.as_str());
        }
        for (id, _) in self.0.host.replicas() {
            if !shards.contains(&id) {
                // A shard whose data could not be removed is removed at the next start.
                failed = self.0.host.drop_shard(id).await.err().or(failed);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Opens the shards of `wanted` that are not; a collection of which one cannot be opened stays hidden.
    async fn open_shards(&self, wanted: &mut Collections) -> Option<Error> {
        let mut failed = Vec::new();
        for (name, collection) in wanted.iter() {
            if let Err(error) = self.open_collection(collection).await {
                tracing::error!(table = %name, %error, "a table of the catalog cannot be opened");
                failed.push((name.clone(), error));
            }
        }
        for (name, _) in &failed {
            wanted.remove(name);
        }
        failed.pop().map(|(_, error)| error)
    }

    async fn open_collection(&self, collection: &Collection) -> Result<()> {
        // Most changes of the catalog are other tables': a shard that is as it was is left in peace.
        let known = self.0.catalog.collection(&collection.name);
        let same_fields = known.is_ok_and(|known| known.spec.indexed_fields == collection.spec.indexed_fields);
        for (id, _) in &collection.shards {
            match self.0.host.replica(*id) {
                Ok(_) if same_fields => {}
                Ok(replica) => replica.set_indexed_fields(collection.spec.indexed_fields.clone()).await,
                Err(_) => self.0.host.open(*id, collection.spec.clone(), &self.0.members.node_ids()?).await?,
            }
        }
        Ok(())
    }
}
