//! The state machine of a shard: log entries in, effects in store and index out. Every entry is applied once, in the order
//! of the log. A checkpoint of another replica takes the place of the state as a whole. Called by the shard's Raft group.

use super::{
    checkpoint, checkpoint::ShardCheckpoint, install, live::Live, outcome::Outcome, records::Records, round::Round,
    state::State,
};
use crate::raft::{ApplyError, Checkpoint, CheckpointReader, Entry, LogIndex, StateMachine};
use std::sync::Arc;

/// Entries of one round, at most: bounds what readers may have to wait for.
const ROUND_BYTES_MAX: usize = 4 << 20;

/// See the module.
pub struct Machine {
    live: Arc<Live>,
}

impl Machine {
    /// The machine that changes what is in `live`; there is one for each.
    pub fn new(live: Arc<Live>) -> Machine {
        Machine { live }
    }

    /// Puts a state over `records`, whose indexes are made from them, in the place of the present one.
    fn replace(&self, old: &State, records: Records) -> crate::types::Result<()> {
        let found = install::found(&records, &old.spec, &old.settings)?;
        let mut state = State::new(old.id, old.spec.clone(), records, old.settings, found);
        state.request_ids_max = old.request_ids_max;
        self.live.replace(state);
        Ok(())
    }
}

fn apply_round(state: &State, entries: &[Entry]) -> Result<Vec<Outcome>, ApplyError> {
    let _gate = state.close_gate();
    let mut round = Round::new(state);
    let mut outcomes = Vec::with_capacity(entries.len());
    for entry in entries {
        outcomes.push(round.apply(entry.index, &entry.data).map_err(|error| failed(entry.index, &error))?);
    }
    round.finish().map_err(|error| failed(entries.last().map_or(0, |entry| entry.index), &error))?;
    Ok(outcomes)
}

fn failed(index: LogIndex, error: &crate::types::Error) -> ApplyError {
    ApplyError::Entry { index, problem: error.to_string() }
}

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn applied(&self) -> LogIndex {
        self.live.state().applied()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, ApplyError> {
        let state = self.live.state();
        if let Some(first) = entries.first()
            && first.index != state.applied() + 1
        {
            let problem = format!("entries up to {} are applied; this one is not the next", state.applied());
            return Err(ApplyError::Entry { index: first.index, problem });
        }
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while !rest.is_empty() {
            let (round, after) = rest.split_at(round_len(rest));
            outcomes.extend(apply_round(&state, round)?);
            rest = after;
        }
        Ok(outcomes)
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        let state = self.live.state();
        // The applied index is read first: what is applied after is not promised.
        let applied = state.applied();
        state.records.sync()?;
        Ok(applied)
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        let state = self.live.state();
        let view = state.records.view();
        let checkpoint = ShardCheckpoint::new(&view).map_err(|error| checkpoint::failed(state.applied(), &error))?;
        Ok(Box::new(checkpoint))
    }

    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        let old = self.live.state();
        let (counters, mut parts) = install::begin(at, chunks)?;
        let failed = |error| checkpoint::failed(at, &error);
        let records = old.records.begin_install(old.id).map_err(failed)?;
        let filled = install::fill(&records, &counters, &mut parts);
        if filled.is_err() {
            // What the old state was is gone; what came is not to be believed.
            let empty = records.emptied(old.id).map_err(failed)?;
            self.replace(&old, empty).map_err(failed)?;
            return filled;
        }
        self.replace(&old, records).map_err(failed)
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
