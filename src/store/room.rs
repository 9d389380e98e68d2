//! Room on the disk under the data directory. A write that finds none stops the node: nobody knows what of it was kept. So a reserve
//! is kept for what the node has promised already, and writes are refused before it is touched. Watched by `node`; asked by `shard`.

use super::error::StoreError;
use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Room {
    /// More than the reserve.
    Enough = 0,
    /// The reserve: no client may add to the data. What is under way, what frees room and what the cluster itself writes goes on.
    Reserve = 1,
    /// A quarter of the reserve or less: nothing new is taken, not from other nodes' leaders either.
    Last = 2,
}

impl Room {
    /// What `free` bytes come to where `reserve` are to be kept, after `before`: with a little more than the reserve it is not enough again
    /// at once. A reserve of 0 is never touched.
    pub fn of(free: u64, reserve: u64, before: Room) -> Room {
        let margin = if before == Room::Enough { 0 } else { reserve / 8 };
        match free {
            _ if reserve == 0 => Room::Enough,
            free if free >= reserve.saturating_add(margin) => Room::Enough,
            free if free > reserve / 4 => Room::Reserve,
            _ => Room::Last,
        }
    }
}

/// What was seen last. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct RoomSeen(Arc<AtomicU8>);

impl RoomSeen {
    /// How much room there was.
    pub fn get(&self) -> Room {
        match self.0.load(Relaxed) {
            0 => Room::Enough,
            1 => Room::Reserve,
            _ => Room::Last,
        }
    }

    /// So much room there is now.
    pub fn set(&self, room: Room) {
        self.0.store(room as u8, Relaxed);
    }
}

/// Bytes an ordinary user may still write where `path` lies. Blocks for one call of the system.
///
/// # Errors
/// `Io`.
pub fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let failed = |error| StoreError::io(path, "measure", error);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` ends in a zero byte and lives over the call; the pointer is valid for one statvfs, which the call
    // fills where it gives 0.
    let status = unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) };
    if status != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the call gave 0, so the value is initialised.
    let stat = unsafe { stat.assume_init() };
    // The fields' widths differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_runs_short_in_steps_and_comes_back_with_a_margin() {
        let of = |free, before| Room::of(free, 800, before);
        assert_eq!([800, 799, 201, 200, 0].map(|free| of(free, Room::Enough)), {
            use Room::{Enough, Last, Reserve};
            [Enough, Reserve, Reserve, Last, Last]
        });
        assert_eq!([900, 899].map(|free| of(free, Room::Reserve)), [Room::Enough, Room::Reserve]);
        assert_eq!(of(899, Room::Last), Room::Reserve);
        assert_eq!(Room::of(0, 0, Room::Last), Room::Enough, "no reserve is asked for");
        assert_eq!(Room::of(u64::MAX, u64::MAX, Room::Last), Room::Enough);
    }

    #[test]
    fn what_was_seen_is_shared() {
        let seen = RoomSeen::default();
        for room in [Room::Last, Room::Reserve, Room::Enough] {
            seen.clone().set(room);
            assert_eq!(seen.get(), room);
        }
    }

    #[test]
    fn the_system_tells_how_much_is_free() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert!(free_bytes(Path::new("/no such place")).is_err());
    }
}
