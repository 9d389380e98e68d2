//! Names: creations, renames and removals that are not durable until their directory is fsynced, and how to undo them.
//!
//! A file that is unlinked or renamed over moves to the graveyard, a directory outside every node's, until the change
//! is durable: so it can come back. A rename is durable when the directory it renames into is.
//! What a file's own fsync does for its name is a matter of [`NameRule`].
use super::{real, state::State};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What an fsync promises about names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// POSIX to the letter: only a directory's fsync makes the names in it durable.
    Strict,
    /// As ext4, XFS and btrfs do: a file's fsync carries the creation of the file and of the directories above it.
    /// Renames and removals still need their directory's. fjall relies on this (for its directories and blob files).
    Journalled,
}

#[derive(Debug)]
pub enum NameChange {
    /// A new file or directory.
    Created(PathBuf),
    /// `replaced` is the grave of what was at `to`.
    Renamed {
        from: PathBuf,
        to: PathBuf,
        replaced: Option<PathBuf>,
    },
    Unlinked {
        path: PathBuf,
        grave: PathBuf,
    },
    DirectoryRemoved(PathBuf),
}

impl NameChange {
    /// The name that changed; its parent's fsync makes the change durable.
    pub fn path(&self) -> &Path {
        match self {
            NameChange::Created(path) | NameChange::DirectoryRemoved(path) => path,
            NameChange::Renamed { to: path, .. } | NameChange::Unlinked { path, .. } => path,
        }
    }

    /// Every name that means something else since.
    fn touches(&self) -> Vec<&Path> {
        match self {
            NameChange::Renamed { from, to, .. } => vec![from, to],
            change => vec![change.path()],
        }
    }

    /// For people, with the path relative to `dir`.
    pub fn describe(&self, dir: &Path) -> String {
        let what = match self {
            NameChange::Created(_) => "create",
            NameChange::Renamed { .. } => "rename to",
            NameChange::Unlinked { .. } => "unlink",
            NameChange::DirectoryRemoved(_) => "rmdir",
        };
        format!("{what} {}", self.path().strip_prefix(dir).unwrap_or(self.path()).display())
    }
}

impl State {
    pub fn created(&mut self, path: &Path) {
        self.changed(NameChange::Created(path.to_path_buf()));
    }

    /// `Err` is the errno, here and below.
    pub fn make_directory(&mut self, path: &Path, mode: u32) -> Result<(), i32> {
        if self.is_full(path) {
            return Err(libc::ENOSPC);
        }
        // SAFETY: a C string.
        last_error(unsafe { real::mkdir(c_path(path).as_ptr(), mode) })?;
        self.created(path);
        Ok(())
    }

    pub fn remove_directory(&mut self, path: &Path) -> Result<(), i32> {
        // SAFETY: a C string.
        last_error(unsafe { real::rmdir(c_path(path).as_ptr()) })?;
        self.changed(NameChange::DirectoryRemoved(path.to_path_buf()));
        Ok(())
    }

    fn changed(&mut self, change: NameChange) {
        self.statistics.name_changes += 1;
        self.names.push(change);
    }

    /// Takes the file at `path` out of the way.
    pub fn unlink(&mut self, path: &Path) -> Result<(), i32> {
        let grave = self.bury(path)?;
        self.changed(NameChange::Unlinked { path: path.to_path_buf(), grave });
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), i32> {
        if !fs::symlink_metadata(from).map_err(errno)?.is_file() {
            // A directory: its content's undo log names the old paths, so it becomes durable first.
            self.names.retain(|change| !change.path().starts_with(from));
        }
        let replaced = if to.is_file() && from != to { Some(self.bury(to)?) } else { None };
        move_name(from, to)?;
        self.moved(from, to);
        self.changed(NameChange::Renamed { from: from.to_path_buf(), to: to.to_path_buf(), replaced });
        Ok(())
    }

    fn bury(&mut self, path: &Path) -> Result<PathBuf, i32> {
        if !fs::symlink_metadata(path).map_err(errno)?.is_file() {
            return Err(libc::EISDIR);
        }
        self.graves += 1;
        let grave = self.graveyard.join(self.graves.to_string());
        move_name(path, &grave)?;
        self.moved(path, &grave);
        Ok(grave)
    }

    /// Known files follow their name.
    fn moved(&mut self, from: &Path, to: &Path) {
        for file in self.files.values_mut() {
            if let Ok(below) = file.path.strip_prefix(from) {
                file.path = if below.as_os_str().is_empty() { to.to_path_buf() } else { to.join(below) };
            }
        }
    }

    /// The directory `dir` was fsynced: changes of names in it are durable.
    pub fn sync_names(&mut self, dir: &Path) {
        let (durable, pending): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.names).into_iter().partition(|change| change.path().parent() == Some(dir));
        self.names = pending;
        durable.into_iter().for_each(|change| self.settle(change));
    }

    /// The file or directory at `path` was fsynced on a journalling file system: its own creation and that of the
    /// directories above it are durable, and with them every older change of a name they touched, as a journal keeps
    /// its order.
    pub fn sync_creation(&mut self, path: &Path) {
        let mut touched: BTreeSet<PathBuf> = BTreeSet::new();
        let (mut durable, mut pending) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.names).into_iter().rev() {
            let created = matches!(&change, NameChange::Created(name) if path.starts_with(name));
            if created || change.touches().iter().any(|name| touched.contains(*name)) {
                touched.extend(change.touches().into_iter().map(Path::to_path_buf));
                durable.push(change);
            } else {
                pending.push(change);
            }
        }
        pending.reverse();
        self.names = pending;
        durable.into_iter().rev().for_each(|change| self.settle(change));
    }

    /// A change that can no longer be undone: what it took away is gone.
    pub fn settle(&mut self, change: NameChange) {
        if let NameChange::Unlinked { grave, .. } | NameChange::Renamed { replaced: Some(grave), .. } = change {
            self.forget_writes(&grave);
            let _ = remove(&grave);
        }
    }

    /// The change never happened. Changes must be undone newest first.
    pub fn undo(&mut self, change: NameChange) {
        match change {
            NameChange::Created(path) if path.is_dir() => self.forget_tree(&path),
            NameChange::Created(path) => drop(remove(&path)),
            NameChange::Unlinked { path, grave } => self.bring_back(&grave, &path),
            NameChange::DirectoryRemoved(path) => drop(fs::create_dir(&path)),
            NameChange::Renamed { from, to, replaced } => {
                self.bring_back(&to, &from);
                if let Some(grave) = replaced {
                    self.bring_back(&grave, &to);
                }
            }
        }
    }

    /// A directory whose creation is lost takes everything in it along, synced or not.
    fn forget_tree(&mut self, dir: &Path) {
        self.forget_writes(dir);
        let _ = fs::remove_dir_all(dir);
    }

    /// Nobody will see the files at or below `path` again.
    fn forget_writes(&mut self, path: &Path) {
        let gone: Vec<_> =
            self.files.iter().filter(|(_, file)| file.path.starts_with(path)).map(|(id, _)| *id).collect();
        for id in gone {
            self.files.get_mut(&id).expect("listed a moment ago").writes.clear();
            self.forget_if_durable(id);
        }
    }

    /// What is at `from` is at `to` again. The directory of either may be gone with an older change: then nothing is.
    fn bring_back(&mut self, from: &Path, to: &Path) {
        if move_name(from, to).is_ok() {
            self.moved(from, to);
        }
    }
}

pub fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths have no zero byte")
}

fn last_error(result: i32) -> Result<(), i32> {
    if result == 0 { Ok(()) } else { Err(errno(std::io::Error::last_os_error())) }
}

fn move_name(from: &Path, to: &Path) -> Result<(), i32> {
    // SAFETY: both are C strings.
    last_error(unsafe { real::rename(c_path(from).as_ptr(), c_path(to).as_ptr()) })
}

fn remove(path: &Path) -> Result<(), i32> {
    // SAFETY: a C string.
    last_error(unsafe { real::unlink(c_path(path).as_ptr()) })
}
