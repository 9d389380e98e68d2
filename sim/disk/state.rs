//! What the simulated disk knows: open descriptors, files with the writes that are not yet durable, faults to inject.
//!
//! Files are known by device and inode number, but never ordered by them: the numbers differ from run to run, so what
//! is iterated is ordered by path. A file stays known while a descriptor refers to it or a power failure could change
//! it; each known file is held open by a descriptor of the disk's own, so its inode number is not used again.
use super::{
    names::{NameChange, NameRule},
    real,
};
use libc::{c_int, off64_t};
use rand::{Rng, RngCore};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use vectorsphere::store::{files::HEADER_BYTES, keys::SYNC_MARK_KEY};

thread_local!(static STATE: RefCell<Option<State>> = const { RefCell::new(None) });

/// Runs `f` on this thread's disk, if it has one and it is not in use already (calls made by `f` go straight to libc).
pub fn with<T>(f: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.try_with(|state| state.try_borrow_mut().ok().and_then(|mut state| state.as_mut().map(f))).ok().flatten()
}

pub fn install(state: State) {
    let before = STATE.with(|slot| slot.borrow_mut().replace(state));
    assert!(before.is_none(), "one disk a simulation");
}

pub fn uninstall() {
    if let Some(state) = STATE.with(|slot| slot.borrow_mut().take()) {
        state.files.values().for_each(|file| file.release());
    }
}

/// Device and inode number.
pub type FileId = (u64, u64);

/// Whether the bytes of a write survive a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Not fsynced yet: the loss model decides.
    Pending,
    /// An fsync covered it while an older write of the file is doomed, so it cannot be forgotten yet.
    Synced,
    /// Its fsync failed: the kernel dropped the pages, it never becomes durable.
    Doomed,
}

/// One change of a file's bytes that is not durable: at `offset`, `old` became `new`, and the length changed.
/// A truncation has the bytes it cut off as `old`, without the hole they end in, and nothing as `new`.
pub struct Write {
    pub offset: u64,
    pub old: Vec<u8>,
    pub new: Vec<u8>,
    pub length_before: u64,
    pub length_after: u64,
    pub durability: Durability,
}

/// A file below the root.
pub struct File {
    /// Where it is now (after renames); in the graveyard once unlinked.
    pub path: PathBuf,
    /// Where it was first seen: says whose it is, also from the graveyard.
    home: PathBuf,
    /// The disk's own descriptor.
    pub descriptor: c_int,
    pub is_directory: bool,
    /// In the order in which they were made.
    pub writes: Vec<Write>,
    open: usize,
}

impl File {
    fn release(&self) {
        // SAFETY: the descriptor is the disk's own and is closed once.
        unsafe { real::close(self.descriptor) };
    }

    pub fn length(&self) -> u64 {
        length(self.descriptor)
    }
}

/// A descriptor of the simulated program.
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub file: FileId,
    /// Its process was killed: what it does has no effect.
    pub orphan: bool,
}

/// Lets `skip` calls pass and then fails `count`.
#[derive(Clone, Copy, Default)]
pub struct Countdown {
    pub skip: u32,
    pub count: u32,
}

impl Countdown {
    fn strikes(&mut self) -> bool {
        if self.count == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.count -= 1;
        true
    }
}

#[derive(Clone, Default)]
pub struct Faults {
    pub syncs: Countdown,
    pub reads: Countdown,
    pub space_left: Option<u64>,
    /// Changes until the process is cut off; at zero every one fails.
    pub crash_in: Option<u64>,
    /// What has struck so far.
    pub sync_failed_at: Option<PathBuf>,
    pub reads_failed: u64,
    pub writes_without_room: u64,
}

/// Counts for the report: all are numbers of calls, except the bytes.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub writes: u64,
    pub write_bytes: u64,
    pub syncs: u64,
    pub name_changes: u64,
    /// Calls of killed processes that had no effect.
    pub swallowed: u64,
    pub sync_errors: u64,
    pub read_errors: u64,
    pub space_errors: u64,
}

pub struct State {
    root: PathBuf,
    /// Where unlinked files wait until their unlinking is durable.
    pub graveyard: PathBuf,
    pub graves: u64,
    pub descriptors: BTreeMap<c_int, Descriptor>,
    pub files: BTreeMap<FileId, File>,
    /// Name changes that are not durable, oldest first.
    pub names: Vec<NameChange>,
    name_rule: NameRule,
    faults: BTreeMap<PathBuf, Faults>,
    /// Directories whose process is dead and not yet restarted.
    pub frozen: Vec<PathBuf>,
    pub statistics: Statistics,
}

impl State {
    pub fn new(root: &Path, graveyard: PathBuf, name_rule: NameRule) -> State {
        State {
            root: root.to_path_buf(),
            graveyard,
            graves: 0,
            descriptors: BTreeMap::new(),
            files: BTreeMap::new(),
            names: Vec::new(),
            name_rule,
            faults: BTreeMap::new(),
            frozen: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    /// Whether the path is simulated.
    pub fn covers(&self, path: &Path) -> bool {
        path.starts_with(&self.root) && !path.starts_with(&self.graveyard)
    }

    /// Whether only a dead process's destructors could be at work at the path.
    pub fn is_frozen(&self, path: &Path) -> bool {
        self.frozen.iter().any(|dir| path.starts_with(dir))
    }

    pub fn faults_of(&mut self, dir: &Path) -> &mut Faults {
        self.faults.entry(dir.to_path_buf()).or_default()
    }

    fn faults_for(&mut self, file: FileId) -> Option<&mut Faults> {
        let home = &self.files.get(&file)?.home;
        self.faults.iter_mut().find(|(dir, _)| home.starts_with(dir)).map(|(_, faults)| faults)
    }

    /// Remembers that `fd` was opened at `path`. `false`: the file could not be followed.
    pub fn opened(&mut self, fd: c_int, path: &Path) -> bool {
        let Some((id, mode)) = identity(fd) else { return false };
        let is_directory = mode & libc::S_IFMT == libc::S_IFDIR;
        if !is_directory && mode & libc::S_IFMT != libc::S_IFREG {
            return true;
        }
        if let std::collections::btree_map::Entry::Vacant(slot) = self.files.entry(id) {
            let Some(descriptor) = own_descriptor(fd, is_directory) else { return false };
            let (path, home) = (path.to_path_buf(), path.to_path_buf());
            slot.insert(File { path, home, descriptor, is_directory, writes: Vec::new(), open: 0 });
        }
        self.forget_descriptor(fd);
        self.descriptors.insert(fd, Descriptor { file: id, orphan: self.is_frozen(path) });
        self.files.get_mut(&id).expect("just inserted").open += 1;
        true
    }

    /// `copy` is a duplicate of `fd`.
    pub fn duplicated(&mut self, fd: c_int, copy: c_int) {
        self.forget_descriptor(copy);
        if let Some(descriptor) = self.descriptors.get(&fd).copied() {
            self.descriptors.insert(copy, descriptor);
            self.files.get_mut(&descriptor.file).expect("open files are known").open += 1;
        }
    }

    /// `fd` is closed or is about to mean something else.
    pub fn forget_descriptor(&mut self, fd: c_int) {
        if let Some(Descriptor { file, .. }) = self.descriptors.remove(&fd) {
            self.files.get_mut(&file).expect("open files are known").open -= 1;
            self.forget_if_durable(file);
        }
    }

    /// Lets go of a file that no descriptor refers to and no power failure can change.
    pub fn forget_if_durable(&mut self, id: FileId) {
        if let Some(file) = self.files.get(&id)
            && file.open == 0
            && file.writes.is_empty()
        {
            file.release();
            self.files.remove(&id);
        }
    }

    /// The process that used `dir` is gone, and the kernel gives its locks back, whatever memory of it lives on here.
    pub fn orphan_descriptors(&mut self, dir: &Path) {
        for (fd, descriptor) in &mut self.descriptors {
            if !descriptor.orphan && self.files[&descriptor.file].home.starts_with(dir) {
                descriptor.orphan = true;
                // SAFETY: flock takes no pointers; an unlocked file stays as it is.
                unsafe { libc::flock(*fd, libc::LOCK_UN) };
            }
        }
    }

    /// The files below `dir` and those unlinked from there, in an order that is the same in every run.
    pub fn files_below(&self, dir: &Path) -> Vec<FileId> {
        let mut found: Vec<_> = self.files.iter().filter(|(_, file)| file.home.starts_with(dir)).collect();
        found.sort_by(|(_, one), (_, other)| (&one.home, &one.path).cmp(&(&other.home, &other.path)));
        found.into_iter().map(|(id, _)| *id).collect()
    }

    /// How many of `bytes` at `offset` the disk has room for.
    pub fn room_for(&mut self, id: FileId, offset: u64, bytes: u64) -> u64 {
        let length = self.files[&id].length();
        let Some(Faults { space_left: Some(left), writes_without_room, .. }) = self.faults_for(id) else {
            return bytes;
        };
        let growth = (offset + bytes).saturating_sub(length.max(offset));
        if growth <= *left {
            *left -= growth;
            return bytes;
        }
        let room = bytes - growth + std::mem::take(left);
        *writes_without_room += 1;
        self.statistics.space_errors += 1;
        room
    }

    /// By how much files below `path` may grow, if there is a bound.
    pub fn space_left(&self, path: &Path) -> Option<u64> {
        self.faults.iter().find(|(dir, _)| path.starts_with(dir)).and_then(|(_, faults)| faults.space_left)
    }

    /// Whether a new name finds no room below `path`.
    pub fn is_full(&mut self, path: &Path) -> bool {
        let full = self.faults.iter_mut().find(|(dir, faults)| path.starts_with(dir) && faults.space_left == Some(0));
        let Some((_, faults)) = full else { return false };
        faults.writes_without_room += 1;
        self.statistics.space_errors += 1;
        true
    }

    /// Whether a change at `path` comes after the crash that was set for it.
    pub fn crashes(&mut self, path: &Path) -> bool {
        let faults = self.faults.iter_mut().find(|(dir, _)| path.starts_with(dir)).map(|(_, faults)| faults);
        match faults.and_then(|faults| faults.crash_in.as_mut()) {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// As [`State::crashes`], for an open file.
    pub fn crashes_at(&mut self, id: FileId) -> bool {
        let home = self.files[&id].home.clone();
        self.crashes(&home)
    }

    pub fn read_fails(&mut self, id: FileId) -> bool {
        let Some(faults) = self.faults_for(id) else { return false };
        let fails = faults.reads.strikes();
        faults.reads_failed += u64::from(fails);
        self.statistics.read_errors += u64::from(fails);
        fails
    }

    /// Remembers a change about to be made: the bytes `new` at `offset`, or a change of length to `length_after`.
    pub fn record(&mut self, id: FileId, offset: u64, new: Vec<u8>, length_after: Option<u64>) {
        let file = self.files.get_mut(&id).expect("open files are known");
        let length_before = file.length();
        let length_after = length_after.unwrap_or(length_before.max(offset + new.len() as u64));
        let replaced = match new.is_empty() {
            // The engine sets its journals' length far ahead, and cuts it at each start: 64 MiB that were never written.
            true => end_of_data(file.descriptor, length_after, length_before).saturating_sub(length_after),
            false => length_before.saturating_sub(offset).min(new.len() as u64),
        };
        let old = read_exactly(file.descriptor, offset, replaced as usize);
        self.statistics.writes += 1;
        self.statistics.write_bytes += new.len() as u64;
        file.writes.push(Write { offset, old, new, length_before, length_after, durability: Durability::Pending });
    }

    /// fsync of a file or directory. `Err` is the errno.
    pub fn sync(&mut self, id: FileId) -> Result<(), c_int> {
        let fails = self.faults_for(id).is_some_and(|faults| faults.syncs.strikes());
        let file = self.files.get_mut(&id).expect("open files are known");
        if fails {
            let pending = file.writes.iter_mut().filter(|write| write.durability == Durability::Pending);
            pending.for_each(|write| write.durability = Durability::Doomed);
            let path = file.path.clone();
            self.faults_for(id).expect("it struck").sync_failed_at = Some(path);
            self.statistics.sync_errors += 1;
            return Err(libc::EIO);
        }
        self.statistics.syncs += 1;
        let (path, is_directory) = (file.path.clone(), file.is_directory);
        if self.name_rule == NameRule::Journalled {
            self.sync_creation(&path);
        }
        let file = self.files.get_mut(&id).expect("open files are known");
        if is_directory {
            self.sync_names(&path);
        } else if file.writes.iter().any(|write| write.durability == Durability::Doomed) {
            let pending = file.writes.iter_mut().filter(|write| write.durability == Durability::Pending);
            pending.for_each(|write| write.durability = Durability::Synced);
        } else {
            file.writes.clear();
        }
        Ok(())
    }
}

pub fn length(fd: c_int) -> u64 {
    // SAFETY: a stat64 is plain data, zero is a valid value, and fstat64 fills it.
    unsafe {
        let mut stat: libc::stat64 = std::mem::zeroed();
        assert_eq!(libc::fstat64(fd, &mut stat), 0, "the disk's own descriptor is open");
        stat.st_size as u64
    }
}

fn identity(fd: c_int) -> Option<(FileId, libc::mode_t)> {
    // SAFETY: as in `length`.
    unsafe {
        let mut stat: libc::stat64 = std::mem::zeroed();
        (libc::fstat64(fd, &mut stat) == 0).then_some(((stat.st_dev, stat.st_ino), stat.st_mode))
    }
}

/// Opens the file behind `fd` again, for reading and writing.
fn own_descriptor(fd: c_int, is_directory: bool) -> Option<c_int> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).expect("no zero byte");
    let how = if is_directory { libc::O_RDONLY } else { libc::O_RDWR } | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let own = unsafe { real::open64(path.as_ptr(), how, 0) };
    (own >= 0).then_some(own)
}

/// Where the last data between `from` and the file's end begin to be a hole; `from` if there is nothing but a hole, `length` where
/// the file system cannot tell.
fn end_of_data(fd: c_int, from: u64, length: u64) -> u64 {
    let mut end = from;
    while end < length {
        // SAFETY: no pointers; the position of the disk's own descriptor means nothing.
        let data = unsafe { libc::lseek64(fd, end as off64_t, libc::SEEK_DATA) };
        if data < 0 {
            // The only other answer to a good question: there is nothing but a hole behind `end`.
            let is_hole = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
            return if is_hole { end } else { length };
        }
        // SAFETY: as above.
        let hole = unsafe { libc::lseek64(fd, data, libc::SEEK_HOLE) };
        if hole <= data {
            return length;
        }
        end = hole as u64;
    }
    length
}

fn read_exactly(fd: c_int, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0u8; bytes];
    let mut done = 0;
    while done < bytes {
        let rest = &mut buffer[done..];
        // SAFETY: `rest` is a valid buffer of that many bytes.
        let got = unsafe { real::pread64(fd, rest.as_mut_ptr().cast(), rest.len(), (offset + done as u64) as off64_t) };
        assert!(got > 0, "the disk reads bytes it knows are there");
        done += got as usize;
    }
    buffer
}

/// Where a file decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    Anywhere,
    /// In the content of a small file, behind the header that protects it.
    Content,
    /// In a journal whose every record is synced, before the last one: what follows proves that the damage is no torn end.
    BeforeTheLastRecord,
    /// In a journal that is synced now and then, before the last record that says so.
    BeforeTheLastMark,
}

/// A file as it was before it decayed, and as it was then.
pub struct Decayed {
    path: PathBuf,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Decayed {
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the file is damaged, and nobody has written it anew since.
    pub fn is_damaged_still(&self) -> bool {
        self.before != self.after
            && with(|_| std::fs::read(&self.path).is_ok_and(|now| now == self.after)) == Some(true)
    }

    /// The medium is mended.
    pub fn undo(&self) {
        behind_the_model(&self.path, &self.before);
    }
}

/// How a record of the engine's journal ends.
const RECORD_END: &[u8] = b"FJL\x03";

/// Flips `flips` random bits of the file at `path`, behind the back of the model; `None` if there was nothing to flip.
pub fn decay(path: &Path, flips: u32, decay: Decay, rng: &mut dyn RngCore) -> Option<Decayed> {
    let before = std::fs::read(path).ok()?;
    let begin = if decay == Decay::Content { HEADER_BYTES } else { 0 };
    let end = match decay {
        Decay::Anywhere | Decay::Content => before.len(),
        Decay::BeforeTheLastRecord => {
            let ends = before.windows(RECORD_END.len()).enumerate().filter(|(_, bytes)| *bytes == RECORD_END);
            let ends: Vec<usize> = ends.map(|(at, _)| at + RECORD_END.len()).collect();
            *ends.iter().rev().nth(1)?
        }
        Decay::BeforeTheLastMark => {
            let mark = before.windows(SYNC_MARK_KEY.len()).rposition(|bytes| bytes == SYNC_MARK_KEY)?;
            let ends = before[..mark].windows(RECORD_END.len()).rposition(|bytes| bytes == RECORD_END)?;
            ends + RECORD_END.len()
        }
    };
    let mut bytes = before.clone();
    for _ in 0..flips {
        let bit = rng.random_range(begin * 8..(end * 8).max(begin * 8 + 1));
        *bytes.get_mut(bit / 8)? ^= 1 << (bit % 8);
    }
    behind_the_model(path, &bytes).then(|| Decayed { path: path.to_path_buf(), before, after: bytes })
}

/// While the state is borrowed, the overrides let calls through to libc.
fn behind_the_model(path: &Path, bytes: &[u8]) -> bool {
    with(|_| std::fs::write(path, bytes).is_ok()).unwrap_or(false)
}
