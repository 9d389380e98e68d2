//! What the coordinator holds of the cluster, read in one piece, and changed on the condition that it is still so. Called by
//! `controller` and `admin`.

use super::{
    catalog::{self, COLLECTIONS, TABLE},
    history::{self, History},
    members::MemberRecord,
    plan::{NodeView, View},
    report::{NodeReport, Reports},
    table::{NodeId, ShardTable},
};
use crate::{
    coordination::{Change, Committed, Compare, CoordinationError, Coordinator, Revision, Transaction},
    types::{CollectionName, Error, ErrorKind, Result},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Where the master's own settings are kept.
pub const REBALANCE: &str = "settings/rebalance";
/// Where the version is kept that the cluster speaks, in decimal.
pub const VERSION: &str = "settings/version";
/// What a cluster speaks that has kept no version.
pub const VERSION_FIRST: u32 = 1;

/// The first version that knows how slots move between shards: programs before it read neither the table nor the logs of such shards.
pub const VERSION_OF_SPLITS: u32 = 2;

/// The first version that knows how a shard is closed before its collection is deleted.
pub const VERSION_OF_CLOSING: u32 = 2;

/// The first version that knows that a name may be an alias: programs before it make tables under such names, and delete tables without
/// their aliases.
pub const VERSION_OF_ALIASES: u32 = 3;

/// What an administrator has said about evening out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Nothing is moved that is not broken or being drained.
    #[serde(default)]
    pub paused: bool,
}

/// See the module. Of one moment.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub table: ShardTable,
    pub members: BTreeMap<NodeId, MemberRecord>,
    pub rebalance: Rebalance,
    /// What every member has been able to speak at some moment: it is only ever raised.
    pub version: u32,
    pub history: History,
    /// How many shards each collection was made with.
    pub shards_asked: BTreeMap<CollectionName, u32>,
    /// When each key that may be changed was written.
    written: BTreeMap<String, Revision>,
}

impl Stored {
    /// What this node remembers; nobody is asked. It may be old: a change by it is refused then.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn remembered(coordinator: &dyn Coordinator) -> Result<Stored> {
        let entries = coordinator.remembered("").map_err(catalog::coordination)?;
        let mut stored = Stored { version: VERSION_FIRST, ..Stored::default() };
        for kv in &entries {
            stored.written.insert(kv.key.clone(), kv.revision);
            if kv.key == TABLE {
                stored.table = decode(&kv.key, &kv.value)?;
            } else if kv.key == REBALANCE {
                stored.rebalance = decode(&kv.key, &kv.value)?;
            } else if kv.key == VERSION {
                stored.version = decode(&kv.key, &kv.value)?;
            } else if let Some(node) = MemberRecord::node_of(&kv.key) {
                stored.members.insert(node, MemberRecord::decode(&kv.key, &kv.value)?);
            } else if let Some(name) = kv.key.strip_prefix(COLLECTIONS) {
                let asked: Asked = decode(&kv.key, &kv.value)?;
                stored.shards_asked.insert(CollectionName::new(name)?, asked.spec.shards);
            }
        }
        stored.history = History::read(entries.iter().filter(|kv| kv.key.starts_with(history::PREFIX)))?;
        Ok(stored)
    }

    /// The condition that a key is as it was read.
    pub fn unchanged(&self, key: &str) -> Compare {
        match self.written.get(key) {
            None => Compare::Absent(key.to_owned()),
            Some(revision) => Compare::WrittenAt(key.to_owned(), *revision),
        }
    }

    /// What a plan is made of. `away` tells how long a node has not answered, of those that have no report in `now`.
    pub fn view(&self, now: &Reports, before: &Reports, away: impl Fn(NodeId) -> Duration) -> View {
        let node = |(id, record): (&NodeId, &MemberRecord)| {
            let report = now.get(id).or_else(|| before.get(id)).cloned();
            // Less than a moment is a moment: who does not answer is away.
            let away = if now.contains_key(id) { Duration::ZERO } else { away(*id).max(Duration::from_millis(1)) };
            let report = report.unwrap_or_else(|| Arc::new(NodeReport::default()));
            (*id, NodeView { record: record.clone(), away, report })
        };
        let nodes = self.members.iter().map(node).collect();
        View { table: self.table.clone(), nodes, shards_asked: self.shards_asked.clone(), version: self.version }
    }
}

/// The version that a cluster speaks, as this node remembers it. What this program must know is another question.
///
/// # Errors
/// `Corrupt`.
pub fn spoken_version(coordinator: &dyn Coordinator) -> Result<u32> {
    let stored = coordinator.remembered(VERSION).map_err(catalog::coordination)?;
    stored.iter().find(|kv| kv.key == VERSION).map_or(Ok(VERSION_FIRST), |kv| decode(&kv.key, &kv.value))
}

/// The part of a collection's record that matters here.
#[derive(Deserialize)]
struct Asked {
    spec: AskedSpec,
}

#[derive(Deserialize)]
struct AskedSpec {
    shards: u32,
}

/// A transaction in the making: conditions on what was read, changes, and what is told of them.
pub struct Draft<'a> {
    stored: &'a Stored,
    transaction: Transaction,
    told: Vec<(String, String, u64)>,
}

impl<'a> Draft<'a> {
    pub fn new(stored: &'a Stored) -> Draft<'a> {
        Draft { stored, transaction: Transaction::default(), told: Vec::new() }
    }

    /// Only if this holds.
    pub fn only_if(&mut self, compare: Compare) {
        self.transaction.compares.push(compare);
    }

    /// The table becomes this.
    pub fn table(&mut self, table: &ShardTable) {
        self.only_if(self.stored.unchanged(TABLE));
        self.transaction.changes.push(Change::Put(TABLE.to_owned(), encode(table)));
    }

    /// A member's record becomes this.
    pub fn member(&mut self, node: NodeId, record: &MemberRecord) {
        let key = MemberRecord::key(node);
        self.only_if(self.stored.unchanged(&key));
        self.transaction.changes.push(Change::Put(key, record.encode()));
    }

    /// The master's settings become these.
    pub fn rebalance(&mut self, rebalance: Rebalance) {
        self.only_if(self.stored.unchanged(REBALANCE));
        self.transaction.changes.push(Change::Put(REBALANCE.to_owned(), encode(&rebalance)));
    }

    /// The cluster speaks this from now on.
    pub fn version(&mut self, version: u32) {
        self.only_if(self.stored.unchanged(VERSION));
        self.transaction.changes.push(Change::Put(VERSION.to_owned(), encode(&version)));
    }

    /// The history tells of this.
    pub fn tell(&mut self, what: impl ToString, why: impl ToString, bytes: u64) {
        self.told.push((what.to_string(), why.to_string(), bytes));
    }

    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.transaction.changes.is_empty()
    }

    /// Makes the changes, all or none. `false`: something was not as it was read.
    ///
    /// # Errors
    /// Those of the coordinator.
    pub async fn commit(
        mut self,
        coordinator: &dyn Coordinator,
        by: NodeId,
        wall_ms: u64,
    ) -> std::result::Result<bool, CoordinationError> {
        let (compare, changes) = self.stored.history.tell(wall_ms, by, &self.told);
        self.transaction.compares.extend(compare);
        self.transaction.changes.extend(changes);
        let committed = coordinator.commit(self.transaction).await?;
        Ok(matches!(committed, Committed::At(_)))
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what the cluster keeps always encodes")
}

fn decode<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            "coordinator_corrupt",
            format!("the coordinator's {key} cannot be read: {error}"),
        )
    })
}
