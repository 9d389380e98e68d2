//! The settings of the driver and of every group it owns; `config` fills them. Called by `node`.

use super::apply::ApplyBounds;
use super::group::Bounds;
use super::replica::Pace;
use std::num::NonZeroU64;
use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct RaftOptions {
    /// How often a group's clock counts.
    pub tick: Duration,
    /// Ticks between the heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader's word after which a member campaigns, at least; half as many more at most.
    pub election_ticks: usize,
    /// Proposals of one group that have no answer yet.
    pub proposals_max: usize,
    /// Bytes of all of them.
    pub bytes_max: usize,
    /// Bytes of one proposal; at most `bytes_max`.
    pub entry_bytes_max: usize,
    /// Bytes of entries in one message to another member, about: what is longer is sent in pieces.
    pub message_bytes_max: usize,
    /// Entries applied at a time.
    pub apply_entries_max: usize,
    /// Bytes applied at a time (a larger entry is applied alone).
    pub apply_bytes_max: usize,
    /// Bytes appended to a group's log after which the state is synced and the log compacted.
    pub compact_after_bytes: usize,
    /// Bytes of log kept for members that are behind; those further behind get a checkpoint, and meanwhile sixteen times as many are kept.
    pub keep_bytes_max: usize,
    /// Bytes of applied entries of one group kept in memory.
    pub cache_bytes_max: usize,
    /// Bytes of entries of all groups together kept in memory, about: beyond, none keeps more than an even part.
    pub cache_node_bytes_max: usize,
    /// How long a read waits for a leader's word and for what it has to see.
    pub read_timeout: Duration,
    /// How long a proposal that all voters are to have waits for the last of them.
    pub all_timeout: Duration,
    /// Bytes of messages received and not looked at yet; more are dropped.
    pub receive_bytes_max: usize,
    /// Bytes on their way to the log; while there are more, nothing is taken that would add to them.
    pub unwritten_bytes_max: usize,
    /// Checkpoints given at once.
    pub checkpoints_max: usize,
    /// Bytes a second of all of them together; `None`: no bound.
    pub checkpoint_bytes_per_second: Option<NonZeroU64>,
}

impl Default for RaftOptions {
    fn default() -> Self {
        RaftOptions {
            tick: Duration::from_millis(100),
            heartbeat_ticks: 2,
            election_ticks: 8,
            proposals_max: 4096,
            bytes_max: 64 << 20,
            entry_bytes_max: 32 << 20,
            message_bytes_max: 1 << 20,
            apply_entries_max: 1024,
            apply_bytes_max: 4 << 20,
            compact_after_bytes: 16 << 20,
            keep_bytes_max: 64 << 20,
            cache_bytes_max: 1 << 20,
            cache_node_bytes_max: 64 << 20,
            read_timeout: Duration::from_secs(3),
            all_timeout: Duration::from_secs(5),
            receive_bytes_max: 256 << 20,
            unwritten_bytes_max: 256 << 20,
            checkpoints_max: 2,
            checkpoint_bytes_per_second: None,
        }
    }
}

impl RaftOptions {
    pub(super) fn pace(&self) -> Pace {
        Pace {
            heartbeat: self.heartbeat_ticks,
            election: self.election_ticks,
            message_bytes_max: self.message_bytes_max,
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            proposals_max: self.proposals_max,
            bytes_max: self.bytes_max,
            entry_bytes_max: self.entry_bytes_max,
            read_timeout: self.read_timeout,
            all_timeout: self.all_timeout,
        }
    }

    pub(super) fn apply_bounds(&self) -> ApplyBounds {
        ApplyBounds { entries_max: self.apply_entries_max.max(1), bytes_max: self.apply_bytes_max }
    }
}
