//! The way to one node: its HTTP and gRPC addresses with a pool of connections for each, and a connection of its own for checks,
//! so that a check waits behind no request. Made by `discovery`, used by `proxy` and `checks`.

use super::CHECK_LIMIT;
use crate::{
    rt::{
        http::{
            Upstream, UpstreamOptions,
            client::{Client, ClientOptions},
        },
        rpc::{self, Channel, RpcOptions},
    },
    traffic::Verdict,
};
use http::{Request, StatusCode};
use http_body_util::Full;

/// See the module.
#[derive(Debug)]
pub struct Link {
    http: Upstream,
    grpc: Option<Channel>,
    checks: Client,
}

impl Link {
    /// The way to the node at these addresses (`host:port`). Nothing is dialled yet.
    pub fn new(http: &str, grpc: Option<&str>) -> Link {
        let grpc = grpc.and_then(|address| rpc::connect(address, &RpcOptions::default()).ok());
        let checks = ClientOptions { timeout: CHECK_LIMIT, idle_connections_max: 1, ..ClientOptions::default() };
        Link { http: Upstream::new(http, UpstreamOptions::default()), grpc, checks: Client::with_options(http, checks) }
    }

    /// For HTTP.
    pub fn http(&self) -> &Upstream {
        &self.http
    }

    /// For gRPC, where the node has it.
    pub fn grpc(&self) -> Option<&Channel> {
        self.grpc.as_ref()
    }

    /// Whether it leads to the same addresses.
    pub fn leads_to(&self, http: &str, grpc: Option<&str>) -> bool {
        self.http.addr() == http && self.grpc.as_ref().map(Channel::addr) == grpc
    }

    /// Asks the node whether it takes requests.
    pub async fn check(&self) -> Verdict {
        let request = Request::builder().uri("/readyz").body(Full::default());
        match self.checks.request(request.expect("invariant: constants make a request")).await {
            Ok(answer) if answer.status() == StatusCode::OK => Verdict::Ready,
            Ok(_) => Verdict::NotReady,
            Err(_) => Verdict::Unreachable,
        }
    }
}
