//! The points that have one value: one ordinal, a few, or a bitmap. Most values of a field of names or measurements have
//! few points, and a bitmap of one takes ten times the bytes of its only number. Called by `field` and `numbers`.

use roaring::RoaringBitmap;

/// Up to this many ordinals are kept as a list.
const FEW_MAX: usize = 24;

/// A set of ordinals, without duplicates and never empty except while it is taken away.
#[derive(Clone, Debug, PartialEq)]
pub enum Postings {
    One(u32),
    /// Ascending.
    Few(Vec<u32>),
    Many(Box<RoaringBitmap>),
}

use Postings::{Few, Many, One};

impl Postings {
    /// Adds an ordinal; whether it was not there.
    pub fn insert(&mut self, ordinal: u32) -> bool {
        match self {
            One(only) if *only == ordinal => false,
            One(only) => {
                *self = Few(vec![(*only).min(ordinal), (*only).max(ordinal)]);
                true
            }
            Few(few) => {
                let Err(at) = few.binary_search(&ordinal) else { return false };
                few.insert(at, ordinal);
                if few.len() > FEW_MAX {
                    *self = Many(Box::new(few.iter().copied().collect()));
                }
                true
            }
            Many(many) => many.insert(ordinal),
        }
    }

    /// Takes an ordinal away; whether nothing is left.
    pub fn remove(&mut self, ordinal: u32) -> bool {
        match self {
            One(only) => *only == ordinal,
            Few(few) => {
                if let Ok(at) = few.binary_search(&ordinal) {
                    few.remove(at);
                }
                few.is_empty()
            }
            Many(many) => {
                many.remove(ordinal);
                many.is_empty()
            }
        }
    }

    /// Adds its ordinals to `out`.
    pub fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            One(only) => {
                out.insert(*only);
            }
            Few(few) => out.extend(few.iter().copied()),
            Many(many) => *out |= &**many,
        }
    }

    /// The ordinals as a bitmap, if they are one already.
    pub fn as_bitmap(&self) -> Option<&RoaringBitmap> {
        if let Many(many) = self { Some(many) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn equals_a_set(first in 0..50_u32, changes in prop::collection::vec((any::<bool>(), 0..50_u32), 0..120)) {
            let (mut postings, mut set) = (One(first), BTreeSet::from([first]));
            for (insert, ordinal) in changes {
                if insert {
                    prop_assert_eq!(postings.insert(ordinal), set.insert(ordinal));
                } else {
                    set.remove(&ordinal);
                    prop_assert_eq!(postings.remove(ordinal), set.is_empty());
                    if set.is_empty() {
                        return Ok(());
                    }
                }
                let mut all = RoaringBitmap::new();
                postings.add_to(&mut all);
                prop_assert_eq!(all.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
