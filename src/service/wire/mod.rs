//! Reads and their answers as bytes between nodes: a format byte, then postcard of structures that exist for this alone. What comes
//! from another node is checked like a client's request before anything is made of it: bounds, ids, vectors, filters.
//!
//! The bytes are a protocol between two versions of the program: golden tests hold them; a change is a new format, which a node
//! speaks beside the old one for one version. Called by `read` and `fan_out`.

mod answer;
mod point;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{decode_answer, encode_answer};
pub use request::{decode_read, encode_read};

use crate::types::{Error, ErrorKind, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Format of both directions; the first byte of each message.
const FORMAT: u8 = 1;

fn to_bytes(message: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(message, vec![FORMAT]).expect("numbers, texts and lists can be encoded, and a Vec grows")
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(bad("bytes follow its end")),
            Err(error) => Err(bad(error)),
        },
        Some((format, _)) => Err(bad(format!("its format {format} is unknown"))),
        None => Err(bad("it is empty")),
    }
}

/// What is no message of this protocol. Nothing happened; another node may be understood better.
pub fn bad(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, "bad_peer_message", format!("a message of another node cannot be read: {why}"))
}
