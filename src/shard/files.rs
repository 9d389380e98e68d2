//! Index files: the trained part of a replica's indexes on disk, so that a restart need not train again.
//!
//! One file an epoch, written whole, synced and renamed into place, then mapped (layout: `index::image`); a file that cannot be
//! trusted is as good as none: the replica then answers exactly until its indexes are trained anew (`upkeep`). Called by `saving`,
//! `open`, `install` and `host` (removing).

use crate::{
    index::{Block, Damage, Image, IndexFileError, Points, Sealed, write_image},
    store::{StoreError, files},
    types::VectorName,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

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
    #[error("the index file is not as it was written: {0}")]
    Damaged(#[from] IndexFileError),
    #[error("the index file is of another collection: {0}")]
    Foreign(String),
}

impl IndexFiles {
    /// The files of `shard` under `directory`, which exists.
    pub fn new(directory: &Path, shard: u64) -> IndexFiles {
        IndexFiles { directory: directory.to_owned(), shard }
    }

    /// Writes the points and the sealed parts, which hold them by ordinal, as the file of `epoch`. Power-safe when it returns.
    pub fn write(&self, epoch: u64, points: &Points, parts: &[(VectorName, Sealed)]) -> Result<(), StoreError> {
        files::write_synced_with(&self.path(epoch), |out| write_image(out, points, parts))
    }

    /// Writes a file that another replica has given, piece by piece, as the file of `epoch`. Power-safe when it returns.
    pub fn receive(
        &self,
        epoch: u64,
        pieces: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        files::write_synced_with(&self.path(epoch), pieces)
    }

    /// Maps the file of `epoch`.
    pub fn map(&self, epoch: u64) -> Result<Arc<Block>, Unusable> {
        Ok(Block::mapped(files::map_file(&self.path(epoch))?.ok_or(Unusable::Missing(epoch))?))
    }

    /// What is in a mapped file. What turns out damaged when it is used is noted in `damage`.
    pub fn image(block: &Arc<Block>, damage: &Damage) -> Result<Image, Unusable> {
        Ok(Image::open(block, damage)?)
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
