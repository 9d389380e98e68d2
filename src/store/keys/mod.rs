//! How records are laid out in the spaces: one file a record kind, each with a tag that never changes and a test that holds
//! its bytes. Decoding borrows, checks every bound and never panics, whatever the bytes are. What a record means is the
//! business of the room that asks: `shard` (`meta`, `point`, `journal`, `request`, `before`, `border`), `coordination` (`control`), `raft` (`log`).
//!
//! | space | tag | record |
//! |---|---|---|
//! | any | 0 | the store's own mark of a sync |
//! | `shard-{id:016x}` | 1 | `meta`: applied index, counts, content hash, epoch of the index files |
//! | | 2 | `point`: version, original id, vectors, payload |
//! | | 3 | `journal`: what happened to the indexes since their file was written |
//! | | 4 | `request`: what a client's request id led to |
//! | | 5 | `request`: request ids in the order they came |
//! | | 6 | `before`: points as they were before later commands |
//! | | 7 | `border`: which slots the shard owns, and what is on its way to another shard |
//! | `control` | 1 | `control`: a key of the coordinator with its revisions |
//! | | 2 | `control`: the coordinator's own counters |
//! | | 3 | `control`: a lease of the coordinator |
//! | `log` | – | `log`: group, kind, index → entry or state of the group |

pub mod before;
pub mod border;
pub mod control;
pub mod journal;
pub mod log;
pub mod meta;
pub mod point;
mod reader;
pub mod request;

/// Key the store adds, with an empty value, to the first batch after a sync: everything before this batch was synced. It lets
/// the next start tell damage to the journal from a tear.
pub const SYNC_MARK_KEY: &[u8] = b"\0sync";
/// Name of the coordinator's space.
pub const CONTROL_SPACE: &str = "control";
/// Name of the space of the Raft log, in its own database.
pub const LOG_SPACE: &str = "log";

/// Name of the space of a shard.
pub fn shard_space(shard: u64) -> String {
    format!("shard-{shard:016x}")
}

/// The shard a space belongs to; `None` for another kind of space.
pub fn shard_of_space(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("shard-").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().filter(|shard| shard_space(*shard) == name)
}

/// A record that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end early, go on too long or break a rule of the layout.
    #[error("{record} record: {problem}")]
    Malformed {
        /// The kind of record.
        record: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A layout this program does not know.
    #[error("{record} record: format {found} is newer than this program's ({supported})")]
    NewerFormat {
        /// The kind of record.
        record: &'static str,
        /// The format found.
        found: u8,
        /// The newest format this program reads.
        supported: u8,
    },
    /// A part does not fit its length field.
    #[error("{record} record: {part} has {got} bytes or items, expected at most {limit}")]
    TooLong {
        /// The kind of record.
        record: &'static str,
        /// The part that is too long.
        part: &'static str,
        /// Its length.
        got: usize,
        /// The largest length.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shard_spaces_round_trip_and_never_change() {
        assert_eq!(shard_space(0xabc), "shard-0000000000000abc");
        assert_eq!(shard_of_space("shard-0000000000000abc"), Some(0xabc));
        for other in
            ["control", "shard-abc", "shard-0000000000000ABC", "shard-+000000000000abc", "shard-00000000000000abc"]
        {
            assert_eq!(shard_of_space(other), None, "{other}");
        }
    }
}
