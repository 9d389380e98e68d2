//! The embedded coordinator: a revisioned key-value map in every node's own store, kept equal by Raft group [`GROUP`]. On a
//! standalone node that group has one member. A change is answered when it survives the loss of a minority and this node shows it, or
//! has not come to that for a while; a read sees every change acknowledged before it (read index). Leases are in the map, their time is
//! kept by the leader. Called through [`Coordinator`]; plugged in by `node`.

mod entry;
mod history;
mod keeper;
mod leases;
mod machine;
mod map;

pub use entry::{Outcome, decode_outcome, encode_outcome};
pub use machine::Machine;

use super::{
    BoxFuture, Committed, CoordinationError, Coordinator, KeptAlive, KeyValue, LeaseId, Listed, Revision, Transaction,
    Watch, bounds, prefix::Prefix,
};
use crate::{
    raft::{Group, GroupId, LogIndex, NodeId, ProposeError, Route},
    rt,
    store::{Store, StoreError},
    types::Ack,
};
use bytes::Bytes;
use entry::{Command, LeaseChange, Question};
use history::{History, HistoryWatch};
use leases::LeaseClock;
use map::Map;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::Notify;

/// The Raft group of the coordinator. Shards are numbered from 1.
pub const GROUP: GroupId = 0;

/// Under which name the keys lie in the map. Not the cluster's name: that is a setting and may change, and the data must be found
/// again whatever it is.
const LOCAL: &str = "local";

/// See the module. Clones share the map.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    map: Map,
    prefix: Prefix,
    history: Arc<History>,
    clock: LeaseClock,
    changed: Arc<Notify>,
    route: OnceLock<Route<Outcome>>,
}

impl Embedded {
    /// Opens the map in `store`, making it if it is not there. What is [remembered](Coordinator::remembered) can be read at once;
    /// the rest needs a [route](Embedded::attach).
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: Store) -> Result<Embedded, StoreError> {
        let inner = Inner {
            map: Map::open(store)?,
            prefix: Prefix::of(LOCAL),
            history: Arc::default(),
            clock: LeaseClock::default(),
            changed: Arc::default(),
            route: OnceLock::new(),
        };
        Ok(Embedded(Arc::new(inner)))
    }

    /// What the coordinator's group applies its entries to; there is one for each map.
    ///
    /// # Errors
    /// `Corrupt` if its counters cannot be read.
    pub fn machine(&self) -> Result<Machine, StoreError> {
        Machine::new(self.0.map.clone(), self.0.history.clone(), self.0.changed.clone())
    }

    /// Gives it the way to its group, once, and begins to keep the time of leases whenever this node leads: to be called inside the
    /// executor. That ends when the last clone of the coordinator is dropped.
    pub fn attach(&self, route: Route<Outcome>) {
        let group = route.group().clone();
        assert!(self.0.route.set(route).is_ok(), "the coordinator has its group already");
        drop(rt::spawn("lease-clock", keeper::keep_time(Arc::downgrade(&self.0), group)));
    }

    /// This node's member of the coordinator's group, once it has one.
    pub fn group(&self) -> Option<&Group<Outcome>> {
        Some(self.0.route.get()?.group())
    }

    /// The node that leads the coordinator's group, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.0.route.get()?.group().leader()
    }

    /// Resolves after the map has changed since the last time this resolved. For one waiter.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Forgets the changes that watchers have not seen yet on this node: they have to list again.
    pub fn compact(&self) {
        self.0.history.compact();
    }

    /// Does what another node asks because this one leads: proposes an encoded entry (its index and encoded outcome), or answers a
    /// question.
    ///
    /// # Errors
    /// Those of [`Route::here`]; `Unreachable` while the cluster is forming and for what is neither.
    pub async fn propose_forwarded(&self, data: Bytes) -> Result<(LogIndex, Bytes), ProposeError> {
        let forming = || ProposeError::Unreachable("the cluster is still forming".to_owned());
        let route = self.0.route.get().ok_or_else(forming)?;
        if let Some(question) = Question::decode(&data).map_err(ProposeError::Unreachable)? {
            let answer = self.0.answer(route.group(), &question).await?;
            return Ok((route.group().applied(), encode_outcome(&answer)));
        }
        let (index, outcome) = route.here(data, Ack::Quorum).await?;
        Ok((index, outcome.map_or_else(Bytes::new, |outcome| encode_outcome(&outcome))))
    }

    fn route(&self) -> Result<&Route<Outcome>, CoordinationError> {
        let forming = || CoordinationError::Unavailable("the cluster is still forming".to_owned());
        self.0.route.get().ok_or_else(forming)
    }

    /// Returns when this node's map shows everything acknowledged before the call.
    async fn confirm(&self) -> Result<(), CoordinationError> {
        let confirmed = self.route()?.group().read_index().await;
        confirmed.map(drop).map_err(|error| CoordinationError::Unavailable(error.to_string()))
    }

    async fn run(&self, command: Command) -> Result<Outcome, CoordinationError> {
        let route = self.route()?;
        let (index, outcome) = route.propose(command.encode(), Ack::Quorum).await.map_err(not_proposed)?;
        // Whoever changes something reads it back here; it happened, whether or not that comes about.
        if let Ok(Err(ended)) = rt::time::timeout(bounds::SHOW_LIMIT, route.group().wait_applied(index)).await {
            return Err(CoordinationError::Indeterminate(ended.to_string()));
        }
        match outcome {
            Some(Outcome::LeaseGone(lease)) => Err(CoordinationError::LeaseGone(lease)),
            Some(outcome) => Ok(outcome),
            None => Err(unexpected("nothing")),
        }
    }
}

fn not_proposed(error: ProposeError) -> CoordinationError {
    match error {
        ProposeError::Indeterminate => CoordinationError::Indeterminate(error.to_string()),
        ProposeError::TooLarge { .. } => CoordinationError::Rejected(error.to_string()),
        nothing_happened => CoordinationError::Unavailable(nothing_happened.to_string()),
    }
}

fn unexpected(outcome: impl std::fmt::Debug) -> CoordinationError {
    CoordinationError::Corrupt(format!("an entry was applied as another one: {outcome:?}"))
}

impl Coordinator for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
        Box::pin(async move {
            self.confirm().await?;
            let stored = self.0.map.view().get(&self.0.prefix.stored(key))?;
            stored.map(|kv| self.0.prefix.relative_kv(kv)).transpose()
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
        Box::pin(async move {
            self.confirm().await?;
            let Listed { revision, entries } = self.0.map.view().listed(&self.0.prefix.stored(prefix))?;
            let entries = entries.into_iter().map(|kv| self.0.prefix.relative_kv(kv)).collect::<Result<_, _>>()?;
            Ok(Listed { revision, entries })
        })
    }

    fn remembered(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        let known = self.0.map.view().list(&self.0.prefix.stored(prefix))?;
        known.into_iter().filter(|kv| kv.lease.is_none()).map(|kv| self.0.prefix.relative_kv(kv)).collect()
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
        Box::pin(async move {
            let transaction = self.0.prefix.stored_transaction(transaction);
            bounds::check(&transaction)?;
            match self.run(Command::Transaction(transaction)).await? {
                Outcome::Transaction(committed) => Ok(committed),
                other => Err(unexpected(other)),
            }
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Box<dyn Watch> {
        let (history, beginning) = (self.0.history.clone(), self.0.prefix.stored(prefix));
        Box::new(HistoryWatch { history, prefix: self.0.prefix.clone(), beginning, after })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
        Box::pin(async move {
            let ttl_ms = bounds::ttl_ms(ttl)?;
            match self.run(Command::Leases(LeaseChange::Grant { ttl_ms })).await? {
                Outcome::Granted(lease) => Ok(lease),
                Outcome::LeasesFull => Err(CoordinationError::Unavailable("there are too many leases".to_owned())),
                other => Err(unexpected(other)),
            }
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
        Box::pin(async move {
            let answer = self.0.ask_leader(self.route()?, &Question::KeepAlive { lease }).await;
            match answer.map_err(|error| CoordinationError::Unavailable(error.to_string()))? {
                Outcome::KeptAlive { ttl_ms } => Ok(KeptAlive::For(Duration::from_millis(ttl_ms))),
                Outcome::LeaseGone(_) => Ok(KeptAlive::Gone),
                other => Err(unexpected(other)),
            }
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
        Box::pin(async move {
            match self.run(Command::Leases(LeaseChange::Revoke { lease })).await? {
                Outcome::Ended => Ok(()),
                other => Err(unexpected(other)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
