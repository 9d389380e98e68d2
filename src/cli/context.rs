//! What every command is given (endpoint, output form) and what it may fail with. Called by every command and by `main.rs`.

use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, Write};

/// Form of what a command prints on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}

/// What holds for the whole invocation.
#[derive(Clone, Debug)]
pub struct Context {
    /// Base address of the native REST API, e.g. `http://127.0.0.1:8080`.
    pub endpoint: String,
    pub output: OutputFormat,
}

impl Context {
    /// Prints a command's result: `value` for programs, the text of `table` for people.
    pub fn print(&self, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<(), CliError> {
        let mut text = match self.output {
            OutputFormat::Table => table(),
            OutputFormat::Json => serde_json::to_string_pretty(value).map_err(CliError::internal)?,
            OutputFormat::Yaml => serde_saphyr::to_string(value).map_err(CliError::internal)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        say(&text)
    }
}

/// Writes `text` to standard output. A reader that went away (`| head`) ends the command, but not as an error of ours.
pub fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::failed(format!("cannot write the output: {error}"))),
    }
}

/// Why a command failed, for the person who typed it, and the process's exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    pub message: String,
    pub exit_code: u8,
}

impl CliError {
    /// The command or its input was wrong.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError { message: message.into(), exit_code: 2 }
    }

    /// The server refused, or a file could not be read.
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError { message: message.into(), exit_code: 1 }
    }

    /// No server answered.
    pub fn unreachable(message: impl Into<String>) -> CliError {
        CliError { message: message.into(), exit_code: 5 }
    }

    /// A defect of this program.
    pub fn internal(error: impl std::fmt::Display) -> CliError {
        CliError { message: format!("internal error: {error}"), exit_code: 70 }
    }

    /// Stopped by the user, as shells count SIGINT.
    pub fn interrupted(message: impl Into<String>) -> CliError {
        CliError { message: message.into(), exit_code: 130 }
    }
}

/// Columns padded to their widest cell, two blanks between them; numbers (cells that begin with a digit) to the right.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([header[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| {
            let gap = " ".repeat(width - cell.chars().count());
            if cell.starts_with(|c: char| c.is_ascii_digit()) { gap + cell } else { cell.to_owned() + &gap }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str).chain(std::iter::repeat("")).take(header.len()));
    }
    text
}

/// `name: value` lines with the values under each other.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["words".into(), "1200".into()], vec!["é".into(), "7".into(), "dropped".into()], vec![]];
        assert_eq!(columns(&["table", "count"], &rows), "table  count\nwords   1200\né          7\n\n");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(1234567)], ["0", "999", "1,000", "1,234,567"]);
    }
}
