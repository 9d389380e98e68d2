//! How the groups of a node stand: its own report, and everybody's. Called by [`super::gate`] for peers that ask, and by the roof's
//! `Observer`.

use crate::{
    coordination::{Embedded, embedded},
    peer::GroupReport,
    raft::{GroupId, GroupStatus},
    shard::{Host, Replica},
};
use std::sync::Arc;

/// Every group of this node, or `only` one: the coordinator's, if it is one, then the shards', then those that were given up. None of
/// a node that can no longer write: its groups have failed with it, hold nothing wrong, and are not for others to rebuild. Cost: a
/// message to the driver for each.
pub async fn of(coordinator: Option<&Embedded>, host: &Host, only: Option<GroupId>) -> Vec<GroupReport> {
    let is_asked_for = |group: GroupId| only.is_none_or(|only| only == group);
    let mut reports = Vec::new();
    if let Some(group) = coordinator.and_then(Embedded::group)
        && is_asked_for(embedded::GROUP)
        && let Ok(status) = group.status().await
    {
        reports.push(GroupReport { failure: group.failure(), ..of_group(embedded::GROUP, status) });
    }
    let mut replicas = host.replicas();
    replicas.retain(|(group, _)| is_asked_for(*group));
    reports.extend(futures_util::future::join_all(replicas.iter().map(|(id, replica)| of_replica(*id, replica))).await);
    let failed = host.failed().into_iter().filter(|(group, _)| is_asked_for(*group));
    reports.extend(failed.map(|(group, reason)| GroupReport {
        group,
        term: host.term(group),
        failure: Some(reason),
        ..GroupReport::default()
    }));
    // Asked last: what made a group fail was known before the group failed.
    if host.can_write() { reports } else { Vec::new() }
}

async fn of_replica(id: GroupId, replica: &Arc<Replica>) -> GroupReport {
    let report = match replica.status().await {
        Ok(status) => of_group(id, status),
        Err(error) => GroupReport { group: id, failure: Some(error.to_string()), ..GroupReport::default() },
    };
    let failure = replica.failure().or(report.failure).or_else(|| replica.aside());
    GroupReport { points: replica.points(), bytes: replica.stored_bytes(), failure, ..report }
}

fn of_group(group: GroupId, status: GroupStatus) -> GroupReport {
    let GroupStatus { term, leader, last_index, committed, applied, members, is_settled, .. } = status;
    let learners = members.learners.into_iter().chain(members.learners_next).collect();
    GroupReport {
        group,
        term,
        leader,
        last_index,
        committed,
        applied,
        voters: members.voters,
        voters_outgoing: members.voters_outgoing,
        learners,
        members_index: members.index,
        is_settled,
        points: 0,
        bytes: 0,
        failure: None,
    }
}
