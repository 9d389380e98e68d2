//! Whole small files that are either the old or the new version after a crash, never a mixture: index files, the node's
//! identity, the format marker. Written to a temporary name, synced, renamed, and the directory synced (the order of
//! Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). Every file starts with a header that names its kind
//! and version and protects its content. Used by `store::directory` and `shard` (index files).
//!
//! Header, 32 bytes, integers little-endian: magic "VSPH" · kind 4 bytes · format version u32 · 0 u32 · content length
//! u64 · CRC-32C of the content u32 · CRC-32C of the 28 bytes before it u32.

use super::error::StoreError;
use crate::mutants::mutant;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes gathered before a write of [`write_synced_with`].
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// How the names of unfinished files end.
pub const TEMPORARY: &str = ".tmp";

const MAGIC: &[u8; 4] = b"VSPH";
/// Length of the header in front of the content.
pub const HEADER_BYTES: usize = 32;

/// What a file is and how its content is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// Four letters, unique in the program.
    pub tag: [u8; 4],
    /// Version of the content's format: written to new files, and the newest this program reads.
    pub version: u32,
}

/// Writes `content` to `path` so that after a crash at any moment the file is the old one (or absent) or the new one.
/// Replaces what was there. Two writers of the same path must not run at once. Costs two syncs.
pub fn write_file_synced(path: &Path, kind: FileKind, content: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary_path(path);
    write_new(&temporary, &header(kind, content), content).map_err(|e| StoreError::io(&temporary, "write", e))?;
    put_in_place(&temporary, path)
}

/// Reads a file written by [`write_file_synced`]; `None` if there is none. Refuses a file of another kind or with bad
/// bytes (`Corrupt`) and one of a newer version (`NewerFormat`). Returns the version found and the content.
pub fn read_file(path: &Path, kind: FileKind) -> Result<Option<(u32, Vec<u8>)>, StoreError> {
    let mut bytes = match File::open(path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| StoreError::io(path, "read", e))?;
            bytes
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(path, "open", error)),
    };
    let version = check(path, kind, &bytes)?;
    bytes.drain(..HEADER_BYTES);
    Ok(Some((version, bytes)))
}

/// Writes a file that has a format of its own as [`write_file_synced`] does: `write` gives the bytes. An error of `write` leaves the
/// old file, or none.
pub fn write_synced_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), StoreError> {
    let temporary = temporary_path(path);
    let written = create(&temporary).and_then(|file| {
        let mut out = io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    written.map_err(|e| StoreError::io(&temporary, "write", e))?;
    put_in_place(&temporary, path)
}

/// Gives the synced file `temporary` its name and makes that survive a power loss.
pub(super) fn put_in_place(temporary: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(temporary, path).map_err(|e| StoreError::io(path, "rename into place", e))?;
    if mutant!(10) {
        return Ok(());
    }
    sync_directory(parent(path))
}

/// Maps a file into memory; `None` if there is none. The file must be one of those written here, which are never changed once they
/// have their name, only replaced and removed, in a directory that this process has locked: mapped pages stay as they are.
pub fn map_file(path: &Path) -> Result<Option<memmap2::Mmap>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(path, "open", error)),
    };
    // SAFETY: undefined behaviour needs someone to change or shorten the file while it is mapped. This process holds the lock of the
    // data directory, writes files under a temporary name and never again once renamed; a removed file lives on while mapped.
    let map = unsafe { memmap2::Mmap::map(&file) };
    map.map(Some).map_err(|e| StoreError::io(path, "map", e))
}

/// Removes a file and syncs its directory; an absent file is not an error.
pub fn remove_file_synced(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io(path, "remove", error)),
    }
}

/// The files in a directory, sorted by name; subdirectories are left out.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |error| StoreError::io(directory, "list", error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Makes the names in `directory` (created, renamed, removed) survive a power loss.
pub fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|e| StoreError::io(directory, "sync", e))
}

/// The directory `path` is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where `path` is written before it is renamed; one left by a crash is overwritten by the next write.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(TEMPORARY);
    name.into()
}

fn write_new(path: &Path, header: &[u8], content: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(header)?;
    file.write_all(content)?;
    file.sync_all()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn header(kind: FileKind, content: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&kind.tag);
    header[8..12].copy_from_slice(&kind.version.to_le_bytes());
    header[16..24].copy_from_slice(&(content.len() as u64).to_le_bytes());
    header[24..28].copy_from_slice(&crc32c::crc32c(content).to_le_bytes());
    let own = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&own.to_le_bytes());
    header
}

/// Verifies header and content; the version found.
fn check(path: &Path, kind: FileKind, bytes: &[u8]) -> Result<u32, StoreError> {
    let corrupt = |detail: String| Err(StoreError::corrupt(path, detail));
    let Some((header, content)) = bytes.split_at_checked(HEADER_BYTES) else {
        return corrupt(format!("expected at least {HEADER_BYTES} bytes, got {}", bytes.len()));
    };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes of the header"));
    let length = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes of the header"));
    let checksums_count = !mutant!(11);
    if header[..4] != *MAGIC || (checksums_count && word(28) != crc32c::crc32c(&header[..28])) {
        return corrupt("the header is damaged or not of this program".into());
    }
    if header[4..8] != kind.tag {
        let (expected, got) = (kind.tag.escape_ascii(), header[4..8].escape_ascii());
        return corrupt(format!("expected a file of kind {expected}, got {got}"));
    }
    let version = word(8);
    if version > kind.version {
        return Err(StoreError::NewerFormat { path: path.into(), found: version, supported: kind.version });
    }
    if length != content.len() as u64 {
        return corrupt(format!("expected {length} bytes of content, got {}", content.len()));
    }
    if checksums_count && word(24) != crc32c::crc32c(content) {
        return corrupt("the checksum of the content is wrong".into());
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: FileKind = FileKind { tag: *b"TEST", version: 3 };

    #[test]
    fn a_file_round_trips_and_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read_file(&path, KIND).unwrap(), None);
        write_file_synced(&path, KIND, b"one").unwrap();
        write_file_synced(&path, KIND, b"").unwrap();
        assert_eq!(read_file(&path, KIND).unwrap(), Some((3, Vec::new())));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the temporary file is gone");
        remove_file_synced(&path).unwrap();
        remove_file_synced(&path).unwrap();
        assert_eq!(read_file(&path, KIND).unwrap(), None);
    }

    #[test]
    fn the_header_has_golden_bytes() {
        let expected: [u8; HEADER_BYTES] = [
            b'V', b'S', b'P', b'H', b'T', b'E', b'S', b'T', 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0xb7, 0x3f,
            0x4b, 0x36, 0x31, 0x8c, 0x2e, 0x4a,
        ];
        assert_eq!(header(KIND, b"abc"), expected);
    }

    #[test]
    fn older_versions_are_read_and_newer_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_file_synced(&path, FileKind { version: 2, ..KIND }, b"x").unwrap();
        assert_eq!(read_file(&path, KIND).unwrap(), Some((2, b"x".to_vec())));
        write_file_synced(&path, FileKind { version: 4, ..KIND }, b"x").unwrap();
        let refused = read_file(&path, KIND).unwrap_err();
        assert!(matches!(refused, StoreError::NewerFormat { found: 4, supported: 3, .. }), "{refused}");
        write_file_synced(&path, FileKind { tag: *b"OTHR", ..KIND }, b"x").unwrap();
        assert!(matches!(read_file(&path, KIND), Err(StoreError::Corrupt { .. })));
    }

    proptest! {
        #[test]
        fn no_changed_or_missing_byte_goes_unseen(content: Vec<u8>, at: prop::sample::Index, flip in 1u8.., cut: bool) {
            let mut bytes = header(KIND, &content).to_vec();
            bytes.extend_from_slice(&content);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            prop_assert!(check(Path::new("file"), KIND, &bytes).is_err());
        }
    }
}
