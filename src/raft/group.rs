//! The handle to a consensus group: propose, read index, members, stop. It is the same for a group of one and for a
//! replicated group; the node's driver holds the other end. Called by `shard` and `coordination` and, through them, by
//! everything that writes.

use super::driver::Input;
use super::replica::MemberChange;
use super::shared::Shared;
use super::waiting::{Queued, Waiting, answered};
use super::{GroupId, GroupStatus, LogIndex, NodeId, ProposeError, Role};
use crate::rt::time::{self, Instant};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How often a change that takes several steps looks how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Entries a learner may be behind when it is given a vote.
const CAUGHT_UP_WITHIN: u64 = 1000;

/// Handle to a group whose entries answer `O`. Cheap to clone.
pub struct Group<O> {
    inner: Arc<Inner>,
    outcome: PhantomData<fn() -> O>,
}

struct Inner {
    shared: Arc<Shared>,
    driver: mpsc::UnboundedSender<Input>,
    proposals: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bounds: Bounds,
}

/// What a handle takes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) proposals_max: usize,
    pub(super) bytes_max: usize,
    pub(super) entry_bytes_max: usize,
    pub(super) read_timeout: Duration,
    pub(super) all_timeout: Duration,
}

impl<O> Clone for Group<O> {
    fn clone(&self) -> Self {
        Group { inner: self.inner.clone(), outcome: PhantomData }
    }
}

/// What a handle asks of the driver.
pub(super) enum Request {
    Propose(Queued),
    Read { deadline: Instant, answer: oneshot::Sender<Result<LogIndex, ProposeError>> },
    Matched { index: LogIndex, answer: oneshot::Sender<Result<(), ProposeError>> },
    Members { changes: Vec<MemberChange>, answer: oneshot::Sender<Result<LogIndex, ProposeError>> },
    Transfer { to: NodeId, answer: oneshot::Sender<Result<(), ProposeError>> },
    Status(oneshot::Sender<GroupStatus>),
    MayLead(bool),
}

impl Request {
    /// Nothing happens, because of `error`.
    pub(super) fn refuse(self, error: ProposeError) {
        // Whoever gave up waiting does not want the answer.
        match self {
            Request::Propose(queued) => queued.waiting.refuse(error),
            Request::Read { answer, .. } => drop(answer.send(Err(error))),
            Request::Matched { answer, .. } => drop(answer.send(Err(error))),
            Request::Members { answer, .. } => drop(answer.send(Err(error))),
            Request::Transfer { answer, .. } => drop(answer.send(Err(error))),
            // Its own handle says why.
            Request::Status(answer) => drop(answer),
            Request::MayLead(_) => {}
        }
    }
}

impl<O: Send + 'static> Group<O> {
    pub(super) fn new(shared: Arc<Shared>, driver: mpsc::UnboundedSender<Input>, bounds: Bounds) -> Group<O> {
        let permits = |max: usize| Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        let (proposals, bytes) = (permits(bounds.proposals_max), permits(bounds.bytes_max));
        Group { inner: Arc::new(Inner { shared, driver, proposals, bytes, bounds }), outcome: PhantomData }
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.inner.shared.id()
    }

    /// Commits `data` to the log (a majority has it on disk), applies it here, and answers its index and outcome. `NotLeader`
    /// at once on a replica that does not lead. Dropping the future does not take the proposal back.
    pub async fn propose(&self, data: Bytes) -> Result<(LogIndex, O), ProposeError> {
        let (waiting, outcome) = Waiting::applied();
        self.enqueue(data, waiting)?;
        answered(outcome).await
    }

    /// As [`Group::propose`], and answers only when every voter has the entry on its disk. `Indeterminate` if that was not so in time,
    /// or is not known any more because leadership was lost.
    pub async fn propose_to_all(&self, data: Bytes) -> Result<(LogIndex, O), ProposeError> {
        let (index, outcome) = self.propose(data).await?;
        let (answer, all) = oneshot::channel();
        // It is committed; whatever goes wrong now, nobody may say that nothing happened.
        let asked = self.ask(Request::Matched { index, answer });
        match (asked, time::timeout(self.inner.bounds.all_timeout, all).await) {
            (Ok(()), Ok(Ok(Ok(())))) => Ok((index, outcome)),
            _ => Err(ProposeError::Indeterminate),
        }
    }

    /// Answers when the entry is on this leader's own disk: it may yet be lost with this node, and what it does is not known.
    pub async fn propose_logged(&self, data: Bytes) -> Result<LogIndex, ProposeError> {
        let (waiting, logged) = Waiting::logged();
        self.enqueue(data, waiting)?;
        answered(logged).await
    }

    /// An index such that a read that has applied up to it sees everything acknowledged before this call, on whatever
    /// replica; returns when this replica has applied up to it (Ongaro, "Consensus: Bridging Theory and Practice", 2014,
    /// section 6.4). `Unavailable` when no leader confirmed it, or it was not applied, within the read timeout.
    pub async fn read_index(&self) -> Result<LogIndex, ProposeError> {
        let shared = &self.inner.shared;
        shared.check_running()?;
        let deadline = time::now() + self.inner.bounds.read_timeout;
        let index = if shared.decides_alone() {
            // Nobody else can have acknowledged anything: no election is won without this replica.
            shared.committed()
        } else {
            let (answer, index) = oneshot::channel();
            self.ask(Request::Read { deadline, answer })?;
            index.await.unwrap_or_else(|_| Err(shared.why_not_running()))?
        };
        self.applied_by(index, deadline).await.map(|()| index)
    }

    /// Waits until this replica has applied up to `index`; for ever, unless the group ends.
    pub async fn wait_applied(&self, index: LogIndex) -> Result<(), ProposeError> {
        let shared = &self.inner.shared;
        match shared.wait_for(index) {
            None => Ok(()),
            Some(applied) => applied.await.map_err(|_| shared.why_not_running()),
        }
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> LogIndex {
        self.inner.shared.applied()
    }

    /// Last index this replica knows to be committed.
    pub fn committed(&self) -> LogIndex {
        self.inner.shared.committed()
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.shared.leader()
    }

    /// Whether this replica takes itself for the leader. Another one may have been elected meanwhile.
    pub fn is_leader(&self) -> bool {
        self.inner.shared.role() == Role::Leader
    }

    /// Whether this replica has a vote, by the members it knows of: not one that is only being filled.
    pub fn votes(&self) -> bool {
        self.inner.shared.votes()
    }

    /// The term in which this replica takes itself for the leader, if it does.
    pub fn leads_in(&self) -> Option<u64> {
        self.inner.shared.leads_in()
    }

    /// Why the group failed, if it has; the node must then stop.
    pub fn failure(&self) -> Option<String> {
        self.inner.shared.failure()
    }

    /// The group as this replica sees it.
    pub async fn status(&self) -> Result<GroupStatus, ProposeError> {
        let (answer, status) = oneshot::channel();
        self.ask(Request::Status(answer))?;
        status.await.map_err(|_| self.inner.shared.why_not_running())
    }

    /// Whether this replica may try to lead, from now on: true at first. One that leads goes on until it has handed over.
    pub fn set_may_lead(&self, may: bool) -> Result<(), ProposeError> {
        self.ask(Request::MayLead(may))
    }

    /// Hands leadership to `to`, a voter, and returns when this replica knows it leads. `Unavailable` if it does not come to
    /// that within the read timeout: then leadership is where the votes put it.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        let deadline = time::now() + self.inner.bounds.read_timeout;
        let (answer, begun) = oneshot::channel();
        self.ask(Request::Transfer { to, answer })?;
        begun.await.unwrap_or_else(|_| Err(self.inner.shared.why_not_running()))?;
        while self.leader() != Some(to) {
            self.look_again(deadline).await?;
        }
        Ok(())
    }

    /// Hands leadership, if it is here, to the voter that is furthest. `Unavailable` if there is nobody who answers, or it does not
    /// come to that within the read timeout.
    pub async fn hand_over(&self) -> Result<(), ProposeError> {
        let status = self.status().await?;
        if status.role != Role::Leader {
            return Ok(());
        }
        let voting = status.peers.iter().filter(|peer| peer.active && status.members.voters.contains(&peer.node));
        // Of those that are as far, another one for each group: a node that stops leaves what it led to all.
        let spread = |node: NodeId| (self.id() ^ node).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match voting.max_by_key(|peer| (peer.match_index, spread(peer.node))) {
            Some(peer) => self.transfer_leader(peer.node).await,
            None => Err(ProposeError::Unavailable),
        }
    }

    /// Makes `voters` the voters and `learners` the learners of the group, to be called on the leader. New voters first learn;
    /// when they have caught up, old and new decide together until the change is through (joint consensus). Returns when
    /// only the new voters decide and the learners are told; a majority has then said that nobody has changed them since. A
    /// leader that is not to vote hands over first, if it can, and answers `NotLeader`. `Unavailable` if it takes longer than
    /// `limit`: the change may still be under way, and can be called for again.
    pub async fn change_members(
        &self,
        voters: &[NodeId],
        learners: &[NodeId],
        limit: Duration,
    ) -> Result<(), ProposeError> {
        let deadline = time::now() + limit;
        let wanted = Wanted::new(voters, learners);
        let mut confirmed = false;
        loop {
            let status = self.status().await?;
            if status.role != Role::Leader {
                return Err(ProposeError::NotLeader { leader: status.leader });
            }
            if let Some(to) = successor(&status, &wanted) {
                self.transfer_leader(to).await?;
                return Err(ProposeError::NotLeader { leader: Some(to) });
            }
            match next_change(&status, &wanted) {
                Next::Done if confirmed => return Ok(()),
                // Who was deposed and has not heard of it, or has just been elected, may know an older state of the group.
                Next::Done => {
                    let seen = time::timeout_at(deadline, self.read_index()).await;
                    seen.unwrap_or(Err(ProposeError::Unavailable))?;
                    confirmed = true;
                }
                Next::Wait => self.look_again(deadline).await?,
                Next::Change(changes) => match self.propose_members(changes).await {
                    Ok(_) => {}
                    Err(ProposeError::Exhausted) => self.look_again(deadline).await?,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Takes no more proposals, finishes those under way and returns when their effects are in the state. What comes after
    /// the call is answered `Stopped`. The log stays.
    pub async fn stop(&self) {
        let (done, finished) = oneshot::channel();
        if self.inner.driver.send(Input::Close { group: self.id(), done }).is_ok() {
            // An error means the driver has ended, which is what is waited for.
            let _ = finished.await;
        }
    }

    async fn propose_members(&self, changes: Vec<MemberChange>) -> Result<LogIndex, ProposeError> {
        let (answer, changed) = oneshot::channel();
        self.ask(Request::Members { changes, answer })?;
        changed.await.unwrap_or(Err(ProposeError::Indeterminate))
    }

    async fn look_again(&self, deadline: Instant) -> Result<(), ProposeError> {
        self.inner.shared.check_running()?;
        if time::now() >= deadline {
            return Err(ProposeError::Unavailable);
        }
        time::sleep(LOOK_INTERVAL).await;
        Ok(())
    }

    async fn applied_by(&self, index: LogIndex, deadline: Instant) -> Result<(), ProposeError> {
        let shared = &self.inner.shared;
        let Some(applied) = shared.wait_for(index) else { return Ok(()) };
        match time::timeout_at(deadline, applied).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(shared.why_not_running()),
            Err(_) => Err(ProposeError::Unavailable),
        }
    }

    /// Queues a proposal, if it is within every bound and this replica leads.
    fn enqueue(&self, data: Bytes, waiting: Waiting) -> Result<(), ProposeError> {
        let Inner { shared, proposals, bytes, bounds, .. } = &*self.inner;
        shared.check_running()?;
        if shared.role() != Role::Leader {
            return Err(ProposeError::NotLeader { leader: shared.leader() });
        }
        let limit = bounds.entry_bytes_max.min(bounds.bytes_max);
        if data.len() > limit {
            return Err(ProposeError::TooLarge { got: data.len(), limit });
        }
        let permits = u32::try_from(data.len()).unwrap_or(u32::MAX).max(1);
        let count = proposals.clone().try_acquire_owned().map_err(|_| ProposeError::Exhausted)?;
        let bytes = bytes.clone().try_acquire_many_owned(permits).map_err(|_| ProposeError::Exhausted)?;
        self.ask(Request::Propose(Queued { data, waiting: waiting.holding([count, bytes]) }))
    }

    fn ask(&self, request: Request) -> Result<(), ProposeError> {
        let input = Input::Request { group: self.id(), request };
        self.inner.driver.send(input).map_err(|_| self.inner.shared.why_not_running())
    }
}

/// Who is to belong to a group.
struct Wanted {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
}

impl Wanted {
    /// Whoever votes learns anyway.
    fn new(voters: &[NodeId], learners: &[NodeId]) -> Wanted {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        let learners = learners.iter().copied().filter(|node| !voters.contains(node)).collect();
        Wanted { voters, learners }
    }
}

/// The next step towards the wanted members.
enum Next {
    Done,
    Wait,
    Change(Vec<MemberChange>),
}

/// Who is to lead, if the leader is not to stay and somebody else is.
fn successor(status: &GroupStatus, wanted: &Wanted) -> Option<NodeId> {
    let stays = status.leader.is_none_or(|leader| wanted.voters.contains(&leader));
    let staying = status.peers.iter().filter(|peer| wanted.voters.contains(&peer.node) && peer.active);
    let voting = staying.filter(|peer| status.members.voters.contains(&peer.node));
    voting.max_by_key(|peer| peer.match_index).map(|peer| peer.node).filter(|_| !stays)
}

fn next_change(status: &GroupStatus, wanted: &Wanted) -> Next {
    let members = &status.members;
    if !members.voters_outgoing.is_empty() {
        return Next::Wait;
    }
    let voters: BTreeSet<NodeId> = members.voters.iter().copied().collect();
    let learners: BTreeSet<NodeId> = members.learners.iter().copied().collect();
    if voters == wanted.voters {
        let added = wanted.learners.difference(&learners).copied().map(MemberChange::AddLearner);
        // Among them those that an earlier change gave up on.
        let left = learners.difference(&wanted.learners).copied().map(MemberChange::Remove);
        let changes: Vec<MemberChange> = added.chain(left).collect();
        return if changes.is_empty() { Next::Done } else { Next::Change(changes) };
    }
    let new: Vec<NodeId> = wanted.voters.difference(&voters).copied().collect();
    if let Some(node) = new.iter().find(|node| !learners.contains(node)) {
        return Next::Change(vec![MemberChange::AddLearner(*node)]);
    }
    let has_caught_up = |node: &NodeId| {
        let peer = status.peers.iter().find(|peer| peer.node == *node);
        peer.is_some_and(|peer| peer.match_index + CAUGHT_UP_WITHIN >= status.last_index && peer.match_index > 0)
    };
    if !new.iter().all(has_caught_up) {
        return Next::Wait;
    }
    let added = new.into_iter().map(MemberChange::AddVoter);
    let loses_its_vote = |node: &NodeId| match wanted.learners.contains(node) {
        true => MemberChange::AddLearner(*node),
        false => MemberChange::Remove(*node),
    };
    Next::Change(added.chain(voters.difference(&wanted.voters).map(loses_its_vote)).collect())
}
