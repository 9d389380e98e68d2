//! Upkeep of the indexes as entries of the shard's log, so that replicas at the same applied index give the same answers to the
//! bit. Each piece of work has two entries: **Begin** pins what it works on, as of its place in the log; every replica then does the
//! work in the background, as fast as it can, while writes go on; **Adopt**, proposed by the leader once its own is done, puts
//! the result in at its place in the log. What comes out depends on these two places and on the writes between them, never on when
//! or where the work ran (`index::ArrangeJob` and `index::train` are exact in that). A replica that comes to Adopt before its work is
//! done waits there, with whoever waits for its applied index; the leader, on whose applying acknowledgements wait, is done by then,
//! so writes go on. One piece is under way at a time: a beginning ends what was under way with nothing come of it, whether what it begins
//! is possible or not. That depends on no more than the log, so that a replica which has lost its lists does not begin what others do not.
//!
//! The leader decides what is due and when (`indexer`); replicas decide nothing. Restarts: the index file is of one log index; the
//! journal (`store::keys::journal`) holds what happened since, the points that upkeep has seen and that were replaced later are
//! kept (`store::keys::before`), and `replay` does the same work again. A checkpoint carries all three.
//!
//! A replica whose file is damaged cannot know what the others' lists are: it is **astray**, says so, keeps all rows in its tail and
//! so answers exactly, and asks for a training, with whose adoption it is equal again.
//! Commands are decoded here; carried out by `machine`, with `job` and `keeper`.

pub mod begin;
pub mod job;
pub mod keeper;
pub mod replay;
pub mod training;

use crate::types::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// First byte of such an entry; those of `command` are 1 and 2.
const FORMAT: u8 = 3;

/// One entry. The bytes are stored data: the variants keep their order for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upkeep<'a> {
    /// Pins what `work` on the index of a vector works on. `list_rows`: as `IndexSettings::list_rows`, which each node could have its
    /// own idea of.
    Begin { vector: &'a str, work: Work, list_rows: u32 },
    /// Puts in what came of the work that began at this log index, if it is still under way.
    Adopt { begun: u64 },
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Posting lists are built from all points.
    Train,
    /// Fresh rows go into lists, lists are brought into shape.
    Arrange,
    /// The plans of searches are chosen anew.
    Recalibrate,
}

impl Work {
    /// Whether it works on the rows of points, so that they must be kept for as long as it may have to be done again; the other looks
    /// at nothing but lists.
    pub fn takes_rows(self) -> bool {
        self != Work::Recalibrate
    }
}

impl<'a> Upkeep<'a> {
    /// Whether a log entry is of this kind.
    pub fn is_one(entry: &[u8]) -> bool {
        entry.first() == Some(&FORMAT)
    }

    /// Bytes for the log.
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![FORMAT]).expect("names and numbers encode, and a Vec grows").into()
    }

    /// The inverse of [`Upkeep::encode`].
    ///
    /// # Errors
    /// `Corrupt` for bytes no version of this program wrote, or a newer one did.
    pub fn decode(entry: &'a [u8]) -> Result<Upkeep<'a>> {
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, "bad_command", why);
        let rest = entry.strip_prefix(&[FORMAT]).ok_or_else(|| corrupt("a log entry is no upkeep".to_owned()))?;
        postcard::from_bytes(rest).map_err(|error| corrupt(format!("a log entry is no upkeep: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::Command;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let begin = |work| Upkeep::Begin { vector: "v", work, list_rows: 300 };
        assert_eq!(begin(Work::Train).encode()[..], [3, 0, 1, b'v', 0, 0xac, 2]);
        assert_eq!(begin(Work::Arrange).encode()[4], 1);
        assert_eq!(begin(Work::Recalibrate).encode()[4], 2);
        assert_eq!(Upkeep::Adopt { begun: 300 }.encode()[..], [3, 1, 0xac, 2]);
    }

    #[test]
    fn upkeep_is_no_command_and_the_other_way_round() {
        let adopt = Upkeep::Adopt { begun: 7 };
        let bytes = adopt.encode();
        assert!(Upkeep::is_one(&bytes) && Command::decode(&bytes).is_err());
        assert_eq!(Upkeep::decode(&bytes), Ok(adopt));
        let command = Command::Delete(Vec::new()).encode(None).unwrap();
        assert!(!Upkeep::is_one(&command) && Upkeep::decode(&command).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let formed = [&[FORMAT][..], &bytes].concat();
            let _ = (Upkeep::decode(&bytes).is_ok(), Upkeep::decode(&formed).is_ok());
        }
    }
}
