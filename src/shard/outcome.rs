//! What applying a command did, and its bytes: outcomes travel between nodes when a write was forwarded, and are kept with
//! the request ids. Called by `machine` (making it), `requests` (keeping it) and `replica` (answering with it).
//!
//! Bytes: format 1, then in postcard what was settled (applied how, or refused as which kind and code), then, for a
//! refusal, its words (message and detail). What was settled is the same on every replica whatever its version; words may
//! be put better in a later version, so the content hash leaves them out.

use crate::types::{Error, ErrorKind, Result, SlotRange, error::Detail};
use serde::{Deserialize, Serialize};

/// Format of the encoding; its first byte.
const FORMAT: u8 = 1;

/// The outcome of one command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It took effect.
    Applied(Applied),
    /// It was refused, the same on every replica, and changed nothing.
    Refused(Error),
}

/// The effect of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Points were written and now have this version.
    Written { version: u64 },
    /// So many points were there and are gone.
    Deleted { count: u64 },
    /// So many points were there and are gone, of a shard whose slots have moved and which owned these.
    DeletedIn { count: u64, slots: SlotRange },
    /// The entry was the log's own: a new leader's first, or a change of members.
    Nothing,
}

/// What is the same in every version. The bytes are stored data: the variants keep their order for ever.
#[derive(Serialize, Deserialize)]
enum Settled<'a> {
    Nothing,
    Written { version: u64 },
    Deleted { count: u64 },
    Refused { kind: u8, code: &'a str },
    DeletedIn { count: u64, slots: SlotRange },
}

/// What a refusal says.
#[derive(Serialize, Deserialize)]
struct Words<'a> {
    message: &'a str,
    field: Option<&'a str>,
    expected: Option<&'a str>,
    got: Option<&'a str>,
    row: Option<u64>,
    document_id: Option<&'a str>,
}

impl Outcome {
    /// What came of a request that was done in two parts: a refusal of either; else the later version, the sum of counts.
    pub fn with(&self, other: &Outcome) -> Outcome {
        use Applied::{Deleted, Written};
        match (self, other) {
            (Outcome::Refused(_), _) | (_, Outcome::Applied(Applied::Nothing)) => self.clone(),
            (_, Outcome::Refused(_)) | (Outcome::Applied(Applied::Nothing), _) => other.clone(),
            (Outcome::Applied(Written { version: one }), Outcome::Applied(Written { version: two })) => {
                Outcome::Applied(Written { version: *one.max(two) })
            }
            (Outcome::Applied(Deleted { count: one }), Outcome::Applied(Deleted { count: two })) => {
                Outcome::Applied(Deleted { count: one.saturating_add(*two) })
            }
            // A request id that was used for two things.
            (Outcome::Applied(_), Outcome::Applied(_)) => self.clone(),
        }
    }

    /// Bytes for another node, or for the store.
    pub fn encode(&self) -> Vec<u8> {
        let settled = match self {
            Outcome::Applied(Applied::Nothing) => Settled::Nothing,
            Outcome::Applied(Applied::Written { version }) => Settled::Written { version: *version },
            Outcome::Applied(Applied::Deleted { count }) => Settled::Deleted { count: *count },
            Outcome::Applied(Applied::DeletedIn { count, slots }) => {
                Settled::DeletedIn { count: *count, slots: *slots }
            }
            Outcome::Refused(error) => Settled::Refused { kind: kind_tag(error.kind()), code: error.code() },
        };
        let bytes = append(vec![FORMAT], &settled);
        match self {
            Outcome::Applied(_) => bytes,
            Outcome::Refused(error) => append(bytes, &Words::of(error)),
        }
    }

    /// The inverse of [`Outcome::encode`].
    ///
    /// # Errors
    /// `Corrupt` for bytes no version of this program wrote, or a newer one did.
    pub fn decode(bytes: &[u8]) -> Result<Outcome> {
        let (settled, rest) = settled(bytes)?;
        let applied = match settled {
            Settled::Nothing => Applied::Nothing,
            Settled::Written { version } => Applied::Written { version },
            Settled::Deleted { count } => Applied::Deleted { count },
            Settled::DeletedIn { count, slots } => {
                let range = SlotRange::new(slots.first, slots.end).ok_or_else(|| corrupt("no range of slots"))?;
                Applied::DeletedIn { count, slots: range }
            }
            Settled::Refused { kind, code } => {
                let kind = kind_of_tag(kind).ok_or_else(|| corrupt("an unknown kind of error"))?;
                let (words, rest) = postcard::take_from_bytes::<Words<'_>>(rest).map_err(corrupt)?;
                let error = Error::restore(kind, code, words.message, words.detail());
                return if rest.is_empty() {
                    Ok(Outcome::Refused(error))
                } else {
                    Err(corrupt("bytes follow its end"))
                };
            }
        };
        if rest.is_empty() { Ok(Outcome::Applied(applied)) } else { Err(corrupt("bytes follow its end")) }
    }

    /// The part of an encoded outcome that is the same in every version of the program.
    ///
    /// # Errors
    /// Those of [`Outcome::decode`].
    pub fn settled_bytes(bytes: &[u8]) -> Result<&[u8]> {
        let (_, words) = settled(bytes)?;
        Ok(&bytes[..bytes.len() - words.len()])
    }
}

fn settled(bytes: &[u8]) -> Result<(Settled<'_>, &[u8])> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::take_from_bytes(rest).map_err(corrupt),
        Some((format, _)) => Err(corrupt(format!("its format {format} is unknown"))),
        None => Err(corrupt("it is empty")),
    }
}

fn append(bytes: Vec<u8>, part: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(part, bytes).expect("numbers and texts can be encoded, and a Vec grows")
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "bad_outcome", format!("this is no outcome of a write: {why}"))
}

impl<'a> Words<'a> {
    fn of(error: &'a Error) -> Words<'a> {
        let Detail { field, expected, got, row, document_id } = error.detail();
        Words {
            message: error.message(),
            field: field.as_deref(),
            expected: expected.as_deref(),
            got: got.as_deref(),
            row: row.map(|row| row as u64),
            document_id: document_id.as_deref(),
        }
    }

    fn detail(&self) -> Detail {
        Detail {
            field: self.field.map(str::to_owned),
            expected: self.expected.map(str::to_owned),
            got: self.got.map(str::to_owned),
            row: self.row.map(|row| row as usize),
            document_id: self.document_id.map(str::to_owned),
        }
    }
}

/// The number of a kind in stored data, for ever.
fn kind_tag(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid => 1,
        ErrorKind::NotFound => 2,
        ErrorKind::Conflict => 3,
        ErrorKind::Unavailable => 4,
        ErrorKind::Exhausted => 5,
        ErrorKind::Indeterminate => 6,
        ErrorKind::Corrupt => 7,
        ErrorKind::Internal => 8,
    }
}

fn kind_of_tag(tag: u8) -> Option<ErrorKind> {
    ErrorKind::ALL.into_iter().find(|kind| kind_tag(*kind) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal() -> Error {
        Error::new(ErrorKind::Conflict, "version_mismatch", "other")
            .at("if_version")
            .expected(1)
            .got(2)
            .row(3)
            .document("d")
    }

    #[test]
    fn golden_bytes() {
        let hex = |outcome: Outcome| outcome.encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(Outcome::Applied(Applied::Nothing)), "0100");
        assert_eq!(hex(Outcome::Applied(Applied::Written { version: 300 })), "0101ac02");
        assert_eq!(hex(Outcome::Applied(Applied::Deleted { count: 5 })), "010205");
        let slots = SlotRange { first: 1, end: 300 };
        assert_eq!(hex(Outcome::Applied(Applied::DeletedIn { count: 5, slots })), "01040501ac02");
        let settled = "0103031076657273696f6e5f6d69736d61746368";
        let words = "056f74686572010a69665f76657273696f6e0101310101320103010164";
        assert_eq!(hex(Outcome::Refused(refusal())), format!("{settled}{words}"));
        let bytes = Outcome::Refused(refusal()).encode();
        assert_eq!(Outcome::settled_bytes(&bytes).unwrap().len() * 2, settled.len());
    }

    #[test]
    fn two_parts_have_one_outcome() {
        let written = |version| Outcome::Applied(Applied::Written { version });
        let deleted = |count| Outcome::Applied(Applied::Deleted { count });
        let (refused, nothing) = (Outcome::Refused(refusal()), Outcome::Applied(Applied::Nothing));
        for (one, two, both) in [
            (written(3), written(5), written(5)),
            (deleted(3), deleted(5), deleted(8)),
            (written(3), refused.clone(), refused.clone()),
            (nothing.clone(), deleted(3), deleted(3)),
            (nothing.clone(), refused.clone(), refused),
        ] {
            assert_eq!((one.with(&two), two.with(&one)), (both.clone(), both));
        }
        assert_eq!(nothing.with(&nothing), nothing);
    }

    #[test]
    fn outcomes_round_trip() {
        let refused = ErrorKind::ALL.map(|kind| Outcome::Refused(refusal().as_kind(kind, "as it was")));
        let plain = Outcome::Refused(Error::invalid("metadata_too_large", ""));
        let written = Outcome::Applied(Applied::Written { version: u64::MAX });
        let deleted = Outcome::Applied(Applied::DeletedIn { count: 3, slots: SlotRange::ALL });
        for outcome in refused.into_iter().chain([plain, written, deleted]) {
            let bytes = outcome.encode();
            assert_eq!(Outcome::decode(&bytes).unwrap(), outcome);
            for end in 0..bytes.len() {
                assert_eq!(Outcome::decode(&bytes[..end]).unwrap_err().code(), "bad_outcome");
            }
            assert!(Outcome::decode(&[bytes, vec![0]].concat()).is_err());
        }
        assert_eq!(Outcome::decode(&[9, 0]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let formed = [vec![FORMAT], bytes.clone()].concat();
            let _ = (Outcome::decode(&bytes), Outcome::decode(&formed), Outcome::settled_bytes(&formed));
        }
    }
}
