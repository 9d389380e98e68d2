//! Whoever runs the group: says who its members are to be, one change after the other, each insisted on until it is through;
//! gives machines new disks; has the leader hand over. Never takes away more than the group can lose: the next step begins
//! when the one before is done.
use super::{Cluster, Identity, plan::Change};
use crate::world::{self, log, sometimes};
use madsim::time;
use std::{collections::BTreeSet, time::Duration};
use vectorsphere::raft::ProposeError;

/// How long one attempt at a change may take.
const ATTEMPT: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(20);

/// Carries out the plan's changes until the run is over; who votes in the end.
pub async fn run(cluster: &Cluster) -> BTreeSet<Identity> {
    let mut voters: BTreeSet<Identity> = (0..cluster.plan.founders).map(super::member::first_identity).collect();
    for change in &cluster.plan.changes {
        let (Change::Voters { after_ms, .. } | Change::NewDisk { after_ms, .. } | Change::Transfer { after_ms, .. }) =
            change;
        cluster.pass(*after_ms).await;
        if cluster.over.is_triggered() {
            break;
        }
        carry_out(cluster, change, &mut voters).await;
    }
    voters
}

async fn carry_out(cluster: &Cluster, change: &Change, voters: &mut BTreeSet<Identity>) {
    log!("CHANGE {change:?}");
    match change {
        Change::Voters { machines, .. } => {
            let wanted = machines.iter().map(|machine| cluster.members[*machine].identity()).collect();
            insist(cluster, &wanted).await;
            *voters = wanted;
        }
        Change::NewDisk { machine, .. } => {
            let member = &cluster.members[*machine];
            // Of one or two a group can lose none.
            if voters.contains(&member.identity()) && voters.len() < 3 {
                return;
            }
            let (before, now) = {
                let _busy = member.busy.lock().await;
                member.kill().await;
                let replaced = member.replace_disk();
                member.restart();
                replaced
            };
            world::count("fault.new_disk", 1);
            if voters.remove(&before) {
                sometimes!(true, "a voter's disk was replaced by an empty one");
                voters.insert(now);
                insist(cluster, voters).await;
            }
        }
        Change::Transfer { machine, .. } => transfer(cluster, cluster.members[*machine].identity()).await,
    }
}

/// Asks whoever leads until the voters are `wanted`.
async fn insist(cluster: &Cluster, wanted: &BTreeSet<Identity>) {
    loop {
        if let Some(leader) = cluster.leader()
            && let Some(inside) = leader.inside()
        {
            let voters: Vec<Identity> = wanted.iter().copied().collect();
            let change = leader.spawn(async move { inside.group.change_members(&voters, ATTEMPT).await });
            match time::timeout(ATTEMPT * 2, change).await {
                Ok(Ok(Ok(()))) => {
                    log!("voters are {wanted:?}");
                    cluster.changes.set(cluster.changes.get() + 1);
                    sometimes!(true, "the voters were changed");
                    return;
                }
                Ok(Ok(Err(ProposeError::NotLeader { .. }))) => {
                    sometimes!(!wanted.contains(&leader.identity()), "a leader that was to leave handed over");
                }
                _ => {}
            }
        }
        time::sleep(PAUSE).await;
    }
}

async fn transfer(cluster: &Cluster, to: Identity) {
    let Some(leader) = cluster.leader() else { return };
    let Some(inside) = leader.inside() else { return };
    let handed = leader.spawn(async move { inside.group.transfer_leader(to).await });
    if let Ok(Ok(Ok(()))) = time::timeout(ATTEMPT, handed).await {
        sometimes!(true, "a leader handed over when asked");
    }
}
