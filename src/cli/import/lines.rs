//! Lines of a text file with a bound on their length: a line that is too long or not UTF-8 is reported and passed over, never
//! held in memory. Called by the jsonl reader.

use super::{fault::ReadError, row::ROW_BYTES_MAX};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// A line that is not blank.
#[derive(Debug, PartialEq)]
pub enum Line<'a> {
    /// Its number from 1, and its text without the line's end.
    Text { number: u64, text: &'a str },
    /// A line that could not be taken, and why.
    Bad { number: u64, code: &'static str, message: String },
}

/// See the module.
#[derive(Debug)]
pub struct LineReader {
    path: PathBuf,
    file: BufReader<File>,
    bytes: u64,
    position: u64,
    number: u64,
    line_bytes_max: usize,
    buffer: Vec<u8>,
}

impl LineReader {
    /// Opens `path`; a byte order mark at its beginning is passed over.
    pub fn open(path: &Path) -> Result<LineReader, ReadError> {
        LineReader::with_bound(path, ROW_BYTES_MAX)
    }

    fn with_bound(path: &Path, line_bytes_max: usize) -> Result<LineReader, ReadError> {
        let file = File::open(path).map_err(ReadError::io(path))?;
        let bytes = file.metadata().map_err(ReadError::io(path))?.len();
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut position = 0;
        if file.fill_buf().map_err(ReadError::io(path))?.starts_with(b"\xef\xbb\xbf") {
            file.consume(3);
            position = 3;
        }
        Ok(LineReader { path: path.to_owned(), file, bytes, position, number: 0, line_bytes_max, buffer: Vec::new() })
    }

    /// Length of the file when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn position_bytes(&self) -> u64 {
        self.position
    }

    /// The next line that is not blank; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        loop {
            self.buffer.clear();
            let limit = self.line_bytes_max as u64 + 1;
            let read =
                (&mut self.file).take(limit).read_until(b'\n', &mut self.buffer).map_err(ReadError::io(&self.path))?;
            if read == 0 {
                return Ok(None);
            }
            self.position += read as u64;
            self.number += 1;
            if read > self.line_bytes_max && self.buffer.last() != Some(&b'\n') {
                self.position += self.file.skip_until(b'\n').map_err(ReadError::io(&self.path))? as u64;
                let message = format!("the line has more than {} bytes", self.line_bytes_max);
                return Ok(Some(Line::Bad { number: self.number, code: "line_too_long", message }));
            }
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let number = self.number;
        Ok(Some(match std::str::from_utf8(&self.buffer) {
            Ok(text) => Line::Text { number, text: text.trim_end_matches(['\n', '\r']) },
            Err(error) => {
                Line::Bad { number, code: "invalid_utf8", message: format!("the line is not UTF-8: {error}") }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_passed_over_without_being_held() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, format!("\u{feff}short\r\n{}\n\nlast", "x".repeat(100))).unwrap();
        let mut lines = LineReader::with_bound(&path, 10).unwrap();
        assert_eq!(lines.next_line().unwrap(), Some(Line::Text { number: 1, text: "short" }));
        assert!(matches!(lines.next_line().unwrap(), Some(Line::Bad { number: 2, code: "line_too_long", .. })));
        assert!(lines.buffer.capacity() < 64);
        assert_eq!(lines.next_line().unwrap(), Some(Line::Text { number: 4, text: "last" }));
        assert_eq!(lines.next_line().unwrap(), None);
        assert_eq!(lines.position_bytes(), lines.bytes());
    }
}
