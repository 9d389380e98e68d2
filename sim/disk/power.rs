//! The power failure: rolls a directory back to what was durable, then lets some of the rest survive.
use super::{
    real,
    state::{Durability, File, State, Write},
};
use crate::plan::LossModel;
use libc::off64_t;
use rand::{Rng, RngCore};
use std::path::Path;

/// Disks write whole sectors of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// What a power failure took.
#[derive(Clone, Debug, Default)]
pub struct Loss {
    /// Writes and name changes that were not durable.
    pub unsynced: usize,
    /// Those of them that are gone, in whole or in part.
    pub lost: usize,
    /// The name changes among those, oldest first, for the log.
    pub names: Vec<String>,
}

pub fn fail(state: &mut State, dir: &Path, model: LossModel, rng: &mut dyn RngCore) -> Loss {
    let mut loss = Loss::default();
    // Files first: a file whose name is lost below may still be open, but nothing of it can be seen again.
    for id in state.files_below(dir) {
        let file = state.files.get_mut(&id).expect("listed a moment ago");
        fail_file(file, model, rng, &mut loss);
        state.forget_if_durable(id);
    }
    fail_names(state, dir, model, rng, &mut loss);
    loss
}

fn fail_names(state: &mut State, dir: &Path, model: LossModel, rng: &mut dyn RngCore, loss: &mut Loss) {
    let (changes, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut state.names).into_iter().partition(|change| change.path().starts_with(dir));
    state.names = others;
    let kept = match model {
        LossModel::Everything => 0,
        LossModel::KeepPrefix | LossModel::KeepSome => rng.random_range(0..=changes.len()),
    };
    loss.unsynced += changes.len();
    loss.lost += changes.len() - kept;
    let (durable, undone) = {
        let mut changes = changes;
        let undone = changes.split_off(kept);
        (changes, undone)
    };
    loss.names = undone.iter().map(|change| change.describe(dir)).collect();
    undone.into_iter().rev().for_each(|change| state.undo(change));
    durable.into_iter().for_each(|change| state.settle(change));
}

fn fail_file(file: &mut File, model: LossModel, rng: &mut dyn RngCore, loss: &mut Loss) {
    let writes = std::mem::take(&mut file.writes);
    for write in writes.iter().rev() {
        put(file, write.offset, &write.old);
        set_length(file, write.length_before);
    }
    let pending = writes.iter().filter(|write| write.durability == Durability::Pending).count();
    let kept = match model {
        LossModel::Everything => 0,
        LossModel::KeepPrefix => rng.random_range(0..=pending),
        LossModel::KeepSome => pending,
    };
    let mut seen = 0;
    for write in &writes {
        match write.durability {
            Durability::Synced => drop(put_all(file, write)),
            Durability::Doomed => {
                (loss.unsynced, loss.lost) = (loss.unsynced + 1, loss.lost + 1);
            }
            Durability::Pending => {
                seen += 1;
                loss.unsynced += 1;
                let whole = match model {
                    LossModel::Everything => false,
                    LossModel::KeepPrefix if seen < kept => put_all(file, write),
                    LossModel::KeepPrefix => seen == kept && put_torn(file, write, rng),
                    LossModel::KeepSome => rng.random_bool(0.5) && put_some(file, write, rng),
                };
                loss.lost += usize::from(!whole);
            }
        }
    }
}

/// The whole write: always `true`.
fn put_all(file: &File, write: &Write) -> bool {
    if write.new.is_empty() {
        set_length(file, write.length_after);
    }
    put(file, write.offset, &write.new);
    true
}

/// The write up to a random sector boundary; whether that is all of it.
fn put_torn(file: &File, write: &Write, rng: &mut dyn RngCore) -> bool {
    let sectors = sectors(write);
    let kept = rng.random_range(0..=sectors.len());
    if kept == sectors.len() {
        return put_all(file, write);
    }
    sectors[..kept].iter().for_each(|(from, to)| put_part(file, write, *from, *to));
    false
}

/// A random half of the write's sectors; whether that is all of it.
fn put_some(file: &File, write: &Write, rng: &mut dyn RngCore) -> bool {
    if write.new.is_empty() || rng.random_bool(0.5) {
        return put_all(file, write);
    }
    let mut whole = true;
    for (from, to) in sectors(write) {
        let survives = rng.random_bool(0.5);
        whole &= survives;
        if survives {
            put_part(file, write, from, to);
        }
    }
    whole
}

/// The write cut at the sectors of the file: ranges of positions in `write.new`.
fn sectors(write: &Write) -> Vec<(usize, usize)> {
    let (mut cuts, mut from, end) = (Vec::new(), write.offset, write.offset + write.new.len() as u64);
    while from < end {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        cuts.push(((from - write.offset) as usize, (to - write.offset) as usize));
        from = to;
    }
    cuts
}

fn put_part(file: &File, write: &Write, from: usize, to: usize) {
    put(file, write.offset + from as u64, &write.new[from..to]);
}

fn put(file: &File, offset: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let at = (offset + done as u64) as off64_t;
        // SAFETY: `rest` is a valid buffer of that many bytes.
        let put = unsafe { real::pwrite64(file.descriptor, rest.as_ptr().cast(), rest.len(), at) };
        assert!(put > 0, "the memory file system takes what it held before");
        done += put as usize;
    }
}

fn set_length(file: &File, length: u64) {
    // SAFETY: no pointers.
    let set = unsafe { real::ftruncate64(file.descriptor, length as off64_t) };
    assert_eq!(set, 0, "the disk's own descriptor is open for writing");
}
