//! The catalog over a coordinator in memory: who may be given shards, and what a call here sees of its own changes.

mod aliases;

use super::*;
use crate::cluster::{
    members::{MemberState, SelfTold},
    memory::Memory,
};

fn a_table() -> (CollectionName, CollectionSpec) {
    let (vectors, indexed_fields) = Default::default();
    let spec = CollectionSpec { vectors, shards: 8, indexed_fields, replicas: Some(1) };
    (CollectionName::new("c").unwrap(), spec)
}

#[tokio::test]
async fn what_was_changed_is_shown_here_or_not_known_to_have_happened() {
    let coordinator = Arc::new(Memory::default());
    let mut catalog = Catalog::load(coordinator.clone()).unwrap();
    let (name, spec) = a_table();
    coordinator.freeze();
    let late = {
        let coordinator = coordinator.clone();
        crate::rt::spawn("thaw", async move {
            time::sleep(Duration::from_secs(2)).await;
            coordinator.thaw();
        })
    };
    catalog.create(&name, spec.clone(), 1, &[Candidate::active(1)]).await.unwrap();
    assert!(catalog.read().unwrap().collections.contains_key(&name), "it can be used");
    late.await.unwrap();
    catalog.hear_limit = Duration::from_millis(100);
    let wider = |spec| Ok(CollectionSpec { replicas: Some(2), ..spec });
    coordinator.freeze();
    let unknown = catalog.alter(&name, wider).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Indeterminate, "{unknown}");
    coordinator.thaw();
    let known = catalog.read().unwrap();
    assert_eq!(known.collections[&name].spec.replicas, Some(2), "it happened all the same");
}

#[tokio::test]
async fn nothing_is_placed_on_a_node_that_was_removed_meanwhile() {
    let coordinator = Arc::new(Memory::default());
    let removed = MemberRecord { state: MemberState::Removed, ..MemberRecord::joined(SelfTold::default(), 1, false) };
    coordinator.put(&MemberRecord::key(2), removed.encode());
    let catalog = Catalog::load(coordinator).unwrap();
    let (name, spec) = a_table();
    let known_before = [Candidate::active(1), Candidate::active(2)];
    catalog.create(&name, spec, 1, &known_before).await.unwrap();
    catalog.read().unwrap();
    let holders: BTreeSet<NodeId> = catalog.table().shards.values().flat_map(|entry| entry.replicas.clone()).collect();
    assert_eq!(holders, [1].into());
}

/// The store of a node opens no more again.
#[tokio::test]
async fn no_node_is_given_more_shards_than_it_can_hold() {
    let catalog = Catalog::load(Arc::new(Memory::default())).unwrap();
    let create = async |name: &str, shards, nodes: &[Candidate]| {
        let spec = CollectionSpec { shards, ..a_table().1 };
        catalog.create(&CollectionName::new(name).unwrap(), spec, 1, nodes).await
    };
    let [one, other] = [1, 2].map(|node| [Candidate::active(node)]);
    create("a", 500, &one).await.unwrap();
    let refused = create("b", 461, &one).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Conflict, "too_many_shards_here"), "{refused}");
    create("b", 460, &one).await.unwrap();
    catalog.read().unwrap();
    assert!(!catalog.table().have_room(&[2, 1]) && catalog.table().have_room(&[2]));
    assert_eq!(create("c", 1, &one).await.unwrap_err().code(), "too_many_shards_here");
    create("c", 900, &other).await.unwrap();
    catalog.read().unwrap();
    assert_eq!((catalog.table().held_by(1), catalog.table().held_by(2)), (960, 900));
}

/// Else its shards would stay open, and a node that is away would serve the table of the past when it is back.
#[tokio::test]
async fn nothing_is_marked_for_deletion_before_every_member_knows_how_shards_are_closed() {
    let coordinator = Arc::new(Memory::default());
    let catalog = Catalog::load(coordinator.clone()).unwrap();
    let (name, spec) = a_table();
    assert_eq!(catalog.mark_for_deletion(&name).await.unwrap_err().code(), "table_not_found", "whatever is spoken");
    catalog.create(&name, spec, 1, &[Candidate::active(1)]).await.unwrap();
    let refused = catalog.mark_for_deletion(&name).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Conflict, "version_too_old"));
    assert!(!catalog.read().unwrap().collections[&name].deleting, "nothing happened");
    coordinator.put("settings/version", b"2".to_vec());
    assert_eq!(catalog.mark_for_deletion(&name).await, Ok(Marked::Now));
    assert_eq!(catalog.mark_for_deletion(&name).await, Ok(Marked::Before));
}
