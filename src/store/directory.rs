//! The data directory of a node: who may use it and what it is. `LOCK` keeps a second process out, `FORMAT` says that the
//! directory is ours and how it is laid out, `NODE` holds the node's identity, `BOOT` how often it was started, `MEMBERS` the nodes of its cluster. A directory that is not ours, is newer or
//! is damaged is refused and left as it is. Opened first of all by `node` and `embedded`; the databases lie inside.

use super::error::StoreError;
use super::files::{FileKind, read_file, sync_directory, write_file_synced};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const NODE_FILE: &str = "NODE";
/// Layout of the data directory. Raise it when a program of the version before could damage what is written now.
/// 2: every group of the log is Raft's, and group 0 the coordinator's.
const FORMAT: FileKind = FileKind { tag: *b"DATA", version: 2 };
const NODE: FileKind = FileKind { tag: *b"NODE", version: 1 };
const BOOT_FILE: &str = "BOOT";
/// How often the directory has been started on, u64 LE.
const BOOT: FileKind = FileKind { tag: *b"BOOT", version: 1 };
const MEMBERS_FILE: &str = "MEMBERS";
/// Ids of the nodes of the cluster, u64 LE each, in order.
const MEMBERS: FileKind = FileKind { tag: *b"MEMB", version: 1 };
/// What a first start that was cut short may have left beside `LOCK`.
const FORMAT_TEMPORARY: &str = "FORMAT.tmp";

/// A data directory, locked for this process as long as the value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // Held for its lock.
    _lock: File,
}

impl DataDir {
    /// Opens `path`, creating it (mode 0700) if absent. Errors: `InUse`, `NotOurs`, `NewerFormat`, `Corrupt`, `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<DataDir, StoreError> {
        let path = std::path::absolute(path.as_ref()).map_err(|e| StoreError::io(path.as_ref(), "resolve", e))?;
        make_directory(&path)?;
        let found = read_file(&path.join(FORMAT_FILE), FORMAT)?.map(|(version, _)| version);
        if let Some(older) = found.filter(|version| *version < FORMAT.version) {
            let problem = format!(
                "layout {older}, expected {}: export the tables with the version of the program that wrote it",
                FORMAT.version
            );
            return Err(StoreError::corrupt(&path.join(FORMAT_FILE), problem));
        }
        let formatted = found.is_some();
        if !formatted {
            refuse_foreign(&path)?;
        }
        let lock = lock(&path)?;
        if !formatted {
            write_file_synced(&path.join(FORMAT_FILE), FORMAT, b"")?;
        }
        Ok(DataDir { path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside the directory.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The identity of this node: the one stored, or `candidate` (a random number), which is stored first.
    pub fn node_id(&self, candidate: u64) -> Result<u64, StoreError> {
        let path = self.path.join(NODE_FILE);
        let Some((_, content)) = read_file(&path, NODE)? else {
            write_file_synced(&path, NODE, &candidate.to_le_bytes())?;
            return Ok(candidate);
        };
        number(&path, &content)
    }

    /// How often a process has started on this directory, this one included: survives power loss before it returns, so that no two
    /// processes are told the same.
    pub fn next_boot(&self) -> Result<u64, StoreError> {
        let path = self.path.join(BOOT_FILE);
        let before = match read_file(&path, BOOT)? {
            Some((_, content)) => number(&path, &content)?,
            None => 0,
        };
        write_file_synced(&path, BOOT, &(before + 1).to_le_bytes())?;
        Ok(before + 1)
    }

    /// The ids of the cluster's nodes, once they were set.
    pub fn members(&self) -> Result<Option<Vec<u64>>, StoreError> {
        let path = self.path.join(MEMBERS_FILE);
        let Some((_, content)) = read_file(&path, MEMBERS)? else { return Ok(None) };
        content.chunks(8).map(|id| number(&path, id)).collect::<Result<_, _>>().map(Some)
    }

    /// Keeps the ids of the cluster's nodes; survives power loss when it returns.
    pub fn set_members(&self, ids: &[u64]) -> Result<(), StoreError> {
        let content: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        write_file_synced(&self.path.join(MEMBERS_FILE), MEMBERS, &content)
    }
}

fn number(path: &Path, content: &[u8]) -> Result<u64, StoreError> {
    let number = content.try_into().map(u64::from_le_bytes);
    number.map_err(|_| StoreError::corrupt(path, format!("expected 8 bytes, got {}", content.len())))
}

/// Makes a directory (mode 0700) and its parents if they are not there, and syncs the parent.
pub fn make_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| StoreError::io(path, "create", e))?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// A directory without our `FORMAT` must be empty, but for what an unfinished first start leaves and for data directories of other
/// nodes: the seeds' roles keep theirs in `data/`, which is where a node without a configuration has its own.
fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(|e| StoreError::io(path, "list", e))? {
        let entry = entry.map_err(|e| StoreError::io(path, "list", e))?;
        let name = entry.file_name();
        // A freshly made file system has its own directory at the root of the mount.
        let harmless = name == LOCK_FILE || name == FORMAT_TEMPORARY || name == "lost+found";
        if !harmless && !entry.path().join(FORMAT_FILE).is_file() {
            return Err(StoreError::NotOurs { path: path.into() });
        }
    }
    Ok(())
}

/// Takes the lock and leaves our process id in it for the message of the next one who tries.
fn lock(path: &Path) -> Result<File, StoreError> {
    let name = path.join(LOCK_FILE);
    let fail = |action| move |error| StoreError::io(&path.join(LOCK_FILE), action, error);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
    let mut file = options.map_err(fail("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.into(), pid: holder(&mut file) }),
        Err(TryLockError::Error(error)) => return Err(fail("lock")(error)),
    }
    write_holder(&mut file).map_err(fail("write"))?;
    Ok(file)
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_directory_is_private_and_keeps_its_identity() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(first.node_id(7).unwrap(), 7);
        drop(first);
        assert_eq!(DataDir::open(&path).unwrap().node_id(8).unwrap(), 7);
    }

    #[test]
    fn starts_are_counted_and_members_kept() {
        let path = tempfile::tempdir().unwrap();
        let directory = DataDir::open(path.path()).unwrap();
        assert_eq!((directory.next_boot().unwrap(), directory.next_boot().unwrap()), (1, 2));
        assert_eq!(directory.members().unwrap(), None);
        directory.set_members(&[3, u64::MAX]).unwrap();
        drop(directory);
        let directory = DataDir::open(path.path()).unwrap();
        assert_eq!((directory.next_boot().unwrap(), directory.members().unwrap()), (3, Some(vec![3, u64::MAX])));
        fs::write(path.path().join(BOOT_FILE), "x").unwrap();
        assert!(matches!(directory.next_boot(), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn a_second_user_is_told_who_holds_it() {
        let path = tempfile::tempdir().unwrap();
        let first = DataDir::open(path.path()).unwrap();
        let refused = DataDir::open(path.path()).unwrap_err();
        assert!(refused.to_string().ends_with(&format!("is in use by process {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::open(path.path()).unwrap();
    }

    #[test]
    fn a_strangers_directory_is_left_alone() {
        let path = tempfile::tempdir().unwrap();
        fs::write(path.path().join("thesis.tex"), "x").unwrap();
        let refused = DataDir::open(path.path()).unwrap_err();
        assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused}");
        let names: Vec<_> = fs::read_dir(path.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["thesis.tex"]);
    }

    #[test]
    fn data_directories_of_other_nodes_inside_are_no_strangers() {
        let path = tempfile::tempdir().unwrap();
        let inner = DataDir::open(path.path().join("master_snapshot")).unwrap();
        let outer = DataDir::open(path.path()).unwrap();
        assert_eq!((inner.node_id(7).unwrap(), outer.node_id(8).unwrap()), (7, 8));
        drop((inner, outer));
        assert_eq!(DataDir::open(path.path().join("master_snapshot")).unwrap().node_id(9).unwrap(), 7);
    }

    #[test]
    fn an_unfinished_first_start_is_finished() {
        let path = tempfile::tempdir().unwrap();
        fs::write(path.path().join(LOCK_FILE), "1").unwrap();
        fs::write(path.path().join(FORMAT_TEMPORARY), "half").unwrap();
        DataDir::open(path.path()).unwrap();
        DataDir::open(path.path()).unwrap();
    }

    #[test]
    fn newer_and_damaged_formats_are_refused_and_kept() {
        let path = tempfile::tempdir().unwrap();
        let format = path.path().join(FORMAT_FILE);
        write_file_synced(&format, FileKind { version: 9, ..FORMAT }, b"future").unwrap();
        let before = fs::read(&format).unwrap();
        let refused = DataDir::open(path.path()).unwrap_err();
        assert!(matches!(refused, StoreError::NewerFormat { found: 9, supported: 2, .. }), "{refused}");
        assert_eq!(fs::read(&format).unwrap(), before);
        write_file_synced(&format, FileKind { version: 1, ..FORMAT }, b"").unwrap();
        let older = DataDir::open(path.path()).unwrap_err();
        assert!(older.to_string().contains("layout 1, expected 2"), "{older}");
        fs::write(&format, &before[..10]).unwrap();
        assert!(matches!(DataDir::open(path.path()), Err(StoreError::Corrupt { .. })));
        assert_eq!(fs::read(&format).unwrap(), &before[..10]);
    }
}
