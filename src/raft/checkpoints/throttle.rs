//! A node's share for giving checkpoints: how many at once, and how many bytes a second all of them together, so that a replica that is
//! rebuilt does not take the disk and the network from those that serve.

use crate::raft::FetchError;
use crate::rt::time::{self, Instant};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The share of one node; all checkpoints it gives go through it.
#[derive(Debug)]
pub struct Throttle {
    turns: Arc<Semaphore>,
    at_once_max: usize,
    bytes_per_second: Option<NonZeroU64>,
    /// When what was taken so far is paid for.
    paid_at: Mutex<Instant>,
}

/// The right to give one checkpoint, until dropped.
#[derive(Debug)]
pub struct Turn {
    throttle: Arc<Throttle>,
    _turn: OwnedSemaphorePermit,
}

impl Throttle {
    /// At most `at_once_max` checkpoints, and `bytes_per_second` of all of them (`None`: no bound).
    pub fn new(at_once_max: usize, bytes_per_second: Option<NonZeroU64>) -> Arc<Throttle> {
        let at_once_max = at_once_max.clamp(1, Semaphore::MAX_PERMITS);
        let turns = Arc::new(Semaphore::new(at_once_max));
        Arc::new(Throttle { turns, at_once_max, bytes_per_second, paid_at: Mutex::new(Instant::START) })
    }

    /// A turn to give a checkpoint. Take it before the state's view: one that waits for its turn would hold the view open.
    ///
    /// # Errors
    /// `Refused` if too many are under way; the taker tries again later.
    pub fn begin(self: &Arc<Self>) -> Result<Turn, FetchError> {
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            return Err(FetchError::Refused(format!("{} checkpoints are under way already", self.at_once_max)));
        };
        Ok(Turn { throttle: self.clone(), _turn: turn })
    }

    /// Takes `bytes` off the share and says how long to wait before they may go.
    fn wait_for(&self, bytes: usize) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let cost_nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate.get());
        let cost = Duration::from_nanos(u64::try_from(cost_nanos).unwrap_or(u64::MAX));
        let now = time::now();
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_at = (*paid_at).max(now);
        *paid_at = goes_at + cost;
        goes_at - now
    }
}

impl Turn {
    /// Waits until `bytes` more may go.
    pub(super) async fn take_bytes(&self, bytes: usize) {
        let wait = self.throttle.wait_for(bytes);
        if !wait.is_zero() {
            time::sleep(wait).await;
        }
    }
}
