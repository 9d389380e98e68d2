//! Verifies the engine's journals before it opens them. On its own the engine takes the first record it cannot parse for the
//! end of the journal and cuts the file there, so one flipped bit would silently drop every later batch, synced or not;
//! and a batch torn by a power loss whose last sector survived makes it refuse a database that lost nothing it promised.
//! Here the two are told apart by what follows the damage, as in Alagappan et al., "Protocol-Aware Recovery for
//! Consensus-Based Storage" (FAST 2018): a write that must have waited for the damaged one to be durable proves
//! corruption. What cannot be told from a tear is cut: damage to the last batch, and in a store that syncs now and then
//! damage that no marked batch follows. Nor is what can be read always on the disk: after a failed fsync the kernel may show the pages
//! it could not write, as if they were clean (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020), so
//! that a later sync says nothing of them. What no later write proves is written again. Called by `Store::open`;
//! one pass, 0.2 to 0.6 ms a MiB in the page cache. `bounds` has the journals measured here.
//!
//! Format (fjall 3, journal compression off), integers little-endian:
//! start = 1, items u32, seqno u64 · item = 2, value type u8, compression u8 = 0, space u64, key length u16, value length
//! u32 twice, key, value · clear = 4, space u64 · end = 3, XXH3-64 of the item and clear records, "FJL" 3.

use super::engine::Discipline;
use super::error::StoreError;
use super::keys::SYNC_MARK_KEY;
use crate::mutants::mutant;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const START_BYTES: usize = 13;
pub(super) const ITEM_HEAD_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const END_BYTES: usize = 13;
const END_TRAILER: &[u8; 4] = b"FJL\x03";
/// No database comes to this number: a million changes a second would take nine years.
const NUMBER_MAX: u64 = 1 << 48;
/// Read at a time where only the first byte that was written counts.
const LOOK_BYTES: usize = 64 << 10;
/// Value types the engine writes to a journal: value, tombstone, weak tombstone.
const VALUE_TYPE_MAX: u8 = 2;

/// Checks every journal of the database at `path`; the number of the last batch, 0 if there is none. A torn end that the discipline
/// explains is cut off (it was never promised to anyone); any other damage is `Corrupt` and nothing is touched. What is kept is on the
/// disk afterwards, also if an fsync of the life before had failed.
pub(super) fn verify(path: &Path, discipline: Discipline) -> Result<u64, StoreError> {
    let mut journals = list(path)?;
    let active = loop {
        let Some(last) = journals.pop() else { return Ok(0) };
        // The engine's threads may begin the next one even after a write to this one failed and was cut short: the one that ends as
        // the active one may is the last that has anything.
        if !is_blank(&last)? {
            break last;
        }
    };
    let mut number = None;
    for file in &journals {
        let bytes = read_written(file)?;
        let end = whole(file, &bytes, &mut number)?.end;
        // A journal is synced whole before anything is written to the next one.
        if !is_unwritten(&bytes[end..]) {
            return Err(damaged(file, end));
        }
    }
    verify_active(&active, discipline, &mut number)?;
    Ok(number.unwrap_or(0))
}

fn verify_active(file: &Path, discipline: Discipline, number: &mut Option<u64>) -> Result<(), StoreError> {
    let bytes = read_written(file)?;
    let found = whole(file, &bytes, number)?;
    let (kept, rest) = bytes.split_at(found.end);
    if !is_unwritten(rest) {
        // Mutant 12: whatever follows the damage, it is taken for the end.
        if !mutant!(12) && was_synced(rest, discipline) {
            return Err(damaged(file, found.end));
        }
        cut(file, found.end)?;
    }
    // Mutant 50: what can be read is taken for durable.
    if mutant!(50) {
        return Ok(());
    }
    write_again(file, kept, found.unproven(discipline))
}

/// What [`verify`] would find in an active journal of these bytes: the length of its whole batches, and whether what follows them
/// must have been synced.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn look(bytes: &[u8], discipline: Discipline) -> (usize, bool) {
    let Scanned { end, misnumbered, .. } = scan(bytes, &mut None);
    (end, misnumbered.is_some() || !is_unwritten(&bytes[end..]) && was_synced(&bytes[end..], discipline))
}

/// The whole valid batches at the start of a journal.
struct Scanned {
    /// Their length.
    end: usize,
    /// Where the last of them begins.
    last: usize,
    /// Where the last one begins that says by its mark that those before it had been synced.
    last_marked: usize,
    /// Where one begins whose number cannot be right, or that of the one before.
    misnumbered: Option<usize>,
}

impl Scanned {
    /// Where those begin of which nothing shows that their sync succeeded: what came before them had to wait for it.
    fn unproven(&self, discipline: Discipline) -> usize {
        match discipline {
            Discipline::EveryCommitSynced => self.last,
            Discipline::SyncedNowAndThen => self.last_marked,
        }
    }
}

/// Finds the whole valid batches at the start; `before` is the number of the last batch before them, and after that of the last of them. The
/// engine's checksum is of a batch's records, not of its number, and by that a batch counts as older or newer than others. Numbers grow, from
/// one journal to the next and over restarts too (`Store::open` sees to that). What a changed number can pass for is the last batch with a
/// later one, which is the newest anyway, and the first of the oldest journal with an earlier one.
fn scan(bytes: &[u8], before: &mut Option<u64>) -> Scanned {
    let mut found = Scanned { end: 0, last: 0, last_marked: 0, misnumbered: None };
    while let Some(batch) = parse_batch(&bytes[found.end..]) {
        if *before >= Some(batch.number) || batch.number >= NUMBER_MAX {
            found.misnumbered.get_or_insert(found.end);
        }
        *before = Some(batch.number);
        found.last = found.end;
        if batch.is_marked {
            found.last_marked = found.end;
        }
        found.end += batch.length;
    }
    found
}

/// The whole valid batches at the start of a journal.
///
/// # Errors
/// `Corrupt` for a number that cannot be right.
fn whole(file: &Path, bytes: &[u8], before: &mut Option<u64>) -> Result<Scanned, StoreError> {
    let found = scan(bytes, before);
    match found.misnumbered {
        Some(at) => {
            let why = format!("the number of the batch at byte {at}, or of the one before, is damaged");
            Err(StoreError::corrupt(file, why))
        }
        None => Ok(found),
    }
}

/// Whether the damaged bytes at the start of `damage` had been synced: a later batch proves it if it says so by its mark, or
/// where every commit is synced before the next batch is written.
fn was_synced(damage: &[u8], discipline: Discipline) -> bool {
    let mut at = 1;
    let mut later = std::iter::from_fn(|| next_batch(damage, &mut at));
    later.any(|batch| batch.is_marked || discipline == Discipline::EveryCommitSynced)
}

/// The next whole valid batch at or after `at`, which is moved behind it.
fn next_batch(bytes: &[u8], at: &mut usize) -> Option<Batch> {
    while *at < bytes.len() {
        // A start record is followed by an item or a clear; this drops nearly all chance matches before any hashing.
        let is_likely = bytes[*at] == START && matches!(bytes.get(*at + START_BYTES), Some(&(ITEM | CLEAR)));
        if is_likely && let Some(batch) = parse_batch(&bytes[*at..]) {
            *at += batch.length;
            return Some(batch);
        }
        *at += 1;
    }
    None
}

/// A whole valid batch.
struct Batch {
    length: usize,
    /// Its place among all changes of the database; no two have the same.
    number: u64,
    /// Whether it says that everything before it had been synced.
    is_marked: bool,
}

/// The batch at the start of `bytes`, if it is whole and its checksum is right.
fn parse_batch(bytes: &[u8]) -> Option<Batch> {
    let start = bytes.get(..START_BYTES)?;
    if start[0] != START {
        return None;
    }
    let records = u32::from_le_bytes(start[1..5].try_into().ok()?);
    let number = u64::from_le_bytes(start[5..].try_into().ok()?);
    let (mut at, mut is_marked) = (START_BYTES, false);
    for _ in 0..records {
        let record = bytes.get(at..)?;
        let length = record_length(record)?;
        is_marked |= is_mark(record);
        at = at.checked_add(length)?;
    }
    let end = bytes.get(at..at.checked_add(END_BYTES)?)?;
    let checksum = xxh3_64(&bytes[START_BYTES..at]).to_le_bytes();
    let right = end[0] == END && end[1..9] == checksum && end[9..] == *END_TRAILER;
    right.then_some(Batch { length: at + END_BYTES, number, is_marked })
}

/// Whether an item or clear record is the mark.
fn is_mark(record: &[u8]) -> bool {
    let key = record.get(ITEM_HEAD_BYTES..ITEM_HEAD_BYTES + SYNC_MARK_KEY.len());
    record[0] == ITEM && record[11..13] == (SYNC_MARK_KEY.len() as u16).to_le_bytes() && key == Some(SYNC_MARK_KEY)
}

/// Length of the item or clear record at the start of `bytes`, as its head says.
fn record_length(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        CLEAR => Some(CLEAR_BYTES),
        ITEM => {
            let head = bytes.get(..ITEM_HEAD_BYTES)?;
            let key = u16::from_le_bytes(head[11..13].try_into().ok()?);
            let value = u32::from_le_bytes(head[13..17].try_into().ok()?);
            let value_on_disk = u32::from_le_bytes(head[17..21].try_into().ok()?);
            let plain = head[1] <= VALUE_TYPE_MAX && head[2] == 0 && value == value_on_disk && key > 0;
            plain.then(|| ITEM_HEAD_BYTES + usize::from(key) + value as usize)
        }
        _ => None,
    }
}

/// Whether nothing was ever written here: the engine sets a journal's length in advance.
fn is_unwritten(tail: &[u8]) -> bool {
    tail.iter().all(|byte| *byte == 0)
}

/// The journals, oldest first.
fn list(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(path).map_err(|e| StoreError::io(path, "list", e))? {
        let file = entry.map_err(|e| StoreError::io(path, "list", e))?.path();
        if file.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        let number = file.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        let number = number.ok_or_else(|| StoreError::corrupt(&file, "not the name of a journal"))?;
        journals.push((number, file));
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, file)| file).collect())
}

/// Bytes written to all journals but the last one, and to that.
pub(super) fn lengths(path: &Path) -> Result<(u64, u64), StoreError> {
    let length_of = |file: &PathBuf| match File::open(file).and_then(|file| written_length(&file)) {
        // The engine's threads remove journals at any time.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
        length => length.map_err(|e| StoreError::io(file, "measure", e)),
    };
    let lengths = list(path)?.iter().map(length_of).collect::<Result<Vec<u64>, _>>()?;
    let active = lengths.last().copied().unwrap_or(0);
    Ok((lengths.iter().sum::<u64>() - active, active))
}

/// Whether nothing was ever written to this journal. Reads up to the first byte that was.
fn is_blank(path: &Path) -> Result<bool, StoreError> {
    let read = || {
        let mut file = File::open(path)?;
        let length = written_length(&file)?;
        file.seek(SeekFrom::Start(0))?;
        let (mut file, mut piece) = (file.take(length), vec![0; LOOK_BYTES]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(true),
                read if !is_unwritten(&piece[..read]) => return Ok(false),
                _ => {}
            }
        }
    };
    read().map_err(|e: std::io::Error| StoreError::io(path, "read", e))
}

/// The bytes of a journal up to the last one ever written. The 64 MiB the engine sets aside are a hole in the file, and
/// reading zeros would take longer than the rest of the start of an idle node.
fn read_written(path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let mut file = File::open(path)?;
        let length = written_length(&file)?;
        let mut bytes = Vec::with_capacity(length as usize);
        file.seek(SeekFrom::Start(0))?;
        file.take(length).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().map_err(|e| StoreError::io(path, "read", e))
}

/// End of the last region of `file` that is not a hole; the whole length where the file system cannot tell.
fn written_length(file: &File) -> std::io::Result<u64> {
    let mut end = 0;
    while let Some(data) = seek(file, end, libc::SEEK_DATA)? {
        end = seek(file, data, libc::SEEK_HOLE)?.unwrap_or(data);
        if end <= data {
            return Ok(file.metadata()?.len());
        }
    }
    Ok(end)
}

/// The next data or hole at or after `from`; `None` behind the last one.
fn seek(file: &File, from: u64, whence: libc::c_int) -> std::io::Result<Option<u64>> {
    let from = libc::off_t::try_from(from).map_err(std::io::Error::other)?;
    // SAFETY: lseek touches no memory; the descriptor is open for the whole call because `file` is borrowed.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    match u64::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match std::io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

fn cut(file: &Path, length: usize) -> Result<(), StoreError> {
    tracing::warn!(file = %file.display(), kept_bytes = length, "cut off a batch torn before it was acknowledged");
    let cut = || {
        let file = OpenOptions::new().write(true).open(file)?;
        file.set_len(length as u64)?;
        file.sync_all()
    };
    cut().map_err(|e| StoreError::io(file, "cut the torn end", e))
}

/// Writes the bytes from `from` on in their own place, and syncs them: what the disk has already stays as it is, sector by sector, and
/// what only the page cache had is there afterwards.
fn write_again(file: &Path, bytes: &[u8], from: usize) -> Result<(), StoreError> {
    let write = || {
        let file = OpenOptions::new().write(true).open(file)?;
        file.write_all_at(&bytes[from..], from as u64)?;
        file.sync_all()
    };
    write().map_err(|e| StoreError::io(file, "write again what may not have been synced", e))
}

fn damaged(file: &Path, offset: usize) -> StoreError {
    StoreError::corrupt(file, format!("the record at byte {offset} is damaged, and synced records follow it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_written_bytes_are_those_a_plain_read_finds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        // Nothing written; data, a hole, data, a hole; no hole at the end.
        for (pieces, length) in [(&[][..], 1 << 20), (&[0u64, 300_000][..], 1 << 22), (&[0, 1000][..], 2000)] {
            let mut file = File::create(&path).unwrap();
            for at in pieces {
                file.seek(SeekFrom::Start(*at)).unwrap();
                file.write_all(&[9; 1000]).unwrap();
            }
            file.set_len(length).unwrap();
            let (found, plain) = (read_written(&path).unwrap(), fs::read(&path).unwrap());
            assert!(plain.starts_with(&found) && is_unwritten(&plain[found.len()..]));
            assert!(found.len() as u64 <= pieces.last().map_or(0, |at| at + 1000).next_multiple_of(1 << 16));
        }
    }

    /// A batch of one item.
    fn batch(number: u8, key: &[u8]) -> Vec<u8> {
        let mut item = vec![ITEM, 0, 0];
        item.extend(1u64.to_le_bytes());
        item.extend((key.len() as u16).to_le_bytes());
        item.extend([0; 8]);
        item.extend(key);
        let start = [&[START, 1, 0, 0, 0][..], &u64::from(number).to_le_bytes()].concat();
        [&start[..], &item, &[END], &xxh3_64(&item).to_le_bytes(), END_TRAILER].concat()
    }

    #[test]
    fn what_a_later_write_proves_is_not_written_again() {
        let marks = |is_marked: &[bool]| {
            let key = |is_marked: bool| if is_marked { SYNC_MARK_KEY } else { b"key" };
            let batches = (1..).zip(is_marked).map(|(number, is_marked)| batch(number, key(*is_marked)));
            let (mut bytes, mut starts) = (Vec::new(), Vec::new());
            for batch in batches {
                starts.push(bytes.len());
                bytes.extend(batch);
            }
            let found = scan(&bytes, &mut None);
            assert_eq!(found.end, bytes.len());
            let place = |discipline| starts.iter().position(|start| *start == found.unproven(discipline));
            (place(Discipline::EveryCommitSynced), place(Discipline::SyncedNowAndThen))
        };
        assert_eq!(marks(&[false, false, false]), (Some(2), Some(0)));
        assert_eq!(marks(&[true, true, false, false]), (Some(3), Some(1)));
        assert_eq!(marks(&[false, true]), (Some(1), Some(1)));
        assert_eq!(scan(&[0; 9], &mut None).unproven(Discipline::EveryCommitSynced), 0);
    }
}
