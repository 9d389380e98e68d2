//! How a write is to be taken: when it is acknowledged. Called by `api` (text forms), `service` (honouring it) and `peer`.

use super::{Error, Result};
use std::fmt;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Once a majority of its shard's voters has it on disk and the leader has applied it.
    #[default]
    Quorum,
    /// Once every voter of its shard has it.
    All,
    /// Once the leader has it on disk; it is lost if the leader is, before a majority has it.
    Async,
}

impl Ack {
    /// Every level.
    pub const ALL: [Ack; 3] = [Ack::Quorum, Ack::All, Ack::Async];

    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Ack::Quorum => "quorum",
            Ack::All => "all",
            Ack::Async => "async",
        }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// `bad_ack`.
    pub fn from_text(text: &str) -> Result<Ack> {
        Ack::ALL.into_iter().find(|ack| ack.as_str() == text).ok_or_else(|| {
            Error::invalid("bad_ack", "there is no such acknowledgement")
                .at("ack")
                .expected("quorum, all or async")
                .got(text)
        })
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
