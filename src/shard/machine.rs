//! The state machine of a shard: log entries in, effects in store and index out; entries of upkeep (`upkeep`) are rounds of their own.
//! Every entry is applied once, in the order of the log. A checkpoint of another replica takes the place of the state as a whole.
//! Called by the shard's Raft group.

use super::{
    checkpoint,
    checkpoint::ShardCheckpoint,
    files::IndexFiles,
    install,
    live::Live,
    open,
    outcome::{Applied, Outcome},
    records::{Changes, Counters, Records},
    round::Round,
    saving::IndexFile,
    state::State,
    upkeep::{
        Upkeep, Work,
        begin::{self, Beginning},
        job::{Finished, Job, Unfinished},
    },
};
use crate::raft::{ApplyError, Checkpoint, CheckpointReader, Entry, LogIndex, StateMachine};
use crate::store::keys::{journal, meta::MetaKey};
use std::sync::Arc;

/// Entries of one round, at most: bounds what readers may have to wait for.
const ROUND_BYTES_MAX: usize = 4 << 20;

/// See the module.
pub struct Machine {
    live: Arc<Live>,
    files: IndexFiles,
}

impl Machine {
    /// The machine that changes what is in `live`, whose index files are `files`; there is one for each.
    pub fn new(live: Arc<Live>, files: IndexFiles) -> Machine {
        Machine { live, files }
    }

    /// Puts a state over `records` in the place of the present one.
    fn replace(&self, old: &State, records: Records) -> crate::types::Result<()> {
        let mut state = open::state(old.id, (old.spec.clone(), old.border().born), records, old.settings, &self.files)?;
        state.request_ids_max = old.request_ids_max;
        state.replaces(old);
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

/// Applies an entry of upkeep. Waits for a job that others have done, with searches and the store going on.
fn apply_upkeep(state: &State, entry: &Entry) -> Result<Outcome, ApplyError> {
    let failed = |error: crate::types::Error| failed(entry.index, &error);
    let upkeep = Upkeep::decode(&entry.data).map_err(failed)?;
    let adopted = match upkeep {
        Upkeep::Adopt { begun } => state.keeper().job_begun(begun),
        Upkeep::Begin { .. } => None,
    };
    let adopted = match adopted {
        Some(job) => Some((wait(state, &job, entry.index)?, job)),
        None => None,
    };
    let _gate = state.close_gate();
    match upkeep {
        Upkeep::Begin { vector, work, list_rows } => {
            let beginning = Beginning { at: entry.index, vector, work, list_rows };
            let is_training = work == Work::Train && begin::is_possible(state, &beginning);
            record(state, entry, is_training).map_err(failed)?;
            begin::begin(state, &beginning, state.records.view());
        }
        Upkeep::Adopt { begun } => {
            record(state, entry, false).map_err(failed)?;
            // Not if the index file turned out damaged meanwhile.
            let is_under_way = state.keeper().job_begun(begun).is_some();
            if let Some((finished, job)) = adopted.filter(|_| is_under_way) {
                begin::adopt(state, &job, entry.index, finished);
            }
        }
    }
    state.indexes_mut().set_applied(entry.index);
    let counters = Counters { applied: entry.index, ..state.counters() };
    state.publish(&counters, 0);
    capture_wanted_file(state);
    Ok(Outcome::Applied(Applied::Nothing))
}

/// Takes what the next index file will hold, if one is wanted and this is a moment for it.
fn capture_wanted_file(state: &State) {
    if state.keeper().may_capture() {
        let captured = IndexFile::capture(state);
        state.keeper().captured = captured;
    }
}

/// What came of a job, when it is done.
fn wait(state: &State, job: &Job, at: LogIndex) -> Result<Result<Finished, Unfinished>, ApplyError> {
    state.set_waits_for_job(true);
    let finished = job.take(state);
    state.set_waits_for_job(false);
    match finished {
        Err(Unfinished::Cancelled) => {
            Err(ApplyError::Entry { index: at, problem: "the shard closes; its upkeep is done later".to_owned() })
        }
        finished => Ok(finished),
    }
}

/// Moves the applied index to an entry of upkeep, and writes it to the journal; there is one from the first training on.
fn record(state: &State, entry: &Entry, is_training: bool) -> crate::types::Result<()> {
    let mut changes = Changes::new(&state.records);
    let mut keeper = state.keeper();
    if is_training && !keeper.has_journal() {
        changes.put_base(entry.index - 1, 0);
        keeper.begin_journal(entry.index - 1);
    }
    if keeper.has_journal() {
        changes.put_journal(entry.index, &journal::Entry::Upkeep(&entry.data))?;
    }
    drop(keeper);
    changes.put_counters(&Counters { applied: entry.index, ..state.counters() });
    changes.commit()
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
        while let Some(first) = rest.first() {
            if Upkeep::is_one(&first.data) {
                outcomes.push(apply_upkeep(&state, first)?);
                rest = &rest[1..];
                continue;
            }
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
        let failed = |error| checkpoint::failed(state.applied(), &error);
        loop {
            let view = state.records.view();
            let epoch = view.number(MetaKey::IndexEpoch).map_err(failed)?;
            let file = state.keeper().files.get(&epoch).cloned();
            // Between the two a newer file took the place of that one.
            if epoch == 0
                || file.is_some()
                || state.records.view().number(MetaKey::IndexEpoch).map_err(failed)? == epoch
            {
                return Ok(Box::new(ShardCheckpoint::new(state.trust.clone(), &view, file).map_err(failed)?));
            }
        }
    }

    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        let old = self.live.state();
        let (head, mut parts) = install::begin(at, chunks)?;
        let failed = |error| checkpoint::failed(at, &error);
        // Until it is replaced the old state writes no index file; then it has no use for one.
        let _saving = old.saving();
        let before = old.records.view().number(MetaKey::IndexEpoch).map_err(failed)?;
        let epoch = old.next_epoch(before);
        let records = old.records.begin_install(old.id).map_err(failed)?;
        let filled = install::fill((&records, &self.files, epoch), &head, &mut parts);
        if filled.is_err() {
            // What the old state was is gone; what came is not to be believed.
            let empty = records.emptied(old.id).map_err(failed)?;
            self.replace(&old, empty).map_err(failed)?;
            return filled;
        }
        self.replace(&old, records).map_err(failed)
    }
}

/// How many entries, at least one, make a round; the first is none of upkeep, and none of the others is.
fn round_len(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let more = entries.iter().take_while(|entry| !Upkeep::is_one(&entry.data)).take_while(|entry| {
        let fits = bytes == 0 || bytes + entry.data.len() <= ROUND_BYTES_MAX;
        bytes += entry.data.len().max(1);
        fits
    });
    more.count()
}
