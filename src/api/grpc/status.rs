//! Domain errors as gRPC statuses, with their parts in metadata. Called by the calls of `grpc`.

use crate::{
    api::{errors::Rule, rest::observe},
    types::Error,
};
use http::HeaderValue;
use tonic::{
    Code, Status,
    metadata::{AsciiMetadataValue, MetadataMap, MetadataValue},
};

/// Longest text in a header: metadata shares the bound of a request's head.
const TEXT_BYTES_MAX: usize = 1024;

/// The code of an error.
pub(super) fn code(error: &Error) -> Code {
    Rule::of(error.kind()).grpc
}

/// The status of an error, for the call of this request id.
pub(super) fn of(error: &Error, request_id: HeaderValue) -> Status {
    let detail = error.detail();
    let mut metadata = MetadataMap::new();
    metadata.insert("vs-code", AsciiMetadataValue::from_static(error.code()));
    if let Some(row) = detail.row {
        metadata.insert("vs-row", AsciiMetadataValue::from(row as u64));
    }
    let texts = [
        ("vs-field-bin", &detail.field),
        ("vs-expected-bin", &detail.expected),
        ("vs-got-bin", &detail.got),
        ("vs-document-id-bin", &detail.document_id),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            metadata.insert_bin(name, MetadataValue::from_bytes(cut(text).as_bytes()));
        }
    }
    metadata.as_mut().insert(observe::REQUEST_ID, request_id);
    Status::with_metadata(code(error), cut(&error.to_string()), metadata)
}

/// At most [`TEXT_BYTES_MAX`] bytes, whole characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;

    #[test]
    fn long_texts_are_cut_to_what_a_head_can_hold() {
        let error = Error::new(ErrorKind::Invalid, "x", "é".repeat(100_000)).got("ü".repeat(100_000));
        let status = of(&error, HeaderValue::from_static("r"));
        assert!(status.message().len() <= TEXT_BYTES_MAX);
        assert!(status.metadata().get_bin("vs-got-bin").unwrap().to_bytes().unwrap().len() <= TEXT_BYTES_MAX);
    }
}
