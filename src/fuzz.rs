//! What fuzzing throws bytes at: whatever is read from a peer or from a disk. Each target takes any bytes, never panics on them
//! and checks what must hold of every answer. The crate in `fuzz/` lets libFuzzer drive them (`scripts/fuzz.sh`); the tests here
//! replay its corpus and what it has found, in every ordinary test run.

use crate::peer;
use crate::raft::{self, BEATS, CheckpointHead, CheckpointReader, checkpoints};
use crate::shard::{Border, Cargo, Command, Upkeep};
use crate::store::keys::control::ControlRecord;
use crate::store::keys::log::{self, GroupState, HardState, Members, Reached};
use crate::store::keys::{before, border, journal, meta, point::PointRecord, request::RequestRecord};
use crate::store::{self, Discipline};
use crate::types::SlotRange;
use bytes::Bytes;
use std::path::Path;

/// Messages a frame may have here.
const MESSAGES_MAX: usize = 64;
/// The group and the index that records are read for.
const GROUP: u64 = 7;
const INDEX: u64 = 42;

/// A frame of a peer: decoded, it has no more messages than allowed, and all its bytes are accounted for.
pub fn frame(bytes: &[u8]) {
    let Ok(messages) = peer::decode_frame(Bytes::copy_from_slice(bytes), MESSAGES_MAX) else { return };
    assert!(messages.len() <= MESSAGES_MAX, "{} messages", messages.len());
    let inside: usize = messages.iter().map(|message| message.message.len()).sum();
    assert!(inside <= bytes.len(), "{inside} bytes of messages in a frame of {}", bytes.len());
    for message in messages {
        if message.group == BEATS {
            if let Some(beats) = raft::decode_beats(&message.message) {
                let again: Vec<u8> = raft::encode_beats(&beats).flatten().collect();
                assert_eq!(again, message.message, "heartbeats");
            }
            continue;
        }
        if let Some(decoded) = raft::decode_message(&message.message) {
            assert!(decoded.entries.len() <= message.message.len(), "entries from nowhere");
        }
    }
}

/// Records of the log and of the state, the commands inside them, and a journal of them. What decodes encodes to the same.
pub fn log_records(bytes: &[u8]) {
    if let Ok((term, kind, data)) = log::decode_entry(GROUP, INDEX, bytes) {
        assert_eq!(log::encode_entry(GROUP, INDEX, term, kind, data), bytes, "an entry");
    }
    if let Ok(state) = GroupState::decode(GROUP, bytes) {
        assert_eq!(state.encode(GROUP), bytes, "the state of a group");
    }
    if let Ok(hard) = HardState::decode(GROUP, bytes) {
        assert_eq!(hard.encode(GROUP), bytes, "a hard state");
    }
    if let Ok(reached) = Reached::decode(GROUP, bytes) {
        assert_eq!(reached.encode(GROUP), bytes, "how far a log had come");
    }
    if let Ok(members) = Members::decode(GROUP, bytes) {
        assert_eq!(members.encode(GROUP).expect("they were decoded"), bytes, "members");
    }
    if let Ok(control) = ControlRecord::decode(bytes) {
        assert_eq!(control.encode(), bytes, "a record of the coordinator");
    }
    if let Ok(request) = RequestRecord::decode(bytes) {
        assert_eq!(request.encode(), bytes, "a request");
    }
    if let Ok(entry) = journal::decode(bytes) {
        assert_eq!(journal::encode(&entry).expect("it was decoded"), bytes, "an entry of a journal of indexes");
    }
    if let Ok((replaced_at, record)) = before::decode(bytes) {
        assert_eq!(before::encode(replaced_at, record), bytes, "a point kept as it was");
    }
    if let Ok(number) = meta::decode(bytes) {
        assert_eq!(meta::encode(number), bytes, "a number");
    }
    if let Ok(record) = PointRecord::decode(bytes) {
        let vectors: usize = record.vectors.iter().map(|(_, components)| components.len()).sum();
        assert!(vectors + record.payload.len() <= bytes.len(), "a point larger than its record");
    }
    if let Ok(content) = border::decode(bytes) {
        assert_eq!(border::encode(content), bytes, "a border or a cargo, as stored");
        borders(content);
    }
    if let Ok((request, command)) = Command::decode(bytes) {
        moves(&command);
        let again = command.encode(request).expect("it was decoded");
        let (request_again, _) = Command::decode(&again).expect("it was encoded");
        assert_eq!(request_again, request);
        assert!(again.len() <= bytes.len(), "a command of {} bytes from {}", again.len(), bytes.len());
    }
    if let Ok(upkeep) = Upkeep::decode(bytes) {
        assert_eq!(Upkeep::decode(&upkeep.encode()).expect("it was encoded"), upkeep, "upkeep of an index");
    }
    for discipline in [Discipline::EveryCommitSynced, Discipline::SyncedNowAndThen] {
        let (whole, damaged) = store::look_at_journal(bytes, discipline);
        assert!(whole <= bytes.len() && !(damaged && whole == bytes.len()), "{whole} of {} bytes", bytes.len());
    }
}

/// What stands behind the format of a border's record: numbers may be written longer than need be, so that what decodes encodes to the
/// same or to less, and that to itself.
fn borders(content: &[u8]) {
    if let Ok(decoded) = Border::decode(SlotRange::ALL, content) {
        let again = decoded.encode();
        assert!(again.len() <= content.len(), "a border of {} bytes from {}", again.len(), content.len());
        assert_eq!(Border::decode(SlotRange::ALL, &again).expect("it was encoded"), decoded);
    }
    if let Ok(decoded) = Cargo::decode(content, SlotRange::ALL) {
        let again = decoded.encode().expect("it was decoded");
        assert!(again.len() <= content.len(), "a cargo of {} bytes from {}", again.len(), content.len());
        assert_eq!(Cargo::decode(&again, SlotRange::ALL).expect("it was encoded"), decoded);
    }
}

/// What a command that moves slots does to a shard that owns some, or none: whatever it owns then, it can be stored and read again.
fn moves(command: &Command<'_>) {
    let middle = SlotRange::new(100, 200).expect("slots in order");
    for owned in [middle, SlotRange::NONE, SlotRange::ALL] {
        let mut border = Border::born(owned);
        // Refused or not, it has to hold together.
        let _ = match command {
            Command::Release { slots, to, epoch } => border.release(*slots, *to, *epoch, (INDEX, 3)).map(|_| ()),
            Command::Receive { from, number, slots, cargo } => {
                // As the shard does it: a cargo that is none goes no further.
                Cargo::decode(cargo, *slots).and_then(|cargo| border.receive(*slots, (*from, *number), &cargo, INDEX))
            }
            Command::Forget { number } => {
                border.release(SlotRange::NONE, 9, 1, (*number, 3)).map(|_| assert!(border.forget(*number)))
            }
            Command::Close => {
                border.close();
                Ok(())
            }
            _ => return,
        };
        let again = Border::decode(owned, &border.encode()).expect("what a shard owns can be read again");
        assert_eq!(again.owned, border.owned);
        assert_eq!(again.leaving, border.leaving);
    }
}

/// A checkpoint on disk. The input says what is written and then what becomes of the file: as many edits as its first byte,
/// each three bytes (place, of 65,536ths of the file; what is added to the byte there, 0 cuts the file off), then the chunks, each
/// behind its length. Whatever is read without an error is what was written. Besides, the input itself is read as a file.
pub fn checkpoint(directory: &Path, bytes: &[u8]) {
    let path = directory.join("7-42.checkpoint");
    std::fs::write(&path, bytes).expect("the directory takes a file");
    // Anything but a panic will do.
    let _ = read(&path);
    checkpoints::found(directory).expect("damaged files are removed, and this is no error");
    checkpoints::remove(&path).expect("it can be removed");

    let Some((&edits, rest)) = bytes.split_first() else { return };
    let edits = usize::from(edits % 8) * 3;
    let Some((edits, content)) = rest.split_at_checked(edits) else { return };
    let chunks = chunks(content);
    let head = CheckpointHead { index: INDEX, term: 3, members: Bytes::from_static(b"members") };
    let mut writer = checkpoints::create(&path, GROUP, &head).expect("a new file");
    for chunk in &chunks {
        writer.append(chunk).expect("the directory takes it");
    }
    writer.finish().expect("the directory takes it");
    let mut file = std::fs::read(&path).expect("it is there");
    let before = file.clone();
    for edit in edits.chunks_exact(3) {
        let place = (usize::from(edit[0]) << 8 | usize::from(edit[1])) * file.len() / (1 << 16);
        match edit[2] {
            0 => file.truncate(place),
            add => {
                if let Some(byte) = file.get_mut(place) {
                    *byte = byte.wrapping_add(add);
                }
            }
        }
    }
    std::fs::write(&path, &file).expect("the directory takes a file");
    match read(&path) {
        Some(read) => assert!(read == (head, chunks), "a checkpoint was read that was never written"),
        None => assert!(file != before, "a checkpoint that was written is refused"),
    }
    checkpoints::remove(&path).expect("it can be removed");
}

fn chunks(mut content: &[u8]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    while let Some((&length, rest)) = content.split_first() {
        let (chunk, rest) = rest.split_at(usize::from(length).min(rest.len()));
        if !chunk.is_empty() {
            chunks.push(Bytes::copy_from_slice(chunk));
        }
        content = rest;
    }
    chunks
}

/// Head and chunks of a checkpoint that can be read to its end.
fn read(path: &Path) -> Option<(CheckpointHead, Vec<Bytes>)> {
    let mut opened = checkpoints::open(path).ok()?;
    let mut chunks = Vec::new();
    while let Some(chunk) = opened.next_chunk().ok()? {
        chunks.push(chunk);
    }
    Some((opened.head, chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Beat;
    use crate::shard::{Applied, CarriedRequest, Outcome, PointWrite, VectorBytes, Work};
    use crate::store::keys::point;
    use crate::types::{PointId, RequestId};
    use std::fs;

    /// Everything libFuzzer started from or found for a target.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut paths: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty", directory.display());
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// One of each kind of record, as it is written: what libFuzzer starts from.
    fn records() -> Vec<(&'static str, Vec<u8>)> {
        let id = PointId::Num(5);
        let components: &[u8] = &[0, 0, 128, 63, 0, 0, 0, 64];
        let members = Members { index: 9, voters: vec![1, 2, 3], learners: vec![4], ..Members::default() };
        let write = PointWrite {
            id,
            spelling: Some("05"),
            if_version: Some(3),
            vectors: vec![VectorBytes { name: "", components }],
            payload: br#"{"a":1}"#,
        };
        let base = journal::Base { unfiled: vec![(id, 2)], filed: vec![("a".into(), 3)], astray: vec!["b".into()] };
        let journal = |entry| journal::encode(&entry).unwrap();
        let point = point::encode(4, None, Some("05"), &[("", components)], br#"{"a":1}"#);
        let request = RequestId::from_bytes([7; 16]);
        let point_of = |version| point::encode(version, None, None, &[], b"").unwrap();
        let (slots, record) = (SlotRange::new(200, 300).unwrap(), point_of(3));
        let mut border = Border::born(SlotRange::new(100, 300).unwrap());
        border.release(slots, 9, 7, (70_000, 6)).unwrap();
        let came = Cargo { version_floor: 900, epoch: 8, ..Cargo::default() };
        border.receive(SlotRange::new(90, 100).unwrap(), (4, 3), &came, INDEX).unwrap();
        let outcome = Outcome::Applied(Applied::Deleted { count: 5 }).encode();
        let carried = CarriedRequest { id: [7; 16], log_index: 8, covers: vec![slots], outcome: &outcome };
        let cargo = Cargo { version_floor: 300, epoch: 9, points: vec![(id, &record)], requests: vec![carried] };
        let cargo = cargo.encode().unwrap();
        let empty = Cargo { version_floor: 300, ..Cargo::default() }.encode().unwrap();
        let covering = RequestRecord { sequence: 3, log_index: 4, covers: vec![slots], outcome: b"out" };
        vec![
            ("entry", log::encode_entry(GROUP, INDEX, 3, log::EntryKind::Command, b"data")),
            ("group", GroupState { compacted_index: 40, compacted_term: 2 }.encode(GROUP)),
            ("hard", HardState { term: 3, vote: 1, commit: 41 }.encode(GROUP)),
            ("members", members.encode(GROUP).unwrap()),
            ("reached", Reached { term: 3, index: 41 }.encode(GROUP)),
            ("point", point.unwrap()),
            ("touched", journal(journal::Entry::Touched(vec![(id, 7)]))),
            ("base", journal(journal::Entry::Base(base))),
            ("before", before::encode(3, b"record")),
            ("begin", Upkeep::Begin { vector: "", work: Work::Arrange, list_rows: 300 }.encode().into()),
            ("adopt", Upkeep::Adopt { begun: 300 }.encode().into()),
            ("request", RequestRecord { sequence: 3, log_index: 4, covers: Vec::new(), outcome: b"out" }.encode()),
            ("upsert", Command::Upsert(vec![write]).encode(Some(request)).unwrap()),
            ("delete", Command::Delete(vec![id]).encode(None).unwrap()),
            ("delete_where", Command::DeleteWhere("{}").encode(None).unwrap()),
            ("release", Command::Release { slots, to: 9, epoch: 7 }.encode(None).unwrap()),
            ("receive", Command::Receive { from: 8, number: 300, slots, cargo: &empty }.encode(None).unwrap()),
            (
                "receive_points",
                Command::Receive { from: 8, number: 300, slots: SlotRange::ALL, cargo: &cargo }.encode(None).unwrap(),
            ),
            ("forget", Command::Forget { number: 300 }.encode(None).unwrap()),
            ("close", Command::Close.encode(None).unwrap()),
            ("request_covers", covering.encode()),
            ("border", border::encode(&border.encode())),
            ("cargo", border::encode(&cargo)),
        ]
    }

    /// Heartbeats beside a message, as a frame carries them.
    #[test]
    fn heartbeats_are_in_the_corpus_of_frames() {
        let beat = |group| Beat { group, term: group + 1, commit: 9, is_answer: group == 2 };
        let beats = [1, 2, 3].map(beat);
        let whole = raft::encode_beats(&beats).next().unwrap();
        let cut = whole.slice(1..);
        for (name, message) in [("beats", whole), ("beats_cut", cut)] {
            let bytes = peer::encode_frame_of([(BEATS, message), (7, Bytes::from_static(&[8, 4]))]);
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frame").join(name);
            if std::env::var_os("BLESS").is_some() {
                fs::write(&path, &bytes).unwrap();
            }
            assert_eq!(fs::read(path).ok(), Some(bytes.to_vec()), "{name}: run the test with BLESS=1");
        }
    }

    /// A shard never owns slots that there are not, whatever a peer says it was given: it could not be opened again.
    #[test]
    fn slots_that_there_are_not_do_not_move() {
        let empty = Cargo::default().encode().unwrap();
        for slots in [SlotRange { first: 200, end: 60_000 }, SlotRange { first: 9, end: 3 }] {
            moves(&Command::Receive { from: 8, number: 1, slots, cargo: &empty });
            moves(&Command::Release { slots, to: 9, epoch: 7 });
        }
    }

    /// `BLESS=1` writes what is missing.
    #[test]
    fn every_kind_of_record_is_in_the_corpus() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/log_records");
        for (name, bytes) in records() {
            if std::env::var_os("BLESS").is_some() {
                fs::write(directory.join(name), &bytes).unwrap();
            }
            assert_eq!(fs::read(directory.join(name)).ok(), Some(bytes), "{name}: run the test with BLESS=1");
        }
    }

    #[test]
    fn the_corpus_of_frames_does_no_harm() {
        corpus("frame").iter().for_each(|bytes| frame(bytes));
    }

    #[test]
    fn the_corpus_of_log_records_does_no_harm() {
        corpus("log_records").iter().for_each(|bytes| log_records(bytes));
    }

    #[test]
    fn the_corpus_of_checkpoints_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        corpus("checkpoint").iter().for_each(|bytes| checkpoint(directory.path(), bytes));
    }
}
