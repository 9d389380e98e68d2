//! What a node does so that its cluster stays together: it knows the records of the members, tells its own address, dials who
//! belongs and cuts off who was removed; where the coordinator's group is led, its members are made what the records say. Level, not
//! edge: every round compares what is with what should be. Started by [`super::Engine`] and [`super::peers`].

use super::coordination::Coordination;
use crate::{
    cluster::{MemberRecord, Members, SelfTold, members::PREFIX},
    coordination::{Change, Compare, CoordinationError, Coordinator, Transaction, embedded::Outcome},
    peer::Peers,
    raft::{Group, NodeId},
    rt::{self, shutdown::Shutdown, time},
    types::Result,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long one change of the coordinator's group may take before it is looked at anew.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);

/// Brings `members` up to what the coordinator's records say, as this node knows them.
///
/// # Errors
/// `Corrupt`.
pub fn follow(coordinator: &dyn Coordinator, members: &Members) -> Result<()> {
    let mut records = BTreeMap::new();
    for kv in coordinator.remembered(PREFIX).map_err(crate::cluster::catalog::coordination)? {
        if let Some(node) = MemberRecord::node_of(&kv.key) {
            records.insert(node, MemberRecord::decode(&kv.key, &kv.value)?);
        }
    }
    members.set_records(records);
    Ok(())
}

/// Dials the members and cuts off those that were removed, until the node stops.
pub async fn dial(node: NodeId, members: Members, peers: Peers, stop: Shutdown) {
    let mut cut = BTreeSet::new();
    loop {
        let others = members.addresses().into_iter().filter(|(other, _)| *other != node);
        peers.set_addresses(&others.flat_map(|(_, addresses)| addresses).chain(members.invited()).collect());
        for (removed, _) in members.records().iter().filter(|(other, record)| **other != node && !record.is_member()) {
            if cut.insert(*removed) {
                peers.cut(*removed);
            }
        }
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = members.changed() => {}
        }
    }
}

/// A node's part in keeping the records and the coordinator's group.
pub struct Keeper {
    pub node: NodeId,
    /// What it says of itself.
    pub told: SelfTold,
    pub members: Members,
    pub coordination: Coordination,
}

impl Keeper {
    /// Does what there is to do, until the node stops.
    pub async fn run(self, stop: Shutdown) {
        while !stop.is_triggered() {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = self.round() => {}
            }
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn round(&self) {
        let told = match self.leads() {
            true => self.record_founders().await,
            false => Ok(()),
        };
        let told = match told {
            Ok(()) => self.tell().await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the records of members could not be written; it will be tried again");
        }
        if self.leads() {
            self.set_group().await;
        }
    }

    fn group(&self) -> Option<&Group<Outcome>> {
        self.coordination.embedded()?.group()
    }

    fn leads(&self) -> bool {
        self.group().is_some_and(|group| group.is_leader())
    }

    /// Founders have no record until one of them leads.
    async fn record_founders(&self) -> std::result::Result<(), CoordinationError> {
        let (Some(founded), records) = (self.members.founded(), self.members.records()) else { return Ok(()) };
        let addresses = self.members.addresses();
        for node in founded.founders.into_iter().filter(|node| !records.contains_key(node)) {
            let met = addresses.get(&node).and_then(|all| all.first().cloned()).unwrap_or_default();
            let told = SelfTold { peer: met, ..SelfTold::default() };
            let record = MemberRecord::joined(told, time::wall().0, true);
            self.write(node, &record, Compare::Absent(MemberRecord::key(node))).await?;
        }
        Ok(())
    }

    async fn tell(&self) -> std::result::Result<(), CoordinationError> {
        let known = self.members.records().remove(&self.node);
        if known.is_none() && self.coordination.embedded().is_none() && self.members.cluster_id().is_some() {
            // With etcd nobody takes a node in: it comes by itself.
            let record = MemberRecord::joined(self.told.clone(), time::wall().0, false);
            return self.write(self.node, &record, Compare::Absent(MemberRecord::key(self.node))).await;
        }
        let is_told = |record: MemberRecord| record.clone().telling(self.told.clone()) == record;
        if known.is_none_or(|record| !record.is_member() || is_told(record)) {
            return Ok(());
        }
        let key = MemberRecord::key(self.node);
        let Some(stored) = self.coordination.shared().get(&key).await? else { return Ok(()) };
        let record = MemberRecord::decode(&key, &stored.value);
        let record = record.map_err(|error| CoordinationError::Corrupt(error.to_string()))?;
        if record.peer != self.told.peer {
            rt::mark("a node told its new address");
        }
        let record = record.telling(self.told.clone());
        self.write(self.node, &record, Compare::WrittenAt(key, stored.revision)).await
    }

    /// Writes a record unless somebody else has; then that is what counts.
    async fn write(
        &self,
        node: NodeId,
        record: &MemberRecord,
        compare: Compare,
    ) -> std::result::Result<(), CoordinationError> {
        let change = Change::Put(MemberRecord::key(node), record.encode());
        self.coordination
            .shared()
            .commit(Transaction { compares: vec![compare], changes: vec![change] })
            .await
            .map(drop)
    }

    /// Members that vote are the group's voters, the others its learners.
    async fn set_group(&self) {
        let records = self.members.records();
        let of = |votes: bool| {
            let part = records.iter().filter(move |(_, record)| record.is_member() && record.votes == votes);
            part.map(|(node, _)| *node).collect::<Vec<NodeId>>()
        };
        let (voters, learners) = (of(true), of(false));
        let Some(group) = self.group() else { return };
        if voters.is_empty() {
            return;
        }
        if let Err(error) = group.change_members(&voters, &learners, CHANGE_LIMIT).await {
            tracing::info!(%error, ?voters, ?learners, "the members of the coordinator's group are not changed yet");
        }
    }
}
