//! Where a shard ends, once slots have moved: `7 | 1` → format 1, which slots it owns and what it knows of those that moved;
//! `7 | 2` → format 1, the points and requests that are on their way to another shard. The bytes behind the format mean
//! something to `shard` only.

use super::RecordError;
use super::reader::Reader;

/// First byte of the keys.
pub const TAG: u8 = 7;
/// The key of what the shard owns.
pub const KEY: [u8; 2] = [TAG, 1];
/// The key of what is on its way.
pub const CARGO_KEY: [u8; 2] = [TAG, 2];
const FORMAT: u8 = 1;
const RECORD: &str = "border";

/// The value that holds `content`.
pub fn encode(content: &[u8]) -> Vec<u8> {
    [&[FORMAT], content].concat()
}

/// The inverse of [`encode`].
pub fn decode(value: &[u8]) -> Result<&[u8], RecordError> {
    Reader::open(RECORD, FORMAT, value).map(|reader| reader.rest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!((KEY, CARGO_KEY), ([7, 1], [7, 2]));
        assert_eq!(encode(b"ab"), [1, b'a', b'b']);
        assert_eq!(decode(&encode(b"ab")), Ok(&b"ab"[..]));
        assert!(matches!(decode(&[2, 1]), Err(RecordError::NewerFormat { found: 2, .. })));
        assert!(decode(&[]).is_err() && decode(&[0]).is_err());
    }
}
