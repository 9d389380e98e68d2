//! The first moments of a database directory, and of each opening. The engine writes its `version` file last when it creates a database, and
//! refuses to create one where an earlier attempt stopped; a crash in between would lock a node out for ever. This file
//! tells an unfinished creation, which holds nothing, from a database that lost its `version` file or its catalogue, which
//! is corrupt.
//! Called by `Store::open` only.

use super::error::StoreError;
use super::files::sync_directory;
use lsm_tree::{AbstractTree, AnyTree, Guard, SeqNo, SequenceNumberCounter};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The engine's format marker: magic and version.
const VERSION_FILE: &str = "version";
const VERSION_MAGIC: &[u8; 3] = b"FJL";
const VERSION_SUPPORTED: u8 = 3;
/// The journal the engine creates before it writes the marker.
const FIRST_JOURNAL: &str = "0.jnl";
const SPACES_FOLDER: &str = "keyspaces";
/// Within it, where the engine keeps the names of the spaces.
const CATALOGUE_FOLDER: &str = "0";
/// Tag of the catalogue's records of names: the key is this and the number of the space (u64, big-endian), which is its folder's name.
const NAME_TAG: &[u8] = b"n";
/// The file that makes a folder a tree.
const TREE_MARKER: &str = "current";

/// Whether a database was completely created at `path`. Refuses a marker that is newer or not the engine's.
pub(super) fn is_complete(path: &Path) -> Result<bool, StoreError> {
    let file = path.join(VERSION_FILE);
    let marker = match fs::read(&file) {
        Ok(marker) => marker,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io(&file, "read", error)),
    };
    // Created but not yet synced when the power went: any part of the content may be missing or zero. (The engine writes
    // the magic and the version separately.)
    if is_partial(&marker) {
        return Ok(false);
    }
    match marker.strip_prefix(VERSION_MAGIC) {
        Some([found, ..]) if *found > VERSION_SUPPORTED => {
            Err(StoreError::NewerFormat { path: file, found: (*found).into(), supported: VERSION_SUPPORTED.into() })
        }
        Some([VERSION_SUPPORTED]) => Ok(true),
        _ => Err(StoreError::corrupt(&file, format!("expected the storage engine's marker, got {marker:02x?}"))),
    }
}

/// Refuses a database that has spaces but has lost its catalogue of them: the engine would begin a new one and delete every
/// space that is not in it.
pub(super) fn verify_catalogue(path: &Path) -> Result<(), StoreError> {
    let folder = path.join(SPACES_FOLDER);
    let catalogue = folder.join(CATALOGUE_FOLDER).join(TREE_MARKER);
    if catalogue.exists() {
        return Ok(());
    }
    let spaces = fs::read_dir(&folder).map_err(|e| StoreError::io(&folder, "list", e))?;
    for space in spaces {
        let space = space.map_err(|e| StoreError::io(&folder, "list", e))?.path();
        if space.join(TREE_MARKER).exists() {
            return Err(StoreError::corrupt(&catalogue, format!("it is missing, but there is {}", space.display())));
        }
    }
    Ok(())
}

/// Brings to the disk what a failed sync of an earlier life may have left in the page cache only, where it looks as if it were durable: the
/// marker, and the names of the database, its spaces and their lists of tables. Cost: a sync for each space, of a folder that has
/// hardly ever changed.
pub(super) fn sync_again(path: &Path) -> Result<(), StoreError> {
    let file = path.join(VERSION_FILE);
    let write = || {
        let marker = fs::read(&file)?;
        let file = OpenOptions::new().write(true).open(&file)?;
        file.write_all_at(&marker, 0)?;
        file.sync_all()
    };
    write().map_err(|e: std::io::Error| StoreError::io(&file, "write again", e))?;
    let folder = path.join(SPACES_FOLDER);
    for space in fs::read_dir(&folder).map_err(|e| StoreError::io(&folder, "list", e))? {
        let space = space.map_err(|e| StoreError::io(&folder, "list", e))?.path();
        if space.is_dir() {
            sync_directory(&space)?;
        }
    }
    sync_directory(&folder)?;
    sync_directory(path)
}

/// What the engine's catalogue says.
#[derive(Default)]
pub(super) struct Catalogue {
    /// The last number that was given to a change of it; 0 if there was none.
    pub(super) last_number: u64,
    /// How many spaces there are.
    pub(super) spaces: usize,
}

/// Reads the engine's catalogue. To be called while nobody has the database open.
///
/// # Errors
/// `Corrupt` if a space of the catalogue has lost its folder or its list of tables.
pub(super) fn read_catalogue(path: &Path) -> Result<Catalogue, StoreError> {
    let folder = path.join(SPACES_FOLDER).join(CATALOGUE_FOLDER);
    if !folder.join(TREE_MARKER).exists() {
        return Ok(Catalogue::default());
    }
    let numbers = SequenceNumberCounter::default;
    let catalogue = lsm_tree::Config::new(&folder, numbers(), numbers()).open();
    let catalogue = catalogue.map_err(|e| StoreError::from_engine(&folder, "open", e.into()))?;
    let spaces = verify_spaces(path, &catalogue)?;
    Ok(Catalogue { last_number: catalogue.get_highest_persisted_seqno().unwrap_or(0), spaces })
}

/// The engine takes a space without its list of tables for one whose making a crash cut short, and deletes it. It is not: a space is made
/// and synced before the catalogue names it, and removed after the catalogue has forgotten it. Returns how many spaces there are.
fn verify_spaces(path: &Path, catalogue: &AnyTree) -> Result<usize, StoreError> {
    let (folder, mut spaces) = (path.join(SPACES_FOLDER), 0);
    for record in catalogue.prefix(NAME_TAG, SeqNo::MAX, None) {
        let key = record.key().map_err(|e| StoreError::from_engine(&folder, "read the catalogue", e.into()))?;
        let number = key.strip_prefix(NAME_TAG).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
        let number = number.ok_or_else(|| StoreError::corrupt(&folder, format!("the catalogue has a key {key:?}")))?;
        let tables = folder.join(number.to_string()).join(TREE_MARKER);
        if !tables.try_exists().map_err(|e| StoreError::io(&tables, "look for", e))? {
            return Err(StoreError::corrupt(&tables, "it is missing, but the catalogue names its space"));
        }
        spaces += 1;
    }
    Ok(spaces)
}

/// Whether this is the marker with at least one of its bytes not written.
fn is_partial(marker: &[u8]) -> bool {
    let whole = [VERSION_MAGIC.as_slice(), &[VERSION_SUPPORTED]].concat();
    let written = |(byte, right): (&u8, &u8)| *byte == 0 || byte == right;
    marker.len() <= whole.len() && marker != whole && marker.iter().zip(&whole).all(written)
}

/// Removes what a creation that was cut short left behind. Anything that could hold data is `Corrupt` and stays.
pub(super) fn clear_unfinished(path: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io(path, "list", error)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io(path, "list", e))?;
        let file = entry.path();
        let holds_data = match entry.file_name().to_str() {
            Some(VERSION_FILE | "lock") => false,
            Some(FIRST_JOURNAL) => !is_blank(&file)?,
            Some(SPACES_FOLDER) => fs::read_dir(&file).map_err(|e| StoreError::io(&file, "list", e))?.next().is_some(),
            _ => true,
        };
        if holds_data {
            return Err(StoreError::corrupt(
                path,
                format!("no usable {VERSION_FILE} file, but there is {}", file.display()),
            ));
        }
    }
    for name in [FIRST_JOURNAL, VERSION_FILE] {
        let file = path.join(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(&file, "remove", error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the file is empty or holds only zeros as far as a first record would reach.
fn is_blank(file: &Path) -> Result<bool, StoreError> {
    let read_head = || {
        let mut head = Vec::new();
        File::open(file)?.take(4096).read_to_end(&mut head)?;
        Ok::<_, std::io::Error>(head)
    };
    let head = read_head().map_err(|e| StoreError::io(file, "read", e))?;
    Ok(head.iter().all(|byte| *byte == 0))
}
