//! What lies under an election's keys, as JSON, and all of it at one moment. Called by `campaign`.

use crate::coordination::{Compare, KeyValue, LeaseId, Revision, mirror::Entries};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// Who is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The candidate.
    pub node: u64,
    /// Its term.
    pub term: u64,
    /// The revision at which its reign began: the fencing token.
    pub created: Revision,
    pub(super) lease: Option<LeaseId>,
}

/// A candidate that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidacy {
    pub node: u64,
    pub priority: u32,
    /// Whether it has caught up.
    pub ready: bool,
}

/// The value of the election's key.
#[derive(Serialize, Deserialize)]
pub(super) struct Chosen {
    pub(super) node: u64,
    pub(super) term: u64,
}

/// The value of the term's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Term {
    pub(super) term: u64,
    /// Who is to stand first.
    pub(super) next: Option<u64>,
}

/// The names of an election's keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) chosen: String,
    pub(super) term: String,
    pub(super) candidates: String,
}

impl Keys {
    pub(super) fn of(name: &str) -> Keys {
        Keys { chosen: name.to_owned(), term: format!("{name}-term"), candidates: format!("{name}-candidates/") }
    }

    pub(super) fn candidate(&self, node: u64) -> String {
        format!("{}{node:016x}", self.candidates)
    }
}

/// An election at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scene {
    pub(super) leader: Option<Leader>,
    pub(super) term: Term,
    /// The revision of the term's key, once it is there.
    pub(super) term_revision: Option<Revision>,
    pub(super) candidates: BTreeMap<u64, Candidacy>,
}

impl Scene {
    /// What `entries` say. What cannot be read is as if it were not there, but for the election's own key.
    pub(super) fn of(keys: &Keys, entries: &Entries) -> Scene {
        let term = entries.get(&keys.term);
        let standing = entries.range(keys.candidates.clone()..);
        let standing = standing.take_while(|(key, _)| key.starts_with(&keys.candidates));
        let candidates = standing.filter_map(|(_, kv)| read::<Candidacy>(kv)).map(|one| (one.node, one)).collect();
        Scene {
            leader: entries.get(&keys.chosen).map(leader),
            term: term.and_then(read).unwrap_or_default(),
            term_revision: term.map(|kv| kv.revision),
            candidates,
        }
    }

    /// The condition that no term has begun since.
    pub(super) fn same_term(&self, keys: &Keys) -> Compare {
        match self.term_revision {
            None => Compare::Absent(keys.term.clone()),
            Some(revision) => Compare::WrittenAt(keys.term.clone(), revision),
        }
    }
}

/// Who the election's key names. One that cannot be read still keeps others from reigning.
pub(super) fn leader(kv: &KeyValue) -> Leader {
    let Chosen { node, term } = read(kv).unwrap_or(Chosen { node: 0, term: 0 });
    Leader { node, term, created: kv.created, lease: kv.lease }
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records of numbers always encode")
}

fn read<T: DeserializeOwned>(kv: &KeyValue) -> Option<T> {
    serde_json::from_slice(&kv.value)
        .inspect_err(|error| tracing::warn!(key = kv.key, %error, "a record of an election cannot be read"))
        .ok()
}
