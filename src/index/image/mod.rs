//! The index file of a shard: its points and the posting lists of its vectors, laid out so that opening is mapping. Nothing is
//! read in row by row: the directory is verified at once (it is small), lists and pages by their checksums when first used.
//! Called by `shard`, which writes and maps the file.
//!
//! Layout, little-endian, every section at a multiple of 64: a head of 64 bytes (`VSIX`, version, zeros); of each vector the hot
//! arrays of all lists (ordinals, code blocks or f32 rows), then the warm ones (int8 rows); pages (512 numbers and a CRC-32C each)
//! of locations, ids, versions, live bits, the id table; the directory: where all this is, the quantizers, of each list its
//! checksum, inherited error (f32), sum of squared residuals (f64), rows of when it could not be parted, rows changed (u32 each) and
//! live bits; a trailer of 32 bytes: offset and length of the directory (u64), its CRC-32C, version, `VSIX`, CRC-32C of the 28
//! bytes before. The trailer is last, so a file cut short has none.

mod read;
mod write;

pub use read::{Image, SavedIndex};
pub use write::write_image;

const MAGIC: [u8; 4] = *b"VSIX";
const HEAD_BYTES: usize = 64;
const TRAILER_BYTES: usize = 32;

/// The first bytes of a file.
fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&MAGIC);
    head[4..8].copy_from_slice(&super::file::FORMAT_VERSION.to_le_bytes());
    head
}
