//! A member's state as a whole: given to a member that lacks too much of the log, taken when this one does, and found again
//! after a crash in between.

use super::{Member, OFFER_TICKS};
use crate::raft::apply::Task;
use crate::raft::checkpoints::{Fetched, Wanted};
use crate::raft::incoming::Incoming;
use crate::raft::round::Round;
use crate::raft::{Checkpoint, CheckpointHead, FetchError, LogIndex, NodeId};
use bytes::Bytes;
use raft::Storage as _;
use raft::eraftpb::Message;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Member {
    /// The library is told of a checkpoint only once it lies here whole.
    pub(in crate::raft) fn offered_checkpoint(&mut self, message: Message, round: &mut Round) {
        let index = message.get_snapshot().get_metadata().index;
        if index <= self.replica.committed() && !self.awaits_state() {
            // It is older than what is here; the answer tells the leader so.
            self.replica.step(message, &mut round.rng);
        } else if message.to == round.node() && self.incoming.begin() {
            self.fetch(message.from, index, round);
        }
    }

    /// Rule 4: whoever was offered a checkpoint and neither takes it nor comes back is offered another.
    pub(in crate::raft) fn offer_again(&mut self, tick: u64) {
        let awaiting = self.replica.awaiting_checkpoint();
        self.offered.retain(|node, _| awaiting.contains(node));
        if awaiting.is_empty() {
            return;
        }
        let is_giving = Arc::strong_count(&self.giving) > 1;
        for node in awaiting {
            let since = self.offered.entry(node).or_insert(tick);
            if is_giving {
                *since = tick;
            } else if tick >= *since + OFFER_TICKS {
                self.offered.remove(&node);
                self.replica.checkpoint_lost(node);
            }
        }
    }

    /// The state was lost between the reset of the log and the installation: any other member's will do.
    pub(in crate::raft) fn ask_for_state(&mut self, round: &mut Round) {
        let members = self.replica.members();
        let mut others = members.voters.iter().copied().filter(|node| *node != round.node()).collect::<Vec<_>>();
        let Some(from) = self.replica.leader().or_else(|| {
            let at = usize::try_from(round.tick()).unwrap_or(0) % others.len().max(1);
            others.drain(..).nth(at)
        }) else {
            return;
        };
        if self.incoming.begin() {
            self.fetch(from, self.replica.mirror().compacted_index(), round);
        }
    }

    /// One that was begun before is of use if it brings this member on, and if the log, where it begins anew, follows it.
    fn fetch(&self, from: NodeId, at_least: LogIndex, round: &Round) {
        let group = self.id();
        let partial_at_least =
            if self.awaits_state() { self.replica.mirror().compacted_index() } else { self.replica.committed() + 1 };
        round.fetch_checkpoint(Wanted { from, group, at_least, partial_at_least });
    }

    /// Goes on with a checkpoint that lies here whole.
    pub(in crate::raft) fn take_incoming(&mut self, round: &mut Round) {
        let Some((index, term, members)) = self.incoming.here() else { return };
        if !members.contains(round.node()) {
            // From before this node was added: the next one will know it.
            self.incoming.drop_file().into_iter().for_each(|path| round.remove_checkpoint(path));
        } else if index > self.replica.delivered() {
            // What it is of is not all here: the log begins anew behind it.
            if self.replica.adopt(index, term, &members, &mut round.rng) {
                self.incoming.adopted();
                self.backlog = self.backlog.take().map(|_| Vec::new());
                round.dirty(self.id());
            }
        } else if self.awaits_state() {
            let path = self.incoming.install();
            self.send(Task::Install { index, path });
        } else if let Some(path) = self.incoming.drop_file() {
            round.remove_checkpoint(path);
        }
    }

    pub(in crate::raft) fn checkpoint_fetched(&mut self, fetched: Result<Fetched, FetchError>, round: &mut Round) {
        match fetched {
            Ok(fetched) => {
                if let Some(path) = self.incoming.fetched(self.id(), fetched) {
                    round.remove_checkpoint(path);
                }
            }
            Err(error) => {
                tracing::warn!(group = self.id(), %error, "a checkpoint did not come; it will be offered again");
                self.incoming = Incoming::default();
            }
        }
    }

    /// What a checkpoint of this group at `index` begins with; `None` if it is not known any more.
    pub(in crate::raft) fn head(&self, index: LogIndex) -> Option<CheckpointHead> {
        let mirror = self.replica.mirror();
        let term = mirror.term(index).ok()?;
        let members = mirror.members_at(index)?.encode(self.id()).ok()?;
        Some(CheckpointHead { index, term, members: Bytes::from(members) })
    }

    /// Asks the worker for the state.
    pub(in crate::raft) fn checkpoint(&self) -> oneshot::Receiver<Result<Box<dyn Checkpoint>, String>> {
        let (answer, checkpoint) = oneshot::channel();
        self.send(Task::Checkpoint(answer));
        checkpoint
    }

    /// To be held by whoever gives a checkpoint of this group.
    pub(in crate::raft) fn giving(&self) -> Arc<()> {
        self.giving.clone()
    }

    pub(in crate::raft) fn installed(&mut self, index: LogIndex, round: &mut Round) {
        self.incoming = Incoming::default();
        self.replica.applied(index, round.options().cache_bytes_max, &mut round.rng);
        self.replica.set_may_campaign(self.may_lead && round.may_lead());
        for task in self.backlog.take().unwrap_or_default() {
            self.send(task);
        }
    }
}
