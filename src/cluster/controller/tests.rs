//! The master over a coordinator in memory and a cluster on paper, in virtual time: what it writes at every kind of trouble.

use super::*;
use crate::{
    cluster::{
        admin::Admin,
        catalog::{COLLECTIONS, TABLE},
        control::{REBALANCE, VERSION, VERSION_OF_SPLITS, spoken_version},
        members::{MemberRecord, MemberState},
        memory::{Fault, Memory},
        plan::tests::world::{SHARD_BYTES, World},
    },
    coordination::BoxFuture,
    types::CollectionName,
};
use std::sync::Mutex;

const MASTER: &str = "master";

/// The nodes, as the observer sees them.
#[derive(Clone)]
struct Nodes(Arc<Mutex<World>>);

impl Observer for Nodes {
    fn observe(&self) -> BoxFuture<'_, Reports> {
        Box::pin(async { self.0.lock().unwrap().reports() })
    }

    fn hand_over(&self, shard: u64, from: NodeId, to: NodeId) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.lock().unwrap().obey(&Action::Lead { shard, from, to }) })
    }
}

/// A cluster whose master is the controller under test.
struct Bench {
    coordinator: Arc<Memory>,
    nodes: Nodes,
    controller: Controller,
    now: Instant,
}

impl Bench {
    fn new(world: World) -> Bench {
        Bench::with(world, ControllerSettings { bytes_per_second: u64::MAX, ..ControllerSettings::default() })
    }

    fn with(world: World, settings: ControllerSettings) -> Bench {
        let coordinator = Arc::new(Memory::default());
        coordinator.put(TABLE, serde_json::to_vec(&world.table).unwrap());
        for (node, record) in &world.records {
            coordinator.put(&MemberRecord::key(*node), record.encode());
        }
        let collections = world.table.shards.values().map(|entry| &entry.collection);
        for name in collections.collect::<std::collections::BTreeSet<_>>() {
            coordinator.put(&format!("{COLLECTIONS}{name}"), br#"{"spec":{"shards":1000}}"#.to_vec());
        }
        let nodes = Nodes(Arc::new(Mutex::new(world)));
        let controller =
            Controller::new(7, coordinator.clone(), Arc::new(nodes.clone()), settings, MasterMetrics::default());
        Bench { coordinator, nodes, controller, now: Instant::START }
    }

    /// A new reign; whoever reigned before is fenced.
    fn crown(&self) -> Reign {
        self.coordinator.delete(MASTER);
        self.coordinator.put(MASTER, vec![]);
        let created = self.coordinator.value(MASTER).unwrap().created;
        Reign::new(self.controller.clone(), Compare::CreatedAt(MASTER.to_owned(), created), self.now)
    }

    fn world<T>(&self, of: impl FnOnce(&mut World) -> T) -> T {
        of(&mut self.nodes.0.lock().unwrap())
    }

    /// The nodes do what the coordinator says now.
    fn follow(&self) {
        let stored = Stored::remembered(&*self.coordinator).unwrap();
        self.world(|world| {
            world.table = stored.table;
            world.records = stored.members;
            world.land_all();
            let leaderless = world.groups.values().filter(|group| group.leader.is_none()).count();
            assert_eq!(leaderless, 0, "every shard keeps its majority");
        });
    }

    async fn round(&mut self, reign: &mut Reign) -> Result<()> {
        self.now += Duration::from_secs(1);
        let done = reign.round(self.now, self.now.as_nanos() / 1_000_000).await;
        self.follow();
        done
    }

    async fn rounds(&mut self, reign: &mut Reign, count: usize) {
        for _ in 0..count {
            self.round(reign).await.unwrap();
        }
    }

    fn holders(&self, node: NodeId) -> usize {
        self.world(|world| world.table.shards.values().filter(|entry| entry.replicas.contains(&node)).count())
    }

    fn is_done(&self) -> bool {
        self.controller.last().is_some_and(|seen| seen.plan.is_done())
    }

    fn admin(&self) -> Admin {
        Admin::new(self.coordinator.clone(), self.controller.clone())
    }

    fn set(&self, node: NodeId, record: &MemberRecord) {
        self.coordinator.put(&MemberRecord::key(node), record.encode());
        self.follow();
    }

    fn join(&self, node: NodeId) {
        let record = self.world(|world| {
            world.join(node);
            world.records[&node].clone()
        });
        self.set(node, &record);
    }
}

fn five() -> World {
    World::new(5, 1).with_collection("c", 20, Some(3))
}

#[tokio::test]
async fn a_lost_node_is_replaced_when_its_time_has_come() {
    let mut bench = Bench::new(five());
    let mut reign = bench.crown();
    bench.rounds(&mut reign, 3).await;
    bench.world(|world| world.kill(2));
    let before = bench.coordinator.commits();
    bench.rounds(&mut reign, 299).await;
    assert_eq!(bench.coordinator.commits(), before, "it may come back");
    bench.rounds(&mut reign, 40).await;
    assert!(bench.holders(2) == 0 && bench.is_done());
    let history = bench.admin().history().unwrap();
    assert!(history.iter().any(|entry| entry.why == "0000000000000002 has been away for too long" && entry.by == 7));
    // A new master has not seen it answer: it waits anew, and finds nothing to do.
    let mut next = bench.crown();
    bench.rounds(&mut next, 2).await;
    assert!(bench.is_done());
}

#[tokio::test]
async fn a_crash_at_any_commit_loses_nothing() {
    for commits in 0..12 {
        for happens in [false, true] {
            let mut bench = Bench::new(five());
            let mut reign = bench.crown();
            bench.rounds(&mut reign, 1).await;
            bench.join(6);
            bench.set(
                1,
                &MemberRecord { state: MemberState::Draining, ..bench.world(|world| world.records[&1].clone()) },
            );
            bench.coordinator.fail(Fault::LostAfter { commits, happens });
            let mut crashed = false;
            for _ in 0..80 {
                if bench.round(&mut reign).await.is_err() {
                    crashed = true;
                    reign = bench.crown();
                }
            }
            assert!(bench.holders(1) == 0 && bench.is_done(), "after {commits} commits");
            assert!(crashed || commits > 5, "it crashed at commit {commits}");
            let told = bench.admin().history().unwrap();
            let moves = told.iter().filter(|entry| entry.what.starts_with("shard")).count();
            assert_eq!(moves as u64, bench.world(|world| world.table.epoch) - five().table.epoch, "told once each");
        }
    }
}

#[tokio::test]
async fn who_no_longer_reigns_changes_nothing() {
    let mut bench = Bench::new(five());
    let mut old = bench.crown();
    let mut new = bench.crown();
    bench.join(6);
    let before = bench.coordinator.commits();
    bench.rounds(&mut old, 5).await;
    assert_eq!(bench.coordinator.commits(), before, "it is fenced");
    bench.rounds(&mut new, 40).await;
    assert!(bench.coordinator.commits() > before && bench.is_done());
}

#[tokio::test]
async fn what_was_planned_by_an_old_table_is_not_done() {
    let mut bench = Bench::new(five());
    let mut reign = bench.crown();
    bench.join(6);
    // The node remembers what was before its own change, and plans by it again and again.
    bench.coordinator.freeze();
    bench.rounds(&mut reign, 4).await;
    let after = bench.coordinator.value(TABLE).unwrap();
    assert_eq!(bench.coordinator.commits(), 1, "the first was done");
    bench.rounds(&mut reign, 4).await;
    assert_eq!(bench.coordinator.value(TABLE).unwrap(), after, "the others were refused");
    bench.coordinator.thaw();
    bench.follow();
    bench.rounds(&mut reign, 40).await;
    assert!(bench.is_done() && bench.holders(6) == 10);
}

#[tokio::test]
async fn without_the_coordinator_nothing_changes_and_all_goes_on_after() {
    let mut bench = Bench::new(five());
    let mut reign = bench.crown();
    bench.join(6);
    bench.coordinator.fail(Fault::Away);
    let mut failed = 0;
    for _ in 0..600 {
        failed += u32::from(bench.round(&mut reign).await.is_err());
    }
    assert!(failed > 500, "it went on trying: {failed}");
    assert_eq!((bench.coordinator.commits(), bench.holders(6)), (0, 0));
    bench.coordinator.fail(Fault::None);
    bench.rounds(&mut reign, 40).await;
    assert!(bench.holders(6) > 0 && bench.is_done());
}

#[tokio::test]
async fn evening_out_goes_at_the_throttles_rate_and_can_be_paused() {
    let rate = SHARD_BYTES / 10;
    let settings = ControllerSettings { bytes_per_second: rate, ..ControllerSettings::default() };
    let mut bench = Bench::with(five(), settings);
    let mut reign = bench.crown();
    bench.join(6);
    bench.admin().pause(true, 1).await.unwrap();
    bench.rounds(&mut reign, 20).await;
    assert_eq!(bench.holders(6), 0);
    bench.admin().pause(false, 2).await.unwrap();
    let told = bench.admin().forecast().await.unwrap();
    assert_eq!((told.bytes, told.eta), (10 * SHARD_BYTES, Duration::from_secs(100)), "ten of sixty replicas");
    bench.rounds(&mut reign, 50).await;
    assert!((4..=6).contains(&bench.holders(6)), "{} in 50 s, one in 10 s", bench.holders(6));
    bench.rounds(&mut reign, 120).await;
    assert!(bench.holders(6) == 10 && bench.is_done());
    let what: Vec<String> = bench.admin().history().unwrap().into_iter().rev().map(|entry| entry.what).collect();
    let paused = what.iter().position(|what| what == "evening out is paused").unwrap();
    let moved = what.iter().position(|what| what.contains("goes from")).unwrap();
    assert!(what[paused + 1] == "evening out goes on" && moved > paused + 1);
}

#[tokio::test]
async fn nothing_is_planned_before_every_founder_has_a_record() {
    let mut bench = Bench::new(five());
    let mut reign = bench.crown();
    bench.coordinator.delete(&MemberRecord::key(4));
    bench.rounds(&mut reign, 400).await;
    assert!(bench.coordinator.commits() == 0 && bench.controller.last().is_none());
}

#[tokio::test]
async fn a_node_is_drained_and_removed() {
    let mut bench = Bench::new(five());
    let mut reign = bench.crown();
    bench.rounds(&mut reign, 2).await;
    let admin = bench.admin();
    assert_eq!(admin.remove(3, 1).await.unwrap_err().code(), "node_not_drained");
    assert_eq!(admin.drain(99, true, 1).await.unwrap_err().code(), "node_not_found");
    admin.drain(3, true, 1).await.unwrap();
    assert_eq!(admin.remove(3, 1).await.unwrap_err().code(), "node_not_drained", "it still holds replicas");
    bench.rounds(&mut reign, 60).await;
    assert_eq!(bench.holders(3), 0);
    admin.remove(3, 1).await.unwrap();
    admin.remove(3, 1).await.unwrap();
    assert_eq!(admin.drain(3, false, 1).await.unwrap_err().code(), "node_removed");
    bench.follow();
    bench.rounds(&mut reign, 5).await;
    assert!(bench.is_done() && bench.world(|world| !world.control.voters.contains(&3)));
    let what: Vec<String> = admin.history().unwrap().into_iter().map(|entry| entry.what).collect();
    assert!(what.iter().any(|what| what == "node 0000000000000003 is removed"), "{what:?}");
}

#[tokio::test]
async fn what_is_done_already_by_an_old_memory_is_not_believed() {
    let bench = Bench::new(five());
    let admin = bench.admin();
    // This node remembers a cluster in which nobody is drained and evening out goes on.
    bench.coordinator.freeze();
    let record = bench.world(|world| world.records[&3].clone());
    let drained = MemberRecord { state: MemberState::Draining, ..record };
    bench.coordinator.put(&MemberRecord::key(3), drained.encode());
    bench.coordinator.put(REBALANCE, br#"{"paused":true}"#.to_vec());
    assert_eq!(admin.drain(3, false, 1).await.unwrap_err().code(), "cluster_busy");
    assert_eq!(admin.pause(false, 1).await.unwrap_err().code(), "cluster_busy");
    bench.coordinator.thaw();
    let commits = bench.coordinator.commits();
    admin.drain(3, true, 1).await.unwrap();
    admin.pause(true, 1).await.unwrap();
    assert_eq!(bench.coordinator.commits(), commits + 2, "it was asked");
    assert!(admin.history().unwrap().is_empty());
    admin.drain(3, false, 1).await.unwrap();
    admin.pause(false, 1).await.unwrap();
    let stored = Stored::remembered(&*bench.coordinator).unwrap();
    assert!(stored.members[&3].state == MemberState::Active && !stored.rebalance.paused);
}

#[tokio::test]
async fn a_node_is_not_removed_while_what_it_had_is_on_its_way() {
    let mut bench = Bench::new(World::new(3, 1).with_collection("c", 1, Some(1)));
    let mut reign = bench.crown();
    bench.rounds(&mut reign, 2).await;
    let from = bench.world(|world| world.table.shards[&1].replicas[0]);
    let admin = bench.admin();
    admin.drain(from, true, 1).await.unwrap();
    // The table is changed, and the nodes have not followed: the only copy is still where it was.
    bench.now += Duration::from_secs(1);
    reign.round(bench.now, 1).await.unwrap();
    let stored = Stored::remembered(&*bench.coordinator).unwrap();
    assert!(!stored.table.shards[&1].replicas.contains(&from));
    assert_eq!(admin.remove(from, 1).await.unwrap_err().code(), "node_not_drained");
    bench.rounds(&mut reign, 5).await;
    let before = bench.coordinator.value(TABLE).unwrap();
    admin.remove(from, 1).await.unwrap();
    let after = bench.coordinator.value(TABLE).unwrap();
    assert!(after.revision > before.revision, "who creates a collection meanwhile looks again who is there");
}

#[tokio::test]
async fn a_dead_node_is_removed_unless_it_is_needed() {
    let mut bench =
        Bench::new(World::new(3, 1).with_collection("default", 4, None).with_collection("asked", 1, Some(3)));
    let mut reign = bench.crown();
    bench.rounds(&mut reign, 2).await;
    bench.world(|world| world.kill(2));
    bench.rounds(&mut reign, 1).await;
    bench.admin().remove(2, 1).await.unwrap();
    bench.follow();
    bench.rounds(&mut reign, 20).await;
    assert_eq!(bench.holders(2), 1, "copies that were asked for are waited for; the others are given up");
    let seen = bench.controller.last().unwrap();
    assert!(seen.plan.findings.iter().any(|finding| finding.to_string().contains("no node can take over")));
    // Of the two that are left, both are needed.
    bench.world(|world| world.dead.insert(3));
    assert_eq!(bench.admin().drain(1, true, 1).await.map_err(|error| error.code()), Ok(()));
    assert_eq!(bench.admin().drain(3, true, 1).await.unwrap_err().code(), "last_node");
    drop(reign);
    let alone = Bench::new(World::new(2, 1).with_collection("c", 1, Some(2)));
    alone.world(|world| world.dead.insert(2));
    assert_eq!(
        alone.admin().remove(2, 1).await.unwrap_err().code(),
        "node_needed",
        "one of two cannot change anything"
    );
    let needed = Bench::new(five());
    needed.world(|world| [2, 3, 4].map(|node| world.dead.insert(node)));
    assert_eq!(needed.admin().remove(2, 1).await.unwrap_err().code(), "node_needed");
}

#[tokio::test]
async fn a_dead_node_is_not_removed_while_what_it_had_waits_to_be_copied() {
    // A copy, of two or the only one, was to go elsewhere, and its node is lost before it has: the table does without it, the group
    // cannot. The node that is to have it has a replica, which knows of no group.
    for copies in [2, 1] {
        let mut bench = Bench::new(World::new(3, 1).with_collection("c", 1, Some(copies)));
        let mut reign = bench.crown();
        bench.rounds(&mut reign, 2).await;
        let from = bench.world(|world| world.table.shards[&1].replicas[0]);
        bench.admin().drain(from, true, 1).await.unwrap();
        bench.now += Duration::from_secs(1);
        reign.round(bench.now, 1).await.unwrap();
        let table = Stored::remembered(&*bench.coordinator).unwrap().table;
        assert!(!table.shards[&1].replicas.contains(&from));
        bench.world(|world| {
            world.table = table;
            world.kill(from);
        });
        bench.now += Duration::from_secs(1);
        reign.round(bench.now, 1).await.unwrap();
        assert_eq!(bench.admin().remove(from, 1).await.unwrap_err().code(), "node_needed", "{copies} copies");
    }
}

#[tokio::test]
async fn the_clusters_version_is_raised_when_every_member_speaks_it() {
    let mut bench = Bench::new(World::new(3, 1));
    let mut reign = bench.crown();
    let spoken = |bench: &Bench| Stored::remembered(&*bench.coordinator).unwrap().version;
    let speak = |bench: &Bench, versions: [u32; 3]| {
        bench.world(|world| world.speaks = (1..).zip(versions).collect());
    };
    speak(&bench, [1, 1, 1]);
    bench.rounds(&mut reign, 3).await;
    assert!(spoken(&bench) == 1 && bench.coordinator.value(VERSION).is_none(), "nothing is kept of the first");
    // Two are new, the third is old; then it is away, and may come back as it was.
    speak(&bench, [2, 2, 1]);
    bench.rounds(&mut reign, 3).await;
    bench.world(|world| world.dead.insert(3));
    bench.rounds(&mut reign, 3).await;
    assert_eq!(spoken(&bench), 1);
    bench.world(|world| world.dead.remove(&3));
    speak(&bench, [2, 3, 2]);
    bench.rounds(&mut reign, 3).await;
    assert_eq!((spoken(&bench), spoken_version(&*bench.coordinator)), (2, Ok(2)));
    let told = bench.admin().history().unwrap();
    assert_eq!(told.iter().filter(|entry| entry.what == "the cluster speaks version 2").count(), 1);
    // It is never lowered.
    speak(&bench, [1, 1, 1]);
    bench.rounds(&mut reign, 3).await;
    assert_eq!(spoken(&bench), 2);
}

#[tokio::test]
async fn slots_move_only_in_a_cluster_that_knows_how() {
    let mut bench = Bench::new(World::new(3, 1).with_collection("c", 2, Some(3)));
    let mut reign = bench.crown();
    let (admin, name) = (bench.admin(), |name| CollectionName::new(name).unwrap());
    for refused in [admin.split(&name("c"), 1, None, 0).await, admin.merge(&name("c"), 1, 2, 0).await.map(|()| 0)] {
        assert_eq!(refused.unwrap_err().code(), "version_too_old");
    }
    bench.world(|world| world.speaks = (1..=3).map(|node| (node, VERSION_OF_SPLITS)).collect());
    bench.rounds(&mut reign, 3).await;
    let refused = async |name: CollectionName, shard, at| admin.split(&name, shard, at, 0).await.unwrap_err().code();
    assert_eq!(refused(name("c"), 9, None).await, "shard_not_found");
    assert_eq!(refused(name("d"), 1, None).await, "shard_not_found");
    assert_eq!(refused(name("c"), 1, Some(8192)).await, "cannot_split");
    assert_eq!(admin.merge(&name("c"), 1, 1, 0).await.unwrap_err().code(), "no_neighbours");
    assert_eq!(admin.split(&name("c"), 1, None, 0).await, Ok(3));
    assert_eq!(refused(name("c"), 2, None).await, "slots_move_already");
    assert_eq!(admin.merge(&name("c"), 2, 1, 0).await.unwrap_err().code(), "slots_move_already");
    let stored = Stored::remembered(&*bench.coordinator).unwrap();
    assert!(stored.table.shards[&1].giving.is_some_and(|giving| giving.to == 3 && giving.slots.first == 4096));
    assert_eq!(admin.history().unwrap()[0].what, "shard 1: shard 3 gets its slots from 4096 on");
}

#[tokio::test]
async fn the_master_splits_what_is_too_large() {
    let settings = ControllerSettings { split_above: 300, merge_below: 100, ..ControllerSettings::default() };
    let mut bench = Bench::with(World::new(3, 1).with_collection("c", 1, Some(3)), settings);
    let mut reign = bench.crown();
    bench.world(|world| world.points.insert(1, 400));
    bench.rounds(&mut reign, 2).await;
    let giving = |bench: &Bench| {
        let stored = Stored::remembered(&*bench.coordinator).unwrap();
        stored.table.shards.values().filter(|entry| entry.giving.is_some()).count()
    };
    assert_eq!(giving(&bench), 0, "a node may not know how");
    bench.world(|world| world.speaks = (1..=3).map(|node| (node, VERSION_OF_SPLITS)).collect());
    bench.rounds(&mut reign, 1).await;
    assert_eq!(giving(&bench), 0, "the version comes first");
    bench.rounds(&mut reign, 1).await;
    assert_eq!(giving(&bench), 1);
    let told = &bench.admin().history().unwrap()[0];
    assert_eq!(told.what, "shard 1: a new one gets its slots from 8192 on");
    assert_eq!(told.why, "it has 400 documents, more than 300");
}
