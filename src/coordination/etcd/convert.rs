//! Between etcd's messages and the coordinator's types. etcd counts in i64 where this program counts in u64; neither gets near the
//! difference. Called by `etcd`.

use super::proto::{self, compare, request_op};
use crate::coordination::{
    Change, Compare, CoordinationError, Event, KeyValue, LeaseId, Revision, Transaction, prefix::Prefix,
};

/// The first key after all that begin with `beginning`: its last byte one higher. Keys end in neither 0xff nor nothing.
pub(super) fn range_end(beginning: &str) -> Vec<u8> {
    let mut end = beginning.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // Text has no byte 0xff.
        *last += 1;
    }
    end
}

/// A number of ours as etcd's.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(what: &str, number: i64) -> Result<u64, CoordinationError> {
    u64::try_from(number).map_err(|_| CoordinationError::Corrupt(format!("etcd gave a {what} of {number}")))
}

/// The revision an answer was made at.
pub(super) fn revision(header: Option<&proto::ResponseHeader>) -> Result<Revision, CoordinationError> {
    unsigned("revision", header.map_or(0, |header| header.revision))
}

/// A lease. etcd's ids are positive.
pub(super) fn lease(id: i64) -> Result<LeaseId, CoordinationError> {
    unsigned("lease", id)
}

pub(super) fn key_value(prefix: &Prefix, kv: proto::KeyValue) -> Result<KeyValue, CoordinationError> {
    Ok(KeyValue {
        key: key(prefix, kv.key)?,
        value: kv.value,
        revision: unsigned("revision", kv.mod_revision)?,
        created: unsigned("revision", kv.create_revision)?,
        lease: Some(lease(kv.lease)?).filter(|lease| *lease != 0),
    })
}

pub(super) fn event(prefix: &Prefix, event: proto::Event) -> Result<Event, CoordinationError> {
    let kind = event.r#type();
    let kv = event.kv.ok_or_else(|| CoordinationError::Corrupt("etcd gave an event of no key".to_owned()))?;
    match kind {
        proto::event::EventType::Put => key_value(prefix, kv).map(Event::Put),
        proto::event::EventType::Delete => {
            Ok(Event::Delete(key(prefix, kv.key)?, unsigned("revision", kv.mod_revision)?))
        }
    }
}

fn key(prefix: &Prefix, stored: Vec<u8>) -> Result<String, CoordinationError> {
    let stored = String::from_utf8(stored).map_err(|error| CoordinationError::Corrupt(error.to_string()))?;
    prefix.relative(&stored)
}

/// A key below the prefix that nobody ever writes.
const NEVER: &str = "never";

/// A transaction over stored keys, never without a change: etcd sends one without operations through no log, but lets the member that
/// is asked decide it by what it has, however far that is behind. Deleting a key that is not there changes nothing, takes no revision,
/// and is a write all the same.
pub(super) fn stored_transaction(prefix: &Prefix, transaction: Transaction) -> Transaction {
    let mut stored = prefix.stored_transaction(transaction);
    if stored.changes.is_empty() {
        stored.changes.push(Change::Delete(prefix.stored(NEVER)));
    }
    stored
}

pub(super) fn transaction(transaction: &Transaction) -> proto::TxnRequest {
    proto::TxnRequest {
        compare: transaction.compares.iter().map(condition).collect(),
        success: transaction.changes.iter().map(operation).collect(),
        failure: Vec::new(),
    }
}

fn condition(condition: &Compare) -> proto::Compare {
    use compare::{CompareTarget, TargetUnion};
    let (key, target, union) = match condition {
        // A key that is not there compares as one that was made at revision 0.
        Compare::Absent(key) => (key, CompareTarget::Create, TargetUnion::CreateRevision(0)),
        Compare::CreatedAt(key, at) => (key, CompareTarget::Create, TargetUnion::CreateRevision(signed(*at))),
        Compare::WrittenAt(key, at) => (key, CompareTarget::Mod, TargetUnion::ModRevision(signed(*at))),
    };
    proto::Compare {
        result: compare::CompareResult::Equal as i32,
        target: target as i32,
        key: key.clone().into_bytes(),
        target_union: Some(union),
    }
}

fn operation(change: &Change) -> proto::RequestOp {
    let put = |key: &str, value: &[u8], lease| {
        let lease = signed(lease);
        request_op::Request::RequestPut(proto::PutRequest { key: key.into(), value: value.to_vec(), lease })
    };
    let request = match change {
        Change::Put(key, value) => put(key, value, 0),
        Change::PutLeased(key, value, lease) => put(key, value, *lease),
        Change::Delete(key) => request_op::Request::RequestDeleteRange(proto::DeleteRangeRequest {
            key: key.clone().into_bytes(),
            range_end: Vec::new(),
        }),
    };
    proto::RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(range_end("/vectorsphere/a/"), b"/vectorsphere/a0");
    }

    #[test]
    fn every_transaction_is_a_write() {
        let prefix = Prefix::of("c");
        let asked = Transaction { compares: vec![Compare::Absent("k".to_owned())], changes: Vec::new() };
        let sent = transaction(&stored_transaction(&prefix, asked.clone()));
        let [proto::RequestOp { request: Some(request_op::Request::RequestDeleteRange(deleted)) }] = &sent.success[..]
        else {
            panic!("{sent:?} is no write")
        };
        assert_eq!((&deleted.key[..], &deleted.range_end[..]), (&b"/vectorsphere/c/never"[..], &b""[..]));
        assert_eq!(sent.compare.len(), 1);
        let put = Transaction { changes: vec![Change::Put("k".to_owned(), vec![1])], ..asked };
        let sent = transaction(&stored_transaction(&prefix, put));
        assert!(sent.success.len() == 1, "nothing is added to what is a write: {sent:?}");
    }

    #[test]
    fn what_etcd_gives_is_checked() {
        let prefix = Prefix::of("c");
        let kv = |key: &[u8], revision| proto::KeyValue {
            key: key.to_vec(),
            mod_revision: revision,
            create_revision: 1,
            lease: 0,
            ..proto::KeyValue::default()
        };
        let read = key_value(&prefix, kv(b"/vectorsphere/c/k", 5)).unwrap();
        assert_eq!((&read.key[..], read.revision, read.created, read.lease), ("k", 5, 1, None));
        for bad in [kv(b"/other/k", 5), kv(b"/vectorsphere/c/\xff", 5), kv(b"/vectorsphere/c/k", -1)] {
            assert!(matches!(key_value(&prefix, bad), Err(CoordinationError::Corrupt(_))));
        }
        assert!(event(&prefix, proto::Event::default()).is_err());
    }
}
