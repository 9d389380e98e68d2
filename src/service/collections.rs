//! Operations on collections: create, list, look, delete.

use super::{
    CollectionInfo, CollectionStats, Service, ShardStats, VectorIndexInfo, payload_indexes, status::node_name,
};
use crate::{
    cluster::{Candidate, Collection},
    rt,
    shard::ReplicaStats,
    types::{CollectionName, CollectionSpec, Error, IndexType, Result, VectorName, VectorSpec},
};

impl Service {
    /// Creates a collection; when it is answered the collection survives power loss and takes writes. Goes on to its end
    /// even if the caller goes away.
    ///
    /// # Errors
    /// `table_exists`, `too_many_tables`.
    pub async fn create_collection(&self, name: CollectionName, spec: CollectionSpec) -> Result<CollectionInfo> {
        let service = self.clone();
        to_its_end(rt::spawn("create-table", async move { service.create(name, spec).await })).await
    }

    async fn create(&self, name: CollectionName, spec: CollectionSpec) -> Result<CollectionInfo> {
        let nodes: Vec<Candidate> = self.0.members.node_ids()?.into_iter().map(Candidate::active).collect();
        self.0.catalog.create(&name, spec, rt::time::wall().0, &nodes).await?;
        self.follow_catalog().await?;
        let collection = self.0.catalog.collection(&name)?;
        self.wait_for_leaders(&collection).await;
        tracing::info!(table = %name, shards = collection.shards.len(), "table created");
        self.info(&collection)
    }

    /// Returns when every shard of a new collection answers, or after a while without: then its first requests wait.
    async fn wait_for_leaders(&self, collection: &Collection) {
        let Ok(replicas) = self.replicas(collection) else { return };
        let answered = replicas.iter().map(|(_, replica)| replica.read_barrier(0));
        for answer in futures_util::future::join_all(answered).await {
            if let Err(error) = answer {
                tracing::warn!(table = %collection.name, %error, "a shard of a new table does not answer yet");
            }
        }
    }

    /// Every collection, by name.
    pub async fn list_collections(&self) -> Result<Vec<CollectionInfo>> {
        self.0.catalog.collections().values().map(|collection| self.info(collection)).collect()
    }

    /// One collection.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn collection(&self, name: &CollectionName) -> Result<CollectionInfo> {
        self.info(&*self.0.catalog.collection(name)?)
    }

    /// Deletes a collection with all its points. Goes on to its end even if the caller goes away.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn delete_collection(&self, name: &CollectionName) -> Result<()> {
        let (service, name) = (self.clone(), name.clone());
        to_its_end(rt::spawn("delete-table", async move { service.drop_collection(&name).await })).await
    }

    async fn drop_collection(&self, name: &CollectionName) -> Result<()> {
        self.0.catalog.delete(name).await?;
        self.follow_catalog().await?;
        tracing::info!(table = %name, "table deleted");
        Ok(())
    }

    /// Sizes and states of a collection and its shards.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn stats(&self, name: &CollectionName) -> Result<CollectionStats> {
        let collection = self.0.catalog.collection(name)?;
        let replicas = self.replicas(&collection)?;
        let stats: Vec<ReplicaStats> = replicas.iter().map(|(_, replica)| replica.stats()).collect();
        let shards: Vec<ShardStats> = collection
            .shards
            .iter()
            .zip(&replicas)
            .zip(&stats)
            .map(|(((id, range), (_, replica)), stats)| ShardStats {
                id: *id,
                slots: (range.first, range.end),
                points: stats.points,
                applied_index: stats.applied,
                role: if replica.is_leader() { "leader" } else { "follower" },
                leader: replica.leader().map(node_name),
                memory_bytes: stats.memory_bytes(),
                disk_bytes: stats.disk_bytes,
            })
            .collect();
        Ok(CollectionStats {
            info: info_of(&collection, &stats, self.copies(&collection)),
            memory_bytes: shards.iter().map(|shard| shard.memory_bytes).sum(),
            disk_bytes: shards.iter().map(|shard| shard.disk_bytes).sum(),
            shards,
        })
    }

    pub(super) fn shard_stats(&self, collection: &Collection) -> Result<Vec<ReplicaStats>> {
        Ok(self.replicas(collection)?.iter().map(|(_, replica)| replica.stats()).collect())
    }

    fn info(&self, collection: &Collection) -> Result<CollectionInfo> {
        Ok(info_of(collection, &self.shard_stats(collection)?, self.copies(collection)))
    }

    /// Copies that each shard of a collection shall have.
    fn copies(&self, collection: &Collection) -> u32 {
        let copies = collection.shards.iter().map(|(id, _)| self.0.catalog.replicas_of(*id).len() as u32);
        copies.min().unwrap_or(0)
    }
}

/// The answer of a task that must not be cut short by its caller going away.
pub(super) async fn to_its_end<T>(task: rt::Task<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|ended| Err(Error::internal(ended.to_string())))
}

fn info_of(collection: &Collection, stats: &[ReplicaStats], replicas: u32) -> CollectionInfo {
    CollectionInfo {
        replicas,
        name: collection.name.clone(),
        spec: collection.spec.clone(),
        points: stats.iter().map(|shard| shard.points).sum(),
        created_ms: collection.created_ms,
        indexes: collection.spec.vectors.iter().map(|(name, spec)| index_info(name, spec, stats)).collect(),
        payload_indexes: payload_indexes::infos(&collection.spec.indexed_fields, stats),
        notices: notices(&collection.spec),
    }
}

fn index_info(name: &VectorName, spec: &VectorSpec, stats: &[ReplicaStats]) -> VectorIndexInfo {
    let states: Vec<_> =
        stats.iter().filter_map(|s| s.indexes.iter().find(|(n, _)| n == name)).map(|(_, s)| s).collect();
    let sum = |part: fn(&crate::shard::IndexState) -> usize| states.iter().map(|state| part(state) as u64).sum();
    let trained = states.iter().any(|state| state.trained);
    let training = stats.iter().any(|shard| shard.training);
    VectorIndexInfo {
        vector: name.clone(),
        spec: *spec,
        served_by: if trained { spec.index.served_by() } else { IndexType::Flat },
        state: match (training, trained) {
            (true, _) => "training",
            (false, true) => "ready",
            (false, false) => "exact",
        },
        rows: sum(|state| state.rows),
        tail_rows: sum(|state| state.tail_rows),
        dead_rows: sum(|state| state.dead_rows),
        lists: sum(|state| state.lists),
        memory_bytes: stats
            .iter()
            .flat_map(|s| &s.index_memory_bytes)
            .filter(|(n, _)| n == name)
            .map(|(_, bytes)| bytes)
            .sum(),
    }
}

/// What is served otherwise than it was asked for.
fn notices(spec: &CollectionSpec) -> Vec<String> {
    let asked = spec.vectors.values().any(|vector| vector.index == IndexType::Hnsw);
    let notice = "index_type hnsw is served by ivf_pq, which needs no graph and answers the same searches";
    if asked { vec![notice.to_owned()] } else { Vec::new() }
}
