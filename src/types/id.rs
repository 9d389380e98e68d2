//! Point ids: a u64 or a UUID. The native API also takes any string, which becomes the UUIDv5 of the string.
//! Ordered (all numbers before all UUIDs) and encoded in 17 order-preserving bytes. Called by every room.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Namespace of the UUIDv5 that stands for a string id; fixed for ever, it is in stored data.
const STRING_ID_NAMESPACE: Uuid = Uuid::from_u128(0x6b1f_3a0e_91c4_5d0b_8a57_2f4e_7c11_d0a9);

/// Identity of a point within a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PointId {
    /// A number.
    Num(u64),
    /// A UUID, or the UUIDv5 of a string.
    Uuid(Uuid),
}

impl PointId {
    /// Bytes of [`PointId::to_key`].
    pub const KEY_LEN: usize = 17;

    /// The id a string stands for: a canonical decimal number is that number, a UUID in any common form is that UUID,
    /// anything else is the UUIDv5 of the string.
    pub fn from_text(text: &str) -> PointId {
        if let Some(number) = canonical_number(text) {
            return PointId::Num(number);
        }
        match Uuid::parse_str(text) {
            Ok(uuid) => PointId::Uuid(uuid),
            Err(_) => PointId::Uuid(Uuid::new_v5(&STRING_ID_NAMESPACE, text.as_bytes())),
        }
    }

    /// Order-preserving bytes: a tag (0 number, 1 UUID), then 16 bytes big-endian.
    pub fn to_key(self) -> [u8; Self::KEY_LEN] {
        let (tag, value) = match self {
            PointId::Num(number) => (0, u128::from(number)),
            PointId::Uuid(uuid) => (1, uuid.as_u128()),
        };
        let mut key = [0; Self::KEY_LEN];
        key[0] = tag;
        key[1..].copy_from_slice(&value.to_be_bytes());
        key
    }

    /// The inverse of [`PointId::to_key`]; `None` for bytes that no id encodes to.
    pub fn from_key(key: &[u8]) -> Option<PointId> {
        let (tag, rest) = key.split_first()?;
        let value = u128::from_be_bytes(rest.try_into().ok()?);
        match tag {
            0 => u64::try_from(value).ok().map(PointId::Num),
            1 => Some(PointId::Uuid(Uuid::from_u128(value))),
            _ => None,
        }
    }
}

/// `text` as a number if it is exactly how that number is printed (no sign, no leading zero).
fn canonical_number(text: &str) -> Option<u64> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PointId::Num(number) => number.fmt(f),
            PointId::Uuid(uuid) => uuid.hyphenated().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_numbers_uuids_or_hashed() {
        assert_eq!(PointId::from_text("42"), PointId::Num(42));
        assert_eq!(PointId::from_text("0"), PointId::Num(0));
        assert!(matches!(PointId::from_text("042"), PointId::Uuid(_)));
        assert!(matches!(PointId::from_text("+42"), PointId::Uuid(_)));
        assert!(matches!(PointId::from_text("18446744073709551616"), PointId::Uuid(_)));
        let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert_eq!(PointId::from_text(uuid).to_string(), uuid);
    }

    #[test]
    fn a_string_id_never_changes() {
        // In stored data for ever: if this fails, existing documents can no longer be found.
        assert_eq!(PointId::from_text("doc1").to_string(), "e15dea2e-9399-5332-883c-a45aed6312e2");
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_order(a: u64, b: u128, c: u64) {
            let (a, b, c) = (PointId::Num(a), PointId::Uuid(Uuid::from_u128(b)), PointId::Num(c));
            for id in [a, b, c] {
                prop_assert_eq!(PointId::from_key(&id.to_key()), Some(id));
            }
            for (x, y) in [(a, b), (a, c), (b, c)] {
                prop_assert_eq!(x.cmp(&y), x.to_key().cmp(&y.to_key()));
            }
        }
    }
}
