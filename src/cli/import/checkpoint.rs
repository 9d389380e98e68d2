//! The small file beside an input that lets an interrupted import go on: which rows the server has acknowledged (or the
//! dead-letter file has taken). It is bound to the input's size and time of change, to the table and to the meaning given to
//! the columns; if any of these differ it is ignored. A row is listed only after its acknowledgement, so the worst a crash
//! can do is to send rows twice, which writes the same documents again. Called by `import`.

use super::{ranges::RowRanges, schema::Schema};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// Ends the name of the file.
pub const SUFFIX: &str = ".vsimport.json";

/// More than any real checkpoint has; a larger file is something else.
const BYTES_MAX: u64 = 16 << 20;

const VERSION: u32 = 1;

/// What the acknowledged rows belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportKey {
    pub input_bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub input_changed_ns: u64,
    pub server: String,
    pub table: String,
    /// The schema as JSON: other columns make other documents.
    pub schema: serde_json::Value,
}

impl ImportKey {
    pub fn new(input: &Path, server: &str, table: &str, schema: &Schema) -> io::Result<ImportKey> {
        let metadata = fs::metadata(input)?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(ImportKey {
            input_bytes: metadata.len(),
            input_changed_ns: u64::try_from(changed.as_nanos()).unwrap_or(u64::MAX),
            server: server.to_owned(),
            table: table.to_owned(),
            schema: serde_json::to_value(schema).map_err(io::Error::other)?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    key: ImportKey,
    done: RowRanges,
    /// Rows of `done` that were refused.
    refused: u64,
}

/// The file and what it says.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    key: ImportKey,
    pub done: RowRanges,
    pub refused: u64,
}

impl Checkpoint {
    /// Where the checkpoint of `input` is.
    pub fn path_for(input: &Path) -> PathBuf {
        let mut name = input.as_os_str().to_owned();
        name.push(SUFFIX);
        name.into()
    }

    /// A checkpoint with nothing done.
    pub fn fresh(input: &Path, key: ImportKey) -> Checkpoint {
        Checkpoint { path: Checkpoint::path_for(input), key, done: RowRanges::default(), refused: 0 }
    }

    /// The checkpoint of an earlier run if there is one for the same import, else a fresh one.
    pub fn load(input: &Path, key: ImportKey) -> Checkpoint {
        let fresh = Checkpoint::fresh(input, key);
        match read(&fresh.path) {
            Some(content) if content.version == VERSION && content.key == fresh.key => {
                Checkpoint { done: content.done, refused: content.refused, ..fresh }
            }
            _ => fresh,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file so that after a crash it is the old one or the new one. Blocking, two syncs.
    pub fn save(&self) -> io::Result<()> {
        let (key, done) = (self.key.clone(), self.done.clone());
        let content = Content { version: VERSION, key, done, refused: self.refused };
        let mut temporary = self.path.as_os_str().to_owned();
        temporary.push(".tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&content).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    /// Removes the file; the import is complete.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The content of a checkpoint file; one that cannot be read is as good as none.
fn read(path: &Path) -> Option<Content> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.len() > BYTES_MAX {
        return None;
    }
    serde_json::from_reader(io::BufReader::new(file)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::format::Format;

    fn key(input: &Path, table: &str) -> ImportKey {
        let schema = Schema::of_vectors(Format::Npy, input, 10, 4, 0).unwrap();
        ImportKey::new(input, "127.0.0.1:8080", table, &schema).unwrap()
    }

    #[test]
    fn resumes_the_same_import_only() {
        let directory = tempfile::tempdir().unwrap();
        let input = directory.path().join("a.npy");
        fs::write(&input, "0123456789").unwrap();
        let mut checkpoint = Checkpoint::load(&input, key(&input, "t"));
        assert!(checkpoint.done.is_empty());
        checkpoint.done.insert(0, 5);
        checkpoint.done.insert(7, 9);
        checkpoint.refused = 1;
        checkpoint.save().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "the temporary file is gone");
        let again = Checkpoint::load(&input, key(&input, "t"));
        assert_eq!((again.done.count(), again.refused), (7, 1));
        assert!(Checkpoint::load(&input, key(&input, "other")).done.is_empty());
        fs::write(&input, "changed").unwrap();
        assert!(Checkpoint::load(&input, key(&input, "t")).done.is_empty());
        again.remove().unwrap();
        again.remove().unwrap();
    }

    #[test]
    fn damage_means_starting_over() {
        let directory = tempfile::tempdir().unwrap();
        let input = directory.path().join("a");
        fs::write(&input, "x").unwrap();
        for damage in ["", "{", "null", r#"{"version":99}"#] {
            fs::write(Checkpoint::path_for(&input), damage).unwrap();
            assert!(Checkpoint::load(&input, key(&input, "t")).done.is_empty());
        }
    }
}
