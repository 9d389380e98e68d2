//! Moving slots between two shards, as far as one replica has to do with it: what is owned here, what is on its way, and the
//! proposals of the shard that gives. Whoever drives a move (`service`) asks the leaders of both shards, and may do any step again.

use super::{Replica, Written, not_proposed};
use crate::{
    rt,
    shard::{border::Border, command::Command, records::Records, state::State},
    store::keys::border,
    types::{Ack, Error, Result, SLOTS, SlotRange, slot_of},
};
use bytes::Bytes;
use std::sync::Arc;

/// A cargo on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Sending {
    pub to: u64,
    /// The number of the cargo.
    pub number: u64,
    /// The command for the log of shard `to`.
    pub command: Bytes,
}

impl Replica {
    /// What the shard owns and what is on its way, as far as this replica has applied its log.
    pub fn border(&self) -> Arc<Border> {
        self.state().border()
    }

    /// The slots the shard owns, and a number that is another one after every change of them, as far as this replica has applied its
    /// log: what was read between two calls with equal answers is of these slots and of no others. `None` while they change.
    pub fn owned(&self) -> Option<(u64, SlotRange)> {
        self.state().owned()
    }

    /// Points by slot, as many numbers as there are slots. Cost: a pass over the ids of all points, on a compute thread.
    pub async fn points_by_slot(&self) -> Vec<u32> {
        let state = self.state();
        let count = move || {
            let mut counts = vec![0_u32; SLOTS.into()];
            for (_, id, _) in state.indexes().points().iter() {
                let count = &mut counts[usize::from(slot_of(id))];
                *count = count.saturating_add(1);
            }
            counts
        };
        rt::compute::cpu(count).await
    }

    /// The cargo that is on its way from this shard, which is called `from`, if there is one: to be proposed to the other shard until
    /// that has taken it, and then to be forgotten here. Cost: reading it.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read.
    pub async fn sending(&self, from: u64) -> Result<Option<Sending>> {
        let state = self.state();
        rt::compute::io(move || sending(&state, from)).await
    }

    /// Proposes that `slots`, at an edge of this shard, leave it for shard `to`, as the shard table of `epoch` says; with no slots, that
    /// only requests are told.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`, `slots_are_leaving`, `slots_too_large`, `shard_table_old`: nothing has changed. `Indeterminate`: [`Replica::border`] of
    /// whoever leads tells.
    pub async fn release(&self, slots: SlotRange, to: u64, epoch: u64) -> Result<()> {
        self.propose_move(&Command::Release { slots, to, epoch }).await
    }

    /// Proposes that the cargo called `number`, which has arrived, is forgotten.
    ///
    /// # Errors
    /// Those of any proposal.
    pub async fn forget(&self, number: u64) -> Result<()> {
        self.propose_move(&Command::Forget { number }).await
    }

    async fn propose_move(&self, command: &Command<'_>) -> Result<()> {
        let (index, outcome) =
            self.route.propose(command.encode(None)?.into(), Ack::Quorum).await.map_err(not_proposed)?;
        match outcome {
            Some(outcome) => Written::of(index, outcome).map(drop),
            None => Err(Error::internal("a proposal for a quorum has no outcome")),
        }
    }
}

fn sending(state: &State, from: u64) -> Result<Option<Sending>> {
    // Both of one moment.
    let view = state.records.view();
    let Some(stored) = view.border(border::KEY)? else { return Ok(None) };
    let stored = border::decode(&stored).map_err(Records::corrupt)?;
    let Some(leaving) = Border::decode(state.border().born, stored)?.leaving else { return Ok(None) };
    let cargo = view.border(border::CARGO_KEY)?.ok_or_else(|| Records::corrupt("a cargo is not there"))?;
    let cargo = border::decode(&cargo).map_err(Records::corrupt)?;
    let command = Command::Receive { from, number: leaving.number, slots: leaving.slots, cargo };
    Ok(Some(Sending { to: leaving.to, number: leaving.number, command: command.encode(None)?.into() }))
}
