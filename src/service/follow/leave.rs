//! Letting go of replicas that are not wanted here any more. What a node has acknowledged or voted for may be needed until its group
//! is certain to decide without it, so its data goes only then:
//!
//! 1. The table does not list the node, and the shard's leader says that the group excludes it.
//! 2. The replica is closed: from here on this node acknowledges nothing and votes for nobody.
//! 3. A leader is asked again, and says the same in a term no older than any in which this node has promised anything. Nobody can
//!    have given it a vote since: that takes its acknowledgement.
//! 4. Its data is removed. Term, vote and how far the log had come stay: the node may be made a member again, while one that was cut
//!    off since counts on what it acknowledged as a member before.
//!
//! If 3 fails, or the table gives the node the replica again meanwhile, it is opened again at once. Called by the roof's task.

use crate::{
    cluster::{NodeId, ShardId, table::ShardEntry},
    mutants::mutant,
    rt,
    service::Service,
    types::Result,
};
use std::collections::BTreeSet;

/// What a shard's group has agreed on, from the node that leads it and knows all that was committed before it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The term it leads in.
    pub term: u64,
    /// Whoever belongs to the group, with a vote or without; while old and new voters decide together, both.
    pub members: BTreeSet<NodeId>,
}

impl Service {
    /// Lets go of replicas that are not wanted here and that their groups do without.
    ///
    /// # Errors
    /// Data that could not be removed: the next call tries again.
    pub async fn leave_unwanted(&self) -> Result<()> {
        for id in self.0.host.stored() {
            if self.unwanted(id).is_some() {
                self.leave(id).await?;
            }
        }
        Ok(())
    }

    /// The entry of a shard that the table gives to others only.
    fn unwanted(&self, id: ShardId) -> Option<ShardEntry> {
        let table = self.0.catalog.table();
        table.shards.get(&id).filter(|entry| !self.is_wanted(entry)).cloned()
    }

    async fn leave(&self, id: ShardId) -> Result<()> {
        let Some(entry) = self.unwanted(id) else { return Ok(()) };
        if mutant!(20) {
            return self.0.host.drop_shard(id).await;
        }
        if self.excluded_in(id, &entry, 0).await.is_none() {
            return Ok(());
        }
        if self.close_and_drop(id).await? {
            return Ok(());
        }
        // It was closed for nothing. Nobody but this task knows: the table need not change again.
        rt::mark("a replica that was to be given up is needed after all");
        self.follow_catalog().await
    }

    /// Steps 2 to 4; whether there was nothing to close, or the data is removed.
    async fn close_and_drop(&self, id: ShardId) -> Result<bool> {
        let _one_at_a_time = self.0.following.lock().await;
        // While the group was asked, the table may have given the node the replica again.
        let Some(entry) = self.unwanted(id) else { return Ok(true) };
        self.0.host.close_shard(id).await;
        let term = self.0.host.term(id);
        let Some(term) = self.excluded_in(id, &entry, term).await.filter(|_| self.unwanted(id).is_some()) else {
            return Ok(false);
        };
        tracing::info!(shard = id, "the shard's group does without this node; its data here is removed");
        rt::mark("a node let go of a replica that was moved away");
        match mutant!(48) {
            true => self.0.host.drop_shard(id).await?,
            false => self.0.host.leave_shard(id, term).await?,
        }
        Ok(true)
    }

    /// The term of the leader that says, in `term` or later, that the group does without this node.
    async fn excluded_in(&self, id: ShardId, entry: &ShardEntry, term: u64) -> Option<u64> {
        let node = self.0.identity.node_id;
        for other in entry.replicas.iter().filter(|other| **other != node) {
            if let Ok(Some(agreed)) = self.0.others.agreed(*other, id).await
                && agreed.term >= term
            {
                return Some(agreed.term).filter(|_| !agreed.members.contains(&node));
            }
        }
        None
    }
}
