//! Which points a filter lets pass, as far as the payload indexes tell, and when reading every point is cheaper than asking them.
//! Called by `search`, `read` and `round`.

use super::{
    indexes::Indexes,
    payload::{Evaluated, Set, evaluate, members},
};
use crate::{
    index::Points,
    types::{Filter, PointId},
};

/// Reading a point by id costs so many times what it costs when all are read in order.
const LOOK_UP_COST: u64 = 2;

/// What the indexes say of a filter. The caller holds the lock of `indexes`.
pub fn ask<'i>(indexes: &'i Indexes, filter: &Filter) -> Evaluated<'i> {
    evaluate(filter, indexes.payload(), &|id| indexes.points().ordinal(id))
}

/// Whether looking up so many points of all is cheaper than reading all.
pub fn pays(look_ups: u64, points: u64) -> bool {
    look_ups.saturating_mul(LOOK_UP_COST) <= points
}

/// The points that may pass, in id order; `None` if it is as well to look at all, or the indexes cannot be trusted.
pub fn possible(indexes: &Indexes, filter: &Filter) -> Option<Vec<PointId>> {
    let evaluated = ask(indexes, filter);
    let (set, points) = (evaluated.bounds.possible(), indexes.points());
    let ids = pays(set.len(points.len() as u64), points.len() as u64).then(|| in_order(set, points, None));
    ids.filter(|_| indexes.damage().found().is_none())
}

/// The points behind `after` that may pass, in id order; `None` if a page of `limit` points is as soon found by looking at all,
/// or the indexes cannot be trusted.
pub fn page(indexes: &Indexes, filter: &Filter, after: Option<PointId>, limit: usize) -> Option<Vec<PointId>> {
    /// Finding and ordering so many ids costs what reading a point does.
    const IDS_PER_READ: u64 = 16;
    let evaluated = ask(indexes, filter);
    let (set, points) = (evaluated.bounds.possible(), indexes.points());
    let all = points.len() as u64;
    let possible = set.len(all);
    let in_turn = (limit as u64).saturating_mul(all / possible.max(1)).min(all);
    let look_ups = possible.min(limit as u64) + possible / IDS_PER_READ;
    let ids = pays(look_ups, in_turn).then(|| in_order(set, points, after));
    ids.filter(|_| indexes.damage().found().is_none())
}

fn in_order(set: &Set<'_>, points: &Points, after: Option<PointId>) -> Vec<PointId> {
    let behind = |id: &PointId| after.is_none_or(|after| *id > after);
    let mut ids: Vec<PointId> = members(set, points).map(|(_, id, _)| id).filter(behind).collect();
    ids.sort_unstable();
    ids
}
