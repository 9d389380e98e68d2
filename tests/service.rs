//! The service over a real engine: callers that go away in the middle, batches over several shards, renamed clusters.
//! Each case was a defect found by reading; it must not come back.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{future::poll_fn, path::Path, pin::pin, task::Poll, time::Duration};
use vectorsphere::{
    config::{Assignment, Config, Sources, load},
    node::Engine,
    rt,
    service::Phase,
    telemetry::metrics::Metrics,
    types::{
        CollectionName, CollectionSpec, DocumentId, ErrorKind, Filter, IndexType, Metric, Payload, Point, PointId,
        SLOTS, Vector, VectorName, VectorSpec, WriteOptions,
        operation::{Explain, ReadOptions, Search, SearchAnswer},
        slot_of,
    },
};

fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    rt::block_on(2, test).expect("a runtime")
}

async fn open(config: &Config) -> Engine {
    let engine = Engine::open(config, &Metrics::new(), |identity| identity).await.expect("the engine opens");
    engine.service().identity().enter(Phase::Up);
    engine
}

fn config(directory: &tempfile::TempDir) -> Config {
    Config { data_dir: directory.path().to_owned(), ..Config::default() }
}

fn named(cluster: &str) -> vectorsphere::config::Cluster {
    let flags = vec![Assignment::named("--service", "cluster.name", cluster)];
    let read = |path: &Path| panic!("no file is named: {}", path.display());
    load(&Sources { file: None, variables: Vec::new(), flags, read: &read }).expect("a good name").config.cluster
}

fn spec(shards: u32) -> CollectionSpec {
    CollectionSpec { shards, ..CollectionSpec::single(VectorSpec::new(1, Metric::Dot, IndexType::Flat).unwrap()) }
}

fn name(text: &str) -> CollectionName {
    CollectionName::new(text).unwrap()
}

fn point(id: u64, if_version: Option<u64>) -> Point {
    let vectors = vec![(VectorName::default(), Vector::new(vec![1.0]).unwrap())];
    Point { id: DocumentId::Num(id), vectors, payload: Payload::default(), if_version }
}

/// Polls a future once and drops it, as a server does with a handler whose client has gone.
async fn abandon<T>(future: impl Future<Output = T>) {
    let mut future = pin!(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending(), "it cannot be over at once");
        Poll::Ready(())
    })
    .await;
}

/// Waits for what an abandoned call goes on to do by itself.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let ends = async {
        while !holds().await {
            rt::time::sleep(Duration::from_millis(1)).await;
        }
    };
    rt::time::timeout(Duration::from_secs(20), ends).await.unwrap_or_else(|_| panic!("{what}: not within 20 s"));
}

#[test]
fn a_caller_that_goes_away_leaves_no_table_half_made_or_half_dropped() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let engine = open(&config(&directory)).await;
        let service = engine.service();
        for round in 0..5 {
            abandon(service.create_collection(name("t"), spec(4))).await;
            until("it is made", async || service.collection(&name("t")).await.is_ok()).await;
            assert!(service.health().ready, "round {round}: {:?}", service.health());
            let again = service.create_collection(name("t"), spec(4)).await;
            assert_eq!(again.unwrap_err().code(), "table_exists");
            service
                .upsert(&name("t"), (0..50).map(|id| point(id, None)).collect(), &WriteOptions::default())
                .await
                .expect("it takes writes");
            abandon(service.delete_collection(&name("t"), false)).await;
            until("it is gone", async || service.collection(&name("t")).await.is_err()).await;
            assert_eq!(
                service.upsert(&name("t"), vec![point(1, None)], &WriteOptions::default()).await.unwrap_err().code(),
                "table_not_found"
            );
            until("no shard stays open", async || service.host().replicas().is_empty()).await;
        }
        engine.close().await;
    });
}

#[test]
fn errors_of_a_batch_over_several_shards_name_the_callers_row() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let engine = open(&config(&directory)).await;
        let service = engine.service();
        service.create_collection(name("t"), spec(4)).await.unwrap();
        for bad in 0..12 {
            let points = (0..12).map(|id| point(id, (id == bad).then_some(999))).collect();
            let error = service.upsert(&name("t"), points, &WriteOptions::default()).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Conflict, "version_mismatch"));
            assert_eq!(error.detail().row, Some(bad as usize));
            assert_eq!(error.detail().document_id, Some(bad.to_string()));
            assert!(error.message().contains("were written"), "{error}");
        }
        engine.close().await;
    });
}

#[test]
fn the_name_of_the_cluster_is_a_setting_and_the_data_stays() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let mut version = 0;
        for cluster in ["vectorsphere", "another", "vectorsphere"] {
            let engine = open(&Config { cluster: named(cluster), ..config(&directory) }).await;
            let service = engine.service();
            if service.list_collections().await.unwrap().is_empty() {
                assert_eq!(cluster, "vectorsphere", "the table is there under every later name");
                service.create_collection(name("t"), spec(1)).await.unwrap();
                let written = service.upsert(&name("t"), vec![point(7, None)], &WriteOptions::default()).await.unwrap();
                version = written.version;
            }
            let found = service.get(&name("t"), &DocumentId::Num(7), &ReadOptions::default()).await;
            assert_eq!(found.unwrap().point.version, version);
            engine.close().await;
        }
    });
}

#[test]
fn a_guarded_batch_names_each_document_once() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let engine = open(&config(&directory)).await;
        let service = engine.service();
        service.create_collection(name("t"), spec(1)).await.unwrap();
        let error = service
            .upsert(&name("t"), vec![point(1, Some(0)), point(1, Some(0))], &WriteOptions::default())
            .await
            .unwrap_err();
        assert_eq!((error.code(), error.detail().row), ("duplicate_document", Some(1)));
        assert_eq!(service.collection(&name("t")).await.unwrap().points, 0);
        service
            .upsert(&name("t"), vec![point(1, None), point(1, None)], &WriteOptions::default())
            .await
            .expect("without guards the last one stays");
        engine.close().await;
    });
}

/// Any search of vectors of four numbers, of all kinds that the indexes answer in their own ways.
fn any_search() -> impl Strategy<Value = Search> {
    let vector = prop::array::uniform4(0.0_f32..1.0);
    let effort = (prop::option::of(1_usize..6), prop::option::of(0.5_f32..1.0), prop::bool::weighted(0.1));
    let tag = prop::option::weighted(0.2, 0_u8..4);
    let shown = (any::<bool>(), any::<bool>(), prop::option::weighted(0.2, 0.0_f32..0.2));
    (vector, 1_usize..30, effort, tag, shown).prop_map(|(vector, top_k, effort, tag, shown)| {
        let matches = |tag| Filter::from_json(&serde_json::json!({"must": [{"key": "tag", "match": {"value": tag}}]}));
        let (nprobe, recall_target, exact) = effort;
        let (with_payload, with_vector, threshold) = shown;
        let filter = tag.map(|tag| matches(tag).unwrap());
        let nearest = Search::nearest(Vector::new(vector.to_vec()).unwrap(), top_k);
        let explain = true;
        Search { nprobe, recall_target, exact, filter, with_payload, with_vector, threshold, explain, ..nearest }
    })
}

/// An answer without what a clock measured.
fn timeless(answer: SearchAnswer) -> SearchAnswer {
    let timeless = |explain| Explain { scan_us: 0, rerank_us: 0, ..explain };
    SearchAnswer { explain: answer.explain.map(timeless), ..answer }
}

#[test]
fn a_batch_answers_each_search_as_if_it_were_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.index.flat_points_max = 300;
    on_runtime(async {
        let engine = open(&config).await;
        let (service, table) = (engine.service(), name("t"));
        let vectors = VectorSpec::new(4, Metric::Euclidean, IndexType::IvfPq).unwrap();
        let spec = CollectionSpec { shards: 2, ..CollectionSpec::single(vectors) };
        service.create_collection(table.clone(), spec).await.unwrap();
        let points = (0..6_000_u64).map(|id| {
            let vector = (1..5).map(|t| ((id * t) as f64 * 0.754_877_666).fract() as f32).collect();
            let payload = Payload::from_json(format!(r#"{{"tag":{}}}"#, id % 4).as_bytes()).unwrap();
            let vectors = vec![(VectorName::default(), Vector::new(vector).unwrap())];
            Point { id: DocumentId::Num(id), vectors, payload, if_version: None }
        });
        service.upsert(&table, points.collect(), &WriteOptions::default()).await.unwrap();
        let ask = async |searches: Vec<Search>| {
            let answers = service.search(&table, searches, &ReadOptions::default()).await.unwrap().answers;
            answers.into_iter().map(timeless).collect::<Vec<_>>()
        };
        until("both shards are trained", async || {
            let probe = Search { explain: true, ..Search::nearest(Vector::new(vec![0.5; 4]).unwrap(), 1) };
            ask(vec![probe]).await[0].explain.as_ref().is_some_and(|explain| explain.plan == "ivf")
        })
        .await;
        let mut runner = TestRunner::deterministic();
        let mut plans = std::collections::BTreeSet::new();
        for length in [1, 2, 3, 20, 64, 65, 130, 300] {
            let searches = prop::collection::vec(any_search(), length).new_tree(&mut runner).unwrap().current();
            let together = ask(searches.clone()).await;
            assert_eq!(together.len(), length);
            for (search, answer) in searches.into_iter().zip(together) {
                plans.extend(answer.explain.as_ref().map(|explain| explain.plan));
                assert_eq!(ask(vec![search.clone()]).await, [answer], "{search:?}");
            }
        }
        assert!(plans.contains("ivf") && plans.contains("exact") && plans.len() > 2, "{plans:?}");
        engine.close().await;
    });
}

/// Each shard is asked for fewer than the best of all. Where one has them all, that is too few, and the search is done again in whole.
#[test]
fn four_shards_find_what_one_finds() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let engine = open(&config(&directory)).await;
        let service = engine.service();
        let points = || {
            (0..600_u64).map(|id| {
                // Few different places, so that ties decide; those at the left are one shard's.
                let of_first = slot_of(PointId::Num(id)) < SLOTS / 4;
                let vector = vec![(id * 7 % 40) as f32 + if of_first { 0.0 } else { 30.0 }, (id * 11 % 3) as f32];
                let vectors = vec![(VectorName::default(), Vector::new(vector).unwrap())];
                Point { id: DocumentId::Num(id), vectors, payload: Payload::default(), if_version: None }
            })
        };
        let searches = |top_k| {
            let at = |number: u64| vec![(number % 73) as f32, (number % 5) as f32 / 2.0];
            (0..500).map(|number| Search::nearest(Vector::new(at(number)).unwrap(), top_k)).collect::<Vec<_>>()
        };
        let mut found = Vec::new();
        for shards in [1, 4] {
            let vectors = VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).unwrap();
            let spec = CollectionSpec { shards, ..CollectionSpec::single(vectors) };
            let table = name(&format!("t{shards}"));
            service.create_collection(table.clone(), spec).await.unwrap();
            service.upsert(&table, points().collect(), &WriteOptions::default()).await.unwrap();
            let mut hits = Vec::new();
            for top_k in [1, 3, 10, 40] {
                let answer = service.search(&table, searches(top_k), &ReadOptions::default()).await.unwrap();
                assert_eq!((answer.shards.total, answer.shards.ok), (shards, shards));
                let ids = |answer: SearchAnswer| answer.hits.into_iter().map(|hit| (hit.point.id, hit.score));
                hits.extend(answer.answers.into_iter().map(|answer| ids(answer).collect::<Vec<_>>()));
            }
            found.push(hits);
        }
        assert!(found[0] == found[1], "four shards find something else");
        assert!(found[0].iter().all(|hits| [1, 3, 10, 40].contains(&hits.len())));
        engine.close().await;
    });
}
