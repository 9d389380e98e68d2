//! Faults of one machine's disk. Each leaves its node running (or starting) and its disk whole.
use super::{
    fleet::Fleet,
    victim::{Phase, Victim},
};
use crate::{
    disk::{Decay, LossModel},
    plan::Part,
    world::{self, log, sometimes},
};
use madsim::time::{self, Duration, Instant};
use rand::{Rng, rngs::StdRng};

/// How long to wait for a fault that was set to strike.
const STRIKE_LIMIT: Duration = Duration::from_secs(2);
/// A node has started, or refused to, within this.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A node must stop this soon after an fsync failed.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// A node whose write failed may take so long to notice.
const NOTICE: Duration = Duration::from_millis(500);

/// The power fails during the node's first start, if the crash that was set for it comes.
pub async fn crash_first_start(victim: &Victim, model: LossModel, rng: &mut StdRng) {
    if lose_power_at_the_crash(victim, model, rng).await {
        sometimes!(true, "the power failed during the first start");
        world::count("fault.crash_in_first_start", 1);
    }
}

/// Waits for the crash that was set; whether it came and the power was cycled.
async fn lose_power_at_the_crash(victim: &Victim, model: LossModel, rng: &mut StdRng) -> bool {
    let deadline = Instant::now() + STRIKE_LIMIT;
    while !victim.disk.has_crashed(&victim.dir) && Instant::now() < deadline {
        time::sleep(Duration::from_millis(1)).await;
    }
    let crashed = victim.disk.has_crashed(&victim.dir);
    if crashed {
        victim.lose_power(model, rng).await;
    }
    victim.disk.mend(&victim.dir);
    if crashed {
        victim.restart();
    }
    crashed
}

pub async fn crash(victim: &Victim, operations: u64, model: LossModel, at_start: bool, rng: &mut StdRng) {
    if at_start {
        victim.kill().await;
        victim.disk.crash_after(&victim.dir, operations);
        victim.restart();
        let crashed = lose_power_at_the_crash(victim, model, rng).await;
        sometimes!(crashed, "the power failed between two disk operations of a start");
    } else {
        victim.disk.crash_after(&victim.dir, operations);
        let crashed = lose_power_at_the_crash(victim, model, rng).await;
        sometimes!(crashed, "the power failed between two disk operations of a running node");
    }
}

/// Index files can be made again from the points, so damage to them must cost nothing but time. Damage to anything else must be
/// found when the node starts; the medium is then mended. No node runs on a small file that says who it is and is damaged.
pub async fn rot(victim: &Victim, flips: u32, part: Part, rng: &mut StdRng) {
    victim.kill().await;
    let (below, until) = match part {
        Part::Index => ("index", Decay::Anywhere),
        Part::Log => ("log", Decay::BeforeTheLastRecord),
        Part::Store => ("store", Decay::BeforeTheLastMark),
        Part::Identity => ("", Decay::Content),
    };
    let decayed = victim.disk.flip_bits(&victim.dir.join(below), flips, until, rng);
    log!("{}: bits flipped in {:?}", victim.name(), decayed.as_ref().map(|decayed| decayed.name()));
    victim.restart();
    let Some(decayed) = decayed else { return };
    sometimes!(part == Part::Index, "an index file rotted");
    if part == Part::Index {
        return;
    }
    victim.wait_until(START_LIMIT, |phase| *phase != Phase::Starting).await;
    let phase = victim.phase();
    log!("{}: {phase:?} over damage to {}", victim.name(), decayed.name());
    let believed = part == Part::Identity && phase == Phase::Up && decayed.is_damaged_still();
    assert!(!believed, "{} is up and believes a damaged {}", victim.name(), decayed.name());
    sometimes!(matches!(phase, Phase::Refused(_)) && part != Part::Identity, "a node refused a damaged journal");
    sometimes!(matches!(phase, Phase::Refused(_)) && part == Part::Identity, "a node refused a damaged identity");
    if phase != Phase::Up {
        victim.kill().await;
        decayed.undo();
        victim.restart();
    }
}

/// After a failed fsync nobody knows what is on the disk: the node must stop. Only a power cycle brings the truth back; without one the
/// kernel goes on showing bytes it never wrote, and the next process must not build on them.
///
/// What is known of etcd is written anew, whole, until it is kept; meanwhile nothing new of it is obeyed.
pub async fn fail_a_sync(victim: &Victim, skip: u32, model: LossModel, keeps_etcd: bool, rng: &mut StdRng) {
    victim.disk.fail_syncs(&victim.dir, skip, 1);
    let deadline = Instant::now() + STRIKE_LIMIT;
    while victim.disk.sync_failed_at(&victim.dir).is_none() && Instant::now() < deadline {
        time::sleep(Duration::from_millis(5)).await;
    }
    let failed_at = victim.disk.sync_failed_at(&victim.dir);
    victim.disk.mend(&victim.dir);
    let Some(failed_at) = failed_at else {
        log!("{}: no fsync came to fail", victim.name());
        return;
    };
    sometimes!(true, "an fsync failed under the node");
    let failed_at = failed_at.strip_prefix(&victim.dir).expect("the fault was set below it");
    log!("{}: fsync failed: {}", victim.name(), failed_at.display());
    let stopped = victim.wait_until(STOP_LIMIT, |phase| !matches!(phase, Phase::Up | Phase::Starting)).await;
    // Files of the index can be made again from the points and checkpoints fetched again, so a node may live on without
    // a new one.
    let is_etcds = keeps_etcd && (failed_at.as_os_str().is_empty() || failed_at.starts_with("etcd.tmp"));
    // The engine's own list of its spaces (keyspace 0) is merged after each change of it, best effort: when that fails what it would have
    // replaced stays, and nothing is lost.
    let is_merge = ["store", "log"].iter().any(|store| failed_at.starts_with(format!("{store}/keyspaces/0/tables")));
    let expendable = failed_at.starts_with("index") || failed_at.starts_with("checkpoint") || is_etcds || is_merge;
    assert!(
        stopped || expendable,
        "{} went on for {STOP_LIMIT:?} after fsync of {} failed",
        victim.name(),
        failed_at.display()
    );
    sometimes!(!stopped && !is_etcds && !is_merge, "a node lived on without an index file");
    if rng.random_bool(0.5) {
        victim.kill().await;
        sometimes!(true, "a node started on what a failed fsync had not brought to the disk");
    } else {
        victim.lose_power(model, rng).await;
    }
    victim.restart();
}

pub async fn fail_reads(victim: &Victim, skip: u32, count: u32, at_start: bool) {
    if at_start {
        victim.kill().await;
    }
    victim.disk.fail_reads(&victim.dir, skip, count);
    if at_start {
        victim.restart();
        victim.wait_until(STRIKE_LIMIT, |phase| *phase != Phase::Starting).await;
        sometimes!(matches!(victim.phase(), Phase::Refused(_)), "a node refused to start on a read error");
    } else {
        time::sleep(STRIKE_LIMIT).await;
    }
    let met_it = victim.disk.reads_failed(&victim.dir) > 0;
    sometimes!(met_it, "a read failed under the node");
    victim.disk.mend(&victim.dir);
    if at_start || (met_it && !victim.has_ended()) {
        // A slow start may meet the fault late, and a node that met it stop late.
        time::sleep(NOTICE).await;
    }
    revive(victim).await;
}

pub async fn fill_the_disk(fleet: &Fleet, victim: &Victim, room_bytes: u64, for_ms: u64) {
    victim.disk.limit_space(&victim.dir, room_bytes);
    fleet.pass(for_ms).await;
    sometimes!(victim.disk.writes_without_room(&victim.dir) > 0, "the disk was full under the node");
    victim.disk.mend(&victim.dir);
    time::sleep(NOTICE).await;
    revive(victim).await;
}

/// Restarts a node that stopped by itself, as whatever keeps it running would.
async fn revive(victim: &Victim) {
    if victim.has_ended() {
        log!("{} ended by itself: {:?}", victim.name(), victim.phase());
        sometimes!(true, "a node stopped on a disk fault and came back");
        victim.kill().await;
        victim.restart();
    }
}
