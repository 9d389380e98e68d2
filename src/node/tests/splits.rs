//! Shards of real groups split and merge while clients write, read, list and search: nothing is lost, doubled or done twice, and no
//! client sees a failure.

use super::*;
use crate::types::{
    ErrorKind, Filter, RequestId, SlotRange,
    operation::{DeleteRequest, ListRequest, Search},
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

/// Points that are always there.
const ALWAYS: u64 = 300;

fn at(id: u64, x: f32) -> Point {
    Point { vectors: vec![(VectorName::default(), Vector::new(vec![x, 1.0]).unwrap())], ..point(id) }
}

/// Writes one point again and again, each time knowing its version; how often it did.
async fn rewrite(service: crate::service::Service, id: u64, stop: Arc<AtomicBool>) -> u64 {
    let (mut version, mut count) = (None, 0);
    while !stop.load(SeqCst) {
        let write = Point { if_version: version, ..at(id, count as f32) };
        let options =
            WriteOptions { request_id: Some(RequestId::from_bytes(rand_bytes(id, count))), ..WriteOptions::default() };
        let written = service.upsert(&table_name(), vec![write], &options).await.unwrap();
        assert!(version.is_none_or(|before| before < written.version), "{version:?} {}", written.version);
        let got = service.get(&table_name(), &DocumentId::Num(id), &ReadOptions::default()).await.unwrap().point;
        assert_eq!(got.version, written.version);
        assert_eq!(got.vectors.unwrap()[0].1[0], count as f32);
        (version, count) = (Some(written.version), count + 1);
    }
    count
}

fn rand_bytes(id: u64, count: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    bytes[8..].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// Deletes by filter again and again, each time knowing the end; how often it did.
async fn sweep(service: crate::service::Service, stop: Arc<AtomicBool>) -> u64 {
    let nobody = Filter::from_json(&serde_json::json!({"must": [{"has_id": [ALWAYS]}]})).unwrap();
    let mut count = 0;
    while !stop.load(SeqCst) {
        let delete = DeleteRequest::Filter(nobody.clone());
        let began = rt::time::now();
        match service.delete(&table_name(), delete, &WriteOptions::default()).await {
            Ok(answer) => assert_eq!(answer.deleted, 0),
            // The replicas of a shard that was merged away are closed one by one: what its leader was asked last may never be decided.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}"),
        }
        // It would go on until the request's deadline, half a minute.
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}: asked a shard that is no more", began.elapsed());
        count += 1;
    }
    count
}

/// A node that stood still since the split says what it wanted to say before that was over.
async fn an_old_step_is_refused(node: &Node, split: u64, (from, to): (u64, u64)) {
    let replica = node.service().host().replica(from).unwrap();
    for slots in [SlotRange { first: 16_000, end: 16_384 }, SlotRange::NONE] {
        let refused = replica.release(slots, to, split).await.unwrap_err();
        assert_eq!(refused.code(), "shard_table_old");
    }
    assert!(replica.border().leaving.is_none());
}

/// Looks at all points again and again; how often it did.
async fn look(service: crate::service::Service, stop: Arc<AtomicBool>) -> u64 {
    let mut count = 0;
    while !stop.load(SeqCst) {
        let request = ListRequest { limit: 1_000, cursor: None, filter: None, with_payload: false, with_vector: false };
        let page = service.list(&table_name(), request, &ReadOptions::default()).await.unwrap().page;
        let ids: Vec<u64> = page.points.iter().map(|point| point.id.to_string().parse().unwrap()).collect();
        assert_eq!(ids, (0..ALWAYS).collect::<Vec<_>>());
        let all = Search { exact: true, ..Search::nearest(Vector::new(vec![0.0, 0.0]).unwrap(), 1_000) };
        let found = service.search(&table_name(), vec![all], &ReadOptions::default()).await.unwrap();
        let ids: BTreeSet<String> = found.answers[0].hits.iter().map(|hit| hit.point.id.to_string()).collect();
        assert_eq!((ids.len() as u64, found.answers[0].hits.len() as u64), (ALWAYS, ALWAYS));
        assert_eq!(service.collection(&table_name()).await.unwrap().points, ALWAYS);
        count += 1;
    }
    count
}

async fn settled(nodes: &[&Node], shards: usize) {
    until("the slots are where they should be", async || {
        nodes.iter().all(|node| {
            let table = node.service().shard_table();
            table.shards.len() == shards && table.shards.values().all(|entry| entry.giving.is_none())
        })
    })
    .await;
}

async fn all_equal(nodes: &[&Node], shard: u64) {
    until("the replicas are equal", async || {
        let found = nodes.iter().filter_map(|node| node.service().host().replica(shard).ok()?.content_hash().ok());
        let hashes: Vec<_> = found.collect();
        hashes.len() == nodes.len() && hashes.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_split_and_merge_while_clients_go_on() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    set_replicas(&first, &[&first, &second, &third]).await;
    let all = [&first, &second, &third];
    held_by(&all, SHARD, &all).await;
    write(&first, 0..ALWAYS).await;
    let once = WriteOptions { request_id: Some(RequestId::from_bytes([9; 16])), ..WriteOptions::default() };
    let batch = || (200..ALWAYS).map(|id| at(id, -5.0)).collect::<Vec<_>>();
    first.service().upsert(&table_name(), batch(), &once).await.unwrap();
    write(&second, 200..ALWAYS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|id| rt::spawn("rewrite", rewrite(all[id as usize % 3].service().clone(), id, stop.clone())))
        .chain(all.iter().map(|node| rt::spawn("sweep", sweep(node.service().clone(), stop.clone()))))
        .chain(all.iter().map(|node| rt::spawn("look", look(node.service().clone(), stop.clone()))))
        .collect();
    let early = second.service().split_shard(&table_name(), SHARD, None).await.unwrap_err();
    assert_eq!(early.code(), "version_too_old");
    speak_of_splits(&first).await;
    let new = loop {
        match second.service().split_shard(&table_name(), SHARD, None).await {
            // It has not heard of it yet.
            Err(error) if error.code() == "version_too_old" => rt::time::sleep(Duration::from_millis(10)).await,
            begun => break begun.unwrap(),
        }
    };
    settled(&all, 2).await;
    let table = first.service().shard_table();
    assert_eq!((table.shards[&SHARD].slots.end, table.shards[&new].slots.first), (8_192, 8_192));
    let replicas = || [SHARD, new].map(|shard| first.service().host().replica(shard).unwrap());
    until("this node has applied it all", async || {
        replicas().map(|replica| replica.points()).iter().sum::<u64>() == ALWAYS
    })
    .await;
    assert!(replicas().iter().all(|replica| replica.points() > ALWAYS / 3), "half of the points each, about");
    // A retry over both shards of what one shard did, and what was written after it stays.
    third.service().upsert(&table_name(), batch(), &once).await.unwrap();
    let got = third.service().get(&table_name(), &DocumentId::Num(250), &ReadOptions::default()).await.unwrap();
    assert_eq!(got.point.vectors.unwrap()[0].1[0], 250.0, "a retry does nothing");
    let split = table.shards[&new].epoch;
    third.service().merge_shard(&table_name(), new, SHARD).await.unwrap();
    settled(&all, 1).await;
    for node in all {
        an_old_step_is_refused(node, split, (SHARD, new)).await;
    }
    let new = first.service().split_shard(&table_name(), SHARD, None).await.unwrap();
    settled(&all, 2).await;
    // Back again, into the new one.
    third.service().merge_shard(&table_name(), SHARD, new).await.unwrap();
    settled(&all, 1).await;
    assert_eq!(first.service().shard_table().shards.keys().copied().collect::<Vec<_>>(), [new]);
    third.service().upsert(&table_name(), batch(), &once).await.unwrap();
    let got = third.service().get(&table_name(), &DocumentId::Num(250), &ReadOptions::default()).await.unwrap();
    assert_eq!(got.point.vectors.unwrap()[0].1[0], 250.0, "a retry does nothing");
    stop.store(true, SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0, "every client got something done");
    }
    all_equal(&all, new).await;
    until("the old shard is gone", async || all.iter().all(|node| !node.service().host().stored().contains(&SHARD)))
        .await;
    let everything = Filter::from_json(&serde_json::json!({"must_not": [{"has_id": [1]}]})).unwrap();
    let delete = DeleteRequest::Filter(everything);
    let deleted = first.service().delete(&table_name(), delete, &WriteOptions::default()).await.unwrap().deleted;
    assert_eq!(deleted, ALWAYS - 1);
    for node in [first, second, third] {
        node.stop().await;
    }
}
