//! The reads of one group that wait for an index. One question to the leader is under way at a time; whoever comes meanwhile
//! shares the next one, so that the more read, the more a question carries. A question that gets no answer is asked again,
//! under a new context: contexts are never used twice (rule 5). Owned by `member`.

use super::{LogIndex, NodeId, ProposeError};
use crate::rt::time::Instant;
use tokio::sync::oneshot;

/// Ticks after which an unanswered question is asked again.
const ASK_AGAIN_TICKS: u64 = 3;

/// Where contexts come from: no two are the same, on whatever node and whenever its process started.
#[derive(Debug)]
pub(super) struct Contexts {
    node: NodeId,
    boot: u64,
    sequence: u64,
}

impl Contexts {
    /// `boot` tells one run of the node's process from another.
    pub(super) fn new(node: NodeId, boot: u64) -> Contexts {
        Contexts { node, boot, sequence: 0 }
    }

    fn next(&mut self) -> Vec<u8> {
        self.sequence += 1;
        [self.node, self.boot, self.sequence].iter().flat_map(|number| number.to_be_bytes()).collect()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Reads {
    waiting: Vec<Reader>,
    asked: Option<Question>,
}

struct Reader {
    deadline: Instant,
    answer: oneshot::Sender<Result<LogIndex, ProposeError>>,
}

struct Question {
    context: Vec<u8>,
    asked_at: u64,
    readers: Vec<Reader>,
}

impl Reads {
    pub(super) fn push(&mut self, deadline: Instant, answer: oneshot::Sender<Result<LogIndex, ProposeError>>) {
        self.waiting.push(Reader { deadline, answer });
    }

    /// The context of a question to be asked now, if one is due.
    pub(super) fn question(&mut self, tick: u64, contexts: &mut Contexts) -> Option<Vec<u8>> {
        if self.asked.as_ref().is_some_and(|asked| tick < asked.asked_at + ASK_AGAIN_TICKS) {
            return None;
        }
        let mut readers = self.asked.take().map(|asked| asked.readers).unwrap_or_default();
        readers.append(&mut self.waiting);
        if readers.is_empty() {
            return None;
        }
        let context = contexts.next();
        self.asked = Some(Question { context: context.clone(), asked_at: tick, readers });
        Some(context)
    }

    /// The leader has answered a question.
    pub(super) fn answer(&mut self, context: &[u8], index: LogIndex) {
        if let Some(asked) = self.asked.take_if(|asked| asked.context == context) {
            for reader in asked.readers {
                // Whoever gave up waiting does not want the answer.
                let _ = reader.answer.send(Ok(index));
            }
        }
    }

    /// Whoever was asked does not lead any more.
    pub(super) fn ask_anew(&mut self) {
        let readers = self.asked.take().map(|asked| asked.readers).unwrap_or_default();
        self.waiting.splice(0..0, readers);
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_none()
    }

    /// Refuses those whose time is up.
    pub(super) fn expire(&mut self, now: Instant) {
        let asked = self.asked.iter_mut().map(|asked| &mut asked.readers);
        for readers in asked.chain([&mut self.waiting]) {
            for reader in readers.extract_if(.., |reader| reader.deadline <= now) {
                // As above.
                let _ = reader.answer.send(Err(ProposeError::Unavailable));
            }
        }
    }

    pub(super) fn refuse_all(&mut self, error: &ProposeError) {
        self.ask_anew();
        for reader in self.waiting.drain(..) {
            // As above.
            let _ = reader.answer.send(Err(error.clone()));
        }
    }
}
