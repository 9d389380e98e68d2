//! How much log a group has, about, and how far it may be compacted: what the state has on disk is not needed here, but others
//! may lack it. Sizes are counted since the group was opened; entries older than that count nothing. Owned by `member`.

use super::LogIndex;
use std::collections::VecDeque;

/// See the module.
pub(super) struct LogSize {
    /// Runs of entries: the last index of each, and its bytes.
    runs: VecDeque<(LogIndex, usize)>,
    bytes: usize,
    run_bytes: usize,
    /// Size at which the next compaction is tried.
    try_at_bytes: usize,
    after_bytes: usize,
}

/// Who else belongs to the group, as far as the log is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Others {
    /// Nobody.
    None,
    /// The leader of others: they have everything up to here.
    Have(LogIndex),
    /// A follower: it does not know what the others have.
    Unknown,
}

impl LogSize {
    /// A log is to be compacted whenever it has grown by `after_bytes`; it holds `bytes` now, up to `last_index`.
    pub(super) fn new(after_bytes: usize, last_index: LogIndex, bytes: usize) -> LogSize {
        let mut size = LogSize {
            runs: VecDeque::new(),
            bytes: 0,
            run_bytes: after_bytes / 16,
            try_at_bytes: after_bytes,
            after_bytes,
        };
        size.grow(last_index, bytes);
        size
    }

    /// Entries with that many bytes were appended; the last one is at `last_index`.
    pub(super) fn grow(&mut self, last_index: LogIndex, bytes: usize) {
        self.bytes += bytes;
        match self.runs.back_mut() {
            Some((last, run)) if *run < self.run_bytes => {
                *last = last_index.max(*last);
                *run += bytes;
            }
            _ => self.runs.push_back((last_index, bytes)),
        }
    }

    /// Whether a compaction is due; the next one is not before the log has grown again.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.bytes >= self.try_at_bytes;
        if due {
            self.try_at_bytes = self.bytes + self.after_bytes;
        }
        due
    }

    /// Up to where the log may go, when the state up to `synced` is on disk. Members that are behind are spared what they
    /// lack, up to `keep_bytes_max`; a follower keeps a little for whom it may lead next.
    pub(super) fn limit(&self, synced: LogIndex, others: Others, keep_bytes_max: usize) -> LogIndex {
        match others {
            Others::None => synced,
            Others::Have(index) => synced.min(index.max(self.leaving(keep_bytes_max))),
            Others::Unknown => synced.min(self.leaving(self.after_bytes)),
        }
    }

    /// Everything up to `index` is gone.
    pub(super) fn compacted(&mut self, index: LogIndex) {
        while self.runs.front().is_some_and(|(last, _)| *last <= index) {
            self.bytes -= self.runs.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        self.try_at_bytes = self.bytes + self.after_bytes;
    }

    /// The last index with at least `bytes` behind it; 0 if there are not that many.
    fn leaving(&self, bytes: usize) -> LogIndex {
        let mut behind = 0;
        for (last, run) in self.runs.iter().rev() {
            if behind >= bytes {
                return *last;
            }
            behind += run;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundred_entries() -> LogSize {
        let mut size = LogSize::new(160, 1, 0);
        (2..=101).for_each(|index| size.grow(index, 10));
        size
    }

    #[test]
    fn a_compaction_is_due_when_the_log_has_grown() {
        let mut size = hundred_entries();
        assert!(size.is_due() && !size.is_due());
        (102..=117).for_each(|index| size.grow(index, 10));
        assert!(size.is_due());
        size.compacted(117);
        assert_eq!(size.bytes, 0);
        assert!(!size.is_due());
    }

    #[test]
    fn what_others_lack_is_kept_within_bounds() {
        let size = hundred_entries();
        assert_eq!(size.limit(90, Others::None, 500), 90);
        assert_eq!(size.limit(90, Others::Have(70), 500), 70);
        let bounded = size.limit(90, Others::Have(3), 500);
        assert!((45..=51).contains(&bounded), "{bounded}");
        let kept = size.limit(101, Others::Unknown, 500);
        assert!((80..=85).contains(&kept), "{kept}");
        assert_eq!(size.limit(20, Others::Unknown, 500), 20);
    }
}
