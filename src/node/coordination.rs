//! The coordinator of a node, whichever it is: the embedded one, whose group this node belongs to, or etcd. And how a node comes to
//! have one: it waits for its cluster, then opens the group or learns whose etcd it is. Built by [`super::Engine`].

use super::{StartError, etcd};
use crate::{
    cluster::Members,
    config::{Config, Mode},
    coordination::{Coordinator, Embedded, Etcd, embedded},
    raft::{Forward, LogStore, MultiRaft, NodeId, Route},
    rt::{self, time},
    store::{DataDir, Store},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// Between two looks whether a node that joins knows what the cluster has agreed on.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(100);
/// How long etcd may be silent before the node says so.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// See the module. Clones share it.
#[derive(Clone)]
pub enum Coordination {
    /// In the stores of the nodes themselves.
    Embedded(Embedded),
    /// In etcd; the version of it that was last looked at.
    Etcd(Arc<Etcd>, Arc<AtomicU64>),
}

impl Coordination {
    /// As what everybody else uses it.
    pub fn shared(&self) -> Arc<dyn Coordinator> {
        match self {
            Coordination::Embedded(embedded) => Arc::new(embedded.clone()),
            Coordination::Etcd(etcd, _) => etcd.clone(),
        }
    }

    /// The embedded one, if it is that.
    pub fn embedded(&self) -> Option<&Embedded> {
        match self {
            Coordination::Embedded(embedded) => Some(embedded),
            Coordination::Etcd(..) => None,
        }
    }

    /// The node that leads the coordinator's group, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.embedded()?.leader()
    }

    /// Resolves after something has changed since the last time this resolved. For one waiter.
    pub async fn changed(&self) {
        match self {
            Coordination::Embedded(embedded) => embedded.changed().await,
            Coordination::Etcd(etcd, seen) => seen.store(etcd.changed(seen.load(SeqCst)).await, SeqCst),
        }
    }

    /// What is wrong with the coordinator, while something is: it is not obeyed, or does not answer.
    pub fn alarm(&self) -> Option<String> {
        let Coordination::Etcd(etcd, _) = self else { return None };
        let silence = etcd.silence();
        let silent = (silence > SILENCE_MAX).then(|| {
            let seconds = silence.as_secs();
            format!("etcd has not answered for {seconds} s: documents are read and written, tables and nodes stay as they are")
        });
        etcd.alarm().map(|why| why.to_string()).or(silent)
    }

    /// Writes nothing more.
    pub async fn close(&self) {
        if let Coordination::Etcd(etcd, _) = self {
            etcd.close().await;
        }
    }
}

/// The coordinator that `config` asks for. With etcd, while this node has no cluster there: also the coordinator it had to itself, if
/// it was standalone, with all that it knew.
///
/// # Errors
/// The data belongs to a cluster that is held together otherwise; what is kept cannot be read.
pub async fn open(
    config: &Config,
    directory: &DataDir,
    store: &Store,
    raft: &MultiRaft,
) -> Result<(Coordination, Option<Embedded>), StartError> {
    let refused = |why| Err(StartError::Mode { mode: config.mode, why });
    let file = directory.join(etcd::FILE);
    let belongs = etcd::belongs(&file)?;
    if !etcd::is_used(config) {
        if belongs {
            return refused(match config.mode {
                Mode::Standalone => {
                    "the data directory belongs to a cluster of several nodes: start it with --mode auto and --etcd"
                }
                _ => "the data directory belongs to a cluster that is held together by etcd: name it with --etcd",
            });
        }
        return Ok((Coordination::Embedded(Embedded::open(store.clone())?), None));
    }
    let own = if belongs { None } else { own(store, raft).await? };
    let has_tables = match &own {
        Some(own) => etcd::has_tables(own)?,
        None => false,
    };
    let etcd = etcd::open(config, file, has_tables.then(|| raft.node()))?;
    Ok((Coordination::Etcd(Arc::new(etcd), Arc::default()), own))
}

/// Whether other nodes belong to the coordinator's group of this node.
pub fn has_others(log: &LogStore, node: NodeId) -> bool {
    log.group(embedded::GROUP).is_some_and(|group| {
        let members = group.members;
        let mut all = members.voters.iter().chain(&members.voters_outgoing).chain(&members.learners);
        all.any(|member| *member != node)
    })
}

/// The coordinator of a node that was alone, brought up to all it has promised; none if it never was.
async fn own(store: &Store, raft: &MultiRaft) -> Result<Option<Embedded>, StartError> {
    if raft.log().group(embedded::GROUP).is_none() {
        return Ok(None);
    }
    if has_others(raft.log(), raft.node()) {
        let why = "the data directory belongs to a cluster of several nodes that do without etcd: start it without etcd.endpoints";
        return Err(StartError::Etcd(why.to_owned()));
    }
    let own = Embedded::open(store.clone())?;
    // Nobody else votes: when it is open, all of its log is applied.
    drop(raft.open(embedded::GROUP, &[raft.node()], own.machine()?).await?);
    raft.close(embedded::GROUP).await;
    Ok(Some(own))
}

/// What is still to be done before a node has its coordinator.
pub struct Forming {
    pub coordination: Coordination,
    pub members: Members,
    pub directory: Arc<DataDir>,
    pub raft: MultiRaft,
    pub forward: Arc<dyn Forward>,
    /// What the node held when it was alone, where that is to come into etcd.
    pub own: Option<Embedded>,
}

impl Forming {
    /// Takes up what is known already; whether that is all there is to do.
    ///
    /// # Errors
    /// The data directory or the group's log cannot be used.
    pub async fn open(&self) -> Result<bool, StartError> {
        match &self.coordination {
            Coordination::Etcd(etcd, _) => {
                let Some(founded) = etcd::remembered(etcd)? else { return Ok(false) };
                self.members.found(founded);
                Ok(self.has_record())
            }
            Coordination::Embedded(embedded) => match self.members.founded() {
                Some(_) => self.open_group(embedded).await.map(|()| true),
                None => Ok(false),
            },
        }
    }

    /// Waits until there is a cluster, found or joined, this node belongs to it and knows what it has agreed on.
    ///
    /// # Errors
    /// The node cannot belong to it, or its data cannot be used.
    pub async fn form(&self) -> Result<(), StartError> {
        match &self.coordination {
            Coordination::Etcd(etcd, _) => {
                etcd::learn(etcd, self.raft.node(), self.own.as_ref(), &self.members).await?;
                while !self.has_record() {
                    time::sleep(CATCH_UP_INTERVAL).await;
                }
            }
            Coordination::Embedded(embedded) => {
                self.members.wait_founded().await;
                self.open_group(embedded).await?;
                caught_up(embedded).await;
            }
        }
        Ok(())
    }

    /// Whether this node is known as a member; until then nothing is placed on it.
    fn has_record(&self) -> bool {
        self.members.records().contains_key(&self.raft.node())
    }

    /// Opens the coordinator's group, of a cluster that is founded. With a new log only founders may begin; whoever came later is added
    /// by those who are there.
    async fn open_group(&self, embedded: &Embedded) -> Result<(), StartError> {
        let founded = self.members.wait_founded().await;
        self.keep_founders(founded.founders.clone()).await?;
        let is_founder = founded.founders.contains(&self.raft.node());
        let voters: &[NodeId] = if is_founder { &founded.founders } else { &[] };
        let group = self.raft.open(embedded::GROUP, voters, embedded.machine()?).await?;
        embedded.attach(Route::new(group, self.forward.clone(), embedded::decode_outcome));
        Ok(())
    }

    /// Keeps who founded the cluster, before anything is promised to it.
    async fn keep_founders(&self, founders: Vec<NodeId>) -> Result<(), StartError> {
        let directory = self.directory.clone();
        let kept = rt::compute::io(move || match directory.members()? {
            Some(_) => Ok(()),
            None => directory.set_members(&founders),
        });
        kept.await.map_err(StartError::from)
    }
}

/// Returns when this node knows what the cluster has agreed on by now, so that it does not answer as if there were nothing.
async fn caught_up(embedded: &Embedded) {
    while let Some(group) = embedded.group() {
        if group.read_index().await.is_ok() {
            return;
        }
        time::sleep(CATCH_UP_INTERVAL).await;
    }
}
