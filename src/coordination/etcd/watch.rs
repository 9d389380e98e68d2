//! A watch of etcd that goes on over lost connections, from the revision after the last one it told. Called by `etcd`.

use super::{
    client::{Client, Moved},
    convert,
    proto::{self, watch_request::RequestUnion},
};
use crate::{
    coordination::{BoxFuture, Event, Revision, Watch, WatchError, prefix::Prefix},
    rt::time::{self, Instant},
};
use std::{sync::Arc, time::Duration};
use tonic::Streaming;

/// After a connection was lost: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct EtcdWatch {
    client: Arc<Client>,
    prefix: Prefix,
    beginning: String,
    /// Everything up to here has been told.
    after: Revision,
    open: Option<Open>,
    /// When the next connection may be tried, and how long the pause after that is.
    retry_at: Instant,
    pause: Duration,
}

struct Open {
    answers: Streaming<proto::WatchResponse>,
    /// The endpoint it was opened at is not used any more.
    moved: Moved,
}

impl EtcdWatch {
    pub(super) fn new(client: Arc<Client>, prefix: Prefix, beginning: &str, after: Revision) -> EtcdWatch {
        let beginning = prefix.stored(beginning);
        EtcdWatch { client, prefix, beginning, after, open: None, retry_at: Instant::START, pause: PAUSE_FIRST }
    }

    async fn next_answer(&mut self) -> Result<proto::WatchResponse, WatchError> {
        if self.open.is_none() {
            time::sleep_until(self.retry_at).await;
            self.retry_at = time::now() + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            let create = proto::WatchCreateRequest {
                key: self.beginning.clone().into_bytes(),
                range_end: convert::range_end(&self.beginning),
                start_revision: convert::signed(self.after + 1),
                progress_notify: true,
            };
            let create = proto::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            let (answers, moved) = self.client.watch(create).await.map_err(WatchError::Unavailable)?;
            self.open = Some(Open { answers, moved });
        }
        let Some(open) = &mut self.open else { return Err(WatchError::Unavailable("not open".to_owned())) };
        let answer = tokio::select! {
            biased;
            answer = open.answers.message() => answer,
            () = open.moved.wait() => {
                self.open = None;
                self.retry_at = time::now();
                return Err(WatchError::Unavailable("its endpoint was left".to_owned()));
            }
        };
        let problem = match answer {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => "the stream ended".to_owned(),
            Err(status) => {
                self.client.failed(&status);
                status.message().to_owned()
            }
        };
        self.open = None;
        Err(WatchError::Unavailable(problem))
    }

    /// The events of an answer; none if it only says how things stand.
    fn take(&mut self, answer: proto::WatchResponse) -> Result<Vec<Event>, WatchError> {
        let corrupt = |error: crate::coordination::CoordinationError| WatchError::Corrupt(error.to_string());
        let at = convert::revision(answer.header.as_ref()).map_err(corrupt)?;
        if answer.compact_revision > 0 {
            self.open = None;
            return Err(WatchError::Compacted { oldest: answer.compact_revision.unsigned_abs() });
        }
        if answer.canceled {
            self.open = None;
            return Err(WatchError::Unavailable(format!("etcd ended the watch: {}", answer.cancel_reason)));
        }
        if answer.created && at < self.after {
            // Another etcd, or one that was restored from an old state: what it calls these revisions is something else.
            self.open = None;
            return Err(WatchError::Compacted { oldest: at });
        }
        self.pause = PAUSE_FIRST;
        let events: Vec<Event> = answer
            .events
            .into_iter()
            .map(|event| convert::event(&self.prefix, event))
            .collect::<Result<_, _>>()
            .map_err(corrupt)?;
        match events.last() {
            Some(last) => self.after = self.after.max(last.revision()),
            // A word that all is told up to there; the answer to a creation is not, history may come after it.
            None if !answer.created => self.after = self.after.max(at),
            None => {}
        }
        Ok(events)
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Event>, WatchError>> {
        Box::pin(async move {
            loop {
                let answer = self.next_answer().await?;
                let events = self.take(answer)?;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
        })
    }
}
