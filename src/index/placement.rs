//! Which memory the posting lists of a file are in: they are usable as soon as the file is mapped, and are then moved, off the lock,
//! to where the `memory` setting wants them. Called by `vector_index` and `shard`.

use super::list::PostingList;
use super::region::{ALIGNMENT, Block};
use std::io;
use std::sync::Arc;

/// Bytes gathered in one block of anonymous memory.
const BLOCK_BYTES: usize = 64 << 20;

/// What a search finds in memory of its own, and what in the mapped file, whose pages the system may take back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Codes, factors and ordinals in large pages; int8 rows in the file, whose pages are given back again and
    /// again: slower, and the least memory.
    Low,
    /// The same, with int8 rows read in as early as the system can.
    #[default]
    Balanced,
    /// Everything in large pages.
    Fast,
}

/// The work of moving lists. Pure and `Send`: run it on any thread.
pub struct Placement {
    pub(crate) memory: Memory,
    pub(crate) dimension: usize,
    /// By number, those that are in a file.
    pub(crate) lists: Vec<(usize, Arc<PostingList>)>,
}

/// Lists in the memory they should be in.
pub struct Placed {
    pub(crate) memory: Memory,
    pub(crate) lists: Vec<PlacedList>,
}

/// A list and its copy.
pub(crate) struct PlacedList {
    pub(crate) number: usize,
    pub(crate) before: Arc<PostingList>,
    pub(crate) after: Arc<PostingList>,
}

impl Placement {
    /// Copies the lists. Verifies each that is not yet; a damaged one stays where it is. Cost: one pass over their bytes.
    ///
    /// # Errors
    /// The system gives no memory; everything may stay where it is.
    pub fn run(self) -> io::Result<Placed> {
        let mut placed = Placed { memory: self.memory, lists: Vec::with_capacity(self.lists.len()) };
        let sound: Vec<_> = self.lists.iter().filter(|(_, list)| list.is_sound()).collect();
        let mut rest = &sound[..];
        while !rest.is_empty() {
            let (group, after) = rest.split_at(self.group_len(rest));
            self.place(group, &mut placed)?;
            rest = after;
        }
        if let Some((_, list)) = self.lists.first() {
            // What was read to verify and to copy need not stay.
            list.release_file();
        }
        Ok(placed)
    }

    /// How many lists, at least one, fill a block.
    fn group_len(&self, lists: &[&(usize, Arc<PostingList>)]) -> usize {
        let mut bytes = 0;
        let fitting = lists.iter().take_while(|(_, list)| {
            let fits = bytes == 0 || bytes < BLOCK_BYTES;
            bytes += self.moved(list).iter().map(|part| part.len()).sum::<usize>().max(1);
            fits
        });
        fitting.count()
    }

    /// The arrays to move.
    fn moved<'l>(&self, list: &'l PostingList) -> [&'l [u8]; 3] {
        let ([ordinals, blocks], records) = list.arrays();
        [ordinals, blocks, if self.memory == Memory::Fast { records } else { &[] }]
    }

    fn place(&self, group: &[&(usize, Arc<PostingList>)], placed: &mut Placed) -> io::Result<()> {
        let (mut places, mut end) = (Vec::with_capacity(group.len()), 0usize);
        for (_, list) in group {
            places.push(self.moved(list).map(|part| {
                let at = end.next_multiple_of(ALIGNMENT);
                end = at + part.len();
                at
            }));
        }
        let parts = group.iter().zip(&places).flat_map(|((_, list), at)| at.iter().copied().zip(self.moved(list)));
        let block = Block::copied(end.next_multiple_of(ALIGNMENT), parts)?;
        for ((number, before), at) in group.iter().copied().zip(&places) {
            let after =
                before.moved_to(&block, [at[0], at[1]], (self.memory == Memory::Fast).then_some(at[2]), self.dimension);
            let Some(after) = after else { continue };
            after.expect_reads(self.memory == Memory::Low);
            placed.lists.push(PlacedList { number: *number, before: Arc::clone(before), after: Arc::new(after) });
        }
        Ok(())
    }
}
