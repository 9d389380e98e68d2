//! Elections over the embedded coordinator: one at a time, in growing terms, with measured gaps.

use crate::{contract, embedded::Cluster};
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use vectorsphere::{
    coordination::{
        Change, Coordinator,
        election::{Candidate, Election, ElectionSettings, Leader, Policy, Reign},
    },
    rt::time::{self, Instant},
};

/// Who reigned, from when, and until when.
type Span = (u64, Instant, Option<Instant>);

/// When who reigned, by term.
#[derive(Default)]
struct Chronicle {
    reigns: Mutex<BTreeMap<u64, Span>>,
}

struct Subject {
    node: u64,
    ready: AtomicBool,
    chronicle: Arc<Chronicle>,
    last: Mutex<Option<Reign>>,
}

impl Candidate for Subject {
    fn is_ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    fn reign(&self, reign: Reign) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            *self.last.lock().unwrap() = Some(reign.clone());
            let before = self.chronicle.reigns.lock().unwrap().insert(reign.term, (self.node, time::now(), None));
            assert!(before.is_none(), "two reigns in term {}", reign.term);
            reign.ended.wait().await;
            self.chronicle.reigns.lock().unwrap().get_mut(&reign.term).unwrap().2 = Some(time::now());
        })
    }

    fn leader_changed(&self, _leader: Option<&Leader>) {}
}

struct Standing {
    subject: Arc<Subject>,
    election: Election,
}

fn stand(coordinator: Arc<dyn Coordinator>, settings: ElectionSettings, chronicle: &Arc<Chronicle>) -> Standing {
    let subject = Arc::new(Subject {
        node: settings.node,
        ready: AtomicBool::new(true),
        chronicle: chronicle.clone(),
        last: Mutex::default(),
    });
    let election = Election::stand(coordinator, "master", settings, subject.clone());
    Standing { subject, election }
}

/// The node that reigns in a term after `after`, and the term, once one does.
async fn reigning(chronicle: &Chronicle, after: u64) -> (u64, u64) {
    for _ in 0..600 {
        let last = chronicle.reigns.lock().unwrap().last_key_value().map(|(term, reign)| (reign.0, *term, reign.2));
        if let Some((node, term, None)) = last
            && term > after
        {
            return (node, term);
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody reigns after term {after}: {:?}", chronicle.reigns.lock().unwrap());
}

/// From the end of a term to the beginning of the next.
fn gap(chronicle: &Chronicle, ended: Instant, term: u64) -> Duration {
    chronicle.reigns.lock().unwrap()[&term].1 - ended
}

fn check_one_at_a_time(chronicle: &Chronicle) {
    let reigns = chronicle.reigns.lock().unwrap();
    for (earlier, later) in reigns.values().zip(reigns.values().skip(1)) {
        assert!(earlier.2.is_some_and(|end| end <= later.1), "{earlier:?} and {later:?} overlap");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reign_is_handed_over_at_once_and_inherited_soon() {
    let cluster = Cluster::start(3).await;
    let coordinators = cluster.nodes.iter().map(|node| node.coordinator()).collect();
    hands_over_and_inherits(coordinators, Duration::from_millis(2500)).await;
    cluster.stop().await;
}

/// Three candidates, one over each coordinator: planned hand-overs, a crash that the lease tells (within `by_lease_max`), and one that
/// another candidate tells.
pub async fn hands_over_and_inherits(coordinators: Vec<Arc<dyn Coordinator>>, by_lease_max: Duration) {
    let chronicle = Arc::<Chronicle>::default();
    let mut standing: BTreeMap<u64, Standing> =
        (1..).zip(&coordinators).map(|(id, c)| (id, stand(c.clone(), ElectionSettings::of(id), &chronicle))).collect();
    let (mut node, mut term) = reigning(&chronicle, 0).await;
    // Everybody stands before the measurements.
    time::sleep(Duration::from_millis(500)).await;
    let mut planned = Vec::new();
    for _ in 0..5 {
        let to = node % 3 + 1;
        assert!(standing[&node].election.hand_over(Some(to)).await);
        let (next, later) = reigning(&chronicle, term).await;
        assert_eq!((next, later), (to, term + 1), "it goes to who is named");
        let ended = chronicle.reigns.lock().unwrap()[&term].2.expect("ended");
        planned.push(gap(&chronicle, ended, later));
        // The old reign's transactions are refused, the new one's are not.
        let fence = |node: u64| standing[&node].subject.last.lock().unwrap().clone().unwrap().fence();
        let c = &*coordinators[0];
        let write = || vec![Change::Put("decided".to_owned(), Vec::new())];
        assert_eq!(contract::transact(c, vec![fence(node)], write()).await, None);
        assert!(contract::transact(c, vec![fence(next)], write()).await.is_some());
        (node, term) = (next, later);
    }
    planned.sort();
    eprintln!("planned hand-overs: {planned:?}");
    assert!(planned[planned.len() / 2] < Duration::from_millis(100), "{planned:?}");
    // A candidate that is gone from one moment to the next: its lease has to end.
    let crashed = time::now();
    drop(standing.remove(&node));
    let (next, later) = reigning(&chronicle, term).await;
    let inherited = gap(&chronicle, crashed, later);
    eprintln!("crash, noticed by the lease: {inherited:?}");
    assert!(next != node && inherited < by_lease_max, "{inherited:?}");
    (node, term) = (next, later);
    // The same, where somebody sees it: who has not heard yet that it leads suspects it in vain.
    while !standing.values().all(|other| other.election.leader().is_some_and(|leader| leader.node == node)) {
        time::sleep(Duration::from_millis(2)).await;
    }
    let crashed = time::now();
    drop(standing.remove(&node));
    for other in standing.values() {
        other.election.suspect(node);
    }
    let (next, later) = reigning(&chronicle, term).await;
    let inherited = gap(&chronicle, crashed, later);
    eprintln!("crash, seen by another: {inherited:?}");
    assert!(next != node && inherited < Duration::from_millis(500), "{inherited:?}");
    // It reigns once its transaction is answered, and sees that it does with everybody else: a moment later, perhaps.
    while standing[&next].election.leader().is_none_or(|leader| leader.node != next) {
        time::sleep(Duration::from_millis(2)).await;
    }
    let stats = standing[&next].election.stats();
    assert!(stats.term == later && stats.changes >= 6, "{stats:?}");
    let metrics = vectorsphere::telemetry::metrics::Metrics::new();
    standing[&next].election.publish(&metrics);
    let shown = metrics.encode();
    assert!(shown.contains(&format!("vectorsphere_election_term {later}.0\n")), "{shown}");
    check_one_at_a_time(&chronicle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_higher_one_reigns_when_it_has_caught_up_and_stays_up() {
    let cluster = Cluster::start(1).await;
    let chronicle = Arc::<Chronicle>::default();
    let quick = |node, priority| ElectionSettings {
        priority,
        steady: Duration::from_millis(600),
        reign_min: Duration::from_millis(300),
        ..ElectionSettings::of(node)
    };
    let c = || cluster.nodes[0].coordinator();
    let low = stand(c(), quick(1, 1), &chronicle);
    let (node, term) = reigning(&chronicle, 0).await;
    assert_eq!(node, 1);
    let high = stand(c(), quick(2, 9), &chronicle);
    high.subject.ready.store(false, SeqCst);
    time::sleep(Duration::from_secs(2)).await;
    assert_eq!(reigning(&chronicle, 0).await, (1, term), "a candidate that has not caught up is not made place for");
    // It comes and goes: nobody makes place for that.
    for _ in 0..3 {
        high.subject.ready.store(true, SeqCst);
        time::sleep(Duration::from_millis(300)).await;
        high.subject.ready.store(false, SeqCst);
        time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(reigning(&chronicle, 0).await, (1, term), "a candidate that flaps is not made place for");
    high.subject.ready.store(true, SeqCst);
    let (node, later) = reigning(&chronicle, term).await;
    assert_eq!((node, later), (2, term + 1));
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reigning(&chronicle, 0).await, (2, later), "the lower one does not take it back");
    high.election.leave().await;
    assert_eq!(reigning(&chronicle, later).await.0, 1);
    low.election.leave().await;
    check_one_at_a_time(&chronicle);
    assert!(c().list("master").await.unwrap().entries.iter().all(|kv| kv.lease.is_none()), "nothing is left standing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reign_ends_before_its_lease_when_the_coordinator_is_away() {
    let cluster = Cluster::start(3).await;
    let chronicle = Arc::<Chronicle>::default();
    let follower = cluster.follower().await;
    let alone = stand(follower.coordinator(), ElectionSettings::of(follower.id), &chronicle);
    let (node, term) = reigning(&chronicle, 0).await;
    assert_eq!(node, follower.id);
    let others: Vec<Standing> = cluster
        .nodes
        .iter()
        .filter(|node| node.id != follower.id)
        .map(|node| {
            let settings = ElectionSettings { policy: Policy::Random, ..ElectionSettings::of(node.id) };
            stand(node.coordinator(), settings, &chronicle)
        })
        .collect();
    time::sleep(Duration::from_millis(500)).await;
    let cut = time::now();
    cluster.cut(follower.id);
    let (next, later) = reigning(&chronicle, term).await;
    assert!(next != node && later == term + 1);
    let ended = chronicle.reigns.lock().unwrap()[&term].2.expect("it ended itself");
    let (took, gap) = (gap(&chronicle, cut, later), gap(&chronicle, ended, later));
    eprintln!("cut off: reigned on for {:?}, another reign after {took:?}", ended - cut);
    assert!(gap > Duration::ZERO);
    check_one_at_a_time(&chronicle);
    drop((alone, others));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reign_on_the_coordinators_own_leader_is_inherited_too() {
    let cluster = Cluster::start(3).await;
    let chronicle = Arc::<Chronicle>::default();
    let leader = cluster.leader().await;
    let first = stand(leader.coordinator(), ElectionSettings::of(leader.id), &chronicle);
    let (node, term) = reigning(&chronicle, 0).await;
    assert_eq!(node, leader.id);
    let others = cluster.nodes.iter().filter(|node| node.id != leader.id);
    let others: Vec<Standing> =
        others.map(|node| stand(node.coordinator(), ElectionSettings::of(node.id), &chronicle)).collect();
    time::sleep(Duration::from_millis(500)).await;
    let cut = time::now();
    cluster.cut(node);
    for other in &others {
        other.election.suspect(node);
    }
    let (next, later) = reigning(&chronicle, term).await;
    let took = gap(&chronicle, cut, later);
    eprintln!("the coordinator's leader lost, which reigned: another reign after {took:?}");
    assert!(next != node && took < Duration::from_millis(4000), "{took:?}");
    drop((first, others));
    cluster.stop().await;
}
