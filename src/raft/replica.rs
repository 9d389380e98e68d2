//! One member of one group, without I/O and without a clock: the library's state machine of the protocol, the mirror of its
//! log, and the rules that the library leaves to its user. The driver feeds it messages, ticks and what became durable or
//! was applied, and carries out the [`Work`] it asks for. A panic of the library (an impossible state) goes through; the
//! driver catches it.

mod beats;
mod mutated;
mod ready;

use super::log::{HardState, LogEntry, Members};
use super::storage::{ColdRead, Mirror};
use super::writer::Write;
use super::{GroupId, LogIndex, NodeId, Role, convert};
use crate::mutants::mutant;
use crate::rt::{self, rng::Rng};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, Message, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, ReadState, SnapshotStatus, StateRole, Storage};
use rand::Rng as _;
use std::collections::VecDeque;

/// Rounds of the library taken in one go, so that one group does not hold up the others.
const READIES_MAX: usize = 8;
/// Messages on their way to one member.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes of entries proposed and not committed.
const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// Bytes of committed entries handed over at a time.
const COMMITTED_BYTES_MAX: usize = 4 << 20;

/// How fast a member counts, and how much it says at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Ticks between heartbeats.
    pub(super) heartbeat: usize,
    /// Ticks without a leader's word after which it campaigns, at least.
    pub(super) election: usize,
    /// Bytes of entries in one message, about.
    pub(super) message_bytes_max: usize,
}

/// See the module.
pub(super) struct Replica {
    node: NodeId,
    raw: RawNode<Mirror>,
    election_ticks: usize,
    /// The election timeout of our own choice (rule 1), and what it was chosen for: a change of any of these is when the
    /// library draws, which is not told otherwise.
    timeout: usize,
    chosen_for: Option<(u64, StateRole, NodeId)>,
    /// A state came or is wanted that the machine does not have: it must not lead.
    may_campaign: bool,
    latest_ready: u64,
    /// The Ready in which the term or the vote last changed, and up to which Ready all is durable.
    vote_ready: u64,
    durable_ready: u64,
    next_write: u64,
    /// Writes under way: their numbers and the Ready each belongs to.
    writing: VecDeque<(u64, u64)>,
    /// Messages that wait until the Ready of this number is durable.
    held: VecDeque<(u64, Vec<Message>)>,
    /// What waits until a write is durable, by its number plus one (0 for what only waits for those before it).
    parked: VecDeque<(u64, Step)>,
    /// Changed since it was last written; written with the next entries if only the commit index changed.
    hard: HardState,
    hard_is_written: bool,
    delivered: LogIndex,
}

/// What the state machine has to do next, in order.
#[derive(Debug)]
pub(super) enum Step {
    /// Apply these committed entries.
    Apply(Vec<LogEntry>),
    /// Put the checkpoint of this index in place of the state.
    Install(LogIndex),
}

/// What the driver has to do for a replica.
#[derive(Default)]
pub(super) struct Work {
    /// To be sent now.
    pub(super) messages: Vec<Message>,
    /// To be written, in order.
    pub(super) writes: Vec<Write>,
    /// For the state machine, in order.
    pub(super) steps: Vec<Step>,
    /// Reads that have an index now.
    pub(super) reads: Vec<ReadState>,
}

/// Why entries were not proposed; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotProposed {
    /// Not the leader.
    NotLeader,
    /// It leads, and hands over just now: nothing happened.
    HandingOver,
    /// Too much is uncommitted, or leadership is being handed over, or another member change is under way.
    Busy,
}

/// A change of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberChange {
    AddVoter(NodeId),
    AddLearner(NodeId),
    Remove(NodeId),
}

impl Replica {
    /// The member `node` of the mirror's group, whose state machine has applied up to `applied` (or will have, before
    /// anything else is applied).
    pub(super) fn new(node: NodeId, mirror: Mirror, applied: LogIndex, pace: Pace) -> raft::Result<Replica> {
        let hard = convert::hard_in(&mirror.initial_state()?.hard_state);
        let config = Config {
            id: node,
            election_tick: pace.election,
            heartbeat_tick: pace.heartbeat,
            applied,
            max_size_per_msg: pace.message_bytes_max as u64,
            max_inflight_msgs: IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            // Mutant 5: a lease by the leader's own clock, which knows nothing of drift, pauses and eager successors.
            read_only_option: if mutant!(5) { ReadOnlyOption::LeaseBased } else { ReadOnlyOption::Safe },
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX as u64,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX as u64,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, mirror, &logger)?;
        Ok(Replica {
            node,
            raw,
            election_ticks: pace.election,
            timeout: 0,
            chosen_for: None,
            may_campaign: true,
            latest_ready: 0,
            vote_ready: 0,
            durable_ready: 0,
            next_write: 0,
            writing: VecDeque::new(),
            held: VecDeque::new(),
            parked: VecDeque::new(),
            hard,
            hard_is_written: true,
            delivered: applied,
        })
    }

    pub(super) fn group(&self) -> GroupId {
        self.mirror().group()
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn mirror(&self) -> &Mirror {
        self.raw.store()
    }

    pub(super) fn mirror_mut(&mut self) -> &mut Mirror {
        self.raw.mut_store()
    }

    pub(super) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(super) fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.members().learners.contains(&self.node) => Role::Learner,
            StateRole::Follower => Role::Follower,
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|&leader| leader != raft::INVALID_ID)
    }

    pub(super) fn members(&self) -> &Members {
        self.mirror().members()
    }

    pub(super) fn committed(&self) -> LogIndex {
        self.raw.raft.raft_log.committed
    }

    /// Up to where the log is on this disk.
    pub(super) fn persisted(&self) -> LogIndex {
        self.raw.raft.raft_log.persisted
    }

    pub(super) fn last_index(&self) -> LogIndex {
        self.raw.raft.raft_log.last_index()
    }

    /// Committed entries have been given out up to here.
    pub(super) fn delivered(&self) -> LogIndex {
        self.delivered
    }

    /// Whether writes are under way.
    pub(super) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Whether this member alone decides, now: it leads, nobody else votes, and it has committed in its term.
    pub(super) fn decides_alone(&self) -> bool {
        self.is_leader() && self.raw.raft.prs().is_singleton() && self.raw.raft.commit_to_current_term()
    }

    /// Whether this member has a vote, by the members it knows of.
    pub(super) fn votes(&self) -> bool {
        self.raw.raft.promotable()
    }

    /// How far the members are, in order; empty unless this one leads.
    pub(super) fn progress(&self) -> Vec<(NodeId, &raft::Progress)> {
        if !self.is_leader() {
            return Vec::new();
        }
        let mut all: Vec<_> = self.raw.raft.prs().iter().map(|(node, progress)| (*node, progress)).collect();
        all.sort_unstable_by_key(|(node, _)| *node);
        all
    }

    /// The smallest index that every voter is known to have; only a leader knows.
    pub(super) fn matched_by_all(&self) -> LogIndex {
        let progress = self.raw.raft.prs();
        let voters = self.members().voters.iter().chain(&self.members().voters_outgoing);
        voters.map(|node| progress.get(*node).map_or(0, |progress| progress.matched)).min().unwrap_or(0)
    }

    /// The smallest index whose successors some other member still needs: what it has, or will have from a checkpoint; and whether it is
    /// from a checkpoint. `None` unless this member leads others.
    pub(super) fn needed_by_others(&self) -> Option<(LogIndex, bool)> {
        let others = self.raw.raft.prs().iter().filter(|(node, _)| **node != self.node);
        let needed = others.map(|(_, progress)| match progress.pending_snapshot {
            offered if offered > progress.matched => (offered, true),
            _ => (progress.matched, false),
        });
        needed.min().filter(|_| self.is_leader())
    }

    fn may_campaign(&self) -> bool {
        let is_held_back = self.is_behind_its_log() || self.would_win_before_its_log_is_durable();
        self.may_campaign && self.mirror().is_far_enough() && !is_held_back
    }

    /// Whether the log begins behind what is applied: a checkpoint is being installed. The library looks through what is committed and
    /// not applied before it campaigns, and ends the process where the log has not all of that.
    fn is_behind_its_log(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.applied + 1 < log.first_index()
    }

    /// The library takes it that who wins has its log on the disk, because the question for votes waited for that. The only voter asks nobody.
    fn would_win_before_its_log_is_durable(&self) -> bool {
        let voters = self.raw.raft.prs().conf().voters().ids();
        let asks_nobody = self.votes() && voters.iter().all(|voter| voter == self.node);
        asks_nobody && self.persisted() < self.last_index()
    }

    /// While false this member votes and follows, but does not try to lead.
    pub(super) fn set_may_campaign(&mut self, may: bool) {
        self.may_campaign = may;
    }

    /// One tick of the clock.
    pub(super) fn tick(&mut self, rng: &mut Rng) {
        if !self.may_campaign() && !self.is_leader() {
            // As the library counts, but without a campaign at the end of it.
            self.raw.raft.election_elapsed += 1;
            if self.raw.raft.election_elapsed > self.timeout {
                self.raw.raft.leader_id = raft::INVALID_ID;
            }
            return;
        }
        if self.raw.tick() && !self.is_leader() {
            // It campaigned: next time after another timeout, whatever the library thinks.
            self.chosen_for = None;
        }
        self.choose_timeout(rng);
    }

    /// A message of another member. One that a member would not send is dropped.
    pub(super) fn step(&mut self, mut message: Message, rng: &mut Rng) {
        match message.get_msg_type() {
            // Nobody forwards these: roles are checked where a request comes in.
            MessageType::MsgPropose | MessageType::MsgTransferLeader => return,
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            // It was a member before, and what it acknowledged then may have been counted. Members that were cut off since still count on it: an
            // emptied log must not help theirs, which lack what was acknowledged without them, to win.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote if !self.mirror().is_far_enough() => {
                rt::mark("who came back to a group without its log was asked for its vote");
                return;
            }
            _ => {}
        }
        if message.to != self.node || message.from == self.node || message.from == raft::INVALID_ID {
            return;
        }
        if mutant!(7) && is_between_leader_and_follower(&message) {
            // Mutant 7: whatever term a leader and its followers are of, they listen to each other.
            message.term = self.term();
        }
        // Errors say that the message means nothing here: a local one, or an answer from nobody's member.
        let _ = self.raw.step(message);
        self.miscount();
        self.choose_timeout(rng);
    }

    /// Whether it has asked for votes, not only whether it would get them, and nobody has refused: what comes may yet be enough. Two of three
    /// that asked at once refuse each other, and neither gets another answer.
    pub(super) fn awaits_votes(&self) -> bool {
        let (_, refusals, _) = self.raw.raft.prs().tally_votes();
        self.raw.raft.state == StateRole::Candidate && refusals == 0
    }

    /// Where this member comes among the voters that may take the place of `leader`, and how many they are. They agree on it as long as they
    /// agree on the members.
    pub(super) fn place_among_successors(&self, leader: NodeId) -> (usize, usize) {
        let members = self.members();
        let mut voters: Vec<NodeId> = members.voters.iter().chain(&members.voters_outgoing).copied().collect();
        voters.retain(|voter| *voter != leader);
        voters.sort_unstable();
        voters.dedup();
        (voters.iter().position(|voter| *voter == self.node).unwrap_or(0), voters.len().max(1))
    }

    /// Tries to become the leader, now.
    pub(super) fn campaign(&mut self, rng: &mut Rng) {
        if self.may_campaign() && self.votes() {
            let _ = self.raw.campaign();
            self.choose_timeout(rng);
        }
    }

    /// The leader's process has ended (rule 12): votes for others are no longer ignored. Liveness only.
    pub(super) fn forget_leader(&mut self, leader: NodeId, rng: &mut Rng) {
        if self.raw.raft.state == StateRole::Follower && self.raw.raft.leader_id == leader {
            self.raw.raft.leader_id = raft::INVALID_ID;
            self.choose_timeout(rng);
        }
    }

    /// Proposes entries; they get consecutive indices from the answer on, in the term now.
    pub(super) fn propose(&mut self, data: &[Bytes]) -> Result<LogIndex, NotProposed> {
        let entries = data.iter().map(|data| Entry { data: data.clone(), ..Entry::default() }).collect();
        self.propose_entries(entries)
    }

    /// Proposes a change of members; more than one at once go through a joint change, which ends by itself.
    pub(super) fn propose_members(&mut self, changes: &[MemberChange]) -> Result<LogIndex, NotProposed> {
        if self.is_leader() && (self.raw.raft.has_pending_conf() || !self.members().voters_outgoing.is_empty()) {
            return Err(NotProposed::Busy);
        }
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.iter().map(|change| single(*change)).collect::<Vec<_>>().into());
        let data = change.write_to_bytes().map_err(|_| NotProposed::Busy)?;
        let mut entry = Entry { data: data.into(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.propose_entries(vec![entry])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<LogIndex, NotProposed> {
        // Rule 6: on a follower the library would forward them, and nobody would know what became of them.
        if !self.is_leader() {
            return Err(NotProposed::NotLeader);
        }
        // The library takes nothing while it hands over; whoever leads next does.
        if self.raw.raft.lead_transferee.is_some() {
            return Err(NotProposed::HandingOver);
        }
        let first = self.last_index() + 1;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node;
        message.set_entries(entries.into());
        self.raw.step(message).map_err(|_| NotProposed::Busy)?;
        Ok(first)
    }

    /// Whether asking for a read index can lead to an answer (rule 6: a leader drops it before it has committed in its term).
    pub(super) fn can_read(&self) -> bool {
        if self.is_leader() { self.raw.raft.commit_to_current_term() } else { self.leader().is_some() }
    }

    /// Asks for a read index under a context that was never used before (rule 5).
    pub(super) fn read_index(&mut self, context: Vec<u8>) {
        // Mutant 4: a leader takes itself for the leader without asking anybody.
        if mutant!(4) && self.is_leader() {
            let index = self.committed();
            self.raw.raft.read_states.push(ReadState { index, request_ctx: context });
            return;
        }
        self.raw.read_index(context);
    }

    /// Hands leadership to another voter, once it has all entries.
    pub(super) fn transfer(&mut self, to: NodeId, rng: &mut Rng) -> Result<(), NotProposed> {
        if !self.is_leader() {
            return Err(NotProposed::NotLeader);
        }
        self.raw.transfer_leader(to);
        self.choose_timeout(rng);
        Ok(())
    }

    /// Messages to that node were lost.
    pub(super) fn unreachable(&mut self, node: NodeId) {
        self.raw.report_unreachable(node);
    }

    /// That node will not have the checkpoint that was offered to it (rule 4).
    pub(super) fn checkpoint_lost(&mut self, node: NodeId) {
        self.raw.report_snapshot(node, SnapshotStatus::Failure);
    }

    /// The members that were offered a checkpoint and have not come back.
    pub(super) fn awaiting_checkpoint(&self) -> Vec<NodeId> {
        if !self.is_leader() {
            return Vec::new();
        }
        let waits =
            |(node, progress): (&NodeId, &raft::Progress)| (progress.state == ProgressState::Snapshot).then_some(*node);
        let mut awaiting: Vec<NodeId> = self.raw.raft.prs().iter().filter_map(waits).collect();
        awaiting.sort_unstable();
        awaiting
    }

    /// Takes over the index, term and members of a checkpoint that lies here whole. Whether the log was reset for it; else
    /// the log has everything the checkpoint is of.
    pub(super) fn adopt(&mut self, index: LogIndex, term: u64, members: &Members, rng: &mut Rng) -> bool {
        let Some(leader) = self.leader().filter(|_| self.raw.raft.state == StateRole::Follower) else { return false };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (leader, self.node, self.term());
        message.set_snapshot(convert::snapshot(index, term, members));
        let _ = self.raw.step(message);
        let adopted = self.raw.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index);
        if adopted {
            // Nor does it campaign meanwhile: see `is_behind_its_log`.
            self.may_campaign = false;
        }
        self.choose_timeout(rng);
        adopted
    }

    /// Entries for a member far behind have been read from the log.
    pub(super) fn entries_read(&mut self, read: ColdRead, entries: Vec<LogEntry>) {
        self.mirror_mut().set_cold(entries);
        self.raw.on_entries_fetched(read.context);
    }

    /// The state machine has applied up to `index`.
    pub(super) fn applied(&mut self, index: LogIndex, cache_bytes_max: usize, rng: &mut Rng) {
        self.raw.advance_apply_to(index);
        let upto = index.min(self.persisted());
        self.mirror_mut().set_applied(index);
        self.mirror_mut().evict(upto, cache_bytes_max);
        self.choose_timeout(rng);
    }

    /// Rule 1: the election timeout is ours, drawn whenever the library has drawn one of its own.
    fn choose_timeout(&mut self, rng: &mut Rng) {
        let now = (self.raw.raft.term, self.raw.raft.state, self.raw.raft.leader_id);
        if self.chosen_for != Some(now) {
            self.chosen_for = Some(now);
            self.timeout = rng.random_range(self.election_ticks..longest_timeout(self.election_ticks));
        }
        if self.raw.raft.randomized_election_timeout() != self.timeout {
            self.raw.raft.set_randomized_election_timeout(self.timeout);
        }
    }
}

/// Members' clocks tick at different moments of a tick, so that a few ticks are enough to have them campaign one after the other.
fn longest_timeout(election_ticks: usize) -> usize {
    election_ticks + (election_ticks / 2).max(1)
}

fn is_between_leader_and_follower(message: &Message) -> bool {
    use MessageType::{MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse};
    matches!(message.get_msg_type(), MsgAppend | MsgAppendResponse | MsgHeartbeat | MsgHeartbeatResponse)
}

fn single(change: MemberChange) -> ConfChangeSingle {
    let (kind, node) = match change {
        MemberChange::AddVoter(node) => (ConfChangeType::AddNode, node),
        MemberChange::AddLearner(node) => (ConfChangeType::AddLearnerNode, node),
        MemberChange::Remove(node) => (ConfChangeType::RemoveNode, node),
    };
    let mut single = ConfChangeSingle { node_id: node, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    single
}
