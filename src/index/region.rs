//! Where the numbers of posting lists live: in a Vec of their own while they are built, afterwards in a range of a [`Block`] that
//! many share: a mapped index file, or memory asked for in large pages. Called by `list`, `pages` and `image`.

use bytemuck::Pod;
use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};
use std::ops::{Deref, Range};
use std::sync::Arc;

const _: () = assert!(cfg!(target_endian = "little"), "index files and memory have the same bytes");

/// Every array of a file or arena begins at a multiple of it: a cache line, and more than any number needs.
pub(crate) const ALIGNMENT: usize = 64;

/// Bytes that never change, in pages of their own: a mapped file or anonymous memory.
#[derive(Debug)]
pub struct Block {
    bytes: Mmap,
    is_file: bool,
}

impl Block {
    /// A mapped file. Nobody may write to it or shorten it while it is mapped: see `store::files::map_file`.
    pub fn mapped(map: Mmap) -> Arc<Block> {
        Arc::new(Block { bytes: map, is_file: true })
    }

    /// Anonymous memory, in large pages where the system gives them, with `bytes` at the offsets.
    ///
    /// # Errors
    /// The system gives no memory.
    pub fn copied<'a>(len: usize, parts: impl Iterator<Item = (usize, &'a [u8])>) -> std::io::Result<Arc<Block>> {
        let mut memory = MmapMut::map_anon(len.max(1))?;
        if len >= LARGE_PAGE {
            // Advice: without it the pages are small, that is all.
            let _slower = memory.advise(Advice::HugePage);
        }
        for (at, bytes) in parts {
            memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(Arc::new(Block { bytes: memory.make_read_only()?, is_file: false }))
    }
}

impl Block {
    /// Gives the memory of a file's pages back to the system's cache; whoever reads them again finds them there, or on disk.
    fn release(&self) {
        if self.is_file {
            // SAFETY: undefined behaviour needs pages that come back with other bytes. These are of a file that nobody writes to (see
            // `Block::mapped`), mapped for reading only, so there is no change of our own to lose either.
            let _fuller = unsafe { self.bytes.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

/// What a large page is on the systems there are; smaller blocks have none.
const LARGE_PAGE: usize = 2 << 20;

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Numbers of one kind.
#[derive(Clone, Debug)]
pub(crate) enum Region<T> {
    Own(Vec<T>),
    /// Aligned and within the block: see [`Region::within`].
    Shared {
        block: Arc<Block>,
        /// In bytes.
        start: usize,
        /// In bytes.
        end: usize,
    },
}

impl<T: Pod> Region<T> {
    /// `count` numbers from byte `start` of a block; none if they are not all there or not aligned.
    pub(crate) fn within(block: &Arc<Block>, start: usize, count: usize) -> Option<Region<T>> {
        let end = start.checked_add(count.checked_mul(size_of::<T>())?)?;
        let fits = start.is_multiple_of(ALIGNMENT) && end <= block.len();
        fits.then(|| Region::Shared { block: Arc::clone(block), start, end })
    }

    /// The Vec, to append to; numbers in a block are copied out of it.
    pub(crate) fn to_mut(&mut self) -> &mut Vec<T> {
        if let Region::Shared { .. } = self {
            *self = Region::Own(self.to_vec());
        }
        match self {
            Region::Own(numbers) => numbers,
            Region::Shared { .. } => unreachable!("made its own just now"),
        }
    }

    /// Whether the numbers are in a mapped file.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Region::Shared { block, .. } if block.is_file)
    }

    /// Tells the system how numbers in a file will be read: here and there, where reading ahead is wasted, or all of them soon.
    pub(crate) fn expect_reads(&self, at_random: bool) {
        let Region::Shared { block, start, end } = self else { return };
        if block.is_file && start < end {
            let advice = if at_random { Advice::Random } else { Advice::WillNeed };
            // Advice: the numbers are the same without.
            let _slower = block.bytes.advise_range(advice, *start, end - start);
        }
    }

    /// Has the system read some of the numbers in soon, if they are in a file.
    pub(crate) fn read_soon(&self, numbers: Range<usize>) {
        let Region::Shared { block, start, end } = self else { return };
        let (from, to) = (start + numbers.start * size_of::<T>(), start + numbers.end * size_of::<T>());
        if block.is_file && from < to && to <= *end {
            // Advice: the numbers are the same without.
            let _slower = block.bytes.advise_range(Advice::WillNeed, from, to - from);
        }
    }

    /// Gives the memory of the file's pages back, those of other regions in the file with them.
    pub(crate) fn release_file(&self) {
        if let Region::Shared { block, .. } = self {
            block.release();
        }
    }

    /// Gives back the room that appending left over.
    pub(crate) fn shrink(&mut self) {
        if let Region::Own(numbers) = self {
            numbers.shrink_to_fit();
        }
    }

    /// Bytes held in anonymous memory of its own.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Region::Own(numbers) => numbers.capacity() * size_of::<T>(),
            Region::Shared { start, end, .. } => end - start,
        }
    }
}

impl<T> Default for Region<T> {
    fn default() -> Self {
        Region::Own(Vec::new())
    }
}

impl<T: Pod> Deref for Region<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Region::Own(numbers) => numbers,
            Region::Shared { block, start, end } => bytemuck::cast_slice(&block[*start..*end]),
        }
    }
}

impl<T: Pod + PartialEq> PartialEq for Region<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_block_are_numbers_of_a_vec() {
        let numbers: Vec<u32> = (0..100).collect();
        let block = Block::copied(1000, [(128, bytemuck::cast_slice(&numbers))].into_iter()).expect("memory");
        let mut region = Region::<u32>::within(&block, 128, 100).expect("aligned and there");
        assert_eq!(*region, *numbers);
        region.to_mut().push(100);
        assert_eq!((region.len(), region[100]), (101, 100));
        assert!(Region::<u32>::within(&block, 128, 219).is_none(), "not all there");
        assert!(Region::<u32>::within(&block, 4, 1).is_none(), "not aligned");
        assert!(Region::<u64>::within(&block, usize::MAX - 63, 1 << 60).is_none(), "overflow");
        assert_eq!(Region::<u32>::within(&block, 960, 0).expect("empty").len(), 0);
    }

    #[test]
    fn a_released_file_reads_as_before() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let file = tempfile::tempfile().expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).expect("written");
        // SAFETY: nobody else has the file.
        let block = Block::mapped(unsafe { Mmap::map(&file) }.expect("mapped"));
        let region = Region::<u32>::within(&block, 64, 1000).expect("there");
        for at_random in [true, false] {
            let before = region.to_vec();
            region.expect_reads(at_random);
            region.read_soon(900..1000);
            region.read_soon(999..1001);
            region.read_soon(5..5);
            region.release_file();
            assert!(region.is_mapped() && *region == *before && block[..] == bytes[..]);
        }
    }

    #[test]
    fn large_blocks_hold_what_was_copied() {
        let part = [7u8; 100];
        let block = Block::copied(5 << 20, [(0, &part[..]), (4 << 20, &part[..])].into_iter()).expect("memory");
        assert!(block[..100] == part[..] && block[4 << 20..][..100] == part[..] && block[100] == 0);
    }
}
