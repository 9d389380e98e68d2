//! The file that takes the rows nobody wanted: one JSON object a line ([`RowFault`] with the document). Appended to, and synced
//! before the checkpoint counts its rows as done. Called by `import`.

use super::fault::RowFault;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// See the module.
#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    file: BufWriter<File>,
    unsynced: bool,
}

impl DeadLetters {
    /// Opens `path` for appending: what an earlier run left there stays.
    pub fn open(path: &Path) -> io::Result<DeadLetters> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(DeadLetters { path: path.to_owned(), file: BufWriter::new(file), unsynced: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends faults; they are safe after [`DeadLetters::sync`].
    pub fn push(&mut self, faults: &[RowFault]) -> io::Result<()> {
        for fault in faults {
            serde_json::to_writer(&mut self.file, fault)?;
            self.file.write_all(b"\n")?;
            self.unsynced = true;
        }
        Ok(())
    }

    /// Makes what was pushed survive a power loss. Blocking.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }
}
