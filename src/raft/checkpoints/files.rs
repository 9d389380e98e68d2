//! Checkpoints as files of their directory: how they are named and laid out, which are whole, and how they are read back. The first block
//! of a file is the group and the head, every other one a chunk; the store checks that the blocks are all there and as they were
//! written. All functions block; called by [`fetch`](super::fetch) and the driver on `rt::compute::io`.

use crate::raft::{ApplyError, CHUNK_BYTES_MAX, CheckpointHead, CheckpointReader, GroupId, LogIndex};
use crate::store::StoreError;
use crate::store::blocks::{BlockReader, BlockWriter};
use crate::store::files::{FileKind, TEMPORARY, list, remove_file_synced};
use bytes::Bytes;
use std::path::{Path, PathBuf};

const KIND: FileKind = FileKind { tag: *b"CKPT", version: 1 };
const SUFFIX: &str = ".checkpoint";
/// What a fetch left that broke. Programs that cannot go on with it clear it with all that is temporary.
const PARTIAL: &str = ".part.tmp";
/// Group, index and term in front of the members.
const HEAD_FIXED_BYTES: usize = 24;

const _: () = assert!(CHUNK_BYTES_MAX < u32::MAX as usize, "a chunk fits a block");

/// A whole checkpoint in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCheckpoint {
    pub group: GroupId,
    pub head: CheckpointHead,
    pub path: PathBuf,
}

/// The beginning of a checkpoint in the directory; how much of it is sound, who reads it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPartial {
    pub group: GroupId,
    pub index: LogIndex,
    /// What the giver calls it.
    pub id: u64,
    pub path: PathBuf,
}

/// A checkpoint being read.
#[derive(Debug)]
pub struct OpenedCheckpoint {
    pub group: GroupId,
    pub head: CheckpointHead,
    chunks: BlockReader,
}

impl CheckpointReader for OpenedCheckpoint {
    /// An error if the file is not whole or not as it was written; `None` says that it was.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        Ok(self.chunks.next_block()?.map(Bytes::from))
    }
}

/// Opens a checkpoint to be read from its first chunk.
///
/// # Errors
/// `Corrupt` if the file is damaged, or not there.
pub fn open(path: &Path) -> Result<OpenedCheckpoint, StoreError> {
    let Some(mut blocks) = BlockReader::open(path, KIND, CHUNK_BYTES_MAX as u32)? else {
        return Err(StoreError::corrupt(path, "the checkpoint is gone"));
    };
    let first = blocks.next_block()?;
    let Some((group, head)) = first.as_deref().and_then(decode_head) else {
        return Err(StoreError::corrupt(path, "the checkpoint has no head"));
    };
    Ok(OpenedCheckpoint { group, head, chunks: blocks })
}

/// The whole checkpoints in `dir`, by group and index. Removes what an interrupted fetch left, and what is damaged (a checkpoint is a
/// copy: it is fetched again), but not what can be gone on with: [`partials`]. To be called before the first fetch into `dir`.
///
/// # Errors
/// What the system says, and `NewerFormat` for a file of a newer program; such files are left as they are.
pub fn found(dir: &Path) -> Result<Vec<FoundCheckpoint>, StoreError> {
    let mut whole = Vec::new();
    for path in list(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(TEMPORARY) {
            if partial(&path).is_none() {
                remove(&path)?;
            }
        } else if name.ends_with(SUFFIX) {
            match look(&path) {
                Ok(checkpoint) => whole.push(checkpoint),
                Err(StoreError::Corrupt { detail, .. }) => {
                    tracing::warn!(path = %path.display(), detail, "a damaged checkpoint is removed");
                    remove(&path)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
    whole.sort_by_key(|checkpoint| (checkpoint.group, checkpoint.head.index));
    Ok(whole)
}

/// What broken fetches left in `dir`, by group and index.
///
/// # Errors
/// What the system says.
pub fn partials(dir: &Path) -> Result<Vec<FoundPartial>, StoreError> {
    let mut partials: Vec<_> = list(dir)?.iter().filter_map(|path| partial(path)).collect();
    partials.sort_unstable_by_key(|partial| (partial.group, partial.index, partial.id));
    Ok(partials)
}

fn partial(path: &Path) -> Option<FoundPartial> {
    let name = path.file_name()?.to_str()?.strip_suffix(PARTIAL)?;
    let (place, id) = name.rsplit_once('.')?;
    let (group, index) = place.strip_suffix(SUFFIX)?.split_once('-')?;
    let id = u64::from_str_radix(id, 16).ok()?;
    Some(FoundPartial { group: group.parse().ok()?, index: index.parse().ok()?, id, path: path.to_path_buf() })
}

/// Removes a checkpoint; one that is not there is no error.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    remove_file_synced(path)
}

/// The head of a file that has an end. Its chunks are checked when they are read.
fn look(path: &Path) -> Result<FoundCheckpoint, StoreError> {
    let mut opened = open(path)?;
    if !opened.chunks.has_end()? {
        return Err(StoreError::corrupt(path, "the checkpoint has no end"));
    }
    Ok(FoundCheckpoint { group: opened.group, head: opened.head, path: path.to_path_buf() })
}

/// Where the checkpoint of a group at an index belongs.
pub(super) fn path_of(dir: &Path, group: GroupId, index: LogIndex) -> PathBuf {
    dir.join(format!("{group}-{index}{SUFFIX}"))
}

/// Where the beginning of a checkpoint lies that can be gone on with.
fn partial_path_of(path: &Path, id: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{id:x}{PARTIAL}"));
    PathBuf::from(name)
}

/// Begins a file that can be gone on with.
pub(super) fn create_partial(
    path: &Path,
    group: GroupId,
    head: &CheckpointHead,
    id: u64,
) -> Result<BlockWriter, StoreError> {
    let mut writer = BlockWriter::create_to_stay(path, &partial_path_of(path, id), KIND)?;
    match writer.append(&encode_head(group, head)) {
        Ok(()) => Ok(writer),
        Err(error) => {
            writer.discard();
            Err(error)
        }
    }
}

/// Goes on with what was left; each of its sound chunks is shown to `look`. `None` if not even its head is sound.
pub(super) fn resume(
    dir: &Path,
    partial: &FoundPartial,
    mut look: impl FnMut(&[u8]),
) -> Result<Option<(CheckpointHead, BlockWriter)>, StoreError> {
    let (mut found, path) = (None, path_of(dir, partial.group, partial.index));
    let writer =
        BlockWriter::resume(&path, &partial.path, KIND, CHUNK_BYTES_MAX as u32, |number, block| match number {
            0 => found = decode_head(block),
            _ => look(block),
        })?;
    match found.filter(|(group, head)| (*group, head.index) == (partial.group, partial.index)) {
        Some((_, head)) => Ok(Some((head, writer))),
        None => {
            writer.discard();
            Ok(None)
        }
    }
}

/// Begins a file: chunks are then appended to it.
pub(crate) fn create(path: &Path, group: GroupId, head: &CheckpointHead) -> Result<BlockWriter, StoreError> {
    let mut writer = BlockWriter::create(path, KIND)?;
    writer.append(&encode_head(group, head))?;
    Ok(writer)
}

/// Group, index and term as little-endian u64, then the members.
fn encode_head(group: GroupId, head: &CheckpointHead) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_FIXED_BYTES + head.members.len());
    for number in [group, head.index, head.term] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&head.members);
    bytes
}

fn decode_head(bytes: &[u8]) -> Option<(GroupId, CheckpointHead)> {
    let (fixed, members) = bytes.split_at_checked(HEAD_FIXED_BYTES)?;
    let mut numbers = fixed.chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().expect("eight bytes")));
    let (group, index, term) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some((group, CheckpointHead { index, term, members: Bytes::copy_from_slice(members) }))
}
