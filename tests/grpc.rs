//! The gRPC face over real HTTP/2: the calls, their errors and what travels with them, health, reflection.

use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use vectorsphere::{
    api::{
        Faces, Options,
        grpc::proto::{self, delete_request::Selector, document_id::Id, vector_service_client::VectorServiceClient},
    },
    config::Config,
    node::Engine,
    rt::{
        Shutdown, Task,
        net::Listener,
        rpc::{self, Channel, RpcOptions},
        spawn,
    },
    service::Phase,
    telemetry::metrics::Metrics,
    types::{AliasChange, CollectionName, CollectionSpec, IndexType, Metric, VectorSpec},
};

struct Node {
    engine: Engine,
    channel: Channel,
    stop: Shutdown,
    serving: Task<()>,
    _directory: tempfile::TempDir,
}

impl Node {
    /// A node with a table `t` of dimension 2 under the dot metric, served over gRPC.
    async fn start() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { data_dir: directory.path().to_owned(), ..Config::default() };
        let metrics = Metrics::new();
        let engine = Engine::open(&config, &metrics, |identity| identity).await.unwrap();
        engine.service().identity().enter(Phase::Up);
        let spec = CollectionSpec::single(VectorSpec::new(2, Metric::Dot, IndexType::Flat).unwrap());
        engine.service().create_collection(CollectionName::new("t").unwrap(), spec).await.unwrap();
        let faces = Faces::new(engine.service().clone(), Options { metrics, ..Options::default() });
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Shutdown::new();
        let serving = spawn("grpc", rpc::serve(listener, faces.grpc(), RpcOptions::default(), stop.clone()));
        let channel = rpc::connect(&address, &RpcOptions::default()).unwrap();
        Node { engine, channel, stop, serving, _directory: directory }
    }

    fn client(&self) -> VectorServiceClient<Channel> {
        VectorServiceClient::new(self.channel.clone())
    }

    async fn stop(self) {
        drop(self.channel);
        self.stop.trigger();
        self.serving.await.unwrap();
        self.engine.close().await;
    }
}

fn text(id: &str) -> proto::DocumentId {
    proto::DocumentId { id: Some(Id::Text(id.to_owned())) }
}

fn document(id: &str, vector: &[f32], metadata: &'static str) -> proto::Document {
    proto::Document {
        id: Some(text(id)),
        vector: vector.to_vec(),
        metadata_json: metadata.as_bytes().into(),
        ..proto::Document::default()
    }
}

fn upsert(documents: Vec<proto::Document>) -> proto::UpsertRequest {
    proto::UpsertRequest { table: "t".to_owned(), documents, ..proto::UpsertRequest::default() }
}

#[tokio::test]
async fn what_is_written_is_found_and_deleted() {
    let node = Node::start().await;
    let mut client = node.client();
    let bytes: Vec<u8> = [0.0f32, 1.0].iter().flat_map(|c| c.to_le_bytes()).collect();
    let number = proto::DocumentId { id: Some(Id::Num(7)) };
    let raw = proto::Document { id: Some(number.clone()), vector_f32_le: bytes.into(), ..proto::Document::default() };
    let unnamed = proto::Document { vector: vec![0.1, 0.1], ..proto::Document::default() };
    let written =
        client.upsert(upsert(vec![document("a", &[1.0, 0.0], r#"{"k":9007199254740993}"#), raw, unnamed])).await;
    let written = written.unwrap();
    assert!(written.metadata().contains_key("x-request-id"));
    let written = written.into_inner();
    assert_eq!(written.ids[..2], [text("a"), number.clone()]);
    assert!(matches!(&written.ids[2].id, Some(Id::Text(uuid)) if uuid.len() == 36), "a UUID was made");

    let request = proto::SearchRequest {
        table: "t".to_owned(),
        vector: vec![1.0, 0.5],
        top_k: 2,
        with_vector: true,
        explain: true,
        session: written.session,
        ..proto::SearchRequest::default()
    };
    let found = client.search(request.clone()).await.unwrap().into_inner();
    let ids: Vec<_> = found.results.iter().map(|result| result.id.clone().unwrap()).collect();
    assert_eq!((ids, found.results[0].score), (vec![text("a"), number], 1.0));
    assert_eq!(found.results[0].metadata_json, r#"{"k":9007199254740993}"#);
    assert_eq!(found.results[0].vector, [1.0, 0.0]);
    assert_eq!(found.shards.unwrap().ok, 1);
    assert!(serde_json::from_slice::<serde_json::Value>(&found.explain_json).unwrap()["plan"].is_string());

    let filter = r#"{"must":[{"key":"k","match":{"value":9007199254740993}}]}"#;
    let selector = Some(Selector::FilterJson(filter.as_bytes().into()));
    let deleted = client
        .delete(proto::DeleteRequest { table: "t".to_owned(), selector, ..proto::DeleteRequest::default() })
        .await
        .unwrap();
    assert_eq!(deleted.into_inner().deleted, 1);
    let found = client.search(request).await.unwrap().into_inner();
    assert_eq!(found.results[0].id, Some(proto::DocumentId { id: Some(Id::Num(7)) }));
    node.stop().await;
}

#[tokio::test]
async fn an_alias_stands_for_its_table() {
    let node = Node::start().await;
    let (service, mut client) = (node.engine.service(), node.client());
    let name = |text: &str| CollectionName::new(text).unwrap();
    let live = |table| vec![AliasChange::Create { alias: name("live"), table: name(table) }];
    let other = CollectionSpec::single(VectorSpec::new(3, Metric::Dot, IndexType::Flat).unwrap());
    service.create_collection(name("other"), other).await.unwrap();
    service.change_aliases(live("t")).await.unwrap();
    let written = proto::UpsertRequest { table: "live".to_owned(), ..upsert(vec![document("a", &[1.0, 0.0], "")]) };
    client.upsert(written.clone()).await.unwrap();
    let request = proto::SearchRequest {
        table: "live".to_owned(),
        vector: vec![1.0, 0.0],
        top_k: 1,
        ..proto::SearchRequest::default()
    };
    let found = client.search(request.clone()).await.unwrap().into_inner();
    assert_eq!(found.results[0].id, Some(text("a")));
    assert_eq!(service.collection(&name("t")).await.unwrap().points, 1);
    let selector = Some(Selector::Ids(proto::DocumentIds { ids: vec![text("a")] }));
    let delete = proto::DeleteRequest { table: "live".to_owned(), selector, ..proto::DeleteRequest::default() };
    assert_eq!(client.delete(delete).await.unwrap().into_inner().deleted, 1);

    // The other table's vectors are longer.
    service.change_aliases(live("other")).await.unwrap();
    assert_eq!(client.search(request.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.upsert(written).await.unwrap_err().code(), Code::InvalidArgument);
    service.change_aliases(vec![AliasChange::Delete { alias: name("live") }]).await.unwrap();
    assert_eq!(client.search(request).await.unwrap_err().code(), Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn errors_say_the_same_as_rest() {
    let node = Node::start().await;
    let mut client = node.client();
    let refused =
        client.upsert(upsert(vec![document("a", &[1.0, 0.0], ""), document("b", &[1.0], "")])).await.unwrap_err();
    let metadata = refused.metadata();
    let read = |name: &str| {
        let value = metadata.get_bin(name).unwrap_or_else(|| panic!("{name}"));
        String::from_utf8(value.to_bytes().unwrap().to_vec()).unwrap()
    };
    assert_eq!(
        (refused.code(), metadata.get("vs-code").unwrap().to_str().unwrap()),
        (Code::InvalidArgument, "dimension_mismatch")
    );
    assert_eq!(
        (read("vs-field-bin").as_str(), metadata.get("vs-row").unwrap().to_str().unwrap()),
        ("documents[1].vector", "1")
    );
    let parts = (read("vs-expected-bin"), read("vs-got-bin"), read("vs-document-id-bin"));
    assert_eq!(parts, ("2".to_owned(), "1".to_owned(), "b".to_owned()));
    assert!(refused.message().contains("documents[1].vector"), "{}", refused.message());

    let code = async |request| client.clone().upsert(request).await.unwrap_err();
    let code_of = |status: tonic::Status| status.metadata().get("vs-code").unwrap().to_str().unwrap().to_owned();
    assert_eq!(code_of(code(upsert(vec![])).await), "empty_batch");
    assert_eq!(code_of(code(upsert(vec![document("a", &[1.0, 2.0], "{")])).await), "invalid_json");
    assert_eq!(code_of(code(upsert(vec![document("a", &[1.0, 2.0], r#"{"a":1,"a":2}"#)])).await), "duplicate_field");
    assert_eq!(code_of(code(upsert(vec![document("a", &[1.0, f32::NAN], "")])).await), "not_finite");
    let odd = proto::Document { vector_f32_le: vec![0; 7].into(), ..proto::Document::default() };
    assert_eq!(code_of(code(upsert(vec![odd])).await), "bad_vector_bytes");
    let unknown = proto::UpsertRequest { table: "none".to_owned(), ..upsert(vec![document("a", &[1.0, 2.0], "")]) };
    assert_eq!(code(unknown).await.code(), Code::NotFound);
    let mut exists = document("a", &[1.0, 2.0], "");
    client.upsert(upsert(vec![exists.clone()])).await.unwrap();
    exists.if_version = Some(0);
    assert_eq!(client.upsert(upsert(vec![exists])).await.unwrap_err().code(), Code::Aborted);
    let selectors = [None, Some(Selector::FilterJson("{}".into())), Some(Selector::FilterJson("".into()))];
    for selector in selectors {
        let refused = client
            .delete(proto::DeleteRequest { table: "t".to_owned(), selector, ..proto::DeleteRequest::default() })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    node.stop().await;
}

#[tokio::test]
async fn health_follows_the_node() {
    let node = Node::start().await;
    let mut health = HealthClient::new(node.channel.clone());
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("vectorsphere.v1.VectorService")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("other")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    node.engine.service().identity().enter(Phase::Stopping);
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    drop(watch);
    drop(health);
    node.stop().await;
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_reflection_knows_the_rest() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let node = Node::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(node.channel.clone());
    let requests = futures_util::stream::iter([request]);
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("a list of services");
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == "vectorsphere.v1.VectorService"), "{names:?}");
    drop((answers, reflection));
    node.stop().await;
}

#[tokio::test]
async fn a_stream_answers_in_order_and_a_bad_request_fails_alone() {
    use proto::{delete_stream_response, search_stream_response, upsert_stream_response::Outcome};
    let node = Node::start().await;
    let mut client = node.client();
    let many = (0..40).map(|i| match i {
        7 => upsert(vec![document("bad", &[1.0], "")]),
        i => upsert(vec![document(&format!("d{i}"), &[i as f32, 1.0], "")]),
    });
    let many = futures_util::stream::iter(many.collect::<Vec<_>>());
    let mut answers = client.upsert_stream(many).await.unwrap().into_inner();
    for i in 0..40 {
        match answers.message().await.unwrap().unwrap().outcome.unwrap() {
            Outcome::Answer(answer) => assert_eq!(answer.ids, [text(&format!("d{i}"))]),
            Outcome::Failure(failure) => {
                assert_eq!((i, failure.code.as_str(), failure.row), (7, "dimension_mismatch", Some(0)));
                assert_eq!((failure.status, failure.got.as_str()), (Code::InvalidArgument as i32, "1"));
            }
        }
    }
    assert!(answers.message().await.unwrap().is_none(), "it ends when the requests do");
    let search = |i: f32| proto::SearchRequest {
        table: "t".to_owned(),
        vector: vec![i, 0.0],
        top_k: 1,
        ..proto::SearchRequest::default()
    };
    let searches = futures_util::stream::iter(vec![search(1.0), search(f32::NAN), search(-1.0)]);
    let mut found = client.search_stream(searches).await.unwrap().into_inner();
    for expected in [Some("d39"), None, Some("d0")] {
        match found.message().await.unwrap().unwrap().outcome.unwrap() {
            search_stream_response::Outcome::Answer(answer) => assert_eq!(answer.results[0].id, expected.map(text)),
            search_stream_response::Outcome::Failure(failure) => {
                assert_eq!((expected, failure.code.as_str()), (None, "not_finite"));
            }
        }
    }
    let ids = proto::DocumentIds { ids: vec![text("d1"), text("d2")] };
    let delete = || proto::DeleteRequest {
        table: "t".to_owned(),
        selector: Some(Selector::Ids(ids.clone())),
        request_id: "once".to_owned(),
        ..proto::DeleteRequest::default()
    };
    // One after the other: the second is a retry of the first.
    for _ in 0..2 {
        let deletes = futures_util::stream::iter(vec![delete()]);
        let mut deleted = client.delete_stream(deletes).await.unwrap().into_inner();
        let outcome = deleted.message().await.unwrap().unwrap().outcome.unwrap();
        let delete_stream_response::Outcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
        assert_eq!(answer.deleted, 2);
    }
    let mut keyed = tonic::Request::new(futures_util::stream::iter(vec![delete()]));
    keyed.metadata_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(client.delete_stream(keyed).await.unwrap_err().code(), Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test]
async fn a_retry_without_document_ids_writes_the_same_documents() {
    let node = Node::start().await;
    let mut client = node.client();
    let unnamed = || proto::Document { vector: vec![0.1, 0.1], ..proto::Document::default() };
    let write = |request_id: &str| proto::UpsertRequest {
        request_id: request_id.to_owned(),
        ..upsert(vec![unnamed(), unnamed()])
    };
    let first = client.upsert(write("one")).await.unwrap().into_inner();
    let again = client.upsert(write("one")).await.unwrap().into_inner();
    assert_eq!((&again.ids, again.version), (&first.ids, first.version));
    assert_ne!(first.ids[0], first.ids[1]);
    let other = client.upsert(write("two")).await.unwrap().into_inner();
    assert!(other.ids.iter().all(|id| !first.ids.contains(id)));
    let info = client.get_cluster_info(proto::GetClusterInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.documents, info.tables, info.shards, info.nodes.len()), (4, 1, 1, 1), "{info:?}");
    node.stop().await;
}

#[tokio::test]
async fn compressed_messages_are_taken_and_given_and_their_bound_holds() {
    use tonic::codec::CompressionEncoding;
    let node = Node::start().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = node.client().send_compressed(encoding).accept_compressed(encoding);
        let written = client.upsert(upsert(vec![document("a", &[1.0, 0.0], r#"{"a":"b"}"#)])).await.unwrap();
        assert_eq!(
            written.metadata().get("grpc-encoding").unwrap(),
            if encoding == CompressionEncoding::Gzip { "gzip" } else { "zstd" }
        );
        // 80 MiB of zeros are a few KiB on the wire, and still too much.
        let zeros = vec![b' '; 80 << 20];
        let bomb = proto::Document { metadata_json: zeros.into(), ..document("a", &[1.0, 0.0], "") };
        let refused = client.upsert(upsert(vec![bomb])).await.unwrap_err();
        assert!(matches!(refused.code(), Code::ResourceExhausted | Code::OutOfRange), "{refused:?}");
    }
    node.stop().await;
}
