//! The true libc functions behind the overrides, found once with `dlsym(RTLD_NEXT, …)`.
use libc::{c_char, c_int, c_long, c_uint, c_void, iovec, off64_t, size_t, ssize_t};
use std::sync::atomic::{AtomicPtr, Ordering};

macro_rules! real {
    ($($name:ident: fn($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        /// The libc function of this name.
        ///
        /// # Safety
        /// As the libc function.
        pub unsafe fn $name($($arg: $type),*) -> $answer {
            static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let mut found = FOUND.load(Ordering::Relaxed);
            if found.is_null() {
                let name = concat!(stringify!($name), "\0");
                // SAFETY: the name is a C string; dlsym has no other requirement.
                found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) };
                assert!(!found.is_null(), "libc lacks {name}");
                FOUND.store(found, Ordering::Relaxed);
            }
            // SAFETY: the symbol is libc's function of this name and has this signature. The variadic ones (open,
            // openat, fcntl, syscall) take their arguments in the same registers as fixed ones on Linux's
            // x86-64 and AArch64, the targets of the simulation.
            let function: unsafe extern "C" fn($($type),*) -> $answer = unsafe { std::mem::transmute(found) };
            // SAFETY: passed on to the caller.
            unsafe { function($($arg),*) }
        }
    )*};
}

real! {
    open64: fn(path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
    openat64: fn(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
    close: fn(fd: c_int) -> c_int;
    fcntl: fn(fd: c_int, command: c_int, argument: c_long) -> c_int;
    write: fn(fd: c_int, from: *const c_void, bytes: size_t) -> ssize_t;
    pwrite64: fn(fd: c_int, from: *const c_void, bytes: size_t, offset: off64_t) -> ssize_t;
    read: fn(fd: c_int, to: *mut c_void, bytes: size_t) -> ssize_t;
    pread64: fn(fd: c_int, to: *mut c_void, bytes: size_t, offset: off64_t) -> ssize_t;
    readv: fn(fd: c_int, to: *const iovec, count: c_int) -> ssize_t;
    writev: fn(fd: c_int, from: *const iovec, count: c_int) -> ssize_t;
    ftruncate64: fn(fd: c_int, length: off64_t) -> c_int;
    fsync: fn(fd: c_int) -> c_int;
    fdatasync: fn(fd: c_int) -> c_int;
    rename: fn(from: *const c_char, to: *const c_char) -> c_int;
    unlink: fn(path: *const c_char) -> c_int;
    unlinkat: fn(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
    mkdir: fn(path: *const c_char, mode: c_uint) -> c_int;
    rmdir: fn(path: *const c_char) -> c_int;
    copy_file_range: fn(from: c_int, from_offset: *mut off64_t, to: c_int, to_offset: *mut off64_t, bytes: size_t, flags: c_uint) -> ssize_t;
    sendfile64: fn(to: c_int, from: c_int, offset: *mut off64_t, bytes: size_t) -> ssize_t;
    statvfs: fn(path: *const c_char, to: *mut libc::statvfs) -> c_int;
    getpid: fn() -> libc::pid_t;
    syscall: fn(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long;
}

/// Sets errno and returns -1, the way a failing libc function does.
pub fn fail(errno: c_int) -> c_int {
    // SAFETY: errno's location is valid for the calling thread.
    unsafe { *libc::__errno_location() = errno };
    -1
}
