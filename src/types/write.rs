//! How a write is to be taken: when it is acknowledged, and by which id a retry of it is known again. Called by `api` (text
//! forms), `service` (honouring them) and `shard` (which keeps the ids with its data).

use super::{DocumentId, Error, Result, limits};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Namespace of the UUIDv5 that stands for a request id's text; fixed for ever, it is in stored data.
const REQUEST_ID_NAMESPACE: Uuid = Uuid::from_u128(0x2d6c_94a1_53fe_5b7e_9d08_e1b4_70a2_c6f5);

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

/// A client's name for one write, the same in all its retries: the write takes effect once, and every retry is given the
/// first outcome. A client that uses one id for two different writes gets the outcome of the first for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId([u8; RequestId::BYTES]);

impl RequestId {
    /// Bytes of an id.
    pub const BYTES: usize = 16;

    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; RequestId::BYTES]) -> RequestId {
        RequestId(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; RequestId::BYTES] {
        &self.0
    }

    /// The id of the document at `row` of the write, where the client gave none: every retry invents the same.
    pub fn document_id(&self, row: usize) -> DocumentId {
        let uuid = Uuid::new_v5(&Uuid::from_bytes(self.0), &(row as u64).to_be_bytes());
        DocumentId::Text(uuid.to_string())
    }

    /// The id a client's text stands for: a UUID in any common form is that UUID, anything else the UUIDv5 of the text.
    ///
    /// # Errors
    /// `bad_request_id` if the text is empty, longer than [`limits::REQUEST_ID_BYTES_MAX`] or not printable ASCII.
    pub fn from_text(text: &str) -> Result<RequestId> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if text.is_empty() || text.len() > limits::REQUEST_ID_BYTES_MAX || !printable {
            return Err(Error::invalid("bad_request_id", "this cannot be the id of a request")
                .at("request_id")
                .expected(format!("1 to {} printable ASCII characters", limits::REQUEST_ID_BYTES_MAX))
                .got(if printable { format!("{} characters", text.len()) } else { "other characters".to_owned() }));
        }
        let uuid = Uuid::parse_str(text).unwrap_or_else(|_| Uuid::new_v5(&REQUEST_ID_NAMESPACE, text.as_bytes()));
        Ok(RequestId(uuid.into_bytes()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub ack: Ack,
    /// Absent: a retry is a new write.
    pub request_id: Option<RequestId>,
}

impl WriteOptions {
    /// Reads both text forms; what is absent is the default.
    ///
    /// # Errors
    /// `bad_ack`, `bad_request_id`.
    pub fn from_texts(ack: Option<&str>, request_id: Option<&str>) -> Result<WriteOptions> {
        let ack = ack.map(Ack::from_text).transpose()?.unwrap_or_default();
        Ok(WriteOptions { ack, request_id: request_id.map(RequestId::from_text).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_have_text_forms() {
        for ack in Ack::ALL {
            assert_eq!(Ack::from_text(&ack.to_string()), Ok(ack));
        }
        let error = Ack::from_text("Quorum").unwrap_err();
        assert_eq!((error.code(), error.detail().field.as_deref()), ("bad_ack", Some("ack")));
        assert_eq!(WriteOptions::from_texts(None, None), Ok(WriteOptions { ack: Ack::Quorum, request_id: None }));
        let both = WriteOptions::from_texts(Some("all"), Some("one")).unwrap();
        assert_eq!(both, WriteOptions { ack: Ack::All, request_id: RequestId::from_text("one").ok() });
    }

    #[test]
    fn a_request_id_never_changes() {
        // In stored data for ever: if this fails, a retry across an upgrade takes effect twice.
        let id = |text| RequestId::from_text(text).unwrap().to_string();
        assert_eq!(id("67E55044-10B1-426F-9247-BB680E5FE0C8"), "67e55044-10b1-426f-9247-bb680e5fe0c8");
        assert_eq!(id("order 17"), "3230cd70-4129-51b0-8543-e34c9ea1c57c");
    }

    #[test]
    fn invented_document_ids_never_change() {
        // A retry after an upgrade must not invent another id.
        let id = RequestId::from_text("order 17").unwrap();
        assert_eq!(
            [0, 1].map(|row| id.document_id(row).to_string()),
            ["517df2d2-3d6d-5dd1-be62-202949a28443", "977645cd-08d9-5677-9b2a-dbad9443de74"]
        );
        assert_ne!(id.document_id(0), RequestId::from_text("order 18").unwrap().document_id(0));
    }

    #[test]
    fn request_ids_are_short_printable_texts() {
        for bad in ["", &"x".repeat(65), "a\n", "é"] {
            assert_eq!(RequestId::from_text(bad).unwrap_err().code(), "bad_request_id", "{bad:?}");
        }
        assert!(RequestId::from_text(&"x".repeat(64)).is_ok());
        let id = RequestId::from_text("one").unwrap();
        assert_eq!(RequestId::from_text(&id.to_string()), Ok(id));
    }
}
