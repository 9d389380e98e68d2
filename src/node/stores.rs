//! The data directory of a node and the two databases in it, opened before anything else: who the node is, how often it was started, and
//! whether it may be used without others. Built by [`super::Node`] and [`super::engine`], which starts everything over it.

use super::{StartError, coordination};
use crate::{
    config::{Config, Mode},
    coordination::embedded,
    raft::{LogStore, NodeId, log_options},
    rt,
    store::{DataDir, Store, StoreOptions},
};
use rand::RngCore;
use std::sync::Arc;

/// The opened data directory and the stores in it.
pub struct Stores {
    pub(super) directory: Arc<DataDir>,
    pub(super) node_id: u64,
    pub(super) store: Store,
    pub(super) log: LogStore,
}

impl Stores {
    /// Opens the data directory of `config`, making it if it is not there.
    ///
    /// # Errors
    /// The directory is in use, damaged or newer than this program; nothing is changed then.
    pub async fn open(config: &Config) -> Result<Stores, StartError> {
        let path = config.data_dir.clone();
        let options = StoreOptions {
            cache_bytes: config.storage.cache.bytes(),
            journal_bytes_max: config.storage.journal_max.bytes(),
            ..StoreOptions::default()
        };
        let candidate = rt::rng::stream("node/id").next_u64();
        let (directory, node_id) = rt::compute::io(move || {
            let directory = DataDir::open(path)?;
            let node_id = directory.node_id(candidate)?;
            Ok::<_, StartError>((directory, node_id))
        })
        .await?;
        let (log_path, store_path) = (directory.join("log"), directory.join("store"));
        // At once: after a crash both read their journals, which is most of the time a start takes.
        let log = rt::compute::io(move || LogStore::open(log_path, log_options()));
        let store = rt::compute::io(move || Store::open(store_path, options));
        let (log, store) = futures_util::future::join(log, store).await;
        Ok(Stores { directory: Arc::new(directory), node_id, store: store?, log: log? })
    }

    /// Counts this start; its number, and who founded the cluster if it was founded.
    ///
    /// # Errors
    /// Those of the data directory.
    pub async fn begin_boot(&self) -> Result<(u64, Option<Vec<NodeId>>), StartError> {
        let directory = self.directory.clone();
        let (boot, founders) =
            rt::compute::io(move || Ok::<_, StartError>((directory.next_boot()?, directory.members()?))).await?;
        // Standalone nodes of versions before kept no founders: they were alone.
        let was_alone = founders.is_none() && self.log.group(embedded::GROUP).is_some();
        Ok((boot, if was_alone { Some(vec![self.node_id]) } else { founders }))
    }

    /// Whether a node may use this data without others.
    ///
    /// # Errors
    /// `Mode`: others belong to its cluster.
    pub fn check_alone(&self) -> Result<(), StartError> {
        if !coordination::has_others(&self.log, self.node_id) {
            return Ok(());
        }
        let why = "the data directory belongs to a cluster of several nodes: start it with --mode auto";
        Err(StartError::Mode { mode: Mode::Standalone, why })
    }

    /// The node's identity.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The data directory.
    pub fn directory(&self) -> &DataDir {
        &self.directory
    }
}
