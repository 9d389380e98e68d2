//! The embedded coordinator: a revisioned key-value map in every node's own store, kept equal by Raft group [`GROUP`]. On a
//! standalone node that group has one member. Reads are of what this node has applied; a change is answered when it survives the
//! loss of a minority and this node shows it. Called through [`Coordinator`]; plugged in by `node`.

mod machine;
mod map;

pub use machine::{Machine, Outcome, decode_outcome, encode_outcome};

use super::{
    BoxFuture, Committed, CoordinationError, Coordinator, KeptAlive, KeyValue, LeaseId, Listed, Revision, Transaction,
    Watch, prefix::Prefix,
};
use crate::{
    raft::{GroupId, LogIndex, NodeId, ProposeError, Route},
    store::{Store, StoreError},
    types::Ack,
};
use bytes::Bytes;
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
    changed: Arc<Notify>,
    route: OnceLock<Route<Outcome>>,
}

impl Embedded {
    /// Opens the map in `store`, making it if it is not there. It can be read at once and changed once it has a
    /// [route](Embedded::attach).
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: Store) -> Result<Embedded, StoreError> {
        let inner = Inner {
            map: Map::open(store)?,
            prefix: Prefix::of(LOCAL),
            changed: Arc::default(),
            route: OnceLock::new(),
        };
        Ok(Embedded(Arc::new(inner)))
    }

    /// What the coordinator's group applies its entries to; there is one for each map.
    ///
    /// # Errors
    /// `Corrupt` if its applied index cannot be read.
    pub fn machine(&self) -> Result<Machine, StoreError> {
        Machine::new(self.0.map.clone(), self.0.changed.clone())
    }

    /// Gives it the way to its group; once.
    pub fn attach(&self, route: Route<Outcome>) {
        assert!(self.0.route.set(route).is_ok(), "the coordinator has its group already");
    }

    /// The node that leads the coordinator's group, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.0.route.get()?.group().leader()
    }

    /// Resolves after the map has changed since the last time this resolved. For one waiter.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Proposes an encoded transaction that another node has sent because this one leads; its index and encoded outcome.
    ///
    /// # Errors
    /// Those of [`Route::here`]; `Unreachable` while the cluster is forming.
    pub async fn propose_forwarded(&self, transaction: Bytes) -> Result<(LogIndex, Bytes), ProposeError> {
        let forming = || ProposeError::Unreachable("the cluster is still forming".to_owned());
        let route = self.0.route.get().ok_or_else(forming)?;
        machine::check(&transaction).map_err(ProposeError::Unreachable)?;
        let (index, outcome) = route.here(transaction, Ack::Quorum).await?;
        Ok((index, outcome.map_or_else(Bytes::new, |outcome| encode_outcome(&outcome))))
    }

    /// Returns when this node's map shows everything acknowledged before the call.
    async fn confirm(&self) -> Result<(), CoordinationError> {
        let forming = || CoordinationError::Unavailable("the cluster is still forming".to_owned());
        let group = self.0.route.get().ok_or_else(forming)?.group();
        group.read_index().await.map(drop).map_err(|error| CoordinationError::Unavailable(error.to_string()))
    }

    async fn run(&self, transaction: &Transaction) -> Result<Committed, CoordinationError> {
        let forming = || CoordinationError::Unavailable("the cluster is still forming".to_owned());
        let route = self.0.route.get().ok_or_else(forming)?;
        let (index, outcome) = route.propose(machine::encode(transaction), Ack::Quorum).await.map_err(not_proposed)?;
        // Whoever changes something reads it back here.
        let here = route.group().wait_applied(index).await;
        here.map_err(|error| CoordinationError::Indeterminate(error.to_string()))?;
        match outcome {
            Some(Outcome::Transaction(committed)) => Ok(committed),
            Some(Outcome::Nothing) | None => {
                Err(CoordinationError::Corrupt("a transaction was applied as nothing".to_owned()))
            }
        }
    }
}

fn not_proposed(error: ProposeError) -> CoordinationError {
    match error {
        ProposeError::Indeterminate => CoordinationError::Indeterminate(error.to_string()),
        nothing_happened => CoordinationError::Unavailable(nothing_happened.to_string()),
    }
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
        Box::pin(async move { self.run(&self.0.prefix.stored_transaction(transaction)).await })
    }

    fn watch(&self, _prefix: &str, _after: Revision) -> Box<dyn Watch> {
        unimplemented!("comes with the next commit")
    }

    fn grant(&self, _ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
        unimplemented!("comes with the next commit")
    }

    fn keep_alive(&self, _lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
        unimplemented!("comes with the next commit")
    }

    fn revoke(&self, _lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
        unimplemented!("comes with the next commit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::{Change, Compare};
    use crate::raft::{ApplyError, CheckpointReader, Entry, StateMachine};
    use crate::store::StoreOptions;
    use bytes::Bytes;

    fn put(key: &str, value: &str) -> Change {
        Change::Put(key.to_owned(), value.as_bytes().to_vec())
    }

    fn opened(path: &std::path::Path) -> (Embedded, Machine) {
        let embedded = Embedded::open(Store::open(path, StoreOptions::default()).unwrap()).unwrap();
        let machine = embedded.machine().unwrap();
        (embedded, machine)
    }

    fn apply(machine: &mut Machine, transaction: &Transaction) -> Committed {
        let entry = Entry { index: machine.applied() + 1, term: 1, data: machine::encode(transaction) };
        match machine.apply(&[entry]).unwrap()[..] {
            [Outcome::Transaction(committed)] => committed,
            ref other => panic!("{other:?}"),
        }
    }

    fn listed(embedded: &Embedded) -> Vec<(String, Vec<u8>, u64)> {
        let listed = embedded.0.map.view().list("a/").unwrap();
        listed.into_iter().map(|kv| (kv.key, kv.value, kv.revision)).collect()
    }

    #[test]
    fn transactions_compare_then_change_and_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (_, mut machine) = opened(dir.path());
            let create =
                |value| Transaction { compares: vec![Compare::Absent("a/1".into())], changes: vec![put("a/1", value)] };
            assert_eq!(apply(&mut machine, &create("x")), Committed::At(1));
            assert_eq!(apply(&mut machine, &create("y")), Committed::Refused);
            let swap = Transaction {
                compares: vec![Compare::WrittenAt("a/1".into(), 1)],
                changes: vec![put("a/1", "z"), put("a/2", "w"), put("b", "v")],
            };
            assert_eq!(apply(&mut machine, &swap), Committed::At(2));
            assert_eq!(apply(&mut machine, &swap), Committed::Refused, "the revision moved on");
            let empty = Entry { index: 5, term: 2, data: Bytes::new() };
            assert_eq!(machine.apply(&[empty]).unwrap(), [Outcome::Nothing]);
            assert_eq!(machine.sync().unwrap(), 5);
        }
        let (embedded, mut machine) = opened(dir.path());
        assert_eq!(machine.applied(), 5);
        assert_eq!(listed(&embedded), [("a/1".into(), b"z".to_vec(), 2), ("a/2".into(), b"w".to_vec(), 2)]);
        let delete = Transaction { compares: vec![], changes: vec![Change::Delete("a/1".into())] };
        assert_eq!(apply(&mut machine, &delete), Committed::At(3));
        assert_eq!(embedded.0.map.view().get("a/1").unwrap(), None);
    }

    struct Chunks(std::vec::IntoIter<Bytes>);

    impl CheckpointReader for Chunks {
        fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
            Ok(self.0.next())
        }
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_everything() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, mut source_machine) = opened(from.path());
        let large = "v".repeat(100_000);
        for n in 0..10 {
            let write = Transaction { compares: vec![], changes: vec![put(&format!("a/{n}"), &large)] };
            apply(&mut source_machine, &write);
        }
        let mut checkpoint = source_machine.checkpoint().unwrap();
        let mut chunks = Vec::new();
        while let Some(chunk) = checkpoint.next_chunk().unwrap() {
            chunks.push(chunk);
        }
        assert!(chunks.len() > 1 && checkpoint.index() == 10);
        let (target, mut target_machine) = opened(to.path());
        apply(&mut target_machine, &Transaction { compares: vec![], changes: vec![put("a/old", "x")] });
        target_machine.install(10, &mut Chunks(chunks.into_iter())).unwrap();
        assert_eq!((listed(&target), target_machine.applied()), (listed(&source), 10));
    }

    #[tokio::test]
    async fn a_change_needs_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let (embedded, _) = opened(dir.path());
        let refused = embedded.commit(Transaction::default()).await.unwrap_err();
        assert!(matches!(refused, CoordinationError::Unavailable(_)), "{refused}");
    }

    #[test]
    fn outcomes_round_trip_and_garbage_is_refused() {
        for outcome in
            [Outcome::Nothing, Outcome::Transaction(Committed::Refused), Outcome::Transaction(Committed::At(7))]
        {
            assert_eq!(decode_outcome(&encode_outcome(&outcome)), Ok(outcome));
        }
        assert_eq!(encode_outcome(&Outcome::Transaction(Committed::At(7)))[..], [1, 1, 0, 7]);
        assert!(
            decode_outcome(b"").is_err() && decode_outcome(b"\x02\0").is_err() && decode_outcome(b"\x01\x09").is_err()
        );
    }
}
