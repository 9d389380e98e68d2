//! Giving a checkpoint to another node: the parts of one state, read as fast as the taker takes them and the node's share allows. The
//! last chunks that went out stay at hand, so that a stream that broke can be followed by one that goes on where the taker is.

use super::shelf::{Kept, Shelf};
use super::throttle::Turn;
use crate::raft::{
    CHUNK_BYTES_MAX, Checkpoint, CheckpointHead, CheckpointPart, CheckpointPlace, CheckpointStream, FetchError, GroupId,
};
use crate::rt::compute;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of chunks that went out and may not have come. More than are ever on their way: the streams' windows hold a few chunks.
const RECENT_BYTES_MAX: usize = 8 << 20;

/// The parts of `checkpoint`, which the shelf keeps for a while if the taker does not take them all. The turn ends when the
/// stream is dropped.
///
/// # Panics
/// If the head is about another index than the checkpoint: who installed that would lose writes.
pub fn serve(
    shelf: &Arc<Shelf>,
    group: GroupId,
    head: CheckpointHead,
    checkpoint: Box<dyn Checkpoint>,
    turn: Turn,
) -> Box<dyn CheckpointStream> {
    assert_eq!(head.index, checkpoint.index(), "invariant: the head is about this state");
    let giving = Arc::new(Mutex::new(Giving::new(checkpoint)));
    let id = shelf.put(Kept::new(group, head.clone(), giving.clone()));
    Box::new(Served::new(shelf, head, giving, CheckpointPlace { id, chunks: 0 }, 0, turn))
}

/// The parts of what the shelf keeps from where the taker is on; whoever was given it before is given nothing more.
///
/// # Errors
/// The turn, if the giver has not kept what the taker lacks.
pub async fn go_on(
    shelf: &Arc<Shelf>,
    kept: Kept,
    place: CheckpointPlace,
    turn: Turn,
) -> Result<Box<dyn CheckpointStream>, Turn> {
    let giving = kept.giving.clone();
    let Some(reader) = compute::io(move || lock(&giving).new_reader(place.chunks)).await else { return Err(turn) };
    shelf.taken(place.id, reader);
    Ok(Box::new(Served::new(shelf, kept.head, kept.giving, place, reader, turn)))
}

struct Served {
    head: Option<CheckpointHead>,
    giving: Arc<Mutex<Giving>>,
    /// What is next.
    place: CheckpointPlace,
    reader: u64,
    turn: Turn,
    shelf: Weak<Shelf>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Parts,
    /// The end was given; that it was taken is not known.
    Ended,
    /// Nothing more comes, now or later.
    Over,
}

impl Served {
    fn new(
        shelf: &Arc<Shelf>,
        head: CheckpointHead,
        giving: Arc<Mutex<Giving>>,
        place: CheckpointPlace,
        reader: u64,
        turn: Turn,
    ) -> Served {
        Served { head: Some(head), giving, place, reader, turn, shelf: Arc::downgrade(shelf), state: State::Parts }
    }

    async fn next_part(&mut self) -> Result<Option<CheckpointPart>, FetchError> {
        if self.state != State::Parts {
            self.over();
            return Ok(None);
        }
        if let Some(head) = self.head.take() {
            return Ok(Some(CheckpointPart::Head(head, self.place)));
        }
        let (giving, at, reader) = (self.giving.clone(), self.place.chunks, self.reader);
        let part = compute::io(move || lock(&giving).part(at, reader)).await.inspect_err(|_| self.over())?;
        match &part {
            CheckpointPart::Chunk(chunk) => {
                self.turn.take_bytes(chunk.len()).await;
                self.place.chunks += 1;
            }
            _ => self.state = State::Ended,
        }
        Ok(Some(part))
    }

    /// It is of no use any more.
    fn over(&mut self) {
        self.state = State::Over;
        // Without a shelf the node's groups have ended.
        self.shelf.upgrade().iter().for_each(|shelf| shelf.remove(self.place.id, self.reader));
    }
}

impl CheckpointStream for Served {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        self.next_part().boxed()
    }
}

/// A state that is given out, up to where it has come. Shared with the thread that reads: a stream that is dropped half-way loses nothing.
pub(super) struct Giving {
    /// `None` after its end or an error.
    checkpoint: Option<Box<dyn Checkpoint>>,
    hash: Xxh3,
    chunks: u64,
    /// The last of them.
    recent: VecDeque<Bytes>,
    recent_bytes: usize,
    has_failed: bool,
    /// Who may read: the last stream.
    reader: u64,
}

impl Giving {
    fn new(checkpoint: Box<dyn Checkpoint>) -> Giving {
        let (recent, checkpoint) = (VecDeque::new(), Some(checkpoint));
        Giving { checkpoint, hash: Xxh3::new(), chunks: 0, recent, recent_bytes: 0, has_failed: false, reader: 0 }
    }

    /// Another stream reads from there on; `None` if that is not kept.
    fn new_reader(&mut self, at: u64) -> Option<u64> {
        let kept = self.chunks - self.recent.len() as u64..=self.chunks;
        if self.has_failed || !kept.contains(&at) {
            return None;
        }
        self.reader += 1;
        Some(self.reader)
    }

    /// What comes after so many chunks.
    fn part(&mut self, at: u64, reader: u64) -> Result<CheckpointPart, FetchError> {
        if reader != self.reader {
            return Err(refused("another stream goes on with it"));
        }
        if at < self.chunks {
            let back = usize::try_from(self.chunks - at).unwrap_or(usize::MAX);
            let chunk = self.recent.len().checked_sub(back).and_then(|index| self.recent.get(index)).cloned();
            return chunk.map(CheckpointPart::Chunk).ok_or_else(|| refused("what comes next is not kept any more"));
        }
        let chunk = self.next_chunk().inspect_err(|_| {
            self.has_failed = true;
            self.checkpoint = None;
        })?;
        Ok(chunk.map_or_else(
            || CheckpointPart::End { chunks: self.chunks, hash: self.hash.digest() },
            CheckpointPart::Chunk,
        ))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.has_failed {
            return Err(refused("it failed"));
        }
        while let Some(checkpoint) = &mut self.checkpoint {
            let chunk = checkpoint.next_chunk().map_err(|error| FetchError::Refused(error.to_string()))?;
            let Some(chunk) = chunk else {
                self.checkpoint = None;
                break;
            };
            if chunk.len() > CHUNK_BYTES_MAX {
                let got = chunk.len();
                return Err(FetchError::Refused(format!("a chunk of {got} bytes, expected at most {CHUNK_BYTES_MAX}")));
            }
            // The taker refuses empty chunks.
            if !chunk.is_empty() {
                self.gave(&chunk);
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    fn gave(&mut self, chunk: &Bytes) {
        self.hash.update(chunk);
        self.chunks += 1;
        self.recent_bytes += chunk.len();
        self.recent.push_back(chunk.clone());
        while self.recent_bytes > RECENT_BYTES_MAX {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |first| first.len());
        }
    }
}

fn lock(giving: &Mutex<Giving>) -> MutexGuard<'_, Giving> {
    giving.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(why: &str) -> FetchError {
    FetchError::Refused(why.to_owned())
}
