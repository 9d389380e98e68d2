//! The way of a proposal to the leader of its group, wherever that is: here, or on another node. Nothing is proposed a second
//! time unless it is known that nothing happened the first time. Called by `coordination` and `shard`; `peer` carries what must
//! go elsewhere.

use super::{Group, GroupId, LogIndex, NodeId, ProposeError};
use crate::{rt::time, types::Ack};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// How long a proposal waits, in all, for a leader to be found.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for a leader: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// What carries proposals to other nodes.
pub trait Forward: Send + Sync + 'static {
    /// Proposes `data` to `group` on node `to`; its index and the encoded outcome (nothing with [`Ack::Async`], unless the leader had
    /// reason to wait for it).
    ///
    /// # Errors
    /// Those of [`Group::propose`] there; `Unreachable` if it was never sent, `Indeterminate` if the answer was lost.
    fn forward(
        &self,
        to: NodeId,
        group: GroupId,
        data: Bytes,
        ack: Ack,
    ) -> BoxFuture<'static, Result<(LogIndex, Bytes), ProposeError>>;
}

/// The inverse of the encoding outcomes travel in; the problem if bytes are none.
pub type DecodeOutcome<O> = fn(&[u8]) -> Result<O, String>;

/// A group, and the way to its leader. Cheap to clone.
pub struct Route<O> {
    group: Group<O>,
    forward: Arc<dyn Forward>,
    decode: DecodeOutcome<O>,
}

impl<O> Clone for Route<O> {
    fn clone(&self) -> Self {
        Route { group: self.group.clone(), forward: self.forward.clone(), decode: self.decode }
    }
}

impl<O: Send + 'static> Route<O> {
    /// The way to the leader of `group`.
    pub fn new(group: Group<O>, forward: Arc<dyn Forward>, decode: DecodeOutcome<O>) -> Route<O> {
        Route { group, forward, decode }
    }

    /// This node's member of the group.
    pub fn group(&self) -> &Group<O> {
        &self.group
    }

    /// Commits `data` through the leader; its index, and its outcome unless neither `ack` nor the leader waits for that. Waits up to five
    /// seconds for a leader.
    ///
    /// # Errors
    /// `NotLeader` if none was found: nothing happened. `Indeterminate` if a leader was lost under it.
    pub async fn propose(&self, data: Bytes, ack: Ack) -> Result<(LogIndex, Option<O>), ProposeError> {
        let started = time::now();
        let mut pause = PAUSE_FIRST;
        loop {
            let error = match self.attempt(data.clone(), ack).await {
                Err(error @ (ProposeError::NotLeader { .. } | ProposeError::Unreachable(_))) => error,
                settled => return settled,
            };
            if started.elapsed() >= PATIENCE {
                return Err(error);
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, data: Bytes, ack: Ack) -> Result<(LogIndex, Option<O>), ProposeError> {
        match self.here(data.clone(), ack).await {
            Err(ProposeError::NotLeader { leader: Some(leader) }) => {
                let (index, outcome) = self.forward.forward(leader, self.group.id(), data, ack).await?;
                if ack == Ack::Async && outcome.is_empty() {
                    return Ok((index, None));
                }
                // It happened; only what it did is not known.
                let outcome = (self.decode)(&outcome).map_err(|problem| {
                    tracing::error!(group = self.group.id(), leader, problem, "an outcome cannot be read");
                    ProposeError::Indeterminate
                })?;
                Ok((index, Some(outcome)))
            }
            here => here,
        }
    }

    /// Sends `data` to the group's member on `leader`, once: a question to whoever leads rather than a proposal; its answer.
    ///
    /// # Errors
    /// Those of [`Forward::forward`]; `Indeterminate` for an answer that cannot be read.
    pub async fn ask(&self, leader: NodeId, data: Bytes) -> Result<O, ProposeError> {
        let (_, answer) = self.forward.forward(leader, self.group.id(), data, Ack::Quorum).await?;
        (self.decode)(&answer).map_err(|problem| {
            tracing::error!(group = self.group.id(), leader, problem, "an answer cannot be read");
            ProposeError::Indeterminate
        })
    }

    /// Proposes to this node's member, whoever leads.
    ///
    /// # Errors
    /// Those of [`Group::propose`].
    pub async fn here(&self, data: Bytes, ack: Ack) -> Result<(LogIndex, Option<O>), ProposeError> {
        let whole = |(index, outcome)| (index, Some(outcome));
        match ack {
            Ack::Quorum => self.group.propose(data).await.map(whole),
            Ack::All => self.group.propose_to_all(data).await.map(whole),
            Ack::Async => self.group.propose_logged(data).await.map(|index| (index, None)),
        }
    }
}
