//! The loop that owns every group of a node. A round takes everything that has come in (messages, requests, what became
//! durable or was applied, ticks), steps the groups, and ends by sending one frame to each peer and one lot of writes to
//! the log. It never waits for the disk, the network or a state machine: those report back. A panic of a group (the library
//! found a state that cannot be) ends that group with a reason, and the node with it. Started by `node`.

use super::beat::{self, BEATS};
use super::group::Request;
use super::member::{Member, Parts};
use super::round::{Lost, Round, Timer};
use super::storage::ColdRead;
use super::writer::Written;
use super::{Checkpoint, CheckpointHead, FetchError, GroupId, GroupMessage, LogEntry, LogIndex, NodeId, ProposeError};
use super::{checkpoints, convert};
use crate::rt::time::{self, Instant};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Inputs of one round, at most.
const INPUTS_MAX: usize = 4096;
/// How long a closing group waits for what is under way.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Everything that reaches the driver.
pub(super) enum Input {
    Open {
        parts: Box<Parts>,
        answer: oneshot::Sender<Result<(), String>>,
    },
    Close {
        group: GroupId,
        done: oneshot::Sender<()>,
    },
    /// Close everything and end.
    Stop(oneshot::Sender<()>),
    Request {
        group: GroupId,
        request: Request,
    },
    Received {
        from: NodeId,
        messages: Vec<GroupMessage>,
        bytes: usize,
    },
    PeerLost(NodeId),
    /// Lead nothing more that is not led already.
    Withdraw,
    /// Whether the disk has no room.
    DiskFull(bool),
    Written(Vec<Written>),
    LogFailed(String),
    /// The lanes of state machines have something to tell, which each round looks for.
    LanesReport,
    Applied {
        group: GroupId,
        index: LogIndex,
    },
    ApplyFailed {
        group: GroupId,
        reason: String,
    },
    WorkerEnded {
        group: GroupId,
    },
    Synced {
        group: GroupId,
        index: LogIndex,
    },
    Installed {
        group: GroupId,
        index: LogIndex,
    },
    Compacted {
        group: GroupId,
        result: Result<(), String>,
    },
    EntriesRead {
        group: GroupId,
        read: ColdRead,
        entries: Vec<LogEntry>,
    },
    Fetched {
        group: GroupId,
        fetched: Result<checkpoints::Fetched, FetchError>,
    },
    Serve {
        group: GroupId,
        at_least: LogIndex,
        answer: oneshot::Sender<Result<Given, FetchError>>,
    },
    Head {
        group: GroupId,
        index: LogIndex,
        answer: oneshot::Sender<Option<(CheckpointHead, Arc<()>)>>,
    },
}

/// A state that is about to be given out.
pub(super) struct Given {
    pub(super) checkpoint: oneshot::Receiver<Result<Box<dyn Checkpoint>, String>>,
    /// Held while it is given.
    pub(super) giving: Arc<()>,
}

/// See the module.
pub(super) struct Driver {
    inbox: mpsc::UnboundedReceiver<Input>,
    /// Bytes of received messages that wait in the inbox.
    received_bytes: Arc<AtomicUsize>,
    members: BTreeMap<GroupId, Member>,
    round: Round,
    next_tick: Instant,
    failure: Option<String>,
    stopping: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(inbox: mpsc::UnboundedReceiver<Input>, received_bytes: Arc<AtomicUsize>, round: Round) -> Driver {
        Driver {
            inbox,
            received_bytes,
            members: BTreeMap::new(),
            next_tick: time::now() + round.options().tick,
            round,
            failure: None,
            stopping: Vec::new(),
        }
    }

    /// Runs until it is stopped, or until nobody is left who could ask for anything.
    pub(super) async fn run(mut self) {
        let mut inputs = Vec::new();
        let mut armed = self.wake_at();
        let mut alarm = pin!(time::sleep_until(armed));
        loop {
            if self.wake_at() != armed {
                armed = self.wake_at();
                alarm.set(time::sleep_until(armed));
            }
            tokio::select! {
                biased;
                () = &mut alarm => {
                    // It fires once: the next wait needs another one.
                    armed = Instant::START;
                }
                count = self.inbox.recv_many(&mut inputs, INPUTS_MAX) => {
                    if count == 0 {
                        break;
                    }
                }
            }
            while inputs.len() < INPUTS_MAX
                && let Ok(input) = self.inbox.try_recv()
            {
                inputs.push(input);
            }
            self.round.parts.lanes.take_reports(&mut inputs);
            self.count_time();
            inputs.drain(..).for_each(|input| self.take(input));
            self.settle();
            self.round.parts.lanes.start();
            if !self.stopping.is_empty() && self.members.is_empty() {
                break;
            }
        }
        for done in self.stopping {
            // Whoever gave up waiting is not there any more.
            let _ = done.send(());
        }
    }

    fn wake_at(&self) -> Instant {
        if self.round.has_dirty() {
            return Instant::START;
        }
        let early = [self.round.next_timer(), self.round.parts.lanes.wake_at()];
        early.into_iter().flatten().fold(self.next_tick, Instant::min)
    }

    /// Ticks and timers that are due.
    fn count_time(&mut self) {
        let now = time::now();
        if now >= self.next_tick {
            self.next_tick += self.round.options().tick;
            if self.next_tick <= now {
                // Held up for long: what was missed is not made up for, or leaders would be given up for nothing.
                self.next_tick = now + self.round.options().tick;
            }
            self.round.count_tick();
            self.round.tidy_checkpoints(now);
            self.tick_all(now);
        }
        while let Some(timer) = self.round.take_timer(now) {
            match timer {
                Timer::Forget(group, leader) => self.with(group, |member, round| {
                    member.replica.forget_leader(leader, &mut round.rng);
                }),
                Timer::Succeed(group, tries) => self.with(group, |member, round| member.succeed(tries, round)),
            }
        }
    }

    fn tick_all(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for (group, member) in self.members.iter_mut().filter(|(_, member)| !member.has_failed()) {
            let round = &mut self.round;
            match catch_unwind(AssertUnwindSafe(|| member.tick(now, round))) {
                // Most ticks of most groups change nothing that anybody would have to look at.
                Ok(()) if member.is_busy() => self.round.dirty(*group),
                Ok(()) => {}
                Err(payload) => failed.push((*group, impossible(&*payload))),
            }
        }
        failed.into_iter().for_each(|(group, reason)| self.fail(group, reason));
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Open { parts, answer } => self.open(*parts, answer),
            Input::Close { group, done } => self.close(group, done),
            Input::Stop(done) => self.stop(done),
            Input::Request { group, request } => self.request(group, request),
            Input::Received { from, messages, bytes } => self.received(from, messages, bytes),
            Input::PeerLost(node) => {
                for group in self.members.keys().copied().collect::<Vec<_>>() {
                    self.with(group, |member, round| member.peer_lost(node, round));
                }
            }
            Input::Withdraw => {
                self.round.withdraw();
                self.members.values_mut().for_each(Member::withdraw);
            }
            Input::DiskFull(is_full) => self.round.set_disk_full(is_full),
            Input::Written(writes) => {
                for Written { group, number, bytes } in writes {
                    self.round.written(bytes);
                    self.with(group, |member, round| member.written(number, round));
                }
            }
            Input::LogFailed(reason) => self.fail_all(&reason),
            Input::LanesReport => {}
            Input::Applied { group, index } => self.applied(group, index),
            Input::ApplyFailed { group, reason } => self.fail(group, reason),
            Input::WorkerEnded { group } => {
                if let Some(member) = self.members.get_mut(&group) {
                    member.worker_ended();
                    self.round.dirty(group);
                }
            }
            Input::Synced { group, index } => self.with(group, |member, round| member.synced(index, round)),
            Input::Installed { group, index } => self.with(group, |member, round| member.installed(index, round)),
            Input::Compacted { group, result: Ok(()) } => self.with(group, |member, _| member.compacted()),
            Input::Compacted { group, result: Err(reason) } => {
                self.fail(group, format!("cannot compact the log: {reason}"));
            }
            Input::EntriesRead { group, read, entries } => {
                self.with(group, |member, _| member.entries_read(read, entries));
            }
            Input::Fetched { group, fetched } => {
                self.with(group, |member, round| member.checkpoint_fetched(fetched, round));
            }
            Input::Serve { group, at_least, answer } => {
                // Whoever gave up waiting does not want the answer.
                let _ = answer.send(self.serve(group, at_least));
            }
            Input::Head { group, index, answer } => {
                // As above.
                let _ = answer.send(self.head(group, index));
            }
        }
    }

    fn request(&mut self, group: GroupId, request: Request) {
        match self.members.get(&group).map(|member| member.shared.check_running()) {
            Some(Ok(())) => self.with(group, |member, round| member.request(request, round)),
            Some(Err(error)) => request.refuse(error),
            None => request.refuse(ProposeError::Stopped),
        }
    }

    fn open(&mut self, parts: Parts, answer: oneshot::Sender<Result<(), String>>) {
        let group = parts.shared.id();
        let opened = if let Some(reason) = &self.failure {
            Err(format!("the log failed: {reason}"))
        } else if !self.stopping.is_empty() {
            Err("the node stops".to_owned())
        } else if self.members.contains_key(&group) {
            Err("it is open already".to_owned())
        } else {
            let is_eager = parts.is_eager;
            self.members.insert(group, Member::new(parts, &self.round));
            if is_eager {
                self.with(group, |member, round| member.replica.campaign(&mut round.rng));
            }
            self.round.dirty(group);
            Ok(())
        };
        // Whoever gave up waiting finds the group open.
        let _ = answer.send(opened);
    }

    fn close(&mut self, group: GroupId, done: oneshot::Sender<()>) {
        if let Some(member) = self.members.get_mut(&group) {
            member.close(time::now() + CLOSE_WITHIN, done);
            self.round.dirty(group);
        }
        // Without such a group there is nothing to wait for: dropping the answer says so.
    }

    fn stop(&mut self, done: oneshot::Sender<()>) {
        self.stopping.push(done);
        for group in self.members.keys().copied().collect::<Vec<_>>() {
            let (done, _) = oneshot::channel();
            self.close(group, done);
        }
    }

    fn received(&mut self, from: NodeId, messages: Vec<GroupMessage>, bytes: usize) {
        self.received_bytes.fetch_sub(bytes, Ordering::AcqRel);
        for GroupMessage { group, message } in messages {
            if group == BEATS {
                self.received_beats(from, &message);
                continue;
            }
            let Some(message) = convert::decode(&message).filter(|message| message.from == from) else {
                tracing::warn!(group, from, "a message that is none was dropped");
                continue;
            };
            self.with(group, |member, round| member.receive(message, round));
        }
    }

    fn applied(&mut self, group: GroupId, index: LogIndex) {
        // Mostly there is nothing to do about it.
        if self.act(group, |member, round| member.applied(index, round))
            && self.members.get(&group).is_some_and(Member::is_busy)
        {
            self.round.dirty(group);
        }
    }

    fn received_beats(&mut self, from: NodeId, message: &[u8]) {
        let Some(beats) = beat::decode(message) else {
            tracing::warn!(from, "heartbeats that are none were dropped");
            return;
        };
        for beat in beats {
            // Most of them change nothing that the round would have to look at.
            self.act(beat.group, |member, round| member.receive_beat(from, &beat, round));
        }
    }

    /// For whoever gives a checkpoint: what it begins with, and what to hold while it is given.
    fn head(&self, group: GroupId, index: LogIndex) -> Option<(CheckpointHead, Arc<()>)> {
        let member = self.members.get(&group).filter(|member| !member.has_failed())?;
        Some((member.head(index)?, member.giving()))
    }

    fn serve(&self, group: GroupId, at_least: LogIndex) -> Result<Given, FetchError> {
        let refused = |why: &str| Err(FetchError::Refused(why.to_owned()));
        let Some(member) = self.members.get(&group).filter(|member| !member.has_failed()) else {
            return refused("there is no such group here");
        };
        if member.awaits_state() || member.shared.applied() < at_least {
            return refused("the state here is older than that");
        }
        Ok(Given { checkpoint: member.checkpoint(), giving: member.giving() })
    }

    /// Does something to a group that runs, and looks at it before the round ends.
    fn with(&mut self, group: GroupId, act: impl FnOnce(&mut Member, &mut Round)) {
        if self.act(group, act) {
            self.round.dirty(group);
        }
    }

    /// Does something to a group; whether it runs, and still does.
    fn act(&mut self, group: GroupId, act: impl FnOnce(&mut Member, &mut Round)) -> bool {
        let Some(member) = self.members.get_mut(&group).filter(|member| !member.has_failed()) else { return false };
        let round = &mut self.round;
        match catch_unwind(AssertUnwindSafe(|| act(member, round))) {
            Ok(()) => true,
            Err(payload) => {
                self.fail(group, impossible(&*payload));
                false
            }
        }
    }

    fn fail(&mut self, group: GroupId, reason: String) {
        if let Some(member) = self.members.get_mut(&group) {
            member.fail(reason);
            self.round.dirty(group);
        }
    }

    fn fail_all(&mut self, reason: &str) {
        self.failure = Some(reason.to_owned());
        for group in self.members.keys().copied().collect::<Vec<_>>() {
            self.fail(group, reason.to_owned());
        }
    }

    /// Brings every group that something happened to through the round, then lets its results go.
    fn settle(&mut self) {
        let dirty = self.round.take_dirty();
        for group in &dirty {
            self.with(*group, Member::settle);
        }
        // Settling marked them again; what is left to do said so itself.
        let again: Vec<GroupId> = dirty.iter().copied().filter(|group| self.has_more(*group)).collect();
        self.round.take_dirty();
        again.into_iter().for_each(|group| self.round.dirty(group));
        for Lost { group, node, with_checkpoint } in self.round.flush() {
            self.with(group, |member, _| member.unreachable(node, with_checkpoint));
        }
        if dirty.is_empty() {
            return;
        }
        let now = time::now();
        for group in dirty {
            if let Some(waiting) = self.members.get_mut(&group).and_then(|member| member.try_end(now)) {
                self.members.remove(&group);
                self.round.parts.shelf.forget(group);
                waiting.into_iter().for_each(|done| {
                    // Whoever gave up waiting is not there any more.
                    let _ = done.send(());
                });
            }
        }
    }

    fn has_more(&self, group: GroupId) -> bool {
        self.members.get(&group).is_some_and(|member| !member.has_failed() && member.replica.has_ready())
    }
}

/// Why a group fails that panicked.
fn impossible(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("an impossible state: {}", text.unwrap_or("no message"))
}
