//! Splitting a shard in two, and merging a shard into its neighbour, as administrators ask for it: when a call returns the cluster has
//! agreed on it; the nodes that lead the shards do it, step by step, while reads and writes go on (`follow::give`). The master does
//! the same by itself where the configuration says so. Called by `api`.

use super::Service;
use crate::{
    cluster::ShardId,
    rt,
    types::{CollectionName, Result},
};

impl Service {
    /// Begins to split a shard: a new one on the same nodes is to have its slots from `at` on, the upper half if nothing is said.
    /// Returns the new shard's id.
    ///
    /// # Errors
    /// `not_in_cluster`, `table_not_found`, and those of [`Admin::split`](crate::cluster::admin::Admin::split).
    pub async fn split_shard(&self, name: &CollectionName, shard: ShardId, at: Option<u16>) -> Result<ShardId> {
        let admin = self.admin()?;
        let collection = self.find(name).await?;
        let new = admin.split(&collection.name, shard, at, rt::time::wall().0).await?;
        self.look_again().await;
        Ok(new)
    }

    /// Begins to merge a shard into its neighbour `to`, which is to have all its points; then the shard is no more.
    ///
    /// # Errors
    /// `not_in_cluster`, `table_not_found`, and those of [`Admin::merge`](crate::cluster::admin::Admin::merge).
    pub async fn merge_shard(&self, name: &CollectionName, shard: ShardId, to: ShardId) -> Result<()> {
        let admin = self.admin()?;
        let collection = self.find(name).await?;
        admin.merge(&collection.name, shard, to, rt::time::wall().0).await?;
        self.look_again().await;
        Ok(())
    }
}
