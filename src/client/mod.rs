//! A client of `vectorsphere.v1.VectorService` over several nodes: every call goes to the better of two drawn at random, by how long
//! they took and what they have to do; a node that fails is left alone for a while; a call that failed goes to another node where
//! that can do no harm. Called by programs that use this crate as a library; nothing of the server does.
//!
//! ```no_run
//! use vectorsphere::{api::grpc::proto::SearchRequest, client::{Client, Options}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(&["10.0.0.1:6334", "10.0.0.2:6334"], Options::default())?;
//! let nearest = SearchRequest { table: "words".into(), vector: vec![0.1, 0.2], top_k: 3, ..SearchRequest::default() };
//! for found in client.search(nearest).await?.results {
//!     println!("{:?}: {}", found.id, found.score);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What may be sent twice: searches and questions always; a write if it has a request id, since it then takes effect once. A write
//! without one is sent again only where it is known that nothing happened. Retries are bounded for each call, and over all calls by
//! a budget of a tenth, so that they do not add to an overload.

#[cfg(test)]
mod tests;

use crate::{
    api::grpc::proto::{self, vector_service_client::VectorServiceClient},
    rt::{
        rng,
        rpc::{self, Channel, InvalidAddress, RpcOptions},
        time::{self, Instant},
    },
    traffic::{
        Ask, Balancer, BalancerOptions, Outcome, Policy, PowerOfTwo, RetryBudget, RetryOptions, Token, Verdict, Wanted,
    },
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tonic::{Code, Request, Response, Status, codec::CompressionEncoding};

/// Unused retries that are kept.
const RETRIES_SAVED_MAX: u32 = 20;
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How a client calls.
#[derive(Clone, Debug)]
pub struct Options {
    /// For one call with all its retries.
    pub timeout: Duration,
    /// Makes the rule by which a node is chosen: the better of two ([`PowerOfTwo`]), or another of [`traffic`](crate::traffic).
    pub policy: fn() -> Box<dyn Policy>,
    /// How often and when one call is tried again.
    pub retry: RetryOptions,
    /// Gives every write that has none a random request id, so that it may be sent again.
    pub name_writes: bool,
    /// Requests are sent in this form, and answers asked for in it.
    pub compression: Option<Compression>,
    /// The connections.
    pub rpc: RpcOptions,
}

/// A form of compressed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(30),
            policy: || Box::new(PowerOfTwo),
            retry: RetryOptions::default(),
            name_writes: true,
            compression: None,
            rpc: RpcOptions::default(),
        }
    }
}

/// See the module. Cheap to clone; clones share the connections and what is known of the nodes.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    nodes: Balancer<Channel>,
    options: Options,
    retries: Mutex<Retries>,
}

struct Retries {
    budget: RetryBudget,
    dice: rng::Rng,
}

/// What a failed call says about a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// The node refused it, as any other would.
    Finally,
    /// Nothing happened; another node, or a later moment, may do.
    Unsent,
    /// It may have happened.
    Unknown,
}

/// What a call may do when it is sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Read,
    /// No more than once: the nodes know it again by its request id.
    NamedWrite,
    Write,
}

impl Kind {
    fn of_write(request_id: &str) -> Kind {
        if request_id.is_empty() { Kind::Write } else { Kind::NamedWrite }
    }
}

type Service = VectorServiceClient<Channel>;

/// The nodes are as warm as they are: the client is new, not they. Nobody asks how a node is that gets calls: to take it for
/// checked would let it off its failures.
fn balancing() -> BalancerOptions {
    BalancerOptions { slow_start: Duration::ZERO, check_interval: Duration::MAX, ..BalancerOptions::default() }
}

impl Client {
    /// A client of the nodes at these addresses (`host:port` of their gRPC listeners). Nothing is dialled before the first call.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new<A: AsRef<str>>(endpoints: &[A], options: Options) -> Result<Client, InvalidAddress> {
        let wanted = |endpoint: &A| {
            let (name, weight) = (endpoint.as_ref().to_owned(), 1.0);
            Ok(Wanted { weight, accepts: true, value: rpc::connect(&name, &options.rpc)?, name })
        };
        let wanted = endpoints.iter().map(wanted).collect::<Result<Vec<_>, InvalidAddress>>()?;
        let nodes = Balancer::new(balancing(), (options.policy)(), Box::new(rng::stream("client/nodes")));
        nodes.set(wanted, time::now());
        let retries = Retries { budget: RetryBudget::new(RETRIES_SAVED_MAX), dice: rng::stream("client/retries") };
        Ok(Client(Arc::new(Inner { nodes, options, retries: Mutex::new(retries) })))
    }

    /// Inserts or replaces documents.
    ///
    /// # Errors
    /// The status of the last attempt, but that of one that may have happened, as long as none after it has settled what came of the
    /// request. `Unavailable` and `ResourceExhausted`: nothing happened; `DeadlineExceeded` and `Unknown`: it may have.
    pub async fn upsert(&self, mut request: proto::UpsertRequest) -> Result<proto::UpsertResponse, Status> {
        self.name(&mut request.request_id);
        let kind = Kind::of_write(&request.request_id);
        self.call(request, kind, async |mut service: Service, request| service.upsert(request).await).await
    }

    /// Finds the documents nearest to a vector.
    ///
    /// # Errors
    /// The status of the last attempt.
    pub async fn search(&self, request: proto::SearchRequest) -> Result<proto::SearchResponse, Status> {
        self.call(request, Kind::Read, async |mut service: Service, request| service.search(request).await).await
    }

    /// Deletes documents.
    ///
    /// # Errors
    /// As for [`Client::upsert`].
    pub async fn delete(&self, mut request: proto::DeleteRequest) -> Result<proto::DeleteResponse, Status> {
        self.name(&mut request.request_id);
        let kind = Kind::of_write(&request.request_id);
        self.call(request, kind, async |mut service: Service, request| service.delete(request).await).await
    }

    /// The cluster as one of its nodes sees it.
    ///
    /// # Errors
    /// The status of the last attempt.
    pub async fn cluster_info(&self) -> Result<proto::ClusterInfo, Status> {
        let request = proto::GetClusterInfoRequest {};
        self.call(request, Kind::Read, async |mut service: Service, request| service.get_cluster_info(request).await)
            .await
    }

    fn name(&self, request_id: &mut String) {
        if request_id.is_empty() && self.0.options.name_writes {
            *request_id = rng::uuid_v4().to_string();
        }
    }

    async fn call<Q: Clone, A, F>(&self, request: Q, kind: Kind, send: F) -> Result<A, Status>
    where
        F: AsyncFn(Service, Request<Q>) -> Result<Response<A>, Status>,
    {
        self.retries().budget.request();
        let deadline = time::now() + self.0.options.timeout;
        let (mut attempts, mut tried, mut unknown) = (0, Vec::new(), None);
        loop {
            attempts += 1;
            let status = match self.attempt(&request, deadline, &mut tried, &send).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let may = match failed(&status) {
                Failed::Finally => return Err(status),
                Failed::Unsent => true,
                Failed::Unknown => {
                    // Whatever a later attempt did not do, this one may have done.
                    if kind != Kind::Read {
                        unknown.get_or_insert_with(|| said_unknown(&status));
                    }
                    kind != Kind::Write
                }
            };
            let last = |unknown: Option<Status>| Err(unknown.unwrap_or(status));
            let Some(pause) = self.pause(attempts).filter(|_| may) else { return last(unknown) };
            if time::now() + pause >= deadline {
                return last(unknown);
            }
            time::sleep(pause).await;
        }
    }

    async fn attempt<Q: Clone, A, F>(
        &self,
        request: &Q,
        deadline: Instant,
        tried: &mut Vec<Token>,
        send: &F,
    ) -> Result<A, Status>
    where
        F: AsyncFn(Service, Request<Q>) -> Result<Response<A>, Status>,
    {
        let began = time::now();
        try_again(&self.0.nodes, began);
        let ask = |avoid| Ask { avoid, ..Ask::default() };
        // When all have been tried it is the first one's turn again.
        let picked = self.0.nodes.pick(&ask(tried), began).or_else(|| self.0.nodes.pick(&ask(&[]), began));
        let Some(picked) = picked else { return Err(Status::unavailable("the client has no endpoints")) };
        tried.push(picked.token());
        let mut request = Request::new(request.clone());
        request.set_timeout(deadline - began);
        let answer = send(self.service(picked.value()), request).await;
        let now = time::now();
        let node_failed = answer.as_ref().is_err_and(|status| failed(status) != Failed::Finally);
        picked.finish(if node_failed { Outcome::Failed } else { Outcome::Answered(now - began) }, now);
        answer.map(Response::into_inner)
    }

    fn service(&self, channel: &Channel) -> Service {
        let service = VectorServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let encoding = match self.0.options.compression {
            None => return service,
            Some(Compression::Gzip) => CompressionEncoding::Gzip,
            Some(Compression::Zstd) => CompressionEncoding::Zstd,
        };
        service.send_compressed(encoding).accept_compressed(encoding)
    }

    /// How long to wait before the next attempt; `None` if there shall be none.
    fn pause(&self, attempts: u32) -> Option<Duration> {
        let mut retries = self.retries();
        let Retries { budget, dice } = &mut *retries;
        let options = &self.0.options.retry;
        (attempts < options.attempts_max && budget.take()).then(|| options.pause(attempts, dice))
    }

    fn retries(&self) -> MutexGuard<'_, Retries> {
        // Changed by single calls only.
        self.0.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node that was left alone for its time is tried again by the next call.
fn try_again<T: Clone>(nodes: &Balancer<T>, now: Instant) {
    for check in nodes.checks_due(now) {
        nodes.checked(&check.name, Verdict::Ready, now);
    }
}

fn failed(status: &Status) -> Failed {
    if rpc::was_not_sent(status) {
        return Failed::Unsent;
    }
    match status.code() {
        // With a code it is the node that says so, and nothing happened; without one the connection broke.
        Code::Unavailable | Code::ResourceExhausted if status.metadata().contains_key("vs-code") => Failed::Unsent,
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => Failed::Unknown,
        _ => Failed::Finally,
    }
}

/// The status of a write that may have happened, under a code that says so: a connection that broke counts as unavailable.
fn said_unknown(status: &Status) -> Status {
    match status.code() {
        Code::DeadlineExceeded | Code::Unknown => status.clone(),
        code => Status::unknown(format!("it may have happened ({code}): {}", status.message())),
    }
}
