//! Standard input, line by line, without a thread: a thread that waits for a line that never comes would keep the process from
//! ending. Called by commands that a person talks to while they run.

use std::io;

/// Longer lines are cut off: nobody types them.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The lines of standard input. One object a process.
#[derive(Debug)]
pub struct Lines {
    source: source::Source,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// Opens standard input.
    ///
    /// # Errors
    /// When the system cannot watch it.
    pub fn open() -> io::Result<Lines> {
        Ok(Lines { source: source::Source::open()?, buffer: Vec::new(), ended: false })
    }

    /// The next line without its end; `None` once it has ended. Safe to drop while it waits: nothing is lost.
    ///
    /// # Errors
    /// What the system says.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(text(&line)));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.buffer);
                return Ok((!rest.is_empty()).then(|| text(&rest)));
            }
            let bytes = self.source.read().await?;
            self.ended = bytes.is_empty();
            self.buffer.extend_from_slice(&bytes);
            self.buffer.truncate(LINE_BYTES_MAX);
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(not(madsim))]
mod source {
    use std::io::{self, Read};
    use tokio::io::unix::AsyncFd;

    /// No less than the buffer inside the standard library's own handle, which it then passes by.
    const READ_BYTES: usize = 16 * 1024;

    /// Watched where the system can (terminals, pipes); a file is always ready.
    #[derive(Debug)]
    pub(super) struct Source(Option<AsyncFd<i32>>);

    impl Source {
        pub(super) fn open() -> io::Result<Source> {
            let interest = tokio::io::Interest::READABLE;
            // SAFETY: standard input stays open, and the same, for as long as the process lives: nothing in it closes it.
            let watched = unsafe { AsyncFd::register_with_interest(libc::STDIN_FILENO, interest) };
            match watched.map_err(io::Error::from) {
                Ok(watched) => Ok(Source(Some(watched))),
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Source(None)),
                Err(error) => Err(error),
            }
        }

        /// Some bytes; none at the end.
        pub(super) async fn read(&mut self) -> io::Result<Vec<u8>> {
            let mut ready = match &self.0 {
                Some(watched) => Some(watched.readable().await?),
                None => None,
            };
            let mut bytes = vec![0; READ_BYTES];
            let count = io::stdin().lock().read(&mut bytes)?;
            bytes.truncate(count);
            // Less than asked for: there is no more, so wait for the system to say that there is.
            if let Some(ready) = &mut ready
                && count > 0
                && count < READ_BYTES
            {
                ready.clear_ready();
            }
            Ok(bytes)
        }
    }
}

#[cfg(madsim)]
mod source {
    use std::io;

    /// Nobody types in a simulation.
    #[derive(Debug)]
    pub(super) struct Source;

    impl Source {
        pub(super) fn open() -> io::Result<Source> {
            Ok(Source)
        }

        pub(super) async fn read(&mut self) -> io::Result<Vec<u8>> {
            std::future::pending().await
        }
    }
}
