//! The executor of a production process: a tokio runtime of named threads. Called by `main.rs` and the embedded library;
//! everything below them is `async` and never sees it. In the simulation the runner owns the executor, so building one
//! there is refused.

use std::{future::Future, io, time::Duration};

/// A running set of worker threads. Dropping it stops them without waiting for blocking work.
#[derive(Debug)]
pub struct Runtime {
    #[cfg(not(madsim))]
    inner: tokio::runtime::Runtime,
}

impl Runtime {
    /// Starts `threads` worker threads (at least one) named `vectorsphere-worker`, plus threads for blocking work that
    /// start when [`compute`](super::compute) first needs them.
    ///
    /// # Errors
    /// Whatever the system says when a thread or the poller cannot be made; `Unsupported` in the simulation.
    #[cfg(not(madsim))]
    pub fn new(threads: usize) -> io::Result<Runtime> {
        let inner = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .max_blocking_threads(super::compute::threads_max())
            .thread_name("vectorsphere-worker")
            .enable_all()
            .build()?;
        Ok(Runtime { inner })
    }

    /// See the production build; the simulation's runner owns the only executor.
    #[cfg(madsim)]
    pub fn new(_threads: usize) -> io::Result<Runtime> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated node runs on the simulation's executor"))
    }

    /// Runs `future` on the calling thread, and what it spawns on the workers, until `future` is done. May be called
    /// from several threads at once, but not from inside a task.
    #[cfg(not(madsim))]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.inner.block_on(future)
    }

    /// See the production build.
    #[cfg(madsim)]
    pub fn block_on<F: Future>(&self, _future: F) -> F::Output {
        unreachable!("no Runtime can be built in the simulation")
    }

    /// Stops every task at its next await and waits at most `limit` for blocking work (a running fsync) to end.
    pub fn stop(self, limit: Duration) {
        #[cfg(not(madsim))]
        self.inner.shutdown_timeout(limit);
        #[cfg(madsim)]
        let _ = limit;
    }
}

/// Builds a [`Runtime`], runs `future` to its end and stops, waiting at most 5 s for blocking work.
///
/// # Errors
/// As [`Runtime::new`].
pub fn block_on<F: Future>(threads: usize, future: F) -> io::Result<F::Output> {
    let runtime = Runtime::new(threads)?;
    let output = runtime.block_on(future);
    runtime.stop(Duration::from_secs(5));
    Ok(output)
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_on_named_workers_and_the_result_comes_back() {
        let name = block_on(1, async {
            let task = crate::rt::spawn("test", async { std::thread::current().name().map(str::to_owned) });
            task.await.expect("the task does not fail")
        })
        .expect("a runtime starts");
        assert_eq!(name.as_deref(), Some("vectorsphere-worker"));
    }
}
