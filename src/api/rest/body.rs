//! Reading bodies: media type, bound after decompression, room in the node, then parsing — on the compute pool if the
//! body is large enough to hold up other requests. Called by handlers as the extractors [`Json`] and [`RawBody`].

use super::{App, bulk, json, problem::ApiError};
use crate::{
    api::{
        admission::Ticket,
        errors::{BODY_TOO_LARGE, REQUEST_TIMEOUT, UNSUPPORTED_MEDIA_TYPE},
    },
    rt::{
        compute,
        http::{BodyFailure, body_failure},
    },
    types::Error,
};
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Bodies above this are parsed on the compute pool: 64 KiB of JSON are about 0.3 ms.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// What a body says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Json,
    OctetStream,
}

impl Media {
    /// What the headers say; JSON if they say nothing.
    ///
    /// # Errors
    /// `unsupported_media_type`.
    pub fn of(headers: &HeaderMap) -> Result<Media, Error> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Media::Json) };
        let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let is_json =
            essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
        let utf8 = |part: &str| part.strip_prefix("charset=").is_none_or(|set| set.trim_matches('"') == "utf-8");
        match essence {
            bulk::MEDIA_TYPE => Ok(Media::OctetStream),
            _ if is_json && parts.all(utf8) => Ok(Media::Json),
            _ => Err(unsupported("Content-Type", "application/json", value.to_str().unwrap_or("not text"))),
        }
    }
}

fn unsupported(header: &str, expected: &str, got: &str) -> Error {
    let shown: String = got.chars().take(80).collect();
    Error::invalid(UNSUPPORTED_MEDIA_TYPE, format!("this call does not take a body of this {header}"))
        .at(header)
        .expected(expected)
        .got(shown)
}

/// A body of either kind, whole.
#[derive(Debug)]
pub struct RawBody {
    pub media: Media,
    pub bytes: Bytes,
}

impl RawBody {
    /// The bytes, if they are JSON.
    ///
    /// # Errors
    /// `unsupported_media_type`.
    pub fn json(self) -> Result<Bytes, Error> {
        match self.media {
            Media::Json => Ok(self.bytes),
            Media::OctetStream => Err(unsupported("Content-Type", "application/json", bulk::MEDIA_TYPE)),
        }
    }
}

impl FromRequest<App> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<RawBody, ApiError> {
        let media = Media::of(request.headers())?;
        // The decompression layer took its own encoding off; what is left is one it does not know.
        if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(unsupported("Content-Encoding", "gzip or identity", encoding.to_str().unwrap_or("")).into());
        }
        let bytes = read(request, app.options.body_bytes_max).await?;
        Ok(RawBody { media, bytes })
    }
}

/// A JSON body as `T`.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Json<T>, ApiError> {
        let body = RawBody::from_request(request, app).await?;
        Ok(Json(parse(body.json()?, |bytes| json::read(bytes)).await?))
    }
}

/// Runs `parse` over the body: here if it is small, on the compute pool if not.
pub async fn parse<T, F>(body: Bytes, parse: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(&[u8]) -> Result<T, Error> + Send + 'static,
{
    if body.len() <= INLINE_BYTES_MAX {
        return compute::short(|| parse(&body));
    }
    compute::cpu(move || parse(&body)).await
}

/// Reads a body to its end.
async fn read(request: Request, bytes_max: usize) -> Result<Bytes, Error> {
    let ticket = request.extensions().get::<Arc<Ticket>>().cloned();
    let announced = http_body::Body::size_hint(request.body()).exact();
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let mut body = request.into_body();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| failed(&error, bytes_max))?.into_data() else { continue };
        let length = first.len() + rest.len() + data.len();
        if length > bytes_max {
            return Err(too_large(bytes_max));
        }
        if let Some(ticket) = &ticket {
            ticket.take_body_bytes(data.len())?;
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            // Not all of what was announced at once: memory follows the bytes that really come.
            rest.reserve(length.max(announced.unwrap_or(0).min(1 << 20) as usize));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(bytes_max: usize) -> Error {
    Error::invalid(BODY_TOO_LARGE, "the body is too large, as sent or after decompression")
        .expected(format!("at most {bytes_max} bytes"))
}

fn failed(error: &axum::Error, bytes_max: usize) -> Error {
    match body_failure(error) {
        BodyFailure::TooLarge => too_large(bytes_max),
        BodyFailure::TimedOut => Error::invalid(REQUEST_TIMEOUT, "the body came too slowly"),
        BodyFailure::Broken => Error::invalid("bad_body", "the body broke off, or its encoding is damaged")
            .expected("a whole body in the encoding the headers say"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn media_types_are_told_apart() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(text))]);
            Media::of(&headers).map_err(|error| error.code())
        };
        assert_eq!(Media::of(&HeaderMap::new()).unwrap(), Media::Json);
        for json in ["application/json", "Application/JSON; charset=UTF-8", "application/vnd.x+json"] {
            assert_eq!(of(json), Ok(Media::Json), "{json}");
        }
        assert_eq!(of("application/octet-stream"), Ok(Media::OctetStream));
        for other in
            ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin1", "+json"]
        {
            assert_eq!(of(other), Err("unsupported_media_type"), "{other}");
        }
    }
}
