//! The state machine of the group: a few registers with versions, in a store of its own that is synced now and then, as a
//! shard's is. With the registers it keeps a chain of hashes over every entry it has applied, which travels in
//! checkpoints: two members that have applied the same prefix must have the same link of that chain, whenever that was.
use crate::check::register::{Answer, Call};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};
use vectorsphere::{
    raft::{ApplyError, Checkpoint, CheckpointReader, Entry, LogIndex, StateMachine},
    store::{Direction, Durability, Space, Store, StoreError, StoreOptions},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is proposed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    pub key: u64,
    /// `None` deletes.
    pub value: Option<u64>,
    pub if_version: Option<u64>,
    /// Makes entries of different lengths.
    pub padding: String,
}

impl Command {
    /// The command of a call that writes.
    pub fn of(call: &Call, padding: usize) -> Option<Command> {
        let padding = "x".repeat(padding);
        match *call {
            // The group's documents have one part: its clients ask for no patch.
            Call::Get { .. } | Call::Patch { .. } => None,
            Call::Put { key, value, if_version } => Some(Command { key, value: Some(value), if_version, padding }),
            Call::Delete { key } => Some(Command { key, value: None, if_version: None, padding }),
        }
    }

    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a command is plain data").into()
    }
}

/// The chain of what was applied, as every member of a run must agree on it.
#[derive(Default)]
pub struct Witness {
    links: BTreeMap<LogIndex, (u64, String)>,
}

impl Witness {
    /// `who` has applied up to `index`, and its chain ends in `link`.
    ///
    /// # Panics
    /// If another member's chain ended otherwise there.
    fn saw(&mut self, who: &str, index: LogIndex, link: u64) {
        let (first, by) = self.links.entry(index).or_insert_with(|| (link, who.to_string()));
        assert!(
            *first == link,
            "{who} and {by} have applied different entries up to {index}: {link:016x}, {first:016x}"
        );
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    applied: LogIndex,
    link: u64,
    /// Value and version by key.
    registers: BTreeMap<u64, (u64, u64)>,
}

/// What a member has applied, to be read from outside.
#[derive(Clone, Default)]
pub struct Registers {
    state: Arc<Mutex<State>>,
}

impl Registers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    pub fn get(&self, key: u64) -> Answer {
        let state = self.state();
        state
            .registers
            .get(&key)
            .map_or(Answer::Absent, |(value, version)| Answer::Found { value: *value, version: *version })
    }
}

/// See the module.
pub struct Machine {
    name: String,
    store: Store,
    space: Space,
    registers: Registers,
    witness: Arc<Mutex<Witness>>,
}

const META: &[u8] = b"meta";
const REGISTER: &[u8] = b"register";

impl Machine {
    pub fn open(path: &Path, name: &str, witness: Arc<Mutex<Witness>>) -> Result<Machine, StoreError> {
        let options = StoreOptions { cache_bytes: 1 << 20, memtable_bytes_max: 20_000, ..StoreOptions::default() };
        let store = Store::open(path, options)?;
        let space = store.space("registers")?;
        let registers = Registers::default();
        if let Some(meta) = store.view().get(&space, META)? {
            let mut state: State = serde_json::from_slice(&meta).expect("what was written");
            for record in store.view().prefix(&space, REGISTER, Direction::Forward) {
                let (key, value) = record?;
                let key = u64::from_be_bytes(key[REGISTER.len()..].try_into().expect("eight bytes"));
                state.registers.insert(key, serde_json::from_slice(&value).expect("what was written"));
            }
            *registers.state() = state;
        }
        Ok(Machine { name: name.to_string(), store, space, registers, witness })
    }

    pub fn registers(&self) -> Registers {
        self.registers.clone()
    }

    /// Makes `after` the state, on the disk too.
    fn put(&self, before: &State, after: State, durability: Durability) -> Result<(), StoreError> {
        let mut batch = self.store.batch();
        let key = |key: &u64| [REGISTER, &key.to_be_bytes()].concat();
        for gone in before.registers.keys().filter(|key| !after.registers.contains_key(key)) {
            batch.delete(&self.space, &key(gone));
        }
        for (changed, value) in after.registers.iter().filter(|(key, value)| before.registers.get(key) != Some(value)) {
            batch.put(&self.space, &key(changed), &serde_json::to_vec(value).expect("plain data"));
        }
        let meta = State { registers: BTreeMap::new(), ..after };
        batch.put(&self.space, META, &serde_json::to_vec(&meta).expect("plain data"));
        batch.commit(durability)?;
        *self.registers.state() = after;
        self.store.maintain()
    }
}

fn execute(state: &mut State, index: LogIndex, command: &Command) -> Answer {
    let current = state.registers.get(&command.key).map_or(0, |(_, version)| *version);
    if command.if_version.is_some_and(|wanted| wanted != current) {
        return Answer::Conflict;
    }
    match command.value {
        Some(value) => {
            state.registers.insert(command.key, (value, index));
            Answer::Written { version: index }
        }
        None => Answer::Deleted { existed: state.registers.remove(&command.key).is_some() },
    }
}

impl StateMachine for Machine {
    type Outcome = Answer;

    fn applied(&self) -> LogIndex {
        self.registers.state().applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Answer>, ApplyError> {
        let before = self.registers.state().clone();
        let (mut state, mut answers) = (before.clone(), Vec::new());
        for entry in entries {
            assert_eq!(entry.index, state.applied + 1, "{}: every entry is applied once, in order", self.name);
            state.applied = entry.index;
            state.link = xxh3_64_with_seed(&entry.data, state.link ^ entry.term.rotate_left(32));
            self.witness.lock().expect("no panic while locked").saw(&self.name, entry.index, state.link);
            answers.push(match entry.data.is_empty() {
                true => Answer::Absent,
                false => {
                    let command = serde_json::from_slice(&entry.data);
                    let command = command.unwrap_or_else(|error| panic!("entry {}: {error}", entry.index));
                    execute(&mut state, entry.index, &command)
                }
            });
        }
        self.put(&before, state, Durability::Buffered)?;
        Ok(answers)
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        self.store.sync()?;
        Ok(self.applied())
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        let state = self.registers.state();
        let mut chunks = vec![Bytes::from(serde_json::to_vec(&(state.applied, state.link)).expect("plain data"))];
        chunks.extend(state.registers.iter().map(|one| Bytes::from(serde_json::to_vec(&one).expect("plain data"))));
        Ok(Box::new(Chunks { index: state.applied, chunks: chunks.into_iter() }))
    }

    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        let damaged = |problem: String| ApplyError::Checkpoint { at, problem };
        let head = chunks.next_chunk()?.ok_or_else(|| damaged("it is empty".to_string()))?;
        let (applied, link) = serde_json::from_slice(&head).map_err(|error| damaged(error.to_string()))?;
        let mut state = State { applied, link, ..State::default() };
        if applied != at {
            return Err(damaged(format!("it is of {applied}")));
        }
        while let Some(chunk) = chunks.next_chunk()? {
            let (key, value) = serde_json::from_slice(&chunk).map_err(|error| damaged(error.to_string()))?;
            state.registers.insert(key, value);
        }
        self.witness.lock().expect("no panic while locked").saw(&self.name, at, link);
        let before = self.registers.state().clone();
        self.put(&before, state, Durability::Synced)?;
        Ok(())
    }
}

struct Chunks {
    index: LogIndex,
    chunks: std::vec::IntoIter<Bytes>,
}

impl Checkpoint for Chunks {
    fn index(&self) -> LogIndex {
        self.index
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        Ok(self.chunks.next())
    }
}
