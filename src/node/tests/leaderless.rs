//! Nodes whose shard has no leader that speaks: what they answer nevertheless, and whether they call themselves ready.

use super::*;
use crate::types::operation::Consistency;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_only_being_filled_does_not_make_its_node_unready() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    let holder = id(&first);
    // The coordinator's group goes on without the first.
    for node in [&second, &third] {
        set_record(&first, id(node), |record| record.votes = true).await;
    }
    held_by(&[&first, &second, &third], 0, &[&first, &second, &third]).await;
    first.stop().await;
    // Nobody can fill it: who leads the shard is away.
    set_holders(&second, &[holder, id(&second)]).await;
    until("it is opened", async || replica(&second).is_some()).await;
    let filled = replica(&second).unwrap();
    until("it knows that it has no vote", async || !filled.votes()).await;
    assert_eq!(filled.leader(), None);
    assert!(second.service().health().ready, "{:?}", second.service().health().checks);
    let first = start(directories[0].path(), Mode::Worker, &[&second]).await;
    held_by(&[&first, &second, &third], SHARD, &[&first, &second]).await;
    assert!(filled.votes());
    first.stop().await;
    until("it knows of no leader", async || filled.leader().is_none()).await;
    assert!(!second.service().health().ready, "who votes waits for one");
    drop(filled);
    second.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eventual_read_of_a_state_young_enough_asks_nobody() {
    let directories = directories();
    let [first, second, third] = replicated(&directories).await;
    second.stop().await;
    let mut config = config(directories[1].path(), Mode::Worker, &[&first]);
    config.limits.staleness = Duration::from_secs(600);
    let second = Node::start(&config).await.unwrap();
    ready(&[&second]).await;
    let eventual = ReadOptions { consistency: Consistency::Eventual, ..ReadOptions::default() };
    let read = async || second.service().get(&table_name(), &DocumentId::Num(7), &eventual).await;
    let alone = replica(&second).unwrap();
    // The first read asks how far the others are; whoever leads next begins with an entry that no read has asked for yet.
    until("its state is known to be young", async || read().await.is_ok() && alone.answers_soon(Consistency::Eventual))
        .await;
    first.stop().await;
    third.stop().await;
    until("it has no leader", async || alone.leader().is_none()).await;
    assert!(alone.answers_soon(Consistency::Eventual) && !alone.answers_soon(Consistency::Session));
    assert!(!alone.answers_soon(Consistency::Linearizable));
    read().await.unwrap();
    drop(alone);
    second.stop().await;
}
