//! The embedded library end to end: what is acknowledged is there after reopening, and every operation does what it says.

// A test of the real thing: real threads, and a real clock to bound its waiting.
#![allow(clippy::disallowed_methods)]

use serde_json::json;
use std::collections::BTreeMap;
use vectorsphere::{
    config::Config,
    embedded::{Database, Options},
    types::{
        AliasChange, CollectionName, CollectionSpec, DocumentId, ErrorKind, Filter, IndexType, Metric, Payload, Point,
        PointPatch, Rerank, Vector, VectorName, VectorSpec,
        operation::{DeleteRequest, ListRequest, Search},
    },
};

fn payload(value: serde_json::Value) -> Payload {
    Payload::new(value.as_object().unwrap().clone()).unwrap()
}

fn point(id: impl Into<String>, vector: &[f32], metadata: serde_json::Value) -> Point {
    Point {
        id: DocumentId::from_text(id).unwrap(),
        vectors: vec![(VectorName::default(), Vector::new(vector.to_vec()).unwrap())],
        payload: payload(metadata),
        if_version: None,
    }
}

fn patch(id: &str, metadata: serde_json::Value) -> PointPatch {
    PointPatch { id: DocumentId::from_text(id).unwrap(), vectors: vec![], payload: payload(metadata), if_version: None }
}

fn ids(hits: &[vectorsphere::types::operation::SearchHit]) -> Vec<String> {
    hits.iter().map(|hit| hit.point.id.to_string()).collect()
}

#[test]
fn everything_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = Database::open(dir.path(), Options::default()).unwrap();
        let c = db.create_collection("a", 2, Metric::Euclidean, IndexType::Flat).unwrap();
        for i in 0..200_u32 {
            c.upsert_points(vec![point(format!("p{i}"), &[i as f32, 0.0], json!({"i": i, "even": i % 2 == 0}))])
                .unwrap();
        }
        c.patch(patch("p7", json!({"i": null, "name": "seven"}))).unwrap();
        let filter = Filter::from_json(&json!({"must": [{"key": "i", "range": {"gte": 100}}]})).unwrap();
        assert_eq!(c.delete(DeleteRequest::Filter(filter)).unwrap().deleted, 100);
        let gone = vec![DocumentId::from_text("p0").unwrap(), DocumentId::from_text("p199").unwrap()];
        assert_eq!(c.delete(DeleteRequest::Ids(gone)).unwrap().deleted, 1);
    }
    let db = Database::open(dir.path(), Options::default()).unwrap();
    let c = db.collection("a").unwrap();
    assert_eq!(c.stats().unwrap().info.points, 99);
    let seven = c.get("p7").unwrap();
    assert_eq!(seven.payload.unwrap(), payload(json!({"even": false, "name": "seven"})));
    assert_eq!(seven.vectors.unwrap()[0].1, [7.0, 0.0]);
    assert_eq!(c.get("p0").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(ids(&c.search(vec![6.9, 0.0], 3).unwrap()), ["p7", "p6", "p8"]);
    assert_eq!(c.search(vec![99.0, 0.0], 1).unwrap()[0].score, 0.0);
}

#[test]
fn versions_guard_writes_and_a_batch_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::default()).unwrap();
    let c = db.create_collection("a", 1, Metric::Dot, IndexType::IvfPq).unwrap();
    let first = c.upsert([("x", vec![1.0])]).unwrap().version;
    let only_if = |id: &str, version| Point { if_version: Some(version), ..point(id, &[2.0], json!({})) };
    let error = c.upsert_points(vec![point("y", &[1.0], json!({})), only_if("x", first + 1)]).unwrap_err();
    assert_eq!((error.kind(), error.code(), error.detail().row), (ErrorKind::Conflict, "version_mismatch", Some(1)));
    assert_eq!(c.get("y").unwrap_err().code(), "document_not_found", "nothing of the batch was written");
    assert_eq!(c.upsert_points(vec![only_if("z", 1)]).unwrap_err().code(), "version_mismatch");
    let second = c.upsert_points(vec![only_if("x", first), only_if("new", 0)]).unwrap().version;
    assert_eq!((c.get("x").unwrap().version, c.get("new").unwrap().version), (second, second));
    assert_eq!(c.stats().unwrap().info.points, 2);
}

#[test]
fn filters_thresholds_and_listing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::default()).unwrap();
    let c = db.create_collection("a", 2, Metric::Cosine, IndexType::Flat).unwrap();
    let all: Vec<Point> =
        (0..50_u32).map(|i| point(i.to_string(), &[1.0, i as f32 / 10.0], json!({"g": i % 5}))).collect();
    c.upsert_points(all).unwrap();
    let filter = Filter::from_json(&json!({"must": [{"key": "g", "match": {"value": 3}}]})).unwrap();
    let search = |threshold, filter| Search {
        threshold,
        filter,
        explain: true,
        ..Search::nearest(Vector::new(vec![1.0, 0.0]).unwrap(), 5)
    };
    let found = c.search_with(search(None, Some(filter.clone()))).unwrap();
    assert_eq!(ids(&found.hits), ["3", "8", "13", "18", "23"]);
    assert_eq!(found.explain.unwrap().filter_matches, Some(10));
    let near = c.search_with(search(Some(0.995), None)).unwrap();
    assert_eq!(ids(&near.hits), ["0", "1"]);
    let list = |cursor, filter| ListRequest { limit: 20, cursor, filter, with_vector: true, with_payload: true };
    let first = c.list(list(None, None)).unwrap();
    let second = c.list(list(first.cursor, None)).unwrap();
    let third = c.list(list(second.cursor, None)).unwrap();
    assert_eq!((first.points.len(), second.points.len(), third.points.len(), third.cursor), (20, 20, 10, None));
    assert_eq!(c.list(list(None, Some(filter))).unwrap().points.len(), 10);
}

#[test]
fn named_vectors_and_several_shards() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::default()).unwrap();
    let name = |n: &str| VectorName::new(n).unwrap();
    let spec = |d, m| VectorSpec::new(d, m, IndexType::IvfPq).unwrap();
    let vectors =
        BTreeMap::from([(name("title"), spec(1, Metric::Euclidean)), (name("body"), spec(2, Metric::Manhattan))]);
    let c = db.create_collection_with("a", CollectionSpec::new(vectors, 3).unwrap()).unwrap();
    let vector = |c: &[f32]| Vector::new(c.to_vec()).unwrap();
    let points = (0..90_u64).map(|i| Point {
        id: DocumentId::Num(i),
        vectors: if i % 3 == 0 {
            vec![(name("title"), vector(&[i as f32]))]
        } else {
            vec![(name("body"), vector(&[i as f32, 1.0])), (name("title"), vector(&[i as f32]))]
        },
        payload: Payload::default(),
        if_version: None,
    });
    c.upsert_points(points.collect()).unwrap();
    let by = |n: &str, c: &[f32]| Search { vector_name: name(n), ..Search::nearest(vector(c), 4) };
    assert_eq!(ids(&c.search_with(by("title", &[30.0])).unwrap().hits), ["30", "29", "31", "28"]);
    assert_eq!(ids(&c.search_with(by("body", &[30.0, 1.0])).unwrap().hits), ["29", "31", "28", "32"]);
    assert_eq!(c.search(vec![1.0], 1).unwrap_err().code(), "unknown_vector");
    assert_eq!(c.stats().unwrap().shards.len(), 3);
    let (mut cursor, mut seen) = (None, vec![]);
    loop {
        let request = ListRequest { limit: 7, cursor, filter: None, with_vector: false, with_payload: false };
        let page = c.list(request).unwrap();
        seen.extend(page.points.iter().map(|point| point.id.to_string().parse::<u64>().unwrap()));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..90).collect::<Vec<_>>(), "in order, without gap or repeat");
}

#[test]
fn collections_come_and_go_and_a_new_one_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::default()).unwrap();
    let c = db.create_collection("a", 1, Metric::Dot, IndexType::Flat).unwrap();
    c.upsert([("x", vec![1.0])]).unwrap();
    assert_eq!(db.create_collection("a", 1, Metric::Dot, IndexType::Flat).err().unwrap().code(), "table_exists");
    db.delete_collection("a").unwrap();
    assert_eq!(db.collection("a").err().unwrap().code(), "table_not_found");
    assert_eq!(db.delete_collection("a").unwrap_err().code(), "table_not_found");
    let again = db.create_collection("a", 2, Metric::Cosine, IndexType::Flat).unwrap();
    assert_eq!(again.stats().unwrap().info.points, 0);
    assert_eq!(again.get("x").unwrap_err().code(), "document_not_found");
    assert!(db.health().ready);
}

#[test]
fn one_process_at_a_time_has_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::default()).unwrap();
    let second = Database::open(dir.path(), Options::default()).err().unwrap();
    assert_eq!(second.exit_code(), 3, "{second}");
    db.close();
    assert!(Database::open(dir.path(), Options::default()).is_ok());
}

/// A recall target is met by a plan that was measured, and `explain` says which; beyond what was measured, exactly.
#[test]
fn a_recall_target_is_met_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        index: vectorsphere::config::Index { flat_points_max: 300, ..Config::default().index },
        ..Config::default()
    };
    let db = Database::open(dir.path(), Options { config, ..Options::default() }).unwrap();
    let c = db.create_collection("a", 4, Metric::Euclidean, IndexType::IvfPq).unwrap();
    let vector = |i: u32| -> Vec<f32> { (1..5).map(|j| (f64::from(i * j) * 0.754_877_666).fract() as f32).collect() };
    c.upsert((0..3_000).map(|i| (i.to_string(), vector(i)))).unwrap();
    let started = std::time::Instant::now();
    while c.stats().unwrap().info.indexes[0].lists == 0 {
        assert!(started.elapsed().as_secs() < 60, "the index was never trained");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let explained = |recall_target, nprobe| {
        let search =
            Search { recall_target, nprobe, explain: true, ..Search::nearest(Vector::new(vector(7_777)).unwrap(), 10) };
        c.search_with(search).unwrap().explain.unwrap()
    };
    let default = explained(None, None);
    assert_eq!((default.plan, default.recall_target), ("ivf", Some(0.95)));
    assert!(default.estimated_recall >= 0.95 && default.lists_probed <= default.nprobe);
    let easy = explained(Some(0.8), None);
    assert!(easy.codes_scanned <= default.codes_scanned && easy.estimated_recall >= 0.8, "{easy:?}");
    let all = explained(Some(1.0), None);
    assert_eq!((all.plan, all.estimated_recall), ("exact", 1.0));
    let given = explained(Some(1.0), Some(2));
    assert_eq!((given.plan, given.recall_target, given.lists_probed), ("ivf", None, 2));
    assert!(given.estimated_recall < 1.0);
}

/// Each kind of code, with both last passes, serves what was asked of it once trained, and again after a restart.
#[test]
fn every_code_serves_searches() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        index: vectorsphere::config::Index { flat_points_max: 300, ..Config::default().index },
        ..Config::default()
    };
    let options = || Options { config: config.clone(), ..Options::default() };
    let vector = |i: u32| -> Vec<f32> {
        (0..9u32).map(|t| (f64::from(i * 9 + t) * 0.754_877_666).fract() as f32 * 8.0 + (i % 5) as f32).collect()
    };
    let kinds = [IndexType::IvfPq, IndexType::IvfBinary, IndexType::IvfScalar];
    let all = kinds.map(|kind| [(kind, Rerank::F32), (kind, Rerank::Int8)]).concat();
    let name = |kind: IndexType, rerank: Rerank| format!("{}-{}", kind.name(), rerank.name());
    let check = |db: &Database| {
        for &(kind, rerank) in &all {
            let c = db.collection(&name(kind, rerank)).unwrap();
            let started = std::time::Instant::now();
            while c.stats().unwrap().info.indexes[0].served_by != kind {
                assert!(started.elapsed().as_secs() < 60, "{kind:?}: the index was never trained");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            for i in (0..2_000).step_by(97) {
                // Every list: a default search promises recall on average, not each row's own.
                let query = Vector::new(vector(i)).unwrap();
                let hits = c.search_with(Search { nprobe: Some(64), ..Search::nearest(query, 3) }).unwrap().hits;
                // Point i + 504 lies within 0.01 of point i: int8 cannot tell them apart, f32 can.
                let first = if rerank == Rerank::F32 { 1 } else { 2 };
                assert!(ids(&hits)[..first].contains(&i.to_string()), "{kind:?} {rerank:?}: {:?}", ids(&hits));
                let slack = if rerank == Rerank::F32 { 0.0 } else { 0.5 };
                assert!(hits[0].score.abs() <= slack, "{kind:?} {rerank:?}: {}", hits[0].score);
            }
        }
    };
    {
        let db = Database::open(dir.path(), options()).unwrap();
        for &(kind, rerank) in &all {
            let spec = VectorSpec::new(9, Metric::Euclidean, kind).unwrap().with_codes(None, Some(rerank)).unwrap();
            let c = db.create_collection_with(&name(kind, rerank), CollectionSpec::single(spec)).unwrap();
            c.upsert((0..2_000).map(|i| (i.to_string(), vector(i)))).unwrap();
        }
        check(&db);
    }
    check(&Database::open(dir.path(), options()).unwrap());
}

/// Searches are right before, during and after training, while writes go on: every hit is what a scan finds.
#[test]
fn training_never_loses_or_revives_a_point() {
    let dir = tempfile::tempdir().unwrap();
    let defaults = Config::default();
    let index = vectorsphere::config::Index { flat_points_max: 300, ..defaults.index.clone() };
    let config = Config { index, ..defaults };
    let options = || Options { config: config.clone(), ..Options::default() };
    let vector = |i: u32| {
        let (x, y) = (f64::from(i) * 0.754_877_666, f64::from(i) * 0.569_840_291);
        vec![(x.fract() * 10.0) as f32, (y.fract() * 10.0) as f32, (i % 7) as f32, 1.0]
    };
    let check = |c: &vectorsphere::embedded::Collection<'_>, live: &BTreeMap<u32, Vec<f32>>| {
        for (i, v) in live.iter().step_by(17) {
            let hits = c.search(v.clone(), 1).unwrap();
            assert_eq!((ids(&hits), hits[0].score), (vec![i.to_string()], 0.0), "point {i} is found by its own vector");
        }
    };
    let mut live = BTreeMap::new();
    {
        let db = Database::open(dir.path(), options()).unwrap();
        let c = db.create_collection("a", 4, Metric::Euclidean, IndexType::IvfPq).unwrap();
        for i in 0..3_000_u32 {
            c.upsert([(i.to_string(), vector(i))]).unwrap();
            live.insert(i, vector(i));
            if i % 5 == 0 {
                c.delete(DeleteRequest::Ids(vec![DocumentId::Num(u64::from(i / 2))])).unwrap();
                live.remove(&(i / 2));
            }
            if i % 11 == 0 && live.contains_key(&(i / 3)) {
                let moved = vector(i + 100_000);
                c.upsert([((i / 3).to_string(), moved.clone())]).unwrap();
                live.insert(i / 3, moved);
            }
            if i % 500 == 499 {
                check(&c, &live);
            }
        }
        assert_eq!(c.stats().unwrap().info.points, live.len() as u64);
        let started = std::time::Instant::now();
        while c.stats().unwrap().info.indexes[0].lists == 0 {
            assert!(started.elapsed().as_secs() < 60, "the index was never trained");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        check(&c, &live);
    }
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection("a").unwrap();
    assert!(c.stats().unwrap().info.indexes[0].lists > 0, "the index file was used");
    assert_eq!(c.stats().unwrap().info.indexes[0].rows, live.len() as u64);
    check(&c, &live);
}

/// The index file below `directory`, if there is one.
fn index_file(directory: &std::path::Path) -> Option<std::path::PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let here = entries.iter().find(|path| path.extension().is_some_and(|extension| extension == "index"));
    here.cloned().or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| index_file(path)))
}

/// A damaged index file costs time, never an answer: it is found and made again, whatever part of it is damaged and whatever is
/// searched and written meanwhile.
#[test]
fn a_damaged_index_file_is_found_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        index: vectorsphere::config::Index { flat_points_max: 300, ..Config::default().index },
        ..Config::default()
    };
    let open = || Database::open(dir.path(), Options { config: config.clone(), ..Options::default() }).unwrap();
    let vector = |i: u32| vec![f64::from(i).sin() as f32, f64::from(i * 7).sin() as f32, (i % 13) as f32, 1.0];
    let wait_for = |what: &str, is_so: &dyn Fn() -> bool| {
        let started = std::time::Instant::now();
        while !is_so() {
            assert!(started.elapsed().as_secs() < 60, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    {
        let db = open();
        let c = db.create_collection("a", 4, Metric::Euclidean, IndexType::IvfPq).unwrap();
        c.upsert((0..1_000_u32).map(|i| (i.to_string(), vector(i)))).unwrap();
        wait_for("the index is saved", &|| index_file(dir.path()).is_some());
    }
    for part in 0..8_u32 {
        let path = index_file(dir.path()).expect("it was saved");
        let mut bytes = std::fs::read(&path).unwrap();
        // Not in the gaps between arrays, which are zeros and matter to nobody.
        let from = 64 + (bytes.len() - 100) * part as usize / 8;
        let at = (from..bytes.len()).find(|&at| bytes[at] != 0).unwrap();
        bytes[at] ^= 0x11;
        std::fs::write(&path, &bytes).unwrap();
        let db = open();
        let c = db.collection("a").unwrap();
        c.upsert([((2_000 + part).to_string(), vector(2_000 + part))]).unwrap();
        for i in (0..1_000).step_by(37).chain(2_000..=2_000 + part) {
            let hits = c.search(vector(i), 1).unwrap();
            assert_eq!((ids(&hits), hits[0].score), (vec![i.to_string()], 0.0), "point {i}, damage at {at}");
        }
        let made_again =
            || index_file(dir.path()).is_some_and(|path| std::fs::read(path).is_ok_and(|now| now != bytes));
        wait_for(&format!("the index file is made again after damage at {at}"), &made_again);
        assert_eq!(c.stats().unwrap().info.points, 1_001 + u64::from(part));
    }
}

#[test]
fn an_alias_is_given_to_another_collection_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Database::open(dir.path(), Options::default()).unwrap();
    let name = |name: &str| CollectionName::new(name).unwrap();
    let give = |table: &str| AliasChange::Create { alias: name("words"), table: name(table) };
    {
        let db = open();
        for (table, id) in [("monday", "1"), ("tuesday", "2")] {
            let collection = db.create_collection(table, 2, Metric::Euclidean, IndexType::Flat).unwrap();
            collection.upsert([(id, vec![1.0, 2.0])]).unwrap();
        }
        assert_eq!(db.change_aliases(vec![give("monday")]).unwrap().changed, 1);
        assert_eq!(ids(&db.collection("words").unwrap().search(vec![1.0, 2.0], 5).unwrap()), ["1"]);
        let refused = db.change_aliases(vec![give("tuesday"), give("wednesday")]).unwrap_err();
        assert_eq!(refused.code(), "table_not_found");
        assert_eq!(ids(&db.collection("words").unwrap().search(vec![1.0, 2.0], 5).unwrap()), ["1"], "all or none");
        db.change_aliases(vec![give("tuesday")]).unwrap();
    }
    let db = open();
    let aliases: Vec<_> = db.aliases().unwrap().into_iter().map(|one| (one.alias, one.table)).collect();
    assert_eq!(aliases, [(name("words"), name("tuesday"))]);
    assert_eq!(ids(&db.collection("words").unwrap().search(vec![1.0, 2.0], 5).unwrap()), ["2"]);
    let taken = AliasChange::Create { alias: name("monday"), table: name("tuesday") };
    assert_eq!(db.change_aliases(vec![taken]).unwrap_err().code(), "table_exists");
}
