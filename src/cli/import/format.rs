//! Which format a file has: told by `--format`, else by its first bytes, else by its extension. Called by `import` and `bench`.

use super::{fault::ReadError, npy};
use clap::ValueEnum;
use serde::Serialize;
use std::{fs::File, io::Read, path::Path};

/// The formats `import` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// NumPy array of two axes: float16, 32 or 64
    Npy,
    /// Rows of f32, each after its dimension
    Fvecs,
    /// Rows of u8, each after its dimension
    Bvecs,
    /// Rows of i32, each after its dimension
    Ivecs,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values
    Csv,
    /// Apache Parquet (needs a build with the feature `parquet`)
    Parquet,
}

impl Format {
    /// Finds the format of `path`: contents before name, because names lie more often.
    pub fn detect(path: &Path) -> Result<Format, ReadError> {
        let mut start = [0; 64];
        let start = read_start(path, &mut start)?;
        if start.starts_with(npy::MAGIC) {
            return Ok(Format::Npy);
        }
        if start.starts_with(b"PAR1") {
            return Ok(Format::Parquet);
        }
        if let Some(what) = compressed(start) {
            let problem = format!("it is compressed ({what}); decompress it first");
            return Err(ReadError::Unsupported { path: path.to_owned(), problem });
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let by_name = match extension.as_deref() {
            Some("fvecs") => Some(Format::Fvecs),
            Some("bvecs") => Some(Format::Bvecs),
            Some("ivecs") => Some(Format::Ivecs),
            Some("jsonl" | "ndjson") => Some(Format::Jsonl),
            Some("csv" | "tsv") => Some(Format::Csv),
            _ if first_visible(start) == Some(b'{') => Some(Format::Jsonl),
            _ => None,
        };
        by_name.ok_or_else(|| {
            let problem = "its format is told neither by its first bytes nor by its name; use --format".to_owned();
            ReadError::Unsupported { path: path.to_owned(), problem }
        })
    }
}

fn read_start<'a>(path: &Path, buffer: &'a mut [u8; 64]) -> Result<&'a [u8], ReadError> {
    let mut file = File::open(path).map_err(ReadError::io(path))?.take(buffer.len() as u64);
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).map_err(ReadError::io(path))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(&buffer[..filled])
}

fn compressed(start: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip, perhaps npz"), (b"BZh", "bzip2")];
    magics.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| name)
}

fn first_visible(start: &[u8]) -> Option<u8> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    start.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_win_over_names() {
        let directory = tempfile::tempdir().unwrap();
        let detect = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            Format::detect(&path)
        };
        assert_eq!(detect("a.csv", b"\x93NUMPY\x01\0").unwrap(), Format::Npy);
        assert_eq!(detect("a", b"PAR1....").unwrap(), Format::Parquet);
        assert_eq!(detect("a.FVECS", b"\x01\0\0\0").unwrap(), Format::Fvecs);
        assert_eq!(detect("a.tsv", b"a\tb").unwrap(), Format::Csv);
        assert_eq!(detect("a.txt", b"\xef\xbb\xbf \n{\"a\":1}").unwrap(), Format::Jsonl);
        assert!(matches!(detect("a.jsonl", b"\x1f\x8b\x08"), Err(ReadError::Unsupported { .. })));
        assert!(matches!(detect("a.bin", b"12"), Err(ReadError::Unsupported { .. })));
        assert!(matches!(Format::detect(&directory.path().join("absent")), Err(ReadError::Io { .. })));
    }
}
