//! The description says what the router does, no more and no less, and every reference in it leads somewhere.

use super::*;
use crate::api::rest::routes;
use serde_json::Value;
use std::collections::BTreeSet;

fn description() -> Value {
    serde_json::from_slice(&JSON).unwrap()
}

#[test]
fn description_and_router_have_the_same_calls() {
    let document = description();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routed: BTreeSet<_> =
        routes().into_iter().map(|route| (route.method.to_string(), route.path.to_owned())).collect();
    assert_eq!(described, routed);
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, document: &Value, count: &mut usize) {
        match value {
            Value::Object(object) => {
                if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect("a local reference");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    *count += 1;
                }
                object.values().for_each(|value| check(value, document, count));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, document, count)),
            _ => {}
        }
    }
    let document = description();
    assert_eq!(document["openapi"], "3.1.0");
    let mut count = 0;
    check(&document, &document, &mut count);
    assert!(count > 40, "{count} references");
}

#[test]
fn every_call_says_its_errors_and_every_body_its_fields() {
    let document = description();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let problem = &operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
        }
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let fields = |schema: &str| -> Vec<&String> { schemas[schema]["properties"].as_object().unwrap().keys().collect() };
    for field in
        ["type", "title", "status", "code", "detail", "field", "expected", "got", "row", "document_id", "request_id"]
    {
        assert!(fields("Problem").iter().any(|name| *name == field), "{field}");
    }
    assert!(fields("SearchRequest").len() >= 14 && fields("CreateTable").len() == 9);
    assert_eq!(schemas["CreateTable"]["additionalProperties"], Value::Bool(false));
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    for text in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!PAGE.contains(text), "{text}");
    }
    assert!(PAGE.contains("openapi.json"));
}
