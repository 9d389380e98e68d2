//! Arrays by ordinal in pages: those of an index file, verified page by page when first used, under those changed or added since.
//! A clone shares all pages; a page is copied when it is next changed. Called by `points`, `locations` and `image`.

use super::damage::{Check, Damage};
use super::kernels::prefetch;
use super::region::Region;
use bytemuck::Pod;
use std::sync::Arc;

/// Numbers a page holds.
pub(crate) const PAGE: usize = 512;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Pages<T> {
    base: Option<Arc<Base<T>>>,
    /// A page each; none: the base's.
    pages: Vec<Option<Arc<[T]>>>,
    len: usize,
}

/// The pages of a file.
#[derive(Debug)]
struct Base<T> {
    numbers: Region<T>,
    checks: Vec<Check>,
    part: &'static str,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Pages { base: None, pages: Vec::new(), len: 0 }
    }
}

impl<T: Pod> Base<T> {
    /// A page as it was written; none if it is damaged.
    fn page(&self, page: usize) -> Option<&[T]> {
        let numbers = &self.numbers;
        let numbers = numbers.get(page * PAGE..)?;
        let numbers = &numbers[..numbers.len().min(PAGE)];
        let sound = self.checks.get(page)?.passes(self.part, || crc32c::crc32c(bytemuck::cast_slice(numbers)));
        sound.then_some(numbers)
    }

    /// Has the system read a page in if it is not verified yet.
    fn read_unverified(&self, page: usize) {
        if self.checks.get(page).is_some_and(Check::is_unseen) {
            self.numbers.read_soon(page * PAGE..self.numbers.len().min((page + 1) * PAGE));
        }
    }
}

impl<T: Pod> Pages<T> {
    /// As many zeros.
    pub(crate) fn zeros(len: usize) -> Pages<T> {
        let zeros: Arc<[T]> = vec![T::zeroed(); PAGE].into();
        Pages { base: None, pages: vec![Some(zeros); len.div_ceil(PAGE)], len }
    }

    /// The pages of a file; none if there are not as many checksums as pages.
    pub(crate) fn of_file(
        numbers: Region<T>,
        checksums: &[u32],
        part: &'static str,
        damage: &Damage,
    ) -> Option<Pages<T>> {
        let len = numbers.len();
        if checksums.len() != len.div_ceil(PAGE) {
            return None;
        }
        let checks = checksums.iter().map(|&expected| Check::new(expected, damage)).collect();
        let base = Base { numbers, checks, part };
        Some(Pages { base: Some(Arc::new(base)), pages: vec![None; len.div_ceil(PAGE)], len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A number; none beyond the end. In a damaged page every number is 0, and the damage is noted.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<T> {
        if at >= self.len {
            return None;
        }
        match &self.pages[at / PAGE] {
            Some(page) => Some(page[at % PAGE]),
            None => self.in_base(at),
        }
    }

    /// Asks for a number of a page in memory to be in cache soon. Of a page of a file that nobody has read yet, the system is asked to read
    /// it, so that the reads of many pages do not wait for each other.
    pub(crate) fn prefetch(&self, at: usize) {
        match self.pages.get(at / PAGE) {
            Some(Some(page)) => prefetch(&page[at % PAGE..][..1]),
            Some(None) => self.base.iter().for_each(|base| base.read_unverified(at / PAGE)),
            None => {}
        }
    }

    fn in_base(&self, at: usize) -> Option<T> {
        let page = self.base.as_ref().and_then(|base| base.page(at / PAGE));
        Some(page.and_then(|page| page.get(at % PAGE)).copied().unwrap_or(T::zeroed()))
    }

    /// Changes a number.
    ///
    /// # Panics
    /// Beyond the end.
    pub(crate) fn set(&mut self, at: usize, number: T) {
        assert!(at < self.len, "invariant: only what is there is changed");
        self.page_mut(at / PAGE)[at % PAGE] = number;
    }

    fn page_mut(&mut self, page: usize) -> &mut [T] {
        let slot = &mut self.pages[page];
        let shared = slot.get_or_insert_with(|| {
            let mut numbers = vec![T::zeroed(); PAGE];
            if let Some(old) = self.base.as_ref().and_then(|base| base.page(page)) {
                numbers[..old.len()].copy_from_slice(old);
            }
            numbers.into()
        });
        Arc::make_mut(shared)
    }

    /// Appends zeros up to a length.
    pub(crate) fn extend_to(&mut self, len: usize) {
        if len > self.len {
            // The last page of a file may be shorter than a page.
            if !self.len.is_multiple_of(PAGE) {
                self.page_mut(self.len / PAGE);
            }
            self.len = len;
            let zeros = || Some(vec![T::zeroed(); PAGE].into());
            self.pages.resize_with(len.div_ceil(PAGE), zeros);
        }
    }

    /// All numbers, in order, a page at a time.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[T]> + '_ {
        (0..self.pages.len()).map(|page| {
            let len = (self.len - page * PAGE).min(PAGE);
            match &self.pages[page] {
                Some(numbers) => &numbers[..len],
                None => self.base.as_ref().and_then(|base| base.page(page)).unwrap_or(&[]),
            }
        })
    }

    /// Verifies every page of the file that is still in use.
    pub(crate) fn verify(&self) {
        self.chunks().for_each(drop);
    }

    /// Bytes of the pages held in memory, and of the file's in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.len() * (PAGE * size_of::<T>() + size_of::<Option<Arc<[T]>>>())
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::Block;
    use super::*;

    fn of_file(numbers: &[u64], damage: &Damage, flip: Option<usize>) -> Pages<u64> {
        let checksums: Vec<u32> = numbers.chunks(PAGE).map(|page| crc32c::crc32c(bytemuck::cast_slice(page))).collect();
        let mut bytes = bytemuck::cast_slice::<u64, u8>(numbers).to_vec();
        if let Some(at) = flip {
            bytes[at] ^= 4;
        }
        let block = Block::copied(bytes.len(), [(0, &bytes[..])].into_iter()).expect("memory");
        let region = Region::within(&block, 0, numbers.len()).expect("aligned");
        Pages::of_file(region, &checksums, "numbers", damage).expect("a checksum a page")
    }

    #[test]
    fn changes_lie_over_the_file() {
        let numbers: Vec<u64> = (0..1300).map(|n| n * n).collect();
        let damage = Damage::default();
        let mut pages = of_file(&numbers, &damage, None);
        let before = pages.clone();
        let mut model = numbers.clone();
        for at in [0, 511, 512, 1299] {
            pages.set(at, 7);
            model[at] = 7;
        }
        pages.extend_to(3000);
        model.resize(3000, 0);
        pages.set(2999, 9);
        model[2999] = 9;
        assert!((0..3001).all(|at| pages.get(at) == model.get(at).copied()));
        assert!((0..1301).all(|at| before.get(at) == numbers.get(at).copied()), "a clone keeps its moment");
        assert!(pages.chunks().flatten().eq(&model) && before.chunks().flatten().eq(&numbers));
        assert_eq!(damage.found(), None);
    }

    #[test]
    fn a_damaged_page_is_noted_when_it_is_used() {
        let numbers: Vec<u64> = (1..=1300).collect();
        let damage = Damage::default();
        let mut pages = of_file(&numbers, &damage, Some(600 * 8));
        assert_eq!((pages.get(3), pages.get(1299), damage.found()), (Some(4), Some(1300), None));
        assert_eq!((pages.get(513), damage.found()), (Some(0), Some("numbers")));
        pages.set(514, 5);
        assert_eq!((pages.get(513), pages.get(514)), (Some(0), Some(5)));
        let damage = Damage::default();
        of_file(&numbers, &damage, Some(600 * 8)).verify();
        assert_eq!(damage.found(), Some("numbers"));
    }
}
