//! Large files written once, front to back, and read the same way: a row of blocks, each under a checksum that knows its place,
//! and an end mark that knows how many there are. A file gets its name only when it is whole and synced; what is torn,
//! changed, reordered or cut short is refused as corrupt. Memory: one block. Used by `raft` (checkpoints on their way).
//!
//! Header, 16 bytes, integers little-endian: magic "VSPB" · kind 4 bytes · format version u32 · CRC-32C of the 12 bytes before it u32.
//! Block: length u32 · CRC-32C of (number u64, length u32, bytes) u32 · bytes. End: 0xFFFF_FFFF u32 · CRC-32C of (blocks u64, 0xFFFF_FFFF
//! u32) u32 · blocks u64.

use super::error::StoreError;
use super::files::{FileKind, TEMPORARY, put_in_place};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"VSPB";
const HEADER_BYTES: usize = 16;
const BLOCK_HEADER_BYTES: usize = 8;
const END_BYTES: usize = 16;
/// Stands for a length in the end mark; no block is so long.
const END: u32 = u32::MAX;
/// Bytes gathered before a write, and read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Unsynced bytes are kept below this: a sync of everything at the end would hold up the syncs of the log for as long as it takes.
const UNSYNCED_BYTES_MAX: u64 = 32 << 20;

/// A file being written. Dropped before [`finish`](BlockWriter::finish), it leaves nothing behind; after a crash its temporary file is
/// left, under a name that ends in `.tmp`.
#[derive(Debug)]
pub struct BlockWriter {
    out: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    blocks: u64,
    unsynced_bytes: u64,
    is_named: bool,
    /// Whether the temporary file is left when this is dropped.
    stays: bool,
}

impl BlockWriter {
    /// Begins a file that will be called `path`. Several writers of one path do not disturb each other; the last to finish stays.
    pub fn create(path: &Path, kind: FileKind) -> Result<BlockWriter, StoreError> {
        let (file, temporary) = create_temporary(path)?;
        let mut writer = BlockWriter::over(file, path, temporary, false);
        writer.write(&header(kind))?;
        Ok(writer)
    }

    /// Begins a file whose beginning stays under the name `temporary` when it is dropped, for [`resume`](BlockWriter::resume). That name is
    /// for one writer alone; what had it is replaced.
    pub fn create_to_stay(path: &Path, temporary: &Path, kind: FileKind) -> Result<BlockWriter, StoreError> {
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary);
        let file = opened.map_err(|e| StoreError::io(temporary, "create", e))?;
        let mut writer = BlockWriter::over(file, path, temporary.to_path_buf(), true);
        writer.write(&header(kind))?;
        Ok(writer)
    }

    /// Goes on with what [`create_to_stay`](BlockWriter::create_to_stay) left, behind the last block that is whole and as it was written:
    /// each up to there is shown to `look`, with its number. What follows is cut off.
    pub fn resume(
        path: &Path,
        temporary: &Path,
        kind: FileKind,
        block_bytes_max: u32,
        mut look: impl FnMut(u64, &[u8]),
    ) -> Result<BlockWriter, StoreError> {
        let Some(mut reader) = BlockReader::open(temporary, kind, block_bytes_max)? else {
            return Err(StoreError::corrupt(temporary, "the file is gone"));
        };
        let (mut blocks, mut length) = (0, HEADER_BYTES as u64);
        loop {
            match reader.next_block() {
                Ok(Some(block)) => {
                    look(blocks, &block);
                    blocks += 1;
                    length += (BLOCK_HEADER_BYTES + block.len()) as u64;
                }
                Ok(None) | Err(StoreError::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let failed = |action, error| StoreError::io(temporary, action, error);
        let mut file = OpenOptions::new().write(true).open(temporary).map_err(|e| failed("open", e))?;
        file.set_len(length).map_err(|e| failed("cut", e))?;
        file.seek(SeekFrom::Start(length)).map_err(|e| failed("seek", e))?;
        let mut writer = BlockWriter::over(file, path, temporary.to_path_buf(), true);
        writer.blocks = blocks;
        Ok(writer)
    }

    fn over(file: File, path: &Path, temporary: PathBuf, stays: bool) -> BlockWriter {
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        BlockWriter { out, path: path.to_path_buf(), temporary, blocks: 0, unsynced_bytes: 0, is_named: false, stays }
    }

    /// Where it lies until it is finished.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// What was begun is of no use: nothing of it is left.
    pub fn discard(mut self) {
        self.stays = false;
    }

    /// Gives the system what is still here, for a file that stays.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.out.flush().map_err(|e| self.failed("write", e))
    }

    /// Adds a block; every [`UNSYNCED_BYTES_MAX`] bytes this includes a sync.
    pub fn append(&mut self, block: &[u8]) -> Result<(), StoreError> {
        let length = u32::try_from(block.len())
            .ok()
            .filter(|length| *length != END)
            .ok_or(StoreError::OutOfBounds { field: "block", got: block.len(), expected: "less than 4 GiB" })?;
        let mut head = [0; BLOCK_HEADER_BYTES];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&block_checksum(self.blocks, length, block).to_le_bytes());
        self.write(&head)?;
        self.write(block)?;
        self.blocks += 1;
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.out.flush().and_then(|()| self.out.get_ref().sync_data()).map_err(|e| self.failed("sync", e))?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    /// Marks the end, syncs, gives the file its name and syncs the directory. When this returns the file survives a power loss.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.write(&end_mark(self.blocks))?;
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(|e| self.failed("sync", e))?;
        // From here on the name may stand for the file even if what follows fails; a stray temporary name is cleared at the next start.
        self.is_named = true;
        put_in_place(&self.temporary, &self.path)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.unsynced_bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| self.failed("write", e))
    }

    fn failed(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::io(&self.temporary, action, error)
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if !self.is_named && !self.stays {
            // Nothing rests on it: what stays is removed at the next start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file being read.
#[derive(Debug)]
pub struct BlockReader {
    input: BufReader<File>,
    path: PathBuf,
    block_bytes_max: u32,
    blocks: u64,
    has_ended: bool,
}

impl BlockReader {
    /// Opens a file written by [`BlockWriter`]; `None` if there is none. A file of another kind or with a bad header is `Corrupt`, one of
    /// a newer version `NewerFormat`. Blocks longer than `block_bytes_max` will be refused.
    pub fn open(path: &Path, kind: FileKind, block_bytes_max: u32) -> Result<Option<BlockReader>, StoreError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(path, "open", error)),
        };
        let input = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut reader = BlockReader { input, path: path.to_path_buf(), block_bytes_max, blocks: 0, has_ended: false };
        let mut found = [0; HEADER_BYTES];
        reader.read_exact(&mut found)?;
        check_header(path, kind, &found)?;
        Ok(Some(reader))
    }

    /// The next block; `None` after the last, and then the file was whole.
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if self.has_ended {
            return Ok(None);
        }
        let mut head = [0; BLOCK_HEADER_BYTES];
        self.read_exact(&mut head)?;
        let (length, checksum) = (word(&head, 0), word(&head, 4));
        if length == END {
            self.check_end(&head)?;
            self.has_ended = true;
            return Ok(None);
        }
        if length > self.block_bytes_max {
            let limit = self.block_bytes_max;
            return Err(self.corrupt(format!("block {} has {length} bytes, expected at most {limit}", self.blocks)));
        }
        let mut block = vec![0; length as usize];
        self.read_exact(&mut block)?;
        if checksum != block_checksum(self.blocks, length, &block) {
            return Err(self.corrupt(format!("the checksum of block {} is wrong", self.blocks)));
        }
        self.blocks += 1;
        Ok(Some(block))
    }

    /// Whether the file ends as one that was finished does. Looks at its last bytes only, and does not move in it.
    pub fn has_end(&mut self) -> Result<bool, StoreError> {
        let failed = |e| StoreError::io(&self.path, "read", e);
        let mut file = self.input.get_ref();
        let at = file.stream_position().map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < (HEADER_BYTES + END_BYTES) as u64 {
            return Ok(false);
        }
        let mut end = [0; END_BYTES];
        file.seek(SeekFrom::Start(length - END_BYTES as u64)).map_err(failed)?;
        file.read_exact(&mut end).map_err(failed)?;
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let blocks = u64::from_le_bytes(end[8..].try_into().expect("eight bytes of the mark"));
        Ok(end == end_mark(blocks))
    }

    fn check_end(&mut self, head: &[u8; BLOCK_HEADER_BYTES]) -> Result<(), StoreError> {
        let mut end = [0; END_BYTES];
        end[..BLOCK_HEADER_BYTES].copy_from_slice(head);
        self.read_exact(&mut end[BLOCK_HEADER_BYTES..])?;
        if end != end_mark(self.blocks) {
            return Err(self.corrupt(format!("the end mark after {} blocks is wrong", self.blocks)));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.corrupt("bytes after the end mark".to_owned())),
            Err(error) => Err(StoreError::io(&self.path, "read", error)),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(format!("it ends after {} whole blocks", self.blocks)),
            _ => StoreError::io(&self.path, "read", error),
        })
    }

    fn corrupt(&self, detail: String) -> StoreError {
        StoreError::corrupt(&self.path, detail)
    }
}

/// A fresh file beside `path` that nobody else writes.
fn create_temporary(path: &Path) -> Result<(File, PathBuf), StoreError> {
    let mut number = 0_u64;
    loop {
        let mut name = OsString::from(path.as_os_str());
        name.push(format!(".{number}{TEMPORARY}"));
        let temporary = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(StoreError::io(&temporary, "create", error)),
        }
    }
}

fn header(kind: FileKind) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&kind.tag);
    header[8..12].copy_from_slice(&kind.version.to_le_bytes());
    let own = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&own.to_le_bytes());
    header
}

fn check_header(path: &Path, kind: FileKind, found: &[u8; HEADER_BYTES]) -> Result<(), StoreError> {
    if found[..4] != *MAGIC || word(found, 12) != crc32c::crc32c(&found[..12]) {
        return Err(StoreError::corrupt(path, "the header is damaged or not of this program"));
    }
    if found[4..8] != kind.tag {
        let (expected, got) = (kind.tag.escape_ascii(), found[4..8].escape_ascii());
        return Err(StoreError::corrupt(path, format!("expected a file of kind {expected}, got {got}")));
    }
    match word(found, 8) {
        version if version > kind.version => {
            Err(StoreError::NewerFormat { path: path.into(), found: version, supported: kind.version })
        }
        _ => Ok(()),
    }
}

fn block_checksum(number: u64, length: u32, block: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&number.to_le_bytes());
    let checksum = crc32c::crc32c_append(checksum, &length.to_le_bytes());
    crc32c::crc32c_append(checksum, block)
}

fn end_mark(blocks: u64) -> [u8; END_BYTES] {
    let mut end = [0; END_BYTES];
    end[..4].copy_from_slice(&END.to_le_bytes());
    end[4..8].copy_from_slice(&block_checksum(blocks, END, b"").to_le_bytes());
    end[8..].copy_from_slice(&blocks.to_le_bytes());
    end
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes of a header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: FileKind = FileKind { tag: *b"TEST", version: 3 };
    const BLOCK_MAX: u32 = 1 << 20;

    fn write(path: &Path, kind: FileKind, blocks: &[Vec<u8>]) {
        let mut writer = BlockWriter::create(path, kind).unwrap();
        for block in blocks {
            writer.append(block).unwrap();
        }
        writer.finish().unwrap();
    }

    fn read(path: &Path) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut reader = BlockReader::open(path, KIND, BLOCK_MAX)?.expect("the file is there");
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block()? {
            blocks.push(block);
        }
        assert!(reader.next_block()?.is_none(), "the end is the end");
        Ok(blocks)
    }

    #[test]
    fn the_format_has_golden_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, KIND, &[b"abc".to_vec()]);
        let expected: &[&[u8]] = &[
            b"VSPBTEST",
            &[3, 0, 0, 0, 61, 23, 252, 39],
            &[3, 0, 0, 0, 133, 61, 36, 189],
            b"abc",
            &[255, 255, 255, 255, 85, 213, 137, 173, 1, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(fs::read(&path).unwrap(), expected.concat());
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_and_writers_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(BlockReader::open(&path, KIND, BLOCK_MAX).unwrap().is_none());
        let mut dropped = BlockWriter::create(&path, KIND).unwrap();
        let mut kept = BlockWriter::create(&path, KIND).unwrap();
        dropped.append(b"dropped").unwrap();
        kept.append(b"kept").unwrap();
        drop(dropped);
        assert!(!path.exists(), "no name before the end");
        kept.finish().unwrap();
        assert_eq!(read(&path).unwrap(), [b"kept".to_vec()]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    /// Wherever it was cut, and whatever byte of it changed: what is gone on with is a beginning of what was written.
    #[test]
    fn a_file_that_stays_is_gone_on_with_behind_its_last_sound_block() {
        let directory = tempfile::tempdir().unwrap();
        let (path, begun) = (directory.path().join("file"), directory.path().join("file.part"));
        let blocks = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let mut writer = BlockWriter::create_to_stay(&path, &begun, KIND).unwrap();
        blocks.iter().for_each(|block| writer.append(block).unwrap());
        drop(writer);
        let bytes = fs::read(&begun).unwrap();
        let ends = [HEADER_BYTES, HEADER_BYTES + 11, HEADER_BYTES + 19, bytes.len()];
        for at in HEADER_BYTES..=bytes.len() {
            for is_cut in [true, false] {
                let mut changed = bytes.clone();
                match changed.get_mut(at).filter(|_| !is_cut) {
                    Some(byte) => *byte ^= 1,
                    None => changed.truncate(at),
                }
                fs::write(&begun, &changed).unwrap();
                let mut seen = Vec::new();
                let look = |number, block: &[u8]| {
                    assert_eq!(number, seen.len() as u64);
                    seen.push(block.to_vec());
                };
                let mut writer = BlockWriter::resume(&path, &begun, KIND, BLOCK_MAX, look).unwrap();
                let sound = ends.iter().filter(|end| **end <= at).count() - 1;
                assert_eq!(seen, blocks[..sound], "changed at {at}");
                blocks[sound..].iter().for_each(|block| writer.append(block).unwrap());
                writer.finish().unwrap();
                assert_eq!(read(&path).unwrap(), blocks);
                assert!(!begun.exists());
                fs::remove_file(&path).unwrap();
            }
        }
        fs::write(&begun, &bytes[..HEADER_BYTES - 1]).unwrap();
        assert!(matches!(
            BlockWriter::resume(&path, &begun, KIND, BLOCK_MAX, |_, _| ()),
            Err(StoreError::Corrupt { .. })
        ));
        BlockWriter::create_to_stay(&path, &begun, KIND).unwrap().discard();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "what is of no use is gone");
    }

    #[test]
    fn whole_files_say_so_and_cut_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, KIND, &[b"one".to_vec(), b"two".to_vec()]);
        let mut reader = BlockReader::open(&path, KIND, BLOCK_MAX).unwrap().unwrap();
        assert_eq!(reader.next_block().unwrap().unwrap(), b"one");
        assert!(reader.has_end().unwrap());
        assert_eq!(reader.next_block().unwrap().unwrap(), b"two", "looking at the end does not move");
        let bytes = fs::read(&path).unwrap();
        for length in HEADER_BYTES..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(!BlockReader::open(&path, KIND, BLOCK_MAX).unwrap().unwrap().has_end().unwrap(), "{length} bytes");
        }
    }

    #[test]
    fn newer_versions_other_kinds_and_long_blocks_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, FileKind { version: 2, ..KIND }, &[]);
        assert_eq!(read(&path).unwrap(), Vec::<Vec<u8>>::new());
        write(&path, FileKind { version: 4, ..KIND }, &[]);
        assert!(matches!(read(&path), Err(StoreError::NewerFormat { found: 4, supported: 3, .. })));
        write(&path, FileKind { tag: *b"OTHR", ..KIND }, &[]);
        assert!(matches!(read(&path), Err(StoreError::Corrupt { .. })));
        write(&path, KIND, &[vec![7; BLOCK_MAX as usize + 1]]);
        assert!(matches!(read(&path), Err(StoreError::Corrupt { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_come_back_and_no_change_goes_unseen(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
            at: prop::sample::Index,
            flip in 1u8..,
            cut: bool,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            write(&path, KIND, &blocks);
            prop_assert_eq!(read(&path).unwrap(), blocks);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            fs::write(&path, &bytes).unwrap();
            prop_assert!(read(&path).is_err());
        }

        #[test]
        fn blocks_cannot_change_places(one in prop::collection::vec(any::<u8>(), 9), two in prop::collection::vec(any::<u8>(), 9)) {
            prop_assume!(one != two);
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            write(&path, KIND, &[one, two]);
            let mut bytes = fs::read(&path).unwrap();
            let block = BLOCK_HEADER_BYTES + 9;
            let (first, second) = bytes[HEADER_BYTES..HEADER_BYTES + 2 * block].split_at_mut(block);
            first.swap_with_slice(second);
            fs::write(&path, &bytes).unwrap();
            prop_assert!(read(&path).is_err());
        }
    }
}
