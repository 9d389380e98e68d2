//! A disk with little room: writes are refused typed, reads and what frees room go on, and with room all is as before.

use super::*;
use crate::{
    config::ByteSize,
    types::{ErrorKind, operation::DeleteRequest},
};

async fn start(directory: &Path, mode: Mode, peers: &[&Node], reserve: ByteSize) -> Node {
    let mut config = config(directory, mode, peers);
    config.storage.reserve = reserve;
    Node::start(&config).await.unwrap()
}

fn disk_is_well(node: &Node) -> bool {
    node.service().health().checks.iter().find(|check| check.name == "disk").expect("it is checked").ok
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_little_room_refuses_writes_and_goes_on_reading() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[], ByteSize(0)).await;
    create(&node).await;
    write(&node, 0..5).await;
    assert!(disk_is_well(&node));
    node.stop().await;
    // More than any disk has free.
    let node = start(directory.path(), Mode::Standalone, &[], ByteSize::gib(1 << 30)).await;
    until("it is seen", async || !disk_is_well(&node)).await;
    let service = node.service();
    let refused = service.upsert(&table_name(), vec![point(6)], &WriteOptions::default()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Exhausted, "disk_full"), "{refused}");
    assert!(has(&node, 4).await && !has(&node, 6).await && service.health().ready);
    let delete = DeleteRequest::Ids(vec![DocumentId::Num(4)]);
    assert_eq!(service.delete(&table_name(), delete, &WriteOptions::default()).await.unwrap().deleted, 1);
    service.delete_collection(&table_name(), false).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_lets_others_lead_and_takes_what_it_missed_when_it_has_room() {
    let directories = directories();
    let [first, second, third] = replicated(&directories).await;
    first.stop().await;
    let first = start(directories[0].path(), Mode::Worker, &[&second], ByteSize::gib(1 << 30)).await;
    until("it is seen", async || !disk_is_well(&first)).await;
    let full = replica(&first).unwrap();
    until("another one leads", async || full.leader().is_some() && !full.is_leader()).await;
    let applied = full.applied();
    // Also through the node that is full.
    write(&first, 50..60).await;
    write(&second, 60..70).await;
    assert!(full.applied() <= applied + 1, "nothing but what a new leader begins with");
    assert!(has(&second, 69).await);
    drop(full);
    first.stop().await;
    let first = start(directories[0].path(), Mode::Worker, &[&second], ByteSize(0)).await;
    equal(&[&first, &second, &third]).await;
    assert!(has(&first, 69).await);
    for node in [first, second, third] {
        node.stop().await;
    }
}
