//! Carries out the plan's faults, each at its time. Faults of a node's process or disk wait for each other on that node;
//! faults of the network overlap with everything. Each leaves its nodes running (or starting) and its links whole.
use super::{control, disk, fleet::Fleet, network, victim::Victim};
use crate::{
    plan::{Fault, LossModel, PlannedFault, Shape},
    world::{self, log, sometimes},
};
use futures_util::future::join_all;
use madsim::time::{self, Duration, Instant};
use rand::{Rng, SeedableRng, rngs::StdRng};
use vectorsphere::rt::sim as machine;

/// Waits for every node's first start; the power may fail during the first one's.
pub async fn first_start(fleet: &Fleet, crash: Option<(u64, LossModel)>, seed: u64) {
    let first = &fleet.victims[0];
    if let Some((_, model)) = crash {
        disk::crash_first_start(first, model, &mut chance(seed, 0)).await;
    }
    if fleet.is_one() {
        first.wait_until_up().await;
    }
}

/// Carries out `faults`; returns when the last one is over.
pub async fn run(fleet: &Fleet, faults: &[PlannedFault], seed: u64) {
    let begun = Instant::now();
    join_all((1..).zip(faults).map(|(place, planned)| async move {
        let due = begun + Duration::from_millis(planned.at_ms);
        fleet.pass(due.saturating_duration_since(Instant::now()).as_millis() as u64).await;
        if !fleet.is_over() {
            strike(fleet, planned, chance(seed, planned.chance.unwrap_or(place))).await;
        }
    }))
    .await;
}

/// The chance of one fault; another one's does not change it.
fn chance(seed: u64, place: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) ^ place ^ 0x00c0_ffee)
}

async fn strike(fleet: &Fleet, planned: &PlannedFault, mut rng: StdRng) {
    let nodes = aim(fleet, planned);
    let fault = planned.fault;
    match fault {
        Fault::Partition { shape, way, for_ms } => {
            begin(fault, &nodes);
            let links = network::partition(fleet, shape, way, &nodes);
            fleet.network.cut(&links);
            let before = world::counted("ops.ok");
            fleet.pass(for_ms).await;
            let went_on = world::counted("ops.ok") > before && !fleet.is_one();
            sometimes!(went_on && shape == Shape::AwayFromAll, "a partition had a side that went on");
            sometimes!(went_on && shape == Shape::Ring, "a majority ring went on");
            sometimes!(went_on && shape == Shape::Bridge, "two halves went on over a bridge");
            fleet.network.heal(&links);
        }
        Fault::Flaky { times, cut_ms, pause_ms } => {
            begin(fault, &nodes);
            let others: Vec<usize> = nodes.iter().copied().take(1).collect();
            let links = network::partition(fleet, Shape::Away, crate::plan::Way::Both, &others);
            let only = |id| links.iter().copied().filter(|(from, to)| *from == id || *to == id).collect::<Vec<_>>();
            let links = nodes.get(1).map_or_else(Vec::new, |other| only(fleet.victims[*other].id()));
            for _ in 0..times {
                fleet.network.cut(&links);
                fleet.pass(cut_ms).await;
                fleet.network.heal(&links);
                fleet.pass(pause_ms).await;
            }
        }
        Fault::Hunt { times, way, cut_ms, pause_ms } => {
            begin(fault, &nodes);
            for _ in 0..times {
                let Some(leader) = fleet.leader().filter(|_| !fleet.is_one()) else { break };
                log!("hunt: node-{} leads", leader + 1);
                let links = network::partition(fleet, Shape::Away, way, &[leader]);
                fleet.network.cut(&links);
                fleet.hunt(Some(leader));
                fleet.pass(cut_ms).await;
                fleet.hunt(None);
                let another = fleet.victims.iter().any(|victim| victim.number != leader && victim.leads());
                sometimes!(another, "a hunted leader was replaced");
                fleet.network.heal(&links);
                fleet.pass(pause_ms).await;
            }
        }
        Fault::Loss { percent, for_ms } => {
            begin(fault, &nodes);
            fleet.network.lose(percent);
            fleet.pass(for_ms).await;
            fleet.network.lose_no_more(percent);
        }
        Fault::Latency { ms_max, for_ms } => {
            begin(fault, &nodes);
            fleet.network.delay(ms_max);
            fleet.pass(for_ms).await;
            fleet.network.delay_no_more(ms_max);
        }
        Fault::ClockJump { by_ms } => {
            begin(fault, &nodes);
            nodes.iter().for_each(|node| machine::jump_wall(fleet.victims[*node].id(), by_ms));
        }
        Fault::ClockDrift { ppm } => {
            begin(fault, &nodes);
            nodes.iter().for_each(|node| machine::set_drift_ppm(fleet.victims[*node].id(), ppm));
        }
        Fault::MasterAmbush { times, blow, after_ms, for_ms } => {
            begin(fault, &[]);
            for _ in 0..times {
                control::ambush(fleet, blow, after_ms, for_ms, &mut rng).await;
            }
        }
        Fault::Etcd { trouble } => {
            begin(fault, &[]);
            control::trouble_etcd(fleet, trouble).await;
        }
        _ => strike_nodes(fleet, fault, &nodes, &mut rng).await,
    }
    log!("OVER {fault:?}");
}

/// Whom the fault hits: as planned, but for the leader.
fn aim(fleet: &Fleet, planned: &PlannedFault) -> Vec<usize> {
    let mut nodes = if planned.nodes.is_empty() { vec![0] } else { planned.nodes.clone() };
    if planned.leader
        && !fleet.is_one()
        && let Some(leader) = fleet.leader()
    {
        sometimes!(true, "a fault was aimed at a leader");
        match nodes.iter().position(|node| *node == leader) {
            Some(place) => nodes.swap(0, place),
            None => nodes[0] = leader,
        }
    }
    nodes
}

fn begin(fault: Fault, nodes: &[usize]) {
    log!("FAULT {fault:?} on {nodes:?}");
    world::count(fault.name(), 1);
}

/// A fault of processes or disks, on all of `nodes` at once.
async fn strike_nodes(fleet: &Fleet, fault: Fault, nodes: &[usize], rng: &mut StdRng) {
    let mut sorted = nodes.to_vec();
    sorted.sort_unstable();
    // Always in the same order, or two faults could wait for each other.
    let mut busy = Vec::new();
    for node in &sorted {
        busy.push(fleet.victims[*node].busy.lock().await);
    }
    // Before it has come and after it has left nothing befalls a node.
    let nodes: Vec<usize> = nodes.iter().copied().filter(|node| fleet.is_present(*node)).collect();
    if fleet.is_over() || nodes.is_empty() {
        return;
    }
    let nodes = &nodes[..];
    begin(fault, nodes);
    sometimes!(
        nodes.len() == fleet.victims.len() && nodes.len() > 1 && matches!(fault, Fault::PowerLoss { .. }),
        "all nodes lost their power at once"
    );
    let each = nodes.iter().map(|node| (&fleet.victims[*node], rng.random()));
    let each: Vec<(&Victim, u64)> = each.collect();
    join_all(each.into_iter().map(|(victim, seed)| async move {
        let mut rng = StdRng::seed_from_u64(seed);
        strike_one(fleet, victim, fault, nodes.len() > 1, &mut rng).await;
        if fleet.is_one() {
            victim.wait_until_up().await;
        }
    }))
    .await;
}

async fn strike_one(fleet: &Fleet, victim: &Victim, fault: Fault, of_several: bool, rng: &mut StdRng) {
    // Of several nodes each is down for a time of its own.
    let mut own = |down_ms: u64| if of_several { rng.random_range(0..=down_ms) } else { down_ms };
    match fault {
        Fault::Kill { down_ms } => {
            let down_ms = own(down_ms);
            victim.kill().await;
            restart_after(fleet, victim, down_ms).await;
        }
        Fault::Stop { down_ms } => {
            let down_ms = own(down_ms);
            victim.stop().await;
            restart_after(fleet, victim, down_ms).await;
        }
        Fault::PowerLoss { model, down_ms } => {
            let down_ms = own(down_ms);
            victim.lose_power(model, rng).await;
            restart_after(fleet, victim, down_ms).await;
        }
        Fault::Pause { for_ms } => {
            victim.pause();
            fleet.pass(for_ms).await;
            victim.resume();
            sometimes!(!fleet.is_one(), "a node was paused");
        }
        Fault::Crash { operations, model, at_start } => disk::crash(victim, operations, model, at_start, rng).await,
        Fault::Rot { flips, part } => disk::rot(victim, flips, part, rng).await,
        Fault::SlowDisk { max_ms, for_ms } => {
            machine::set_disk_delay(victim.id(), Duration::from_millis(max_ms));
            fleet.pass(for_ms).await;
            machine::set_disk_delay(victim.id(), Duration::ZERO);
        }
        Fault::SyncError { skip, model } => disk::fail_a_sync(victim, skip, model, fleet.etcd.is_some(), rng).await,
        Fault::ReadError { skip, count, at_start } => disk::fail_reads(victim, skip, count, at_start).await,
        Fault::DiskFull { room_bytes, for_ms } => disk::fill_the_disk(fleet, victim, room_bytes, for_ms).await,
        _ => unreachable!("not a fault of one machine: {fault:?}"),
    }
}

async fn restart_after(fleet: &Fleet, victim: &Victim, down_ms: u64) {
    if fleet.is_one() {
        time::sleep(Duration::from_millis(down_ms)).await;
    } else {
        fleet.pass(down_ms).await;
    }
    victim.restart();
}
