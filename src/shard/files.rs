//! Index files: the trained part of a replica's indexes on disk, so that a restart need not train again.
//!
//! One file an epoch, written whole, synced and renamed into place; a file that cannot be trusted is as good as none,
//! since everything in it can be made again from the records. Called by `indexer` (saving), `replica` (loading), `host`
//! (removing).

use crate::{
    index::{IndexFileError, Points, Sealed},
    store::{
        StoreError,
        files::{self, FileKind},
    },
    types::VectorName,
};
use std::path::{Path, PathBuf};

const KIND: FileKind = FileKind { tag: *b"VSIX", version: 2 };

/// The index files of one shard.
#[derive(Clone, Debug)]
pub struct IndexFiles {
    directory: PathBuf,
    shard: u64,
}

/// Why an index file was not used. It will be made again.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("there is no index file of epoch {0}")]
    Missing(u64),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the index file does not make sense: {0}")]
    Nonsense(String),
}

impl IndexFiles {
    /// The files of `shard` under `directory`, which exists.
    pub fn new(directory: &Path, shard: u64) -> IndexFiles {
        IndexFiles { directory: directory.to_owned(), shard }
    }

    /// Writes the points and the sealed parts, which hold them by ordinal, as the file of `epoch`. Power-safe when it returns.
    pub fn write(&self, epoch: u64, points: &Points, parts: &[(VectorName, Sealed)]) -> Result<(), StoreError> {
        let mut content = Vec::new();
        let points = points.encode();
        content.extend_from_slice(&(points.len() as u64).to_le_bytes());
        content.extend_from_slice(&points);
        content.extend_from_slice(&(parts.len() as u32).to_le_bytes());
        for (name, sealed) in parts {
            let encoded = sealed.encode();
            content.extend_from_slice(&(name.as_str().len() as u32).to_le_bytes());
            content.extend_from_slice(name.as_str().as_bytes());
            content.extend_from_slice(&(encoded.len() as u64).to_le_bytes());
            content.extend_from_slice(&encoded);
        }
        files::write_file_synced(&self.path(epoch), KIND, &content)
    }

    /// Reads the file of `epoch`.
    pub fn read(&self, epoch: u64) -> Result<(Points, Vec<(VectorName, Sealed)>), Unusable> {
        let (_, content) = files::read_file(&self.path(epoch), KIND)?.ok_or(Unusable::Missing(epoch))?;
        decode(&content).ok_or_else(|| Unusable::Nonsense("its parts do not fit together".to_owned()))?
    }

    /// Removes every file of the shard but that of `epoch`.
    pub fn keep_only(&self, epoch: Option<u64>) -> Result<(), StoreError> {
        let keep = epoch.map(|epoch| self.path(epoch));
        let prefix = format!("{:016x}-", self.shard);
        for path in files::list(&self.directory)? {
            let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix));
            if ours && Some(&path) != keep.as_ref() {
                files::remove_file_synced(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, epoch: u64) -> PathBuf {
        self.directory.join(format!("{:016x}-{epoch:016x}.index", self.shard))
    }
}

/// `None` if the framing is broken; an error if a part is.
fn decode(content: &[u8]) -> Option<Result<(Points, Vec<(VectorName, Sealed)>), Unusable>> {
    let nonsense = |error: IndexFileError| Some(Err(Unusable::Nonsense(error.to_string())));
    let (points, rest) = sized(content)?;
    let points = match Points::decode(points) {
        Ok(points) => points,
        Err(error) => return nonsense(error),
    };
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut parts = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let (name, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let (encoded, after) = sized(after)?;
        let name = VectorName::new(std::str::from_utf8(name).ok()?).ok()?;
        match Sealed::decode(encoded) {
            Ok(sealed) => parts.push((name, sealed)),
            Err(error) => return nonsense(error),
        }
        rest = after;
    }
    rest.is_empty().then_some(Ok((points, parts)))
}

/// A part that says how long it is, and what follows it.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, after) = bytes.split_first_chunk::<8>()?;
    after.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_never_panics(content: Vec<u8>) {
            let _ = decode(&content);
        }
    }
}
