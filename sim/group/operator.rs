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

/// Who is to belong to the group.
pub struct Wanted {
    pub voters: BTreeSet<Identity>,
    pub learners: BTreeSet<Identity>,
}

/// Carries out the plan's changes until the run is over; who belongs to the group in the end.
pub async fn run(cluster: &Cluster) -> Wanted {
    let voters = (0..cluster.plan.founders).map(super::member::first_identity).collect();
    let mut wanted = Wanted { voters, learners: BTreeSet::new() };
    for change in &cluster.plan.changes {
        let (Change::Voters { after_ms, .. } | Change::NewDisk { after_ms, .. } | Change::Transfer { after_ms, .. }) =
            change;
        cluster.pass(*after_ms).await;
        if cluster.over.is_triggered() {
            break;
        }
        carry_out(cluster, change, &mut wanted).await;
    }
    wanted
}

async fn carry_out(cluster: &Cluster, change: &Change, wanted: &mut Wanted) {
    log!("CHANGE {change:?}");
    match change {
        Change::Voters { machines, learners, .. } => {
            let there = |machines: &[usize]| machines.iter().map(|at| cluster.members[*at].identity()).collect();
            *wanted = Wanted { voters: there(machines), learners: there(learners) };
            insist(cluster, wanted).await;
        }
        Change::NewDisk { machine, .. } => {
            let member = &cluster.members[*machine];
            // Of one or two a group can lose none.
            if wanted.voters.contains(&member.identity()) && wanted.voters.len() < 3 {
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
            let (voted, learnt) = (wanted.voters.remove(&before), wanted.learners.remove(&before));
            sometimes!(voted, "a voter's disk was replaced by an empty one");
            wanted.voters.extend(voted.then_some(now));
            wanted.learners.extend(learnt.then_some(now));
            if voted || learnt {
                insist(cluster, wanted).await;
            }
        }
        Change::Transfer { machine, .. } => transfer(cluster, cluster.members[*machine].identity()).await,
    }
}

/// Asks whoever leads until the members are those wanted.
async fn insist(cluster: &Cluster, wanted: &Wanted) {
    let Wanted { voters, learners } = wanted;
    loop {
        if let Some(leader) = cluster.leader()
            && let Some(inside) = leader.inside()
        {
            let voting: Vec<Identity> = voters.iter().copied().collect();
            let learning: Vec<Identity> = learners.iter().copied().collect();
            let change = leader.spawn(async move { inside.group.change_members(&voting, &learning, ATTEMPT).await });
            match time::timeout(ATTEMPT * 2, change).await {
                Ok(Ok(Ok(()))) => {
                    log!("voters are {voters:?}, learners {learners:?}");
                    world::count("group.changes", 1);
                    sometimes!(true, "the voters were changed");
                    return;
                }
                Ok(Ok(Err(ProposeError::NotLeader { .. }))) => {
                    let leaving = !voters.contains(&leader.identity());
                    sometimes!(leaving, "a leader that was to leave handed over");
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
