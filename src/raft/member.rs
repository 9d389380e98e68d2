//! One group on this node as the driver sees it: the replica, who waits for what, the queue to the state machine's worker, and
//! the checkpoints on their way in and out. It turns requests, messages and reports into calls of the replica, and the work the
//! replica asks for into what the driver's round carries out. Owned by `driver`.

mod report;
mod state;

use super::apply::{Task, Tasks};
use super::beat::Beat;
use super::group::Request;
use super::incoming::Incoming;
use super::log_size::{LogSize, Others};
use super::reads::Reads;
use super::replica::{NotProposed, Replica, Step, Work};
use super::round::Round;
use super::shared::{Shared, Standing};
use super::waiting::{Proposed, Queued, Waiting};
use super::{GroupId, LogEntry, LogIndex, NodeId, ProposeError, convert};
use crate::mutants::mutant;
use crate::rt::{self, time::Instant};
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// So many times as much log as usual is kept for a member that is being given a checkpoint: if it were gone when the checkpoint has
/// arrived, the member would need another one, and under steady writes never have the last.
const KEEP_FOR_CHECKPOINT: usize = 16;
/// Ticks after which a member that was offered a checkpoint and takes none is offered another.
const OFFER_TICKS: u64 = 30;
/// Ticks in which the first leader of a new group is tried for every tick.
const EAGER_TICKS: u64 = 5;
/// Bytes handed to the state machine and not applied; a follower with more takes no entries.
const UNAPPLIED_BYTES_MAX: usize = 64 << 20;
/// Ticks without anything new after which a group lets go of its entries in memory.
const QUIET_TICKS: u64 = 50;

/// See the module.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    pub(super) replica: Replica,
    tasks: Tasks,
    queued: VecDeque<Queued>,
    proposed: Proposed,
    /// Who waits until every voter has an index.
    matched: Vec<(LogIndex, oneshot::Sender<Result<(), ProposeError>>)>,
    reads: Reads,
    /// Whether it led, and in which term, when last looked at.
    led: Option<u64>,
    /// Whether its owner lets it lead.
    may_lead: bool,
    /// The first tick after a new group was opened whose first leader this is to be.
    eager_since: Option<u64>,
    pub(super) incoming: Incoming,
    /// Steps that wait for the state they build on.
    backlog: Option<Vec<Task>>,
    /// Since which tick members have been offered a checkpoint.
    offered: BTreeMap<NodeId, u64>,
    /// Shared with the streams that give checkpoints.
    giving: Arc<()>,
    size: LogSize,
    compacting: bool,
    /// Entries with the worker: the last index and the bytes of each lot.
    unapplied: VecDeque<(LogIndex, usize)>,
    unapplied_bytes: usize,
    quiet_since: u64,
    /// Reads and compactions on I/O threads.
    pub(super) jobs: usize,
    closing: Option<Closing>,
    worker_ended: bool,
    /// It failed, and the driver knows. Here and not behind `shared`, because every tick and message asks.
    has_failed: bool,
}

struct Closing {
    deadline: Instant,
    done: Vec<oneshot::Sender<()>>,
    told_worker: bool,
}

/// What a member is made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) replica: Replica,
    pub(super) tasks: Tasks,
    pub(super) size: LogSize,
    pub(super) awaits_state: bool,
    /// Whether to try to lead at once and keep trying.
    pub(super) is_eager: bool,
}

impl Member {
    pub(super) fn new(parts: Parts, round: &Round) -> Member {
        let mut replica = parts.replica;
        // Who is to lead a new group first, or is alone, has nobody to leave that to.
        replica.set_may_campaign(!parts.awaits_state && (round.may_lead() || parts.is_eager));
        Member {
            shared: parts.shared,
            replica,
            tasks: parts.tasks,
            queued: VecDeque::new(),
            proposed: Proposed::default(),
            matched: Vec::new(),
            reads: Reads::default(),
            led: None,
            may_lead: true,
            eager_since: parts.is_eager.then_some(round.tick()),
            incoming: Incoming::default(),
            backlog: parts.awaits_state.then(Vec::new),
            offered: BTreeMap::new(),
            giving: Arc::new(()),
            size: parts.size,
            compacting: false,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            quiet_since: round.tick(),
            jobs: 0,
            closing: None,
            worker_ended: false,
            has_failed: false,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.shared.id()
    }

    /// Whether the state is older than the log's beginning.
    pub(super) fn awaits_state(&self) -> bool {
        self.backlog.is_some()
    }

    pub(super) fn request(&mut self, request: Request, round: &mut Round) {
        match request {
            Request::Propose(queued) => self.queued.push_back(queued),
            Request::Read { deadline, answer } => self.reads.push(deadline, answer),
            Request::Matched { index, answer } if self.replica.is_leader() => self.matched.push((index, answer)),
            // Who leads now would have to be asked.
            Request::Matched { answer, .. } => drop(answer.send(Err(ProposeError::Indeterminate))),
            Request::Members { changes, answer } => {
                let at = self.replica.propose_members(&changes);
                self.proposed_at(at, [Waiting::members(answer)]);
            }
            Request::Transfer { to, answer } => {
                let begun = self.replica.transfer(to, &mut round.rng);
                // Whoever gave up waiting does not want the answer.
                let _ = answer.send(begun.map_err(|why| self.not_proposed(why)));
            }
            Request::Status(answer) => {
                // As above.
                let _ = answer.send(self.status());
            }
            Request::MayLead(may) => {
                self.may_lead = may;
                self.replica.set_may_campaign(may && !self.awaits_state() && round.may_lead());
            }
        }
    }

    /// A message of another member.
    pub(super) fn receive(&mut self, message: Message, round: &mut Round) {
        match message.get_msg_type() {
            // Full: as if it had been lost.
            MessageType::MsgAppend if self.is_full(round) && !message.entries.is_empty() => {}
            MessageType::MsgSnapshot if round.is_disk_full() => {}
            MessageType::MsgSnapshot => self.offered_checkpoint(message, round),
            _ => self.replica.step(message, &mut round.rng),
        }
    }

    /// A heartbeat of another member, or its answer to one.
    pub(super) fn receive_beat(&mut self, from: NodeId, beat: &Beat, round: &mut Round) {
        match self.replica.take_beat(from, beat) {
            Some(answer) => {
                rt::mark("a heartbeat changed nothing but a clock");
                answer.into_iter().for_each(|answer| round.send_beat(from, answer));
            }
            None => {
                self.receive(beat.message(from, round.node()), round);
                round.dirty(self.id());
            }
        }
    }

    fn is_full(&self, round: &Round) -> bool {
        self.unapplied_bytes > UNAPPLIED_BYTES_MAX || round.is_writing_too_much() || round.is_disk_full()
    }

    pub(super) fn tick(&mut self, now: Instant, round: &mut Round) {
        self.replica.tick(&mut round.rng);
        self.replica.take_beats().into_iter().for_each(|(to, beat)| round.send_beat(to, beat));
        self.reads.expire(now);
        self.matched.retain(|(_, answer)| !answer.is_closed());
        if let Some(since) = self.eager_since.filter(|_| self.replica.leader().is_none()) {
            if round.tick() <= since + EAGER_TICKS {
                self.replica.campaign(&mut round.rng);
            }
        } else {
            self.eager_since = None;
        }
        self.offer_again(round.tick());
        if self.awaits_state() && self.incoming.is_none() {
            self.ask_for_state(round);
        }
        if round.tick() == self.quiet_since + QUIET_TICKS {
            self.replica.rest();
        }
    }

    /// The connection to a node broke.
    pub(super) fn peer_lost(&mut self, node: NodeId, round: &mut Round) {
        if self.replica.is_leader() {
            self.unreachable(node, true);
        } else if self.replica.leader() == Some(node) {
            tracing::debug!(group = self.id(), leader = node, "the connection to the leader broke");
            round.leader_lost(self.id(), node, self.replica.place_among_successors(node));
        }
    }

    /// Votes and follows from now on, and tries to lead no more.
    pub(super) fn withdraw(&mut self) {
        self.replica.set_may_campaign(false);
    }

    /// Messages to a node were lost.
    pub(super) fn unreachable(&mut self, node: NodeId, with_checkpoint: bool) {
        self.replica.unreachable(node);
        if with_checkpoint {
            self.replica.checkpoint_lost(node);
        }
    }

    /// The write of this number is on the disk.
    pub(super) fn written(&mut self, number: u64, round: &mut Round) {
        let mut work = Work::default();
        self.replica.written(number, &mut work);
        self.proposed.logged(self.replica.persisted());
        self.carry_out(work, round);
    }

    pub(super) fn applied(&mut self, index: LogIndex, round: &mut Round) {
        while self.unapplied.front().is_some_and(|(last, _)| *last <= index) {
            self.unapplied_bytes -= self.unapplied.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        self.replica.applied(index, round.options().cache_bytes_max, &mut round.rng);
        if !self.compacting && self.size.is_due() {
            self.compacting = true;
            self.send(Task::Sync);
        }
    }

    /// The state up to `index` is on disk: the log may be compacted.
    pub(super) fn synced(&mut self, index: LogIndex, round: &mut Round) {
        let members = self.replica.members();
        let alone = members.voters.len() == 1 && members.learners.is_empty() && members.voters_outgoing.is_empty();
        let keep = round.options().keep_bytes_max;
        let (others, keep) = match self.replica.needed_by_others() {
            _ if alone => (Others::None, keep),
            Some((needed, false)) => (Others::Have(needed), keep),
            Some((needed, true)) => (Others::Have(needed), keep.saturating_mul(KEEP_FOR_CHECKPOINT)),
            None => (Others::Unknown, keep),
        };
        let upto = self.size.limit(index, others, keep);
        if upto <= self.replica.mirror().compacted_index() || self.replica.mirror_mut().compact(upto).is_err() {
            self.compacting = false;
            return;
        }
        self.size.compacted(upto);
        self.jobs += 1;
        round.compact(self.id(), upto);
    }

    pub(super) fn compacted(&mut self) {
        self.jobs -= 1;
        self.compacting = false;
    }

    /// Entries for a member far behind have come from the log.
    pub(super) fn entries_read(&mut self, read: super::storage::ColdRead, entries: Vec<LogEntry>) {
        self.jobs -= 1;
        self.replica.entries_read(read, entries);
    }

    /// The group is of no use any more.
    pub(super) fn fail(&mut self, reason: String) {
        self.has_failed = true;
        self.shared.fail(reason.clone());
        let error = ProposeError::Failed(reason);
        self.queued.drain(..).for_each(|queued| queued.waiting.refuse(error.clone()));
        self.reads.refuse_all(&error);
        self.proposed.refuse_all(&ProposeError::Indeterminate);
        self.matched.clear();
        // It does nothing more; what it was given comes to no end.
        self.tasks.send(Task::End);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Proposes what is queued, asks what is to be read, and takes everything the library wants done.
    pub(super) fn settle(&mut self, round: &mut Round) {
        self.propose_queued(round);
        if self.replica.can_read()
            && let Some(context) = self.reads.question(round.tick(), round.contexts())
        {
            self.replica.read_index(context);
        }
        let mut work = Work::default();
        self.replica.collect(&mut work, &mut round.rng);
        self.carry_out(work, round);
        self.notice_role();
        self.answer_matched();
        self.take_incoming(round);
        if let Some(read) = self.replica.mirror_mut().take_wanted() {
            self.jobs += 1;
            round.read_entries(self.id(), read);
        }
        if self.replica.has_ready() {
            round.dirty(self.id());
        }
    }

    fn propose_queued(&mut self, round: &Round) {
        while !self.queued.is_empty() {
            if round.is_writing_too_much() {
                self.queued.drain(..).for_each(|queued| queued.waiting.refuse(ProposeError::Exhausted));
                return;
            }
            let (mut data, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(next) = self
                .queued
                .pop_front_if(|next| bytes == 0 || bytes + next.data.len() <= round.options().message_bytes_max)
            {
                bytes += next.data.len().max(1);
                data.push(next.data);
                waiting.push(next.waiting);
            }
            let at = self.replica.propose(&data);
            self.proposed_at(at, waiting);
        }
    }

    fn proposed_at(&mut self, at: Result<LogIndex, NotProposed>, waiting: impl IntoIterator<Item = Waiting>) {
        match at {
            Ok(first) => {
                let term = self.replica.term();
                for (index, waiting) in (first..).zip(waiting) {
                    self.proposed.push(index, term, waiting);
                }
            }
            Err(why) => {
                let error = self.not_proposed(why);
                waiting.into_iter().for_each(|waiting| waiting.refuse(error.clone()));
            }
        }
    }

    fn not_proposed(&self, why: NotProposed) -> ProposeError {
        match why {
            NotProposed::NotLeader => ProposeError::NotLeader { leader: self.replica.leader() },
            NotProposed::HandingOver => ProposeError::NotLeader { leader: None },
            NotProposed::Busy => ProposeError::Exhausted,
        }
    }

    fn carry_out(&mut self, work: Work, round: &mut Round) {
        if !work.writes.is_empty() || !work.steps.is_empty() {
            self.quiet_since = round.tick();
        }
        for message in work.messages {
            if let Some(beat) = Beat::of(self.id(), &message) {
                round.send_beat(message.to, beat);
                continue;
            }
            let offers_checkpoint = message.get_msg_type() == MessageType::MsgSnapshot;
            round.send(message.to, self.id(), convert::encode(&message), offers_checkpoint);
        }
        for write in work.writes {
            if let Some(last) = write.what.entries.last() {
                self.size.grow(last.index, write.what.bytes());
            }
            round.write(write);
        }
        // Before anything of it can be answered.
        self.shared.advance_committed(self.replica.committed());
        for read in work.reads {
            self.reads.answer(&read.request_ctx, read.index);
        }
        for step in work.steps {
            let task = self.task_of(step);
            match &mut self.backlog {
                Some(backlog) if matches!(task, Task::Apply { .. }) => backlog.push(task),
                _ => self.send(task),
            }
        }
    }

    fn task_of(&mut self, step: Step) -> Task {
        match step {
            Step::Install(index) => Task::Install { index, path: self.incoming.install() },
            Step::Apply(entries) => {
                let bytes = entries.iter().map(|entry| entry.data.len()).sum();
                if let Some(last) = entries.last() {
                    self.unapplied.push_back((last.index, bytes));
                    self.unapplied_bytes += bytes;
                }
                let take = |entry: &LogEntry| Some((entry.index, self.proposed.take(entry.index, entry.term)?));
                let waiting = entries.iter().filter_map(take).collect();
                Task::Apply { entries, waiting }
            }
        }
    }

    fn send(&self, task: Task) {
        self.tasks.send(task);
    }

    /// Tells the handles what this member is now. Who waited for a leader that is one no more is told that nobody knows
    /// (rule 7).
    fn notice_role(&mut self) {
        let leads = self.replica.is_leader().then(|| self.replica.term());
        if leads != self.led {
            if self.led.is_some() {
                let leader = self.replica.leader();
                // Mutant 27: it is taken for certain that nothing happened.
                let error = if mutant!(27) { ProposeError::NotLeader { leader } } else { ProposeError::Indeterminate };
                self.proposed.refuse_after(self.replica.delivered(), &error);
                self.matched.drain(..).for_each(|(_, answer)| {
                    // Whoever gave up waiting does not want the answer.
                    let _ = answer.send(Err(ProposeError::Indeterminate));
                });
            }
            self.reads.ask_anew();
            self.led = leads;
        }
        let replica = &self.replica;
        let (role, leader) = (replica.role(), replica.leader());
        if role != self.shared.role() || leader != self.shared.leader() {
            tracing::debug!(group = self.id(), ?role, leader, term = replica.term(), "another role or leader");
        }
        let (decides_alone, votes) = (replica.decides_alone(), replica.votes());
        self.shared.set_standing(Standing { role, leader, leads_in: leads, decides_alone, votes });
    }

    fn answer_matched(&mut self) {
        if self.matched.is_empty() || !self.replica.is_leader() {
            return;
        }
        let by_all = self.replica.matched_by_all();
        for (_, answer) in self.matched.extract_if(.., |(index, _)| *index <= by_all) {
            // As above.
            let _ = answer.send(Ok(()));
        }
    }

    /// The leader's process ended a moment ago, and has not been heard of since. With `tries` left it is tried again later.
    pub(super) fn succeed(&mut self, tries: u32, round: &mut Round) {
        if self.replica.leader().is_some() || self.replica.is_leader() {
            return;
        }
        // Votes that are on their way are waited for.
        if !self.replica.awaits_votes() {
            tracing::debug!(group = self.id(), tries, "campaigns in the place of a leader that is gone");
            self.replica.campaign(&mut round.rng);
        }
        if tries > 0 {
            round.succeed_again(self.id(), tries - 1);
        }
    }
}
