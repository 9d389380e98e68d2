//! Giving a checkpoint to another node: the parts of one state, read as fast as the taker takes them and the node's share allows.

use super::throttle::Turn;
use crate::raft::{CHUNK_BYTES_MAX, Checkpoint, CheckpointHead, CheckpointPart, CheckpointStream, FetchError};
use crate::rt::compute;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use xxhash_rust::xxh3::Xxh3;

/// The parts of `checkpoint`. The turn ends when the stream is dropped.
///
/// # Panics
/// If the head is about another index than the checkpoint: who installed that would lose writes.
pub fn serve(head: CheckpointHead, checkpoint: Box<dyn Checkpoint>, turn: Turn) -> Box<dyn CheckpointStream> {
    assert_eq!(head.index, checkpoint.index(), "invariant: the head is about this state");
    let giving = Giving { checkpoint, hash: Xxh3::new(), chunks: 0 };
    Box::new(Served { state: State::Head(head, giving), turn })
}

struct Served {
    state: State,
    turn: Turn,
}

enum State {
    Head(CheckpointHead, Giving),
    Chunks(Giving),
    /// The end was given, or an error, or a call was dropped half-way: nothing more comes.
    Over,
}

/// What is left to give. Goes into the thread that reads and comes back.
struct Giving {
    checkpoint: Box<dyn Checkpoint>,
    hash: Xxh3,
    chunks: u64,
}

impl CheckpointStream for Served {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        async move {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Head(head, giving) => {
                    self.state = State::Chunks(giving);
                    Ok(Some(CheckpointPart::Head(head)))
                }
                State::Chunks(giving) => {
                    let (giving, part) = compute::io(move || giving.next_part()).await?;
                    if let CheckpointPart::Chunk(chunk) = &part {
                        self.turn.take_bytes(chunk.len()).await;
                        self.state = State::Chunks(giving);
                    }
                    Ok(Some(part))
                }
                State::Over => Ok(None),
            }
        }
        .boxed()
    }
}

impl Giving {
    fn next_part(mut self) -> Result<(Giving, CheckpointPart), FetchError> {
        loop {
            let chunk = self.checkpoint.next_chunk().map_err(|error| FetchError::Refused(error.to_string()))?;
            let Some(chunk) = chunk else {
                let end = CheckpointPart::End { chunks: self.chunks, hash: self.hash.digest() };
                return Ok((self, end));
            };
            if chunk.len() > CHUNK_BYTES_MAX {
                let got = chunk.len();
                return Err(FetchError::Refused(format!("a chunk of {got} bytes, expected at most {CHUNK_BYTES_MAX}")));
            }
            // The taker refuses empty chunks.
            if !chunk.is_empty() {
                self.hash.update(&chunk);
                self.chunks += 1;
                return Ok((self, CheckpointPart::Chunk(chunk)));
            }
        }
    }
}
