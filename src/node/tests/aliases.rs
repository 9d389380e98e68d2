//! Aliases in a cluster: who has been told of a change is served by it wherever it asks, and who may not be is named.

use super::*;
use crate::types::{AliasChange, ErrorKind, operation::ListRequest};

fn name(text: &str) -> CollectionName {
    CollectionName::new(text).unwrap()
}

fn create_alias(alias: &str, table: &str) -> AliasChange {
    AliasChange::Create { alias: name(alias), table: name(table) }
}

/// Says that the cluster speaks of aliases; no node of these tests stands for master, who would.
async fn speak_of_aliases(node: &Node) {
    let key = "settings/version".to_owned();
    let transaction = Transaction {
        compares: vec![Compare::Absent(key.clone())],
        changes: vec![Change::Put(key, crate::cluster::VERSION_OF_ALIASES.to_string().into_bytes())],
    };
    let committed = node.engine.inside().coordinator.unwrap().commit(transaction).await;
    assert!(matches!(committed, Ok(Committed::At(_))), "{committed:?}");
}

/// The documents that a node shows by an alias.
async fn shown(node: &Node, alias: &str) -> usize {
    let request = ListRequest { limit: 100, cursor: None, filter: None, with_vector: false, with_payload: false };
    node.service().list(&name(alias), request, &ReadOptions::default()).await.unwrap().page.points.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_any_node_after_a_switch_finds_the_new_table() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    let all = [&first, &second, &third];
    let refused = first.service().change_aliases(vec![create_alias("live", "t")]).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Conflict, "version_too_old"));
    speak_of_aliases(&first).await;
    set_replicas(&first, &all).await;
    held_by(&all, SHARD, &all).await;
    first.service().create_collection(name("green"), spec()).await.unwrap();
    let blue = shown(&first, "t").await;
    assert!(blue > 1);
    first.service().upsert(&name("green"), vec![point(1)], &WriteOptions::default()).await.unwrap();

    // Each node switches in turn, and every node shows it at once.
    for (turn, node) in all.iter().cycle().take(12).enumerate() {
        let (table, documents) = if turn % 2 == 0 { ("t", blue) } else { ("green", 1) };
        let changed = node.service().change_aliases(vec![create_alias("live", table)]).await.unwrap();
        assert_eq!((changed.changed, changed.behind), (1, Vec::<String>::new()));
        for other in all {
            assert_eq!(shown(other, "live").await, documents, "turn {turn}");
        }
    }
    assert_eq!(second.service().aliases().await.len(), 1);
    assert_eq!(third.service().create_collection(name("live"), spec()).await.unwrap_err().code(), "alias_exists");
    assert_eq!(third.service().delete_collection(&name("live"), false).await.unwrap_err().code(), "table_is_alias");

    // A node that is away is named, and knows it when it comes back.
    let away = format!("{:016x}", id(&third));
    third.stop().await;
    let changed = first.service().change_aliases(vec![create_alias("live", "t")]).await.unwrap();
    assert_eq!((changed.changed, changed.behind), (1, vec![away]));
    assert_eq!(shown(&second, "live").await, blue);
    let third = start(directories[2].path(), Mode::Worker, &[&first]).await;
    ready(&[&third]).await;
    until("the third has heard of it", async || shown(&third, "live").await == blue).await;
    for node in [first, second, third] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_alone_keeps_its_aliases_and_says_so_by_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    create(&node).await;
    write(&node, 0..3).await;
    let changed = node.service().change_aliases(vec![create_alias("live", "t")]).await.unwrap();
    assert_eq!((changed.changed, changed.behind.len()), (1, 0));
    node.stop().await;
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    assert_eq!(shown(&node, "live").await, 3);
    let coordinator = node.engine.inside().coordinator.unwrap();
    assert_eq!(crate::cluster::spoken_version(&coordinator), Ok(crate::cluster::VERSION_OF_ALIASES));
    node.service().delete_collection(&table_name(), false).await.unwrap();
    assert!(node.service().aliases().await.is_empty());
    node.stop().await;
}
