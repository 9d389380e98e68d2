//! What a node says about itself, as JSON: fields may be added, and a reader takes what it knows. Called by `registry`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A node as it registers. Written when something that matters changes, not with every heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity, from its data directory.
    pub node: u64,
    /// Where it is reached.
    #[serde(default)]
    pub addresses: NodeAddresses,
    /// Failure domain.
    #[serde(default)]
    pub zone: String,
    /// Version of its program.
    #[serde(default)]
    pub version: String,
    /// Free labels.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Free name of a group of nodes.
    #[serde(default)]
    pub group: String,
    /// What the process is: `auto`, `worker`, `gateway`, …
    #[serde(default)]
    pub mode: String,
    /// Where it is in its life.
    #[serde(default)]
    pub state: NodeState,
    /// Its share of requests relative to others; 0: not told.
    #[serde(default)]
    pub weight: u32,
    /// How busy it is.
    #[serde(default)]
    pub load: Load,
    /// How well it is.
    #[serde(default)]
    pub health: Health,
    /// When its process started, in milliseconds since 1970 by its own clock.
    #[serde(default)]
    pub started_ms: u64,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It takes no requests yet.
    Starting,
    /// It takes requests.
    #[default]
    Serving,
    /// It takes requests, and is to be rid of what it has: who can choose sends them elsewhere.
    Draining,
    /// It is about to be gone.
    Stopping,
    /// Something that only newer programs know.
    #[serde(other)]
    Unknown,
}

/// Where a node is reached, as `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddresses {
    /// By other nodes.
    pub peer: String,
    /// REST.
    pub http: Vec<String>,
    /// gRPC.
    pub grpc: String,
    /// Metrics and health.
    pub monitoring: String,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Requests under way.
    pub requests: u64,
    /// Share of its processors that was busy, 0 to 1.
    pub cpu: f32,
    /// Bytes of its data.
    pub data_bytes: u64,
    /// Points it holds.
    pub points: u64,
}

/// How well a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// 0 (do not send it anything) to 100.
    pub score: u8,
    /// Why it is below 100, for people.
    pub reasons: Vec<String>,
}

impl Default for Health {
    fn default() -> Health {
        Health { score: 100, reasons: Vec::new() }
    }
}

impl NodeRecord {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of numbers and text always encodes")
    }

    /// The inverse of [`NodeRecord::encode`]; the problem if bytes are no record.
    pub fn decode(bytes: &[u8]) -> Result<NodeRecord, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// Whether others should hear of the change from `told` to this at once: anything but load, and health within a tenth.
    pub(super) fn differs_in_kind(&self, told: &NodeRecord) -> bool {
        let steady = |record: &NodeRecord| NodeRecord {
            load: Load::default(),
            health: Health { score: record.health.score / 10, reasons: Vec::new() },
            ..record.clone()
        };
        steady(self) != steady(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_take_what_they_know() {
        let record = NodeRecord {
            node: u64::MAX,
            tags: ["ssd".to_owned()].into(),
            health: Health { score: 40, reasons: vec!["the disk is full".to_owned()] },
            ..NodeRecord::default()
        };
        assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
        let newer = NodeRecord::decode(br#"{"node":3,"colour":"red"}"#).unwrap();
        assert_eq!((newer.node, newer.health.score), (3, 100));
        for bad in ["[]", "{}", r#"{"node":"x"}"#] {
            assert!(NodeRecord::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn load_alone_is_not_worth_telling_at_once() {
        let told = NodeRecord::default();
        let busy = NodeRecord { load: Load { requests: 9, cpu: 0.5, ..Load::default() }, ..told.clone() };
        let ill = NodeRecord { health: Health { score: 80, reasons: Vec::new() }, ..told.clone() };
        let moved = NodeRecord { zone: "b".to_owned(), ..told.clone() };
        assert!(!busy.differs_in_kind(&told) && ill.differs_in_kind(&told) && moved.differs_in_kind(&told));
    }
}
