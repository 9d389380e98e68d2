//! Filters through the whole of it, with and without indexes: the answers are the same, whatever way they are found.

// A test of the real thing: real threads, and a real clock to bound its waiting.
#![allow(clippy::disallowed_methods)]

use serde_json::{Value, json};
use vectorsphere::{
    embedded::{Collection, Database, Options},
    types::{
        CollectionSpec, DocumentId, Filter, IndexType, IndexedFields, Metric, Payload, PayloadIndexKind, Point, Vector,
        VectorName, VectorSpec,
        operation::{DeleteRequest, ListRequest, Search, SearchAnswer},
        path::Path,
    },
};

fn filter(value: Value) -> Filter {
    Filter::from_json(&value).expect("a good filter")
}

fn spec() -> CollectionSpec {
    CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, IndexType::IvfPq).unwrap())
}

/// Points on a line, every third red.
fn fill(collection: &Collection<'_>, ids: std::ops::Range<u64>) {
    let point = |i: u64| {
        Point {
        id: DocumentId::Num(i),
        vectors: vec![(VectorName::default(), Vector::new(vec![i as f32, 0.0]).unwrap())],
        payload: Payload::new(
            json!({"n": i, "colour": if i.is_multiple_of(3) { "red" } else { "blue" }, "tags": [i % 7, "all"], "free": i % 5})
                .as_object()
                .unwrap()
                .clone(),
        )
        .unwrap(),
        if_version: None,
    }
    };
    collection.upsert_points(ids.map(point).collect()).expect("written");
}

fn search(collection: &Collection<'_>, condition: &Filter) -> SearchAnswer {
    let mut search = Search::nearest(Vector::new(vec![0.0, 0.0]).unwrap(), 8);
    search.filter = Some(condition.clone());
    search.explain = true;
    collection.search_with(search).expect("found")
}

fn until_ready(collection: &Collection<'_>) {
    for _ in 0..2_000 {
        if collection.field_indexes().unwrap().iter().all(|index| index.state == "ready") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("not filled in 10 s: {:?}", collection.field_indexes());
}

fn filters() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"must": [{"key": "colour", "match": {"value": "red"}}]}), "filter_flat"),
        (json!({"must": [{"key": "n", "range": {"gte": 500, "lt": 510}}]}), "filter_gather"),
        (
            json!({"must": [{"key": "tags", "match": {"any": [3, "none"]}}], "must_not": [{"key": "n", "range": {"lt": 900}}]}),
            "filter_gather",
        ),
        (
            json!({"must": [{"key": "n", "range": {"gt": 950}}, {"key": "free", "match": {"value": 2}}]}),
            "filter_gather",
        ),
        (json!({"must": [{"key": "free", "match": {"value": 2}}]}), "filter_scan"),
        (
            json!({"must_not": [{"is_empty": {"key": "n"}}, {"key": "colour", "match": {"except": ["red"]}}]}),
            "filter_flat",
        ),
        (json!({"must": [{"has_id": [3, 5000]}]}), "filter_gather"),
    ]
}

fn answers(collection: &Collection<'_>) -> Vec<(Vec<DocumentId>, Vec<DocumentId>)> {
    let answer = |(condition, _): (Value, &str)| {
        let condition = filter(condition);
        let found = search(collection, &condition).hits.into_iter().map(|hit| hit.point.id).collect();
        let mut listed = Vec::new();
        let mut request =
            ListRequest { limit: 40, cursor: None, filter: Some(condition), with_vector: false, with_payload: false };
        loop {
            let page = collection.list(request.clone()).unwrap();
            listed.extend(page.points.into_iter().map(|point| point.id));
            request.cursor = page.cursor;
            if request.cursor.is_none() {
                return (found, listed);
            }
        }
    };
    filters().into_iter().map(answer).collect()
}

#[test]
fn indexes_change_the_plan_and_not_the_answer() {
    let directory = tempfile::tempdir().unwrap();
    let expected;
    {
        let database = Database::open(directory.path(), Options::default()).unwrap();
        let collection = database.create_collection_with("t", spec()).unwrap();
        fill(&collection, 0..1_000);
        let scanned = answers(&collection);
        let explain = search(&collection, &filter(filters()[0].0.clone())).explain.unwrap();
        assert_eq!((explain.plan, explain.not_indexed), ("filter_scan", vec!["colour".to_owned()]));
        for field in ["n", "colour", "tags"] {
            collection.index_field(field, PayloadIndexKind::Value).expect("indexed");
        }
        // Written while the indexes are being filled, and after.
        fill(&collection, 100..300);
        until_ready(&collection);
        assert_eq!(answers(&collection), scanned);
        for (condition, plan) in filters() {
            assert_eq!(search(&collection, &filter(condition.clone())).explain.unwrap().plan, plan, "{condition}");
        }
        fill(&collection, 900..1_200);
        let gone = DeleteRequest::Filter(filter(json!({"must": [{"key": "tags", "match": {"value": 4}}]})));
        assert_eq!(collection.delete(gone).unwrap().deleted, 171);
        expected = answers(&collection);
        assert!(
            collection
                .stats()
                .unwrap()
                .info
                .payload_indexes
                .iter()
                .all(|index| index.points == 1_029 && index.memory_bytes > 0)
        );
        collection.drop_field_index("tags").unwrap();
        assert_eq!(collection.drop_field_index("tags").unwrap_err().code(), "payload_index_not_found");
        assert_eq!(answers(&collection), expected, "without the index it is slower and the same");
    }
    let database = Database::open(directory.path(), Options::default()).unwrap();
    let collection = database.collection("t").unwrap();
    assert_eq!(answers(&collection), expected, "filled again or not");
    until_ready(&collection);
    assert_eq!(answers(&collection), expected);
    assert_eq!(collection.field_indexes().unwrap().len(), 2, "which fields are indexed is kept");
}

#[test]
fn fields_indexed_from_the_start_are_ready_at_once_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(directory.path(), Options::default()).unwrap();
    let fields = |n: usize| -> IndexedFields {
        (0..n).map(|i| (Path::parse(&format!("f{i}")).unwrap(), PayloadIndexKind::Value)).collect()
    };
    assert_eq!(spec().with_indexed_fields(fields(65)).unwrap_err().code(), "too_many_indexed_fields");
    let collection = database.create_collection_with("t", spec().with_indexed_fields(fields(64)).unwrap()).unwrap();
    assert!(collection.field_indexes().unwrap().iter().all(|index| index.state == "ready"));
    assert_eq!(
        collection.index_field("one.more", PayloadIndexKind::Text).unwrap_err().code(),
        "too_many_indexed_fields"
    );
    assert!(collection.index_field("f1", PayloadIndexKind::Text).is_ok(), "changing one adds none");
}
