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
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Longest answer on a stream with others; about .2 ms of a connection that carries 1 GB/s.
pub(super) const SHARED_BYTES_MAX: usize = 256 << 10;
/// Answers that wait for the connection.
const ANSWERS_WAITING_MAX: usize = 64;

type Reply = Result<proto::ReadsReply, Status>;
type Answers = mpsc::Sender<Reply>;

/// Answers what comes over `requests` until either side ends it.
pub(super) fn answer(shared: Arc<Shared>, requests: Streaming<proto::ReadsRequest>) -> BoxStream<'static, Reply> {
    let (answers, waiting) = mpsc::channel(ANSWERS_WAITING_MAX);
    let answering = Answering { shared, answers, running: Arc::default() };
    drop(rt::spawn("peer.reads", answering.run(requests)));
    stream::unfold(waiting, async |mut waiting| Some((waiting.recv().await?, waiting))).boxed()
}

/// One stream of reads.
struct Answering {
    shared: Arc<Shared>,
    answers: Answers,
    running: Arc<Running>,
}

/// Reads under way, by their numbers.
#[derive(Default)]
struct Running(Mutex<BTreeMap<u64, Task<()>>>);

impl Running {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<u64, Task<()>>> {
        // Changed by single calls only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering {
    async fn run(self, mut requests: Streaming<proto::ReadsRequest>) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.shared.stop.wait() => return,
                () = self.answers.closed() => return,
                request = requests.message() => request,
            };
            // A caller that ends or breaks the stream waits for nothing any more.
            let Ok(Some(proto::ReadsRequest { number, timeout_ms, kind })) = request else { return };
            match kind {
                Some(Kind::Read(read)) => {
                    if let Err(error) = self.begin(number, Duration::from_millis(timeout_ms), read) {
                        self.refuse(number, error).await;
                    }
                }
                Some(Kind::LetGo(_)) => {
                    if let Some(task) = self.running.tasks().remove(&number) {
                        task.abort();
                    }
                }
                // Of a kind that a newer program sends.
                None => {}
            }
        }
    }

    /// Begins a read, unless it may not be.
    fn begin(&self, number: u64, left: Duration, read: proto::ReadRequest) -> Result<(), CallError> {
        let asked = Server(self.shared.clone()).service_for(read.caller);
        let asked = asked.map_err(|status| CallError::Unavailable(status.message().to_owned()))?;
        let deadline = time::now() + left.min(CALL_TIME_MAX);
        let mut tasks = self.running.tasks();
        if tasks.len() >= self.shared.options.calls_max {
            return Err(CallError::Exhausted("too many reads are under way".to_owned()));
        }
        let one = One { running: self.running.clone(), answers: self.answers.clone(), number };
        // A number that is used twice ends the first of the two.
        if let Some(older) = tasks.insert(number, rt::spawn("peer.read", one.run(asked, read.read, deadline))) {
            older.abort();
        }
        Ok(())
    }

    async fn refuse(&self, number: u64, error: CallError) {
        let part = Some(Err(error).into());
        let _ = self.answers.send(Ok(proto::ReadsReply { number, part, is_last: true, alone: false })).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        for task in std::mem::take(&mut *self.running.tasks()).into_values() {
            task.abort();
        }
    }
}

/// One read.
struct One {
    running: Arc<Running>,
    answers: Answers,
    number: u64,
}

impl One {
    async fn run(self, asked: (Arc<dyn PeerService>, NodeId), read: Bytes, deadline: Instant) {
        let (service, from) = asked;
        // Its caller's time is up as well: nobody is told.
        let _ = time::timeout_at(deadline, self.say(service.as_ref(), from, read)).await;
        self.running.tasks().remove(&self.number);
    }

    async fn say(&self, service: &dyn PeerService, from: NodeId, read: Bytes) {
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

    async fn send(&self, part: Option<Result<Bytes, CallError>>, is_last: bool) {
        let (number, part) = (self.number, part.map(Into::into));
        let _ = self.answers.send(Ok(proto::ReadsReply { number, part, is_last, alone: false })).await;
    }

    async fn leave_alone(&self) {
        let reply = proto::ReadsReply { number: self.number, part: None, is_last: false, alone: true };
        let _ = self.answers.send(Ok(reply)).await;
    }
}
