//! The state machine of a shard: log entries in, effects in store and index out. Every entry is applied once, in the order
//! of the log. Called by the shard's Raft group.

use super::{outcome::Outcome, round::Round, state::State};
use crate::raft::{ApplyError, Entry, StateMachine};
use std::sync::Arc;

/// Entries of one round, at most: bounds what readers may have to wait for.
const ROUND_BYTES_MAX: usize = 4 << 20;

/// See the module.
pub struct Machine {
    state: Arc<State>,
}

impl Machine {
    /// The machine that changes `state`; there is one for each state.
    pub fn new(state: Arc<State>) -> Machine {
        Machine { state }
    }

    fn apply_round(&self, entries: &[Entry]) -> Result<Vec<Outcome>, ApplyError> {
        let _gate = self.state.close_gate();
        let mut round = Round::new(&self.state);
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            outcomes.push(round.apply(entry.index, &entry.data).map_err(|error| failed(entry.index, &error))?);
        }
        round.finish().map_err(|error| failed(entries.last().map_or(0, |entry| entry.index), &error))?;
        Ok(outcomes)
    }
}

fn failed(index: u64, error: &crate::types::Error) -> ApplyError {
    ApplyError::Entry { index, problem: error.to_string() }
}

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn applied(&self) -> u64 {
        self.state.applied()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, ApplyError> {
        if let Some(first) = entries.first()
            && first.index != self.state.applied() + 1
        {
            let problem = format!("entries up to {} are applied; this one is not the next", self.state.applied());
            return Err(ApplyError::Entry { index: first.index, problem });
        }
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while !rest.is_empty() {
            let (round, after) = rest.split_at(round_len(rest));
            outcomes.extend(self.apply_round(round)?);
            rest = after;
        }
        Ok(outcomes)
    }

    fn sync(&mut self) -> Result<u64, ApplyError> {
        // The applied index is read first: what is applied after is not promised.
        let applied = self.state.applied();
        self.state.records.sync()?;
        Ok(applied)
    }

    fn checkpoint(&mut self) -> Result<Box<dyn crate::raft::Checkpoint>, ApplyError> {
        unimplemented!("base of the branches")
    }

    fn install(&mut self, _at: u64, _chunks: &mut dyn crate::raft::CheckpointReader) -> Result<(), ApplyError> {
        unimplemented!("base of the branches")
    }
}

/// How many entries, at least one, make a round.
fn round_len(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let more = entries.iter().take_while(|entry| {
        let fits = bytes == 0 || bytes + entry.data.len() <= ROUND_BYTES_MAX;
        bytes += entry.data.len().max(1);
        fits
    });
    more.count()
}
