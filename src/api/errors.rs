//! The one table from the domain's errors to the outside: HTTP status and gRPC code of every [`ErrorKind`], and the few
//! codes for which HTTP has a status of its own.
//!
//! Promise: every kind has a rule (a missing one does not compile), and no other file chooses a status for an error.
//! Called by `rest` and `grpc`.

use crate::types::{Error, ErrorKind};
use http::StatusCode;
use tonic::Code;

/// What a client is told about a kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// HTTP status.
    pub status: StatusCode,
    /// gRPC status.
    pub grpc: Code,
    /// Seconds after which the same request may be sent again, if that can help.
    pub retry_after_seconds: Option<u32>,
}

impl Rule {
    const fn new(status: StatusCode, grpc: Code, retry_after_seconds: Option<u32>) -> Rule {
        Rule { status, grpc, retry_after_seconds }
    }

    /// The rule of a kind.
    pub const fn of(kind: ErrorKind) -> Rule {
        match kind {
            ErrorKind::Invalid => Rule::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, None),
            ErrorKind::NotFound => Rule::new(StatusCode::NOT_FOUND, Code::NotFound, None),
            // Aborted, not AlreadyExists: the conflict that gRPC can meet is a version that another writer changed.
            ErrorKind::Conflict => Rule::new(StatusCode::CONFLICT, Code::Aborted, None),
            ErrorKind::Unavailable => Rule::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, Some(1)),
            ErrorKind::Exhausted => Rule::new(StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, Some(1)),
            // "May have completed" is what both of these say by definition; clients must not take them for "did not".
            ErrorKind::Indeterminate => Rule::new(StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, None),
            ErrorKind::Corrupt => Rule::new(StatusCode::INTERNAL_SERVER_ERROR, Code::DataLoss, None),
            ErrorKind::Internal => Rule::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, None),
        }
    }
}

/// Codes of `Invalid` errors for which HTTP has a status more exact than 400.
const HTTP_STATUS_BY_CODE: [(&str, StatusCode); 4] = [
    (BODY_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE),
    (UNSUPPORTED_MEDIA_TYPE, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    (METHOD_NOT_ALLOWED, StatusCode::METHOD_NOT_ALLOWED),
    (REQUEST_TIMEOUT, StatusCode::REQUEST_TIMEOUT),
];

/// The body is over the bound, sent or after decompression.
pub const BODY_TOO_LARGE: &str = "body_too_large";
/// The body's media type or encoding is none this call takes.
pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported_media_type";
/// The path exists, but not with this method.
pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
/// The body came too slowly.
pub const REQUEST_TIMEOUT: &str = "request_timeout";

/// The HTTP status of an error.
pub fn http_status(error: &Error) -> StatusCode {
    let rule = Rule::of(error.kind());
    let own = HTTP_STATUS_BY_CODE.iter().find(|(code, _)| error.kind() == ErrorKind::Invalid && *code == error.code());
    own.map_or(rule.status, |(_, status)| *status)
}

/// The name closest to `got`, if it is close enough to be a slip of the keyboard.
pub fn did_you_mean<'n>(got: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    const LIKENESS_MIN: f64 = 0.8;
    // Comparing costs the product of the lengths; a name this long is no slip.
    const NAME_BYTES_MAX: usize = 64;
    if got.len() > NAME_BYTES_MAX {
        return None;
    }
    let likeness = |name: &str| strsim::jaro_winkler(&got.to_lowercase(), name);
    names
        .into_iter()
        .map(|name| (name, likeness(name)))
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_status_the_documents_promise() {
        let table: Vec<(u16, Code)> =
            ErrorKind::ALL.iter().map(|kind| (Rule::of(*kind).status.as_u16(), Rule::of(*kind).grpc)).collect();
        let promised = [
            (400, Code::InvalidArgument),
            (404, Code::NotFound),
            (409, Code::Aborted),
            (503, Code::Unavailable),
            (429, Code::ResourceExhausted),
            (504, Code::DeadlineExceeded),
            (500, Code::DataLoss),
            (500, Code::Internal),
        ];
        assert_eq!(table, promised);
    }

    #[test]
    fn only_what_surely_did_not_happen_invites_a_retry() {
        for kind in ErrorKind::ALL {
            let harmless = matches!(kind, ErrorKind::Unavailable | ErrorKind::Exhausted);
            assert_eq!(Rule::of(kind).retry_after_seconds.is_some(), harmless, "{kind:?}");
        }
    }

    #[test]
    fn codes_with_a_status_of_their_own_have_it() {
        for (code, status) in HTTP_STATUS_BY_CODE {
            assert_eq!(http_status(&Error::invalid(code, "x")), status);
            assert_eq!(http_status(&Error::new(ErrorKind::Internal, code, "x")), StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(http_status(&Error::invalid("bad_top_k", "x")), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn slips_are_recognised() {
        let names = ["vector", "top_k", "threshold", "filter"];
        assert_eq!(did_you_mean("vektor", names), Some("vector"));
        assert_eq!(did_you_mean("topK", names), Some("top_k"));
        assert_eq!(did_you_mean("zzz", names), None);
        assert_eq!(did_you_mean(&"v".repeat(1 << 20), names), None);
    }
}
