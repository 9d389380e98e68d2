//! Pages of several shards become one page in id order. They are merged as they come, so that no more is kept than will be shown.
//! Called by `points`.

use crate::types::{
    PointId, StoredPoint,
    operation::{Cursor, ListAnswer},
};

/// See the module.
pub struct Pages {
    limit: usize,
    /// In id order.
    points: Vec<StoredPoint>,
    /// The last id of the shortest page that has more behind it: a point behind it could still be missing a neighbour.
    bound: Option<PointId>,
    /// Whether there is something that was not kept.
    more: bool,
}

impl Pages {
    /// No page yet; at most `limit` points will be shown.
    pub fn new(limit: usize) -> Pages {
        Pages { limit, points: Vec::new(), bound: None, more: false }
    }

    /// Adds a shard's page.
    pub fn take(&mut self, page: ListAnswer) {
        if let Some(cursor) = page.cursor {
            self.more = true;
            self.bound = Some(self.bound.map_or(cursor.after, |bound| bound.min(cursor.after)));
        }
        self.points.extend(page.points);
        // Two runs in order: the sort merges them.
        self.points.sort_by_key(|point| point.id.point_id());
        let shown = match self.bound {
            Some(bound) => self.points.partition_point(|point| point.id.point_id() <= bound),
            None => self.points.len(),
        };
        let shown = shown.min(self.limit);
        self.more |= shown < self.points.len();
        self.points.truncate(shown);
    }

    /// The page.
    pub fn finish(self) -> ListAnswer {
        let cursor = self.points.last().filter(|_| self.more).map(|last| Cursor { after: last.id.point_id() });
        ListAnswer { points: self.points, cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DocumentId;
    use proptest::prelude::*;

    fn point(id: u64) -> StoredPoint {
        StoredPoint { id: DocumentId::Num(id), version: 1, vectors: None, payload: None }
    }

    /// A shard's page of `ids` behind `after`.
    fn page(ids: &[u64], after: Option<u64>, limit: usize) -> ListAnswer {
        let mut behind = ids.iter().filter(|id| after.is_none_or(|after| **id > after));
        let points: Vec<StoredPoint> = behind.by_ref().take(limit).map(|id| point(*id)).collect();
        let last = points.last().map(|point| Cursor { after: point.id.point_id() });
        ListAnswer { points, cursor: last.filter(|_| behind.next().is_some()) }
    }

    proptest! {
        #[test]
        fn a_walk_over_all_pages_sees_every_point_once_and_in_order(
            shards in prop::collection::vec(prop::collection::btree_set(0_u64..200, 0..40), 1..5),
            limit in 1_usize..20,
            shorter in 1_usize..20,
        ) {
            // A point is in one shard.
            let shards: Vec<Vec<u64>> = shards.iter().enumerate()
                .map(|(at, ids)| ids.iter().map(|id| id * shards.len() as u64 + at as u64).collect()).collect();
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let mut pages = Pages::new(limit);
                for (at, ids) in shards.iter().enumerate() {
                    // A page may end early for its bytes.
                    let limit = if at == 0 { limit.min(shorter) } else { limit };
                    pages.take(page(ids, after, limit));
                }
                let merged = pages.finish();
                prop_assert!(merged.points.len() <= limit);
                seen.extend(merged.points.iter().map(|point| point.id.to_string().parse::<u64>().unwrap()));
                match merged.cursor {
                    Some(cursor) => {
                        prop_assert!(!merged.points.is_empty());
                        after = Some(cursor.after.to_string().parse().unwrap());
                    }
                    None => break,
                }
            }
            let mut all: Vec<u64> = shards.concat();
            all.sort_unstable();
            prop_assert_eq!(seen, all);
        }
    }
}
