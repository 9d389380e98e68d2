//! The operating system asking the process to stop. Called by `main.rs`, which then triggers the node's shutdown.

/// Waits for SIGINT or SIGTERM. In the simulation it never comes: there the runner stops nodes itself.
///
/// # Errors
/// When the handlers cannot be installed.
#[cfg(not(madsim))]
pub async fn terminated() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// See the production build.
///
/// # Errors
/// None.
#[cfg(madsim)]
pub async fn terminated() -> std::io::Result<()> {
    std::future::pending().await
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::rt::{spawn, time};
    use std::time::Duration;

    #[tokio::test]
    async fn sigterm_is_seen() {
        let waiter = spawn("signal", terminated());
        // The handler is installed by the first poll; without it the signal would end the test process.
        time::sleep(Duration::from_millis(50)).await;
        assert!(!waiter.is_finished());
        // SAFETY: `raise` only delivers a signal to this thread, and tokio's handler for SIGTERM is installed.
        assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
        time::timeout(Duration::from_secs(5), waiter).await.expect("seen").expect("ended well").expect("no i/o error");
    }
}
