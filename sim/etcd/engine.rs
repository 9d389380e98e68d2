//! What stands behind the simulated etcd: the embedded coordinator of a node that is alone.
use std::{path::PathBuf, sync::Arc};
use vectorsphere::{
    coordination::{Embedded, embedded},
    raft::{LogStore, MultiRaft, Nobody, RaftOptions, Route, log_options},
    store::{Store, StoreOptions, directory::make_directory},
};

/// Its only member's id.
const MEMBER: u64 = 1;

/// See the module.
pub struct Engine {
    pub embedded: Embedded,
    raft: MultiRaft,
}

impl Engine {
    /// Opens what lies below `dir`, making it if it is not there.
    pub async fn open(dir: PathBuf) -> Engine {
        let checkpoints = dir.join("checkpoint");
        make_directory(&checkpoints).expect("the disk takes a directory");
        let log = LogStore::open(dir.join("log"), log_options()).expect("the log opens");
        let store = Store::open(dir.join("store"), StoreOptions::default()).expect("the store opens");
        let raft =
            MultiRaft::start(MEMBER, log, None, Arc::new(Nobody), Arc::from(checkpoints), RaftOptions::default());
        let embedded = Embedded::open(store).expect("the map opens");
        let machine = embedded.machine().expect("the map can be read");
        let group = raft.open(embedded::GROUP, &[MEMBER], machine).await.expect("the group opens");
        embedded.attach(Route::new(group, Arc::new(Nobody), embedded::decode_outcome));
        Engine { embedded, raft }
    }

    /// Closes it.
    pub async fn close(&self) {
        self.raft.stop().await;
    }
}
