//! What a filter is to the vector index and to whoever reads points: the set of those that pass, over the live points. Called by
//! `search`, `read` and `round`.

use super::{set::Set, words::words_of};
use crate::{
    index::{Allowed, Points},
    types::PointId,
};

/// The points of a set, for the vector index. Cost: a bit an ordinal.
pub fn allowed(set: &Set<'_>, points: &Points) -> Allowed {
    Allowed::from_words(match set {
        Set::Only(bitmap) => words_of(bitmap, points.ordinals_end()),
        Set::AllBut(bitmap) => {
            let others = words_of(bitmap, points.ordinals_end());
            points.live_words().zip(others).map(|(live, other)| live & !other).collect()
        }
    })
}

/// The points of a set: ordinal, id, version, by ordinal.
pub fn members<'a>(set: &'a Set<'_>, points: &'a Points) -> Box<dyn Iterator<Item = (u32, PointId, u64)> + 'a> {
    let point = |ordinal: u32| points.get(ordinal).map(|(id, version)| (ordinal, id, version));
    match set {
        Set::Only(bitmap) => Box::new(bitmap.iter().filter_map(point)),
        Set::AllBut(bitmap) => Box::new(points.iter().filter(|(ordinal, ..)| !bitmap.contains(*ordinal))),
    }
}
