//! A point: `2 | id, 17 bytes` → its version, the id's original text, its vectors and its payload. Decoding borrows from
//! the value and allocates nothing: it is on the path of exact reranking.
//!
//! Value, integers little-endian: format 1 · flags u8 (bit 0: original id; bit 1: told version) · version u64 · [told version u64] ·
//! [length u16, original id] ·
//! vectors u16, each: name length u16, name, bytes u32, f32 little-endian · payload length u32, JSON.

use super::RecordError;
use super::reader::{Reader, length};
use crate::types::PointId;
use std::ops::Range;

/// First byte of the keys.
pub const TAG: u8 = 2;
/// Length of every key.
pub const KEY_BYTES: usize = 1 + PointId::KEY_LEN;
const FORMAT: u8 = 1;
const RECORD: &str = "point";
const FLAG_ORIGINAL_ID: u8 = 1;
const FLAG_TOLD: u8 = 2;
const HEAD_BYTES: usize = 10;
/// Bytes of one number of a vector.
const F32_BYTES: usize = size_of::<f32>();

/// The key of a point.
pub fn key(id: PointId) -> [u8; KEY_BYTES] {
    let mut key = [TAG; KEY_BYTES];
    key[1..].copy_from_slice(&id.to_key());
    key
}

/// The id a key stands for; `None` for another record's key.
pub fn id_of_key(key: &[u8]) -> Option<PointId> {
    PointId::from_key(key.strip_prefix(&[TAG])?)
}

/// The keys of all points.
pub fn keys() -> Range<[u8; 1]> {
    [TAG]..[TAG + 1]
}

/// The keys of the points behind `id`, in id order.
pub fn keys_after(id: PointId) -> Range<Vec<u8>> {
    // The smallest key greater than the id's.
    let mut start = key(id).to_vec();
    start.push(0);
    start..vec![TAG + 1]
}

/// A stored point, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointRecord<'a> {
    /// Log index of the command that put it in this shard.
    pub version: u64,
    /// The version that clients are told, where it is another one: that of the shard the point came from, or one greater than any
    /// that came from there.
    pub told: Option<u64>,
    /// The text the id was made from, when the id is the hash of a text.
    pub original_id: Option<&'a str>,
    /// The vectors, in stored order.
    pub vectors: Vectors<'a>,
    /// A JSON object, as it was given.
    pub payload: &'a [u8],
}

/// The vectors of a record: name ("" for the single one) and f32 values as little-endian bytes (see [`f32s`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// The bytes of a point; `version` and `told` as in [`PointRecord`]. `vectors` are (name, f32 little-endian bytes). Errors: `TooLong`
/// for a part beyond its length field, `Malformed` for a vector that is not whole f32 values.
pub fn encode(
    version: u64,
    told: Option<u64>,
    original_id: Option<&str>,
    vectors: &[(&str, &[u8])],
    payload: &[u8],
) -> Result<Vec<u8>, RecordError> {
    let vector_bytes: usize = vectors.iter().map(|(name, values)| 6 + name.len() + values.len()).sum();
    let told_bytes = told.map_or(0, |_| size_of::<u64>());
    let total =
        HEAD_BYTES + told_bytes + original_id.map_or(0, |id| 2 + id.len()) + 2 + vector_bytes + 4 + payload.len();
    let mut bytes = Vec::with_capacity(total);
    bytes.push(FORMAT);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    bytes.push(flag(original_id.is_some(), FLAG_ORIGINAL_ID) | flag(told.is_some(), FLAG_TOLD));
    bytes.extend_from_slice(&version.to_le_bytes());
    if let Some(told) = told {
        bytes.extend_from_slice(&told.to_le_bytes());
    }
    if let Some(id) = original_id {
        push_text(&mut bytes, "original id", id)?;
    }
    let count: u16 = length(RECORD, "vectors", vectors.len(), u16::MAX.into())?;
    bytes.extend_from_slice(&count.to_le_bytes());
    for (name, values) in vectors {
        if values.len() % F32_BYTES != 0 {
            return Err(RecordError::Malformed { record: RECORD, problem: "a vector is not whole f32 values" });
        }
        push_text(&mut bytes, "vector name", name)?;
        push_long(&mut bytes, "vector", values)?;
    }
    push_long(&mut bytes, "payload", payload)?;
    Ok(bytes)
}

fn push_text(bytes: &mut Vec<u8>, part: &'static str, text: &str) -> Result<(), RecordError> {
    let length: u16 = length(RECORD, part, text.len(), u16::MAX.into())?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

fn push_long(bytes: &mut Vec<u8>, part: &'static str, content: &[u8]) -> Result<(), RecordError> {
    let length: u32 = length(RECORD, part, content.len(), u32::MAX as usize)?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(content);
    Ok(())
}

impl<'a> PointRecord<'a> {
    /// The record in `bytes`. Checks every bound; allocates nothing; O(number of vectors).
    pub fn decode(bytes: &'a [u8]) -> Result<PointRecord<'a>, RecordError> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let flags = reader.u8()?;
        if flags & !(FLAG_ORIGINAL_ID | FLAG_TOLD) != 0 {
            return Err(reader.malformed("unknown flags"));
        }
        let version = reader.u64()?;
        let told = if flags & FLAG_TOLD != 0 { Some(reader.u64()?) } else { None };
        let original_id = if flags & FLAG_ORIGINAL_ID != 0 { Some(reader.text()?) } else { None };
        let vectors = Vectors::read(&mut reader)?;
        let payload = reader.long()?;
        reader.finish()?;
        Ok(PointRecord { version, told, original_id, vectors, payload })
    }

    /// The version that clients are told.
    pub fn told_version(&self) -> u64 {
        self.told.unwrap_or(self.version)
    }
}

impl<'a> Vectors<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Vectors<'a>, RecordError> {
        let count = reader.u16()?;
        let bytes = reader.rest();
        for _ in 0..count {
            reader.text()?;
            if reader.long()?.len() % F32_BYTES != 0 {
                return Err(reader.malformed("a vector is not whole f32 values"));
            }
        }
        let length = bytes.len() - reader.rest().len();
        Ok(Vectors { count, bytes: &bytes[..length] })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Name and values of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map(move |_| {
            let name = split(&mut rest, 2);
            let values = split(&mut rest, 4);
            (std::str::from_utf8(name).expect("checked by decode"), values)
        })
    }

    /// The values of the vector called `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find_map(|(found, values)| (found == name).then_some(values))
    }
}

/// Takes a part behind a length of `width` bytes from bytes that `decode` has checked.
fn split<'a>(rest: &mut &'a [u8], width: usize) -> &'a [u8] {
    let (head, tail) = rest.split_at(width);
    let length = head.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (part, tail) = tail.split_at(length);
    *rest = tail;
    part
}

/// The values of a vector's little-endian bytes. Bytes beyond a multiple of four are left out.
pub fn f32s(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone + '_ {
    bytes.chunks_exact(F32_BYTES).map(|value| f32::from_le_bytes(value.try_into().expect("chunks of four bytes")))
}

/// Replaces the content of `values` with the values of a vector's bytes; allocates only to grow.
pub fn copy_f32s(bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    values.extend(f32s(bytes));
}

/// The little-endian bytes of a vector.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[test]
    fn golden_bytes() {
        let mut expected_key = vec![2, 0];
        expected_key.extend([0; 15]);
        expected_key.push(9);
        assert_eq!(key(PointId::Num(9)).to_vec(), expected_key);
        let record = encode(3, None, Some("id"), &[("", &1f32.to_le_bytes()), ("a", &[])], b"{}").unwrap();
        let expected = [
            &[1, 1, 3, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 0, b'i', b'd'],
            &[2, 0],
            &[0, 0, 4, 0, 0, 0, 0, 0, 0x80, 0x3f],
            &[1, 0, b'a', 0, 0, 0, 0],
            &[2, 0, 0, 0, b'{', b'}'],
        ];
        assert_eq!(record, expected.concat());
        assert_eq!(encode(3, None, None, &[], b"").unwrap(), [1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let told = [&[1, 2][..], &3u64.to_le_bytes(), &0x0104u64.to_le_bytes(), &[0; 6]].concat();
        assert_eq!(encode(3, Some(0x0104), None, &[], b"").unwrap(), told);
    }

    #[test]
    fn keys_are_points_in_id_order() {
        let (low, high) = (PointId::Num(9), PointId::Uuid(Uuid::max()));
        assert!(keys().start.as_slice() < key(low).as_slice() && key(high).as_slice() < keys().end.as_slice());
        let after = keys_after(low);
        assert!(
            key(low).as_slice() < after.start.as_slice() && after.start.as_slice() < key(PointId::Num(10)).as_slice()
        );
        assert!(key(high).as_slice() < after.end.as_slice());
        assert_eq!(id_of_key(&key(high)), Some(high));
        assert_eq!(id_of_key(&[3; KEY_BYTES]), None);
    }

    #[test]
    fn parts_beyond_their_length_field_are_refused() {
        let long = "x".repeat(1 << 16);
        assert!(matches!(
            encode(1, None, Some(&long), &[], b""),
            Err(RecordError::TooLong { part: "original id", .. })
        ));
        assert!(matches!(
            encode(1, None, None, &[(&long, &[])], b""),
            Err(RecordError::TooLong { part: "vector name", .. })
        ));
        let many = vec![("", &[][..]); 1 << 16];
        assert!(matches!(encode(1, None, None, &many, b""), Err(RecordError::TooLong { part: "vectors", .. })));
        assert!(matches!(encode(1, None, None, &[("", &[0; 5])], b""), Err(RecordError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn records_round_trip(
            version: u64,
            told: Option<u64>,
            original_id: Option<String>,
            vectors in prop::collection::vec((any::<String>(), prop::collection::vec(any::<f32>(), 0..20)), 0..4),
            payload: Vec<u8>,
        ) {
            let vectors: Vec<_> = vectors.iter().map(|(name, values)| (name.as_str(), f32_bytes(values))).collect();
            let borrowed: Vec<_> = vectors.iter().map(|(name, values)| (*name, values.as_slice())).collect();
            let bytes = encode(version, told, original_id.as_deref(), &borrowed, &payload).unwrap();
            let record = PointRecord::decode(&bytes).unwrap();
            prop_assert_eq!((record.version, record.told, record.original_id), (version, told, original_id.as_deref()));
            prop_assert_eq!(record.told_version(), told.unwrap_or(version));
            prop_assert_eq!(record.payload, &payload);
            prop_assert_eq!(record.vectors.len(), borrowed.len());
            prop_assert_eq!(record.vectors.iter().collect::<Vec<_>>(), borrowed.clone());
            if let Some((name, values)) = borrowed.first() {
                prop_assert_eq!(record.vectors.get(name), Some(*values));
            }
            for end in 0..bytes.len() {
                prop_assert!(PointRecord::decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn values_keep_their_bits(values: Vec<u32>) {
            let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
            let mut copied = vec![1.0; 3];
            copy_f32s(&f32_bytes(&values), &mut copied);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&copied), bits(&values));
        }

        #[test]
        fn garbage_never_panics(garbage: Vec<u8>, flags in 0u8..4, changes: Vec<(prop::sample::Index, u8)>) {
            let mut formed = vec![FORMAT, flags];
            formed.extend(&garbage);
            let mut changed = encode(1, Some(2), Some("id"), &[("a", &[0; 8]), ("b", &[0; 4])], b"{}").unwrap();
            for (at, byte) in changes {
                let at = at.index(changed.len());
                changed[at] = byte;
            }
            for bytes in [garbage, formed, changed] {
                if let Ok(record) = PointRecord::decode(&bytes) {
                    for (_, values) in record.vectors.iter() {
                        prop_assert_eq!(f32s(values).len() * 4, values.len());
                    }
                }
            }
        }
    }
}
