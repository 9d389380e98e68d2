//! What befalls those who run the cluster: the master right after it has changed the shard table, and the etcd that holds the
//! cluster together.
use super::{
    fleet::Fleet,
    network::{self, Links},
    victim::Phase,
};
use crate::{
    disk::LossModel,
    etcd::{Knobs, SimEtcd},
    plan::{Blow, EtcdTrouble, Shape, Way},
    world::{log, sometimes},
};
use madsim::{
    task::NodeId,
    time::{self, Duration, Instant},
};
use rand::rngs::StdRng;

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long an ambush waits for a change of the table.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Waits for a change of the shard table and strikes whoever is the master `after_ms` later, for `for_ms`.
pub async fn ambush(fleet: &Fleet, blow: Blow, after_ms: u64, for_ms: u64, rng: &mut StdRng) {
    let before = epoch(fleet);
    let deadline = Instant::now() + CHANGE_LIMIT;
    while epoch(fleet) <= before && Instant::now() < deadline && !fleet.is_over() {
        time::sleep(LOOK_INTERVAL).await;
    }
    let has_changed = epoch(fleet) > before;
    fleet.pass(after_ms).await;
    let Some(master) = fleet.master().filter(|_| !fleet.is_over()) else { return };
    sometimes!(has_changed, "the master was struck after it had changed the table");
    log!("ambush: node-{} is the master, {blow:?}", master + 1);
    let victim = &fleet.victims[master];
    match blow {
        Blow::Cut => {
            let mut links = network::partition(fleet, Shape::Away, Way::Both, &[master]);
            links.extend(fleet.etcd.iter().flat_map(|etcd| to_and_from(fleet, master, etcd)));
            fleet.network.cut(&links);
            fleet.pass(for_ms).await;
            sometimes!(
                fleet.master().is_some_and(|now| now != master),
                "another master ruled while the old one was away"
            );
            fleet.network.heal(&links);
        }
        Blow::Pause => {
            let _busy = victim.busy.lock().await;
            victim.pause();
            fleet.pass(for_ms).await;
            sometimes!(
                fleet.master().is_some_and(|now| now != master),
                "another master ruled while the old one was away"
            );
            victim.resume();
        }
        Blow::Kill | Blow::Power => {
            let _busy = victim.busy.lock().await;
            if !fleet.is_present(master) {
                return;
            }
            match blow {
                Blow::Power => victim.lose_power(LossModel::Everything, rng).await,
                _ => victim.kill().await,
            }
            fleet.pass(for_ms).await;
            victim.restart();
        }
    }
}

/// The newest shard table that any node knows.
fn epoch(fleet: &Fleet) -> u64 {
    fleet.present().filter_map(|victim| Some(victim.inside()?.shard_table().epoch)).max().unwrap_or(0)
}

fn to_and_from(fleet: &Fleet, node: usize, etcd: &SimEtcd) -> Links {
    both_ways(fleet.victims[node].id(), etcd)
}

fn both_ways(node: NodeId, etcd: &SimEtcd) -> Links {
    vec![(node, etcd.id()), (etcd.id(), node)]
}

async fn cut_off(fleet: &Fleet, links: Links, for_ms: u64) {
    fleet.network.cut(&links);
    fleet.pass(for_ms).await;
    fleet.network.heal(&links);
}

/// Makes the etcd misbehave, if there is one; it is well again afterwards.
pub async fn trouble_etcd(fleet: &Fleet, trouble: EtcdTrouble) {
    let Some(etcd) = &fleet.etcd else { return };
    let held = async |knobs: Knobs, for_ms| {
        etcd.set(knobs);
        fleet.pass(for_ms).await;
        etcd.set(Knobs::default());
    };
    match trouble {
        EtcdTrouble::Compact => etcd.compact(),
        EtcdTrouble::ExpireLeases => etcd.expire_leases().await,
        EtcdTrouble::CancelWatches => etcd.cancel_watches(),
        EtcdTrouble::Kill { down_ms } => {
            etcd.restart(fleet.pass(down_ms)).await;
        }
        EtcdTrouble::Silent { for_ms } => held(Knobs { unavailable: true, ..Knobs::default() }, for_ms).await,
        EtcdTrouble::Slow { by_ms, for_ms } => {
            held(Knobs { slow: Duration::from_millis(by_ms), ..Knobs::default() }, for_ms).await;
        }
        EtcdTrouble::LostAnswers { percent, for_ms } => {
            held(Knobs { lost_answers: percent, ..Knobs::default() }, for_ms).await;
        }
        EtcdTrouble::StaleReads { percent, for_ms } => {
            held(Knobs { stale_reads: percent, ..Knobs::default() }, for_ms).await;
        }
        EtcdTrouble::CutOff { node, for_ms } => {
            cut_off(fleet, to_and_from(fleet, node, etcd), for_ms).await;
        }
        EtcdTrouble::CutOffAllBut { node, for_ms } => {
            let others = (0..fleet.victims.len()).filter(|other| *other != node);
            cut_off(fleet, others.flat_map(|other| to_and_from(fleet, other, etcd)).collect(), for_ms).await;
        }
        EtcdTrouble::CutOffAll { for_ms } => {
            let all = fleet.victims.iter().map(|victim| victim.id()).chain([fleet.observer.id()]);
            cut_off(fleet, all.flat_map(|one| both_ways(one, etcd)).collect(), for_ms).await;
        }
    }
    let is_up = |victim: &super::victim::Victim| victim.phase() == Phase::Up;
    sometimes!(fleet.present().any(is_up), "nodes lived through a trouble of etcd");
}
