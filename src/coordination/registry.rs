//! Who is there: nodes say so under a lease and everybody keeps a copy. A node that dies is gone within twice its time to live; without
//! the coordinator the copy goes on being served for ten minutes, marked as old. For clusters that are held together by etcd, where
//! every `node` says that it is there and the `gateway` looks.

mod beat;
mod filter;
mod record;
mod registration;

pub use beat::{TTL_MAX, TTL_MIN};
pub use filter::Filter;
pub use record::{Health, Load, NodeAddresses, NodeRecord, NodeState};
pub use registration::Registration;

use super::{Change, CoordinationError, Coordinator, Mirror, OPERATIONS_MAX, Transaction, mirror::Entries};
use crate::rt::time::{self, Instant};
use std::{sync::Arc, time::Duration};

/// Where nodes are registered.
pub const PREFIX: &str = "nodes/";
/// A copy confirmed within this time is not called old.
const FRESH: Duration = Duration::from_secs(10);
/// How long a copy is served that nobody confirms.
pub const STALE_MAX: Duration = Duration::from_secs(600);

/// The key of a node.
pub fn key(node: u64) -> String {
    format!("{PREFIX}{node:016x}")
}

/// See the module. Clones share the copy.
#[derive(Clone)]
pub struct Registry {
    coordinator: Arc<dyn Coordinator>,
    mirror: Mirror,
}

/// Nodes, as known here.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// In the order of their ids.
    pub nodes: Vec<NodeRecord>,
    /// How long nobody has confirmed it, if that is worth telling: nodes may have gone and others come meanwhile.
    pub stale: Option<Duration>,
}

/// Why there is nothing to tell about nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The coordinator has not answered since this process started.
    #[error("the coordinator has not answered yet")]
    NotYet,
    /// What is known is too old.
    #[error("the coordinator has not answered for {0:?}")]
    TooOld(Duration),
}

impl Registry {
    /// Begins to keep a copy of who is there. To be called inside the executor.
    pub fn follow(coordinator: Arc<dyn Coordinator>) -> Registry {
        let mirror = Mirror::follow(coordinator.clone(), PREFIX);
        Registry { coordinator, mirror }
    }

    /// The nodes that pass `filter`. Asks nobody.
    ///
    /// # Errors
    /// [`Unknown`] if nothing is known, or nothing that is not older than [`STALE_MAX`].
    pub fn find(&self, filter: &Filter) -> Result<Found, Unknown> {
        let confirmed = self.mirror.confirmed();
        found(confirmed, time::now(), &self.mirror.entries(), filter)
    }

    /// One node, if it is there.
    ///
    /// # Errors
    /// As [`Registry::find`].
    pub fn node(&self, node: u64) -> Result<Option<NodeRecord>, Unknown> {
        let only = Filter { nodes: Some([node].into()), ..Filter::default() };
        Ok(self.find(&only)?.nodes.pop())
    }

    /// Waits until something has changed after version `seen` (0: until something is known); the new version.
    pub async fn changed(&self, seen: u64) -> u64 {
        self.mirror.changed(seen).await
    }

    /// Registers nodes, all under one lease, and keeps them so until the registration is dropped or left.
    ///
    /// # Errors
    /// Those of the coordinator. `Indeterminate` ones are gone after a time to live.
    pub async fn register(&self, records: Vec<NodeRecord>) -> Result<Registration, CoordinationError> {
        Registration::begin(self.coordinator.clone(), records).await
    }

    /// Takes nodes off, whoever registered them. One that lives comes back at its next update.
    ///
    /// # Errors
    /// Those of the coordinator.
    pub async fn deregister(&self, nodes: &[u64]) -> Result<(), CoordinationError> {
        for some in nodes.chunks(OPERATIONS_MAX) {
            let changes = some.iter().map(|node| Change::Delete(key(*node))).collect();
            self.coordinator.commit(Transaction { compares: Vec::new(), changes }).await?;
        }
        Ok(())
    }
}

fn found(confirmed: Option<Instant>, now: Instant, entries: &Entries, filter: &Filter) -> Result<Found, Unknown> {
    let age = now - confirmed.ok_or(Unknown::NotYet)?;
    if age > STALE_MAX {
        return Err(Unknown::TooOld(age));
    }
    let records = entries.values().filter_map(|kv| match NodeRecord::decode(&kv.value) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(key = kv.key, error, "a node's record cannot be read");
            None
        }
    });
    let nodes = records.filter(|record| filter.passes(record)).collect();
    Ok(Found { nodes, stale: Some(age).filter(|age| *age > FRESH) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::KeyValue;

    #[test]
    fn a_copy_is_served_for_ten_minutes_and_says_how_old_it_is() {
        let record = NodeRecord { node: 7, ..NodeRecord::default() };
        let kv = KeyValue { key: key(7), value: record.encode(), revision: 1, created: 1, lease: Some(1) };
        let damaged = KeyValue { key: key(8), value: b"{".to_vec(), ..kv.clone() };
        let entries: Entries = [kv, damaged].into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let at = |seconds| Instant::START + Duration::from_secs(seconds);
        let find = |confirmed, now| found(confirmed, now, &entries, &Filter::default());
        assert_eq!(find(None, at(1)), Err(Unknown::NotYet));
        let fresh = find(Some(at(5)), at(15)).unwrap();
        assert_eq!((fresh.nodes, fresh.stale), (vec![record], None));
        assert_eq!(find(Some(at(5)), at(605)).unwrap().stale, Some(Duration::from_secs(600)));
        assert_eq!(find(Some(at(5)), at(606)), Err(Unknown::TooOld(Duration::from_secs(601))));
    }
}
