//! What happened to a shard's indexes since their file was written, so that a restart, or whoever is given a checkpoint, can make
//! them again to the bit: `3 | log index u64 BE` → format 2, kind u8, content. The first record of a shard is its base: what the
//! index file of that log index lacks.
//!
//! Kinds: 1, the points that the commands up to this index touched: count u32, of each id (17 bytes) and version u64, 0 if it is
//! gone. 2, a command of upkeep, as it stands in the log. 3, the base: rows that are in no list, as in 1; then count u16 and of each
//! vector that has lists its name and the log index up to which its rows are in them, u64; then, as names alone, the vectors whose
//! lists were lost.

use super::RecordError;
use super::reader::{Reader, length};
use crate::types::PointId;
use std::ops::Range;

/// First byte of the keys.
pub const TAG: u8 = 3;
const FORMAT: u8 = 2;
const RECORD: &str = "journal";
const TOUCHED: u8 = 1;
const UPKEEP: u8 = 2;
const BASE: u8 = 3;
const ROW_BYTES: usize = PointId::KEY_LEN + 8;

/// A point and the version it has then; 0 if it is gone.
pub type Row = (PointId, u64);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Points that were written or removed.
    Touched(Vec<Row>),
    /// A command of upkeep.
    Upkeep(&'a [u8]),
    /// What the records after this one build on.
    Base(Base),
}

/// What an index file of some log index does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Points whose rows were in no list.
    pub unfiled: Vec<Row>,
    /// By vector that has lists: rows written up to this log index are in them, no other.
    pub filed: Vec<(String, u64)>,
    /// Vectors that have lists elsewhere, which were lost here.
    pub astray: Vec<String>,
}

/// The key of the record at `log_index`.
pub fn key(log_index: u64) -> [u8; 9] {
    let mut key = [TAG; 9];
    key[1..].copy_from_slice(&log_index.to_be_bytes());
    key
}

/// The log index a key stands for; `None` for another record's key.
pub fn log_index(key: &[u8]) -> Option<u64> {
    let (tag, index) = key.split_first()?;
    (*tag == TAG).then_some(u64::from_be_bytes(index.try_into().ok()?))
}

/// The keys of all records from `log_index` on.
pub fn keys_from(log_index: u64) -> Range<Vec<u8>> {
    key(log_index).to_vec()..vec![TAG + 1]
}

/// The value of an entry.
pub fn encode(entry: &Entry<'_>) -> Result<Vec<u8>, RecordError> {
    let mut value = vec![FORMAT];
    match entry {
        Entry::Touched(rows) => {
            value.push(TOUCHED);
            put_rows(&mut value, rows)?;
        }
        Entry::Upkeep(command) => {
            value.push(UPKEEP);
            value.extend_from_slice(command);
        }
        Entry::Base(base) => {
            value.push(BASE);
            put_rows(&mut value, &base.unfiled)?;
            value.extend(length::<u16>(RECORD, "vectors", base.filed.len(), u16::MAX.into())?.to_le_bytes());
            for (name, filed) in &base.filed {
                put_text(&mut value, name)?;
                value.extend(filed.to_le_bytes());
            }
            for name in &base.astray {
                put_text(&mut value, name)?;
            }
        }
    }
    Ok(value)
}

fn put_rows(value: &mut Vec<u8>, rows: &[Row]) -> Result<(), RecordError> {
    let count: u32 = length(RECORD, "rows", rows.len(), u32::MAX as usize)?;
    value.reserve(4 + rows.len() * ROW_BYTES);
    value.extend_from_slice(&count.to_le_bytes());
    for (id, version) in rows {
        value.extend_from_slice(&id.to_key());
        value.extend_from_slice(&version.to_le_bytes());
    }
    Ok(())
}

fn put_text(value: &mut Vec<u8>, text: &str) -> Result<(), RecordError> {
    value.extend(length::<u16>(RECORD, "name", text.len(), u16::MAX.into())?.to_le_bytes());
    value.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The inverse of [`encode`].
pub fn decode(value: &[u8]) -> Result<Entry<'_>, RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    let entry = match reader.u8()? {
        TOUCHED => Entry::Touched(rows(&mut reader)?),
        UPKEEP => return Ok(Entry::Upkeep(reader.rest())),
        BASE => {
            let unfiled = rows(&mut reader)?;
            let count = reader.u16()?;
            let filed = (0..count).map(|_| Ok((reader.text()?.to_owned(), reader.u64()?)));
            let filed = filed.collect::<Result<_, RecordError>>()?;
            let mut astray = Vec::new();
            while !reader.rest().is_empty() {
                astray.push(reader.text()?.to_owned());
            }
            Entry::Base(Base { unfiled, filed, astray })
        }
        _ => return Err(reader.malformed("an unknown kind")),
    };
    reader.finish()?;
    Ok(entry)
}

fn rows(reader: &mut Reader<'_>) -> Result<Vec<Row>, RecordError> {
    let count = reader.u32()? as usize;
    // Checked before anything is allocated.
    if reader.rest().len() < count.saturating_mul(ROW_BYTES) {
        return Err(reader.malformed("it has fewer rows than it says"));
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let id = PointId::from_key(reader.take(PointId::KEY_LEN)?).ok_or_else(|| reader.malformed("not an id"))?;
        rows.push((id, reader.u64()?));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base() -> Base {
        Base { unfiled: vec![(PointId::Num(1), 2)], filed: vec![("a".into(), 3)], astray: vec!["b".into()] }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(key(0x0102), [3, 0, 0, 0, 0, 0, 0, 1, 2]);
        let id = |n: u8| [vec![0; 16], vec![n]].concat();
        let long = |n: u8| [vec![n], vec![0; 7]].concat();
        let touched = [vec![2, 1, 1, 0, 0, 0], id(5), long(7)].concat();
        assert_eq!(encode(&Entry::Touched(vec![(PointId::Num(5), 7)])).unwrap(), touched);
        assert_eq!(encode(&Entry::Upkeep(&[8, 9])).unwrap(), [2, 2, 8, 9]);
        let rows = [vec![2, 3, 1, 0, 0, 0], id(1), long(2)].concat();
        let names = [vec![1, 0, 1, 0, b'a'], long(3), vec![1, 0, b'b']].concat();
        assert_eq!(encode(&Entry::Base(base())).unwrap(), [rows, names].concat());
    }

    #[test]
    fn keys_are_in_log_order_and_only_of_the_journal() {
        let from = keys_from(256);
        assert!(from.start.as_slice() <= key(256).as_slice() && key(u64::MAX).as_slice() < from.end.as_slice());
        assert!(key(255).as_slice() < from.start.as_slice());
        assert_eq!(log_index(&key(77)), Some(77));
        assert_eq!(log_index(&[2; 9]), None);
        assert_eq!(log_index(&[3; 8]), None);
    }

    proptest! {
        #[test]
        fn entries_round_trip(rows in prop::collection::vec((any::<u64>().prop_map(PointId::Num), any::<u64>()), 0..50)) {
            for entry in [
                Entry::Touched(rows.clone()),
                Entry::Base(Base { unfiled: rows.clone(), ..base() }),
                Entry::Upkeep(&[1]),
            ] {
                let bytes = encode(&entry).unwrap();
                prop_assert_eq!(decode(&bytes).unwrap(), entry);
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, kind in 0..4u8) {
            let formed = [&[FORMAT, kind][..], &bytes].concat();
            let _ = (decode(&bytes), decode(&formed));
        }
    }
}
