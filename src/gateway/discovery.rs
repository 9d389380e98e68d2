//! Which nodes there are. A [`Directory`] tells: nodes that are asked ([`Seeds`]), or the registry in etcd
//! ([`Registered`](super::registered::Registered)); the gateway asks it again and again and makes the answer the balancer's
//! backends. Until it can be asked again, what it said last holds. Run by the gateway until it stops.

use super::link::Link;
use crate::{
    cluster::WEIGHT_ORDINARY,
    coordination::registry::{Filter, NodeRecord},
    rt::{
        http::client::{Client, ClientOptions},
        shutdown::Shutdown,
        time::{self, now},
    },
    traffic::{Balancer, Wanted},
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often the directory is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How often until it has answered once: a cluster that is starting with its gateway is seen at once.
const FIRST_ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How long one node may take to tell.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// How long others are waited for when one has told.
const OTHERS_LIMIT: Duration = Duration::from_millis(100);
/// How many nodes are asked at once; the next time it is the turn of others.
const ASKED_MAX: usize = 5;
/// An answer may not be larger than this; thousands of nodes fit.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A node that may be sent requests.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownNode {
    /// Its id, the same wherever it listens.
    pub id: String,
    /// `host:port`.
    pub http: String,
    /// `host:port`.
    pub grpc: Option<String>,
    /// Its share of the requests.
    pub weight: f64,
    /// Whether it wants new ones.
    pub accepts: bool,
    /// What it can be selected by, as far as was told.
    pub told: NodeRecord,
}

/// Who knows the nodes.
pub trait Directory: Send + 'static {
    /// All nodes now. `reachable` are HTTP addresses of nodes known so far, for a directory that asks nodes.
    ///
    /// # Errors
    /// Why they cannot be told, for the log.
    fn nodes(&self, reachable: Vec<String>) -> BoxFuture<'static, Result<Vec<KnownNode>, String>>;

    /// Resolves when there may be other nodes than were told last, for a directory that hears of it.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Asks nodes: those known so far, and those of the configuration. What most of them say is believed, so that one that is cut off
/// or new, and knows only itself, does not drive the requests of all to itself.
pub struct Seeds {
    seeds: Vec<String>,
    /// How often was asked.
    rounds: AtomicUsize,
}

impl Seeds {
    /// Begins with the nodes at these HTTP addresses (`host:port`).
    pub fn new(seeds: Vec<String>) -> Seeds {
        Seeds { seeds, rounds: AtomicUsize::new(0) }
    }
}

impl Directory for Seeds {
    fn nodes(&self, reachable: Vec<String>) -> BoxFuture<'static, Result<Vec<KnownNode>, String>> {
        let addresses: BTreeSet<String> = reachable.into_iter().chain(self.seeds.iter().cloned()).collect();
        let mut addresses: Vec<String> = addresses.into_iter().collect();
        let turn = self.rounds.fetch_add(ASKED_MAX, Relaxed) % addresses.len().max(1);
        addresses.rotate_left(turn);
        addresses.truncate(ASKED_MAX);
        let mut asked: FuturesUnordered<_> = addresses.into_iter().map(ask).collect();
        Box::pin(async move {
            let (mut answers, mut failures) = (Vec::new(), Vec::new());
            let mut deadline = now() + ASK_LIMIT + OTHERS_LIMIT;
            while let Ok(Some(answer)) = time::timeout_at(deadline, asked.next()).await {
                match answer {
                    Ok(nodes) => {
                        deadline = deadline.min(now() + OTHERS_LIMIT);
                        answers.push(nodes);
                    }
                    Err(failure) => failures.push(failure),
                }
            }
            agreed(answers).ok_or_else(|| failures.join("; "))
        })
    }
}

/// The answer that most give; of several the one with the most nodes. Of those who give it the one that tells most labels, since programs of
/// before tell none. None if there is no answer.
fn agreed(answers: Vec<Vec<KnownNode>>) -> Option<Vec<KnownNode>> {
    let mut voices: BTreeMap<BTreeSet<String>, usize> = BTreeMap::new();
    let ids = |nodes: &[KnownNode]| nodes.iter().map(|node| node.id.clone()).collect::<BTreeSet<_>>();
    for nodes in &answers {
        *voices.entry(ids(nodes)).or_default() += 1;
    }
    let (said, _) = voices.into_iter().max_by_key(|(ids, voices)| (*voices, ids.len()))?;
    let labelled = |nodes: &[KnownNode]| {
        nodes.iter().filter(|node| !node.told.tags.is_empty() || !node.told.group.is_empty()).count()
    };
    answers.into_iter().filter(|nodes| ids(nodes) == said).min_by_key(|nodes| std::cmp::Reverse(labelled(nodes)))
}

#[derive(Deserialize)]
struct NodesAnswer {
    nodes: Vec<NodeAnswer>,
}

#[derive(Default, Deserialize)]
struct NodeAnswer {
    id: String,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    version: String,
    #[serde(default)]
    tags: BTreeSet<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    http: Vec<String>,
    #[serde(default)]
    grpc: String,
    #[serde(default)]
    weight: u32,
    #[serde(default)]
    draining: bool,
}

/// Asks the node at `address` for all nodes.
async fn ask(address: String) -> Result<Vec<KnownNode>, String> {
    let options = ClientOptions { timeout: ASK_LIMIT, body_bytes_max: ANSWER_BYTES_MAX, ..ClientOptions::default() };
    let client = Client::with_options(address.clone(), options);
    let request = Request::builder().uri("/api/v1/cluster/nodes").body(Full::default());
    let answer = client.request(request.expect("invariant: constants make a request")).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{address} answers {}", answer.status()));
    }
    let answer: NodesAnswer =
        serde_json::from_slice(answer.body()).map_err(|error| format!("{address} does not list nodes: {error}"))?;
    let nodes: Vec<KnownNode> = answer.nodes.into_iter().filter_map(|node| known(node, &address)).collect();
    if nodes.is_empty() { Err(format!("{address} lists no node with an HTTP address")) } else { Ok(nodes) }
}

/// A node of an answer, where it can be reached by HTTP.
fn known(node: NodeAnswer, asked: &str) -> Option<KnownNode> {
    let http = reachable(node.http.first()?, asked);
    let grpc = (!node.grpc.is_empty()).then(|| reachable(&node.grpc, asked));
    let told = NodeRecord {
        zone: node.zone.unwrap_or_default(),
        version: node.version,
        tags: node.tags,
        group: node.group.unwrap_or_default(),
        ..NodeRecord::default()
    };
    Some(KnownNode { id: node.id, http, grpc, weight: share(node.weight), accepts: !node.draining, told })
}

/// The share of a node that tells this weight; nodes of earlier versions tell none.
pub(super) fn share(weight: u32) -> f64 {
    f64::from(if weight == 0 { WEIGHT_ORDINARY } else { weight })
}

/// An address that a node gave. One that listens everywhere gives no host (`0.0.0.0:8080`): then the host that was asked
/// stands in for it, which is right where all nodes share it.
fn reachable(address: &str, asked: &str) -> String {
    match (address.parse::<SocketAddr>(), asked.rsplit_once(':')) {
        (Ok(bound), Some((host, _))) if bound.ip().is_unspecified() => format!("{host}:{}", bound.port()),
        _ => address.to_owned(),
    }
}

/// Asks `directory` until `stop`; nodes that `select` lets pass become the backends.
pub async fn run(directory: impl Directory, select: Filter, balancer: Balancer<Arc<Link>>, stop: Shutdown) {
    let mut links: BTreeMap<String, Arc<Link>> = BTreeMap::new();
    let mut was_told = false;
    while !stop.is_triggered() {
        let reachable = links.values().map(|link| link.http().addr().to_owned()).collect();
        let wait = match directory.nodes(reachable).await {
            Ok(nodes) => {
                let known = nodes.len();
                let nodes: Vec<KnownNode> = nodes.into_iter().filter(|node| select.passes(&node.told)).collect();
                let are_others = nodes.is_empty() && known > 0;
                if are_others && !was_told {
                    tracing::warn!(known, ?select, "no node of the cluster is one of those to be selected");
                }
                was_told = are_others;
                make(&mut links, nodes, &balancer);
                ASK_INTERVAL
            }
            Err(why) => {
                tracing::debug!(why, "the nodes of the cluster could not be listed; those known so far are used");
                if links.is_empty() { FIRST_ASK_INTERVAL } else { ASK_INTERVAL }
            }
        };
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = directory.changed() => {}
            () = time::sleep(wait) => {}
        }
    }
}

/// Makes `nodes` the backends; keeps the connections to those that were there.
fn make(links: &mut BTreeMap<String, Arc<Link>>, nodes: Vec<KnownNode>, balancer: &Balancer<Arc<Link>>) {
    let mut before = std::mem::take(links);
    let mut wanted = Vec::new();
    for KnownNode { id, http, grpc, weight, accepts, told: _ } in nodes {
        let same = before.remove(&id).filter(|link| link.leads_to(&http, grpc.as_deref()));
        let link = same.unwrap_or_else(|| {
            tracing::info!(node = id, http, "a node to send requests to");
            Arc::new(Link::new(&http, grpc.as_deref()))
        });
        links.insert(id.clone(), link.clone());
        wanted.push(Wanted { name: id, weight, accepts, value: link });
    }
    for id in before.keys() {
        tracing::info!(node = id, "a node is gone from the cluster");
    }
    balancer.set(wanted, now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_takes_the_one_that_was_asked() {
        assert_eq!(reachable("0.0.0.0:8081", "db.example:8080"), "db.example:8081");
        assert_eq!(reachable("[::]:8081", "10.0.0.1:8080"), "10.0.0.1:8081");
        assert_eq!(reachable("10.0.0.2:8081", "10.0.0.1:8080"), "10.0.0.2:8081");
        assert_eq!(reachable("node2:8081", "10.0.0.1:8080"), "node2:8081");
    }

    #[test]
    fn what_most_say_is_believed() {
        let list = |ids: &[&str]| -> Vec<KnownNode> {
            let node = |id: &&str| KnownNode {
                id: (*id).into(),
                http: "h:1".into(),
                grpc: None,
                weight: 1.0,
                accepts: true,
                told: NodeRecord::default(),
            };
            ids.iter().map(node).collect()
        };
        let (all, alone) = (list(&["a", "b", "c"]), list(&["c"]));
        assert_eq!(agreed(vec![alone.clone(), all.clone(), list(&["c", "b", "a"])]), Some(all.clone()));
        assert_eq!(agreed(vec![alone.clone(), all.clone()]), Some(all.clone()), "one against one");
        assert_eq!(agreed(vec![all.clone(), alone.clone(), alone.clone()]), Some(alone), "two were removed");
        assert_eq!(agreed(Vec::new()), None);
        let mut labelled = all.clone();
        labelled[0].told.group = "blue".to_owned();
        for answers in [vec![labelled.clone(), all.clone()], vec![all.clone(), labelled.clone()]] {
            assert_eq!(
                agreed(answers),
                Some(labelled.clone()),
                "what an older program does not know is taken from others"
            );
        }
    }

    #[test]
    fn nodes_without_http_are_left_out() {
        let node = |http: &[&str]| NodeAnswer {
            id: "a".into(),
            http: http.iter().map(|one| (*one).to_owned()).collect(),
            ..NodeAnswer::default()
        };
        assert_eq!(known(node(&[]), "h:1"), None);
        let found = known(node(&["h:2", "h:3"]), "h:1").expect("it has one");
        assert_eq!((found.http.as_str(), found.grpc), ("h:2", None));
        assert_eq!((found.weight, found.accepts), (100.0, true), "as a node of an earlier version");
        let leaving = NodeAnswer { weight: 30, draining: true, ..node(&["h:2"]) };
        let found = known(leaving, "h:1").expect("it has one");
        assert_eq!((found.weight, found.accepts), (30.0, false));
        let tags: BTreeSet<String> = ["ssd".to_owned()].into();
        let labelled = NodeAnswer { tags: tags.clone(), group: Some("blue".to_owned()), ..node(&["h:2"]) };
        let told = known(labelled, "h:1").expect("it has one").told;
        assert_eq!((told.tags, told.group.as_str(), told.zone.as_str()), (tags, "blue", ""));
    }
}
