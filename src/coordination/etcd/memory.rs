//! What this node last knew of etcd's keys, in a file of the data directory and in memory: what it lives on while etcd cannot be
//! reached, from its start on. A process without data has no file. The file is written first, so that nobody acts by what a crash could make this node forget. Keys of leases
//! are not kept. Called by `etcd`.

use crate::{
    coordination::{Change, Entries, KeyValue, Mirror, Seen, Transaction},
    rt::{self, Shutdown, time},
    store::{
        StoreError,
        files::{FileKind, read_file, write_file_synced},
    },
};
use arc_swap::{ArcSwap, ArcSwapOption};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// The file: the remembered keys, in postcard.
const KNOWN: FileKind = FileKind { tag: *b"ETCD", version: 1 };
/// After the file could not be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Whether what was found may take the place of the keys that are known; why not.
pub type Vet = Arc<dyn Fn(&Entries, &Seen) -> Result<(), String> + Send + Sync>;

/// See the module.
pub(super) struct Memory {
    file: Option<PathBuf>,
    known: ArcSwap<Entries>,
    vet: Vet,
    /// Whether something of etcd's was taken since the start.
    has_heard: AtomicBool,
    /// Why what etcd has is not taken, while it is not.
    alarm: ArcSwapOption<String>,
    /// Grows with every change.
    version: AtomicU64,
    changed: Notify,
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
    /// What the file says; nothing if there is none. Without `file` nothing outlives the process.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(super) fn open(file: Option<PathBuf>, vet: Vet) -> Result<Memory, StoreError> {
        let known = file.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Memory {
            file,
            known: ArcSwap::from_pointee(known),
            vet,
            has_heard: AtomicBool::new(false),
            alarm: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            changed: Notify::new(),
        })
    }

    /// Whether something of etcd's was taken since the start.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard.load(SeqCst)
    }

    /// Why what etcd has is not taken, while it is not.
    pub(super) fn alarm(&self) -> Option<Arc<String>> {
        self.alarm.load_full()
    }

    /// Waits for a change after version `seen`; which version that is.
    pub(super) async fn changed(&self, seen: u64) -> u64 {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let version = self.version.load(SeqCst);
            if version > seen {
                return version;
            }
            changed.await;
        }
    }

    /// Waits until what a transaction did at `revision` is known here.
    pub(super) async fn shows(&self, transaction: &Transaction, revision: u64) {
        let mut seen = 0;
        loop {
            let known = self.known.load_full();
            let is_there = |change: &Change| match change {
                Change::Put(key, _) => known.get(key).is_some_and(|kv| kv.revision >= revision),
                Change::Delete(key) => known.get(key).is_none_or(|kv| kv.revision > revision),
                Change::PutLeased(..) => true,
            };
            if transaction.changes.iter().all(is_there) {
                return;
            }
            seen = self.changed(seen).await;
        }
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<KeyValue> {
        let known = self.known.load();
        let below = known.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        below.map(|(_, kv)| kv.clone()).collect()
    }

    /// The lasting ones of these keys, if they may be taken and are others than those that are known.
    fn news(&self, found: &Seen) -> Option<Entries> {
        if let Err(why) = (self.vet)(&self.known.load(), found) {
            if self.alarm.load().is_none() {
                tracing::error!(why, "what etcd holds is not obeyed; the node goes on with what it knows");
            }
            self.alarm.store(Some(Arc::new(why)));
            return None;
        }
        let lasting = found.entries.iter().filter(|(_, kv)| kv.lease.is_none());
        let lasting: Entries = lasting.map(|(key, kv)| (key.clone(), kv.clone())).collect();
        if **self.known.load() != lasting {
            return Some(lasting);
        }
        self.heard();
        None
    }

    fn heard(&self) {
        if self.alarm.swap(None).is_some() {
            tracing::info!("etcd is obeyed again");
        }
        self.has_heard.store(true, SeqCst);
    }

    /// Puts these, of which the file tells, in place of what is known.
    fn publish(&self, lasting: Entries) {
        self.known.store(Arc::new(lasting));
        self.heard();
        self.version.fetch_add(1, SeqCst);
        self.changed.notify_waiters();
    }

    /// Writes the file. Blocking.
    fn write(&self, lasting: &Entries) -> Result<(), StoreError> {
        let Some(file) = &self.file else { return Ok(()) };
        let stored: Vec<Stored> = lasting.values().map(Stored::of).collect();
        let content = postcard::to_stdvec(&stored).expect("keys and values always encode");
        write_file_synced(file, KNOWN, &content)
    }

    /// Takes what etcd holds, if it may be taken.
    ///
    /// # Errors
    /// The file cannot be written; nothing is taken then.
    async fn take(self: &Arc<Memory>, found: &Seen) -> Result<(), StoreError> {
        let Some(lasting) = self.news(found) else { return Ok(()) };
        let memory = self.clone();
        let lasting = rt::compute::io(move || memory.write(&lasting).map(|()| lasting)).await?;
        self.publish(lasting);
        Ok(())
    }
}

/// The keys that a file keeps; none if there is no file.
///
/// # Errors
/// As [`Memory::open`].
pub(super) fn read(file: &Path) -> Result<Entries, StoreError> {
    let Some((_, content)) = read_file(file, KNOWN)? else { return Ok(Entries::new()) };
    let stored: Vec<Stored> = postcard::from_bytes(&content)
        .map_err(|error| StoreError::corrupt(file, format!("not a list of keys: {error}")))?;
    Ok(stored.into_iter().map(Stored::into_entry).collect())
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

/// Keeps the memory as the mirror is, until `stop`. When this has returned the file is not written any more.
pub(super) async fn keep(mirror: Mirror, memory: Arc<Memory>, stop: Shutdown) {
    let mut seen = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => return,
            version = mirror.changed(seen) => seen = version,
        }
        while let Err(error) = memory.take(&mirror.seen()).await {
            tracing::error!(%error, "what is known of etcd cannot be kept, so nothing new is taken");
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = time::sleep(RETRY_INTERVAL) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(entries: Entries) -> Seen {
        Seen { entries: Arc::new(entries), revision: 20 }
    }

    #[tokio::test]
    async fn lasting_keys_are_found_again_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etcd");
        let vet: Vet =
            Arc::new(|_, found: &Seen| if found.entries.contains_key("bad") { Err("bad".to_owned()) } else { Ok(()) });
        let memory = Arc::new(Memory::open(Some(file.clone()), vet.clone()).unwrap());
        assert!(memory.list("").is_empty() && !memory.has_heard());
        let kv = |key: &str, lease| KeyValue { key: key.into(), value: vec![1], revision: 9, created: 3, lease };
        let all = [kv("a/1", None), kv("a/2", Some(5)), kv("b", None)];
        let entries = seen(all.into_iter().map(|kv| (kv.key.clone(), kv)).collect());
        memory.take(&entries).await.unwrap();
        assert!(memory.has_heard() && memory.changed(0).await == 1);
        let again = Memory::open(Some(file.clone()), vet.clone()).unwrap();
        assert_eq!((again.list("a/"), again.list("").len()), (vec![kv("a/1", None)], 2), "it was kept first");
        let bad = seen([("bad".to_owned(), kv("bad", None))].into());
        memory.take(&bad).await.unwrap();
        assert!(memory.alarm().is_some() && memory.list("").len() == 2, "it is not taken");
        memory.take(&entries).await.unwrap();
        assert!(memory.alarm().is_none() && memory.changed(0).await == 1, "the alarm ends with its cause");
        // What cannot be kept is not acted by.
        std::fs::create_dir(dir.path().join("etcd.tmp")).unwrap();
        assert!(memory.take(&Seen::default()).await.is_err() && memory.list("").len() == 2);
        write_file_synced(&dir.path().join("other"), KNOWN, b"\xff\xff").unwrap();
        assert!(matches!(Memory::open(Some(dir.path().join("other")), vet), Err(StoreError::Corrupt { .. })));
    }

    #[tokio::test]
    async fn what_was_changed_is_waited_for() {
        let memory = Arc::new(Memory::open(None, Arc::new(|_, _| Ok(()))).unwrap());
        let kv = |revision| KeyValue { key: "k".into(), value: vec![1], revision, created: 3, lease: None };
        let put = Transaction { compares: Vec::new(), changes: vec![Change::Put("k".into(), vec![1])] };
        let deleted = Transaction { compares: Vec::new(), changes: vec![Change::Delete("k".into())] };
        let shows = async |transaction: &Transaction, revision| {
            time::timeout(Duration::from_millis(20), memory.shows(transaction, revision)).await.is_ok()
        };
        memory.take(&seen([("k".to_owned(), kv(9))].into())).await.unwrap();
        assert!(shows(&put, 9).await && !shows(&put, 10).await && !shows(&deleted, 10).await);
        memory.take(&seen([("k".to_owned(), kv(11))].into())).await.unwrap();
        assert!(shows(&put, 10).await && shows(&deleted, 10).await, "it was made again since");
        memory.take(&Seen::default()).await.unwrap();
        assert!(shows(&deleted, 12).await);
    }
}
