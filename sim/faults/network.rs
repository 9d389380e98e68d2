//! Faults of the network: cut links, counted so that partitions may overlap, lost and late packets; and the one question
//! that the run itself asks nodes over it.
use super::fleet::Fleet;
use crate::plan::{Shape, Way};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use madsim::{net::NetSim, task::NodeId, time::Duration};
use std::{cell::RefCell, collections::BTreeMap};
use vectorsphere::rt::{http::client::Client, sim as links};

/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// Every packet takes at least this long, and on a good day at most [`LATENCY_MAX`].
const LATENCY_MIN: Duration = Duration::from_millis(1);
const LATENCY_MAX: Duration = Duration::from_millis(10);

/// What is wrong with the network now.
#[derive(Default)]
pub struct Network {
    cuts: RefCell<BTreeMap<(NodeId, NodeId), u32>>,
    losses: RefCell<Vec<u32>>,
    latencies: RefCell<Vec<u64>>,
}

/// Directed links.
pub type Links = Vec<(NodeId, NodeId)>;

impl Network {
    pub fn cut(&self, links: &Links) {
        let mut cuts = self.cuts.borrow_mut();
        for link in links {
            *cuts.entry(*link).or_default() += 1;
            links::cut(link.0, link.1);
        }
    }

    /// Heals what one [`Network::cut`] of the same links cut, but for links that another one holds cut.
    pub fn heal(&self, links: &Links) {
        let mut cuts = self.cuts.borrow_mut();
        for link in links {
            let count = cuts.get_mut(link).expect("only what was cut is healed");
            *count -= 1;
            if *count == 0 {
                cuts.remove(link);
                links::heal(link.0, link.1);
            }
        }
    }

    pub fn lose(&self, percent: u32) {
        self.losses.borrow_mut().push(percent);
        self.apply();
    }

    pub fn lose_no_more(&self, percent: u32) {
        forget(&mut self.losses.borrow_mut(), percent);
        self.apply();
    }

    pub fn delay(&self, ms_max: u64) {
        self.latencies.borrow_mut().push(ms_max);
        self.apply();
    }

    pub fn delay_no_more(&self, ms_max: u64) {
        forget(&mut self.latencies.borrow_mut(), ms_max);
        self.apply();
    }

    /// The worst of what is wrong counts.
    fn apply(&self) {
        let percent = self.losses.borrow().iter().copied().max().unwrap_or(0);
        let latency = self.latencies.borrow().iter().copied().max().map(Duration::from_millis);
        NetSim::current().update_config(|config| {
            config.packet_loss_rate = f64::from(percent) / 100.0;
            config.send_latency = LATENCY_MIN..latency.unwrap_or(LATENCY_MAX).max(LATENCY_MAX);
        });
    }
}

fn forget<T: PartialEq>(list: &mut Vec<T>, item: T) {
    let place = list.iter().position(|other| *other == item).expect("what ends has begun");
    list.remove(place);
}

/// The links that a partition of `shape` around `nodes` cuts.
pub fn partition(fleet: &Fleet, shape: Shape, way: Way, nodes: &[usize]) -> Links {
    let (inside, outside): (Vec<usize>, Vec<usize>) = (0..fleet.victims.len()).partition(|node| nodes.contains(node));
    let id = |node: &usize| fleet.victims[*node].id();
    let ids = |nodes: &[usize]| nodes.iter().map(id).collect::<Vec<_>>();
    let clients = [fleet.clients.id()];
    match shape {
        Shape::Away => between(&ids(&inside), &ids(&outside), way),
        Shape::AwayFromAll => between(&ids(&inside), &[&ids(&outside)[..], &clients].concat(), way),
        Shape::Clients => between(&ids(&inside), &clients, way),
        Shape::Bridge => between(&ids(nodes.get(1..).unwrap_or_default()), &ids(&outside), way),
        Shape::Ring => ring(&ids(nodes), way),
    }
}

/// Each node reaches the nearest of both sides, so many that with itself they are a majority.
fn ring(ids: &[NodeId], way: Way) -> Links {
    let (count, reach) = (ids.len(), ids.len() / 2 / 2);
    let mut links = Vec::new();
    for one in 0..count {
        for other in one + 1..count {
            let distance = (other - one).min(count - (other - one));
            // With three nodes "the nearest" would be everybody: one link is missing there.
            let apart = if count == 3 { (one, other) == (0, 1) } else { distance > reach.max(1) };
            if apart {
                links.extend(between(&ids[one..=one], &ids[other..=other], way));
            }
        }
    }
    links
}

fn between(these: &[NodeId], those: &[NodeId], way: Way) -> Links {
    let mut links = Vec::new();
    for (this, that) in these.iter().flat_map(|this| those.iter().map(move |that| (*this, *that))) {
        if way != Way::In {
            links.push((this, that));
        }
        if way != Way::Out {
            links.push((that, this));
        }
    }
    links
}

/// Whether the node says it is ready.
pub async fn ready(address: &str) -> bool {
    let request = Request::builder().uri("/readyz").body(Full::new(Bytes::new())).expect("a well-formed request");
    let answer = Client::new(address).request_within(ASK_LIMIT, request).await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}
