//! Whoever does not believe that the replicas are equal: asks some node now and then, over its REST face as `vectorsphere verify` does, while
//! clients write and everything else goes wrong. A node may say that it could not compare; it must never name a difference.
use super::fleet::Fleet;
use crate::{
    plan::Audit,
    workload::answer,
    world::{self, log, sometimes},
};
use http::Method;
use madsim::time::{Duration, Instant};
use serde_json::Value;
use std::collections::BTreeSet;
use vectorsphere::rt::http::client::{Client, ClientOptions};

/// Replicas that are at different log indexes are looked at again for two seconds, one shard after the other.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// Asks when it is time to; stops when the run is over.
///
/// # Panics
/// If a node names a difference, or its verdicts are not what its figures say.
pub async fn run(fleet: &Fleet, audits: &[Audit]) {
    let begun = Instant::now();
    for audit in audits {
        fleet.pass(audit.at_ms.saturating_sub(begun.elapsed().as_millis() as u64)).await;
        if fleet.is_over() {
            return;
        }
        let verified = tokio::select! {
            biased;
            verified = verify(fleet, audit.node) => verified,
            () = fleet.over() => None,
        };
        log!("verify at node-{}: {}", audit.node + 1, verified.as_ref().map_or("no answer".into(), told));
        if let Some(answer) = verified {
            world::count("audits", 1);
            check(&answer);
        }
    }
}

async fn verify(fleet: &Fleet, node: usize) -> Option<Value> {
    let address = fleet.victims[node].http();
    let asked = fleet.clients.spawn(async move {
        let options = ClientOptions { timeout: ASK_LIMIT, ..ClientOptions::default() };
        let client = Client::with_options(&address, options);
        answer::send(&client, answer::request(Method::POST, "/api/v1/cluster/verify", None, None)).await
    });
    let (status, answer) = asked.await.expect("the clients' machine never fails").ok()?;
    // A node that has no cluster yet says so, and one that has a bug fails the run.
    answer::judge(status, answer).ok()
}

fn told(answer: &Value) -> String {
    let shards = shards(answer).iter().map(|shard| format!("{} {}", shard["id"], shard["verdict"]));
    shards.collect::<Vec<_>>().join(", ")
}

fn shards(answer: &Value) -> &[Value] {
    answer["shards"].as_array().unwrap_or_else(|| panic!("an answer without shards: {answer}"))
}

fn check(answer: &Value) {
    let verdicts: Vec<&str> = shards(answer).iter().map(verdict).collect();
    let all_equal = verdicts.iter().all(|verdict| *verdict == "equal");
    assert_eq!(answer["equal"].as_bool(), Some(all_equal), "the verdict of all: {answer}");
    sometimes!(verdicts.contains(&"unknown"), "verify could not compare replicas");
    sometimes!(all_equal, "verify found all replicas of all shards equal");
}

/// What is said of a shard, and whether its replicas' figures bear that out.
fn verdict(shard: &Value) -> &str {
    let replicas = shard["replicas"].as_array().unwrap_or_else(|| panic!("a shard without replicas: {shard}"));
    // Every figure that one replica has, as all of them should; none for one that did not answer.
    let of = |figure: &str| replicas.iter().map(|one| one[figure].to_string()).collect::<BTreeSet<_>>();
    match shard["verdict"].as_str() {
        Some("equal") => {
            for figure in ["applied_index", "content_hash", "documents_count", "error"] {
                assert_eq!(of(figure).len(), 1, "replicas said to be equal have different {figure}: {shard}");
            }
            let indexes = of("index_hash");
            assert!(indexes.iter().filter(|hash| *hash != "null").count() <= 1, "equal, with different lists: {shard}");
            sometimes!(replicas.len() > 1, "verify found the replicas of a shard equal");
            "equal"
        }
        Some("unknown") => "unknown",
        _ => panic!("verify names a difference: {shard}"),
    }
}
