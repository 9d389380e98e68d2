//! The nodes that together are the cluster, as far as this node knows: who founded it, which records the coordinator has of its
//! members, and where they were last met. It is forming until its founders have met; from then on it has an identity, and nodes come
//! and go. Nothing here decides anything: `node` keeps it up to date and acts on it, the controller writes the records. Called by
//! `service` (where replicas may go), `node` (links, admission) and `controller`.

use super::{
    NodeId,
    placement::{Candidate, Standing},
};
use crate::{
    rt,
    types::{Error, ErrorKind, Result},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::Notify;

/// Where the records of members are kept: one lasting key a node, `members/{id:016x}`.
pub const PREFIX: &str = "members/";

/// What is to become of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It takes part.
    #[default]
    Active,
    /// It takes part, and its replicas are being moved to others.
    Draining,
    /// It takes part no more, for ever: its node id is not taken in again.
    Removed,
}

/// What the cluster agrees on about one member, as JSON under its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    #[serde(default)]
    pub state: MemberState,
    /// Whether it is to vote in the coordinator's own group; without a vote it learns. Of no meaning with etcd.
    #[serde(default)]
    pub votes: bool,
    /// Milliseconds since 1970, by the clock of the node that took it in.
    #[serde(default)]
    pub joined_ms: u64,
    /// Where its peers reach it, in which zone and mode it runs. It writes this itself; empty where it has not yet.
    #[serde(default)]
    pub peer: String,
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub mode: String,
    /// Its share of the shards and of a gateway's requests, relative to others.
    #[serde(default = "ordinary", skip_serializing_if = "is_ordinary")]
    pub weight: u32,
    #[serde(flatten)]
    pub labels: Labels,
}

/// What a node is looked for by, in its operator's words. Nothing in the cluster gives them a meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// The group of nodes that it is one of; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
}

/// The weight of a member that has told none.
pub const WEIGHT_ORDINARY: u32 = 100;

fn ordinary() -> u32 {
    WEIGHT_ORDINARY
}

fn is_ordinary(weight: &u32) -> bool {
    *weight == WEIGHT_ORDINARY
}

/// What a member says of itself in its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTold {
    pub peer: String,
    pub zone: String,
    pub mode: String,
    pub weight: u32,
    pub labels: Labels,
}

impl Default for SelfTold {
    fn default() -> SelfTold {
        let (peer, zone, mode, labels) = Default::default();
        SelfTold { peer, zone, mode, weight: WEIGHT_ORDINARY, labels }
    }
}

/// The mode of nodes that hold no shards.
const HOLDS_NO_SHARDS: &str = "master";

impl MemberRecord {
    /// The record of a member that has just been taken in.
    pub fn joined(told: SelfTold, joined_ms: u64, votes: bool) -> MemberRecord {
        let SelfTold { peer, zone, mode, weight, labels } = told;
        MemberRecord { state: MemberState::Active, votes, joined_ms, peer, zone, mode, weight, labels }
    }

    /// The same record, with what the member says of itself now.
    pub fn telling(self, told: SelfTold) -> MemberRecord {
        let SelfTold { peer, zone, mode, weight, labels } = told;
        MemberRecord { peer, zone, mode, weight, labels, ..self }
    }

    /// Whether replicas may be placed on it, as far as its mode says.
    pub fn holds_shards(&self) -> bool {
        self.mode != HOLDS_NO_SHARDS
    }

    /// Under which key it is kept.
    pub fn key(node: NodeId) -> String {
        format!("{PREFIX}{node:016x}")
    }

    /// Whose record a key holds; none if it is another key.
    pub fn node_of(key: &str) -> Option<NodeId> {
        let hex = key.strip_prefix(PREFIX)?;
        (hex.len() == 16).then(|| NodeId::from_str_radix(hex, 16).ok()).flatten()
    }

    /// Whether it takes part.
    pub fn is_member(&self) -> bool {
        self.state != MemberState::Removed
    }

    /// The bytes it is kept as.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record always encodes")
    }

    /// The inverse of [`MemberRecord::encode`].
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<MemberRecord> {
        serde_json::from_slice(bytes).map_err(|error| {
            let message = format!("the coordinator's {key} cannot be read: {error}");
            Error::new(ErrorKind::Corrupt, "member_record", message)
        })
    }
}

/// Who voted and who learned first, and what the cluster is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    pub cluster_id: u64,
    /// The nodes that met and made the coordinator's group; in order. Nobody where etcd is the coordinator.
    pub founders: Vec<NodeId>,
}

impl Founded {
    /// By these nodes: they give the cluster its identity.
    pub fn by(mut founders: Vec<NodeId>) -> Founded {
        founders.sort_unstable();
        founders.dedup();
        assert!(!founders.is_empty(), "a cluster has a member");
        let bytes: Vec<u8> = founders.iter().flat_map(|id| id.to_le_bytes()).collect();
        Founded { cluster_id: xxhash_rust::xxh3::xxh3_64(&bytes), founders }
    }
}

/// See the module. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Members(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: RwLock<Known>,
    /// Rung when the cluster is founded. One waiter.
    founded: Notify,
    /// Rung when anything changed. One waiter.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    founded: Option<Founded>,
    records: BTreeMap<NodeId, MemberRecord>,
    /// Where each was last met.
    met_at: BTreeMap<NodeId, MetAt>,
    /// Addresses of nodes that are wanted in, and how often each was invited.
    invited: BTreeMap<String, u32>,
}

/// Where a node was met.
#[derive(Debug, PartialEq, Eq)]
struct MetAt {
    peer: String,
    /// Whether it belongs to the cluster, by its own word or by what it does.
    belongs: bool,
}

/// Nodes that are no members whose address is kept.
const MET_MAX: usize = 1_024;
/// Addresses that may be invited at once.
const INVITED_MAX: usize = 16;
/// Longest of them, in bytes.
const ADDRESS_BYTES_MAX: usize = 255;

/// Keeps an address invited until it is dropped.
#[derive(Debug)]
pub struct Invitation {
    members: Members,
    address: String,
}

impl Drop for Invitation {
    fn drop(&mut self) {
        let mut known = self.members.write();
        if let Some(count) = known.invited.get_mut(&self.address) {
            *count -= 1;
        }
        known.invited.retain(|_, count| *count > 0);
        drop(known);
        self.members.0.changed.notify_one();
    }
}

impl Members {
    /// Members that have not met yet.
    pub fn forming() -> Members {
        Members::default()
    }

    /// Of a cluster that these nodes founded.
    pub fn of(founders: Vec<NodeId>) -> Members {
        let members = Members::forming();
        members.found(Founded::by(founders));
        members
    }

    /// The cluster is founded. Later calls change nothing.
    pub fn found(&self, founded: Founded) {
        {
            let mut known = self.write();
            if known.founded.is_some() {
                return;
            }
            known.founded = Some(founded);
        }
        self.0.founded.notify_one();
        self.0.changed.notify_one();
    }

    /// Returns once the cluster is founded. For one waiter.
    pub async fn wait_founded(&self) -> Founded {
        loop {
            if let Some(founded) = self.founded() {
                return founded;
            }
            self.0.founded.notified().await;
        }
    }

    /// Who founded it, once somebody has.
    pub fn founded(&self) -> Option<Founded> {
        self.read().founded.clone()
    }

    /// The cluster's identity, once it has one.
    pub fn cluster_id(&self) -> Option<u64> {
        self.read().founded.as_ref().map(|founded| founded.cluster_id)
    }

    /// These are the records of the coordinator now.
    pub fn set_records(&self, records: BTreeMap<NodeId, MemberRecord>) {
        let mut known = self.write();
        if known.records != records {
            known.records = records;
            drop(known);
            self.0.changed.notify_one();
        }
    }

    /// The records, as this node last knew them: none before the first was written.
    pub fn records(&self) -> BTreeMap<NodeId, MemberRecord> {
        self.read().records.clone()
    }

    /// A node was met at an address, whatever its record says: nodes move. `belongs`: it says that it is of this cluster.
    pub fn met(&self, node: NodeId, peer: &str, belongs: bool) {
        let met = MetAt { peer: peer.to_owned(), belongs };
        let mut known = self.write();
        // Of nodes that do not belong here no end may be kept.
        if known.met_at.len() >= MET_MAX && !known.met_at.contains_key(&node) && !known.node_ids().contains(&node) {
            return;
        }
        if known.met_at.get(&node) != Some(&met) {
            known.met_at.insert(node, met);
            drop(known);
            self.0.changed.notify_one();
        }
    }

    /// A node has sent what only members send: it is of this cluster. The link over which it did may have been opened before it was
    /// taken in, and is not opened again for that: where it is answered has to be known nevertheless.
    pub fn heard(&self, node: NodeId) {
        if self.read().met_at.get(&node).is_none_or(|met| met.belongs) {
            return;
        }
        let mut known = self.write();
        if let Some(met) = known.met_at.get_mut(&node) {
            met.belongs = true;
        }
        if !known.node_ids().contains(&node) {
            rt::mark("who had been met before it was taken in was answered before it was known");
        }
        drop(known);
        self.0.changed.notify_one();
    }

    /// Dials a node at this address, of which nothing is known yet, until the invitation is dropped.
    ///
    /// # Errors
    /// `bad_address`; `invitations_full` if too many are waited for.
    pub fn invite(&self, peer: &str) -> Result<Invitation> {
        let is_address = peer.len() <= ADDRESS_BYTES_MAX
            && peer.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_address {
            return Err(Error::invalid("bad_address", "this is no address of a node").expected("host:port"));
        }
        let mut known = self.write();
        if known.invited.len() >= INVITED_MAX && !known.invited.contains_key(peer) {
            let message = "too many nodes are waited for; try again when they have come";
            return Err(Error::new(ErrorKind::Exhausted, "invitations_full", message));
        }
        *known.invited.entry(peer.to_owned()).or_default() += 1;
        drop(known);
        self.0.changed.notify_one();
        Ok(Invitation { members: self.clone(), address: peer.to_owned() })
    }

    /// The addresses that are invited now.
    pub fn invited(&self) -> BTreeSet<String> {
        self.read().invited.keys().cloned().collect()
    }

    /// Whether a node was removed from the cluster.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.read().records.get(&node).is_some_and(|record| !record.is_member())
    }

    /// Where the members may be reached: their records' addresses, and where they were last met. Also who is not known here but says
    /// that it belongs to the cluster, unless it was removed: this node may be behind the times, or new, and learns what there is
    /// to know only by answering those who lead.
    pub fn addresses(&self) -> BTreeMap<NodeId, BTreeSet<String>> {
        let known = self.read();
        let mut addresses: BTreeMap<NodeId, BTreeSet<String>> = BTreeMap::new();
        for node in known.node_ids() {
            let told = known.records.get(&node).map(|record| &record.peer).filter(|peer| !peer.is_empty());
            let met = known.met_at.get(&node).map(|met| &met.peer);
            addresses.insert(node, told.into_iter().chain(met).cloned().collect());
        }
        for (node, met) in known.met_at.iter().filter(|(_, met)| met.belongs) {
            if known.records.get(node).is_none_or(MemberRecord::is_member) {
                addresses.entry(*node).or_default().insert(met.peer.clone());
            }
        }
        addresses
    }

    /// Resolves after something has changed since the last time this resolved. For one waiter.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// The ids of those that take part, in order.
    ///
    /// # Errors
    /// `cluster_forming`, `Unavailable`, while they have not met.
    pub fn node_ids(&self) -> Result<Vec<NodeId>> {
        let known = self.read();
        if known.founded.is_none() {
            let message = "the nodes of the cluster have not all met yet";
            return Err(Error::new(ErrorKind::Unavailable, "cluster_forming", message));
        }
        Ok(known.node_ids().into_iter().collect())
    }

    /// The members that replicas may be placed on. Whether they can be reached is for others to say.
    ///
    /// # Errors
    /// As [`Members::node_ids`].
    pub fn candidates(&self) -> Result<Vec<Candidate>> {
        let ids = self.node_ids()?;
        let records = self.records();
        let candidate = |id: NodeId| match records.get(&id) {
            None => Some(Candidate::active(id)),
            Some(record) if !record.holds_shards() => None,
            Some(record) => {
                let is_active = record.state == MemberState::Active;
                let standing = if is_active { Standing::Active } else { Standing::Draining };
                Some(Candidate { id, zone: record.zone.clone(), weight: record.weight, standing })
            }
        };
        Ok(ids.into_iter().filter_map(candidate).collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.known.read().expect("no panic while changing")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.known.write().expect("no panic while changing")
    }
}

impl Known {
    /// A founder takes part before it has a record.
    fn node_ids(&self) -> BTreeSet<NodeId> {
        let founders = self.founded.iter().flat_map(|founded| &founded.founders).copied();
        let unrecorded = founders.filter(|node| !self.records.contains_key(node));
        let recorded = self.records.iter().filter(|(_, record)| record.is_member()).map(|(node, _)| *node);
        unrecorded.chain(recorded).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_by_its_founders_whoever_comes_and_goes() {
        let members = Members::forming();
        assert_eq!(members.node_ids().unwrap_err().code(), "cluster_forming");
        assert!(members.cluster_id().is_none());
        members.found(Founded::by(vec![3, 1, 3]));
        members.found(Founded::by(vec![9]));
        assert_eq!(members.cluster_id(), Members::of(vec![1, 3]).cluster_id());
        assert_eq!(members.clone().node_ids().unwrap(), [1, 3]);
        let record = |state| MemberRecord { state, ..MemberRecord::joined(SelfTold::default(), 1, false) };
        let records = [(3, record(MemberState::Removed)), (5, record(MemberState::Draining))];
        members.set_records(records.into());
        assert_eq!(members.node_ids().unwrap(), [1, 5]);
        assert!(members.is_removed(3) && !members.is_removed(1) && !members.is_removed(9));
        let standings = |members: &Members| {
            let all = members.candidates().unwrap().into_iter();
            all.map(|candidate| (candidate.id, candidate.standing)).collect::<Vec<_>>()
        };
        assert_eq!(standings(&members), [(1, Standing::Active), (5, Standing::Draining)]);
        let mut records = members.records();
        records.insert(1, MemberRecord { mode: "master".to_owned(), ..record(MemberState::Active) });
        members.set_records(records);
        assert_eq!(standings(&members), [(5, Standing::Draining)]);
        let mut records = members.records();
        records.insert(1, MemberRecord { weight: 300, ..record(MemberState::Active) });
        members.set_records(records);
        assert_eq!(members.candidates().unwrap()[0].weight, 300);
        assert_eq!(members.cluster_id(), Members::of(vec![1, 3]).cluster_id());
    }

    #[tokio::test]
    async fn members_are_reached_where_their_record_says_and_where_they_were_met() {
        let members = Members::of(vec![1]);
        let at =
            |peer: &str| MemberRecord { peer: peer.to_owned(), ..MemberRecord::joined(SelfTold::default(), 1, true) };
        members.set_records([(1, at("a:1")), (2, at(""))].into());
        members.changed().await;
        members.met(2, "b:2", false);
        members.met(1, "moved:1", true);
        members.met(7, "no member:7", false);
        members.changed().await;
        let found: Vec<(NodeId, Vec<String>)> =
            members.addresses().into_iter().map(|(node, all)| (node, all.into_iter().collect())).collect();
        assert_eq!(found, [(1, vec!["a:1".to_owned(), "moved:1".to_owned()]), (2, vec!["b:2".to_owned()])]);
    }

    #[test]
    fn who_belongs_but_is_not_known_yet_is_answered_and_who_was_removed_is_not() {
        // A new node's coordinator is led by one that is no founder: it is heard of only because it calls.
        let members = Members::of(vec![1]);
        members.met(8, "leads:8", true);
        assert_eq!(members.addresses()[&8], ["leads:8".to_owned()].into());
        // Another had been met when it did not belong yet. It was taken in while this node was cut off from those who lead, and leads now.
        members.met(9, "leads:9", false);
        members.heard(9);
        members.heard(10);
        assert_eq!(members.addresses()[&9], ["leads:9".to_owned()].into());
        assert!(!members.addresses().contains_key(&10), "it was never met");
        let removed =
            MemberRecord { state: MemberState::Removed, ..MemberRecord::joined(SelfTold::default(), 1, false) };
        members.set_records([(8, removed)].into());
        assert!(!members.addresses().contains_key(&8));
    }

    #[test]
    fn invitations_end_and_are_bounded() {
        let members = Members::of(vec![1]);
        let (one, again) = (members.invite("a:1").unwrap(), members.invite("a:1").unwrap());
        drop(one);
        assert_eq!(members.invited(), ["a:1".to_owned()].into());
        let others: Vec<_> = (2..=16).map(|port| members.invite(&format!("a:{port}")).unwrap()).collect();
        assert_eq!(members.invite("a:17").unwrap_err().code(), "invitations_full");
        drop((again, others));
        assert!(members.invited().is_empty());
        for bad in ["", "a", ":1", "a:b", "a:70000"] {
            assert_eq!(members.invite(bad).unwrap_err().code(), "bad_address", "{bad}");
        }
    }

    #[test]
    fn records_are_json_under_the_id() {
        let told =
            SelfTold { peer: "h:1".to_owned(), zone: "z".to_owned(), mode: "auto".to_owned(), ..SelfTold::default() };
        let record = MemberRecord { state: MemberState::Draining, ..MemberRecord::joined(told, 7, true) };
        let json = r#"{"state":"draining","votes":true,"joined_ms":7,"peer":"h:1","zone":"z","mode":"auto"}"#;
        assert_eq!(String::from_utf8(record.encode()).unwrap(), json);
        let key = MemberRecord::key(0x2a);
        assert_eq!((key.as_str(), MemberRecord::node_of(&key)), ("members/000000000000002a", Some(0x2a)));
        assert_eq!(MemberRecord::decode(&key, &record.encode()).unwrap(), record);
        let heavy = MemberRecord { weight: 300, ..record.clone() };
        assert_eq!(MemberRecord::decode(&key, &heavy.encode()).unwrap(), heavy);
        let labels = Labels { tags: ["ssd".to_owned()].into(), group: "blue".to_owned() };
        let labelled = MemberRecord { labels, ..record.clone() };
        let json = r#","tags":["ssd"],"group":"blue"}"#;
        assert!(String::from_utf8(labelled.encode()).unwrap().ends_with(json));
        assert_eq!(MemberRecord::decode(&key, &labelled.encode()).unwrap(), labelled);
        assert_eq!(MemberRecord::decode(&key, b"7").unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(MemberRecord::node_of("members/2a").is_none() && MemberRecord::node_of("table").is_none());
    }
}
