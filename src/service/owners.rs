//! What shards have said of the slots they own while they move. The shard table says between which two shards slots move, not how far
//! the move is: that is in their logs. Whoever asks the wrong one of the two is refused, and told what it owns; from then on
//! points are looked for accordingly. A hint, never a proof: a shard refuses what is not its own. Called by `points` and `whole`.

use crate::{
    cluster::{Collection, ShardId},
    shard::commands,
    types::{Error, PointId, SlotRange, slot_of},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most shards that are remembered; about the others the table's word is taken.
const OWNERS_MAX: usize = 1_024;

/// See the module.
#[derive(Default)]
pub struct Owners(Mutex<BTreeMap<ShardId, SlotRange>>);

impl Owners {
    /// The shard that should have a point.
    pub fn shard_of(&self, collection: &Collection, id: PointId) -> ShardId {
        let slot = slot_of(id);
        match collection.moving(slot) {
            None => collection.shard_of(id),
            Some((from, to)) => match self.known().get(&from) {
                Some(owned) if !owned.contains(slot) => to,
                _ => from,
            },
        }
    }

    /// The shards to ask for all points: a new one, whose group may still have to find its leader, not before it has a slot.
    pub fn to_ask(&self, collection: &Collection) -> Vec<ShardId> {
        let known = self.known();
        let has_given = |to: ShardId| {
            let giver = collection.giving.iter().find(|giving| giving.to == to);
            giver.is_none_or(|giving| known.get(&giving.from).is_some_and(|owned| !owned.covers(giving.slots)))
        };
        let is_asked = |(id, slots): &&(ShardId, SlotRange)| !slots.is_empty() || has_given(*id);
        collection.shards.iter().filter(is_asked).map(|(id, _)| *id).collect()
    }

    /// Takes note of what shards have said they own.
    pub fn saw(&self, collection: &Collection, slots: &[(ShardId, SlotRange)]) {
        if collection.giving.is_empty() {
            return;
        }
        let mut known = self.known();
        for (shard, owned) in slots {
            if collection.giving.iter().any(|giving| giving.from == *shard) {
                note(&mut known, *shard, *owned);
            }
        }
    }

    /// Takes note of a refusal.
    pub fn learn(&self, collection: &Collection, shard: ShardId, refusal: &Error) {
        let Some(owned) = commands::owner_says(refusal) else { return };
        let mut known = self.known();
        if collection.giving.iter().any(|giving| giving.from == shard) {
            note(&mut known, shard, owned);
        }
        // What is not with the receiver, either on its way or with the giver after all.
        for giving in collection.giving.iter().filter(|giving| giving.to == shard) {
            known.remove(&giving.from);
        }
        // Nothing is kept of a move that is over.
        if collection.giving.is_empty() {
            for (id, _) in &collection.shards {
                known.remove(id);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ShardId, SlotRange>> {
        // Changed by single calls only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(known: &mut BTreeMap<ShardId, SlotRange>, shard: ShardId, owned: SlotRange) {
    if known.len() < OWNERS_MAX || known.contains_key(&shard) {
        known.insert(shard, owned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::Giving,
        shard::Border,
        types::{CollectionName, CollectionSpec, IndexType, Metric, SLOTS, VectorSpec},
    };

    fn range(first: u16, end: u16) -> SlotRange {
        SlotRange { first, end }
    }

    fn collection(giving: Vec<Giving>) -> Collection {
        let spec = CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).unwrap());
        let shards = vec![(2, SlotRange::NONE), (1, SlotRange::ALL)];
        Collection {
            name: CollectionName::new("t").unwrap(),
            spec,
            created_ms: 0,
            shards,
            giving,
            deleting: false,
            table_epoch: 1,
        }
    }

    fn refusal(owned: SlotRange, id: PointId) -> Error {
        Border::born(owned).check([id].into_iter()).unwrap_err()
    }

    #[test]
    fn points_are_looked_for_where_the_giver_says_they_are() {
        let collection_at_rest = collection(Vec::new());
        let collection = collection(vec![Giving { from: 1, to: 2, slots: range(8_192, SLOTS) }]);
        let owners = Owners::default();
        let late = (0..).map(PointId::Num).find(|id| slot_of(*id) > 16_000).unwrap();
        let early = (0..).map(PointId::Num).find(|id| slot_of(*id) < 8_192).unwrap();
        assert_eq!((owners.shard_of(&collection, late), owners.to_ask(&collection)), (1, vec![1]), "by the table");
        owners.learn(&collection, 1, &refusal(range(0, 16_000), late));
        assert_eq!((owners.shard_of(&collection, late), owners.shard_of(&collection, early)), (2, 1));
        assert_eq!(owners.to_ask(&collection), [2, 1]);
        // The receiver has it not, or not yet: the giver is asked again, and says what it has.
        owners.learn(&collection, 2, &refusal(SlotRange::NONE, late));
        assert_eq!(owners.shard_of(&collection, late), 1);
        owners.saw(&collection, &[(2, range(15_000, SLOTS)), (1, range(0, 15_000))]);
        assert_eq!(owners.shard_of(&collection, late), 2);
        owners.learn(&collection_at_rest, 1, &refusal(range(0, 16_000), late));
        assert_eq!(owners.shard_of(&collection, late), 1, "nothing is kept of a move that is over");
    }
}
