//! The master's eyes and its word to the leaders of shards: every member is asked over the wire how it is, this node itself without.
//! Built by [`super::mastership`], called by the controller; [`super::gate`] answers for this node when another one is the master.

use super::reports;
use crate::{
    cluster::{
        Members,
        report::{NodeReport, Observer, ReplicaReport, Reports},
    },
    coordination::{Embedded, embedded},
    peer::{CallError, GroupReport, Peers, protocol_versions},
    raft::{GroupId, NodeId, ProposeError},
    rt::time,
    shard::Host,
    types::{Error, ErrorKind},
};
use futures_util::future::{BoxFuture, join, join_all};
use std::{sync::Arc, time::Duration};

/// How long a node may take to say how it is. All are asked at once, so a round of the master takes no longer.
const REPORT_LIMIT: Duration = Duration::from_secs(1);
/// How long a leader may take to hand over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1);

/// See the module. It holds no service: the service holds it.
pub struct NodeObserver {
    pub node: NodeId,
    /// The coordinator's own group, where it has one.
    pub control: Option<Embedded>,
    pub host: Arc<Host>,
    pub members: Members,
    pub peers: Peers,
}

impl NodeObserver {
    async fn own(&self) -> Option<NodeReport> {
        let groups = time::timeout(REPORT_LIMIT, reports::of(self.control.as_ref(), &self.host, None)).await.ok()?;
        Some(of_node(env!("CARGO_PKG_VERSION").to_owned(), *protocol_versions().end(), groups))
    }

    /// Nothing if it does not answer: what is to be concluded from that, the controller knows.
    async fn ask(&self, node: NodeId) -> Option<NodeReport> {
        let told = time::timeout(REPORT_LIMIT, self.peers.report(node, None, REPORT_LIMIT)).await.ok()?;
        let told = told.inspect_err(|error| tracing::debug!(node, %error, "a member did not say how it is")).ok()?;
        Some(of_node(told.node.program_version, *told.node.versions.end(), told.groups))
    }
}

impl Observer for NodeObserver {
    fn observe(&self) -> BoxFuture<'_, Reports> {
        Box::pin(async move {
            // Before the cluster has met there is nobody to ask.
            let members = self.members.node_ids().unwrap_or_default();
            let others = members.into_iter().filter(|node| *node != self.node);
            let others = others.map(async |node| Some((node, self.ask(node).await?)));
            let (own, others) = join(self.own(), join_all(others)).await;
            let own = own.map(|report| (self.node, report));
            others.into_iter().flatten().chain(own).map(|(node, report)| (node, Arc::new(report))).collect()
        })
    }

    fn hand_over(&self, shard: GroupId, from: NodeId, to: NodeId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let handed = match from == self.node {
                true => time::timeout(HAND_OVER_LIMIT, hand_over(&self.host, shard, to)).await,
                false => time::timeout(HAND_OVER_LIMIT, self.peers.hand_over(from, shard, to, HAND_OVER_LIMIT)).await,
            };
            let late = |elapsed: time::Elapsed| Err(CallError::Indeterminate(elapsed.to_string()));
            if let Err(error) = handed.unwrap_or_else(late) {
                tracing::info!(shard, from, to, %error, "a leader has not handed over yet");
            }
        })
    }
}

/// Lets `to` lead a shard that is led here.
///
/// # Errors
/// [`CallError`]; `Indeterminate` if it did not come to that in time.
pub async fn hand_over(host: &Host, shard: GroupId, to: NodeId) -> Result<(), CallError> {
    let replica = host.replica(shard).map_err(|error| not_here(&error))?;
    replica.transfer_leader(to).await.map_err(|error| match error {
        ProposeError::Unavailable => CallError::Indeterminate("the shard is led where the votes put it".to_owned()),
        error => error.into(),
    })
}

/// What a peer is told that asks for a replica which this node cannot give.
pub fn not_here(error: &Error) -> CallError {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::NotFound => CallError::Unavailable(error.to_string()),
        _ => CallError::Refused(error.to_string()),
    }
}

/// A node's groups as the master sees them: the coordinator's own apart from the shards'.
fn of_node(version: String, speaks: u32, groups: Vec<GroupReport>) -> NodeReport {
    let mut report = NodeReport { version, speaks, ..NodeReport::default() };
    for group in groups {
        let (id, replica) = (group.group, of_replica(group));
        match id {
            embedded::GROUP => report.control = Some(replica),
            shard => drop(report.replicas.insert(shard, replica)),
        }
    }
    report
}

fn of_replica(group: GroupReport) -> ReplicaReport {
    let GroupReport { term, leader, last_index, committed, applied, points, bytes, failure, .. } = group;
    let GroupReport { voters, voters_outgoing, learners, is_settled: leads, .. } = group;
    ReplicaReport {
        term,
        leader,
        leads,
        last_index,
        committed,
        applied,
        voters,
        voters_outgoing,
        learners,
        points,
        bytes,
        failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_group_is_told_apart_from_shards() {
        let group = |group, is_settled| GroupReport {
            group,
            term: 3,
            leader: Some(1),
            committed: 9,
            applied: 8,
            voters: vec![1, 2],
            learners: vec![4],
            is_settled,
            points: 7,
            bytes: 5,
            ..GroupReport::default()
        };
        let failed = GroupReport { group: 6, failure: Some("damaged".to_owned()), ..GroupReport::default() };
        let report = of_node("1.2.3".to_owned(), 4, vec![group(embedded::GROUP, true), group(5, false), failed]);
        assert_eq!((report.version.as_str(), report.speaks), ("1.2.3", 4));
        let expected = ReplicaReport {
            term: 3,
            leader: Some(1),
            leads: true,
            committed: 9,
            applied: 8,
            voters: vec![1, 2],
            learners: vec![4],
            points: 7,
            bytes: 5,
            ..ReplicaReport::default()
        };
        assert_eq!(report.control.as_ref(), Some(&expected));
        assert_eq!(report.replicas.keys().copied().collect::<Vec<_>>(), [5, 6]);
        assert_eq!(report.replicas[&5], ReplicaReport { leads: false, ..expected });
        assert_eq!(report.replicas[&6].failure.as_deref(), Some("damaged"));
    }
}
