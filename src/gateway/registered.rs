//! The nodes as they have registered in etcd: heard of at once, and known on while etcd is away. While the registry has nothing to tell,
//! nodes are asked. Made by the gateway where `etcd.endpoints` are set.
//!
//! An empty registry is not believed: a cluster that serves has a node, and an etcd that comes back from being away for long has lost
//! the leases of nodes that will register anew within a second.

use super::discovery::{Directory, KnownNode, Seeds, share};
use crate::{
    coordination::{
        Etcd,
        registry::{Filter, NodeRecord, NodeState, Registry},
    },
    rt::time,
};
use futures_util::future::BoxFuture;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long etcd is waited for when nothing is known yet, before nodes are asked.
const HEAR_LIMIT: Duration = Duration::from_millis(500);

/// See the module.
pub struct Registered {
    registry: Registry,
    /// Version of the registry that was looked at.
    seen: AtomicU64,
    seeds: Seeds,
}

impl Registered {
    /// Begins to follow the registry in `etcd`; `seeds` are asked where it does not tell. To be called inside the executor.
    pub fn follow(etcd: Etcd, seeds: Seeds) -> Registered {
        Registered { registry: Registry::follow(Arc::new(etcd)), seen: AtomicU64::new(0), seeds }
    }
}

impl Directory for Registered {
    fn nodes(&self, reachable: Vec<String>) -> BoxFuture<'static, Result<Vec<KnownNode>, String>> {
        let (registry, asking) = (self.registry.clone(), self.seeds.nodes(reachable));
        Box::pin(async move {
            // As long as nothing was ever heard, version 0 is what is known.
            let _heard = time::timeout(HEAR_LIMIT, registry.changed(0)).await;
            let silent = match registry.find(&Filter::default()) {
                Ok(found) => {
                    let nodes: Vec<KnownNode> = found.nodes.into_iter().filter_map(known).collect();
                    if !nodes.is_empty() {
                        return Ok(nodes);
                    }
                    "no node is registered in etcd".to_owned()
                }
                Err(unknown) => unknown.to_string(),
            };
            asking.await.map_err(|failures| format!("{silent}; {failures}"))
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let version = self.registry.changed(self.seen.load(Relaxed)).await;
            self.seen.store(version, Relaxed);
        })
    }
}

/// A registered node, where it can be reached by HTTP.
fn known(record: NodeRecord) -> Option<KnownNode> {
    let http = record.addresses.http.first()?.clone();
    let grpc = Some(record.addresses.grpc.clone()).filter(|address| !address.is_empty());
    // How it is beyond that is found by checks, sooner.
    let accepts = record.state == NodeState::Serving;
    let (id, weight) = (format!("{:016x}", record.node), share(record.weight));
    Some(KnownNode { id, http, grpc, weight, accepts, told: record })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::registry::NodeAddresses;

    #[test]
    fn nodes_are_sent_what_they_want() {
        let record = |state, http: &[&str]| {
            let http = http.iter().map(|one| (*one).to_owned()).collect();
            let addresses = NodeAddresses { http, grpc: "h:2".to_owned(), ..NodeAddresses::default() };
            NodeRecord { node: 42, addresses, state, weight: 7, ..NodeRecord::default() }
        };
        assert_eq!(known(record(NodeState::Serving, &[])), None);
        let told = record(NodeState::Serving, &["h:1", "h:3"]);
        let node = known(told.clone()).expect("it has an address");
        let expected = KnownNode {
            id: "000000000000002a".to_owned(),
            http: "h:1".to_owned(),
            grpc: Some("h:2".to_owned()),
            weight: 7.0,
            accepts: true,
            told,
        };
        assert_eq!(node, expected);
        for state in [NodeState::Starting, NodeState::Draining, NodeState::Stopping, NodeState::Unknown] {
            assert!(!known(record(state, &["h:1"])).expect("it is one").accepts, "{state:?}");
        }
    }
}
