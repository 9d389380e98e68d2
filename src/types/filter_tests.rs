//! What filters accept, refuse, and let pass.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn passes(filter: Value, payload: Value) -> bool {
    Filter::from_json(&filter).expect("a good filter").passes(PointId::Num(7), payload.as_object().unwrap())
}

fn refused(filter: Value) -> (String, String) {
    let error = Filter::from_json(&filter).expect_err("a bad filter");
    (error.code().to_owned(), error.detail().field.clone().unwrap_or_default())
}

#[test]
fn the_three_lists_combine() {
    let a = json!({"key": "a", "match": {"value": 1}});
    let b = json!({"key": "b", "match": {"value": 2}});
    let doc = json!({"a": 1});
    assert!(passes(json!({}), doc.clone()));
    assert!(passes(json!({"must": [a], "must_not": [b]}), doc.clone()));
    assert!(passes(json!({"should": [a, b]}), doc.clone()));
    assert!(!passes(json!({"must": [a, b]}), doc.clone()));
    assert!(!passes(json!({"must_not": [a]}), doc.clone()));
    assert!(passes(json!({"must": [{"should": [b, {"must": [a]}]}]}), doc.clone()));
    assert!(passes(json!({"should": []}), doc.clone()), "an empty should constrains nothing");
    assert!(passes(json!({"must": a}), doc), "one condition without its array");
}

#[test]
fn matches_scalars_lists_and_text() {
    let m = |test: Value, value: Value| passes(json!({"must": [{"key": "k", "match": test}]}), json!({"k": value}));
    assert!(m(json!({"value": "x"}), json!("x")) && !m(json!({"value": "x"}), json!("y")));
    assert!(m(json!({"value": true}), json!(true)) && !m(json!({"value": true}), json!(1)));
    assert!(m(json!({"value": 1}), json!(1.0)) && m(json!({"value": "x"}), json!(["y", "x"])));
    assert!(m(json!({"any": ["a", 1]}), json!(1)) && !m(json!({"any": []}), json!(1)));
    assert!(m(json!({"except": ["a"]}), json!("b")) && !m(json!({"except": ["a"]}), json!("a")));
    assert!(m(json!({"except": []}), json!("a")));
    assert!(
        m(json!({"text": "Quick FOX"}), json!("The quick, brown fox")) && !m(json!({"text": "fox"}), json!("foxes"))
    );
}

#[test]
fn large_integers_are_compared_exactly() {
    let filter = json!({"must": [{"key": "k", "match": {"value": 9_007_199_254_740_993_u64}}]});
    assert!(passes(filter.clone(), json!({"k": 9_007_199_254_740_993_u64})));
    assert!(!passes(filter, json!({"k": 9_007_199_254_740_992_u64})));
}

#[test]
fn large_integers_are_ordered_exactly() {
    let r = |range: Value, value: Value| passes(json!({"must": [{"key": "k", "range": range}]}), json!({"k": value}));
    let (below, above) = (json!(1_700_000_000_000_000_000_u64), json!(1_700_000_000_000_000_001_u64));
    assert!(r(json!({"gt": below}), above.clone()) && !r(json!({"lte": below}), above.clone()));
    assert!(!r(json!({"gt": above}), above.clone()) && r(json!({"gte": above}), above));
    assert!(
        r(json!({"gt": 1.5}), json!(2)) && r(json!({"lt": -1}), json!(-1.5)) && r(json!({"gt": -1}), json!(u64::MAX))
    );
}

#[test]
fn ranges_nulls_and_empties() {
    let r = |range: Value, value: Value| passes(json!({"must": [{"key": "k", "range": range}]}), json!({"k": value}));
    assert!(r(json!({"gte": 1, "lt": 2}), json!(1)) && !r(json!({"gte": 1, "lt": 2}), json!(2)));
    assert!(r(json!({"gt": 1}), json!([0, 5])) && !r(json!({"gt": 1}), json!("5")));
    let e = |kind: &str, doc: Value| passes(json!({"must": [{kind: {"key": "k"}}]}), doc);
    assert!(e("is_empty", json!({})) && e("is_empty", json!({"k": null})) && e("is_empty", json!({"k": []})));
    assert!(!e("is_empty", json!({"k": 0})) && e("exists", json!({"k": 0})) && !e("exists", json!({"k": null})));
    assert!(e("is_null", json!({"k": null})) && !e("is_null", json!({})));
}

#[test]
fn ids_are_numbers_or_text() {
    assert!(passes(json!({"must": [{"has_id": [7]}]}), json!({})));
    assert!(passes(json!({"must": [{"has_id": ["7", "x"]}]}), json!({})));
    assert!(!passes(json!({"must": [{"has_id": [8]}]}), json!({})));
    let filter = Filter::from_json(&json!({"must": [{"has_id": [8]}]})).unwrap();
    assert_eq!(filter.ids().unwrap().len(), 1);
}

#[test]
fn refusals_name_the_place() {
    let case = |filter: Value, field: &str| {
        let (code, at) = refused(filter);
        assert!(code == "bad_filter" || code == "bad_path");
        assert_eq!(at, field);
    };
    case(json!([]), "");
    case(json!({"musts": []}), "musts");
    case(json!({"must": [1]}), "must[0]");
    case(json!({"must": [{}]}), "must[0]");
    case(json!({"must": [{"key": "a"}]}), "must[0]");
    case(json!({"must": [{"key": 1, "match": {"value": 1}}]}), "must[0].key");
    case(json!({"must": [{"key": "", "match": {"value": 1}}]}), "must[0].key");
    case(json!({"must": [{"key": "a", "match": {"value": null}}]}), "must[0].match.value");
    case(json!({"must": [{"key": "a", "match": {"any": [1, {}]}}]}), "must[0].match.any[1]");
    case(json!({"should": [{"must": [{"key": "a", "range": {"gt": "x"}}]}]}), "should[0].must[0].range.gt");
    case(json!({"must": [{"key": "a", "range": {}}]}), "must[0].range");
    case(json!({"must": [{"has_id": [-1]}]}), "must[0].has_id[0]");
    case(json!({"must": [{"is_null": {}}]}), "must[0].is_null");
    case(json!({"must": [{"nope": 1}]}), "must[0].nope");
}

#[test]
fn depth_and_count_are_bounded() {
    let mut filter = json!({"must": []});
    for _ in 1..limits::FILTER_DEPTH_MAX {
        filter = json!({ "must": [filter] });
    }
    assert!(Filter::from_json(&filter).is_ok());
    assert!(Filter::from_json(&json!({ "must": [filter] })).is_err());
    let many = vec![json!({"has_id": [1]}); limits::FILTER_CONDITIONS_MAX + 1];
    assert!(Filter::from_json(&json!({ "must": many })).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from)];
    let key = prop::sample::select(vec![
        "must", "should", "must_not", "key", "match", "range", "value", "any", "has_id", "gt",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn reading_never_panics(value in any_json()) {
        if let Ok(filter) = Filter::from_json(&value) {
            filter.passes(PointId::Num(1), &Map::new());
        }
    }
}
