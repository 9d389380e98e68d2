//! What nodes say to the coordinator's group, and its answers, as bytes. The first byte is the format: 1 a transaction, 2 a change of
//! leases (both are log entries), 3 a question to the leader (never in a log). Called by `machine` and `embedded`.

use super::super::{Committed, LeaseId, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const TRANSACTION: u8 = 1;
const LEASES: u8 = 2;
const QUESTION: u8 = 3;
/// Of outcomes and of a checkpoint's chunks.
const FORMAT: u8 = 1;

/// A log entry. The variants of the types below keep their order for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Transaction(Transaction),
    Leases(LeaseChange),
}

/// A change of leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LeaseChange {
    /// A new lease.
    Grant { ttl_ms: u64 },
    /// Its holder gives it back.
    Revoke { lease: LeaseId },
    /// Nobody kept them alive while the leader of `term` looked; means nothing in the log of another term, whose leader has another
    /// clock.
    Expire { term: u64, leases: Vec<LeaseId> },
}

/// What only the leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// Keep a lease alive: time is not in the log.
    KeepAlive { lease: LeaseId },
}

/// What applying an entry did, or what a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was no entry of the coordinator: Raft's own entries.
    Nothing,
    /// How the transaction ended.
    Transaction(Committed),
    /// A lease that a change or question named is not there; nothing happened.
    LeaseGone(LeaseId),
    /// A new lease.
    Granted(LeaseId),
    /// There are too many leases already; nothing happened.
    LeasesFull,
    /// The leases are gone.
    Ended,
    /// The lease lives this long from when it was asked.
    KeptAlive {
        /// Milliseconds.
        ttl_ms: u64,
    },
}

impl Command {
    /// The bytes of the entry.
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Command::Transaction(transaction) => encoded(TRANSACTION, transaction),
            Command::Leases(change) => encoded(LEASES, change),
        }
    }

    /// The inverse of [`Command::encode`]; the problem if bytes are no entry.
    pub(super) fn decode(bytes: &[u8]) -> Result<Command, String> {
        match bytes.first() {
            Some(&TRANSACTION) => decoded(TRANSACTION, bytes).map(Command::Transaction),
            _ => decoded(LEASES, bytes).map(Command::Leases),
        }
    }
}

impl Question {
    /// The bytes of the question.
    pub(super) fn encode(&self) -> Bytes {
        encoded(QUESTION, self)
    }

    /// The question that bytes are; none if they are a log entry; the problem if they are neither.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Question>, String> {
        match bytes.first() {
            Some(&QUESTION) => decoded(QUESTION, bytes).map(Some),
            _ => Command::decode(bytes).map(|_entry| None),
        }
    }
}

/// The bytes of an outcome between nodes.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    encoded(FORMAT, outcome)
}

/// The inverse of [`encode_outcome`]; the problem if the bytes are no outcome.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, String> {
    decoded(FORMAT, bytes)
}

/// Records of the map, as a chunk of a checkpoint.
pub(super) fn encode_records(records: &Vec<(Vec<u8>, Vec<u8>)>) -> Bytes {
    encoded(FORMAT, records)
}

/// The inverse of [`encode_records`]; the problem if the bytes are no chunk.
pub(super) fn decode_records(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, String> {
    decoded(FORMAT, bytes)
}

fn encoded(format: u8, value: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(value, vec![format]);
    Bytes::from(bytes.expect("these types always encode"))
}

fn decoded<'a, T: Deserialize<'a>>(format: u8, bytes: &'a [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((found, rest)) if *found == format => postcard::from_bytes(rest).map_err(|error| error.to_string()),
        Some((found, _)) => Err(format!("the format {found} is not known")),
        None => Err("no bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Change, Compare};
    use super::*;

    #[test]
    fn golden_bytes() {
        let put = Change::Put("k".to_owned(), vec![7]);
        let transaction = Transaction { compares: vec![Compare::Absent("a".to_owned())], changes: vec![put] };
        let bytes = Command::Transaction(transaction).encode();
        assert_eq!(bytes[..], [1, 1, 0, 1, b'a', 1, 0, 1, b'k', 1, 7]);
        assert_eq!(Command::Leases(LeaseChange::Grant { ttl_ms: 3 }).encode()[..], [2, 0, 3]);
        assert_eq!(Command::Leases(LeaseChange::Revoke { lease: 4 }).encode()[..], [2, 1, 4]);
        let expire = Command::Leases(LeaseChange::Expire { term: 5, leases: vec![6] });
        assert_eq!(expire.encode()[..], [2, 2, 5, 1, 6]);
        assert_eq!(Command::decode(&expire.encode()), Ok(expire));
        assert_eq!(Question::KeepAlive { lease: 9 }.encode()[..], [3, 0, 9]);
        assert_eq!(encode_outcome(&Outcome::Transaction(Committed::At(7)))[..], [1, 1, 0, 7]);
    }

    #[test]
    fn outcomes_and_questions_round_trip_and_garbage_is_refused() {
        let transactions = [Committed::Refused, Committed::At(7)].map(Outcome::Transaction);
        let leases = [Outcome::LeaseGone(1), Outcome::Granted(2), Outcome::LeasesFull, Outcome::Ended];
        let others = [Outcome::Nothing, Outcome::KeptAlive { ttl_ms: 9 }];
        for outcome in transactions.into_iter().chain(leases).chain(others) {
            assert_eq!(decode_outcome(&encode_outcome(&outcome)), Ok(outcome));
        }
        let question = Question::KeepAlive { lease: 5 };
        assert_eq!(Question::decode(&question.encode()), Ok(Some(question)));
        let entry = Command::Leases(LeaseChange::Grant { ttl_ms: 3 }).encode();
        assert_eq!(Question::decode(&entry), Ok(None));
        for garbage in [&b""[..], b"\x04\0", b"\x01\x09", b"\x03\x09"] {
            assert!(decode_outcome(garbage).is_err() && Question::decode(garbage).is_err(), "{garbage:?}");
        }
    }
}
