//! A coordinator in memory for the tests of this room: exact about conditions, and it fails when it is told to. Used by the tests of
//! `controller` and `admin`.

use crate::coordination::{
    BoxFuture, Change, Committed, Compare, CoordinationError, Coordinator, KeptAlive, KeyValue, LeaseId, Listed,
    Revision, Transaction, Watch,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

/// How the next commits go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// After so many good ones, one is lost before it happens, or the answer to it after.
    LostAfter { commits: u32, happens: bool },
    /// Nobody is reached.
    Away,
}

#[derive(Default)]
struct State {
    revision: Revision,
    map: BTreeMap<String, KeyValue>,
    fault: Fault,
    /// What [`Coordinator::remembered`] shows, where it lags behind.
    frozen: Option<BTreeMap<String, KeyValue>>,
    commits: u32,
}

/// See the module.
#[derive(Default)]
pub struct Memory(Mutex<State>);

impl Memory {
    pub fn fail(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// From now on the nodes remember what they know now.
    pub fn freeze(&self) {
        let mut state = self.state();
        state.frozen = Some(state.map.clone());
    }

    pub fn thaw(&self) {
        self.state().frozen = None;
    }

    /// Commits that changed something.
    pub fn commits(&self) -> u32 {
        self.state().commits
    }

    pub fn put(&self, key: &str, value: Vec<u8>) {
        self.state().apply(vec![Change::Put(key.to_owned(), value)]);
    }

    pub fn delete(&self, key: &str) {
        self.state().apply(vec![Change::Delete(key.to_owned())]);
    }

    pub fn value(&self, key: &str) -> Option<KeyValue> {
        self.state().map.get(key).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while changing")
    }
}

impl State {
    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.map.contains_key(key),
            Compare::WrittenAt(key, revision) => self.map.get(key).is_some_and(|kv| kv.revision == *revision),
            Compare::CreatedAt(key, revision) => self.map.get(key).is_some_and(|kv| kv.created == *revision),
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.revision += 1;
        let revision = self.revision;
        for change in changes {
            match change {
                Change::Delete(key) => {
                    self.map.remove(&key);
                }
                Change::Put(key, value) | Change::PutLeased(key, value, _) => {
                    let created = self.map.get(&key).map_or(revision, |kv| kv.created);
                    self.map.insert(key.clone(), KeyValue { key, value, revision, created, lease: None });
                }
            }
        }
    }

    fn commit(&mut self, transaction: Transaction) -> Result<Committed, CoordinationError> {
        let lost = match self.fault {
            Fault::Away => return Err(CoordinationError::Unavailable("away".to_owned())),
            Fault::LostAfter { commits: 0, happens } => Some(happens),
            Fault::LostAfter { commits, happens } => {
                self.fault = Fault::LostAfter { commits: commits - 1, happens };
                None
            }
            Fault::None => None,
        };
        if lost.is_some() {
            self.fault = Fault::None;
        }
        if lost == Some(false) {
            return Err(CoordinationError::Indeterminate("lost before".to_owned()));
        }
        let holds = transaction.compares.iter().all(|compare| self.holds(compare));
        if holds {
            self.apply(transaction.changes);
            self.commits += 1;
        }
        match (lost, holds) {
            (Some(_), _) => Err(CoordinationError::Indeterminate("lost after".to_owned())),
            (None, true) => Ok(Committed::At(self.revision)),
            (None, false) => Ok(Committed::Refused),
        }
    }
}

fn below(map: &BTreeMap<String, KeyValue>, prefix: &str) -> Vec<KeyValue> {
    map.values().filter(|kv| kv.key.starts_with(prefix)).cloned().collect()
}

fn none<T: Send + 'static>() -> BoxFuture<'static, Result<T, CoordinationError>> {
    Box::pin(async { Err(CoordinationError::Unavailable("there are no leases here".to_owned())) })
}

struct Silent;

impl Watch for Silent {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<crate::coordination::Event>, crate::coordination::WatchError>> {
        Box::pin(std::future::pending())
    }
}

impl Coordinator for Memory {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
        Box::pin(async move { Ok(self.value(key)) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
        Box::pin(async move {
            let state = self.state();
            Ok(Listed { revision: state.revision, entries: below(&state.map, prefix) })
        })
    }

    fn remembered(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        let state = self.state();
        Ok(below(state.frozen.as_ref().unwrap_or(&state.map), prefix))
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
        Box::pin(async move { self.state().commit(transaction) })
    }

    fn watch(&self, _prefix: &str, _after: Revision) -> Box<dyn Watch> {
        Box::new(Silent)
    }

    fn grant(&self, _ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
        none()
    }

    fn keep_alive(&self, _lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
        none()
    }

    fn revoke(&self, _lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
        none()
    }
}
