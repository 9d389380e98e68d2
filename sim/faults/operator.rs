//! Whoever runs the cluster: starts further nodes, drains and removes some, splits and merges shards, pauses evening out, one step after the other, over the REST
//! face of whichever node answers. Keeps what was acknowledged, to be compared with what the cluster says in the end.
use super::{fleet::Fleet, upgrade};
use crate::{
    plan::{ACTIVE_MIN, Turn, moves::Move},
    workload::{TABLE, answer},
    world::{self, log, sometimes},
};
use http::{Method, StatusCode};
use madsim::time::{self, Duration, Instant};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeSet};
use vectorsphere::{
    rt::http::client::{Client, ClientOptions},
    types::SlotRange,
};

/// How long one request may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// Between two attempts at one step.
const PAUSE: Duration = Duration::from_millis(200);
/// A step that has not come about by then is given up: a drain may have to wait for nodes that are away.
const STEP_LIMIT: Duration = Duration::from_secs(25);

const SPLIT: &str = "/api/v1/cluster/split";
const ALIASES: &str = "/api/v1/aliases";
const MERGE: &str = "/api/v1/cluster/merge";

/// What the cluster was told.
#[derive(Default)]
pub struct Books {
    /// Or was asked to.
    pub draining: RefCell<BTreeSet<usize>>,
    pub removed: RefCell<BTreeSet<usize>>,
}

/// Carries out the steps until they, or the run, are over; then lets evening out go on.
pub async fn run(fleet: &Fleet, steps: &[Move], books: &Books) {
    for step in steps {
        fleet.pass(step.after_ms).await;
        if fleet.is_over() {
            break;
        }
        log!("STEP {:?}", step.turn);
        world::count("operator.steps", 1);
        let done = carry_out(fleet, step.turn, books).await;
        log!("STEP {:?}: {}", step.turn, if done { "done" } else { "given up" });
    }
}

/// Whether it came about.
pub async fn carry_out(fleet: &Fleet, turn: Turn, books: &Books) -> bool {
    match turn {
        Turn::Join { node } => {
            fleet.join(node);
            true
        }
        Turn::Upgrade { node, back } => {
            upgrade::step(fleet, node, back).await;
            true
        }
        Turn::Drain { node } => {
            let stays = |other: &usize| *other != node && !books.draining.borrow().contains(other);
            if fleet.present_numbers().iter().filter(|other| stays(other)).count() < ACTIVE_MIN {
                return false;
            }
            // Tried is as good as done: the answer may be lost.
            books.draining.borrow_mut().insert(node);
            let done = insist(fleet, Method::POST, node, "/drain").await;
            sometimes!(done, "a node was drained");
            done
        }
        Turn::Keep { node } => {
            let done = insist(fleet, Method::DELETE, node, "/drain").await;
            if done {
                books.draining.borrow_mut().remove(&node);
            }
            done
        }
        Turn::Remove { node, runs_on_ms } => {
            let done = books.draining.borrow().contains(&node) && insist(fleet, Method::DELETE, node, "").await;
            if done {
                books.removed.borrow_mut().insert(node);
                sometimes!(true, "a node was removed");
                retire(fleet, node, runs_on_ms).await;
            }
            done
        }
        Turn::Split { pick, off } => {
            let done = insist_on_slots(fleet, |shards| split_of(shards, pick, off)).await;
            sometimes!(done, "a shard was to be split");
            done
        }
        Turn::Merge { pick, before } => {
            let done = insist_on_slots(fleet, |shards| merge_of(shards, pick, before)).await;
            sometimes!(done, "shards were to be merged");
            done
        }
        Turn::Pause { paused } => {
            let body = json!({ "action": if paused { "pause" } else { "resume" } });
            attempts(fleet, Method::POST, "/api/v1/cluster/rebalance", Some(body)).await
        }
    }
}

/// A node that was removed runs on for a while, then never again.
pub async fn retire(fleet: &Fleet, node: usize, runs_on_ms: u64) {
    fleet.pass(runs_on_ms).await;
    let victim = &fleet.victims[node];
    let _busy = victim.busy.lock().await;
    fleet.leave(node);
    victim.kill().await;
}

/// What a node says of the cluster.
pub async fn status(fleet: &Fleet, node: usize) -> Option<Value> {
    let (status, answer) = ask(fleet, node, Method::GET, "/api/v1/cluster/status", None).await?;
    status.is_success().then_some(answer)
}

/// Asks one node to split a shard.
pub async fn split(fleet: &Fleet, node: usize, shard: u64, at: Option<u16>) -> Option<(StatusCode, Value)> {
    let body = json!({ "table_name": TABLE, "shard": shard, "at": at });
    ask(fleet, node, Method::POST, SPLIT, Some(body)).await
}

/// Asks for an alias of the table.
pub async fn alias(fleet: &Fleet, node: usize) -> Option<(StatusCode, Value)> {
    let body = json!({ "changes": [{ "create": { "alias_name": "too_early", "table_name": TABLE } }] });
    ask(fleet, node, Method::POST, ALIASES, Some(body)).await
}

/// A shard's id and its slots, in slot order.
type Slots = (u64, SlotRange);

fn split_of(shards: &[Slots], pick: usize, off: Option<u16>) -> Option<(&'static str, Value)> {
    let (shard, slots) = *shards.get(pick % shards.len().max(1))?;
    let at = off.map(|off| slots.first + off % (slots.end - slots.first).max(1));
    Some((SPLIT, json!({ "table_name": TABLE, "shard": shard, "at": at })))
}

fn merge_of(shards: &[Slots], pick: usize, before: bool) -> Option<(&'static str, Value)> {
    let place = pick % shards.len().max(1);
    let other = if before { place.checked_sub(1)? } else { place + 1 };
    let ((shard, _), (into, _)) = (shards.get(place)?, shards.get(other)?);
    Some((MERGE, json!({ "table_name": TABLE, "shard": shard, "into": into })))
}

/// Asks for what `make` makes of the table's shards as a node knows them, until one says that it has begun.
async fn insist_on_slots(fleet: &Fleet, make: impl Fn(&[Slots]) -> Option<(&'static str, Value)>) -> bool {
    let deadline = Instant::now() + STEP_LIMIT;
    while Instant::now() < deadline && !fleet.is_over() {
        for node in fleet.present_numbers() {
            let Some(inside) = fleet.victims[node].inside() else { continue };
            let table = inside.shard_table();
            let mut shards: Vec<Slots> = table.shards.iter().map(|(shard, entry)| (*shard, entry.slots)).collect();
            shards.sort_by_key(|(_, slots)| slots.first);
            let Some((path, body)) = make(&shards) else { continue };
            if let Some((status, answer)) = ask(fleet, node, Method::POST, path, Some(body.clone())).await {
                log!("operator: {path} {body} at node-{}: {status} {}", node + 1, answer["code"]);
                if status.is_success() {
                    return true;
                }
            }
        }
        time::sleep(PAUSE).await;
    }
    false
}

/// Evening out goes on, whatever was said before.
pub async fn resume(fleet: &Fleet) -> bool {
    let body = json!({ "action": "resume" });
    attempts(fleet, Method::POST, "/api/v1/cluster/rebalance", Some(body)).await
}

async fn insist(fleet: &Fleet, method: Method, node: usize, below: &str) -> bool {
    // One that has not come up once has nothing to give away.
    let Some(id) = fleet.victims[node].node_id() else { return false };
    attempts(fleet, method, &format!("/api/v1/cluster/nodes/{id:016x}{below}"), None).await
}

/// Asks until somebody says that it is done.
async fn attempts(fleet: &Fleet, method: Method, path: &str, body: Option<Value>) -> bool {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        for node in fleet.present_numbers() {
            if let Some((status, answer)) = ask(fleet, node, method.clone(), path, body.clone()).await {
                log!("operator: {method} {path} at node-{}: {status} {}", node + 1, answer["code"]);
                if status.is_success() {
                    return true;
                }
            }
        }
        if Instant::now() >= deadline || fleet.is_over() {
            return false;
        }
        time::sleep(PAUSE).await;
    }
}

/// Asks one node; nothing if it does not answer.
async fn ask(
    fleet: &Fleet,
    node: usize,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Option<(StatusCode, Value)> {
    let (address, path) = (fleet.victims[node].http(), path.to_string());
    let asked = fleet.observe(async move {
        let options = ClientOptions { timeout: ASK_LIMIT, ..ClientOptions::default() };
        let client = Client::with_options(&address, options);
        answer::send(&client, answer::request(method, &path, body, None)).await
    });
    asked.await.ok()
}
