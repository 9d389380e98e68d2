//! All replicas of a node: opening, finding, dropping them. One that cannot be trusted is kept apart as failed: it neither votes nor
//! serves, and is there only to be reported until its data is dropped. Called by `service` and `node`.

use super::{
    files::IndexFiles,
    records::Records,
    replica::{Parts, Replica},
};
use crate::{
    raft::{GroupId, NodeId},
    rt,
    store::{keys::shard_of_space, room::Room},
    telemetry::metrics::StoreRow,
    types::{CollectionSpec, Error, ErrorKind, Result, SlotRange},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock},
};

/// See the module.
pub struct Host {
    parts: Parts,
    replicas: RwLock<BTreeMap<u64, Arc<Replica>>>,
    /// Why each failed replica is of no use. A shard is in at most one of the two.
    failed: RwLock<BTreeMap<u64, String>>,
}

impl Host {
    /// A host without replicas.
    pub fn new(parts: Parts) -> Host {
        Host { parts, replicas: RwLock::default(), failed: RwLock::default() }
    }

    /// Opens a shard, which had the slots `born` when it was made, and makes it found. If it has no log yet, `founders` are its group's first voters; without founders it waits to
    /// be added to a group that exists.
    ///
    /// # Errors
    /// `Corrupt` if stored data cannot be trusted: see [`Host::set_failed`].
    pub async fn open(&self, id: u64, (spec, born): (CollectionSpec, SlotRange), founders: &[NodeId]) -> Result<()> {
        let replica = Arc::new(Replica::open(id, (spec, born), founders, &self.parts).await?);
        self.failed.write().expect("no panic while changing").remove(&id);
        self.replicas.write().expect("no panic while changing").insert(id, replica);
        Ok(())
    }

    /// Gives up a shard whose data cannot be trusted: its replica is closed if it was open, and only reported from now on. Its data
    /// stays, for whoever wants to look, until [`Host::drop_shard`].
    pub async fn set_failed(&self, id: u64, reason: String) {
        tracing::error!(shard = id, reason, "a replica is given up: it no longer votes nor serves until it is rebuilt");
        rt::mark("a replica that could not be trusted was given up");
        self.failed.write().expect("no panic while changing").insert(id, reason);
        self.close_shard(id).await;
    }

    /// The replicas that were given up, and why.
    pub fn failed(&self) -> BTreeMap<u64, String> {
        self.failed.read().expect("no panic while changing").clone()
    }

    /// Whether this node can still write: false once its log or store has failed. Whatever replicas suffer from that, they say of it
    /// only afterwards.
    pub fn can_write(&self) -> bool {
        !self.parts.store.is_poisoned() && !self.parts.raft.log().is_poisoned()
    }

    /// The room on the node's disk, as it was seen last.
    pub fn room(&self) -> Room {
        self.parts.room.get()
    }

    /// A shard of this node, if it is open here. Cost: none but a lock; of most shards a node has no replica.
    pub fn find(&self, id: u64) -> Option<Arc<Replica>> {
        self.replicas.read().expect("no panic while changing").get(&id).cloned()
    }

    /// A shard of this node that may be read: it does not stand aside.
    ///
    /// # Errors
    /// As [`Host::replica`].
    pub fn sound_replica(&self, id: u64) -> Result<Arc<Replica>> {
        let replica = self.replica(id)?;
        match replica.aside() {
            Some(reason) => Err(unusable(id, &reason)),
            None => Ok(replica),
        }
    }

    /// A shard of this node.
    ///
    /// # Errors
    /// `Unavailable` if it is not here, or has failed.
    pub fn replica(&self, id: u64) -> Result<Arc<Replica>> {
        self.find(id).ok_or_else(|| match self.failed.read().expect("no panic while changing").get(&id) {
            Some(reason) => unusable(id, reason),
            None => {
                Error::new(ErrorKind::Unavailable, "shard_not_here", format!("shard {id} is not open on this node"))
            }
        })
    }

    /// Every shard of this node.
    pub fn replicas(&self) -> Vec<(u64, Arc<Replica>)> {
        let replicas = self.replicas.read().expect("no panic while changing");
        replicas.iter().map(|(id, replica)| (*id, replica.clone())).collect()
    }

    /// What the node's databases tell of themselves, for metrics.
    pub fn store_rows(&self) -> Vec<StoreRow> {
        vec![self.parts.store.row("store"), self.parts.raft.log().row()]
    }

    /// The shards this node has data of, open or not.
    pub fn stored(&self) -> BTreeSet<u64> {
        let spaces = self.parts.store.space_names().into_iter().filter_map(|name| shard_of_space(&name));
        let groups = self.parts.raft.log().group_ids().into_iter().filter(|group| *group != NOT_A_SHARD);
        spaces.chain(groups).collect()
    }

    /// The latest term this node has promised anything in, in a shard's group; 0 without a log. Survives the end of the replica.
    pub fn term(&self, id: u64) -> u64 {
        self.parts.raft.log().promised_term(id)
    }

    /// Closes a shard: it votes, acknowledges and serves no more. Its data stays.
    pub async fn close_shard(&self, id: u64) {
        let replica = self.replicas.write().expect("no panic while changing").remove(&id);
        if let Some(replica) = replica {
            replica.close().await;
        }
    }

    /// The shards whose groups this node has left, where it remembers what it promised.
    pub fn left(&self) -> Vec<u64> {
        self.parts.raft.log().left_ids()
    }

    /// Closes a shard and removes everything it stored: the shard is not to exist any more.
    pub async fn drop_shard(&self, id: u64) -> Result<()> {
        self.close_and_remove(id, None).await
    }

    /// Closes a shard whose group does without this node, as a leader said in `term`, and removes its data. What the node promised to the
    /// group is kept (see [`LogStore::leave_group`](crate::raft::LogStore::leave_group)).
    pub async fn leave_shard(&self, id: u64, term: u64) -> Result<()> {
        self.close_and_remove(id, Some(term)).await
    }

    async fn close_and_remove(&self, id: u64, excluded_in: Option<u64>) -> Result<()> {
        self.close_shard(id).await;
        self.remove_data(id, excluded_in).await?;
        self.failed.write().expect("no panic while changing").remove(&id);
        Ok(())
    }

    /// Removes what shards outside `wanted` left behind: those whose drop a crash cut short. `last` is the greatest id the
    /// catalog has given out.
    ///
    /// # Errors
    /// `Corrupt`, with nothing removed, if there is a shard that the catalog never gave out: it is not this data's catalog.
    pub async fn remove_strays(&self, wanted: &BTreeSet<u64>, last: u64) -> Result<()> {
        let known: BTreeSet<u64> = self.stored().into_iter().chain(self.left()).collect();
        let stray: Vec<u64> = known.difference(wanted).copied().collect();
        if let Some(unknown) = stray.iter().find(|id| **id > last) {
            let message = format!("the catalog has given out shards up to {last}, but shard {unknown} has data");
            return Err(Error::new(ErrorKind::Corrupt, "catalog_lost", message));
        }
        for id in stray {
            tracing::info!(shard = id, "removing what a dropped shard left behind");
            self.remove_data(id, None).await?;
        }
        Ok(())
    }

    async fn remove_data(&self, id: u64, excluded_in: Option<u64>) -> Result<()> {
        let parts = self.parts.clone();
        rt::compute::io(move || {
            // The files first: they alone would not be found as strays. The log last: with its log a replica is whole, if not
            // up to date; a state without its log could not be told from one whose log was lost.
            IndexFiles::new(&parts.index_directory, id).keep_only(None).map_err(Records::failed)?;
            Records::remove(&parts.store, id)?;
            let log = parts.raft.log();
            let removed = match excluded_in {
                Some(term) => log.leave_group(id, term),
                None => log.remove_group(id),
            };
            removed.map_err(|error| Error::new(ErrorKind::Unavailable, "store_failed", error.to_string()))
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

fn unusable(id: u64, reason: &str) -> Error {
    let message = format!("the replica of shard {id} on this node cannot be used: {reason}");
    Error::new(ErrorKind::Unavailable, "shard_failed", message)
}

/// The group of the coordinator: shards are numbered from 1.
const NOT_A_SHARD: GroupId = 0;
