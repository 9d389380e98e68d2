//! The points of a shard by **ordinal**: a dense u32 for each live point, which posting lists, tails and filters hold in place of
//! ids. Derived state: ordinals never leave the node and mean nothing to another replica. An ordinal is kept while its point
//! lives, through every new version, and the lowest free one is given to the next new point.
//!
//! Memory: 16 bytes a point with a numeric id (id and version; 24 and a bit once there is any UUID), 6 to 11 in the id table.
//! Called by `shard`, which owns one for all indexes of a shard, and by `train`, which numbers the rows it builds from.

mod ids;
mod table;

use super::pages::Pages;
use crate::types::PointId;
pub(crate) use ids::Ids;
pub(crate) use table::Table;

/// Ids and versions by ordinal, and ordinals by id. A clone shares its pages with the original and costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Points {
    pub(crate) ids: Ids,
    pub(crate) versions: Pages<u64>,
    /// A bit an ordinal: whether it belongs to a point.
    pub(crate) live: Pages<u64>,
    pub(crate) table: Table,
    /// No ordinal below is free.
    first_free: usize,
}

impl Points {
    /// No points.
    pub fn new() -> Points {
        Points::default()
    }

    /// The points of a file.
    pub(crate) fn of_file(ids: Ids, versions: Pages<u64>, live: Pages<u64>, table: Table) -> Points {
        Points { ids, versions, live, table, first_free: 0 }
    }

    /// Live points.
    pub fn len(&self) -> usize {
        self.table.len
    }

    /// Whether there is no live point.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the greatest ordinal ever given out.
    pub fn ordinals_end(&self) -> u32 {
        self.versions.len() as u32
    }

    /// The ordinal of a point. Cost: a hash and on average two or three looks.
    pub fn ordinal(&self, id: PointId) -> Option<u32> {
        self.table.find(id, &self.ids)
    }

    /// The ordinal of a point, if it is at this version.
    pub fn ordinal_at(&self, id: PointId, version: u64) -> Option<u32> {
        self.ordinal(id).filter(|&ordinal| self.versions.get(ordinal as usize) == Some(version))
    }

    /// The point of an ordinal and its version.
    pub fn get(&self, ordinal: u32) -> Option<(PointId, u64)> {
        Some((self.id(ordinal)?, self.versions.get(ordinal as usize)?))
    }

    /// The point of an ordinal.
    pub fn id(&self, ordinal: u32) -> Option<PointId> {
        if self.is_live(ordinal) { self.ids.get(ordinal as usize) } else { None }
    }

    /// Asks for what [`Points::get`] reads of the ordinal to be in cache soon.
    pub(crate) fn prefetch(&self, ordinal: u32) {
        let at = ordinal as usize;
        self.live.prefetch(at / 64);
        self.versions.prefetch(at);
        self.ids.prefetch(at);
    }

    /// Whether the ordinal belongs to a point.
    pub fn is_live(&self, ordinal: u32) -> bool {
        self.live.get(ordinal as usize / 64).is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    /// A bit an ordinal, the lowest ordinal in the lowest bit of the first word: whether it belongs to a point.
    pub fn live_words(&self) -> impl Iterator<Item = u64> + '_ {
        self.live.chunks().flatten().copied()
    }

    /// Notes a point's version. A known point keeps its ordinal, a new one gets the lowest that is free.
    ///
    /// # Panics
    /// If there are more than 4,294,967,294 points: a shard is split long before.
    pub fn put(&mut self, id: PointId, version: u64) -> u32 {
        if let Some(ordinal) = self.ordinal(id) {
            self.versions.set(ordinal as usize, version);
            return ordinal;
        }
        let ordinal = self.take_free();
        self.ids.set(ordinal, id);
        self.versions.set(ordinal, version);
        self.live.set(ordinal / 64, self.live.get(ordinal / 64).unwrap_or(0) | 1 << (ordinal % 64));
        self.table.insert(ordinal as u32, &self.ids);
        ordinal as u32
    }

    /// The lowest free ordinal. Cost: a look at the live bits from the last one given out; none while no ordinal is free.
    fn take_free(&mut self) -> usize {
        let end = self.versions.len();
        let mut free = end;
        if self.len() < end {
            let first = self.first_free / 64;
            let open = (first..end.div_ceil(64)).find_map(|word| {
                let bits = self.live.get(word).unwrap_or(u64::MAX);
                (bits != u64::MAX).then(|| word * 64 + bits.trailing_ones() as usize)
            });
            free = open.unwrap_or(end).min(end);
        }
        if free == end {
            assert!(end < Table::ORDINALS_MAX, "invariant: a shard has fewer than 2^32 - 1 points");
            self.ids.extend_to(end + 1);
            self.versions.extend_to(end + 1);
            self.live.extend_to(end / 64 + 1);
        }
        self.first_free = free + 1;
        free
    }

    /// Forgets a point; the ordinal it had, which is free from now on. Whoever holds rows by ordinal drops them first.
    pub fn remove(&mut self, id: PointId) -> Option<u32> {
        let ordinal = self.table.remove(id, &self.ids)?;
        let (word, bit) = (ordinal as usize / 64, ordinal % 64);
        self.live.set(word, self.live.get(word).unwrap_or(0) & !(1 << bit));
        self.first_free = self.first_free.min(ordinal as usize);
        Some(ordinal)
    }

    /// All live points by ordinal: ordinal, id, version.
    pub fn iter(&self) -> impl Iterator<Item = (u32, PointId, u64)> + '_ {
        (0..self.ordinals_end()).filter_map(|ordinal| self.get(ordinal).map(|(id, version)| (ordinal, id, version)))
    }

    /// Verifies every page of the file that is still in use.
    pub fn verify(&self) {
        let Ids { low, high, uuid } = &self.ids;
        [low, high, uuid, &self.versions, &self.live].into_iter().for_each(Pages::verify);
        self.table.slots.verify();
    }

    /// Bytes held, by arithmetic.
    pub fn memory_bytes(&self) -> usize {
        let by_ordinal = self.versions.memory_bytes() + self.live.memory_bytes() + self.ids.memory_bytes();
        by_ordinal + self.table.slots.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::random::SplitMix64;
    use std::collections::{BTreeMap, BTreeSet};
    use uuid::Uuid;

    /// Ids of every kind, of which some differ in one half only.
    fn id(n: usize) -> PointId {
        let n = n as u64;
        match n % 4 {
            0 => PointId::Num(n),
            1 => PointId::Uuid(Uuid::from_u128(u128::from(n))),
            2 => PointId::Uuid(Uuid::from_u128(u128::from(n) << 64)),
            _ => PointId::Num(u64::MAX - n),
        }
    }

    /// Checks everything that can be asked against the model.
    fn check(points: &Points, model: &BTreeMap<PointId, (u32, u64)>) {
        assert_eq!(points.len(), model.len());
        for (id, &(ordinal, version)) in model {
            assert_eq!(points.ordinal(*id), Some(ordinal));
            assert_eq!(points.get(ordinal), Some((*id, version)));
        }
        let listed: Vec<_> = points.iter().collect();
        assert!(listed.len() == model.len() && listed.is_sorted_by_key(|row| row.0));
        assert!(listed.iter().all(|(ordinal, id, version)| model[id] == (*ordinal, *version)));
        assert_eq!(points.get(points.ordinals_end()), None);
    }

    #[test]
    fn random_changes_against_a_model() {
        for (span, kinds) in [(40, 4), (3000, 4), (3000, 1)] {
            let mut rng = SplitMix64::new(span as u64 + kinds as u64);
            let (mut points, mut model, mut free) = (Points::new(), BTreeMap::new(), BTreeSet::new());
            for step in 0..20_000u64 {
                let id = id(rng.below(span) * 4 / kinds);
                if rng.below(10) < [2, 8, 5][step as usize / 7000] {
                    let gone = points.remove(id);
                    assert_eq!(gone, model.remove(&id).map(|row: (u32, u64)| row.0));
                    free.extend(gone);
                } else {
                    let expected = match model.get(&id) {
                        Some(row) => row.0,
                        None => free.pop_first().unwrap_or(points.ordinals_end()),
                    };
                    assert_eq!(points.put(id, step), expected);
                    model.insert(id, (expected, step));
                }
                if step % 1000 == 0 {
                    check(&points, &model);
                }
            }
            check(&points, &model);
        }
    }

    #[test]
    fn numeric_ids_take_little_memory() {
        let mut points = Points::new();
        (0..100_000u64).for_each(|n| assert_eq!(u64::from(points.put(PointId::Num(n * n), 1)), n));
        // The table has at most 4 / 0.35 bytes a point.
        assert!(points.memory_bytes() < 100_000 * (17 + 12), "{}", points.memory_bytes());
    }
}
