//! Records that are no longer what was written: the replica that has them neither leads nor serves once that is known, and is made anew
//! from one that has been read from end to end. Where there is none, what can be read is read.

use super::*;

/// As in `master`: these nodes stand for it.
async fn start(directory: &Path, peers: &[&Node]) -> Node {
    Node::start(&config(directory, Mode::Auto, peers)).await.unwrap()
}

fn document(id: u64) -> Point {
    let payload = serde_json::json!({ "word": format!("word-{id}") });
    Point { payload: Payload::new(payload.as_object().unwrap().clone()).unwrap(), ..point(id) }
}

/// Changes a letter of a stored payload, which nothing but the content hash can tell.
fn rot(directory: &Path, id: u64) {
    let store = Store::open(directory.join("store"), StoreOptions::default()).unwrap();
    let space = store.space(&keys::shard_space(SHARD)).unwrap();
    let key = keys::point::key(DocumentId::Num(id).point_id());
    let mut record = store.view().get(&space, &key).unwrap().expect("it is stored").to_vec();
    let at = record.windows(5).position(|window| window == b"word-").expect("its payload");
    record[at] = b'W';
    let mut batch = store.batch();
    batch.put(&space, &key, &record);
    batch.commit(Durability::Synced).unwrap();
}

/// Stops a node, has a record of it rot, and starts it.
async fn rotten(node: Node, directory: &Path, id: u64, others: &[&Node]) -> Node {
    node.stop().await;
    rot(directory, id);
    let node = start(directory, others).await;
    ready(&[&node]).await;
    node
}

async fn fleet(directories: &[tempfile::TempDir]) -> Vec<Node> {
    let mut nodes = vec![start(directories[0].path(), &[]).await];
    for directory in &directories[1..] {
        let joined = start(directory.path(), &[&nodes[0]]).await;
        nodes.push(joined);
    }
    let all: Vec<&Node> = nodes.iter().collect();
    ready(&all).await;
    create(&nodes[0]).await;
    held_by(&all, SHARD, &all).await;
    let points = (0..40).map(document).collect();
    nodes[0].service().upsert(&table_name(), points, &WriteOptions::default()).await.unwrap();
    equal(&all).await;
    nodes
}

async fn read_rightly(node: &Node) {
    for id in 0..40 {
        let found = node.service().get(&table_name(), &DocumentId::Num(id), &ReadOptions::default()).await.unwrap();
        assert_eq!(found.point.payload, Some(document(id).payload), "document {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_leader_stands_aside_and_is_made_anew() {
    let directories: [_; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let mut nodes = fleet(&directories).await;
    let last = nodes.pop().unwrap();
    let last = rotten(last, directories[2].path(), 7, &[&nodes[0], &nodes[1]]).await;
    until("the damaged one leads", async || {
        for leader in nodes.iter().filter_map(|node| replica(node).filter(|replica| replica.is_leader())) {
            // If not now, then soon.
            let _ = leader.transfer_leader(id(&last)).await;
        }
        replica(&last).is_some_and(|replica| replica.is_leader())
    })
    .await;
    let damaged = replica(&last).unwrap();
    assert!(!damaged.recompute_hash().await.unwrap().is_sound() && damaged.damage().is_some());
    until("it stands aside", async || damaged.aside().is_some() && !damaged.is_leader()).await;
    read_rightly(&last).await;
    let write = nodes[0].service().upsert(&table_name(), vec![document(1)], &WriteOptions::default()).await;
    write.expect("others lead");
    until("it is made anew", async || {
        let Some(replica) = replica(&last).filter(|replica| !Arc::ptr_eq(replica, &damaged)) else { return false };
        replica.damage().is_none() && replica.points() == 40
    })
    .await;
    nodes.push(last);
    let all: Vec<&Node> = nodes.iter().collect();
    held_by(&all, SHARD, &all).await;
    equal(&all).await;
    for node in all {
        assert!(replica(node).unwrap().recompute_hash().await.unwrap().is_sound());
        read_rightly(node).await;
    }
    let told = nodes[0].service().cluster_history().unwrap();
    assert!(told.iter().any(|change| change.why.contains("is of no use")), "{told:?}");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_replica_is_sound_none_stands_aside() {
    let directories: [_; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let mut nodes = fleet(&directories).await;
    let second = nodes.pop().unwrap();
    let second = rotten(second, directories[1].path(), 3, &[&nodes[0]]).await;
    let first = nodes.pop().unwrap();
    let first = rotten(first, directories[0].path(), 5, &[&second]).await;
    for node in [&first, &second] {
        assert!(!replica(node).unwrap().recompute_hash().await.unwrap().is_sound());
    }
    // Several looks of the task that would have them stand aside.
    rt::time::sleep(Duration::from_secs(2)).await;
    for node in [&first, &second] {
        assert_eq!(replica(node).unwrap().aside(), None);
        assert!(has(node, 1).await, "what is well is read");
        write(node, 50..52).await;
    }
    for node in [first, second] {
        node.stop().await;
    }
}
