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
    /// As it was given: of an address that is none no channel is made.
    grpc_addr: Option<String>,
    checks: Client,
}

impl Link {
    /// The way to the node at these addresses (`host:port`). Nothing is dialled yet.
    pub fn new(http: &str, grpc: Option<&str>) -> Link {
        let channel = grpc.and_then(|address| rpc::connect(address, &RpcOptions::default()).ok());
        let checks = ClientOptions { timeout: CHECK_LIMIT, idle_connections_max: 1, ..ClientOptions::default() };
        Link {
            http: Upstream::new(http, UpstreamOptions::default()),
            grpc: channel,
            grpc_addr: grpc.map(str::to_owned),
            checks: Client::with_options(http, checks),
        }
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
        self.http.addr() == http && self.grpc_addr.as_deref() == grpc
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_same_also_where_its_grpc_address_is_none() {
        let link = Link::new("h:1", Some("no address"));
        assert!(link.grpc().is_none() && link.leads_to("h:1", Some("no address")));
        assert!(!link.leads_to("h:1", None) && !link.leads_to("h:2", Some("no address")));
    }
}
