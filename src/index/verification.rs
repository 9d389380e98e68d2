//! Reading an index file through in the background, so that damage is found before a search meets it. Made by `vector_index`, run by
//! `shard`.

use super::list::PostingList;
use super::locations::Locations;
use std::sync::Arc;

/// The parts of an index that came from a file: to be read through once, off any lock.
pub struct Verification {
    pub(crate) lists: Vec<Arc<PostingList>>,
    pub(crate) locations: Locations,
}

impl Verification {
    /// Reads everything; what is damaged is noted in the [`super::Damage`] the file was opened with.
    pub fn run(&self) {
        self.lists.iter().for_each(|list| _ = list.is_sound());
        self.locations.packed().verify();
    }
}
