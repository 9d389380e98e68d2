//! A simulated disk under the real file system calls of this process: what a node writes through libc (std, fjall)
//! goes to real files on a memory file system, and this module remembers what a power failure would take away.
//!
//! Model, per POSIX: bytes are durable once their file was fsynced; names (create, rename, unlink, mkdir) once their
//! directory was (or as [`NameRule`] says). Reads see everything at once. [`Disk::power_failure`] rolls a directory back to what was durable plus
//! what the [`LossModel`] lets survive; [`Disk::kill`] keeps everything that was written but stops the old process's
//! descriptors, so that destructors which run in the simulation (and never would after SIGKILL) write nothing.
//! After a failed fsync the bytes it covered never become durable, whatever a later fsync says, as on Linux.
//!
//! Deterministic: every decision goes through the caller's random numbers in the order of paths and of calls.
//! State is thread-local: one simulation is one thread, and one process runs one seed. Not modelled: mmap (index
//! files are mapped for reading only, once synced and renamed), hard links across directories, directory renames that survive while their content does not.
//!
//! [`calls`] and [`name_calls`] hold the overridden libc functions, [`state`] what is known of files, [`names`] the names, [`power`] the
//! failure itself, [`real`] the way to the true libc.
mod calls;
mod name_calls;
mod names;
mod power;
mod real;
mod state;

pub use crate::plan::LossModel;
pub use names::NameRule;
pub use power::Loss;
use rand::{Rng, RngCore};
use state::State;
pub use state::{Decay, Decayed, Statistics};
use std::path::{Path, PathBuf};
use vectorsphere::store::files::HEADER_BYTES;

/// The disk of this simulation; every path below its root is simulated. Dropping it ends the simulation of files.
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Starts to simulate everything below `root`, an existing empty directory.
    pub fn install(root: &Path, name_rule: NameRule) -> Disk {
        let graveyard = root.join(".unlinked");
        std::fs::create_dir(&graveyard).expect("the run's directory is fresh");
        state::install(State::new(root, graveyard, name_rule));
        Disk { root: root.to_path_buf() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The process that wrote below `dir` is gone: its descriptors write nothing from now on, and until
    /// [`Disk::restart`] no name below `dir` changes. Everything it wrote stays, synced or not, as after SIGKILL.
    pub fn kill(&self, dir: &Path) {
        kill(dir);
    }

    /// A new process may use `dir` again.
    pub fn restart(&self, dir: &Path) {
        state::with(|state| state.frozen.retain(|frozen| frozen != dir));
    }

    /// The power fails: as [`Disk::kill`], and what was not durable below `dir` is lost as `model` says.
    /// Returns how many unsynced writes and name changes there were and how many of them were lost.
    pub fn power_failure(&self, dir: &Path, model: LossModel, rng: &mut dyn RngCore) -> Loss {
        self.kill(dir);
        state::with(|state| power::fail(state, dir, model, rng)).unwrap_or_default()
    }

    /// The next `count` fsyncs below `dir` fail with EIO, after letting `skip` succeed.
    pub fn fail_syncs(&self, dir: &Path, skip: u32, count: u32) {
        state::with(|state| state.faults_of(dir).syncs = state::Countdown { skip, count });
    }

    /// The next `count` reads below `dir` fail with EIO, after letting `skip` succeed.
    pub fn fail_reads(&self, dir: &Path, skip: u32, count: u32) {
        state::with(|state| state.faults_of(dir).reads = state::Countdown { skip, count });
    }

    /// Files below `dir` may grow by `bytes` more; then writes come short and fail with ENOSPC.
    pub fn limit_space(&self, dir: &Path, bytes: u64) {
        state::with(|state| state.faults_of(dir).space_left = Some(bytes));
    }

    /// After `operations` more changes below `dir` (writes, syncs, names) every further one fails, and nothing counts any
    /// more but the power failure that must follow: the process was cut off between two operations.
    pub fn crash_after(&self, dir: &Path, operations: u64) {
        state::with(|state| state.faults_of(dir).crash_in = Some(operations));
    }

    /// Whether the crash set by [`Disk::crash_after`] has come.
    pub fn has_crashed(&self, dir: &Path) -> bool {
        state::with(|state| state.faults_of(dir).crash_in == Some(0)).unwrap_or(false)
    }

    /// Flips bits of one file in `dir`, as decay of the medium would; what was done, if there was such a file.
    pub fn flip_bits(&self, dir: &Path, flips: u32, decay: Decay, rng: &mut dyn RngCore) -> Option<Decayed> {
        let suits = |path: &PathBuf| match decay {
            Decay::Anywhere => path.is_file(),
            Decay::Content => path.metadata().is_ok_and(|file| file.is_file() && file.len() > HEADER_BYTES as u64),
            Decay::BeforeTheLastRecord | Decay::BeforeTheLastMark => path.extension().is_some_and(|end| end == "jnl"),
        };
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(suits).collect();
        files.sort();
        let path = files.get(rng.random_range(0..files.len().max(1)))?;
        state::decay(path, flips, decay, rng)
    }

    /// Ends every fault set below `dir`.
    pub fn mend(&self, dir: &Path) {
        state::with(|state| *state.faults_of(dir) = state::Faults::default());
    }

    /// The file or directory below `dir` whose fsync failed last, if one has since the last [`Disk::mend`].
    pub fn sync_failed_at(&self, dir: &Path) -> Option<PathBuf> {
        state::with(|state| state.faults_of(dir).sync_failed_at.clone()).flatten()
    }

    /// How many reads below `dir` have failed since the last [`Disk::mend`].
    pub fn reads_failed(&self, dir: &Path) -> u64 {
        state::with(|state| state.faults_of(dir).reads_failed).unwrap_or(0)
    }

    /// How many writes below `dir` have found no room since the last [`Disk::mend`].
    pub fn writes_without_room(&self, dir: &Path) -> u64 {
        state::with(|state| state.faults_of(dir).writes_without_room).unwrap_or(0)
    }

    pub fn statistics(&self) -> Statistics {
        state::with(|state| state.statistics.clone()).unwrap_or_default()
    }
}

/// As [`Disk::kill`], for a process that ends itself.
pub fn kill(dir: &Path) {
    state::with(|state| {
        state.orphan_descriptors(dir);
        state.frozen.push(dir.to_path_buf());
    });
}

impl Drop for Disk {
    fn drop(&mut self) {
        state::uninstall();
    }
}
