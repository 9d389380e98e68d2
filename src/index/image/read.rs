//! Opening an index file. Never panics, whatever the bytes are; allocates no more than the directory announces and has bytes for.
//! Called by `shard`.

use super::super::damage::{Check, Damage};
use super::super::file::{FORMAT_VERSION, IndexFileError, field};
use super::super::kernels::BLOCK_ROWS;
use super::super::list::{Departed, LiveList, PostingList};
use super::super::locations::Locations;
use super::super::pages::{PAGE, Pages};
use super::super::points::{Ids, Points, Table};
use super::super::region::{Block, Region};
use super::super::sealed::Sealed;
use super::{HEAD_BYTES, MAGIC, TRAILER_BYTES, head};
use crate::mutants::mutant;
use crate::types::VectorName;
use bytemuck::Pod;
use std::sync::Arc;

/// An opened file.
#[derive(Debug)]
pub struct Image {
    /// The points.
    pub points: Points,
    /// The indexes.
    pub parts: Vec<SavedIndex>,
}

/// One vector's index as it is in a file.
#[derive(Debug)]
pub struct SavedIndex {
    /// The vector.
    pub name: VectorName,
    pub(crate) sealed: Sealed,
    pub(crate) locations: Locations,
}

impl Image {
    /// Reads the directory. Cost: its bytes (about 0.3 a row) and the quantizers; no row is looked at.
    ///
    /// # Errors
    /// Whatever is not as it was written. Lists and pages are verified later, and what is wrong is noted in `damage`.
    pub fn open(block: &Arc<Block>, damage: &Damage) -> Result<Image, IndexFileError> {
        let directory = directory(block)?;
        let mut reader = Reader { block, damage, rest: directory };
        let parts = reader.count("vectors", directory.len())?;
        let parts = (0..parts).map(|_| reader.saved_index()).collect::<Result<Vec<_>, _>>()?;
        let points = reader.points()?;
        if !reader.rest.is_empty() {
            return Err(field("length of the directory"));
        }
        Ok(Image { points, parts })
    }
}

/// The verified directory.
fn directory(block: &Block) -> Result<&[u8], IndexFileError> {
    if block.get(..4) != Some(&MAGIC[..]) {
        return Err(IndexFileError::Magic);
    }
    let version = block.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    match version {
        Some(FORMAT_VERSION) => {}
        Some(got) => return Err(IndexFileError::Version { got }),
        None => return Err(field("length")),
    }
    if block.get(..HEAD_BYTES) != Some(&head()[..]) {
        return Err(field("head"));
    }
    let (_, trailer) = block.split_last_chunk::<TRAILER_BYTES>().ok_or(field("length"))?;
    let word = |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    check(word(28), &trailer[..28])?;
    if trailer[24..28] != MAGIC || word(20) != FORMAT_VERSION {
        return Err(field("trailer"));
    }
    let end = block.len() - TRAILER_BYTES;
    let start = usize::try_from(long(0)).map_err(|_| field("directory"))?;
    let directory = block.get(start..end).filter(|bytes| bytes.len() as u64 == long(8)).ok_or(field("directory"))?;
    check(word(16), directory)?;
    Ok(directory)
}

fn check(expected: u32, bytes: &[u8]) -> Result<(), IndexFileError> {
    let got = crc32c::crc32c(bytes);
    if mutant!(11) || got == expected { Ok(()) } else { Err(IndexFileError::Checksum { expected, got }) }
}

/// What is left of the directory.
struct Reader<'a> {
    block: &'a Arc<Block>,
    damage: &'a Damage,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, name: &'static str) -> Result<&'a [u8], IndexFileError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(field(name))?;
        self.rest = rest;
        Ok(taken)
    }

    fn u64(&mut self, name: &'static str) -> Result<u64, IndexFileError> {
        let (taken, rest) = self.rest.split_first_chunk::<8>().ok_or(field(name))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*taken))
    }

    /// A number of things of which there cannot be more than `most`.
    fn count(&mut self, name: &'static str, most: usize) -> Result<usize, IndexFileError> {
        usize::try_from(self.u64(name)?).ok().filter(|&count| count <= most).ok_or(field(name))
    }

    fn u32s(&mut self, count: usize, name: &'static str) -> Result<Vec<u32>, IndexFileError> {
        let bytes = self.take(count.checked_mul(4).ok_or(field(name))?, name)?;
        Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }

    fn bytes(&mut self, name: &'static str) -> Result<&'a [u8], IndexFileError> {
        let len = self.count(name, self.rest.len())?;
        self.take(len, name)
    }

    fn saved_index(&mut self) -> Result<SavedIndex, IndexFileError> {
        let name = std::str::from_utf8(self.bytes("name")?).map_err(|_| field("name"))?;
        let name = VectorName::new(name).map_err(|_| field("name"))?;
        let head = Sealed::decode_head(self.bytes("quantizer")?)?;
        let form = head.quantizer.empty_list();
        let lists = (0..head.quantizer.lists()).map(|_| self.list(&form, head.quantizer.dimension));
        let lists = lists.collect::<Result<Vec<_>, _>>()?;
        let rows = self.count("rows", self.block.len())?;
        let locations = Locations::of_file(self.pages("locations")?, rows);
        Ok(SavedIndex { name, sealed: Sealed { lists, ..head }, locations })
    }

    fn list(&mut self, form: &PostingList, dimension: usize) -> Result<LiveList, IndexFileError> {
        const NAME: &str = "posting list";
        let rows = self.count(NAME, self.block.len())?;
        let mut place = || self.count(NAME, self.block.len());
        let (hot, warm) = ([place()?, place()?], place()?);
        let expected = self.u32s(1, NAME)?[0];
        let inherited_error = f32::from_bits(self.u32s(1, NAME)?[0]);
        let residual_sum = f64::from_bits(self.u64(NAME)?);
        let departed_sum = f64::from_bits(self.u64(NAME)?);
        let is_sum = |sum| (0.0..f64::INFINITY).contains(&sum);
        if !(0.0..f32::INFINITY).contains(&inherited_error) || !is_sum(residual_sum) || !is_sum(departed_sum) {
            return Err(field("errors of a posting list"));
        }
        let counts = self.u32s(3, NAME)?;
        let [departed_rows, unparted_rows, changed_rows] = [0, 1, 2].map(|at| counts[at] as usize);
        let departed = Departed { rows: departed_rows, residual_sum: departed_sum };
        let live = self.u32s(rows.div_ceil(BLOCK_ROWS), "live bits")?;
        let beyond = rows % BLOCK_ROWS;
        if beyond != 0 && live.last().is_some_and(|word| word >> beyond != 0) {
            return Err(field("live bits"));
        }
        let check = Arc::new(Check::new(expected, self.damage));
        let list = form.at((rows, dimension), self.block, (hot, warm), check).ok_or(field(NAME))?;
        let list = PostingList { inherited_error, residual_sum, ..list };
        let live_rows = live.iter().map(|word| word.count_ones() as usize).sum();
        Ok(LiveList { list: Arc::new(list), live, live_rows, unparted_rows, changed_rows, departed })
    }

    fn pages<T: Pod>(&mut self, name: &'static str) -> Result<Pages<T>, IndexFileError> {
        let len = self.count(name, self.block.len())?;
        let at = self.count(name, self.block.len())?;
        let checksums = self.u32s(len.div_ceil(PAGE), name)?;
        let numbers = Region::within(self.block, at, len).ok_or(field(name))?;
        Pages::of_file(numbers, &checksums, name, self.damage).ok_or(field(name))
    }

    fn points(&mut self) -> Result<Points, IndexFileError> {
        let live: Pages<u64> = self.pages("live bits of points")?;
        let versions: Pages<u64> = self.pages("versions")?;
        let ids = Ids { low: self.pages("ids")?, high: self.pages("ids")?, uuid: self.pages("ids")? };
        let len = self.count("points", versions.len())?;
        let slots: Pages<u32> = self.pages("id table")?;
        let (end, words) = (versions.len(), versions.len().div_ceil(64));
        let wide = (ids.high.len(), ids.uuid.len());
        let fits = ids.low.len() == end && live.len() == words && (wide == (0, 0) || wide == (end, words));
        if !fits || end > Table::ORDINALS_MAX || !Table::fits(slots.len(), len) {
            return Err(field("points"));
        }
        Ok(Points::of_file(ids, versions, live, Table { slots, len }))
    }
}
