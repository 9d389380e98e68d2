//! Proposals on their way, and who waits for them. The driver handles proposals of every group, whatever their outcomes'
//! type; the type is known to the handle that waits and to the worker that answers. Dropped unanswered, the proposer gets
//! `Indeterminate`. Used by `group`, `member` and `apply`.

use super::{LogIndex, ProposeError};
use bytes::Bytes;
use std::any::Any;
use std::collections::VecDeque;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A proposal that is not in the log yet.
pub(super) struct Queued {
    pub(super) data: Bytes,
    pub(super) waiting: Waiting,
}

/// Who waits for an entry, and for what.
pub(super) struct Waiting {
    slot: Slot,
    /// Held until the answer, so that everything under way is within the bounds.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

enum Slot {
    /// For the outcome of applying it.
    Applied(Box<dyn Answer>),
    /// Until it is on this node's disk.
    Logged(oneshot::Sender<Result<LogIndex, ProposeError>>),
    /// Until the change of members it stands for is in effect here.
    Members(oneshot::Sender<Result<LogIndex, ProposeError>>),
}

/// A place for an answer, of whatever type.
trait Answer: Send {
    fn refuse(self: Box<Self>, error: ProposeError);
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Send + 'static> Answer for oneshot::Sender<Result<T, ProposeError>> {
    fn refuse(self: Box<Self>, error: ProposeError) {
        // Whoever gave up waiting does not want the answer.
        let _ = self.send(Err(error));
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Where the answer comes.
pub(super) type Answered<T> = oneshot::Receiver<Result<T, ProposeError>>;

/// The answer, or `Indeterminate` if nobody can give it any more.
pub(super) async fn answered<T>(answer: Answered<T>) -> Result<T, ProposeError> {
    answer.await.unwrap_or(Err(ProposeError::Indeterminate))
}

impl Waiting {
    /// For the index and the outcome, of type `O`.
    pub(super) fn applied<O: Send + 'static>() -> (Waiting, Answered<(LogIndex, O)>) {
        let (answer, receiver) = oneshot::channel::<Result<(LogIndex, O), ProposeError>>();
        (Waiting { slot: Slot::Applied(Box::new(answer)), permits: None }, receiver)
    }

    /// For the index, once it is on this node's disk.
    pub(super) fn logged() -> (Waiting, Answered<LogIndex>) {
        let (answer, receiver) = oneshot::channel();
        (Waiting { slot: Slot::Logged(answer), permits: None }, receiver)
    }

    /// For the index of a change of members, once it is in effect.
    pub(super) fn members(answer: oneshot::Sender<Result<LogIndex, ProposeError>>) -> Waiting {
        Waiting { slot: Slot::Members(answer), permits: None }
    }

    pub(super) fn holding(self, permits: [OwnedSemaphorePermit; 2]) -> Waiting {
        Waiting { permits: Some(permits), ..self }
    }

    pub(super) fn is_for_the_log(&self) -> bool {
        matches!(self.slot, Slot::Logged(_))
    }

    pub(super) fn refuse(self, error: ProposeError) {
        // Before the answer: whoever gets it may propose again at once.
        drop(self.permits);
        match self.slot {
            Slot::Applied(answer) => answer.refuse(error),
            Slot::Logged(answer) | Slot::Members(answer) => Box::new(answer).refuse(error),
        }
    }

    /// Answers with where the entry is and what it did.
    pub(super) fn answer<O: Send + 'static>(self, index: LogIndex, outcome: O) {
        drop(self.permits);
        match self.slot {
            Slot::Applied(answer) => {
                let answer = answer.into_any().downcast::<oneshot::Sender<Result<(LogIndex, O), ProposeError>>>();
                let answer = answer.expect("invariant: a group's handles and its worker know one type of outcome");
                // Whoever gave up waiting does not want the answer.
                let _ = answer.send(Ok((index, outcome)));
            }
            Slot::Logged(answer) | Slot::Members(answer) => {
                // As above.
                let _ = answer.send(Ok(index));
            }
        }
    }
}

/// The proposals of one leader that are in its log and not yet committed, in the order of the log.
#[derive(Default)]
pub(super) struct Proposed {
    waiting: VecDeque<(LogIndex, u64, Waiting)>,
}

impl Proposed {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The entry at `index` of `term` is waited for. Indices grow.
    pub(super) fn push(&mut self, index: LogIndex, term: u64, waiting: Waiting) {
        self.waiting.push_back((index, term, waiting));
    }

    /// Who waits for the committed entry `index` of `term`. Whoever waited for another entry there, or before, waits in vain:
    /// what became of theirs is not known here.
    pub(super) fn take(&mut self, index: LogIndex, term: u64) -> Option<Waiting> {
        while let Some((at, of, _)) = self.waiting.front() {
            if *at > index {
                return None;
            }
            let found = (*at, *of) == (index, term);
            let (.., waiting) = self.waiting.pop_front()?;
            if found {
                return Some(waiting);
            }
            waiting.refuse(ProposeError::Indeterminate);
        }
        None
    }

    /// Everything up to `index` is on this node's disk: answers those who wait for no more than that.
    pub(super) fn logged(&mut self, index: LogIndex) {
        let (on_disk, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(at, _, waiting)| *at <= index && waiting.is_for_the_log());
        self.waiting = rest;
        on_disk.into_iter().for_each(|(at, _, waiting)| waiting.answer(at, ()));
    }

    /// Nobody can say what becomes of those behind `index`; the others are committed.
    pub(super) fn refuse_after(&mut self, index: LogIndex, error: &ProposeError) {
        let behind = self.waiting.partition_point(|(at, ..)| *at <= index);
        self.waiting.drain(behind..).for_each(|(.., waiting)| waiting.refuse(error.clone()));
    }

    /// Nobody can say what becomes of them.
    pub(super) fn refuse_all(&mut self, error: &ProposeError) {
        self.waiting.drain(..).for_each(|(.., waiting)| waiting.refuse(error.clone()));
    }
}
