//! What a request is, as far as the gateway must know: which path it has at the node, whether it only reads (so that repeating it
//! does no harm), and under which name it is counted. Pure.

use http::{HeaderMap, Method, header, uri::PathAndQuery};

/// The part of the seeds' paths that only the gateway has.
const PREFIX: &str = "/data";

/// A request's path at the node: without the gateway's own prefix.
///
/// # Errors
/// What is left is no path.
pub fn at_node(path: &PathAndQuery) -> Result<PathAndQuery, http::uri::InvalidUri> {
    match path.as_str().strip_prefix(PREFIX) {
        Some(rest) if rest.starts_with('/') => rest.parse(),
        _ => Ok(path.clone()),
    }
}

/// Whether it came under the gateway's prefix.
pub fn is_prefixed(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether it is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Ends of the paths of POST requests that only read: native, Qdrant's and Kamaitachi's.
const READING_POSTS: &[&str] = &[
    "/search",
    "/search/batch",
    "/search/groups",
    "/search/matrix/pairs",
    "/search/matrix/offsets",
    "/documents/list",
    "/points/query",
    "/points/query/batch",
    "/points/query/groups",
    "/points/scroll",
    "/points/count",
    "/points/recommend",
    "/points/recommend/batch",
    "/points/recommend/groups",
    "/points/discover",
    "/points/discover/batch",
    "/data/v1/snapshot",
    "/data/v1/period",
    "/cluster/verify",
];

/// Beginnings of the names of gRPC methods that only read.
const READING_METHODS: &[&str] =
    &["Search", "Query", "Get", "List", "Scroll", "Count", "Recommend", "Discover", "Facet", "Check", "Health"];

/// gRPC methods by which one call writes documents.
const UNARY_WRITES: &[&str] = &["/vectorsphere.v1.VectorService/Upsert", "/vectorsphere.v1.VectorService/Delete"];

/// Whether a request changes nothing, so that it may be sent again although it may have been carried out.
pub fn only_reads(method: &Method, path: &str, is_grpc: bool) -> bool {
    if is_grpc {
        let name = path.rsplit('/').next().unwrap_or_default();
        return READING_METHODS.iter().any(|start| name.starts_with(start));
    }
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        Method::POST => READING_POSTS.iter().any(|end| path.ends_with(end)),
        _ => false,
    }
}

/// Whether a write has a name by which the nodes know it again: done twice, it takes effect once. Only writes of documents do; the
/// table that one is about may be called "documents" too.
pub fn is_named(headers: &HeaderMap, path: &str, is_grpc: bool) -> bool {
    let in_table = || path.strip_prefix("/api/v1/tables/").and_then(|rest| rest.split_once('/'));
    let is_on_documents = || in_table().is_some_and(|(_, rest)| rest == "documents" || rest.starts_with("documents/"));
    // Over a stream of calls the key names none of them.
    let is_one_call = || UNARY_WRITES.contains(&path);
    headers.contains_key("idempotency-key") && if is_grpc { is_one_call() } else { is_on_documents() }
}

/// The name under which it is counted.
pub fn class(path: &str, is_grpc: bool) -> &'static str {
    match path {
        _ if is_grpc => "grpc",
        _ if is_prefixed(path) => "/data/*",
        _ => "proxied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_where_it_is_a_whole_segment() {
        let node = |path: &'static str| at_node(&PathAndQuery::from_static(path)).expect("a path").to_string();
        assert_eq!(node("/data/kamaitachi/api/data/v1/snapshot"), "/kamaitachi/api/data/v1/snapshot");
        assert_eq!(node("/data/api/v1/tables?x=%2F"), "/api/v1/tables?x=%2F");
        assert_eq!(node("/data/"), "/");
        assert_eq!(node("/data/data/x"), "/data/x");
        for same in ["/data", "/database/x", "/api/v1/tables", "/data?x=1"] {
            assert_eq!(node(same), same);
        }
    }

    #[test]
    fn only_reads_are_called_so() {
        let reads = |method: Method, path: &str| only_reads(&method, path, false);
        assert!(reads(Method::GET, "/api/v1/tables") && reads(Method::POST, "/api/v1/tables/t/search"));
        assert!(reads(Method::POST, "/collections/c/points/query/batch"));
        assert!(reads(Method::POST, "/kamaitachi/api/data/v1/period"));
        assert!(!reads(Method::POST, "/api/v1/tables/t/documents") && !reads(Method::PUT, "/x/search"));
        assert!(!reads(Method::POST, "/api/v1/tables") && !reads(Method::DELETE, "/api/v1/tables/t"));
        let named = [(http::HeaderName::from_static("idempotency-key"), http::HeaderValue::from_static("k"))];
        let named = HeaderMap::from_iter(named);
        assert!(is_named(&named, "/api/v1/tables/t/documents/7", false));
        assert!(is_named(&named, "/api/v1/tables/t/documents", false));
        assert!(!is_named(&named, "/api/v1/tables/documents", false), "a table of this name");
        assert!(!is_named(&named, "/api/v1/tables", false) && !is_named(&HeaderMap::new(), "/t/documents", false));
        let call = |method: &str| is_named(&named, &format!("/vectorsphere.v1.VectorService/{method}"), true);
        assert!(call("Upsert") && call("Delete") && !call("UpsertStream") && !call("LeaveCluster"));
        assert!(only_reads(&Method::POST, "/vectorsphere.v1.VectorService/Search", true));
        assert!(!only_reads(&Method::POST, "/vectorsphere.v1.VectorService/Upsert", true));
        assert!(!only_reads(&Method::POST, "/vectorsphere.v1.VectorService/Delete", true));
    }
}
