//! Writes to a shard of which this node has no replica: the encoded command goes to a node that has one, the leader first, as far
//! as it is known. The meaning is that of [`Replica::write`](super::Replica::write): a command is proposed a second time only where
//! it is known that nothing happened the first time. Called by `service`.

use super::{
    outcome::{Applied, Outcome},
    replica::{Written, not_proposed},
};
use crate::{
    raft::{Forward, NodeId, ProposeError},
    types::{Ack, Error, Result},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most shards whose leader is remembered; beyond them the leader is found by asking.
const LEADERS_MAX: usize = 64 << 10;

/// See the module.
pub struct Elsewhere {
    forward: Arc<dyn Forward>,
    /// Who led a shard last, as far as the nodes asked have said.
    leaders: Mutex<BTreeMap<u64, NodeId>>,
}

/// Why a write has no outcome yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Missed {
    /// Nobody asked could take it, and nothing happened: it may be tried again.
    NotTaken(Error),
    /// It is settled: a refusal, or an outcome that is not known.
    Settled(Error),
}

impl Elsewhere {
    /// The way over `forward`.
    pub fn new(forward: Arc<dyn Forward>) -> Elsewhere {
        Elsewhere { forward, leaders: Mutex::default() }
    }

    /// Who leads a shard, as far as is known here.
    pub fn leader(&self, shard: u64) -> Option<NodeId> {
        self.leaders().get(&shard).copied()
    }

    /// Carries out an encoded command at the leader of `shard`: each of `holders`, the nodes that have a replica, is asked at most
    /// once, the leader as last known before the others, and whoever one of them names as the leader next.
    ///
    /// # Errors
    /// [`Missed`].
    pub async fn write(&self, shard: u64, holders: &[NodeId], command: &Bytes, ack: Ack) -> Result<Written, Missed> {
        let mut left = holders.to_vec();
        if let Some(leader) = self.leader(shard) {
            ask_next(&mut left, leader);
        }
        let mut nobody = ProposeError::NotLeader { leader: None };
        while let Some(node) = (!left.is_empty()).then(|| left.remove(0)) {
            match self.forward.forward(node, shard, command.clone(), ack).await {
                Ok((index, outcome)) => {
                    self.leads(shard, node);
                    return written(shard, node, index, &outcome, ack);
                }
                Err(ProposeError::NotLeader { leader: Some(leader) }) => {
                    self.leads(shard, leader);
                    ask_next(&mut left, leader);
                    nobody = ProposeError::NotLeader { leader: Some(leader) };
                }
                Err(error @ (ProposeError::NotLeader { leader: None } | ProposeError::Unreachable(_))) => {
                    self.does_not_lead(shard, node);
                    nobody = error;
                }
                Err(settled) => return Err(Missed::Settled(not_proposed(settled))),
            }
        }
        Err(Missed::NotTaken(not_proposed(nobody)))
    }

    fn leads(&self, shard: u64, node: NodeId) {
        let mut leaders = self.leaders();
        if leaders.len() < LEADERS_MAX || leaders.contains_key(&shard) {
            leaders.insert(shard, node);
        }
    }

    fn does_not_lead(&self, shard: u64, node: NodeId) {
        let mut leaders = self.leaders();
        if leaders.get(&shard) == Some(&node) {
            leaders.remove(&shard);
        }
    }

    fn leaders(&self) -> MutexGuard<'_, BTreeMap<u64, NodeId>> {
        // Changed by single calls only.
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts `node` first if it is still to be asked.
fn ask_next(left: &mut [NodeId], node: NodeId) {
    if let Some(at) = left.iter().position(|one| *one == node) {
        left[..=at].rotate_right(1);
    }
}

fn written(shard: u64, node: NodeId, index: u64, outcome: &[u8], ack: Ack) -> Result<Written, Missed> {
    // A shard of which slots have moved says what became of it even so.
    if ack == Ack::Async && outcome.is_empty() {
        return Ok(Written { log_index: index, applied: Applied::Written { version: index } });
    }
    match Outcome::decode(outcome) {
        Ok(outcome) => Written::of(index, outcome).map_err(Missed::Settled),
        Err(problem) => {
            // It happened; only what it did is not known.
            tracing::error!(shard, node, %problem, "an outcome cannot be read");
            Err(Missed::Settled(not_proposed(ProposeError::Indeterminate)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raft::LogIndex, types::ErrorKind};
    use futures_util::{FutureExt, future::BoxFuture};

    type Answer = Result<(LogIndex, Bytes), ProposeError>;

    /// Nodes that answer as told, and who was asked.
    #[derive(Default)]
    struct Nodes {
        answers: BTreeMap<NodeId, Answer>,
        asked: Mutex<Vec<NodeId>>,
    }

    impl Forward for Nodes {
        fn forward(&self, to: NodeId, _: u64, _: Bytes, _: Ack) -> BoxFuture<'static, Answer> {
            self.asked.lock().unwrap().push(to);
            std::future::ready(self.answers[&to].clone()).boxed()
        }
    }

    fn done() -> Answer {
        Ok((9, Outcome::Applied(Applied::Written { version: 9 }).encode().into()))
    }

    fn not_leader(leader: Option<NodeId>) -> Answer {
        Err(ProposeError::NotLeader { leader })
    }

    fn away(answers: impl IntoIterator<Item = (NodeId, Answer)>) -> (Arc<Nodes>, Elsewhere) {
        let nodes = Arc::new(Nodes { answers: answers.into_iter().collect(), asked: Mutex::default() });
        (nodes.clone(), Elsewhere::new(nodes))
    }

    fn write(elsewhere: &Elsewhere) -> Result<u64, Missed> {
        let command = Bytes::from_static(b"c");
        let written = elsewhere.write(7, &[1, 2, 3], &command, Ack::Quorum);
        written.now_or_never().expect("ready at once").map(|written| written.log_index)
    }

    #[test]
    fn the_leader_is_followed_and_remembered() {
        let (nodes, elsewhere) = away([(1, not_leader(Some(3))), (2, not_leader(None)), (3, done())]);
        assert_eq!(write(&elsewhere), Ok(9));
        assert_eq!(write(&elsewhere), Ok(9));
        assert_eq!(*nodes.asked.lock().unwrap(), [1, 3, 3], "redirected once, then straight to the leader");
        assert_eq!(elsewhere.leader(7), Some(3));
    }

    #[test]
    fn nobody_is_asked_twice_and_nothing_happened() {
        let lost = || Err(ProposeError::Unreachable("gone".to_owned()));
        let (nodes, elsewhere) = away([(1, not_leader(Some(2))), (2, lost()), (3, not_leader(Some(1)))]);
        let Err(Missed::NotTaken(error)) = write(&elsewhere) else { panic!("it cannot have been taken") };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(*nodes.asked.lock().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn what_may_have_happened_is_not_tried_again() {
        let (nodes, elsewhere) = away([(1, Err(ProposeError::Indeterminate)), (2, done()), (3, done())]);
        let Err(Missed::Settled(error)) = write(&elsewhere) else { panic!("its outcome is not known") };
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
        assert_eq!(*nodes.asked.lock().unwrap(), [1]);
        let (_, elsewhere) = away([(1, Ok((9, Bytes::from_static(b"garbage")))), (2, done()), (3, done())]);
        let Err(Missed::Settled(error)) = write(&elsewhere) else { panic!("it happened, somehow") };
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
    }

    #[test]
    fn a_refusal_is_an_outcome() {
        let refused = Outcome::Refused(Error::invalid("version_mismatch", "other")).encode();
        let (_, elsewhere) = away([(1, Ok((9, refused.into())))]);
        let Err(Missed::Settled(error)) = write(&elsewhere) else { panic!("it was refused") };
        assert_eq!(error.code(), "version_mismatch");
    }
}
