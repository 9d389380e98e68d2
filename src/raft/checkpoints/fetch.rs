//! Taking a checkpoint from another node into a file. The stream is not trusted: its parts must come in order, within bounds, and add
//! up to what its end says.

use super::files;
use crate::raft::{
    CHUNK_BYTES_MAX, CheckpointHead, CheckpointPart, CheckpointStream, FetchError, GroupId, LogIndex, NodeId, Transport,
};
use crate::rt::{compute, time};
use crate::store::StoreError;
use crate::store::blocks::BlockWriter;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// All chunks together.
    pub bytes_max: u64,
    /// The encoded members.
    pub members_bytes_max: usize,
    /// How long the first part, and each one after it, may keep us waiting.
    pub part_timeout: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        FetchLimits { bytes_max: 1 << 40, members_bytes_max: 64 << 10, part_timeout: Duration::from_secs(10) }
    }
}

/// A checkpoint that came whole and survives a power loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub head: CheckpointHead,
    pub path: PathBuf,
}

/// Fetches the state of `group` at `at_least` or later from a node into a file in `dir`, which must exist. Dropping the future
/// ends the fetch and leaves nothing behind.
///
/// # Errors
/// [`FetchError`]; no file is left.
pub async fn fetch(
    transport: &dyn Transport,
    dir: &Path,
    from: NodeId,
    group: GroupId,
    at_least: LogIndex,
    limits: &FetchLimits,
) -> Result<Fetched, FetchError> {
    let begun = time::timeout(limits.part_timeout, transport.fetch_checkpoint(from, group, at_least)).await;
    let mut parts = begun.map_err(stalled)??;
    let head = match next_part(parts.as_mut(), limits).await? {
        CheckpointPart::Head(head) => head,
        part => return Err(damaged(format!("the head was expected first, got {}", name(&part)))),
    };
    check_head(&head, at_least, limits)?;
    let path = files::path_of(dir, group, head.index);
    let mut file = Receiving::create(path.clone(), group, head.clone()).await?;
    loop {
        match next_part(parts.as_mut(), limits).await? {
            CheckpointPart::Chunk(chunk) => file = file.append(chunk, limits).await?,
            CheckpointPart::End { chunks, hash } => {
                file.finish(chunks, hash).await?;
                return Ok(Fetched { head, path });
            }
            CheckpointPart::Head(_) => return Err(damaged("a second head".to_owned())),
        }
    }
}

async fn next_part(parts: &mut dyn CheckpointStream, limits: &FetchLimits) -> Result<CheckpointPart, FetchError> {
    let part = time::timeout(limits.part_timeout, parts.next()).await.map_err(stalled)??;
    part.ok_or_else(|| FetchError::Unreachable("the stream ended before the checkpoint did".to_owned()))
}

fn check_head(head: &CheckpointHead, at_least: LogIndex, limits: &FetchLimits) -> Result<(), FetchError> {
    if head.index < at_least {
        return Err(damaged(format!("a state at index {}, expected {at_least} or later", head.index)));
    }
    if head.members.len() > limits.members_bytes_max {
        let (got, limit) = (head.members.len(), limits.members_bytes_max);
        return Err(damaged(format!("members of {got} bytes, expected at most {limit}")));
    }
    Ok(())
}

/// A file on its way to being whole, and what came so far. Goes into the thread that writes and comes back.
struct Receiving {
    writer: BlockWriter,
    hash: Xxh3,
    chunks: u64,
    bytes: u64,
}

impl Receiving {
    async fn create(path: PathBuf, group: GroupId, head: CheckpointHead) -> Result<Receiving, FetchError> {
        let created = compute::io(move || files::create(&path, group, &head)).await;
        Ok(Receiving { writer: created.map_err(disk)?, hash: Xxh3::new(), chunks: 0, bytes: 0 })
    }

    async fn append(mut self, chunk: Bytes, limits: &FetchLimits) -> Result<Receiving, FetchError> {
        // An empty chunk would count nothing against the bound on bytes.
        if chunk.is_empty() || chunk.len() > CHUNK_BYTES_MAX {
            return Err(damaged(format!("a chunk of {} bytes, expected 1 to {CHUNK_BYTES_MAX}", chunk.len())));
        }
        self.chunks += 1;
        self.bytes += chunk.len() as u64;
        if self.bytes > limits.bytes_max {
            return Err(damaged(format!("more than {} bytes", limits.bytes_max)));
        }
        let written = compute::io(move || {
            self.hash.update(&chunk);
            self.writer.append(&chunk).map(|()| self)
        });
        written.await.map_err(disk)
    }

    /// Gives the file its name, if what came is what was sent.
    async fn finish(self, chunks: u64, hash: u64) -> Result<(), FetchError> {
        let got = self.hash.digest();
        if (self.chunks, got) != (chunks, hash) {
            let own = self.chunks;
            return Err(damaged(format!("{own} chunks with hash {got:016x}, expected {chunks} with {hash:016x}")));
        }
        compute::io(move || self.writer.finish()).await.map_err(disk)
    }
}

fn stalled(elapsed: time::Elapsed) -> FetchError {
    FetchError::Unreachable(elapsed.to_string())
}

fn damaged(problem: String) -> FetchError {
    FetchError::Damaged(problem)
}

fn disk(error: StoreError) -> FetchError {
    FetchError::Disk(error.to_string())
}

fn name(part: &CheckpointPart) -> &'static str {
    match part {
        CheckpointPart::Head(_) => "a head",
        CheckpointPart::Chunk(_) => "a chunk",
        CheckpointPart::End { .. } => "the end",
    }
}
