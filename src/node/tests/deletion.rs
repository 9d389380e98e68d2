//! A table is deleted once its shards are closed: what cannot be closed yet is closed as soon as it can, or left behind by force.

use super::*;
use crate::types::ErrorKind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_goes_when_its_shards_are_closed_or_by_force() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    speak_of_splits(&first).await;
    let all = [&first, &second, &third];
    set_replicas(&first, &all).await;
    held_by(&all, SHARD, &all).await;
    second.stop().await;
    third.stop().await;
    let refused = first.service().delete_collection(&table_name(), false).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Indeterminate, "table_deleting"));
    assert!(first.service().shard_table().shards.contains_key(&SHARD), "its shard has no leader");
    let again = first.service().create_collection(table_name(), spec()).await.unwrap_err();
    assert_eq!(again.code(), "table_exists");

    // It goes on by itself when the shard has a leader.
    let second = start(directories[1].path(), Mode::Worker, &[&first]).await;
    until("the table is deleted", async || first.service().shard_table().shards.is_empty()).await;
    let gone = first.service().delete_collection(&table_name(), false).await.unwrap_err();
    assert_eq!(gone.code(), "table_not_found");
    until("the second has heard of it", async || second.service().shard_table().shards.is_empty()).await;

    // One whose nodes will not come back goes by force only.
    create(&first).await;
    let shard = *first.service().shard_table().shards.keys().next().unwrap();
    until("the second holds it, too", async || second.service().host().replica(shard).is_ok()).await;
    second.stop().await;
    let refused = first.service().delete_collection(&table_name(), false).await.unwrap_err();
    assert_eq!(refused.code(), "table_deleting");
    first.service().delete_collection(&table_name(), true).await.unwrap();
    assert!(first.service().shard_table().shards.is_empty());
    first.stop().await;
}

/// As long as a member may not know how a shard is closed, the table stays: whoever holds its shard may be away, come back while nobody
/// reaches the coordinator, and serve it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_goes_once_every_member_is_known_to_know_how() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    let refused = second.service().delete_collection(&table_name(), false).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Conflict, "version_too_old"));
    assert!(first.service().shard_table().shards.contains_key(&SHARD) && has(&first, 1).await);
    let waiting = rt::spawn("delete", {
        let service = second.service().clone();
        async move { service.delete_collection(&table_name(), false).await }
    });
    speak_of_splits(&first).await;
    waiting.await.unwrap().unwrap();
    until("the first has heard of it", async || first.service().shard_table().shards.is_empty()).await;
    for node in [first, second, third] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_left_that_could_not_be_opened_goes_with_its_table() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    create(&node).await;
    write(&node, 0..10).await;
    let host = node.service().host();
    // As it is after an opening that a full disk cut short: data, and no replica.
    host.close_shard(SHARD).await;
    assert!(host.stored().contains(&SHARD));
    node.service().delete_collection(&table_name(), true).await.unwrap();
    assert!(host.stored().is_empty(), "{:?}", host.stored());
    node.stop().await;
}
