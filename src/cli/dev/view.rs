//! What a running development cluster shows: on a terminal one block that is drawn anew whenever something changes, with the last
//! events above it; otherwise one plain line an event, and the block when it is asked for. Called by the command's loop.

use super::fleet::Row;
use crate::cli::{CliError, context::say, listing};
use std::io::IsTerminal;

/// See the module.
pub struct View {
    is_terminal: bool,
    /// Lines of the block that stands on the terminal, the prompt included.
    drawn: usize,
    last: Vec<Row>,
}

const PROMPT: &str = "dev> ";

impl View {
    pub fn new() -> View {
        View { is_terminal: std::io::stdout().is_terminal(), drawn: 0, last: Vec::new() }
    }

    /// Something happened.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn event(&mut self, text: &str) -> Result<(), CliError> {
        if !self.is_terminal {
            return say(&format!("{text}\n"));
        }
        let block = block(&self.last);
        self.draw(&format!("{text}\n{block}"), block.lines().count())
    }

    /// The processes as they are now: drawn where they changed, or are `asked` for.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn rows(&mut self, rows: Vec<Row>, asked: bool) -> Result<(), CliError> {
        let changed = rows != self.last;
        if !self.is_terminal {
            if !asked {
                for row in rows.iter().filter(|row| !self.last.contains(row) && !self.last.is_empty()) {
                    say(&format!("{}: {}\n", row.target, row.state))?;
                }
            }
            self.last = rows;
            return if asked { say(&block(&self.last)) } else { Ok(()) };
        }
        self.last = rows;
        if !changed && !asked {
            return Ok(());
        }
        let block = block(&self.last);
        self.draw(&block, block.lines().count())
    }

    /// A line was typed: the terminal has moved on by one.
    pub fn typed(&mut self) {
        if self.drawn > 0 {
            self.drawn += 1;
        }
    }

    /// The block is not drawn over any more.
    pub fn leave(&mut self) {
        self.drawn = 0;
    }

    fn draw(&mut self, text: &str, block_lines: usize) -> Result<(), CliError> {
        let up = match self.drawn {
            0 => String::new(),
            // To the first column of the block's first line, and everything below is cleared.
            lines => format!("\r\x1b[{lines}A\x1b[J"),
        };
        self.drawn = block_lines;
        say(&format!("{up}{text}{PROMPT}"))
    }
}

fn block(rows: &[Row]) -> String {
    let line = |row: &Row| {
        vec![
            row.target.to_string(),
            row.state.clone(),
            row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            format!("http://{}", row.address),
            row.grpc.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(line).collect();
    listing::left(&["PROCESS", "STATE", "PID", "ADDRESS", "GRPC"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dev::command::Target;

    #[test]
    fn a_block_lists_every_process() {
        let row = |target, state: &str, pid| Row {
            target,
            state: state.to_owned(),
            pid,
            address: "127.0.0.1:8080".to_owned(),
            grpc: None,
        };
        let text = block(&[row(Target::Node(1), "ready", Some(7)), row(Target::Gateway, "signal: 9 (SIGKILL)", None)]);
        assert!(text.contains("node 1") && text.contains("ready"), "{text}");
        assert!(
            text.lines().last().is_some_and(|line| line.starts_with("gateway  signal: 9 (SIGKILL)  -  ")),
            "{text}"
        );
    }
}
