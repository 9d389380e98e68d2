//! The libc functions this binary overrides. Each asks the disk of the calling thread what to do and then does the real
//! thing, nothing, or an error. Descriptors and paths the disk does not cover go straight to libc.
//!
//! An override works because the linker binds every call in this executable, those of the standard library included, to
//! the symbol defined here. rustix is built on libc in the simulated build, or its renames would go past us.
use super::{
    real,
    state::{self, FileId, State},
};
use libc::{c_char, c_int, c_long, c_uint, c_void, iovec, off64_t, size_t, ssize_t};
use std::{
    ffi::{CStr, OsStr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What to do about a call on a descriptor.
enum Call<T = ()> {
    /// Not ours, or nothing to change about it.
    Real,
    /// The caller is dead: pretend.
    Swallow,
    Fail(c_int),
    Do(T),
}

/// Decides a changing call on `fd`.
fn changing<T>(fd: c_int, f: impl FnOnce(&mut State, FileId) -> Call<T>) -> Call<T> {
    state::with(|state| match state.descriptors.get(&fd).copied() {
        None => Call::Real,
        Some(descriptor) if descriptor.orphan => {
            state.statistics.swallowed += 1;
            Call::Swallow
        }
        Some(descriptor) if state.crashes_at(descriptor.file) => Call::Fail(libc::EIO),
        Some(descriptor) => f(state, descriptor.file),
    })
    .unwrap_or(Call::Real)
}

/// The path as given; nothing simulated is relative.
///
/// # Safety
/// `path` is a C string.
pub unsafe fn path_of(path: *const c_char) -> PathBuf {
    // SAFETY: passed on.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// # Safety
/// As `openat`; `open` is the real way to open it.
unsafe fn opening(path: &Path, flags: c_int, open: impl FnOnce() -> c_int) -> c_int {
    let covered = state::with(|state| state.covers(path)).unwrap_or(false);
    let creates = covered && flags & libc::O_CREAT != 0 && std::fs::symlink_metadata(path).is_err();
    if creates && state::with(|state| state.is_frozen(path) || state.crashes(path)).unwrap_or(false) {
        return real::fail(libc::EIO);
    }
    if creates && state::with(|state| state.is_full(path)).unwrap_or(false) {
        return real::fail(libc::ENOSPC);
    }
    // The disk must see a truncation as a change of the file, so it makes it itself.
    let truncates = covered && flags & libc::O_TRUNC != 0 && !creates;
    let fd = open();
    if fd < 0 || flags & libc::O_PATH != 0 {
        return fd;
    }
    state::with(|state| {
        state.forget_descriptor(fd);
        if covered {
            assert!(state.opened(fd, path), "cannot follow {}", path.display());
            if creates {
                state.created(path);
            }
        }
    });
    if truncates {
        // SAFETY: `fd` is open; no pointers.
        unsafe { ftruncate64(fd, 0) };
    }
    fd
}

fn without_truncation(path: &Path, flags: c_int) -> c_int {
    let covered = state::with(|state| state.covers(path)).unwrap_or(false);
    if covered { flags & !libc::O_TRUNC } else { flags }
}

/// # Safety
/// As libc's `open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let name = path_of(path);
        let real_flags = without_truncation(&name, flags);
        opening(&name, flags, || real::open64(path, real_flags, mode))
    }
}

/// # Safety
/// As libc's `open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's.
    unsafe { open64(path, flags | libc::O_LARGEFILE, mode) }
}

/// # Safety
/// As libc's `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let name = at(dir, path);
        let real_flags = without_truncation(&name, flags);
        opening(&name, flags, || real::openat64(dir, path, real_flags, mode))
    }
}

/// # Safety
/// As libc's `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's.
    unsafe { openat64(dir, path, flags | libc::O_LARGEFILE, mode) }
}

/// The whole path of `path` relative to the directory descriptor `dir`.
///
/// # Safety
/// `path` is a C string.
pub unsafe fn at(dir: c_int, path: *const c_char) -> PathBuf {
    // SAFETY: the caller's.
    let path = unsafe { path_of(path) };
    let parent = state::with(|state| {
        let descriptor = state.descriptors.get(&dir)?;
        Some(state.files[&descriptor.file].path.clone())
    });
    match parent.flatten() {
        Some(parent) if path.is_relative() => parent.join(path),
        _ => path,
    }
}

/// # Safety
/// As libc's `close`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    state::with(|state| state.forget_descriptor(fd));
    // SAFETY: the caller's.
    unsafe { real::close(fd) }
}

/// # Safety
/// As libc's `fcntl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: the caller's.
    let answer = unsafe { real::fcntl(fd, command, argument) };
    if answer >= 0 && (command == libc::F_DUPFD || command == libc::F_DUPFD_CLOEXEC) {
        state::with(|state| state.duplicated(fd, answer));
    }
    answer
}

/// # Safety
/// As libc's `fcntl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: the caller's.
    unsafe { fcntl(fd, command, argument) }
}

/// Where `write` puts its bytes.
fn position(fd: c_int) -> u64 {
    // SAFETY: no pointers.
    unsafe {
        if real::fcntl(fd, libc::F_GETFL, 0) & libc::O_APPEND != 0 {
            return state::length(fd);
        }
        libc::lseek64(fd, 0, libc::SEEK_CUR) as u64
    }
}

/// Decides a write of `bytes`; the answer is how many may be written.
///
/// # Safety
/// `from` points to `bytes` readable bytes.
unsafe fn before_write(fd: c_int, offset: Option<u64>, from: *const c_void, bytes: size_t) -> Call<size_t> {
    changing(fd, |state, file| {
        let offset = offset.unwrap_or_else(|| position(fd));
        let room = state.room_for(file, offset, bytes as u64) as size_t;
        if room == 0 && bytes > 0 {
            return Call::Fail(libc::ENOSPC);
        }
        // SAFETY: the caller's; `room` is not larger than `bytes`.
        let new = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), room) };
        if room > 0 {
            state.record(file, offset, new.to_vec(), None);
        }
        Call::Do(room)
    })
}

/// # Safety
/// As libc's `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, from: *const c_void, bytes: size_t) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        match before_write(fd, None, from, bytes) {
            Call::Real => real::write(fd, from, bytes),
            Call::Swallow => bytes as ssize_t,
            Call::Fail(errno) => real::fail(errno) as ssize_t,
            Call::Do(room) => real::write(fd, from, room),
        }
    }
}

/// # Safety
/// As libc's `pwrite`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, bytes: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        match before_write(fd, Some(offset as u64), from, bytes) {
            Call::Real => real::pwrite64(fd, from, bytes, offset),
            Call::Swallow => bytes as ssize_t,
            Call::Fail(errno) => real::fail(errno) as ssize_t,
            Call::Do(room) => real::pwrite64(fd, from, room, offset),
        }
    }
}

/// Writes the first non-empty part only when the file is simulated: a short write, which every caller must expect.
///
/// # Safety
/// As libc's `writev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    let ours = state::with(|state| state.descriptors.contains_key(&fd)).unwrap_or(false);
    // SAFETY: the caller's: `parts` points to `count` valid parts.
    unsafe {
        if !ours {
            return real::writev(fd, parts, count);
        }
        let parts = std::slice::from_raw_parts(parts, count as usize);
        match parts.iter().find(|part| part.iov_len > 0) {
            Some(part) => write(fd, part.iov_base, part.iov_len),
            None => 0,
        }
    }
}

fn before_read(fd: c_int) -> Result<(), c_int> {
    let fails = state::with(|state| match state.descriptors.get(&fd).copied() {
        Some(descriptor) if !descriptor.orphan => state.read_fails(descriptor.file),
        _ => false,
    });
    if fails == Some(true) { Err(libc::EIO) } else { Ok(()) }
}

/// # Safety
/// As libc's `read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, to: *mut c_void, bytes: size_t) -> ssize_t {
    match before_read(fd) {
        // SAFETY: the caller's.
        Ok(()) => unsafe { real::read(fd, to, bytes) },
        Err(errno) => real::fail(errno) as ssize_t,
    }
}

/// # Safety
/// As libc's `pread`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(fd: c_int, to: *mut c_void, bytes: size_t, offset: off64_t) -> ssize_t {
    match before_read(fd) {
        // SAFETY: the caller's.
        Ok(()) => unsafe { real::pread64(fd, to, bytes, offset) },
        Err(errno) => real::fail(errno) as ssize_t,
    }
}

/// # Safety
/// As libc's `readv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, to: *const iovec, count: c_int) -> ssize_t {
    match before_read(fd) {
        // SAFETY: the caller's.
        Ok(()) => unsafe { real::readv(fd, to, count) },
        Err(errno) => real::fail(errno) as ssize_t,
    }
}

/// # Safety
/// As libc's `ftruncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    let decided: Call = changing(fd, |state, file| {
        let now = state.files[&file].length();
        let length = length as u64;
        if length > now && state.room_for(file, now, length - now) < length - now {
            return Call::Fail(libc::ENOSPC);
        }
        if length != now {
            state.record(file, length.min(now), Vec::new(), Some(length));
        }
        Call::Do(())
    });
    match decided {
        // SAFETY: the caller's.
        Call::Real | Call::Do(()) => unsafe { real::ftruncate64(fd, length) },
        Call::Swallow => 0,
        Call::Fail(errno) => real::fail(errno),
    }
}

/// A disk of the simulation has so much room, if nothing else was said.
const ROOM_BYTES: u64 = 1 << 40;

/// # Safety
/// As libc's `statvfs`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statvfs(path: *const c_char, to: *mut libc::statvfs) -> c_int {
    // SAFETY: the caller's.
    let (name, told) = unsafe { (path_of(path), real::statvfs(path, to)) };
    if told == 0 && state::with(|state| state.covers(&name)).unwrap_or(false) {
        let left = state::with(|state| state.space_left(&name)).flatten();
        // SAFETY: the call has filled what `to` points at.
        let stat = unsafe { &mut *to };
        (stat.f_frsize, stat.f_bavail) = (1, left.unwrap_or(ROOM_BYTES));
    }
    told
}

/// The real disk is never synced: the files live in memory.
fn syncing(fd: c_int, real_sync: unsafe fn(c_int) -> c_int) -> c_int {
    let decided: Call = changing(fd, |state, file| match state.sync(file) {
        Ok(()) => Call::Swallow,
        Err(errno) => Call::Fail(errno),
    });
    match decided {
        // SAFETY: no pointers.
        Call::Real => unsafe { real_sync(fd) },
        Call::Swallow | Call::Do(()) => 0,
        Call::Fail(errno) => real::fail(errno),
    }
}

/// # Safety
/// As libc's `fsync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    syncing(fd, real::fsync)
}

/// # Safety
/// As libc's `fdatasync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    syncing(fd, real::fdatasync)
}

fn is_simulated(fd: c_int) -> bool {
    state::with(|state| state.descriptors.contains_key(&fd)).unwrap_or(false)
}

/// Sends copies into simulated files through `write`.
///
/// # Safety
/// As libc's `copy_file_range`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_offset: *mut off64_t,
    to: c_int,
    to_offset: *mut off64_t,
    bytes: size_t,
    flags: c_uint,
) -> ssize_t {
    if is_simulated(to) {
        return real::fail(libc::EXDEV) as ssize_t;
    }
    // SAFETY: the caller's.
    unsafe { real::copy_file_range(from, from_offset, to, to_offset, bytes, flags) }
}

/// As [`copy_file_range`].
///
/// # Safety
/// As libc's `sendfile`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(to: c_int, from: c_int, offset: *mut off64_t, bytes: size_t) -> ssize_t {
    if is_simulated(to) {
        return real::fail(libc::EINVAL) as ssize_t;
    }
    // SAFETY: the caller's.
    unsafe { real::sendfile64(to, from, offset, bytes) }
}

/// getrandom 0.2 asks the kernel through `syscall`, past the simulation's seeded override of `getrandom`: lead it back.
///
/// # Safety
/// As libc's `syscall`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    // SAFETY: the caller's.
    unsafe {
        if number == libc::SYS_getrandom {
            return libc::getrandom(a as *mut c_void, b as size_t, c as c_uint) as c_long;
        }
        real::syscall(number, a, b, c, d, e, f)
    }
}

/// The process's number differs from run to run, and the data directory's lock file holds it.
#[unsafe(no_mangle)]
pub extern "C" fn getpid() -> libc::pid_t {
    // SAFETY: no arguments.
    state::with(|_| 1).unwrap_or_else(|| unsafe { real::getpid() })
}
