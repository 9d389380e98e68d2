//! The asking side of small reads: all that go to one node share a stream of its own, for as long as the link stands. A call of its own
//! for each costs five times the CPU (benches/README.md, "Calls between nodes"), and one that is let go before its end is a reset, of which
//! HTTP/2 bears only so many on a connection. The other side is `answering`.
//!
//! Promises: reads under way are bounded by the calls a link takes; a read that is let go is told to the other side; when the stream breaks
//! every read on it ends with an error, and the next one opens another stream. What is too large, and a program that is too old for this,
//! is left to a call of its own. Called by `calls`.

use super::{
    link::Link,
    proto::{self, peer_client::PeerClient, reads_request::Kind},
    server::MESSAGE_BYTES_MAX,
    service::CallError,
};
use crate::rt::{self, rpc::Channel};
use bytes::Bytes;
use futures_util::stream;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tonic::{Code, Status};

/// Parts of one read that may wait for who reads: those of as many shards as a small read has, and more.
const PARTS_WAITING_MAX: usize = 128;

/// The shared stream of one session of a link.
#[derive(Debug)]
pub(super) struct Reads {
    state: Mutex<State>,
    /// Requests that may wait for the connection.
    requests_max: usize,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// The last number given; never twice in a session, so that what comes late is nobody's.
    last: u64,
    waiting: BTreeMap<u64, mpsc::Sender<Said>>,
}

#[derive(Debug)]
enum Way {
    /// Opened by the next read.
    Closed,
    Open(mpsc::Sender<proto::ReadsRequest>),
    /// The other program is too old for it.
    Unknown,
    /// The session is over, and not all it asked is answered.
    Last(mpsc::Sender<proto::ReadsRequest>),
    /// The session is over.
    Over,
}

/// What comes of a read.
#[derive(Debug)]
pub(super) enum Said {
    /// An error is the last.
    Part(Result<Bytes, CallError>),
    /// It has to be asked for by a call of its own, from its beginning.
    Alone,
}

/// A read under way. Dropped before its end, it is let go.
#[derive(Debug)]
pub(super) struct Asked {
    reads: Arc<Reads>,
    number: u64,
    said: mpsc::Receiver<Said>,
}

impl Reads {
    /// Nothing is opened yet. `calls_max` reads may be under way.
    pub(super) fn new(calls_max: usize) -> Arc<Reads> {
        let state = State { way: Way::Closed, last: 0, waiting: BTreeMap::new() };
        // A request and its end, each.
        Arc::new(Reads { state: Mutex::new(state), requests_max: 2 * calls_max.max(1) })
    }

    /// Asks over the shared stream; `None` if the other program has none.
    ///
    /// # Errors
    /// [`CallError::Exhausted`], [`CallError::Unavailable`] if the link has just ended.
    pub(super) fn ask(
        self: &Arc<Self>,
        link: &Link,
        read: proto::ReadRequest,
        timeout_ms: u64,
    ) -> Result<Option<Asked>, CallError> {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        let requests = match &state.way {
            Way::Unknown => return Ok(None),
            Way::Last(_) | Way::Over => return Err(broke("the link has ended")),
            Way::Open(requests) => requests.clone(),
            Way::Closed => {
                let (requests, waiting) = mpsc::channel(self.requests_max);
                state.way = Way::Open(requests.clone());
                drop(rt::spawn("peer.reads", carry(self.clone(), link.channel.clone(), waiting)));
                requests
            }
        };
        let request = proto::ReadsRequest { number, timeout_ms, kind: Some(Kind::Read(read)) };
        requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => CallError::Exhausted("too many reads wait for the connection to it".to_owned()),
            TrySendError::Closed(_) => broke("the stream has ended"),
        })?;
        let (say, said) = mpsc::channel(PARTS_WAITING_MAX);
        state.waiting.insert(number, say);
        drop(state);
        Ok(Some(Asked { reads: self.clone(), number, said }))
    }

    /// The session is over: nothing is asked any more. What was asked is still answered, if the connection stands.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        state.way = match std::mem::replace(&mut state.way, Way::Over) {
            Way::Open(requests) => Way::Last(requests),
            _ => Way::Over,
        };
        state.settle();
    }

    fn take(&self, reply: proto::ReadsReply) {
        let proto::ReadsReply { number, part, is_last, alone } = reply;
        let mut state = self.state();
        let Some(say) = state.waiting.get(&number) else { return };
        let part = part.map(|part| say.try_send(Said::Part(part.into())));
        let alone = alone.then(|| say.try_send(Said::Alone));
        // Whoever does not listen any more has let go, or is about to. Whoever does and does not keep up is at its end.
        if is_last || alone.is_some() || part.is_some_and(|part| part.is_err()) {
            state.waiting.remove(&number);
            state.settle();
        }
    }

    /// The stream stands no more; what was asked over it has no answer.
    fn ended(&self, status: Option<Status>) {
        match status {
            Some(status) if status.code() == Code::Unimplemented => {
                let mut state = self.state();
                let asked = std::mem::take(&mut state.waiting);
                state.fall(Way::Unknown);
                asked.into_values().for_each(|say| drop(say.try_send(Said::Alone)));
            }
            status => self.fall(Way::Closed, &broke(status.as_ref().map_or("the node ended it", Status::message))),
        }
    }

    fn fall(&self, to: Way, error: &CallError) {
        let mut state = self.state();
        state.fall(to);
        for say in std::mem::take(&mut state.waiting).into_values() {
            let _ = say.try_send(Said::Part(Err(error.clone())));
        }
    }

    fn let_go(&self, number: u64) {
        let mut state = self.state();
        if state.waiting.remove(&number).is_some()
            && let Way::Open(requests) | Way::Last(requests) = &state.way
        {
            let kind = Some(Kind::LetGo(proto::LetGo {}));
            // Where there is no room for it the other side ends at the read's own time.
            let _ = requests.try_send(proto::ReadsRequest { number, timeout_ms: 0, kind });
            state.settle();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every field is valid on its own.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the stream of requests when the session is over and nobody waits.
    fn settle(&mut self) {
        if matches!(self.way, Way::Last(_)) && self.waiting.is_empty() {
            self.way = Way::Over;
        }
    }

    /// What the next read finds; nothing, if the session is over.
    fn fall(&mut self, to: Way) {
        let is_over = matches!(self.way, Way::Last(_) | Way::Over);
        self.way = if is_over { Way::Over } else { to };
    }
}

impl Asked {
    /// The next thing said; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Said> {
        self.said.recv().await
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.reads.let_go(self.number);
    }
}

/// One life of the stream, from the first read over it to its end.
async fn carry(reads: Arc<Reads>, channel: Channel, waiting: mpsc::Receiver<proto::ReadsRequest>) {
    let requests = stream::unfold(waiting, async |mut waiting| Some((waiting.recv().await?, waiting)));
    let mut client = PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut replies = match client.reads(requests).await {
        Ok(replies) => replies.into_inner(),
        Err(status) => return reads.ended(Some(status)),
    };
    loop {
        match replies.message().await {
            Ok(Some(reply)) => reads.take(reply),
            Ok(None) => return reads.ended(None),
            Err(status) => return reads.ended(Some(status)),
        }
    }
}

fn broke(why: &str) -> CallError {
    CallError::Unavailable(why.to_owned())
}
