//! One round of the driver: what all groups together have to send and to write, the jobs they start on I/O threads, and what
//! they share (chance, the clock's ticks, the settings). Frames go out once a round for each peer; what cannot be sent is
//! lost, and the groups are told. Owned by `driver`.

use super::beat::{self, BEATS, Beat};
use super::checkpoints::{Partials, Shelf};
use super::driver::Input;
use super::lanes::Lanes;
use super::reads::Contexts;
use super::storage::{COLD_READ_BYTES, ColdRead};
use super::writer::{LogWriter, Write};
use super::{GroupId, GroupMessage, LogIndex, LogStore, NodeId, RaftOptions, Transport, checkpoints};
use crate::rt::rng::Rng;
use crate::rt::time::{self, Instant};
use crate::rt::{self, compute};
use bytes::Bytes;
use rand::Rng as _;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes and messages of one frame, about.
const FRAME_BYTES_MAX: usize = 4 << 20;
const FRAME_MESSAGES_MAX: usize = 4096;
/// How long after a leader's process ended its followers stop refusing votes to others, and campaign (rule 12).
const FORGET_LEADER_AFTER: Duration = Duration::from_millis(20);
/// They do so one after the other, those that notice a little later included.
const SUCCEED_LEADER_AFTER: Duration = Duration::from_millis(30);
const SUCCEED_LEADER_WITHIN: Duration = Duration::from_millis(150);
/// Who was refused by members that had not noticed yet, or stood aside for one whose log is shorter, tries again after a while.
const SUCCEED_AGAIN_AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_millis(200);
const SUCCEED_TRIES: u32 = 4;

/// See the module.
pub(super) struct Round {
    pub(super) rng: Rng,
    node: NodeId,
    options: RaftOptions,
    contexts: Contexts,
    tick: u64,
    dirty: BTreeSet<GroupId>,
    frames: BTreeMap<NodeId, Vec<Outgoing>>,
    beats: BTreeMap<NodeId, Vec<Beat>>,
    writes: Vec<Write>,
    unwritten_bytes: usize,
    timers: BTreeMap<(Instant, u64), Timer>,
    next_timer: u64,
    /// Whether the node leads no more groups: it is about to stop.
    withdrawn: bool,
    /// Whether the disk has no room for what others send.
    disk_full: bool,
    pub(super) parts: RoundParts,
}

/// What a round needs of the world.
pub(super) struct RoundParts {
    pub(super) log: LogStore,
    pub(super) writer: LogWriter,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) checkpoints: Arc<Path>,
    pub(super) driver: mpsc::WeakUnboundedSender<Input>,
    pub(super) lanes: Lanes,
    pub(super) shelf: Arc<Shelf>,
    pub(super) partials: Arc<Partials>,
}

struct Outgoing {
    message: GroupMessage,
    offers_checkpoint: bool,
}

/// Something to do for a group at a moment between ticks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// Stop taking that node for the leader.
    Forget(GroupId, NodeId),
    /// Campaign, if nobody leads by then; so many tries are left after this one.
    Succeed(GroupId, u32),
}

/// Messages of a group to a node were lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) with_checkpoint: bool,
}

impl Round {
    pub(super) fn new(node: NodeId, options: RaftOptions, boot: u64, rng: Rng, parts: RoundParts) -> Round {
        Round {
            rng,
            node,
            options,
            contexts: Contexts::new(node, boot),
            tick: 0,
            dirty: BTreeSet::new(),
            frames: BTreeMap::new(),
            beats: BTreeMap::new(),
            writes: Vec::new(),
            unwritten_bytes: 0,
            timers: BTreeMap::new(),
            next_timer: 0,
            withdrawn: false,
            disk_full: false,
            parts,
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn options(&self) -> &RaftOptions {
        &self.options
    }

    /// Ticks since the driver started.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    pub(super) fn count_tick(&mut self) {
        self.tick += 1;
    }

    /// From now on no replica here tries to lead.
    pub(super) fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// Whether replicas here may try to lead.
    pub(super) fn may_lead(&self) -> bool {
        !self.withdrawn
    }

    pub(super) fn set_disk_full(&mut self, is_full: bool) {
        self.disk_full = is_full;
    }

    /// Whether the disk has no room for what others send.
    pub(super) fn is_disk_full(&self) -> bool {
        self.disk_full
    }

    pub(super) fn contexts(&mut self) -> &mut Contexts {
        &mut self.contexts
    }

    /// Something happened to the group: look at it before the round ends.
    pub(super) fn dirty(&mut self, group: GroupId) {
        self.dirty.insert(group);
    }

    pub(super) fn take_dirty(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn send(&mut self, to: NodeId, group: GroupId, message: Bytes, offers_checkpoint: bool) {
        let message = GroupMessage { group, message };
        self.frames.entry(to).or_default().push(Outgoing { message, offers_checkpoint });
    }

    /// A heartbeat or an answer to one. That it is lost nobody has to be told: another follows, or an election.
    pub(super) fn send_beat(&mut self, to: NodeId, beat: Beat) {
        self.beats.entry(to).or_default().push(beat);
    }

    pub(super) fn write(&mut self, write: Write) {
        self.unwritten_bytes += write.what.bytes();
        self.writes.push(write);
    }

    /// So many bytes are on the disk.
    pub(super) fn written(&mut self, bytes: usize) {
        self.unwritten_bytes -= bytes;
    }

    pub(super) fn is_writing_too_much(&self) -> bool {
        self.unwritten_bytes > self.options.unwritten_bytes_max
    }

    /// Queues what is to be written and sends the frames; what was lost of them.
    pub(super) fn flush(&mut self) -> Vec<Lost> {
        if !self.writes.is_empty() {
            self.parts.writer.write(std::mem::take(&mut self.writes));
        }
        self.gather_beats();
        let mut lost = Vec::new();
        for (node, messages) in std::mem::take(&mut self.frames) {
            for frame in frames(messages) {
                let told: Vec<Lost> = frame
                    .iter()
                    .map(|out| Lost { group: out.message.group, node, with_checkpoint: out.offers_checkpoint })
                    .collect();
                let messages = frame.into_iter().map(|out| out.message).collect();
                if self.parts.transport.send(node, messages).is_err() {
                    lost.extend(told);
                }
            }
        }
        lost
    }

    /// Makes one message of the beats to each node.
    fn gather_beats(&mut self) {
        for (node, beats) in &mut self.beats {
            if beats.len() > 1 {
                rt::mark("heartbeats of several groups went as one message");
            }
            for message in beat::encode(beats) {
                let message = GroupMessage { group: BEATS, message };
                self.frames.entry(*node).or_default().push(Outgoing { message, offers_checkpoint: false });
            }
            // The room is kept for the next ones.
            beats.clear();
        }
    }

    /// When the next timer is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// A timer that is due at `now`.
    pub(super) fn take_timer(&mut self, now: Instant) -> Option<Timer> {
        let first = self.timers.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// The process of a group's leader ended. This member is at that place among those that may succeed it, out of so many.
    pub(super) fn leader_lost(&mut self, group: GroupId, leader: NodeId, (place, of): (usize, usize)) {
        let now = time::now();
        self.set_timer(now + FORGET_LEADER_AFTER, Timer::Forget(group, leader));
        let share = (SUCCEED_LEADER_WITHIN - SUCCEED_LEADER_AFTER) / u32::try_from(of).unwrap_or(u32::MAX);
        // Another member is the first in another group: what one node led is led by all the others then.
        let turn = (place as u64 + group % of as u64) % of as u64;
        let begins = SUCCEED_LEADER_AFTER + share * u32::try_from(turn).unwrap_or(u32::MAX);
        // The rest of a share is for its votes to come.
        let wait = self.rng.random_range(begins..=begins + share / 4);
        self.set_timer(now + wait, Timer::Succeed(group, SUCCEED_TRIES - 1));
    }

    /// Nobody leads the group yet that has lost its leader.
    pub(super) fn succeed_again(&mut self, group: GroupId, tries: u32) {
        let wait = self.rng.random_range(SUCCEED_AGAIN_AFTER);
        self.set_timer(time::now() + wait, Timer::Succeed(group, tries));
    }

    fn set_timer(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, self.next_timer), timer);
        self.next_timer += 1;
    }

    /// Fetches the state of a group from another node; the driver hears of it.
    pub(super) fn fetch_checkpoint(&self, wanted: checkpoints::Wanted) {
        let (transport, directory) = (self.parts.transport.clone(), self.parts.checkpoints.clone());
        let (driver, partials) = (self.parts.driver.clone(), self.parts.partials.clone());
        let checkpoints::Wanted { group, from, at_least, .. } = wanted;
        tracing::info!(group, from, at_least, "fetching a checkpoint");
        rt::spawn("raft-fetch", async move {
            let limits = checkpoints::FetchLimits::default();
            let fetched = checkpoints::fetch(&*transport, &directory, wanted, &partials, &limits).await;
            report(&driver, Input::Fetched { group, fetched });
        });
    }

    /// Lets go of what broken streams of checkpoints left at either end, when nobody has come back for it.
    pub(super) fn tidy_checkpoints(&self, now: Instant) {
        self.parts.shelf.count_time(now);
        self.parts.partials.count_time(now).into_iter().for_each(|path| self.remove_checkpoint(path));
    }

    /// Removes a checkpoint that is of no use.
    pub(super) fn remove_checkpoint(&self, path: PathBuf) {
        rt::spawn("raft-remove-checkpoint", async move {
            let removed = compute::io(move || checkpoints::remove(&path)).await;
            if let Err(error) = removed {
                tracing::warn!(%error, "a checkpoint that is of no use could not be removed");
            }
        });
    }

    /// Removes a group's log up to `upto`.
    pub(super) fn compact(&self, group: GroupId, upto: LogIndex) {
        let (log, driver) = (self.parts.log.clone(), self.parts.driver.clone());
        rt::spawn("raft-compact", async move {
            let compacted = compute::io(move || log.compact(group, upto)).await;
            report(&driver, Input::Compacted { group, result: compacted.map_err(|error| error.to_string()) });
        });
    }

    /// Reads entries for a member far behind.
    pub(super) fn read_entries(&self, group: GroupId, read: ColdRead) {
        let (log, driver) = (self.parts.log.clone(), self.parts.driver.clone());
        rt::spawn("raft-read", async move {
            let from = read.from;
            // An error (compacted meanwhile) shows again when the library looks itself.
            let entries = compute::io(move || log.read(group, from, COLD_READ_BYTES)).await.unwrap_or_default();
            report(&driver, Input::EntriesRead { group, read, entries });
        });
    }
}

/// Tells the driver, if it still runs.
pub(super) fn report(driver: &mpsc::WeakUnboundedSender<Input>, input: Input) {
    if let Some(driver) = driver.upgrade() {
        // It has ended: nobody is left to be told.
        let _ = driver.send(input);
    }
}

/// Cuts what goes to one node into frames, in order.
fn frames(messages: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut frames: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let length = message.message.message.len();
        match frames.last_mut() {
            Some(frame) if frame.len() < FRAME_MESSAGES_MAX && bytes + length <= FRAME_BYTES_MAX => {
                bytes += length;
                frame.push(message);
            }
            _ => {
                bytes = length;
                frames.push(vec![message]);
            }
        }
    }
    frames
}
