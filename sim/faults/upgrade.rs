//! Rolling upgrades: nodes begin as the program before this one, and become this one, one after the other. What the two programs differ
//! in is only the versions of the cluster's protocols that they speak, which is what the cluster goes by: what only this program knows,
//! that slots move between shards and what aliases are, it must not do before. Called by the operator and by the scenario.
use super::{
    fleet::Fleet,
    operator,
    victim::{Phase, Victim},
};
use crate::world::{self, log, sometimes};
use madsim::time::{self, Duration, Instant};
use std::ops::RangeInclusive;
use vectorsphere::rt::sim as machine;

/// Of the program before.
pub const BEFORE: RangeInclusive<u32> = 1..=1;
/// Of this program.
const THIS: RangeInclusive<u32> = 1..=3;
/// A process must have started, or have refused to, within this.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A whole cluster must speak the new version within this.
const SPEAK_LIMIT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Stops a node in order and starts it as this program, or `back` as the one before.
///
/// # Panics
/// If the cluster speaks the new version, or splits a shard, though a node never could.
pub async fn step(fleet: &Fleet, node: usize, back: bool) {
    let victim = &fleet.victims[node];
    let _busy = victim.busy.lock().await;
    if is_upgraded(victim) == back {
        sometimes!(back, "a node went back to the program before");
        check_spoken(fleet).await;
        check_split(fleet, node).await;
        check_alias(fleet, node).await;
        become_program(victim, if back { BEFORE } else { THIS }).await;
        victim.was_upgraded.set(true);
        world::count("operator.upgrades", 1);
        victim.wait_until(START_LIMIT, |phase| *phase != Phase::Starting).await;
    }
}

/// What has not been upgraded yet is, and the cluster speaks the new version.
///
/// # Panics
/// If it does not come to that.
pub async fn finish(fleet: &Fleet) {
    for node in fleet.present_numbers() {
        step(fleet, node, false).await;
    }
    let deadline = Instant::now() + SPEAK_LIMIT;
    while spoken(fleet).await != Some(u64::from(*THIS.end())) {
        assert!(Instant::now() < deadline, "the cluster does not speak what every node does");
        time::sleep(LOOK_INTERVAL).await;
    }
    sometimes!(true, "a cluster was upgraded node by node");
}

/// The program before is refused, now that the cluster speaks what it does not, and does no harm.
///
/// # Panics
/// If it takes part.
pub async fn refuse_the_program_before(fleet: &Fleet) {
    let victim = &fleet.victims[0];
    let _busy = victim.busy.lock().await;
    become_program(victim, BEFORE).await;
    victim.wait_until(START_LIMIT, |phase| !matches!(phase, Phase::Starting | Phase::Up)).await;
    match victim.phase() {
        // It knew, or it was told by the others.
        Phase::Refused(why) if why.contains("start the node with the newer program") => log!("refused: {why}"),
        Phase::Failed => log!("stopped"),
        other => panic!("{} takes part with the program before: {other:?}", victim.name()),
    }
    become_program(victim, THIS).await;
    victim.wait_until_up().await;
    sometimes!(true, "the program before was refused");
}

async fn become_program(victim: &Victim, versions: RangeInclusive<u32>) {
    victim.stop().await;
    log!("{} speaks versions {versions:?}", victim.name());
    machine::set_versions(victim.id(), versions);
    victim.restart();
}

fn is_upgraded(victim: &Victim) -> bool {
    machine::versions_of(victim.id()) == Some(THIS)
}

/// While a node has never been upgraded, the cluster must speak the old version.
async fn check_spoken(fleet: &Fleet) {
    let never = fleet.present().find(|victim| !victim.was_upgraded.get());
    if let (Some(never), Some(spoken)) = (never, spoken(fleet).await) {
        assert!(spoken == 1, "the cluster speaks version {spoken}, {} never could", never.name());
    }
}

/// While a node has never been upgraded, no shard may be split.
async fn check_split(fleet: &Fleet, at: usize) {
    let never = fleet.present().any(|victim| !victim.was_upgraded.get());
    let Some((status, answer)) = operator::split(fleet, at, 1, None).await.filter(|_| never) else { return };
    assert!(!status.is_success(), "a shard is split though a node does not know how: {answer}");
    sometimes!(answer["code"] == "version_too_old", "a split was refused because a node did not know how");
}

/// While a node has never been upgraded, no alias may be made.
async fn check_alias(fleet: &Fleet, at: usize) {
    let never = fleet.present().any(|victim| !victim.was_upgraded.get());
    let Some((status, answer)) = operator::alias(fleet, at).await.filter(|_| never) else { return };
    assert!(!status.is_success(), "an alias is made though a node does not know what that is: {answer}");
    sometimes!(answer["code"] == "version_too_old", "an alias was refused because a node did not know what it is");
}

/// The version that the cluster speaks, as the master says.
async fn spoken(fleet: &Fleet) -> Option<u64> {
    operator::status(fleet, fleet.master()?).await?["placement"]["protocol_version"].as_u64()
}
