//! What a node tells those who ask it: no less than it showed, and no more than half of what it began to open. Found by reading.

use super::*;
use crate::{
    cluster::{Candidate, Catalog},
    types::operation::{ListRequest, Search},
};

/// Whoever goes on with the token at a replica that is behind must not see less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_tells_of_all_that_its_answer_showed() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    create(&node).await;
    write(&node, 0..1).await;
    let service = node.service().clone();
    let reader = rt::spawn("reader", async move {
        for _ in 0..3_000 {
            let options = ReadOptions::default();
            let vector = Vector::new(vec![1.0, 1.0]).unwrap();
            let found = service.search(&table_name(), vec![Search::nearest(vector, 3)], &options).await.unwrap();
            let shown = found.answers[0].hits.iter().map(|hit| hit.point.version).max().unwrap();
            assert!(found.session.seen(SHARD) >= shown, "{} is told, {shown} shown", found.session);
            let request =
                ListRequest { limit: 10, cursor: None, filter: None, with_payload: false, with_vector: false };
            let listed = service.list(&table_name(), request, &options).await.unwrap();
            let shown = listed.page.points.iter().map(|point| point.version).max().unwrap();
            assert!(listed.session.seen(SHARD) >= shown, "{} is told, {shown} shown", listed.session);
        }
    });
    let mut reader = std::pin::pin!(reader);
    loop {
        tokio::select! {
            biased;
            read = &mut reader => break read.unwrap(),
            () = write(&node, 0..3) => {}
        }
    }
    node.stop().await;
}

/// A client that goes away while a shard is being opened for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_nobody_waits_for_is_not_left_half_done() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    // Tables that the node has not heard of yet.
    let elsewhere = Catalog::load(Arc::new(node.engine.inside().coordinator.unwrap())).unwrap();
    let candidates = [Candidate::active(id(&node))];
    for round in 0..20 {
        let names = [0, 1, 2, 3, 4, 5].map(|number| CollectionName::new(format!("t{round}-{number}")).unwrap());
        let create = async {
            for name in &names {
                elsewhere.create(name, spec(), 1, &candidates).await.unwrap();
            }
        };
        // While the task that follows the catalog opens the first, whoever asks is next, and opens some of the others.
        let ask = async { while node.service().collection(&names[5]).await.is_err() {} };
        let asked = rt::time::timeout(Duration::from_millis(3 * round), ask);
        let ((), _given_up) = tokio::join!(create, asked);
        for name in &names {
            until("the table is found", async || node.service().collection(name).await.is_ok()).await;
        }
    }
    node.stop().await;
}
