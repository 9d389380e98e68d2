//! Small facts about a shard's own state, each a u64: `1 | code` → format 1, u64 little-endian.
//! The applied index is written in the same batch as the effects of the command, so the two can never disagree.

use super::RecordError;
use super::reader::Reader;

/// First byte of the keys.
pub const TAG: u8 = 1;
const FORMAT: u8 = 1;
const RECORD: &str = "meta";

/// Which fact. The codes are in stored data for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MetaKey {
    /// Log index of the last command whose effects are in the space.
    AppliedIndex = 1,
    /// Live points.
    PointCount = 2,
    /// Epoch of the index file that belongs to this state; 0 if there is none.
    IndexEpoch = 3,
    // 4 was: the log index up to which index files had taken in what commands touched. Replaced by 9.
    /// Bytes of live point records.
    PointBytes = 5,
    /// Hash of what the space holds at the applied index.
    ContentHash = 6,
    /// Requests ever recorded, so also the sequence number of the last.
    Requests = 7,
    /// 1 while a checkpoint is being written to the space: whatever else it holds means nothing.
    Installing = 8,
    /// Log index at which the journal of the indexes begins: that of the index file, or that before the first training. Absent while
    /// no index was ever trained.
    IndexBase = 9,
}

impl MetaKey {
    /// The key in the space.
    pub const fn key(self) -> [u8; 2] {
        [TAG, self as u8]
    }
}

/// The value that stands for `number`.
pub fn encode(number: u64) -> [u8; 9] {
    let mut value = [FORMAT; 9];
    value[1..].copy_from_slice(&number.to_le_bytes());
    value
}

/// The number a value stands for.
pub fn decode(value: &[u8]) -> Result<u64, RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    let number = reader.u64()?;
    reader.finish()?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(MetaKey::AppliedIndex.key(), [1, 1]);
        assert_eq!(MetaKey::PointCount.key(), [1, 2]);
        assert_eq!(MetaKey::IndexEpoch.key(), [1, 3]);
        assert_eq!(MetaKey::PointBytes.key(), [1, 5]);
        assert_eq!(MetaKey::ContentHash.key(), [1, 6]);
        assert_eq!(MetaKey::Requests.key(), [1, 7]);
        assert_eq!(MetaKey::Installing.key(), [1, 8]);
        assert_eq!(MetaKey::IndexBase.key(), [1, 9]);
        assert_eq!(encode(0x0102), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn bad_values_are_refused() {
        assert_eq!(decode(&encode(u64::MAX)), Ok(u64::MAX));
        for bad in [&[][..], &[1; 8], &[1; 10], &[0; 9]] {
            assert!(matches!(decode(bad), Err(RecordError::Malformed { .. })), "{bad:?}");
        }
        assert!(matches!(decode(&[2; 9]), Err(RecordError::NewerFormat { found: 2, .. })));
    }
}
