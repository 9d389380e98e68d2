//! Replicas whose records turned out damaged. Such a one still has its log and its vote, which its group may need, so it is not closed:
//! it stands aside, neither leads nor serves, and says that it has failed, so that the master has it made anew from the others. Only
//! while another one is sound: before it first stands aside, another replica has been read from end to end and holds everything.
//! Where there is none it goes on, and what can still be read of it is read. Called by the roof's task.

use crate::{
    cluster::{NodeId, ShardId},
    rt::{self, time::Instant},
    service::Service,
    shard::Replica,
    types::Result,
};
use std::{collections::BTreeMap, time::Duration};

/// After a look at all records of others, none of which was sound.
const READ_INTERVAL: Duration = Duration::from_secs(60);

/// When the records of others were last read in vain.
#[derive(Default)]
pub struct ReadInVain(BTreeMap<ShardId, Instant>);

impl Service {
    /// Has replicas with damaged records stand aside, and those that are whole again come forward. Cost: nothing where none is damaged;
    /// a pass over a damaged shard's data on another node before its replica here first stands aside.
    pub async fn keep_damaged_aside(&self, in_vain: &mut ReadInVain) {
        for (id, replica) in self.0.host.replicas() {
            if (replica.damage().is_some() || replica.was_set_aside())
                && let Err(error) = self.keep_aside(id, &replica, in_vain).await
            {
                tracing::info!(shard = id, %error, "a damaged replica does not stand aside yet");
            }
        }
    }

    async fn keep_aside(&self, id: ShardId, replica: &Replica, in_vain: &mut ReadInVain) -> Result<()> {
        let is_damaged = replica.damage().is_some();
        if replica.was_set_aside() {
            let aside = is_damaged && self.is_well_elsewhere(id).await?;
            return replica.stand_aside(aside).await;
        }
        if in_vain.0.get(&id).is_some_and(|read| read.elapsed() < READ_INTERVAL) {
            return Ok(());
        }
        if !self.is_sound_elsewhere(id, replica.applied()).await {
            in_vain.0.insert(id, rt::time::now());
            return Ok(());
        }
        in_vain.0.remove(&id);
        tracing::warn!(shard = id, "a damaged replica stands aside: another one holds everything");
        rt::mark("a damaged replica stood aside");
        replica.stand_aside(true).await
    }

    /// Whether another holder of a shard has not said that it failed.
    async fn is_well_elsewhere(&self, id: ShardId) -> Result<bool> {
        let view = self.admin()?.look_now().await?;
        let is_well = |node: NodeId| view.replica(id, node).is_some_and(|report| report.failure.is_none());
        Ok(self.other_holders(id).into_iter().any(is_well))
    }

    /// Whether another holder of a shard has everything up to `index`, and all of it can be read. Cost: a pass over its data.
    async fn is_sound_elsewhere(&self, id: ShardId, index: u64) -> bool {
        for node in self.other_holders(id) {
            let found = self.0.others.recompute(node, id).await;
            if found.is_ok_and(|found| found.is_sound() && found.applied >= index) {
                return true;
            }
        }
        false
    }
}
