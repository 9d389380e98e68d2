//! The shard tables that nodes know, looked at again and again: one an epoch, and no running node's goes back. And what their replicas
//! have applied, of which nothing may be lost with a replica that is given up.
use crate::faults::fleet::Fleet;
use madsim::time;
use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};
use vectorsphere::cluster::{ShardId, ShardTable};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The shard tables that nodes knew, as each of them told.
#[derive(Default)]
pub struct Tables {
    /// By epoch.
    seen: RefCell<BTreeMap<u64, Arc<ShardTable>>>,
    /// The newest epoch each node knew; what it has acted on it must not forget, whatever befalls it.
    newest: RefCell<BTreeMap<usize, u64>>,
    /// How far any replica of a shard was seen to have applied its log.
    furthest: RefCell<BTreeMap<ShardId, u64>>,
}

impl Tables {
    /// Looks at every node's table again and again while `trouble` goes on.
    ///
    /// # Panics
    /// If two nodes ever know different tables of one epoch, or a running node's table goes back.
    pub async fn watched<T>(&self, fleet: &Fleet, trouble: impl Future<Output = T>) -> T {
        let watch = async {
            loop {
                self.look(fleet);
                time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            done = trouble => done,
            () = watch => unreachable!("it looks for ever"),
        }
    }

    pub fn look(&self, fleet: &Fleet) {
        for victim in &fleet.victims {
            let Some(table) = victim.inside().map(|inside| inside.shard_table()) else {
                // What a process knew that has ended need not all have reached its disk.
                self.newest.borrow_mut().remove(&victim.number);
                continue;
            };
            let mut seen = self.seen.borrow_mut();
            let first = seen.entry(table.epoch).or_insert_with(|| table.clone());
            assert!(*first == table, "{} knows another table of epoch {} than others", victim.name(), table.epoch);
            let before = self.newest.borrow_mut().insert(victim.number, table.epoch).unwrap_or(0);
            assert!(before <= table.epoch, "{}: the table goes back from {before} to {}", victim.name(), table.epoch);
        }
        let mut furthest = self.furthest.borrow_mut();
        for (shard, applied) in applied(fleet) {
            let most = furthest.entry(shard).or_default();
            *most = applied.max(*most);
        }
    }

    /// A shard of the newest table of which no node has any more what one had applied, in words. To be asked when all has been well
    /// for a while: before, those who have it in their logs may not know yet that it is committed.
    pub fn lost(&self, fleet: &Fleet) -> Option<String> {
        let (table, now) = (newest(fleet)?, applied(fleet));
        let furthest = self.furthest.borrow();
        let mut shards = furthest.iter().filter(|(shard, _)| table.shards.contains_key(shard));
        let (shard, most) = shards.find(|(shard, most)| now.get(shard).unwrap_or(&0) < most)?;
        let left = now.get(shard).map_or("none".to_string(), |left| format!("up to {left}"));
        Some(format!("shard {shard}: its log was applied up to {most}, and what replicas there are have {left}"))
    }
}

/// The newest shard table that a node knows.
pub fn newest(fleet: &Fleet) -> Option<Arc<ShardTable>> {
    fleet.present().filter_map(|victim| Some(victim.inside()?.shard_table())).max_by_key(|table| table.epoch)
}

/// How far the replicas of each shard, the one that is furthest, have applied its log.
fn applied(fleet: &Fleet) -> BTreeMap<ShardId, u64> {
    let mut furthest: BTreeMap<ShardId, u64> = BTreeMap::new();
    for inside in fleet.present().filter_map(|victim| victim.inside()) {
        for (shard, replica) in inside.host().replicas() {
            let most = furthest.entry(shard).or_default();
            *most = replica.applied().max(*most);
        }
    }
    furthest
}
