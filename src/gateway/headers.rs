//! Headers at a hop: those that concern one connection only stay behind (RFC 9110, section 7.6.1), and the node is told who asks.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::net::IpAddr;

/// Who asked, and through whom.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that mean the connection, besides those that `Connection` names.
const CONNECTION_ONLY: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes off what concerns the connection the message came on. `te: trailers`, which gRPC insists on, stays.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &CONNECTION_ONLY {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|value| value != "trailers") {
        headers.remove(header::TE);
    }
}

/// Adds the client's address to those that the request has passed.
pub fn forwarded(headers: &mut HeaderMap, client: IpAddr) {
    // A list may stand in several lines.
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = before.map(str::to_owned).chain([client.to_string()]).collect();
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The value of the cookie called `name`.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_concerns_the_connection_stays_behind() {
        let mut all = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("content-type", "text/plain"),
        ]);
        strip(&mut all);
        assert_eq!(all, headers(&[("content-type", "text/plain")]));
        let mut grpc = headers(&[("te", "trailers")]);
        strip(&mut grpc);
        assert_eq!(grpc.len(), 1);
    }

    #[test]
    fn the_way_is_noted_and_cookies_are_found() {
        let mut all = headers(&[("x-forwarded-for", "10.0.0.1"), ("cookie", "a=1; b=2"), ("x", "y")]);
        all.append("x-forwarded-for", HeaderValue::from_static("10.0.0.2"));
        forwarded(&mut all, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(all["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 127.0.0.1");
        assert_eq!(all.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!((cookie(&all, "b"), cookie(&all, "c")), (Some("2"), None));
    }
}
