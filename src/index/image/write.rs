//! Writing an index file, from front to back. Called by `shard`.

use super::super::file::FORMAT_VERSION;
use super::super::list::LiveList;
use super::super::locations::Locations;
use super::super::pages::{PAGE, Pages};
use super::super::points::Points;
use super::super::region::ALIGNMENT;
use super::super::sealed::Sealed;
use super::{MAGIC, TRAILER_BYTES, head};
use crate::types::VectorName;
use bytemuck::Pod;
use std::io;

/// Writes the file of these points and of the posting lists that hold them by ordinal. Cost: one pass over all bytes, twice over
/// those of lists that were never in a file.
///
/// # Errors
/// Those of `out`; `InvalidData` if a page of an earlier file turns out to be damaged: there is nothing worth saving then.
pub fn write_image(out: &mut dyn io::Write, points: &Points, parts: &[(VectorName, Sealed)]) -> io::Result<()> {
    let mut file = FileWriter { out, at: 0 };
    file.section(&head())?;
    let mut directory = Directory::default();
    directory.u64(parts.len() as u64);
    for (name, sealed) in parts {
        directory.bytes(name.as_str().as_bytes());
        directory.bytes(&sealed.encode_head());
        file.lists(&sealed.lists, &mut directory)?;
        let locations = Locations::of_lists(&sealed.lists);
        // Rows of the tail are in no file, and in no place of it.
        directory.u64(locations.len() as u64);
        file.pages(locations.packed(), &mut directory)?;
    }
    let ids = &points.ids;
    for pages in [&points.live, &points.versions, &ids.low, &ids.high, &ids.uuid] {
        file.pages(pages, &mut directory)?;
    }
    directory.u64(points.table.len as u64);
    file.pages(&points.table.slots, &mut directory)?;
    file.finish(&directory.0)
}

struct FileWriter<'a> {
    out: &'a mut dyn io::Write,
    at: u64,
}

impl FileWriter<'_> {
    /// Where the next section begins.
    fn align(&mut self) -> io::Result<u64> {
        let zeros = [0; ALIGNMENT];
        let gap = self.at.next_multiple_of(ALIGNMENT as u64) - self.at;
        self.append(&zeros[..gap as usize])?;
        Ok(self.at)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn section(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.align()?;
        self.append(bytes)?;
        Ok(at)
    }

    fn lists(&mut self, lists: &[LiveList], directory: &mut Directory) -> io::Result<()> {
        let mut places = Vec::with_capacity(lists.len());
        for live in lists {
            let (hot, _) = live.list.arrays();
            places.push([self.section(hot[0])?, self.section(hot[1])?]);
        }
        for (live, hot) in lists.iter().zip(places) {
            let (_, warm) = live.list.arrays();
            let warm = self.section(warm)?;
            directory.u64(live.list.len() as u64);
            [hot[0], hot[1], warm].into_iter().for_each(|at| directory.u64(at));
            // Damage to a list that came from a file stays visible in the next.
            let check = live.list.check.as_ref();
            directory.u32(check.map_or_else(|| live.list.checksum(), |check| check.expected()));
            directory.u32(live.list.inherited_error.to_bits());
            directory.u64(live.list.residual_sum.to_bits());
            directory.u64(live.departed.residual_sum.to_bits());
            for rows in [live.departed.rows, live.unparted_rows, live.changed_rows] {
                directory.u32(u32::try_from(rows).unwrap_or(u32::MAX));
            }
            live.live.iter().for_each(|&word| directory.u32(word));
        }
        Ok(())
    }

    fn pages<T: Pod>(&mut self, pages: &Pages<T>, directory: &mut Directory) -> io::Result<()> {
        directory.u64(pages.len() as u64);
        directory.u64(self.align()?);
        let mut left = pages.len();
        for page in pages.chunks() {
            if page.len() != left.min(PAGE) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a page of the present index file is damaged"));
            }
            left -= page.len();
            let bytes = bytemuck::cast_slice(page);
            directory.u32(crc32c::crc32c(bytes));
            self.append(bytes)?;
        }
        Ok(())
    }

    fn finish(mut self, directory: &[u8]) -> io::Result<()> {
        let at = self.section(directory)?;
        let mut trailer = Directory(Vec::with_capacity(TRAILER_BYTES));
        trailer.u64(at);
        trailer.u64(directory.len() as u64);
        trailer.u32(crc32c::crc32c(directory));
        trailer.u32(FORMAT_VERSION);
        trailer.0.extend(MAGIC);
        trailer.u32(crc32c::crc32c(&trailer.0));
        self.append(&trailer.0)
    }
}

#[derive(Default)]
struct Directory(Vec<u8>);

impl Directory {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend(bytes);
    }
}
