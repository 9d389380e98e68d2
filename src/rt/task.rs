//! Concurrent tasks. A [`Task`] is a handle that can be awaited or aborted; dropping it leaves the task running.
//! A panic inside a task never takes the process down by itself: who awaits the handle gets [`TaskFailed`].
//! (In the simulation a panic ends the run: there it is always a bug to report.) Called by every room that runs
//! something beside its caller.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Why a task gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailed {
    /// Its code panicked.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The name it was spawned under.
        name: &'static str,
        /// What the panic said.
        message: String,
    },
    /// It was aborted, or its executor (or simulated node) stopped.
    #[error("task {name} was cancelled")]
    Cancelled {
        /// The name it was spawned under.
        name: &'static str,
    },
}

/// A spawned task: a future of its result. Dropping it detaches, it does not stop the task.
#[derive(Debug)]
pub struct Task<T> {
    name: &'static str,
    handle: tokio::task::JoinHandle<T>,
}

/// Starts `future` beside the caller. `name` appears in errors and logs; it says what runs, not which instance.
/// Cost: one allocation and a queue push (well under 1 µs).
///
/// # Panics
/// Outside the executor: the caller must itself run inside a task or a `block_on`.
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task { name, handle: tokio::spawn(future) }
}

/// Lets every other runnable task go first, once. For long loops that never wait.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

impl<T> Task<T> {
    /// Stops the task at its next await. A task that has already ended is left as it is.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// The name it was spawned under.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskFailed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle).poll(cx).map(|ended| ended.map_err(|error| failure(name, error)))
    }
}

#[cfg(not(madsim))]
fn failure(name: &'static str, error: tokio::task::JoinError) -> TaskFailed {
    match error.try_into_panic() {
        Ok(payload) => TaskFailed::Panicked { name, message: panic_message(&*payload) },
        Err(_) => TaskFailed::Cancelled { name },
    }
}

#[cfg(madsim)]
fn failure(name: &'static str, error: tokio::task::JoinError) -> TaskFailed {
    if error.is_panic() {
        TaskFailed::Panicked { name, message: error.to_string() }
    } else {
        TaskFailed::Cancelled { name }
    }
}

/// The text of a panic's payload: `panic!` carries a `&str` or a `String`, anything else has no text.
#[cfg(not(madsim))]
fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_result_a_panic_and_an_abort_are_told_apart() {
        assert_eq!(spawn("sum", async { 1 + 1 }).await, Ok(2));

        let failed = spawn("boom", async { panic!("at {}", 7) }).await;
        assert_eq!(failed, Err(TaskFailed::Panicked { name: "boom", message: "at 7".to_owned() }));

        let endless = spawn("endless", std::future::pending::<()>());
        endless.abort();
        assert_eq!(endless.await, Err(TaskFailed::Cancelled { name: "endless" }));
    }

    #[tokio::test]
    async fn dropping_the_handle_leaves_the_task_running() {
        let (tx, rx) = tokio::sync::oneshot::channel();
        drop(spawn("detached", async move {
            yield_now().await;
            tx.send(5).expect("the receiver waits");
        }));
        assert_eq!(rx.await, Ok(5));
    }
}
