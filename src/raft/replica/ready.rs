//! What the library wants done, turned into the driver's work: messages that may go now and those that wait for the disk, one
//! write for what must be durable, and committed entries for the state machine in order.

use super::{READIES_MAX, Replica, Step, Work};
use crate::mutants::mutant;
use crate::raft::convert;
use crate::raft::log::{EntryKind, LogEntry, LogWrite};
use crate::raft::writer::Write;
use crate::rt::rng::Rng;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, Message, MessageType, Snapshot};

impl Replica {
    /// Takes everything the library wants done.
    pub(in crate::raft) fn collect(&mut self, work: &mut Work, rng: &mut Rng) {
        for _ in 0..READIES_MAX {
            if !self.raw.has_ready() {
                break;
            }
            self.take_ready(work);
            if self.writing.is_empty() {
                // Nothing of it needs the disk, and nothing before it is on its way there.
                self.durable_up_to(self.latest_ready, work);
            }
        }
        self.choose_timeout(rng);
    }

    /// Whether there is more to collect.
    pub(in crate::raft) fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    fn take_ready(&mut self, work: &mut Work) {
        let mut ready = self.raw.ready();
        self.latest_ready = ready.number();
        let at_once = ready.take_messages();
        let mut held = self.release_reads(ready.take_persisted_messages(), work);
        work.reads.append(&mut ready.take_read_states());
        let snapshot = ready.snapshot().clone();
        let entries = ready.take_entries();
        if let Some(hard) = ready.hs().map(convert::hard_in) {
            self.mirror_mut().set_hard(hard);
            if (hard.term, hard.vote) != (self.hard.term, self.hard.vote) {
                self.vote_ready = self.latest_ready;
            }
            (self.hard, self.hard_is_written) = (hard, false);
        }
        if self.has_its_term() { &mut work.messages } else { &mut held }.extend(at_once);
        self.queue_write(&snapshot, &entries, ready.must_sync(), work);
        let committed = ready.take_committed_entries();
        if !held.is_empty() {
            self.held.push_back((self.latest_ready, held));
        }
        self.raw.advance_append_async(ready);
        self.deliver(committed, work);
    }

    /// Whether its term and its vote are on the disk. What a leader says waits for nothing else of its own. With other voters that is so before
    /// they answer; the only voter has won at once, and would lead the same term again after a power loss, with other entries.
    pub(super) fn has_its_term(&self) -> bool {
        self.vote_ready <= self.durable_ready
    }

    /// A read asks and promises nothing, so it need not wait for the disk; the rest does.
    fn release_reads(&self, messages: Vec<Message>, work: &mut Work) -> Vec<Message> {
        let is_read = |message: &Message| message.get_msg_type() == MessageType::MsgReadIndex;
        let (reads, held) = messages.into_iter().partition(is_read);
        work.messages.extend::<Vec<_>>(reads);
        held
    }

    /// Puts what must become durable into the mirror and into one write. A commit index alone is not worth a sync: it is
    /// found again.
    fn queue_write(&mut self, snapshot: &Snapshot, entries: &[Entry], must_sync: bool, work: &mut Work) {
        if !must_sync {
            return;
        }
        let mut write = LogWrite { group: self.group(), ..LogWrite::default() };
        if !snapshot.is_empty() {
            let metadata = snapshot.get_metadata();
            let members = convert::members_in(metadata.index, metadata.get_conf_state());
            self.mirror_mut().reset(metadata.index, metadata.term, members.clone());
            (write.reset, write.members) = (Some((metadata.index, metadata.term)), Some(members));
            // Rule 2: only once the write is durable.
            self.parked.push_back((self.next_write + 1, Step::Install(metadata.index)));
            self.delivered = metadata.index;
        }
        self.mirror_mut().append(entries);
        write.entries = entries.iter().map(convert::entry_in).collect();
        if !self.hard_is_written {
            (write.hard, self.hard_is_written) = (Some(self.hard), true);
        }
        self.push_write(write, work);
    }

    fn push_write(&mut self, what: LogWrite, work: &mut Work) {
        let number = self.next_write;
        self.next_write += 1;
        self.writing.push_back((number, self.latest_ready));
        work.writes.push(Write { number, what });
    }

    /// Hands committed entries to the state machine. Members change here, when the entry is committed; what is applied from
    /// that entry on waits until the new members are on the disk, so that an applied change is never forgotten.
    fn deliver(&mut self, committed: Vec<Entry>, work: &mut Work) {
        let Some(last) = committed.last() else { return };
        self.delivered = last.index;
        let mut run = Vec::with_capacity(committed.len());
        for entry in &committed {
            let entry = convert::entry_in(entry);
            if entry.kind == EntryKind::Members {
                self.deliver_run(&mut run, 0, work);
                let written = self.change_members(&entry, work);
                self.deliver_run(&mut vec![entry], written, work);
            } else {
                run.push(entry);
            }
        }
        self.deliver_run(&mut run, 0, work);
    }

    fn deliver_run(&mut self, run: &mut Vec<LogEntry>, after_write: u64, work: &mut Work) {
        if run.is_empty() {
            return;
        }
        let step = Step::Apply(std::mem::take(run));
        if after_write == 0 && self.parked.is_empty() {
            work.steps.push(step);
        } else {
            self.parked.push_back((after_write, step));
        }
    }

    /// Changes who the members are; the number of the write that remembers it, plus one. After a restart the log may know
    /// of a change that the state does not have yet and that the commit index found with it does not cover (it is not
    /// worth a sync of its own, the members are): that entry comes once more, and has its effect already.
    fn change_members(&mut self, entry: &LogEntry, work: &mut Work) -> u64 {
        if entry.index <= self.members().index {
            return 0;
        }
        let change = ConfChangeV2::parse_from_bytes(&entry.data)
            .unwrap_or_else(|error| panic!("entry {}: no member change: {error}", entry.index));
        let state = if mutant!(22) && change.get_changes().len() > 1 {
            self.change_one_by_one(&change)
        } else {
            self.raw.apply_conf_change(&change)
        };
        let state = state.unwrap_or_else(|error| panic!("entry {}: {error}", entry.index));
        if self.is_leader() && !self.votes() {
            // It has no vote any more. The others were told so when the entry was committed; a leader that does not belong to
            // its group is a state in which the library panics at the next entry that is written or acknowledged.
            let term = self.term();
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        let members = convert::members_in(entry.index, &state);
        self.mirror_mut().set_members(members.clone());
        self.push_write(LogWrite { group: self.group(), members: Some(members), ..LogWrite::default() }, work);
        self.next_write
    }

    /// The write of this number is on the disk. Writes become durable in their order.
    pub(in crate::raft) fn written(&mut self, number: u64, work: &mut Work) {
        let first = self.writing.pop_front();
        assert!(first.is_some_and(|(first, _)| first == number), "write {number} came back before {first:?}");
        let durable = self.writing.front().map_or(self.latest_ready, |(_, ready)| ready - 1);
        self.durable_up_to(durable, work);
        self.miscount();
        while self.parked.front().is_some_and(|(after, _)| is_durable(*after, number)) {
            work.steps.extend(self.parked.pop_front().map(|(_, step)| step));
        }
    }

    fn durable_up_to(&mut self, ready: u64, work: &mut Work) {
        self.durable_ready = ready;
        self.raw.on_persist_ready(ready);
        while self.held.front().is_some_and(|(number, _)| *number <= ready) {
            let (_, mut messages) = self.held.pop_front().expect("there is a front");
            work.messages.append(&mut messages);
        }
    }
}

/// Whether what waits for `after` (a write's number plus one; 0 for nothing) need not wait now that `number` is durable.
fn is_durable(after: u64, number: u64) -> bool {
    after <= number + 1
}
