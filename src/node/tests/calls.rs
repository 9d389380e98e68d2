//! The cluster's own calls over gRPC, on nodes that govern themselves: a replica is moved by hand, a node is invited and leaves; and
//! the version that the cluster speaks.

use super::*;
use crate::{
    api::grpc::proto::{
        self, JoinClusterRequest, LeaveClusterRequest, NodeState, RebalanceAction, RebalanceShardsRequest,
        TransferPhase, TransferShardRequest, join_cluster_request::Who, vector_service_client::VectorServiceClient,
    },
    rt::rpc::{self, Channel, RpcOptions},
};
use tonic::{Code, Status};

fn client(node: &Node) -> VectorServiceClient<Channel> {
    let address = node.addresses().grpc.to_string();
    VectorServiceClient::new(rpc::connect(&address, &RpcOptions::default()).unwrap())
}

fn name(node: u64) -> String {
    format!("{node:016x}")
}

fn code(status: &Status) -> &str {
    status.metadata().get("vs-code").map_or("", |code| code.to_str().unwrap())
}

async fn replicas(node: &Node) -> Vec<u64> {
    let stats = node.service().stats(&table_name()).await.unwrap();
    stats.shards[0].replicas.iter().map(|id| u64::from_str_radix(id, 16).unwrap()).collect()
}

/// Who leads the shard, as the master or this node sees it.
async fn leader(node: &Node) -> Option<u64> {
    let placement = node.service().cluster_placement().await.unwrap().unwrap();
    u64::from_str_radix(placement.shards.first()?.leader.as_ref()?, 16).ok()
}

async fn rebalance(node: &Node, action: RebalanceAction, plan_id: u64) -> proto::RebalanceShardsResponse {
    let request = RebalanceShardsRequest { action: action.into(), plan_id };
    client(node).rebalance_shards(request).await.unwrap().into_inner()
}

/// Moves the replica; the phases that were told, one of each in a row.
async fn transfer(asked: &Node, from: u64, to: u64) -> Result<Vec<TransferPhase>, Status> {
    let request = TransferShardRequest { shard: SHARD, from_node: name(from), to_node: name(to) };
    let mut told = client(asked).transfer_shard(request).await?.into_inner();
    let mut phases = Vec::new();
    while let Some(progress) = told.message().await? {
        assert!(progress.phase() != TransferPhase::Done || progress.points == progress.points_total, "{progress:?}");
        phases.push(progress.phase());
    }
    phases.dedup();
    Ok(phases)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_moved_by_hand_and_nodes_invited_and_let_go() {
    let directories: [tempfile::TempDir; 4] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let one = start(directories[0].path(), Mode::Auto, &[]).await;
    let two = start(directories[1].path(), Mode::Auto, &[&one]).await;
    let three = start(directories[2].path(), Mode::Auto, &[&one]).await;
    ready(&[&one, &two, &three]).await;
    until("all are known, and one governs", async || {
        let members = one.service().cluster_placement().await.ok().flatten().map_or(0, |known| known.nodes.len());
        members == 3 && (three.service().identity().leader)().is_some()
    })
    .await;
    let spec = CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).unwrap());
    let spec = CollectionSpec { replicas: Some(2), ..spec };
    one.service().create_collection(table_name(), spec).await.unwrap();
    write(&one, 0..40).await;
    let paused = rebalance(&two, RebalanceAction::Pause, 0).await;
    assert!(paused.paused && paused.changes.is_empty(), "{paused:?}");

    // From whoever leads to whoever has none, asked of any node.
    let held = replicas(&one).await;
    let free = [&one, &two, &three].map(id).into_iter().find(|node| !held.contains(node)).unwrap();
    until("somebody leads the shard", async || leader(&one).await.is_some()).await;
    let leader = leader(&one).await.unwrap();
    let phases = transfer(&three, leader, free).await.unwrap();
    assert_eq!(phases.last(), Some(&TransferPhase::Done), "{phases:?}");
    until("it is known everywhere", async || replicas(&one).await.contains(&free)).await;
    let now = replicas(&one).await;
    assert!(now.len() == 2 && !now.contains(&leader), "{now:?}");
    for node in [&one, &two, &three] {
        assert!(has(node, 0).await && has(node, 39).await && !has(node, 40).await);
    }
    let refused = transfer(&one, leader, free).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::Aborted, "replica_not_there"), "{refused}");
    let refused = transfer(&one, free, 7).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::NotFound, "node_not_found"), "{refused}");
    let done = rebalance(&one, RebalanceAction::Unspecified, paused.plan_id).await;
    assert!(done.changes.iter().any(|change| change.why == "asked for" && change.what.contains("a replica goes")));

    // A node that knows nobody is invited.
    let mut alone = config(directories[3].path(), Mode::Auto, &[]);
    alone.cluster.peers = vec![crate::config::Authority::from("127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap())];
    let four = Node::start(&alone).await.unwrap();
    let join = async |who| client(&two).join_cluster(JoinClusterRequest { who: Some(who) }).await;
    let address = four.addresses().peer.unwrap().to_string();
    let joined = join(Who::PeerAddress(address.clone())).await.unwrap().into_inner();
    assert_eq!((joined.node.clone(), joined.state()), (name(id(&four)), NodeState::Active));
    ready(&[&four]).await;
    assert!(has(&four, 3).await);
    assert_eq!(join(Who::PeerAddress(address)).await.unwrap().into_inner(), joined, "it is there already");
    let refused = join(Who::PeerAddress("nowhere".to_owned())).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::InvalidArgument, "bad_address"));

    // It takes the only other replica, and leaves step by step.
    let other = replicas(&one).await.into_iter().find(|node| *node != free).unwrap();
    transfer(&one, other, id(&four)).await.unwrap();
    let leave = async || {
        let request = LeaveClusterRequest { node: name(id(&four)) };
        client(&one).leave_cluster(request).await.map(tonic::Response::into_inner)
    };
    let first = leave().await.unwrap();
    assert_eq!((first.state(), first.replicas), (NodeState::Draining, 1));
    until("it is removed", async || leave().await.unwrap().state() == NodeState::Removed).await;
    assert_eq!(leave().await.unwrap().state(), NodeState::Removed, "again does no harm");
    until("it holds nothing", async || !replicas(&one).await.contains(&id(&four))).await;
    for i in 0..40 {
        assert!(has(&two, i).await, "document {i}");
    }
    let refused = join(Who::Node(name(id(&four)))).await.unwrap_err();
    assert_eq!(code(&refused), "node_removed");
    let resumed = rebalance(&two, RebalanceAction::Resume, 0).await;
    assert!(!resumed.paused && resumed.plan_id > done.plan_id);
    for node in [four, three, two, one] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_speak_the_clusters_version_stops() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Auto, &[]).await;
    ready(&[&node]).await;
    let newer = crate::peer::protocol_versions().end() + 1;
    until("the version is raised", async || {
        let coordinator = node.engine.inside().coordinator.unwrap();
        let changes = vec![Change::Put("settings/version".to_owned(), newer.to_string().into_bytes())];
        let raised = Transaction { compares: Vec::new(), changes };
        matches!(coordinator.commit(raised).await, Ok(Committed::At(_)))
    })
    .await;
    rt::time::timeout(PATIENCE, node.failed().wait()).await.expect("it stops");
    let refused = node.refused().expect("that is why");
    let says = format!("the cluster speaks version {newer}");
    assert!(refused.exit_code() == 2 && refused.to_string().contains(&says), "{refused}");
    node.stop().await;
    let again = Node::start(&config(directory.path(), Mode::Auto, &[])).await.err().expect("it does not start again");
    assert_eq!(again.exit_code(), 2, "{again}");
}
