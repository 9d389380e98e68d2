//! What must hold of replicas, seen from inside the nodes: always, that those at the same applied index hold the same, and answer
//! searches the same; and when everything is well and nobody writes, that all are at the same index and their records are what they claim.
use crate::{
    faults::{fleet::Fleet, victim::Victim},
    world::{log, sometimes},
};
use madsim::time;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use vectorsphere::shard::Recomputed;

/// How often replicas are looked at while clients write.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
/// All replicas must have applied everything this soon after the last write.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

/// What was seen of the replicas of a run.
#[derive(Default)]
struct Witness {
    /// Content by shard and applied index, and the first node that had it.
    contents: BTreeMap<(u64, u64), (u64, usize)>,
    /// Hash of the indexes by shard and applied index, and the first node that had it.
    indexes: BTreeMap<(u64, u64), (u64, usize)>,
    /// By shard: who led when that was last seen.
    leaders: BTreeMap<u64, usize>,
    /// By shard and term: who led in it.
    terms: BTreeMap<(u64, u64), usize>,
}

impl Witness {
    async fn look(&mut self, victim: &Victim) {
        let node = victim.number;
        let Some(inside) = victim.inside() else { return };
        for (shard, replica) in inside.host().replicas() {
            if replica.is_leader() {
                let before = self.leaders.insert(shard, node);
                sometimes!(before.is_some_and(|before| before != node), "a shard changed its leader under its clients");
            }
            if let Some(term) = replica.leads_in() {
                let first = *self.terms.entry((shard, term)).or_insert(node);
                assert!(
                    first == node,
                    "shard {shard} has two leaders in term {term}: node-{} and node-{}",
                    first + 1,
                    node + 1
                );
            }
            for (applied, hash) in replica.recent_hashes() {
                let (first, seen_at) = *self.contents.entry((shard, applied)).or_insert((hash, node));
                sometimes!(seen_at != node, "replicas were compared at the same index while clients wrote");
                assert!(
                    first == hash,
                    "shard {shard} at index {applied}: {hash:016x} on {}, {first:016x} on node-{}",
                    victim.name(),
                    seen_at + 1
                );
            }
            let (applied, Some(hash)) = replica.index_hash().await else { continue };
            let (first, seen_at) = *self.indexes.entry((shard, applied)).or_insert((hash, node));
            sometimes!(
                seen_at != node && applied > 0,
                "indexes were compared at the same log index while clients wrote"
            );
            assert!(
                first == hash,
                "the indexes of shard {shard} at {applied} differ: {hash:016x} on {}, {first:016x} on node-{}",
                victim.name(),
                seen_at + 1
            );
        }
    }
}

/// Looks at every replica again and again while `trouble` goes on.
///
/// # Panics
/// If two replicas ever differ at one index.
pub async fn witnessed<T>(fleet: &Fleet, trouble: impl Future<Output = T>) -> T {
    let mut witness = Witness::default();
    let watch = async {
        loop {
            for victim in &fleet.victims {
                witness.look(victim).await;
            }
            time::sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        done = trouble => done,
        () = watch => unreachable!("it looks for ever"),
    }
}

/// Waits for the replicas of every shard, so many `copies`, to have applied the same, then compares what they hold: records, and all
/// that approximate answers depend on.
///
/// # Panics
/// If they do not get there, differ, or hold other records than they claim.
pub async fn check(fleet: &Fleet, copies: usize) {
    let deadline = time::Instant::now() + CATCH_UP_LIMIT;
    let contents = loop {
        match uneven(fleet, copies) {
            // Upkeep may yet write to the logs.
            None => match look(fleet).await {
                Ok(contents) => break contents,
                Err(shard) => assert!(time::Instant::now() < deadline, "shard {shard} at rest is written to"),
            },
            Some(behind) => {
                let limit = CATCH_UP_LIMIT;
                assert!(time::Instant::now() < deadline, "replicas at rest for {limit:?} are not even: {behind}");
            }
        }
        time::sleep(LOOK_INTERVAL).await;
    };
    for (shard, different) in contents {
        let records: BTreeSet<_> = different.iter().map(|found| (found.found, found.points_found)).collect();
        assert!(records.len() == 1, "replicas of shard {shard} differ (hash, points): {records:x?}");
        let indexes: BTreeSet<u64> = different.iter().filter_map(|found| found.index_hash).collect();
        assert!(indexes.len() <= 1, "the indexes of shard {shard} differ at {}: {indexes:x?}", different[0].applied);
        let compared = different.iter().filter(|found| found.index_hash.is_some()).count();
        sometimes!(compared > 1, "indexes were compared at the same log index");
    }
}

/// What every replica of every shard holds; the shard whose replicas were not at one log index, if there is one.
async fn look(fleet: &Fleet) -> Result<BTreeMap<u64, Vec<Recomputed>>, u64> {
    let mut contents: BTreeMap<u64, Vec<Recomputed>> = BTreeMap::new();
    for victim in fleet.present() {
        let inside = victim.inside().expect("every node is up");
        for (shard, replica) in inside.host().replicas() {
            let found = replica.recompute_hash().await.expect("a replica at rest can be read");
            log!(
                "{}: shard {shard} at {}: {:016x}, {} points, index {:x?}",
                victim.name(),
                found.applied,
                found.kept,
                found.points_kept,
                found.index_hash
            );
            assert!(found.is_sound(), "{}: shard {shard} holds other records than it claims: {found:?}", victim.name());
            contents.entry(shard).or_default().push(found);
        }
    }
    let moving = contents.iter().find(|(_, found)| found.iter().any(|one| one.applied != found[0].applied));
    moving.map_or_else(|| Ok(contents.clone()), |(shard, _)| Err(*shard))
}

/// Which shard's replicas have applied different prefixes of its log, or are not all there.
fn uneven(fleet: &Fleet, copies: usize) -> Option<String> {
    let mut applied: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for victim in fleet.present() {
        let Some(inside) = victim.inside() else { return Some(format!("{} is not up", victim.name())) };
        for (shard, replica) in inside.host().replicas() {
            applied.entry(shard).or_default().push(replica.applied());
        }
    }
    let wrong = applied.into_iter().find(|(_, of)| of.len() != copies || of.iter().any(|one| *one != of[0]));
    wrong.map(|(shard, of)| format!("shard {shard} has applied {of:?}"))
}
