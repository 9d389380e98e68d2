//! Keeps the journals of a database within their bound, and with them the writes in its memory: each of those is in a journal
//! that is still there. The engine (fjall 3.1) has no such bound of its own. A space is flushed when it alone holds
//! `memtable_bytes_max`, the journal in use gives way to the next one only beside a flush, and `max_journaling_size` is of the
//! journals before it; so many spaces that hold a little each would let one journal grow for ever, until the start that reads
//! it finds no memory for it. Here one flush is asked for when the journal in use is longer than it can get where a space
//! fills up by itself. The rest the engine does: it begins the next journal and, when those before it are too long, flushes
//! every space that the oldest of them waits for, and removes it. Where the caller maintains the store there is one journal
//! for ever, as the engine begins the next only on threads of its own; what is in memory is bounded there all the same.
//! Called by `Store` after a commit, when it opens, and by `Store::maintain`.

use super::engine::{JOURNAL_BYTES_MIN, Space, StoreOptions};
use super::journal;
use fjall::{AbstractTree, Database};
use std::cmp::Reverse;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Written between two looks at the journals, which cost some microseconds each.
const BYTES_BETWEEN_LOOKS: u64 = 4 << 20;
/// From this length on the engine gives up a journal when it next flushes anything.
const JOURNAL_FILE_BYTES: u64 = 64 << 20;
/// Memtables that a space may have waiting to be flushed before the engine has its writers wait.
const MEMTABLES_WAITING: u64 = 4;

/// What to do about the journals as they are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// Have one space flushed, unless some are being flushed already.
    Flush,
    /// The same, and wait for it.
    FlushAndWait,
}

/// The bounds of one database, and what was written since they were last looked after.
pub(super) struct Bounds {
    /// Of all journals.
    journals_max: u64,
    /// Of the journal in use.
    active_max: u64,
    /// Of all journals, before commits wait for what is being flushed.
    lagging_max: u64,
    unseen: AtomicU64,
    /// Held by whoever asks for a flush: one at a time does, and others who write too much meanwhile wait.
    asking: Mutex<()>,
}

impl Bounds {
    pub(super) fn new(options: &StoreOptions) -> Bounds {
        let journals_max = options.journal_bytes_max.max(JOURNAL_BYTES_MIN);
        // What a space that is written faster than it is flushed may have waiting, and as much again beside it in the same
        // journals, flushed already: such a space meets the engine's own stop first.
        let waiting = options.memtable_bytes_max.saturating_mul(2 * MEMTABLES_WAITING);
        Bounds {
            journals_max,
            active_max: JOURNAL_FILE_BYTES.saturating_add(options.memtable_bytes_max),
            lagging_max: journals_max.saturating_add(JOURNAL_FILE_BYTES).saturating_add(waiting),
            unseen: AtomicU64::new(0),
            asking: Mutex::default(),
        }
    }

    /// What the engine is told: its bound is of the journals before the one in use.
    pub(super) fn sealed_max(&self) -> u64 {
        self.journals_max.saturating_sub(JOURNAL_FILE_BYTES).max(JOURNAL_BYTES_MIN)
    }

    /// Whether so much was written, `bytes` now, that it is time to look.
    pub(super) fn is_time(&self, bytes: u64) -> bool {
        let unseen = self.unseen.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        // Whoever crosses the line looks; the others begin to count anew.
        unseen >= BYTES_BETWEEN_LOOKS && self.unseen.swap(0, Ordering::Relaxed) >= BYTES_BETWEEN_LOOKS
    }

    /// Looks at the journals in the directory of the database, and has the largest of `spaces` flushed if they are too long. Waits, as
    /// commits do for a space that is written faster than it is flushed, only when they are much too long.
    pub(super) fn keep(
        &self,
        directory: &Path,
        database: &Database,
        spaces: impl Fn() -> Vec<Space>,
    ) -> Result<(), fjall::Error> {
        if self.need(directory) == Need::Nothing {
            return Ok(());
        }
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // Again: whoever had the lock may have seen to it.
        let need = self.need(directory);
        let is_waiting = need == Need::FlushAndWait;
        // What waits to be flushed does as well. And the engine's mailbox has an end: one flush at a time cannot fill it.
        if need == Need::Nothing || !is_waiting && database.outstanding_flushes() > 0 {
            return Ok(());
        }
        let Some((_, largest)) = by_size(spaces()).into_iter().next() else { return Ok(()) };
        if is_waiting {
            largest.keyspace.rotate_memtable_and_wait()
        } else {
            largest.keyspace.rotate_memtable().map(|_| ())
        }
    }

    fn need(&self, directory: &Path) -> Need {
        match journal::lengths(directory) {
            Ok((sealed, active)) => self.need_of(sealed, active),
            // The commit is done, and that nobody could look is no reason to take it for failed. The next one looks again.
            Err(error) => {
                tracing::warn!(%error, "cannot look after the length of the journals");
                Need::Nothing
            }
        }
    }

    fn need_of(&self, sealed: u64, active: u64) -> Need {
        if sealed.saturating_add(active) > self.lagging_max {
            Need::FlushAndWait
        } else if active > self.active_max {
            Need::Flush
        } else {
            Need::Nothing
        }
    }

    /// The spaces whose flush brings what is in memory down to the bound, where nobody looks after the journals: the largest
    /// first, those of the same size as they come.
    pub(super) fn beyond(&self, spaces: Vec<Space>) -> Vec<Space> {
        let spaces = by_size(spaces);
        let mut held: u64 = spaces.iter().map(|(bytes, _)| bytes).sum();
        let is_beyond = |(bytes, _): &(u64, Space)| {
            let is_beyond = held > self.journals_max;
            held -= bytes;
            is_beyond
        };
        spaces.into_iter().take_while(is_beyond).map(|(_, space)| space).collect()
    }
}

/// Spaces and what each has in memory that is not being flushed yet, the largest first.
fn by_size(spaces: Vec<Space>) -> Vec<(u64, Space)> {
    let mut sized: Vec<(u64, Space)> =
        spaces.into_iter().map(|space| (space.keyspace.tree.active_memtable().size(), space)).collect();
    sized.sort_by_key(|(bytes, _)| Reverse(*bytes));
    sized
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_space_that_fills_up_by_itself_is_left_alone_and_commits_wait_only_far_beyond_the_bound() {
        let bounds = |journal_bytes_max| Bounds::new(&StoreOptions { journal_bytes_max, ..StoreOptions::default() });
        let least = bounds(0);
        assert_eq!(least.need_of(0, 80 * MIB), Need::Nothing);
        assert_eq!(least.need_of(0, 80 * MIB + 1), Need::Flush);
        assert_eq!(least.need_of(176 * MIB, 80 * MIB), Need::Nothing);
        assert_eq!(least.need_of(176 * MIB, 80 * MIB + 1), Need::FlushAndWait);
        assert_eq!(least.sealed_max(), 64 * MIB);
        let large = bounds(1024 * MIB);
        assert_eq!(large.need_of(1024 * MIB, 80 * MIB), Need::Nothing);
        assert_eq!(large.need_of(1024 * MIB, 192 * MIB + 1), Need::FlushAndWait);
        assert_eq!(large.sealed_max(), 960 * MIB);
        assert_eq!(bounds(u64::MAX).need_of(u64::MAX, 0), Need::Nothing);
    }

    #[test]
    fn it_is_time_to_look_once_in_a_while() {
        let bounds = Bounds::new(&StoreOptions::default());
        let looks = (0..80).filter(|_| bounds.is_time(MIB / 4)).count();
        assert_eq!(looks, 5);
        assert!(bounds.is_time(1000 * MIB), "one large batch");
    }
}
