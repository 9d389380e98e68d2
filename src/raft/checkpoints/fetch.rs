//! Taking a checkpoint from another node into a file. The stream is not trusted: its parts must come in order, within bounds, and add
//! up to what its end says. A stream that breaks is followed by another that goes on behind the last whole chunk, if the giver still
//! has that checkpoint; otherwise it begins anew.

use super::files::{self, FoundPartial};
use super::partials::Partials;
use crate::raft::{
    CHUNK_BYTES_MAX, CheckpointHead, CheckpointPart, CheckpointPlace, CheckpointStream, CheckpointWanted, FetchError,
    GroupId, LogIndex, NodeId, Transport,
};
use crate::rt::{self, compute, time};
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
    /// How often a stream that broke is followed by another at once, if none of them brings anything.
    pub tries: u32,
    /// How long before each of them.
    pub try_after: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        FetchLimits {
            bytes_max: 1 << 40,
            members_bytes_max: 64 << 10,
            part_timeout: Duration::from_secs(10),
            tries: 3,
            try_after: Duration::from_millis(500),
        }
    }
}

/// What is to be fetched.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub from: NodeId,
    pub group: GroupId,
    /// The state at this index or later.
    pub at_least: LogIndex,
    /// One of which the beginning lies here is good enough from this index on.
    pub partial_at_least: LogIndex,
}

/// A checkpoint that came whole and survives a power loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub head: CheckpointHead,
    pub path: PathBuf,
}

/// Fetches a state from a node into a file in `dir`, which must exist. Goes on with what `partials` have of it. Dropping the future ends
/// the fetch; what has come is then found at the next start.
///
/// # Errors
/// [`FetchError`]; no file is left but what can be gone on with, which `partials` know.
pub async fn fetch(
    transport: &dyn Transport,
    dir: &Path,
    wanted: Wanted,
    partials: &Partials,
    limits: &FetchLimits,
) -> Result<Fetched, FetchError> {
    let mut receiving = left(dir, &wanted, partials).await;
    let (mut tries, mut had) = (limits.tries, 0);
    loop {
        let error = match receive(transport, dir, &wanted, &mut receiving, limits).await {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        let Some(begun) = receiving.take() else { return Err(error) };
        if begun.chunks > had {
            tries = limits.tries;
        }
        if tries == 0 {
            begun.keep(wanted.group, partials).await;
            return Err(error);
        }
        had = had.max(begun.chunks);
        tries -= 1;
        tracing::info!(group = wanted.group, %error, chunks = begun.chunks, "the fetch of a checkpoint broke and is tried again");
        receiving = Some(begun);
        time::sleep(limits.try_after).await;
    }
}

/// What an earlier fetch left, if it is of use; else its file is removed.
async fn left(dir: &Path, wanted: &Wanted, partials: &Partials) -> Option<Receiving> {
    let found = partials.take(wanted.group)?;
    let (dir, at_least) = (dir.to_path_buf(), wanted.partial_at_least);
    compute::io(move || {
        if found.index < at_least {
            return remove(&found);
        }
        match Receiving::open(&dir, &found) {
            Ok(Some(receiving)) => Some(receiving),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "the beginning of a checkpoint is of no use");
                remove(&found)
            }
        }
    })
    .await
}

fn remove(found: &FoundPartial) -> Option<Receiving> {
    if let Err(error) = files::remove(&found.path) {
        tracing::warn!(%error, "the beginning of a checkpoint could not be removed; the next start does it");
    }
    None
}

/// Takes one stream. If it breaks where another may go on, what has come is in `receiving` afterwards.
async fn receive(
    transport: &dyn Transport,
    dir: &Path,
    wanted: &Wanted,
    receiving: &mut Option<Receiving>,
    limits: &FetchLimits,
) -> Result<Fetched, FetchError> {
    let asked = CheckpointWanted { at_least: wanted.at_least, goes_on: receiving.as_ref().map(Receiving::place) };
    let begun = time::timeout(limits.part_timeout, transport.fetch_checkpoint(wanted.from, wanted.group, asked)).await;
    let mut parts = begun.map_err(stalled)??;
    let (head, place) = match next_part(parts.as_mut(), limits).await? {
        CheckpointPart::Head(head, place) => (head, place),
        part => {
            discard(receiving.take()).await;
            return Err(damaged(format!("the head was expected first, got {}", name(&part))));
        }
    };
    let mut file = match receiving.take() {
        Some(begun) if place.chunks > 0 && begun.place() == place && begun.head == head => {
            rt::mark("a checkpoint went on where it broke");
            tracing::info!(group = wanted.group, index = head.index, chunks = place.chunks, "a checkpoint goes on");
            begun
        }
        other => {
            discard(other).await;
            if place.chunks > 0 {
                return Err(damaged("it goes on with what is not here".to_owned()));
            }
            check_head(&head, wanted.at_least, limits)?;
            Receiving::create(dir, wanted.group, head, place.id).await?
        }
    };
    loop {
        match next_part(parts.as_mut(), limits).await {
            Ok(CheckpointPart::Chunk(chunk)) => file = file.append(chunk, limits).await?,
            Ok(CheckpointPart::End { chunks, hash }) => return file.finish(dir, wanted.group, chunks, hash).await,
            Ok(CheckpointPart::Head(..)) => {
                discard(Some(file)).await;
                return Err(damaged("a second head".to_owned()));
            }
            Err(error) => {
                let may_go_on = file.id != 0 && file.chunks > 0 && matches!(error, FetchError::Unreachable(_));
                if may_go_on {
                    *receiving = Some(file);
                } else {
                    discard(Some(file)).await;
                }
                return Err(error);
            }
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
    head: CheckpointHead,
    /// What the giver calls it; 0 if it cannot be gone on with.
    id: u64,
    writer: BlockWriter,
    hash: Xxh3,
    chunks: u64,
    bytes: u64,
}

impl Receiving {
    async fn create(dir: &Path, group: GroupId, head: CheckpointHead, id: u64) -> Result<Receiving, FetchError> {
        let path = files::path_of(dir, group, head.index);
        compute::io(move || {
            let writer = match id {
                0 => files::create(&path, group, &head),
                _ => files::create_partial(&path, group, &head, id),
            };
            Ok(Receiving { head, id, writer: writer.map_err(disk)?, hash: Xxh3::new(), chunks: 0, bytes: 0 })
        })
        .await
    }

    /// Reads what an earlier fetch left; `None` if there is not one whole chunk. Blocking.
    fn open(dir: &Path, found: &FoundPartial) -> Result<Option<Receiving>, StoreError> {
        let (mut hash, mut chunks, mut bytes) = (Xxh3::new(), 0, 0);
        let resumed = files::resume(dir, found, |chunk| {
            hash.update(chunk);
            chunks += 1;
            bytes += chunk.len() as u64;
        })?;
        let Some((head, writer)) = resumed else { return Ok(None) };
        if chunks == 0 {
            writer.discard();
            return Ok(None);
        }
        Ok(Some(Receiving { head, id: found.id, writer, hash, chunks, bytes }))
    }

    fn place(&self) -> CheckpointPlace {
        CheckpointPlace { id: self.id, chunks: self.chunks }
    }

    /// An error leaves nothing of the file.
    async fn append(mut self, chunk: Bytes, limits: &FetchLimits) -> Result<Receiving, FetchError> {
        // An empty chunk would count nothing against the bound on bytes.
        let problem = if chunk.is_empty() || chunk.len() > CHUNK_BYTES_MAX {
            Some(format!("a chunk of {} bytes, expected 1 to {CHUNK_BYTES_MAX}", chunk.len()))
        } else {
            let is_too_much = self.bytes + chunk.len() as u64 > limits.bytes_max;
            is_too_much.then(|| format!("more than {} bytes", limits.bytes_max))
        };
        if let Some(problem) = problem {
            discard(Some(self)).await;
            return Err(damaged(problem));
        }
        self.chunks += 1;
        self.bytes += chunk.len() as u64;
        let written = compute::io(move || {
            self.hash.update(&chunk);
            match self.writer.append(&chunk) {
                Ok(()) => Ok(self),
                Err(error) => {
                    self.writer.discard();
                    Err(error)
                }
            }
        });
        written.await.map_err(disk)
    }

    /// Gives the file its name, if what came is what was sent; else nothing of it is left.
    async fn finish(self, dir: &Path, group: GroupId, chunks: u64, hash: u64) -> Result<Fetched, FetchError> {
        let got = self.hash.digest();
        if (self.chunks, got) != (chunks, hash) {
            let own = self.chunks;
            discard(Some(self)).await;
            return Err(damaged(format!("{own} chunks with hash {got:016x}, expected {chunks} with {hash:016x}")));
        }
        let path = files::path_of(dir, group, self.head.index);
        let head = self.head.clone();
        compute::io(move || self.writer.finish()).await.map_err(disk)?;
        Ok(Fetched { head, path })
    }

    /// Leaves the file for the next fetch.
    async fn keep(mut self, group: GroupId, partials: &Partials) {
        let kept = compute::io(move || match self.writer.flush() {
            Ok(()) => {
                Some(FoundPartial { group, index: self.head.index, id: self.id, path: self.writer.temporary().into() })
            }
            Err(_) => {
                self.writer.discard();
                None
            }
        });
        kept.await.into_iter().for_each(|kept| partials.put(kept));
    }
}

/// Removes the file of what came so far.
async fn discard(receiving: Option<Receiving>) {
    if let Some(receiving) = receiving {
        compute::io(move || receiving.writer.discard()).await;
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
        CheckpointPart::Head(..) => "a head",
        CheckpointPart::Chunk(_) => "a chunk",
        CheckpointPart::End { .. } => "the end",
    }
}
