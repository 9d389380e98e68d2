//! Requests that are wrong in every way, against the REST face of a real node in this process: each is refused with a
//! typed 4xx and leaves nothing behind, or is accepted and can be read back.

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{Method, Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{cell::Cell, io::Write};
use tower::ServiceExt;
use vectorsphere::{
    api::{Faces, Options, rest::RestOptions},
    config::Config,
    node::Engine,
    rt::Runtime,
    service::Phase,
    telemetry::metrics::Metrics,
};

/// A node without listeners, and its REST face with a small bound on bodies.
struct Node {
    runtime: Runtime,
    engine: Option<Engine>,
    rest: Router,
    _directory: tempfile::TempDir,
}

const BODY_BYTES_MAX: usize = 256 * 1024;

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

impl Node {
    fn start() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { data_dir: directory.path().to_owned(), ..Config::default() };
        let runtime = Runtime::new(2).unwrap();
        let metrics = Metrics::new();
        let engine = runtime.block_on(Engine::open(&config, &metrics, |identity| identity)).unwrap();
        engine.service().identity().enter(Phase::Up);
        let rest = RestOptions { body_bytes_max: BODY_BYTES_MAX, gzip_bytes_min: 512 };
        let faces = Faces::new(engine.service().clone(), Options { rest, metrics, ..Options::default() });
        Node { runtime, engine: Some(engine), rest: faces.rest(), _directory: directory }
    }

    /// A node with a table `t` of dimension 3 and one document `kept`.
    fn with_table() -> Node {
        let node = Node::start();
        let table = json!({"table_name": "t", "dimension": 3, "metric": "cosine", "index_type": "flat"});
        assert_eq!(node.json("POST", "/api/v1/tables", &table).status, 201);
        let kept = json!({"document_id": "kept", "vector": [1, 2, 3], "metadata": {"a": 1}});
        assert_eq!(node.json("POST", "/api/v1/tables/t/documents", &kept).status, 200);
        node
    }

    fn send(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(async {
            let response = self.rest.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let bytes = to_bytes(body, usize::MAX).await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Answer { status: parts.status, headers: parts.headers, body }
        })
    }

    fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap())
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.raw(method, path, &[("content-type", "application/json")], body.to_string())
    }

    fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], Body::empty())
    }

    fn count(&self) -> u64 {
        self.get("/api/v1/tables/t").body["documents_count"].as_u64().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.runtime.block_on(engine.close());
        }
    }
}

/// Every refusal is one problem body that says what its headers say.
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (status, Some(code)), "{}", answer.body);
    assert_well_formed(answer);
}

fn assert_well_formed(answer: &Answer) {
    let body = &answer.body;
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(body["status"], answer.status.as_u16());
    assert_eq!(body["request_id"].as_str().unwrap(), answer.headers["x-request-id"].to_str().unwrap());
    assert_eq!(body["type"].as_str().unwrap(), format!("urn:vectorsphere:problem:{}", body["code"].as_str().unwrap()));
    assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_table_says_how_its_vectors_are_encoded() {
    let node = Node::start();
    let created = |name: &str, mut body: Value| {
        body["table_name"] = json!(name);
        body["dimension"] = json!(8);
        node.json("POST", "/api/v1/tables", &body)
    };
    let default = json!({"type": "product", "compression": "x16", "rerank": "f32"});
    let good = [
        (json!({}), "ivf_pq", default.clone()),
        (json!({"quantization": {"type": "product"}}), "ivf_pq", default.clone()),
        (json!({"quantization": {"type": "product"}, "index_type": "hnsw"}), "hnsw", default),
        (
            json!({"quantization": {"type": "product", "compression": "x64", "rerank": "int8"}}),
            "ivf_pq",
            json!({"type": "product", "compression": "x64", "rerank": "int8"}),
        ),
        (json!({"quantization": {"type": "binary"}}), "ivf_binary", json!({"type": "binary", "rerank": "f32"})),
        (
            json!({"quantization": {"type": "scalar", "rerank": "int8"}, "index_type": "ivf_scalar"}),
            "ivf_scalar",
            json!({"type": "scalar", "rerank": "int8"}),
        ),
        (json!({"quantization": {"type": "none"}}), "ivf_flat", json!({"type": "none"})),
        (json!({"quantization": {"type": "none"}, "index_type": "flat"}), "flat", json!({"type": "none"})),
    ];
    for (i, (body, index_type, quantization)) in good.into_iter().enumerate() {
        let name = format!("t{i}");
        let made = created(&name, body.clone());
        assert_eq!(
            (made.status.as_u16(), &made.body["index_type"]),
            (201, &json!(index_type)),
            "{body}: {}",
            made.body
        );
        let shown = node.get(&format!("/api/v1/tables/{name}")).body;
        assert_eq!((&made.body["quantization"], &shown["quantization"]), (&quantization, &quantization), "{body}");
        let stats = node.get(&format!("/api/v1/tables/{name}/stats")).body;
        assert_eq!(stats["index"]["vectors"][0]["quantization"], quantization, "{body}");
    }
    let bad = [
        (json!({"quantization": {"type": "binary"}, "index_type": "ivf_pq"}), "bad_quantization"),
        (json!({"quantization": {"type": "product"}, "index_type": "flat"}), "bad_quantization"),
        (json!({"quantization": {"type": "binary", "compression": "x32"}}), "bad_quantization"),
        (json!({"quantization": {"type": "none", "rerank": "int8"}}), "bad_quantization"),
        (json!({"quantization": {"type": "product", "compression": "x4"}}), "unknown_value"),
        (json!({"quantization": {"type": "product", "bits": 2}}), "unknown_field"),
        (json!({"quantization": {}}), "missing_field"),
    ];
    for (body, code) in bad {
        assert_problem(&created("bad", body), 400, code);
    }
    let long = json!({"table_name": "bad", "dimension": 4097, "quantization": {"type": "binary"}});
    assert_problem(&node.json("POST", "/api/v1/tables", &long), 400, "bad_dimension");
}

#[test]
fn each_way_of_being_wrong_has_its_status_and_code() {
    let node = Node::with_table();
    const DOCUMENTS: &str = "/api/v1/tables/t/documents";
    const SEARCH: &str = "/api/v1/tables/t/search";
    let refused = |method: &str, path: &str, body: Value, status, code| {
        assert_problem(&node.json(method, path, &body), status, code);
    };
    refused("POST", "/api/v1/tables", json!({"table_name": "t", "dimension": 3}), 409, "table_exists");
    refused("POST", "/api/v1/tables", json!({"table_name": "a/b", "dimension": 3}), 400, "bad_table_name");
    refused("POST", "/api/v1/tables", json!({"table_name": "x", "dimension": 0}), 400, "bad_dimension");
    refused("POST", "/api/v1/tables", json!({"table_name": "x"}), 400, "missing_field");
    refused("POST", "/api/v1/tables", json!({"table_name": "x", "dimension": 3, "metric": "l3"}), 400, "unknown_value");
    refused("POST", "/api/v1/tables", json!({"table_name": "x", "dimension": 3, "shards": 0}), 400, "bad_shards");
    refused("POST", DOCUMENTS, json!({"document_id": "x"}), 400, "no_vectors");
    refused("POST", DOCUMENTS, json!({"vector": [1, 2]}), 400, "dimension_mismatch");
    refused("POST", DOCUMENTS, json!({"vector": []}), 400, "empty_vector");
    refused("POST", DOCUMENTS, json!({"vector": [0, 0, 0]}), 400, "zero_vector");
    refused("POST", DOCUMENTS, json!({"document_id": "", "vector": [1, 2, 3]}), 400, "bad_document_id");
    refused("POST", DOCUMENTS, json!({"documents": []}), 400, "empty_batch");
    refused("POST", DOCUMENTS, json!({"documents": [], "vector": [1]}), 400, "ambiguous_body");
    refused("POST", DOCUMENTS, json!({"vectors": {"x": [1, 2, 3]}}), 400, "unknown_vector");
    refused("POST", "/api/v1/tables/none/documents", json!({"vector": [1, 2, 3]}), 404, "table_not_found");
    refused("POST", SEARCH, json!({"vector": [1, 2, 3]}), 400, "missing_field");
    refused("POST", SEARCH, json!({"vector": [1, 2, 3], "top_k": 0}), 400, "bad_top_k");
    refused("POST", SEARCH, json!({"vector": [1, 2], "top_k": 1}), 400, "dimension_mismatch");
    refused("POST", SEARCH, json!({"vector": [1, 2, 3], "top_k": 1, "filter": {"must": 5}}), 400, "bad_filter");
    for target in [json!(2), json!(0), json!(-0.5), json!(1.0001)] {
        let search = json!({"vector": [1, 2, 3], "top_k": 1, "recall_target": target});
        refused("POST", SEARCH, search, 400, "bad_recall_target");
    }
    refused("POST", SEARCH, json!({"vector": [1, 2, 3], "top_k": 1, "consistency": "session"}), 400, "missing_field");
    refused("POST", SEARCH, json!({"vector": [1, 2, 3], "top_k": 1, "session": "x"}), 400, "bad_session");
    refused("POST", &format!("{DOCUMENTS}/list"), json!({"limit": 0}), 400, "bad_limit");
    refused("POST", &format!("{DOCUMENTS}/list"), json!({"limit": 1, "cursor": "zz"}), 400, "bad_cursor");
    refused("POST", &format!("{DOCUMENTS}/delete"), json!({}), 400, "missing_field");
    refused("POST", &format!("{DOCUMENTS}/delete"), json!({"filter": {}}), 400, "empty_filter");
    refused("PATCH", &format!("{DOCUMENTS}/none"), json!({"metadata": {"a": 1}}), 404, "document_not_found");
    refused("PATCH", &format!("{DOCUMENTS}/kept"), json!({}), 400, "empty_patch");
    refused(
        "PUT",
        &format!("{DOCUMENTS}/kept"),
        json!({"document_id": "y", "vector": [1, 2, 3]}),
        400,
        "document_id_mismatch",
    );
    refused(
        "PUT",
        &format!("{DOCUMENTS}/kept"),
        json!({"vector": [1, 2, 3], "if_version": 0}),
        409,
        "version_mismatch",
    );
    assert_problem(&node.get("/api/v1/tables/none"), 404, "table_not_found");
    assert_problem(&node.get(&format!("{DOCUMENTS}/none")), 404, "document_not_found");
    assert_problem(&node.get(&format!("{DOCUMENTS}/%ff")), 400, "bad_path");
    assert_problem(&node.get(&format!("{DOCUMENTS}/kept?with_vectors=1")), 400, "unknown_parameter");
    assert_problem(&node.get("/nowhere"), 404, "route_not_found");
    assert_eq!(node.count(), 1, "nothing was stored");
    let kept = node.get(&format!("{DOCUMENTS}/kept")).body;
    assert_eq!(kept["metadata"], json!({"a": 1}));
}

#[test]
fn an_alias_stands_for_its_table_wherever_documents_are_asked_for() {
    let node = Node::with_table();
    let other = json!({"table_name": "other", "dimension": 2, "index_type": "flat"});
    assert_eq!(node.json("POST", "/api/v1/tables", &other).status, 201);
    let change = |changes: Value| node.json("POST", "/api/v1/aliases", &json!({ "changes": changes }));
    let set = |alias: &str, table: &str| json!({"create": {"alias_name": alias, "table_name": table}});
    let made = change(json!([set("live", "t"), set("next", "other")]));
    assert_eq!((made.status.as_u16(), made.body), (200, json!({"changed": 2, "behind": []})));
    let listed =
        json!({"aliases": [{"alias_name": "live", "table_name": "t"}, {"alias_name": "next", "table_name": "other"}]});
    assert_eq!(node.get("/api/v1/aliases").body, listed);
    let of_one = json!({"aliases": [{"alias_name": "live", "table_name": "t"}]});
    for name in ["t", "live"] {
        assert_eq!(node.get(&format!("/api/v1/tables/{name}/aliases")).body, of_one);
    }

    // Every call on documents, indexes and figures.
    let ok = |method: &str, path: &str, body: Value| {
        let answer = node.json(method, &format!("/api/v1/tables/live{path}"), &body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer.body
    };
    ok("POST", "/documents", json!({"document_id": "new", "vector": [3, 2, 1], "metadata": {"a": 2}}));
    ok("PUT", "/documents/put", json!({"vector": [1, 1, 1]}));
    ok("PATCH", "/documents/new", json!({"metadata": {"b": 3}}));
    assert_eq!(ok("GET", "/documents/new", json!({}))["metadata"], json!({"a": 2, "b": 3}));
    assert_eq!(ok("GET", "", json!({}))["table_name"], "t");
    assert_eq!(ok("GET", "/stats", json!({}))["documents_count"], 3);
    assert_eq!(ok("POST", "/documents/list", json!({"limit": 9}))["documents"].as_array().unwrap().len(), 3);
    assert_eq!(ok("POST", "/search", json!({"vector": [3, 2, 1], "top_k": 1}))["results"][0]["document_id"], "new");
    assert_eq!(ok("PUT", "/indexes/a", json!({}))["field"], "a");
    assert_eq!(ok("GET", "/indexes", json!({}))["indexes"][0]["field"], "a");
    ok("DELETE", "/indexes/a", json!({}));
    assert_eq!(ok("POST", "/documents/delete", json!({"ids": ["put"]}))["deleted"], 1);
    assert_eq!(
        ok("POST", "/documents/delete", json!({"filter": {"must": [{"key": "a", "match": {"value": 2}}]}}))["deleted"],
        1
    );
    assert_eq!(node.count(), 1);

    // From one request to the next it is the other table, which has other vectors.
    assert_eq!(change(json!([set("live", "other")])).body, json!({"changed": 1, "behind": []}));
    assert_eq!(ok("GET", "", json!({}))["table_name"], "other");
    let search = json!({"vector": [1, 2, 3], "top_k": 1});
    assert_problem(&node.json("POST", "/api/v1/tables/live/search", &search), 400, "dimension_mismatch");
    let renamed = change(
        json!([{"rename": {"alias_name": "next", "new_alias_name": "last"}}, {"delete": {"alias_name": "live"}}]),
    );
    assert_eq!(renamed.body["changed"], 3);
    assert_problem(&node.get("/api/v1/tables/live"), 404, "table_not_found");
    assert_eq!(node.get("/api/v1/tables/last").body["table_name"], "other");

    // A table is deleted by its own name, and its aliases with it.
    let by_alias = node.raw("DELETE", "/api/v1/tables/last", &[], Body::empty());
    assert_problem(&by_alias, 409, "table_is_alias");
    assert_eq!(by_alias.body["expected"], "other");
    assert_eq!(node.raw("DELETE", "/api/v1/tables/other", &[], Body::empty()).status, 200);
    assert_eq!(node.get("/api/v1/aliases").body, json!({"aliases": []}));
    assert_problem(&node.get("/api/v1/tables/last"), 404, "table_not_found");
}

#[test]
fn changes_of_aliases_that_cannot_be_are_refused_whole_with_their_place() {
    let node = Node::with_table();
    let change = |changes: Value| node.json("POST", "/api/v1/aliases", &json!({ "changes": changes }));
    let set = |alias: &str, table: &str| json!({"create": {"alias_name": alias, "table_name": table}});
    let good = set("live", "t");
    for (bad, status, code, field) in [
        (set("x", "none"), 404, "table_not_found", "changes[1].create.table_name"),
        (set("t", "t"), 409, "table_exists", "changes[1].create.alias_name"),
        (set("x", "live"), 409, "alias_of_alias", "changes[1].create.table_name"),
        (set("a/b", "t"), 400, "bad_table_name", "changes[1].create.alias_name"),
        (set("", "t"), 400, "bad_table_name", "changes[1].create.alias_name"),
        (
            json!({"rename": {"alias_name": "x", "new_alias_name": "y"}}),
            404,
            "alias_not_found",
            "changes[1].rename.alias_name",
        ),
        (json!({"delete": {"alias_name": ".x"}}), 400, "bad_table_name", "changes[1].delete.alias_name"),
        (json!({"create": {"alias_name": "x"}}), 400, "missing_field", "changes[1].create.table_name"),
    ] {
        let answer = change(json!([good, bad]));
        assert_problem(&answer, status, code);
        assert_eq!(answer.body["field"], field, "{}", answer.body);
    }
    assert_problem(&change(json!([good, {"drop": {"alias_name": "x"}}])), 400, "unknown_value");
    assert_problem(&change(json!([])), 400, "no_changes");
    let many: Vec<Value> = (0..51).map(|i| set(&format!("a{i}"), "t")).collect();
    let answer = change(json!(many));
    assert_problem(&answer, 400, "too_many_changes");
    assert_eq!((&answer.body["expected"], &answer.body["got"]), (&json!("at most 50"), &json!(51)));
    assert_eq!(change(json!(many[..50])).body["changed"], 50);
    assert_problem(&node.get("/api/v1/tables/none/aliases"), 404, "table_not_found");
    let taken = node.json("POST", "/api/v1/tables", &json!({"table_name": "a7", "dimension": 3}));
    assert_problem(&taken, 409, "alias_exists");
    assert_eq!(taken.body["field"], "table_name");
    assert_eq!(node.get("/api/v1/aliases").body["aliases"].as_array().unwrap().len(), 50);
}

#[test]
fn a_bad_row_refuses_the_whole_batch_by_name() {
    let node = Node::with_table();
    let batch = json!({"documents": [
        {"document_id": "a", "vector": [1, 2, 3]}, {"document_id": "b", "vector": [1, 2]}, {"document_id": "c", "vector": [1, 2, 3]}]});
    let answer = node.json("POST", "/api/v1/tables/t/documents", &batch);
    assert_problem(&answer, 400, "dimension_mismatch");
    let body = &answer.body;
    assert_eq!(
        (&body["field"], &body["row"], &body["document_id"]),
        (&json!("documents[1].vector"), &json!(1), &json!("b"))
    );
    assert_eq!((&body["expected"], &body["got"]), (&json!(3), &json!(2)));
    assert_eq!(node.count(), 1);
}

#[test]
fn bodies_are_bounded_before_and_after_decompression() {
    let node = Node::with_table();
    let path = "/api/v1/tables/t/documents";
    let send = |headers: &[(&str, &str)], body: Vec<u8>| node.raw("POST", path, headers, body);
    assert_problem(&send(&[], vec![b' '; BODY_BYTES_MAX + 1]), 413, "body_too_large");
    assert_problem(&send(&[("content-encoding", "gzip")], gzip(&vec![b' '; 50_000_000])), 413, "body_too_large");
    assert_problem(&send(&[("content-encoding", "gzip")], b"not gzip".to_vec()), 400, "bad_body");
    assert_problem(&send(&[("content-encoding", "br")], b"x".to_vec()), 415, "unsupported_media_type");
    assert_problem(&send(&[("content-type", "text/csv")], b"1,2".to_vec()), 415, "unsupported_media_type");
    assert_problem(&send(&[], Vec::new()), 400, "empty_body");
    assert_problem(&send(&[], b"{\"document_id\":\"\xff\"}".to_vec()), 400, "invalid_utf8");
    let good = gzip(br#"{"document_id":"z","vector":[3,2,1]}"#);
    assert_eq!(send(&[("content-encoding", "gzip")], good).status, 200);
    assert_eq!(node.count(), 2);
}

#[test]
fn methods_heads_and_options_are_sane() {
    let node = Node::with_table();
    let refused = node.raw("DELETE", "/api/v1/tables/t/search", &[], Body::empty());
    assert_problem(&refused, 405, "method_not_allowed");
    assert_eq!(refused.headers["allow"], "POST");
    let options = node.raw("OPTIONS", "/api/v1/tables", &[], Body::empty());
    assert_eq!((options.status.as_u16(), options.headers.contains_key("allow")), (204, true));
    assert!(!options.headers.contains_key("access-control-allow-origin"));
    let head = node.raw("HEAD", "/api/v1/tables", &[], Body::empty());
    assert_eq!((head.status.as_u16(), head.body), (200, Value::Null));
}

#[test]
fn ids_and_traces_go_through_and_large_answers_are_compressed() {
    let node = Node::with_table();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = node.raw("GET", "/nowhere", &[("x-request-id", "mine-1"), ("traceparent", trace)], Body::empty());
    assert_eq!(
        (&answer.body["request_id"], answer.headers["traceparent"].to_str().unwrap()),
        (&json!("mine-1"), trace)
    );
    let accept = [("accept-encoding", "gzip")];
    assert_eq!(node.raw("GET", "/openapi.json", &accept, Body::empty()).headers["content-encoding"], "gzip");
    assert!(!node.raw("GET", "/livez", &accept, Body::empty()).headers.contains_key("content-encoding"));
}

#[test]
fn too_much_at_once_is_refused_and_health_is_not() {
    let node = Node::with_table();
    let service = node.engine.as_ref().unwrap().service().clone();
    let faces = Faces::new(service, Options { requests_max: 0, ..Options::default() });
    let send = |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        block_on_in(&node, faces.rest().oneshot(request))
    };
    let refused = send("/api/v1/tables");
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert_eq!(send("/readyz?verbose").status(), 200);
}

fn block_on_in<T, E: std::fmt::Debug>(node: &Node, future: impl Future<Output = Result<T, E>>) -> T {
    node.runtime.block_on(future).unwrap()
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A document that is good, or wrong in one or more of its parts.
fn document() -> impl Strategy<Value = Value> {
    let vector = prop_oneof![
        4 => prop::collection::vec(-10i32..10, 3).prop_map(|v| json!(v)),
        1 => prop::collection::vec(any::<f64>(), 0..6).prop_map(|v| json!(v)),
        1 => json_value(),
    ];
    let id = prop_oneof![4 => "[a-z0-9]{1,4}".prop_map(|id| json!(id)), 2 => any::<u64>().prop_map(|id| json!(id)), 1 => json_value()];
    let metadata = prop_oneof![3 => Just(json!({"k": "v"})), 2 => json_value()];
    let extra = prop_oneof![6 => Just(None), 1 => ("[a-z_]{1,8}", json_value()).prop_map(Some)];
    (vector, id, metadata, extra).prop_map(|(vector, id, metadata, extra)| {
        let mut document = json!({"document_id": id, "vector": vector, "metadata": metadata});
        if let Some((name, value)) = extra {
            document[name] = value;
        }
        document
    })
}

fn write() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => document(),
        3 => prop::collection::vec(document(), 0..5).prop_map(|documents| json!({"documents": documents})),
        1 => json_value(),
    ]
}

fn search() -> impl Strategy<Value = Value> {
    let field = prop_oneof![
        Just("vector"),
        Just("top_k"),
        Just("threshold"),
        Just("filter"),
        Just("exact"),
        Just("nprobe"),
        Just("session"),
        Just("consistency"),
        Just("searches"),
        Just("with_vector"),
        Just("nonsense"),
    ];
    prop::collection::vec((field, json_value()), 0..3).prop_map(|changes| {
        let mut body = json!({"vector": [1, 2, 3], "top_k": 2});
        changes.into_iter().for_each(|(field, value)| body[field] = value);
        body
    })
}

/// Refused as a problem, or accepted: never a 5xx, never anything else.
fn accepted(answer: &Answer) -> bool {
    if answer.status.is_success() {
        return true;
    }
    assert!(answer.status.is_client_error(), "{} {}", answer.status, answer.body);
    assert_well_formed(answer);
    false
}

#[test]
fn every_write_is_refused_whole_or_can_be_read_back() {
    let node = Node::with_table();
    let path = "/api/v1/tables/t/documents";
    let (stored, refused) = (Cell::new(0), Cell::new(0));
    proptest!(ProptestConfig::with_cases(300), |(body in write())| {
        let before = node.count();
        let answer = node.json("POST", path, &body);
        let count = if accepted(&answer) { &stored } else { &refused };
        count.set(count.get() + 1);
        if !answer.status.is_success() {
            prop_assert_eq!(node.count(), before, "nothing half done: {}", body);
            return Ok(());
        }
        let rows = body["documents"].as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
        let ids = answer.body["document_ids"].as_array().unwrap();
        prop_assert_eq!(ids.len(), rows.len());
        for (id, row) in ids.iter().zip(&rows) {
            if !row["document_id"].is_null() {
                prop_assert_eq!(id, &row["document_id"]);
            }
        }
        // Of several rows of one id the last one stays; look at it.
        let (id, row) = (ids.last().unwrap(), rows.last().unwrap());
        let text = id.as_str().map_or_else(|| id.to_string(), percent);
        let read = node.get(&format!("{path}/{text}"));
        prop_assert_eq!(read.status.as_u16(), 200, "{}", text);
        prop_assert_eq!(&read.body["document_id"], id);
        let metadata = if row["metadata"].is_null() { json!({}) } else { row["metadata"].clone() };
        prop_assert_eq!(&read.body["metadata"], &metadata);
    });
    assert!(stored.get() > 30 && refused.get() > 30, "both kinds were met: {} {}", stored.get(), refused.get());
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn every_search_and_every_noise_is_answered_or_refused() {
    let node = Node::with_table();
    let paths = [
        "/api/v1/tables",
        "/api/v1/tables/t/documents",
        "/api/v1/tables/t/search",
        "/api/v1/tables/t/documents/list",
        "/api/v1/tables/t/documents/delete",
        "/api/v1/tables/t/documents/x",
    ];
    proptest!(ProptestConfig::with_cases(300), |(body in search())| {
        accepted(&node.json("POST", "/api/v1/tables/t/search", &body));
    });
    proptest!(ProptestConfig::with_cases(300), |(noise in prop::collection::vec(any::<u8>(), 0..60), path in 0usize..6, octets: bool, method in 0usize..3)| {
        let media = if octets { "application/octet-stream" } else { "application/json" };
        let method = ["POST", "PUT", "PATCH"][method];
        accepted(&node.raw(method, paths[path], &[("content-type", media)], noise));
    });
    proptest!(ProptestConfig::with_cases(200), |(path in "/[a-zA-Z0-9/%._~?=&-]{0,40}", method in 0usize..4)| {
        if path.parse::<http::Uri>().is_ok() {
            accepted(&node.raw(["GET", "DELETE", "POST", "BREW"][method], &path, &[], Body::empty()));
        }
    });
    assert_eq!(node.get("/api/v1/limits").body["dimension_max"], 65_536, "it still answers");
}

#[test]
fn bulk_bodies_are_stored_or_name_their_row() {
    let node = Node::with_table();
    let bulk = |rows: &[(u64, [f32; 3])]| {
        let mut body = [(rows.len() as u32).to_le_bytes(), 3u32.to_le_bytes()].concat();
        rows.iter().for_each(|(id, _)| body.extend(id.to_le_bytes()));
        rows.iter().flat_map(|(_, row)| row).for_each(|c| body.extend(c.to_le_bytes()));
        node.raw("POST", "/api/v1/tables/t/documents", &[("content-type", "application/octet-stream")], body)
    };
    let answer = bulk(&[(7, [1.0, 0.0, 0.0]), (8, [0.0, 1.0, 0.0])]);
    assert_eq!((answer.status.as_u16(), &answer.body["document_ids"]), (200, &json!([7, 8])));
    assert_eq!(node.get("/api/v1/tables/t/documents/8").body["document_id"], json!(8));
    let answer = bulk(&[(9, [1.0, 0.0, 0.0]), (10, [0.0, f32::NAN, 0.0])]);
    assert_problem(&answer, 400, "not_finite");
    assert_eq!((&answer.body["row"], &answer.body["document_id"]), (&json!(1), &json!("10")));
    assert_problem(&bulk(&[(9, [0.0; 3])]), 400, "zero_vector");
    assert_eq!(node.count(), 3);
}
