//! The service over a real engine: callers that go away in the middle, batches over several shards, renamed clusters.
//! Each case was a defect found by reading; it must not come back.

use std::{future::poll_fn, path::Path, pin::pin, task::Poll, time::Duration};
use vectorsphere::{
    config::{Assignment, Config, Sources, load},
    node::Engine,
    rt,
    service::Phase,
    telemetry::metrics::Metrics,
    types::{
        CollectionName, CollectionSpec, DocumentId, ErrorKind, IndexType, Metric, Payload, Point, Vector, VectorName,
        VectorSpec, WriteOptions, operation::ReadOptions,
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
            abandon(service.delete_collection(&name("t"))).await;
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
