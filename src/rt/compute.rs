//! Work that would hold up an executor thread. Three doors, by how long the work lasts:
//!
//! * [`cpu`]: computation of about 100 µs and more (scans, index builds, encoding a large answer). Handed to a thread of
//!   its own; at most as many at once as the machine has cores, the rest wait in order. The hand-over there and back costs
//!   5-20 µs (measured by `rt::http::cost`).
//! * [`short`]: computation surely below that. Runs right here; a name for a decision, so that a reader sees it was one.
//! * [`io`]: blocking file work (fsync, reads that may miss the page cache). Threads of its own, so that a slow disk
//!   never takes the processors away.
//!
//! Work that is under way behind one of these doors, and may use several cores, spreads over threads by [`parallel`]; what is over in
//! milliseconds, over cores that are idle just then, by [`spread`].
//!
//! In the simulation everything runs in place; `cpu` and `io` let other tasks run before and after, because in production
//! others do. Called by `store`, `shard`, `index` and `raft`.

#[cfg(not(madsim))]
mod helpers;
mod parallel;
mod spread;

pub use parallel::parallel;
pub use spread::{Busy, busy, idle_cores, spread};

/// The most blocking file operations at once: enough to keep a deep device queue busy, few enough to bound memory.
#[cfg(not(madsim))]
const IO_THREADS_MAX: usize = 64;

/// Runs `work` on a thread for computation and returns what it returns. If the caller is dropped while it waits for
/// its turn, `work` never runs; once it has begun it runs to its end. A panic in `work` goes on in the caller.
pub async fn cpu<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    source::cpu(work).await
}

/// Runs blocking file work on a thread that may wait, with the same rules as [`cpu`].
pub async fn io<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    source::io(work).await
}

/// Runs `turn` on one thread of those of [`io`], again and again until it says that nothing is left. In the simulation each turn
/// is an operation of its own, so that whatever happens between two of them in production can happen there.
pub async fn io_turns(turn: impl FnMut() -> bool + Send + 'static) {
    source::io_turns(turn).await;
}

/// Runs `work` here and now: for computation below ~100 µs, where a hand-over would cost more than it saves.
pub fn short<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// How much computation may run at once: the processors this process may use (in the simulation: one).
pub fn cores() -> usize {
    source::cores()
}

/// The most threads that [`cpu`] and [`io`] use together.
#[cfg(not(madsim))]
pub(super) fn threads_max() -> usize {
    cores() + IO_THREADS_MAX
}

#[cfg(not(madsim))]
mod source {
    use std::{panic::resume_unwind, sync::OnceLock, thread::available_parallelism};
    use tokio::sync::Semaphore;

    pub(super) fn cores() -> usize {
        static CORES: OnceLock<usize> = OnceLock::new();
        *CORES.get_or_init(|| available_parallelism().map_or(1, usize::from))
    }

    pub(super) async fn cpu<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        static SLOTS: OnceLock<Semaphore> = OnceLock::new();
        let counted = move || {
            let _computing = super::busy();
            work()
        };
        run(SLOTS.get_or_init(|| Semaphore::new(cores())), counted).await
    }

    pub(super) async fn io<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        static SLOTS: OnceLock<Semaphore> = OnceLock::new();
        run(SLOTS.get_or_init(|| Semaphore::new(super::IO_THREADS_MAX)), work).await
    }

    pub(super) async fn io_turns(mut turn: impl FnMut() -> bool + Send + 'static) {
        io(move || while turn() {}).await;
    }

    async fn run<T, F>(slots: &'static Semaphore, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let slot = slots.acquire().await.expect("invariant: the slots are never closed");
        // The slot goes with the work: a caller that goes away must not make room for more than the machine has.
        let ended = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work()
        })
        .await;
        match ended {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(payload) => resume_unwind(payload),
                // The runtime is stopping and refused the work; this task is about to be dropped as well.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(madsim)]
mod source {
    use crate::rt::{sim, yield_now};

    pub(super) fn cores() -> usize {
        1
    }

    pub(super) async fn cpu<T>(work: impl FnOnce() -> T) -> T {
        yield_now().await;
        let output = work();
        yield_now().await;
        output
    }

    /// A slow disk takes its time before the work begins and before its end is known.
    pub(super) async fn io<T>(work: impl FnOnce() -> T) -> T {
        sim::disk_delay().await;
        let output = cpu(work).await;
        sim::disk_delay().await;
        output
    }

    pub(super) async fn io_turns(mut turn: impl FnMut() -> bool) {
        while io(&mut turn).await {}
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use futures_util::{FutureExt, future::join_all};
    use std::{
        panic::AssertUnwindSafe,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    #[tokio::test]
    async fn results_and_panics_come_back() {
        assert_eq!(cpu(|| 6 * 7).await, 42);
        assert_eq!(io(|| "read").await, "read");
        assert_eq!(short(|| 1), 1);
        let (told, mut turns) = (std::sync::Arc::new(AtomicUsize::new(0)), 0);
        let counts = told.clone();
        io_turns(move || {
            turns += 1;
            counts.store(turns, Ordering::SeqCst);
            turns < 5
        })
        .await;
        assert_eq!(told.load(Ordering::SeqCst), 5);
        let panic = AssertUnwindSafe(cpu(|| panic!("bad vector"))).catch_unwind().await;
        let payload = panic.expect_err("the panic goes on here");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"bad vector"));
    }

    #[tokio::test]
    async fn no_more_runs_at_once_than_there_are_cores() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let jobs = (0..cores() * 4).map(|_| {
            cpu(|| {
                let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
                MOST.fetch_max(running, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
                RUNNING.fetch_sub(1, Ordering::SeqCst);
            })
        });
        join_all(jobs).await;
        let most = MOST.load(Ordering::SeqCst);
        assert!((1..=cores()).contains(&most), "{most} ran at once on {} cores", cores());
    }
}
