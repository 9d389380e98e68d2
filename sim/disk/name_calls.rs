//! The overridden libc functions that change names: rename, unlink, mkdir, rmdir. See [`super::calls`] for the others.
use super::{
    calls::{at, path_of},
    real,
    state::{self, State},
};
use libc::{c_char, c_int, c_uint};
use std::path::Path;

/// Decides a change of names at `path`; `None`: it is not the disk's business.
fn renaming(path: &Path, f: impl FnOnce(&mut State) -> Result<(), c_int>) -> Option<c_int> {
    let decided = state::with(|state| {
        if state.is_frozen(path) {
            state.statistics.swallowed += 1;
            return Some(Ok(()));
        }
        if !state.covers(path) {
            return None;
        }
        Some(if state.crashes(path) { Err(libc::EIO) } else { f(state) })
    });
    let decided = decided.flatten()?;
    Some(match decided {
        Ok(()) => 0,
        Err(errno) => real::fail(errno),
    })
}

/// # Safety
/// As libc's `rename`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let (source, target) = (path_of(from), path_of(to));
        renaming(&target, |state| state.rename(&source, &target)).unwrap_or_else(|| real::rename(from, to))
    }
}

/// # Safety
/// As libc's `unlink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let name = path_of(path);
        renaming(&name, |state| state.unlink(&name)).unwrap_or_else(|| real::unlink(path))
    }
}

/// # Safety
/// As libc's `unlinkat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let name = at(dir, path);
        if flags & libc::AT_REMOVEDIR != 0 {
            return renaming(&name, |state| state.remove_directory(&name))
                .unwrap_or_else(|| real::unlinkat(dir, path, flags));
        }
        renaming(&name, |state| state.unlink(&name)).unwrap_or_else(|| real::unlinkat(dir, path, flags))
    }
}

/// # Safety
/// As libc's `mkdir`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let name = path_of(path);
        renaming(&name, |state| state.make_directory(&name, mode)).unwrap_or_else(|| real::mkdir(path, mode))
    }
}

/// # Safety
/// As libc's `rmdir`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let name = path_of(path);
        renaming(&name, |state| state.remove_directory(&name)).unwrap_or_else(|| real::rmdir(path))
    }
}
