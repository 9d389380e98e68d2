//! The way of a write to its shard, wherever that is: through this node's replica, which knows the leader, or straight to a node
//! that has one. Called by `points`.

use super::{Service, find::shard_gone};
use crate::{
    cluster::{NodeId, ShardId},
    rt::time,
    shard::{Missed, Replica, Written},
    types::{Ack, Error, ErrorKind, Result},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// How long a write waits, in all, for somebody who takes it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two rounds over the nodes: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(80);

impl Service {
    /// Carries out an encoded command of a shard.
    ///
    /// # Errors
    /// Its refusal; `Unavailable` if for five seconds nobody took it: nothing happened. `Indeterminate` if somebody did and was lost.
    pub(super) async fn write_shard(&self, shard: ShardId, command: Bytes, ack: Ack) -> Result<Written> {
        let began = time::now();
        let mut pause = PAUSE_FIRST;
        loop {
            let not_taken = match self.attempt(shard, &command, ack).await {
                Ok(written) => return Ok(written),
                Err(Missed::Settled(error)) => return Err(error),
                Err(Missed::NotTaken(error)) => error,
            };
            if self.is_gone(shard) {
                return Err(shard_gone(shard));
            }
            if began.elapsed() >= PATIENCE {
                return Err(not_taken);
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, shard: ShardId, command: &Bytes, ack: Ack) -> Result<Written, Missed> {
        let others = self.elsewhere(shard);
        if let Some(replica) = self.writer_of(shard, &others) {
            match replica.write(command.clone(), ack).await {
                Err(error) if is_leaving(&error) && !others.is_empty() => {}
                settled => return settled.map_err(Missed::Settled),
            }
        }
        if others.is_empty() {
            let message = format!("no node is known to hold shard {shard}");
            return Err(Missed::NotTaken(Error::new(ErrorKind::Unavailable, "shard_not_here", message)));
        }
        let order = self.0.reach.order(&others, time::now());
        self.0.elsewhere.write(shard, &order, command, ack).await
    }

    /// This node's replica, if it is one that knows its leader or if there is no other. One that was just opened, and is still to
    /// be taken into its group, would wait for a leader in vain.
    fn writer_of(&self, shard: ShardId, others: &[NodeId]) -> Option<Arc<Replica>> {
        let replica = self.0.host.find(shard)?;
        (others.is_empty() || replica.leader().is_some()).then_some(replica)
    }
}

/// Whether a replica has taken nothing because it is about to be closed, or cannot go on.
fn is_leaving(error: &Error) -> bool {
    matches!(error.code(), "shard_stopped" | "shard_failed")
}
