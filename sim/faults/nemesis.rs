//! Carries out the plan's faults one after the other. Each leaves the node up and its disk whole.
use super::victim::{Phase, Victim};
use crate::{
    disk::LossModel,
    plan::{Fault, PlannedFault},
    world::{self, log, sometimes},
};
use madsim::time::{self, Duration, Instant};
use rand::rngs::StdRng;

/// How long to wait for a fault that was set to strike.
const STRIKE_LIMIT: Duration = Duration::from_secs(2);
/// A node must stop this soon after an fsync failed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

pub async fn run(victim: &Victim, faults: &[PlannedFault], rng: &mut StdRng) {
    let begun = Instant::now();
    for planned in faults {
        time::sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
        log!("FAULT {:?}", planned.fault);
        world::count(planned.fault.name(), 1);
        strike(victim, planned.fault, rng).await;
        victim.wait_until_up().await;
    }
}

async fn strike(victim: &Victim, fault: Fault, rng: &mut StdRng) {
    match fault {
        Fault::Kill { down_ms } => {
            victim.kill().await;
            restart_after(victim, down_ms).await;
        }
        Fault::Stop { down_ms } => {
            victim.stop().await;
            restart_after(victim, down_ms).await;
        }
        Fault::PowerLoss { model, down_ms } => {
            victim.lose_power(model, rng).await;
            restart_after(victim, down_ms).await;
        }
        Fault::Crash { operations, model, at_start } => crash(victim, operations, model, at_start, rng).await,
        Fault::Rot { flips } => rot(victim, flips, rng).await,
        Fault::SyncError { skip, model } => fail_a_sync(victim, skip, model, rng).await,
        Fault::ReadError { skip, count, at_start } => fail_reads(victim, skip, count, at_start).await,
        Fault::DiskFull { room_bytes, for_ms } => fill_the_disk(victim, room_bytes, for_ms).await,
    }
}

/// Waits for the node's first start, which the power may interrupt.
pub async fn first_start(victim: &Victim, crash: Option<(u64, LossModel)>, rng: &mut StdRng) {
    if let Some((_, model)) = crash
        && lose_power_at_the_crash(victim, model, rng).await
    {
        sometimes!(true, "the power failed during the first start");
        world::count("fault.crash_in_first_start", 1);
    }
    victim.wait_until_up().await;
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

async fn crash(victim: &Victim, operations: u64, model: LossModel, at_start: bool, rng: &mut StdRng) {
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

/// Index files can be made again from the points, so damage to them must cost nothing but time.
async fn rot(victim: &Victim, flips: u32, rng: &mut StdRng) {
    victim.kill().await;
    let flipped = victim.disk.flip_bits(&victim.dir.join("index"), flips, rng);
    log!("bits flipped in {flipped:?}");
    sometimes!(flipped.is_some(), "an index file rotted");
    victim.restart();
}

async fn restart_after(victim: &Victim, down_ms: u64) {
    time::sleep(Duration::from_millis(down_ms)).await;
    victim.restart();
}

/// After a failed fsync nobody knows what is on the disk: the node must stop, and only a power cycle brings the truth
/// back (the kernel goes on showing bytes it never wrote).
async fn fail_a_sync(victim: &Victim, skip: u32, model: LossModel, rng: &mut StdRng) {
    let before = victim.disk.statistics().sync_errors;
    victim.disk.fail_syncs(&victim.dir, skip, 1);
    let deadline = Instant::now() + STRIKE_LIMIT;
    while victim.disk.statistics().sync_errors == before && Instant::now() < deadline {
        time::sleep(Duration::from_millis(5)).await;
    }
    victim.disk.mend(&victim.dir);
    if victim.disk.statistics().sync_errors == before {
        log!("no fsync came to fail");
        return;
    }
    sometimes!(true, "an fsync failed under the node");
    let failed_at = victim.disk.sync_failed_at().expect("it was counted");
    let failed_at = failed_at.strip_prefix(&victim.dir).expect("the fault was set below it");
    log!("fsync failed: {}", failed_at.display());
    let stopped = victim.wait_until(STOP_LIMIT, |phase| !matches!(phase, Phase::Up | Phase::Starting)).await;
    // Files of the index can be made again from the points, so a node may live on without a new one.
    let expendable = failed_at.starts_with("index");
    assert!(stopped || expendable, "the node went on for {STOP_LIMIT:?} after fsync of {} failed", failed_at.display());
    sometimes!(!stopped, "a node lived on without an index file");
    victim.lose_power(model, rng).await;
    victim.restart();
}

async fn fail_reads(victim: &Victim, skip: u32, count: u32, at_start: bool) {
    if at_start {
        victim.kill().await;
    }
    let before = victim.disk.statistics().read_errors;
    victim.disk.fail_reads(&victim.dir, skip, count);
    if at_start {
        victim.restart();
        victim.wait_until(STRIKE_LIMIT, |phase| *phase != Phase::Starting).await;
        sometimes!(matches!(victim.phase(), Phase::Refused(_)), "a node refused to start on a read error");
    } else {
        time::sleep(STRIKE_LIMIT).await;
    }
    sometimes!(victim.disk.statistics().read_errors > before, "a read failed under the node");
    victim.disk.mend(&victim.dir);
    revive(victim).await;
}

async fn fill_the_disk(victim: &Victim, room_bytes: u64, for_ms: u64) {
    let before = victim.disk.statistics().space_errors;
    victim.disk.limit_space(&victim.dir, room_bytes);
    time::sleep(Duration::from_millis(for_ms)).await;
    sometimes!(victim.disk.statistics().space_errors > before, "the disk was full under the node");
    victim.disk.mend(&victim.dir);
    // A node whose write failed may take a moment to notice.
    time::sleep(Duration::from_millis(500)).await;
    revive(victim).await;
}

/// Restarts a node that stopped by itself, as whatever keeps it running would.
async fn revive(victim: &Victim) {
    if victim.has_ended() {
        log!("the node ended by itself: {:?}", victim.phase());
        sometimes!(true, "a node stopped on a disk fault and came back");
        victim.kill().await;
        victim.restart();
    }
}
