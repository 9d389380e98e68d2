//! Schedules that chance never gets to, because each step has to follow the one before within milliseconds.
//!
//! [`figure8`], of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014, section 5.4.2):
//! an entry of an old term comes to be on a majority while its leader, of a newer term, has told nobody of an entry of its own;
//! then another leads whose log is shorter but whose last term is newer. What was on a majority may be overwritten, so whoever
//! had called it committed was wrong.
//!
//! [`deposed`]: a leader that is cut off is asked for what its successor has just changed, before it can have noticed.
use super::{
    Cluster, Identity,
    clients::{self, Notes},
    machine::Command,
    member::{Inside, Member},
    wire::Gag,
};
use crate::{
    check::{
        history::Outcome,
        register::{Answer, Call},
    },
    world::{log, sometimes},
};
use madsim::time::{self, Duration, Instant};
use std::{collections::BTreeSet, rc::Rc};

/// How long each election may take.
const ELECTION_LIMIT: Duration = Duration::from_millis(1_500);
/// Frames need a few milliseconds; the next step follows this long after.
const SPREAD: Duration = Duration::from_millis(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A member that says nothing for so long is passed over.
const STATUS_LIMIT: Duration = Duration::from_millis(20);
/// Keys that a deposed leader is asked for, and values that nobody else writes.
const DEPOSED_KEYS: u64 = 2;
const DEPOSED_VALUES: u64 = 3_000_000;
/// A key no client uses.
const KEY: u64 = 1_000;

/// The members that play a part.
struct Cast {
    /// Leads first, and again in a newer term.
    first: Rc<Member>,
    /// Is elected in between, and in the end.
    second: Rc<Member>,
    /// With either of them a majority, without it none.
    partners: Vec<Rc<Member>>,
}

/// Plays it once, as far as elections go the way they should. Leaves every link whole.
pub async fn figure8(cluster: &Cluster) {
    let Some((first, term)) = leader(cluster, 0).await else { return };
    let voters = voters(&first).await;
    let others: Vec<&Rc<Member>> = cluster
        .members
        .iter()
        .filter(|member| voters.contains(&member.identity()) && member.identity() != first.identity())
        .collect();
    // Of three each step needs two.
    if others.len() < 2 || !voters.contains(&first.identity()) {
        return;
    }
    // Nobody's process may end meanwhile. In order, or two such faults could wait for each other.
    let mut busy = Vec::new();
    for member in cluster.members.iter().filter(|member| voters.contains(&member.identity())) {
        busy.push(member.busy.lock().await);
    }
    log!("figure 8: {} leads in term {term} of {voters:?}", first.identity());
    others.iter().for_each(|other| cluster.wire.gag(other.identity(), Gag::OwnTerm));
    let alone = links_around(cluster, &[first.identity()]);
    cluster.wire.cut(&alone);
    propose(&first);
    let elected = elected(cluster, &others, term).await;
    let rest: Vec<Rc<Member>> = others.into_iter().cloned().collect();
    if let Some((second, term)) = elected {
        let quorum = voters.len() / 2 + 1;
        let free = rest.iter().filter(|other| other.identity() != second.identity());
        let partners = free.take(quorum - 1).cloned().collect();
        let cast = Cast { first: first.clone(), second, partners };
        cluster.wire.gag(first.identity(), Gag::OwnTermAfterOlder);
        let island = links_around(cluster, &cast.island(&cast.first));
        cluster.wire.cut(&island);
        cluster.wire.heal(&alone);
        overtake(cluster, &cast, term, island).await;
    } else {
        cluster.wire.heal(&alone);
    }
    rest.iter().chain([&first]).for_each(|member| cluster.wire.ungag(member.identity()));
}

impl Cast {
    /// Those who decide when `leader` is to lead: all whose logs are older need its vote, and do not get it.
    fn island(&self, leader: &Rc<Member>) -> Vec<Identity> {
        self.partners.iter().chain([leader]).map(|member| member.identity()).collect()
    }
}

/// The first one leads again, in a term after `term`, and gives away what it has of old; then the second one does.
async fn overtake(cluster: &Cluster, cast: &Cast, term: u64, island: Vec<(Identity, Identity)>) {
    let again = elected(cluster, &[&cast.first], term).await;
    if again.is_some() {
        time::sleep(SPREAD).await;
        let spread = cluster.wire.gave_away(cast.first.identity());
        sometimes!(spread, "an entry of an old term was on a majority in a newer one, alone");
        log!("figure 8: {} leads again, given away: {spread}", cast.first.identity());
    }
    cluster.wire.ungag(cast.second.identity());
    let last = links_around(cluster, &cast.island(&cast.second));
    cluster.wire.cut(&last);
    cluster.wire.heal(&island);
    if let Some((_, newer)) = again
        && elected(cluster, &[&cast.second], newer).await.is_some()
    {
        sometimes!(true, "a shorter log of a newer term won");
        time::sleep(SPREAD).await;
    }
    cluster.wire.heal(&last);
}

/// Cuts the leader off from the others, not from the clients, and as soon as there is another asks that one to write and the old one
/// to read it. Leaves every link whole.
pub async fn deposed(cluster: &Cluster, notes: &Notes) {
    let Some((old, term)) = leader(cluster, 0).await else { return };
    let others: Vec<&Rc<Member>> =
        cluster.members.iter().filter(|member| member.identity() != old.identity()).collect();
    let links = links_around(cluster, &[old.identity()]);
    cluster.wire.cut(&links);
    if let Some((new, newer)) = elected(cluster, &others, term).await {
        log!("deposed: {} leads in term {newer}, {} led", new.identity(), old.identity());
        for key in 0..DEPOSED_KEYS {
            notes.believe(new.number);
            let process = notes.history.borrow_mut().retire();
            let call = Call::Put { key, value: DEPOSED_VALUES + process, if_version: None };
            let written = clients::attempt(cluster, notes, process, call, new.number, 0).await;
            if !matches!(written, Outcome::Ok(Answer::Written { .. })) {
                break;
            }
            let still = old.inside().is_some_and(|inside| inside.group.is_leader());
            sometimes!(still, "a leader was asked that did not know yet that it was deposed");
            let process = notes.history.borrow_mut().retire();
            let _judged_later = clients::attempt(cluster, notes, process, Call::Get { key }, old.number, 0).await;
        }
    }
    cluster.wire.heal(&links);
}

/// Gives the leader something that nobody else will hear of for now.
fn propose(leader: &Rc<Member>) {
    let Some(inside) = leader.inside() else { return };
    let command = Command { key: KEY, value: Some(1), if_version: None, padding: String::new() };
    let data = command.encode();
    // What becomes of it nobody asks: no client reads this key.
    drop(leader.spawn(async move { inside.group.propose(data).await.is_ok() }));
}

/// Who of `members` leads in a term after `term`, once somebody does.
async fn elected(cluster: &Cluster, members: &[&Rc<Member>], term: u64) -> Option<(Rc<Member>, u64)> {
    let deadline = Instant::now() + ELECTION_LIMIT;
    while Instant::now() < deadline && !cluster.over.is_triggered() {
        if let Some((leader, term)) = leader(cluster, term).await
            && members.iter().any(|member| member.identity() == leader.identity())
        {
            return Some((leader, term));
        }
        time::sleep(LOOK_INTERVAL).await;
    }
    None
}

/// Who leads in a term after `term`, as it says itself.
async fn leader(cluster: &Cluster, term: u64) -> Option<(Rc<Member>, u64)> {
    for member in &cluster.members {
        let Some(inside) = member.inside().filter(|inside| inside.group.is_leader()) else { continue };
        if let Some(led) = term_of(&inside).await
            && led > term
        {
            return Some((member.clone(), led));
        }
    }
    None
}

async fn term_of(inside: &Inside) -> Option<u64> {
    let status = time::timeout(STATUS_LIMIT, inside.group.status()).await;
    Some(status.ok()?.ok()?.term)
}

/// The voters by the leader's word; nobody while they change.
async fn voters(leader: &Rc<Member>) -> BTreeSet<Identity> {
    let Some(inside) = leader.inside() else { return BTreeSet::new() };
    match time::timeout(STATUS_LIMIT, inside.group.status()).await {
        Ok(Ok(status)) if status.members.voters_outgoing.is_empty() => status.members.voters.into_iter().collect(),
        _ => BTreeSet::new(),
    }
}

/// The links between the island and all others.
fn links_around(cluster: &Cluster, island: &[Identity]) -> Vec<(Identity, Identity)> {
    let all = cluster.members.iter().map(|member| member.identity());
    let outside: Vec<Identity> = all.filter(|member| !island.contains(member)).collect();
    let pairs = island.iter().flat_map(|inside| outside.iter().map(move |outside| (*inside, *outside)));
    pairs.flat_map(|(inside, outside)| [(inside, outside), (outside, inside)]).collect()
}
