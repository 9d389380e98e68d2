//! Writes of a shard, from this node or sent here because this node leads: when they are acknowledged, and what becomes of them.
//! Called by `service`.

use super::{Replica, Written, not_proposed};
use crate::{
    mutants::mutant,
    raft::ProposeError,
    rt,
    shard::{
        cargo::Cargo,
        command::Command,
        mutated,
        outcome::{Applied, Outcome},
        upkeep::Upkeep,
    },
    store::room::Room,
    types::{Ack, Error, ErrorKind, Result},
};
use bytes::Bytes;
use std::sync::atomic::Ordering;

impl Replica {
    /// Carries out an encoded command (see `commands`) through the shard's leader, wherever it is.
    pub async fn write(&self, mut command: Bytes, ack: Ack) -> Result<Written> {
        if mutant!(15)
            && let Some((first, rest)) = mutated::halves(&command)
        {
            self.route.propose(first, ack).await.map_err(not_proposed)?;
            command = rest;
        }
        if mutant!(26) {
            command = mutated::unguarded(&self.state(), &command)?;
        }
        if mutant!(44) {
            command = mutated::merged(&self.state(), &command)?;
        }
        if self.has_no_room() {
            self.check_room(&Command::decode(&command)?.1)?;
        }
        let term = self.leads_in();
        let (log_index, outcome) = self.route.propose(command, self.acknowledged(ack)).await.map_err(not_proposed)?;
        self.has_applied(term, outcome.is_some());
        match outcome {
            Some(outcome) => Written::of(log_index, outcome),
            None => Ok(Written { log_index, applied: Applied::Written { version: log_index } }),
        }
    }

    /// Carries out an encoded command that another node has sent because this one leads; the outcome, which may be a refusal, goes
    /// back as bytes (none with [`Ack::Async`]).
    ///
    /// # Errors
    /// `bad_command` if it is none: nothing was proposed, since an entry that cannot be applied would stop every replica.
    /// Otherwise those of [`Route::here`].
    pub async fn propose_forwarded(&self, command: Bytes, ack: Ack) -> Result<Result<(u64, Bytes), ProposeError>> {
        if Upkeep::is_one(&command) {
            Upkeep::decode(&command)?;
        } else {
            let command = Command::decode(&command)?.1;
            if let Command::Receive { slots, cargo, .. } = &command {
                Cargo::decode(cargo, *slots)?;
            }
            if let Err(refused) = self.check_room(&command) {
                // Nothing was logged: index 0 is nobody's.
                return Ok(Ok((0, Outcome::Refused(refused).encode().into())));
            }
        }
        rt::mark("a write was forwarded to the leader");
        let term = self.leads_in();
        let proposed = self.route.here(command, self.acknowledged(ack)).await;
        self.has_applied(term, matches!(proposed, Ok((_, Some(_)))));
        Ok(proposed.map(|(index, outcome)| (index, outcome.map_or_else(Bytes::new, |outcome| outcome.encode().into()))))
    }

    /// Whether this replica leads and only the reserve of the disk is left.
    fn has_no_room(&self) -> bool {
        self.room.get() != Room::Enough && self.is_leader()
    }

    /// Whether a command may be proposed here, as far as room goes.
    ///
    /// # Errors
    /// `disk_full`: nothing happened. Others may lead soon, and have room.
    fn check_room(&self, command: &Command<'_>) -> Result<()> {
        if !self.has_no_room() || !command.needs_room() {
            return Ok(());
        }
        rt::mark("a write was refused for want of room");
        let message = "the disk of the node that leads the shard is nearly full; reads and deletes go on";
        Err(Error::new(ErrorKind::Exhausted, "disk_full", message))
    }

    /// When a write is acknowledged: where slots have moved, or may have been moved by what a new leader has not applied yet, not
    /// before it is known that the shard owned its points.
    fn acknowledged(&self, ack: Ack) -> Ack {
        let is_new = self.leads_in().is_some_and(|term| self.settled_in.load(Ordering::Relaxed) != term);
        if ack == Ack::Async && (is_new || self.border().has_moved) { Ack::Quorum } else { ack }
    }

    /// Remembers that an entry of `term`, in which this replica led when it was proposed, was applied here.
    fn has_applied(&self, term: Option<u64>, is_applied: bool) {
        if let Some(term) = term.filter(|_| is_applied && self.leads_in() == term) {
            self.settled_in.store(term, Ordering::Relaxed);
        }
    }
}
