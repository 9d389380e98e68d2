//! Finding what a request names: its collection, by its own name or an alias, and the nodes that hold its shards. A node hears of a new collection a moment
//! after it was made elsewhere, so before it says that there is none it asks the coordinator. This is the only place where aliases
//! are looked up: what is found is named by its own name from then on. Called by every operation.

use super::{Phase, Service, collections::to_its_end};
use crate::{
    cluster::{Collection, NodeId, ShardId, catalog},
    rt::{self, time},
    types::{CollectionName, Error, ErrorKind, Result},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// Lets requests that miss something at the same time share one question to the coordinator.
pub(super) struct Refresh {
    /// How many have begun to ask.
    begun: AtomicU64,
    /// Held while one asks; what came of the last one that was not given up, and its number.
    turn: tokio::sync::Mutex<(u64, Result<()>)>,
}

impl Default for Refresh {
    fn default() -> Refresh {
        Refresh { begun: AtomicU64::new(0), turn: tokio::sync::Mutex::new((0, Ok(()))) }
    }
}

/// The error of whoever asks for a shard that is no more: nothing happened, and its slots, if they are anywhere, are another's.
pub(super) fn shard_gone(shard: ShardId) -> Error {
    Error::new(ErrorKind::Unavailable, "shard_moved", format!("there is no shard {shard} any more"))
}

impl Refresh {
    /// What came of an asking that began after this call did: its own, or one that it waited for.
    async fn ask(&self, asking: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.begun.load(SeqCst);
        let mut last = self.turn.lock().await;
        // Not by how many have begun: one of them may have been given up, and have left the answer of one before this call.
        if last.0 <= before {
            let number = self.begun.fetch_add(1, SeqCst) + 1;
            *last = (number, asking.await);
        }
        last.1.clone()
    }
}

impl Service {
    /// The collection of this name or alias; one that this node has not heard of is asked for.
    ///
    /// # Errors
    /// `table_not_found`; `table_not_open` if there is one, but its shards could not be opened here; that of the coordinator if the
    /// collection is not known here and it did not answer.
    pub(super) async fn find(&self, name: &CollectionName) -> Result<Arc<Collection>> {
        if let Some(found) = self.0.catalog.resolve(name).filter(|found| found.name == *name || self.has_joined()) {
            return Ok(found);
        }
        self.refresh().await?;
        self.0.catalog.resolve(name).ok_or_else(|| self.not_shown(name))
    }

    /// The error of whoever asks for a collection that this node does not show: there is none, or what should be here of it cannot be opened.
    fn not_shown(&self, name: &CollectionName) -> Error {
        match self.0.catalog.read() {
            Ok(known) if known.has(name) => {
                rt::mark("a node could not open a table that others serve, and said so");
                let message = "this node cannot open what it should hold of the table; its log says why";
                Error::new(ErrorKind::Unavailable, "table_not_open", message).at("table_name").got(name)
            }
            Ok(_) => catalog::not_found(name),
            Err(error) => error,
        }
    }

    /// Whether this node is past what happened before it became a member: on its way here it goes through aliases of the past, and
    /// nobody who changes them waits for it.
    fn has_joined(&self) -> bool {
        self.0.identity.phase() != Phase::Starting
    }

    /// What a write fails with whose collection was found by an alias and is no more: by now the alias may name another one, which a
    /// retry finds. Nothing was written.
    pub(super) async fn by_alias(&self, name: &CollectionName, found: &Collection, error: Error) -> Error {
        if error.code() != "table_not_found" || found.name == *name {
            return error;
        }
        match self.find(name).await {
            Ok(other) if other.name != found.name || other.created_ms != found.created_ms => {
                rt::mark("an alias was given to another table, and the one it named was deleted under a write");
                let message =
                    "the alias names another table since, and the one it named is deleted: nothing was written";
                Error::new(ErrorKind::Unavailable, "alias_moved", message)
            }
            _ => error,
        }
    }

    /// Follows the catalog as it is at a moment after this call began. Calls that wait for each other ask once.
    pub(super) async fn refresh(&self) -> Result<()> {
        let deadline = self.deadline(time::now());
        time::timeout_at(deadline, self.0.refresh.ask(self.follow_newest())).await.unwrap_or_else(|_| {
            let message = "this node is still opening or closing shards of tables that changed";
            Err(Error::new(ErrorKind::Unavailable, "catalog_behind", message))
        })
    }

    async fn follow_newest(&self) -> Result<()> {
        self.0.catalog.catch_up().await?;
        let service = self.clone();
        // To its end, even if the request that asked goes away: half an opening would leave a shard that is neither open nor closed.
        let followed = rt::spawn("follow-catalog", async move { service.follow_catalog().await });
        if let Err(error) = to_its_end(followed).await {
            // A shard that cannot be opened here is no reason not to find the others.
            tracing::warn!(%error, "the catalog could not be followed whole");
        }
        Ok(())
    }

    /// Whether the table knows nothing of a shard: its collection was dropped, or it was merged into its neighbour.
    pub(super) fn is_gone(&self, shard: ShardId) -> bool {
        !self.0.catalog.table().shards.contains_key(&shard)
    }

    /// The nodes that shall hold a replica of a shard; none if there is no such shard.
    pub(super) fn holders(&self, shard: ShardId) -> Vec<NodeId> {
        self.0.catalog.replicas_of(shard)
    }

    /// The nodes beside this one that shall hold a replica of a shard.
    pub(super) fn other_holders(&self, shard: ShardId) -> Vec<NodeId> {
        let mut nodes = self.holders(shard);
        nodes.retain(|node| *node != self.0.identity.node_id);
        nodes
    }

    /// The nodes beside this one where a shard may be found: its holders, and who led it last, which may still do so while it moves.
    pub(super) fn elsewhere(&self, shard: ShardId) -> Vec<NodeId> {
        let mut nodes = self.other_holders(shard);
        let is_known = |leader: &NodeId| *leader == self.0.identity.node_id || nodes.contains(leader);
        nodes.extend(self.0.elsewhere.leader(shard).filter(|leader| !is_known(leader)));
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::pin::pin;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn an_asking_that_was_given_up_lends_no_older_answer() {
        let (refresh, answers, asked) = (Refresh::default(), Semaphore::new(0), AtomicU64::new(0));
        let ask = || {
            refresh.ask(async {
                asked.fetch_add(1, SeqCst);
                answers.acquire().await.unwrap().forget();
                Ok(())
            })
        };
        let mut first = pin!(ask());
        assert!(first.as_mut().now_or_never().is_none());
        let mut given_up = Box::pin(ask());
        let (mut third, mut fourth) = (pin!(ask()), pin!(ask()));
        assert!(given_up.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        answers.add_permits(1);
        first.await.unwrap();
        assert!(given_up.as_mut().now_or_never().is_none() && asked.load(SeqCst) == 2, "it is its turn");
        drop(given_up);
        answers.add_permits(1);
        third.await.unwrap();
        assert_eq!(asked.load(SeqCst), 3, "the first one had begun before");
        fourth.await.unwrap();
        assert_eq!(asked.load(SeqCst), 3, "the third one began after this call did");
    }
}
