//! How far an import is, on standard error: a bar with rate and time left on a terminal, a line now and then elsewhere. Progress is
//! measured in bytes of the file, because text formats do not tell their rows. Called by `import`.

use crate::{
    cli::context::grouped,
    rt::time::{self, Instant},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal, time::Duration};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    start_bytes: u64,
    total_bytes: u64,
}

impl Progress {
    /// `start_bytes`: how much of the file an earlier run has done.
    pub fn start(total_bytes: u64, start_bytes: u64) -> Progress {
        let now = time::now();
        let bar = std::io::stderr().is_terminal().then(|| bar(total_bytes, start_bytes));
        Progress { bar, started: now, last_line: now, start_bytes, total_bytes }
    }

    /// Shows that the file is done up to `position_bytes`, with `rows` acknowledged by this run.
    pub fn update(&mut self, position_bytes: u64, rows: u64, refused: u64) {
        let rate = per_second(rows, self.started.elapsed());
        match &self.bar {
            Some(bar) => {
                let refused = if refused > 0 { format!(", {} refused", grouped(refused)) } else { String::new() };
                bar.set_message(format!("{} rows, {} rows/s{refused}", grouped(rows), grouped(rate)));
                bar.set_position(position_bytes);
            }
            None if self.last_line.elapsed() >= LINE_INTERVAL => {
                self.last_line = time::now();
                let percent = position_bytes * 100 / self.total_bytes.max(1);
                let left =
                    self.left(position_bytes).map_or(String::new(), |left| format!(", {} s left", left.as_secs()));
                eprintln!("{percent} %: {rows} rows, {rate} rows/s, {refused} refused{left}");
            }
            None => {}
        }
    }

    /// Writes a line without disturbing the bar.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away and tells how long it all took.
    pub fn finish(self) -> Duration {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }

    fn left(&self, position_bytes: u64) -> Option<Duration> {
        let done = position_bytes.checked_sub(self.start_bytes).filter(|done| *done > 0)?;
        let left = self.total_bytes.saturating_sub(position_bytes);
        Some(self.started.elapsed().mul_f64(left as f64 / done as f64))
    }
}

/// Rows per second, whole.
pub fn per_second(rows: u64, elapsed: Duration) -> u64 {
    (rows as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn bar(total_bytes: u64, start_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}  {eta} left")
        .expect("invariant: the template is a constant that parses");
    let bar = ProgressBar::new(total_bytes).with_style(style);
    bar.reset_eta();
    bar.set_position(start_bytes);
    bar
}
