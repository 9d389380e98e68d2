//! The points by string: of whole strings or of tokens. Long ones are only known to be long, so that an index of a field of
//! essays stays small. Called by `field`.

use super::{
    postings::Postings,
    set::{Bounds, Set},
};
use roaring::RoaringBitmap;
use std::{borrow::Cow, collections::BTreeMap};

/// Longest string that is kept, in bytes.
const TERM_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    points: BTreeMap<Box<str>, Postings>,
    /// The points with a longer string, and of how many each.
    long: BTreeMap<u32, u32>,
    /// Bytes of the strings.
    text_bytes: usize,
    /// Strings of all points together.
    postings: usize,
}

impl Terms {
    /// Different strings.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Adds a point under a string it is not under.
    pub fn put(&mut self, ordinal: u32, term: &str) {
        if term.len() > TERM_BYTES_MAX {
            *self.long.entry(ordinal).or_default() += 1;
            return;
        }
        self.postings += 1;
        if let Some(postings) = self.points.get_mut(term) {
            postings.insert(ordinal);
            return;
        }
        self.text_bytes += term.len();
        self.points.insert(term.into(), Postings::One(ordinal));
    }

    /// Takes a point away from a string it is under.
    pub fn take(&mut self, ordinal: u32, term: &str) {
        if term.len() > TERM_BYTES_MAX {
            if let Some(count) = self.long.get_mut(&ordinal) {
                *count -= 1;
                if *count == 0 {
                    self.long.remove(&ordinal);
                }
            }
            return;
        }
        self.postings -= 1;
        if self.points.get_mut(term).is_some_and(|postings| postings.remove(ordinal)) {
            self.text_bytes -= term.len();
            self.points.remove(term);
        }
    }

    /// The points under a string; for a long one those with any long one.
    pub fn get(&self, term: &str) -> Bounds<'_> {
        if term.len() > TERM_BYTES_MAX {
            let long = RoaringBitmap::from_sorted_iter(self.long.keys().copied()).unwrap_or_default();
            return Bounds::at_most(Set::from(long));
        }
        Bounds::exact(match self.points.get(term) {
            None => Set::none(),
            Some(postings) => match postings.as_bitmap() {
                Some(bitmap) => Set::Only(Cow::Borrowed(bitmap)),
                None => {
                    let mut few = RoaringBitmap::new();
                    postings.add_to(&mut few);
                    Set::from(few)
                }
            },
        })
    }

    /// Bytes of memory, roughly.
    pub fn memory_bytes(&self) -> usize {
        /// A string's place in the map, with the map's slack and its allocation.
        const TERM_BYTES: usize = 80;
        const POSTING_BYTES: usize = 4;
        self.points.len() * TERM_BYTES + self.text_bytes + self.postings * POSTING_BYTES + self.long.len() * 16
    }
}
