//! Where a shard is led here, its group gets the members the table says, as the coordinator has it at that moment. One change a shard at a
//! time, in the background; whatever stops it, the next round looks at what the group and the table are then. Called by the roof's task.

use crate::{cluster::ShardId, rt, service::Service, shard::Replica, types::Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long one change of members may take before it is looked at anew. Copying goes on after it.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// What is known of the groups led here. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct Changes(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// Shards whose members are being changed.
    under_way: BTreeSet<ShardId>,
    /// In which term of a shard's leader, which is this node, and at which epoch of the shard its group was found to be right:
    /// nobody else changes it in that term.
    right_at: BTreeMap<ShardId, (u64, u64)>,
}

impl Changes {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Changed by single calls only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Begins to change the members of the groups led here that are not as the table says. Cost: a message to the driver for each
    /// group led whose shard has changed since the last call.
    pub async fn lead_members(&self) {
        let table = self.0.catalog.table();
        // Of shards that are led elsewhere, or are no more, nothing is kept.
        let before = std::mem::take(&mut self.0.changes.known().right_at);
        for (id, replica) in self.0.host.replicas() {
            let Some((entry, term)) = table.shards.get(&id).zip(replica.leads_in()) else { continue };
            // What is under way may yet make a group wrong that is right now.
            if self.0.changes.known().under_way.contains(&id) {
                continue;
            }
            let right_at = (term, entry.epoch);
            if before.get(&id) != Some(&right_at) {
                let Ok(is_right) = replica.is_held_by(&entry.replicas).await else { continue };
                if !is_right {
                    self.0.changes.known().under_way.insert(id);
                    let (service, epoch) = (self.clone(), entry.epoch);
                    drop(rt::spawn("change-members", async move {
                        if let Err(error) = service.change_members(id, &replica, epoch).await {
                            tracing::info!(shard = id, %error, "the members of a shard are not changed yet");
                        }
                        service.0.changes.known().under_way.remove(&id);
                    }));
                    continue;
                }
            }
            self.0.changes.known().right_at.insert(id, right_at);
        }
    }

    /// Makes the group of a shard what the newest table says, if that is still what the table of `epoch` said: a leader that was cut off
    /// from the coordinator must not undo what others have been told since.
    async fn change_members(&self, id: ShardId, replica: &Replica, epoch: u64) -> Result<()> {
        self.refresh().await?;
        let table = self.0.catalog.table();
        let Some(entry) = table.shards.get(&id).filter(|entry| entry.epoch == epoch) else { return Ok(()) };
        replica.change_members(&entry.replicas, CHANGE_LIMIT).await?;
        rt::mark("a shard's group got other members");
        tracing::info!(shard = id, replicas = ?entry.replicas, "the replicas of a shard are where they should be");
        Ok(())
    }
}
