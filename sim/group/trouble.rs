//! Carries out the plan's troubles, each at its time. Those of a process or a disk wait for each other on their machine; those of
//! the wire overlap with everything. Each leaves its machines running and its links whole.
use super::{
    Cluster, Identity,
    clients::Notes,
    member::Member,
    plan::{Planned, Trouble},
    schedule,
    wire::Weather,
};
use crate::{
    disk::LossModel,
    world::{self, log, sometimes},
};
use futures_util::future::join_all;
use madsim::time::{self, Duration, Instant};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::rc::Rc;
use vectorsphere::rt::sim as machine;

/// How long to wait for a fault that was set to strike.
const STRIKE_LIMIT: Duration = Duration::from_millis(400);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// A group must say so this soon after its log could not be synced.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long an ambush waits for somebody to be elected.
const ELECTION_LIMIT_MS: u64 = 1_500;

/// Carries out the plan's troubles; returns when the last one is over.
pub async fn run(cluster: &Cluster, notes: &Notes, seed: u64) {
    let begun = Instant::now();
    join_all((1..).zip(&cluster.plan.troubles).map(|(place, planned): (u64, _)| async move {
        let due = begun + Duration::from_millis(planned.at_ms);
        cluster.pass(due.saturating_duration_since(Instant::now()).as_millis() as u64).await;
        if !cluster.over.is_triggered() {
            let chance = planned.chance.unwrap_or(place);
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) ^ chance);
            strike(cluster, notes, planned, rng).await;
            log!("OVER {:?}", planned.trouble);
        }
    }))
    .await;
}

/// Restarts processes that ended by themselves, as whatever keeps them running would; a disk that failed is mended.
pub async fn keep_running(cluster: &Cluster) {
    loop {
        for member in &cluster.members {
            if let Ok(_busy) = member.busy.try_lock()
                && let Some(why) = member.ended()
            {
                log!("member {} is started again: {why}", member.identity());
                member.disk.mend(&member.dir());
                member.kill().await;
                member.restart();
            }
        }
        time::sleep(Duration::from_millis(50)).await;
    }
}

async fn strike(cluster: &Cluster, notes: &Notes, planned: &Planned, mut rng: StdRng) {
    let aimed = cluster.leader().filter(|_| planned.leader).unwrap_or(&cluster.members[planned.machine]).clone();
    log!("TROUBLE {:?} at machine {}", planned.trouble, aimed.number + 1);
    world::count(planned.trouble.name(), 1);
    match &planned.trouble {
        Trouble::Kill { down_ms } => {
            let _busy = aimed.busy.lock().await;
            aimed.kill().await;
            cluster.pass(*down_ms).await;
            aimed.restart();
        }
        Trouble::PowerLoss { model, down_ms } => power_cycle(cluster, &aimed, *model, *down_ms, &mut rng).await,
        Trouble::Blackout { model, down_ms } => {
            let each = cluster.members.iter().map(|member| (member, rng.random::<u64>()));
            join_all(each.map(|(member, seed)| async move {
                let mut rng = StdRng::seed_from_u64(seed);
                let down_ms = rng.random_range(0..=*down_ms);
                power_cycle(cluster, member, *model, down_ms, &mut rng).await;
            }))
            .await;
            sometimes!(true, "all members lost their power at once");
        }
        Trouble::Crash { operations, model, down_ms } => {
            let _busy = aimed.busy.lock().await;
            aimed.disk.crash_after(&aimed.dir(), *operations);
            let crashed = wait_until(|| aimed.disk.has_crashed(&aimed.dir())).await;
            sometimes!(crashed, "the power failed between two disk operations of a member");
            aimed.lose_power(*model, &mut rng).await;
            aimed.disk.mend(&aimed.dir());
            cluster.pass(*down_ms).await;
            aimed.restart();
        }
        Trouble::SyncError { skip, model } => fail_a_sync(&aimed, *skip, *model, &mut rng).await,
        Trouble::DiskFull { room_bytes, for_ms } => {
            let _busy = aimed.busy.lock().await;
            aimed.disk.limit_space(&aimed.dir(), *room_bytes);
            cluster.pass(*for_ms).await;
            sometimes!(aimed.disk.writes_without_room(&aimed.dir()) > 0, "a member's disk was full");
            aimed.disk.mend(&aimed.dir());
        }
        Trouble::Pause { for_ms } => {
            let _busy = aimed.busy.lock().await;
            madsim::runtime::Handle::current().pause(aimed.node);
            cluster.pass(*for_ms).await;
            madsim::runtime::Handle::current().resume(aimed.node);
        }
        Trouble::SlowDisk { max_ms, for_ms } => {
            machine::set_disk_delay(aimed.node, Duration::from_millis(*max_ms));
            cluster.pass(*for_ms).await;
            machine::set_disk_delay(aimed.node, Duration::ZERO);
        }
        Trouble::Drift { ppm } => machine::set_drift_ppm(aimed.node, *ppm),
        Trouble::Cut { machines, to, back, for_ms } => {
            let links = around(cluster, machines, *to, *back);
            cut(cluster, &links, *for_ms).await;
        }
        Trouble::LossyLink { to, percent, for_ms } => {
            let (from, to) = (aimed.identity(), cluster.members[*to].identity());
            cluster.wire.lose(from, to, *percent);
            cluster.pass(*for_ms).await;
            cluster.wire.lose(from, to, 0);
        }
        Trouble::Weather { loss_percent, twice_percent, late_percent, delay_ms_max, for_ms } => {
            let before = cluster.wire.weather();
            let (loss_percent, twice_percent) = (*loss_percent, *twice_percent);
            let (late_percent, delay_ms_max) = (*late_percent, *delay_ms_max);
            cluster.wire.set_weather(Weather { loss_percent, twice_percent, late_percent, delay_ms_max });
            cluster.pass(*for_ms).await;
            cluster.wire.set_weather(before);
        }
        Trouble::Ambush { times, power, after_ms, cut_ms } => {
            for _ in 0..*times {
                ambush(cluster, *power, *after_ms, *cut_ms, &mut rng).await;
            }
        }
        Trouble::Figure8 { times } => {
            for _ in 0..*times {
                schedule::figure8(cluster).await;
            }
        }
        Trouble::Deposed { times } => {
            for _ in 0..*times {
                schedule::deposed(cluster, notes).await;
            }
        }
        Trouble::VotePower { times, down_ms } => after_votes(cluster, *times, *down_ms, &mut rng).await,
    }
}

/// Whether `holds` came to hold soon.
async fn wait_until(holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + STRIKE_LIMIT;
    while !holds() && Instant::now() < deadline {
        time::sleep(LOOK_INTERVAL).await;
    }
    holds()
}

async fn power_cycle(cluster: &Cluster, member: &Rc<Member>, model: LossModel, down_ms: u64, rng: &mut StdRng) {
    let _busy = member.busy.lock().await;
    member.lose_power(model, rng).await;
    cluster.pass(down_ms).await;
    member.restart();
}

/// The log cannot be synced: its process must end. Only a power cycle tells what is on the disk; the next process is right without one, too.
async fn fail_a_sync(member: &Rc<Member>, skip: u32, model: LossModel, rng: &mut StdRng) {
    let _busy = member.busy.lock().await;
    let dir = member.dir();
    member.disk.fail_syncs(&dir, skip, 1);
    wait_until(|| member.disk.sync_failed_at(&dir).is_some()).await;
    let failed_at = member.disk.sync_failed_at(&dir);
    member.disk.mend(&dir);
    let Some(failed_at) = failed_at else { return };
    sometimes!(true, "an fsync failed under a member");
    let is_log = failed_at.starts_with(dir.join("log"));
    let deadline = Instant::now() + STOP_LIMIT;
    while is_log && member.ended().is_none() && member.inside().is_some() {
        assert!(Instant::now() < deadline, "a member goes on {STOP_LIMIT:?} after its log could not be synced");
        time::sleep(LOOK_INTERVAL).await;
    }
    if rng.random_bool(0.5) {
        member.kill().await;
    } else {
        member.lose_power(model, rng).await;
    }
    member.restart();
}

/// The links between these machines and the others.
fn around(cluster: &Cluster, machines: &[usize], to: bool, back: bool) -> Vec<(Identity, Identity)> {
    let mut links = Vec::new();
    for inside in &cluster.members {
        for outside in &cluster.members {
            if machines.contains(&inside.number) && !machines.contains(&outside.number) {
                let (inside, outside) = (inside.identity(), outside.identity());
                links.extend(to.then_some((inside, outside)));
                links.extend(back.then_some((outside, inside)));
            }
        }
    }
    links
}

async fn cut(cluster: &Cluster, links: &[(Identity, Identity)], for_ms: u64) {
    cluster.wire.cut(links);
    cluster.pass(for_ms).await;
    cluster.wire.heal(links);
}

/// Waits for somebody to be elected and strikes at once, so that what a leader begins its term with reaches nobody.
async fn ambush(cluster: &Cluster, power: bool, after_ms: u64, cut_ms: u64, rng: &mut StdRng) {
    let leads = |member: &&Rc<Member>| member.inside().is_some_and(|inside| inside.group.is_leader());
    let before: Vec<Identity> = cluster.members.iter().filter(leads).map(|member| member.identity()).collect();
    let deadline = Instant::now() + Duration::from_millis(ELECTION_LIMIT_MS);
    let elected = loop {
        let now = cluster.members.iter().find(|member| !before.contains(&member.identity()) && leads(member));
        if now.is_some() || Instant::now() >= deadline || cluster.over.is_triggered() {
            break now.or(cluster.leader());
        }
        time::sleep(LOOK_INTERVAL).await;
    };
    let Some(elected) = elected else { return };
    time::sleep(Duration::from_millis(after_ms)).await;
    sometimes!(!before.contains(&elected.identity()), "a leader was struck as soon as it was elected");
    if power {
        power_cycle(cluster, elected, LossModel::Everything, cut_ms, rng).await;
    } else {
        let links = around(cluster, &[elected.number], true, true);
        cut(cluster, &links, cut_ms).await;
    }
}

/// Takes the power of whoever has just given a vote.
async fn after_votes(cluster: &Cluster, times: u32, down_ms: u64, rng: &mut StdRng) {
    let mut votes = cluster.wire.watch_votes();
    for _ in 0..times {
        let voter = tokio::select! {
            biased;
            () = cluster.over.wait() => None,
            voter = votes.recv() => voter,
        };
        let Some(voter) = voter else { return };
        let Some(member) = cluster.members.iter().find(|member| member.identity() == voter) else { continue };
        // One that something else is done to is not to be waited for: the moment would be gone.
        if let Ok(_busy) = member.busy.try_lock() {
            member.lose_power(LossModel::Everything, rng).await;
            sometimes!(true, "a member lost its power right after its vote");
            cluster.pass(down_ms).await;
            member.restart();
        }
    }
}
