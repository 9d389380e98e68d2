//! The answering side of small reads that share a stream (`reads`): each is a task, ended when the caller lets it go, when its time is up,
//! or with the stream.
//!
//! Promises: at most as many reads of one stream are under way as a link takes calls, more are refused; answers wait for the connection;
//! an answer that would hold up the others is left to a call of its own. Called by `server`.

use super::{
    peers::Shared,
    proto::{self, reads_request::Kind},
    server::{CALL_TIME_MAX, Server},
    service::{CallError, PeerService},
};
use crate::{
    raft::NodeId,
    rt::{
        self, Task,
        time::{self, Instant},
    },
};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    stream::{self, BoxStream, StreamExt},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Longest answer on a stream with others; about .2 ms of a connection that carries 1 GB/s.
pub(super) const SHARED_BYTES_MAX: usize = 256 << 10;
/// Answers that wait for the connection.
const ANSWERS_WAITING_MAX: usize = 64;

type Reply = Result<proto::ReadsReply, Status>;
type Answers = mpsc::Sender<Reply>;

/// Answers what comes over `requests`. Ends with either side; a node that stops, and a caller that only asks no more, let what is under
/// way end.
pub(super) fn answer(shared: Arc<Shared>, requests: Streaming<proto::ReadsRequest>) -> BoxStream<'static, Reply> {
    let (answers, waiting) = mpsc::channel(ANSWERS_WAITING_MAX);
    let answering = Answering { shared, answers, running: BTreeMap::new(), ended: mpsc::unbounded_channel() };
    drop(rt::spawn("peer.reads", answering.run(requests)));
    stream::unfold(waiting, async |mut waiting| Some((waiting.recv().await?, waiting))).boxed()
}

/// One stream of reads.
struct Answering {
    shared: Arc<Shared>,
    answers: Answers,
    /// By number; those that have ended among them, until the next read begins.
    running: BTreeMap<u64, Task<()>>,
    ended: (mpsc::UnboundedSender<u64>, mpsc::UnboundedReceiver<u64>),
}

impl Answering {
    async fn run(mut self, mut requests: Streaming<proto::ReadsRequest>) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.shared.stop.wait() => return,
                () = self.answers.closed() => break,
                request = requests.message() => request,
            };
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(_) => break,
            };
            let proto::ReadsRequest { number, timeout_ms, kind } = request;
            match kind {
                Some(Kind::Read(read)) => {
                    if let Err(error) = self.begin(number, Duration::from_millis(timeout_ms), read) {
                        self.refuse(number, error).await;
                    }
                }
                Some(Kind::LetGo(_)) => {
                    if let Some(task) = self.running.remove(&number) {
                        task.abort();
                    }
                }
                // Of a kind that a newer program sends.
                None => {}
            }
        }
        // Nobody is there to be answered.
        self.running.into_values().for_each(|task| task.abort());
    }

    /// Begins a read, unless it may not be.
    fn begin(&mut self, number: u64, left: Duration, read: proto::ReadRequest) -> Result<(), CallError> {
        while let Ok(ended) = self.ended.1.try_recv() {
            self.running.remove(&ended);
        }
        let asked = Server(self.shared.clone()).service_for(read.caller);
        let (service, from) = asked.map_err(|status| CallError::Unavailable(status.message().to_owned()))?;
        if self.running.len() >= self.shared.options.calls_max {
            return Err(CallError::Exhausted("too many reads are under way".to_owned()));
        }
        let deadline = time::now() + left.min(CALL_TIME_MAX);
        let one = One { ended: Some(self.ended.0.clone()), answers: self.answers.clone(), number };
        let task = rt::spawn("peer.read", one.run(service, from, read.read, deadline));
        // A number that is used twice ends the first of the two.
        if let Some(older) = self.running.insert(number, task) {
            older.abort();
        }
        Ok(())
    }

    async fn refuse(&self, number: u64, error: CallError) {
        let _ = self.answers.send(Ok(last(number, Some(Err(error))))).await;
    }
}

fn last(number: u64, part: Option<Result<Bytes, CallError>>) -> proto::ReadsReply {
    proto::ReadsReply { number, part: part.map(Into::into), is_last: true, alone: false }
}

/// One read.
struct One {
    /// Told its number when it ends; `None` from then on.
    ended: Option<mpsc::UnboundedSender<u64>>,
    answers: Answers,
    number: u64,
}

impl One {
    async fn run(mut self, service: Arc<dyn PeerService>, from: NodeId, read: Bytes, deadline: Instant) {
        let _ = time::timeout_at(deadline, self.say(service.as_ref(), from, read)).await;
    }

    async fn say(&mut self, service: &dyn PeerService, from: NodeId, read: Bytes) {
        let mut parts = match service.read(from, read) {
            Ok(parts) => parts,
            Err(error) => return self.send(Some(Err(error)), true).await,
        };
        let mut next = parts.next().await;
        while let Some(part) = next {
            if part.len() > SHARED_BYTES_MAX {
                return self.leave_alone().await;
            }
            // Most often nothing follows: that goes in the same message.
            match parts.next().now_or_never() {
                Some(None) => return self.send(Some(Ok(part)), true).await,
                Some(following) => {
                    self.send(Some(Ok(part)), false).await;
                    next = following;
                }
                None => {
                    self.send(Some(Ok(part)), false).await;
                    next = parts.next().await;
                }
            }
        }
        self.send(None, true).await;
    }

    async fn send(&mut self, part: Option<Result<Bytes, CallError>>, is_last: bool) {
        let part = part.map(Into::into);
        self.reply(proto::ReadsReply { number: self.number, part, is_last, alone: false }).await;
    }

    async fn leave_alone(&mut self) {
        self.reply(proto::ReadsReply { number: self.number, part: None, is_last: false, alone: true }).await;
    }

    async fn reply(&mut self, reply: proto::ReadsReply) {
        // First of all, so that the caller's next read finds the place free.
        if reply.is_last || reply.alone {
            self.end();
        }
        let _ = self.answers.send(Ok(reply)).await;
    }

    /// Whether it had not ended.
    fn end(&mut self) -> bool {
        self.ended.take().is_some_and(|ended| ended.send(self.number).is_ok())
    }
}

impl Drop for One {
    /// Its time is up, it was let go, or it panicked: whoever still waits for it need not.
    fn drop(&mut self) {
        if self.end() {
            let error = CallError::Unavailable("the node broke off the read".to_owned());
            let _ = self.answers.try_send(Ok(last(self.number, Some(Err(error)))));
        }
    }
}
