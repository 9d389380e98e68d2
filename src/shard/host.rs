//! All replicas of a node: opening, finding, dropping them. Called by `service` and `node`.

use super::{
    files::IndexFiles,
    records::Records,
    replica::{Parts, Replica},
};
use crate::{
    raft::NodeId,
    rt,
    store::keys::shard_of_space,
    types::{CollectionSpec, Error, ErrorKind, Result},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock},
};

/// See the module.
pub struct Host {
    parts: Parts,
    replicas: RwLock<BTreeMap<u64, Arc<Replica>>>,
}

impl Host {
    /// A host without replicas.
    pub fn new(parts: Parts) -> Host {
        Host { parts, replicas: RwLock::default() }
    }

    /// Opens a shard, of which every node of `voters` has a replica, and makes it found.
    pub async fn open(&self, id: u64, spec: CollectionSpec, voters: &[NodeId]) -> Result<()> {
        let replica = Arc::new(Replica::open(id, spec, voters, &self.parts).await?);
        self.replicas.write().expect("no panic while changing").insert(id, replica);
        Ok(())
    }

    /// A shard of this node.
    ///
    /// # Errors
    /// `Unavailable` if it is not here.
    pub fn replica(&self, id: u64) -> Result<Arc<Replica>> {
        let found = self.replicas.read().expect("no panic while changing").get(&id).cloned();
        found.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "shard_not_here", format!("shard {id} is not open on this node"))
        })
    }

    /// Every shard of this node.
    pub fn replicas(&self) -> Vec<(u64, Arc<Replica>)> {
        let replicas = self.replicas.read().expect("no panic while changing");
        replicas.iter().map(|(id, replica)| (*id, replica.clone())).collect()
    }

    /// Closes a shard and removes everything it stored.
    pub async fn drop_shard(&self, id: u64) -> Result<()> {
        let replica = self.replicas.write().expect("no panic while changing").remove(&id);
        if let Some(replica) = replica {
            replica.close().await;
        }
        self.remove_data(id).await
    }

    /// Removes what shards outside `wanted` left behind: those whose drop a crash cut short. `last` is the greatest id the
    /// catalog has given out.
    ///
    /// # Errors
    /// `Corrupt`, with nothing removed, if there is a shard that the catalog never gave out: it is not this data's catalog.
    pub async fn remove_strays(&self, wanted: &BTreeSet<u64>, last: u64) -> Result<()> {
        let spaces = self.parts.store.space_names().into_iter().filter_map(|name| shard_of_space(&name));
        let groups = self.parts.raft.log().group_ids();
        let stray: BTreeSet<u64> = spaces.chain(groups).filter(|id| !wanted.contains(id)).collect();
        if let Some(unknown) = stray.iter().find(|id| **id > last) {
            let message = format!("the catalog has given out shards up to {last}, but shard {unknown} has data");
            return Err(Error::new(ErrorKind::Corrupt, "catalog_lost", message));
        }
        for id in stray {
            tracing::info!(shard = id, "removing what a dropped shard left behind");
            self.remove_data(id).await?;
        }
        Ok(())
    }

    async fn remove_data(&self, id: u64) -> Result<()> {
        let parts = self.parts.clone();
        rt::compute::io(move || {
            // The files first: they alone would not be found as strays.
            IndexFiles::new(&parts.index_directory, id).keep_only(None).map_err(Records::failed)?;
            parts
                .raft
                .log()
                .remove_group(id)
                .map_err(|error| Error::new(ErrorKind::Unavailable, "store_failed", error.to_string()))?;
            Records::remove(&parts.store, id)
        })
        .await
    }

    /// Closes every shard.
    pub async fn close(&self) {
        for (_, replica) in self.replicas() {
            replica.close().await;
        }
        self.replicas.write().expect("no panic while changing").clear();
    }
}
