//! What waits to be sent over one link: messages up to a bound, taken as frames. One queue lives as long as its link stands; filled by
//! [`Transport::send`](crate::raft::Transport::send), emptied by the link's request stream.

use super::{
    proto::{self, link_request::Kind},
    wire,
};
use crate::raft::{GroupMessage, SendError};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes a message costs beside its own: group, lengths, and its place in the queue.
const MESSAGE_OVERHEAD_BYTES: usize = 48;

/// Bounds of a queue and of the frames taken from it.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub messages_max: usize,
    /// A longer message still passes when the queue is empty.
    pub bytes_max: usize,
    pub frame_messages_max: usize,
    /// A longer message gets a frame of its own.
    pub frame_bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        QueueLimits { messages_max: 64 << 10, bytes_max: 64 << 20, frame_messages_max: 4_096, frame_bytes_max: 1 << 20 }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    waiting: Mutex<Waiting>,
    /// Woken when there is something to take. There is one taker.
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    is_closed: bool,
    messages: VecDeque<GroupMessage>,
    bytes: usize,
    ping: Option<u64>,
}

/// What was taken from a queue.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) request: proto::LinkRequest,
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

fn cost(message: &GroupMessage) -> usize {
    message.message.len() + MESSAGE_OVERHEAD_BYTES
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Queue {
        Queue { limits, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// Adds all of the messages or none.
    pub(super) fn push(&self, messages: Vec<GroupMessage>) -> Result<(), SendError> {
        let bytes: usize = messages.iter().map(cost).sum();
        {
            let mut waiting = self.waiting();
            if waiting.is_closed {
                return Err(SendError::Disconnected);
            }
            let is_within = waiting.messages.len() + messages.len() <= self.limits.messages_max
                && waiting.bytes + bytes <= self.limits.bytes_max;
            if !is_within && !waiting.messages.is_empty() {
                return Err(SendError::Full);
            }
            waiting.bytes += bytes;
            waiting.messages.extend(messages);
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Asks for a ping, ahead of the messages that wait. One not yet sent is replaced.
    pub(super) fn ping(&self, number: u64) {
        self.waiting().ping = Some(number);
        self.filled.notify_one();
    }

    /// Drops what waits and takes nothing more; answers how many messages were dropped.
    pub(super) fn close(&self) -> usize {
        let dropped = {
            let mut waiting = self.waiting();
            waiting.is_closed = true;
            waiting.bytes = 0;
            std::mem::take(&mut waiting.messages)
        };
        self.filled.notify_one();
        dropped.len()
    }

    /// The next ping or frame, once there is one; `None` when the queue is closed. To be called by one task at a time.
    pub(super) async fn take(&self) -> Option<Taken> {
        loop {
            // `notify_one` keeps its word for one who does not wait yet, so what comes after this look is not lost.
            {
                let mut waiting = self.waiting();
                if waiting.is_closed {
                    return None;
                }
                if let Some(taken) = waiting.take(&self.limits) {
                    return Some(taken);
                }
            }
            self.filled.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No function leaves it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self, limits: &QueueLimits) -> Option<Taken> {
        if let Some(number) = self.ping.take() {
            let request = proto::LinkRequest { kind: Some(Kind::Ping(proto::Ping { number })) };
            return Some(Taken { request, messages: 0, bytes: 0 });
        }
        let (mut frame, mut frame_cost, mut bytes) = (Vec::new(), 0, 0);
        while frame.len() < limits.frame_messages_max {
            let Some(next) = self.messages.front().map(cost) else { break };
            if !frame.is_empty() && frame_cost + next > limits.frame_bytes_max {
                break;
            }
            let Some(GroupMessage { group, message }) = self.messages.pop_front() else { break };
            frame_cost += next;
            bytes += message.len();
            frame.push(proto::GroupMessage { group, message });
        }
        if frame.is_empty() {
            return None;
        }
        self.bytes -= frame_cost;
        let messages = frame.len();
        let request = proto::LinkRequest { kind: Some(Kind::Frame(wire::encode_frame(frame))) };
        Some(Taken { request, messages, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    fn message(group: u64, length: usize) -> GroupMessage {
        GroupMessage { group, message: Bytes::from(vec![group as u8; length]) }
    }

    fn small() -> Queue {
        let limits = QueueLimits { messages_max: 10, bytes_max: 2_000, frame_messages_max: 4, frame_bytes_max: 400 };
        Queue::new(limits)
    }

    /// The groups of each frame that waits, and pings.
    fn take_all(queue: &Queue) -> Vec<Result<Vec<u64>, u64>> {
        let mut all = Vec::new();
        while let Some(Some(taken)) = queue.take().now_or_never() {
            all.push(match taken.request.kind {
                Some(Kind::Frame(frame)) => {
                    let messages = wire::decode_frame(frame, 4).expect("one of ours");
                    Ok(messages.iter().map(|message| message.group).collect())
                }
                Some(Kind::Ping(ping)) => Err(ping.number),
                other => panic!("{other:?}"),
            });
        }
        all
    }

    #[test]
    fn frames_are_bounded_by_count_and_bytes_and_keep_the_order() {
        let queue = small();
        queue.push((0..6).map(|group| message(group, 1)).collect()).unwrap();
        queue.push(vec![message(6, 200), message(7, 200)]).unwrap();
        queue.ping(9);
        assert_eq!(take_all(&queue), [Err(9), Ok(vec![0, 1, 2, 3]), Ok(vec![4, 5, 6]), Ok(vec![7])]);
    }

    #[test]
    fn a_full_queue_takes_nothing_and_an_empty_one_any_message() {
        let queue = small();
        queue.push(vec![message(0, 1_000_000)]).unwrap();
        assert_eq!(queue.push(vec![message(1, 1)]), Err(SendError::Full));
        assert_eq!(take_all(&queue), [Ok(vec![0])]);
        queue.push((0..10).map(|group| message(group, 1)).collect()).unwrap();
        assert_eq!(queue.push(vec![message(1, 1)]), Err(SendError::Full));
        take_all(&queue);
        queue.push(vec![message(1, 1)]).unwrap();
        assert_eq!(queue.close(), 1);
        assert_eq!(queue.push(vec![message(1, 1)]), Err(SendError::Disconnected));
        assert!(queue.take().now_or_never().expect("at once").is_none());
    }

    proptest! {
        #[test]
        fn every_message_comes_out_once_in_order(batches in prop::collection::vec(prop::collection::vec(0_usize..600, 0..5), 0..20)) {
            let queue = small();
            let (mut next, mut expected, mut found) = (0, Vec::new(), Vec::new());
            for lengths in batches {
                let batch: Vec<_> = lengths.into_iter().map(|length| { next += 1; message(next, length) }).collect();
                let groups: Vec<_> = batch.iter().map(|message| message.group).collect();
                if queue.push(batch).is_ok() {
                    expected.extend(groups);
                } else {
                    found.extend(take_all(&queue).into_iter().flatten().flatten());
                }
            }
            found.extend(take_all(&queue).into_iter().flatten().flatten());
            prop_assert_eq!(found, expected);
            prop_assert_eq!(queue.waiting().bytes, 0);
        }
    }
}
