//! What this node last knew of etcd's keys, in memory and in a file of the data directory: what it lives on while etcd cannot be
//! reached, from its start on. Keys of leases are not kept. Called by `etcd`.

use crate::{
    coordination::{Entries, KeyValue, Mirror},
    rt::{self, Shutdown, time},
    store::{
        StoreError,
        files::{FileKind, read_file, write_file_synced},
    },
};
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// The file: the remembered keys, in postcard.
const KNOWN: FileKind = FileKind { tag: *b"ETCD", version: 1 };
/// Between two writes of the file, at least.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Memory {
    file: PathBuf,
    known: ArcSwap<Entries>,
}

/// A key in the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    value: Vec<u8>,
    revision: u64,
    created: u64,
}

impl Memory {
    /// What the file says; nothing if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(super) fn open(file: PathBuf) -> Result<Memory, StoreError> {
        let known = match read_file(&file, KNOWN)? {
            None => Entries::new(),
            Some((_, content)) => {
                let stored: Vec<Stored> = postcard::from_bytes(&content)
                    .map_err(|error| StoreError::corrupt(&file, format!("not a list of keys: {error}")))?;
                stored.into_iter().map(Stored::into_entry).collect()
            }
        };
        Ok(Memory { file, known: ArcSwap::from_pointee(known) })
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<KeyValue> {
        let known = self.known.load();
        let below = known.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        below.map(|(_, kv)| kv.clone()).collect()
    }

    /// Keeps these instead; whether they are others than before.
    fn replace(&self, entries: &Entries) -> bool {
        let lasting: Entries =
            entries.iter().filter(|(_, kv)| kv.lease.is_none()).map(|(key, kv)| (key.clone(), kv.clone())).collect();
        let differs = **self.known.load() != lasting;
        if differs {
            self.known.store(Arc::new(lasting));
        }
        differs
    }

    /// Writes the file. Blocking.
    fn write(&self) -> Result<(), StoreError> {
        let known = self.known.load();
        let stored: Vec<Stored> = known.values().map(Stored::of).collect();
        let content = postcard::to_stdvec(&stored).expect("keys and values always encode");
        write_file_synced(&self.file, KNOWN, &content)
    }
}

impl Stored {
    fn of(kv: &KeyValue) -> Stored {
        Stored { key: kv.key.clone(), value: kv.value.clone(), revision: kv.revision, created: kv.created }
    }

    fn into_entry(self) -> (String, KeyValue) {
        let Stored { key, value, revision, created } = self;
        (key.clone(), KeyValue { key, value, revision, created, lease: None })
    }
}

/// Keeps the memory as the mirror is, until `stop`.
pub(super) async fn keep(mirror: Mirror, memory: Arc<Memory>, stop: Shutdown) {
    let mut seen = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => return,
            version = mirror.changed(seen) => seen = version,
        }
        if !memory.replace(&mirror.entries()) {
            continue;
        }
        let writing = memory.clone();
        if let Err(error) = rt::compute::io(move || writing.write()).await {
            tracing::error!(%error, "what is known of etcd cannot be kept");
        }
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = time::sleep(WRITE_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lasting_keys_are_found_again_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etcd");
        let memory = Memory::open(file.clone()).unwrap();
        assert!(memory.list("").is_empty());
        let kv = |key: &str, lease| KeyValue { key: key.into(), value: vec![1], revision: 9, created: 3, lease };
        let entries: Entries =
            [kv("a/1", None), kv("a/2", Some(5)), kv("b", None)].into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        assert!(memory.replace(&entries) && !memory.replace(&entries));
        memory.write().unwrap();
        let again = Memory::open(file.clone()).unwrap();
        assert_eq!((again.list("a/"), again.list("").len()), (vec![kv("a/1", None)], 2));
        write_file_synced(&file, KNOWN, b"\xff\xff").unwrap();
        assert!(matches!(Memory::open(file), Err(StoreError::Corrupt { .. })));
    }
}
