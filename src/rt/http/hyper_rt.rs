//! Hyper's view of this room: its timers and its tasks are ours, so that they are simulated with the rest.

use crate::rt::{spawn, time};
use hyper::rt::{Executor, Sleep, Timer};
use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

/// Spawns what hyper wants to run beside a connection (HTTP/2: one task a stream).
#[derive(Clone, Copy, Debug)]
pub(in crate::rt) struct RtExecutor;

impl<F> Executor<F> for RtExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(spawn("http.stream", future));
    }
}

/// Timers by this node's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(in crate::rt) struct RtTimer;

impl Timer for RtTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(TimerSleep(Box::pin(time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

struct TimerSleep(Pin<Box<time::Sleep>>);

impl Sleep for TimerSleep {}

impl Future for TimerSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
