//! etcd's services over the engine: requests become calls of the coordinator's trait, its answers etcd's, errors in etcd's own words.
//! It takes what our client sends, and refuses the rest.
use super::knobs::Shared;
use crate::world;
use futures_util::{Stream, StreamExt, stream};
use std::{pin::Pin, sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming, async_trait};
use vectorsphere::{
    coordination::{
        Change, Committed, Compare, CoordinationError, Coordinator, Embedded, Event, KeptAlive, KeyValue, Listed,
        Transaction, Watch, WatchError,
        etcd::proto::{self, compare, kv_server::Kv, lease_server::Lease, request_op, watch_request, watch_server},
    },
    rt::time,
};

/// The shortest lease etcd grants with its default settings.
const TTL_MIN_SECONDS: i64 = 2;

type Answering<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// See the module.
#[derive(Clone)]
pub struct Service(pub Arc<Shared>);

impl Service {
    /// The engine, after what the knobs do to every call.
    async fn engine(&self) -> Result<Embedded, Status> {
        world::count("etcd.calls", 1);
        let knobs = self.0.knobs();
        if !knobs.slow.is_zero() {
            time::sleep(knobs.slow).await;
        }
        if knobs.unavailable {
            return Err(Status::unavailable("etcdserver: no leader"));
        }
        let engine = self.0.engine().ok_or_else(|| Status::unavailable("etcdserver: no leader"))?;
        Ok(engine.embedded.clone())
    }

    /// What the member that is asked shows to whoever only reads: everything there is, or what there was once.
    async fn shown(&self, engine: &Embedded) -> Result<Listed, Status> {
        let now = engine.list("").await.map_err(status)?;
        let knobs = self.0.knobs();
        Ok(match self.0.old() {
            Some(old) if knobs.stale_reads > 0 && self.0.chance(knobs.stale_reads) => old,
            Some(_) if knobs.stale_reads > 0 => now,
            _ => {
                self.0.remember(now.clone());
                now
            }
        })
    }

    /// Decides a transaction, and at which revision if its conditions hold. One without operations goes through no log: etcd (3.2 and
    /// later) lets the member that is asked decide it by what it has itself, without finding out whether others are ahead of it.
    async fn decided(&self, engine: &Embedded, transaction: Transaction) -> Result<Committed, Status> {
        if !transaction.changes.is_empty() {
            return engine.commit(transaction).await.map_err(status);
        }
        let Listed { revision, entries } = self.shown(engine).await?;
        let holds = |compare: &Compare| {
            let stored = |key: &String| entries.iter().find(|kv| kv.key == *key);
            match compare {
                Compare::Absent(key) => stored(key).is_none(),
                Compare::CreatedAt(key, at) => stored(key).is_some_and(|kv| kv.created == *at),
                Compare::WrittenAt(key, at) => stored(key).is_some_and(|kv| kv.revision == *at),
            }
        };
        Ok(match transaction.compares.iter().all(holds) {
            true => Committed::At(revision),
            false => Committed::Refused,
        })
    }

    /// The answer to a change that happened.
    fn changed<T>(&self, answer: T) -> Answering<T> {
        match self.0.chance(self.0.knobs().lost_answers) {
            true => Err(Status::unavailable("etcdserver: request timed out")),
            false => Ok(Response::new(answer)),
        }
    }
}

#[async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<proto::RangeRequest>) -> Answering<proto::RangeResponse> {
        let engine = self.engine().await?;
        let request = request.into_inner();
        let Listed { revision, entries } = self.shown(&engine).await?;
        let asked = |kv: &KeyValue| match &request.range_end[..] {
            [] => kv.key.as_bytes() == request.key,
            end => kv.key.as_bytes() >= &request.key[..] && kv.key.as_bytes() < end,
        };
        let kvs: Vec<_> = entries.into_iter().filter(asked).map(key_value).collect();
        let count = kvs.len() as i64;
        let answer = proto::RangeResponse { header: header(revision), kvs, more: false, count };
        weigh(&answer);
        Ok(Response::new(answer))
    }

    async fn txn(&self, request: Request<proto::TxnRequest>) -> Answering<proto::TxnResponse> {
        let engine = self.engine().await?;
        let request = request.into_inner();
        world::count("etcd.changes", 1);
        weigh(&request);
        let compares = request.compare.into_iter().map(condition).collect::<Result<_, _>>()?;
        let changes = request.success.into_iter().map(operation).collect::<Result<_, _>>()?;
        let committed = self.decided(&engine, Transaction { compares, changes }).await?;
        let (revision, succeeded) = match committed {
            Committed::At(revision) => (revision, true),
            Committed::Refused => (0, false),
        };
        self.changed(proto::TxnResponse { header: header(revision), succeeded, responses: Vec::new() })
    }

    async fn compact(&self, _request: Request<proto::CompactionRequest>) -> Answering<proto::CompactionResponse> {
        self.engine().await?.compact();
        Ok(Response::new(proto::CompactionResponse::default()))
    }
}

#[async_trait]
impl Lease for Service {
    type LeaseKeepAliveStream = Answers<proto::LeaseKeepAliveResponse>;

    async fn lease_grant(&self, request: Request<proto::LeaseGrantRequest>) -> Answering<proto::LeaseGrantResponse> {
        let engine = self.engine().await?;
        let ttl = request.into_inner().ttl.max(TTL_MIN_SECONDS);
        let lease = engine.grant(Duration::from_secs(ttl.unsigned_abs())).await.map_err(status)?;
        self.0.granted(lease);
        self.changed(proto::LeaseGrantResponse { header: header(0), id: signed(lease), ttl, error: String::new() })
    }

    async fn lease_revoke(&self, request: Request<proto::LeaseRevokeRequest>) -> Answering<proto::LeaseRevokeResponse> {
        let engine = self.engine().await?;
        let lease = request.into_inner().id.unsigned_abs();
        if engine.keep_alive(lease).await.map_err(status)? == KeptAlive::Gone {
            return Err(lease_gone());
        }
        engine.revoke(lease).await.map_err(status)?;
        self.changed(proto::LeaseRevokeResponse { header: header(0) })
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<proto::LeaseKeepAliveRequest>>,
    ) -> Answering<Self::LeaseKeepAliveStream> {
        let service = self.clone();
        let answers = request.into_inner().then(move |asked| {
            let service = service.clone();
            async move {
                let id = asked?.id;
                let kept = service.engine().await?.keep_alive(id.unsigned_abs()).await.map_err(status)?;
                let ttl = match kept {
                    KeptAlive::For(ttl) => ttl.as_secs() as i64,
                    KeptAlive::Gone => 0,
                };
                Ok::<_, Status>(proto::LeaseKeepAliveResponse { header: header(0), id, ttl })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A watch that is being answered.
struct Answered {
    service: Service,
    watch: Box<dyn Watch>,
    cancels: u64,
    ended: bool,
    // Its end ends the watch.
    _asking: Streaming<proto::WatchRequest>,
}

#[async_trait]
impl watch_server::Watch for Service {
    type WatchStream = Answers<proto::WatchResponse>;

    async fn watch(&self, request: Request<Streaming<proto::WatchRequest>>) -> Answering<Self::WatchStream> {
        let engine = self.engine().await?;
        let mut asking = request.into_inner();
        let asked = asking.message().await?.and_then(|message| message.request_union);
        let Some(watch_request::RequestUnion::CreateRequest(create)) = asked else {
            return Err(Status::unimplemented("a watch begins with its creation"));
        };
        let beginning = text(create.key)?;
        if create.start_revision < 1 || create.range_end.is_empty() {
            return Err(Status::unimplemented("a prefix from a revision"));
        }
        let now = engine.list("\u{1}").await.map_err(status)?.revision;
        let watch = engine.watch(&beginning, create.start_revision.unsigned_abs() - 1);
        let created = proto::WatchResponse { header: header(now), created: true, ..Default::default() };
        let cancels = self.0.cancels();
        let answered = Answered { service: self.clone(), watch, cancels, ended: false, _asking: asking };
        let rest = stream::unfold(answered, |mut answered| async move {
            let answer = answered.next().await?;
            Some((Ok::<_, Status>(answer), answered))
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(created)]).chain(rest))))
    }
}

impl Answered {
    async fn next(&mut self) -> Option<proto::WatchResponse> {
        if self.ended {
            return None;
        }
        let next = tokio::select! {
            biased;
            () = self.service.0.cancelled(self.cancels) => Err(WatchError::Unavailable("etcdserver: watch canceled".into())),
            next = self.watch.next() => next,
        };
        let events = match next {
            Ok(events) => events,
            Err(error) => {
                self.ended = true;
                let compact_revision = match error {
                    WatchError::Compacted { oldest } => signed(oldest.max(1)),
                    _ => 0,
                };
                let cancel_reason = error.to_string();
                return Some(proto::WatchResponse {
                    canceled: true,
                    compact_revision,
                    cancel_reason,
                    ..Default::default()
                });
            }
        };
        let revision = events.last().map_or(0, Event::revision);
        world::count("etcd.events", events.len() as u64);
        let events = events.into_iter().map(event).collect();
        let told = proto::WatchResponse { header: header(revision), events, ..Default::default() };
        weigh(&told);
        Some(told)
    }
}

/// Counts the bytes of a message that may be large.
fn weigh(message: &impl prost::Message) {
    world::count("etcd.bytes", message.encoded_len() as u64);
}

fn header(revision: u64) -> Option<proto::ResponseHeader> {
    Some(proto::ResponseHeader { revision: signed(revision), ..Default::default() })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("simulations are short")
}

fn text(key: Vec<u8>) -> Result<String, Status> {
    String::from_utf8(key).map_err(|_| Status::unimplemented("keys are text here"))
}

fn key_value(kv: KeyValue) -> proto::KeyValue {
    proto::KeyValue {
        key: kv.key.into_bytes(),
        value: kv.value,
        create_revision: signed(kv.created),
        mod_revision: signed(kv.revision),
        version: 1,
        lease: signed(kv.lease.unwrap_or(0)),
    }
}

fn event(event: Event) -> proto::Event {
    match event {
        Event::Put(kv) => proto::Event { r#type: 0, kv: Some(key_value(kv)) },
        Event::Delete(key, revision) => {
            let kv = proto::KeyValue { key: key.into_bytes(), mod_revision: signed(revision), ..Default::default() };
            proto::Event { r#type: 1, kv: Some(kv) }
        }
    }
}

fn condition(condition: proto::Compare) -> Result<Compare, Status> {
    use compare::TargetUnion;
    let equal = condition.result == compare::CompareResult::Equal as i32;
    let key = text(condition.key)?;
    match condition.target_union {
        Some(TargetUnion::CreateRevision(0)) if equal => Ok(Compare::Absent(key)),
        Some(TargetUnion::CreateRevision(at)) if equal => Ok(Compare::CreatedAt(key, at.unsigned_abs())),
        Some(TargetUnion::ModRevision(at)) if equal => Ok(Compare::WrittenAt(key, at.unsigned_abs())),
        other => Err(Status::unimplemented(format!("a condition of {other:?}"))),
    }
}

fn operation(operation: proto::RequestOp) -> Result<Change, Status> {
    match operation.request {
        Some(request_op::Request::RequestPut(put)) if put.lease == 0 => Ok(Change::Put(text(put.key)?, put.value)),
        Some(request_op::Request::RequestPut(put)) => {
            Ok(Change::PutLeased(text(put.key)?, put.value, put.lease.unsigned_abs()))
        }
        Some(request_op::Request::RequestDeleteRange(delete)) if delete.range_end.is_empty() => {
            Ok(Change::Delete(text(delete.key)?))
        }
        other => Err(Status::unimplemented(format!("an operation of {other:?}"))),
    }
}

fn lease_gone() -> Status {
    Status::not_found("etcdserver: requested lease not found")
}

fn status(error: CoordinationError) -> Status {
    match error {
        CoordinationError::LeaseGone(_) => lease_gone(),
        CoordinationError::Rejected(problem) => Status::invalid_argument(problem),
        CoordinationError::Unavailable(_) => Status::unavailable("etcdserver: no leader"),
        CoordinationError::Indeterminate(_) => Status::unavailable("etcdserver: request timed out"),
        CoordinationError::Corrupt(problem) => Status::data_loss(problem),
    }
}
