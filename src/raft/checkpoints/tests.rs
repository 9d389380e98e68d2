//! Checkpoints that come whole, and all the ways in which they do not.

mod resume;

use super::*;
use crate::raft::{
    ApplyError, CHUNK_BYTES_MAX, Checkpoint, CheckpointHead, CheckpointPart, CheckpointPlace, CheckpointReader,
    CheckpointStream, CheckpointWanted, FetchError, GroupId, GroupMessage, LogIndex, NodeId, SendError, Transport,
};
use crate::rt::time;
use crate::store::StoreError;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::fs;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const GROUP: GroupId = 7;
const LEADER: NodeId = 1;
const WANTED: Wanted = Wanted { from: LEADER, group: GROUP, at_least: 40, partial_at_least: 40 };

fn head() -> CheckpointHead {
    CheckpointHead { index: 40, term: 3, members: Bytes::from_static(b"members") }
}

fn chunks() -> Vec<Bytes> {
    vec![Bytes::from(vec![1; 300]), Bytes::from(vec![2; CHUNK_BYTES_MAX]), Bytes::from_static(b"last")]
}

/// What a faithful giver sends.
fn parts() -> Vec<CheckpointPart> {
    let mut parts = vec![CheckpointPart::Head(head(), CheckpointPlace::default())];
    parts.extend(chunks().into_iter().map(CheckpointPart::Chunk));
    let hash = xxh3_64(&chunks().concat());
    parts.push(CheckpointPart::End { chunks: 3, hash });
    parts
}

/// A stream of prepared answers; when they are used up it ends, or hangs.
struct Prepared {
    answers: VecDeque<Result<CheckpointPart, FetchError>>,
    hangs: bool,
}

impl CheckpointStream for Prepared {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        match self.answers.pop_front() {
            None if self.hangs => std::future::pending().boxed(),
            answer => std::future::ready(answer.transpose()).boxed(),
        }
    }
}

/// A network that answers one fetch with a given stream.
struct Network(Mutex<Option<Box<dyn CheckpointStream>>>);

impl Network {
    fn giving(stream: Box<dyn CheckpointStream>) -> Network {
        Network(Mutex::new(Some(stream)))
    }

    fn of(parts: Vec<CheckpointPart>) -> Network {
        Network::giving(Box::new(Prepared { answers: parts.into_iter().map(Ok).collect(), hangs: false }))
    }
}

impl Transport for Network {
    fn send(&self, _to: NodeId, _messages: Vec<GroupMessage>) -> Result<(), SendError> {
        Err(SendError::Disconnected)
    }

    fn fetch_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        _wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        assert_eq!((from, group), (LEADER, GROUP));
        let stream = self.0.lock().unwrap().take();
        std::future::ready(stream.ok_or_else(|| FetchError::Refused("once only".to_owned()))).boxed()
    }
}

async fn fetch_into(dir: &Path, network: &Network, limits: &FetchLimits) -> Result<Fetched, FetchError> {
    fetch(network, dir, WANTED, &Partials::default(), limits).await
}

fn files_in(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

fn read(path: &Path) -> Result<Vec<Bytes>, ApplyError> {
    let mut opened = open(path)?;
    assert_eq!((opened.group, &opened.head), (GROUP, &head()));
    let mut chunks = Vec::new();
    while let Some(chunk) = opened.next_chunk()? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

#[tokio::test]
async fn a_whole_checkpoint_is_kept_found_read_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let fetched = fetch_into(dir.path(), &Network::of(parts()), &FetchLimits::default()).await.unwrap();
    assert_eq!(fetched.head, head());
    assert_eq!(files_in(dir.path()), 1);
    let expected = FoundCheckpoint { group: GROUP, head: head(), path: fetched.path.clone() };
    assert_eq!(found(dir.path()).unwrap(), [expected]);
    assert_eq!(read(&fetched.path).unwrap(), chunks());
    remove(&fetched.path).unwrap();
    remove(&fetched.path).unwrap();
    assert_eq!(found(dir.path()).unwrap(), []);
    assert!(matches!(open(&fetched.path), Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn a_state_without_chunks_is_whole_too() {
    let dir = tempfile::tempdir().unwrap();
    let parts = vec![
        CheckpointPart::Head(head(), CheckpointPlace::default()),
        CheckpointPart::End { chunks: 0, hash: xxh3_64(b"") },
    ];
    let fetched = fetch_into(dir.path(), &Network::of(parts), &FetchLimits::default()).await.unwrap();
    assert_eq!(read(&fetched.path).unwrap(), Vec::<Bytes>::new());
}

#[tokio::test]
async fn what_does_not_come_whole_leaves_nothing() {
    let hash = xxh3_64(&chunks().concat());
    let with = |change: &dyn Fn(&mut Vec<CheckpointPart>)| {
        let mut parts = parts();
        change(&mut parts);
        parts
    };
    let cases: Vec<(&str, Vec<CheckpointPart>, bool)> = vec![
        ("no part at all", Vec::new(), false),
        ("no end", with(&|parts| drop(parts.pop())), false),
        ("no head", with(&|parts| drop(parts.remove(0))), true),
        ("two heads", with(&|parts| parts.insert(2, CheckpointPart::Head(head(), CheckpointPlace::default()))), true),
        ("chunks in another order", with(&|parts| parts.swap(1, 3)), true),
        ("a chunk missing", with(&|parts| drop(parts.remove(2))), true),
        ("a chunk twice", with(&|parts| parts.insert(2, parts[1].clone())), true),
        ("a chunk changed", with(&|parts| parts[3] = CheckpointPart::Chunk(Bytes::from_static(b"lost"))), true),
        ("the wrong hash", with(&|parts| parts[4] = CheckpointPart::End { chunks: 3, hash: hash ^ 1 }), true),
        ("the wrong count", with(&|parts| parts[4] = CheckpointPart::End { chunks: 2, hash }), true),
        ("an empty chunk", with(&|parts| parts.insert(1, CheckpointPart::Chunk(Bytes::new()))), true),
        (
            "a chunk too long",
            with(&|parts| parts[1] = CheckpointPart::Chunk(Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]))),
            true,
        ),
        (
            "an older state than asked for",
            with(&|parts| {
                parts[0] = CheckpointPart::Head(CheckpointHead { index: 39, ..head() }, CheckpointPlace::default())
            }),
            true,
        ),
        (
            "members without end",
            with(&|parts| {
                let members = Bytes::from(vec![0; 1 << 20]);
                parts[0] = CheckpointPart::Head(CheckpointHead { members, ..head() }, CheckpointPlace::default());
            }),
            true,
        ),
    ];
    for (what, parts, is_damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = fetch_into(dir.path(), &Network::of(parts), &FetchLimits::default()).await.expect_err(what);
        assert_eq!(matches!(error, FetchError::Damaged(_)), is_damage, "{what}: {error}");
        assert_eq!(matches!(error, FetchError::Unreachable(_)), !is_damage, "{what}: {error}");
        assert_eq!(files_in(dir.path()), 0, "{what}");
    }
}

#[tokio::test]
async fn streams_that_break_stall_or_grow_without_end_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let limits = FetchLimits { part_timeout: Duration::from_millis(50), ..FetchLimits::default() };
    let mut answers: VecDeque<_> = parts().into_iter().take(2).map(Ok).collect();
    let stalled = Network::giving(Box::new(Prepared { answers: answers.clone(), hangs: true }));
    let error = fetch_into(dir.path(), &stalled, &limits).await.unwrap_err();
    assert!(matches!(error, FetchError::Unreachable(_)), "{error}");

    answers.push_back(Err(FetchError::Unreachable("cut".to_owned())));
    let broken = Network::giving(Box::new(Prepared { answers, hangs: false }));
    let error = fetch_into(dir.path(), &broken, &limits).await.unwrap_err();
    assert_eq!(error, FetchError::Unreachable("cut".to_owned()));

    let small = FetchLimits { bytes_max: 1_000, ..limits };
    let error = fetch_into(dir.path(), &Network::of(parts()), &small).await.unwrap_err();
    assert!(matches!(error, FetchError::Damaged(_)), "{error}");

    let stalled =
        Network::giving(Box::new(Prepared { answers: parts().into_iter().take(3).map(Ok).collect(), hangs: true }));
    let patient = FetchLimits::default();
    let dropped = time::timeout(Duration::from_millis(100), fetch_into(dir.path(), &stalled, &patient)).await;
    assert!(dropped.is_err());
    assert_eq!(files_in(dir.path()), 0);

    let error = fetch_into(&dir.path().join("absent"), &Network::of(parts()), &limits).await.unwrap_err();
    assert!(matches!(error, FetchError::Disk(_)), "{error}");
}

#[tokio::test]
async fn leftovers_and_damaged_files_are_cleared_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fetch_into(dir.path(), &Network::of(parts()), &FetchLimits::default()).await.unwrap().path;
    let bytes = fs::read(&whole).unwrap();
    fs::write(dir.path().join("7-41.checkpoint.0.tmp"), &bytes[..100]).unwrap();
    fs::write(dir.path().join("7-42.checkpoint"), &bytes[..bytes.len() - 1]).unwrap();
    fs::write(dir.path().join("7-43.checkpoint"), b"").unwrap();
    fs::write(dir.path().join("notes"), b"not ours").unwrap();
    let paths: Vec<_> = found(dir.path()).unwrap().into_iter().map(|checkpoint| checkpoint.path).collect();
    assert_eq!(paths, std::slice::from_ref(&whole));
    assert_eq!(files_in(dir.path()), 2, "the whole one, and what is not ours");

    // Damage inside a file is found when it is read, before its end is told.
    let mut flipped = bytes;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&whole, &flipped).unwrap();
    assert!(matches!(read(&whole), Err(ApplyError::Store(StoreError::Corrupt { .. }))));
}

/// A state of numbered chunks, some of them empty.
struct Numbers {
    left: u32,
    chunk_bytes: usize,
}

impl Checkpoint for Numbers {
    fn index(&self) -> LogIndex {
        40
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let length = if left % 3 == 0 { 0 } else { self.chunk_bytes };
        Ok(Some(Bytes::from(vec![left as u8; length])))
    }
}

/// The parts of a state, by a giver that keeps nothing of it.
fn given(state: Box<dyn Checkpoint>, turn: Turn) -> Box<dyn CheckpointStream> {
    serve(&Shelf::new(0), GROUP, head(), state, turn)
}

#[tokio::test]
async fn what_is_served_can_be_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let throttle = Throttle::new(1, None);
    let numbers = Numbers { left: 9, chunk_bytes: 10 };
    let stream = given(Box::new(numbers), throttle.begin().unwrap());
    let fetched = fetch_into(dir.path(), &Network::giving(stream), &FetchLimits::default()).await.unwrap();
    let expected: Vec<_> = [8, 7, 5, 4, 2, 1].iter().map(|number| Bytes::from(vec![*number; 10])).collect();
    assert_eq!(read(&fetched.path).unwrap(), expected);
}

#[tokio::test]
async fn a_state_that_gives_too_long_a_chunk_or_fails_is_refused() {
    struct Failing;
    impl Checkpoint for Failing {
        fn index(&self) -> LogIndex {
            40
        }
        fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
            Err(ApplyError::Entry { index: 40, problem: "unreadable".to_owned() })
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let throttle = Throttle::new(1, None);
    let states: [Box<dyn Checkpoint>; 2] =
        [Box::new(Failing), Box::new(Numbers { left: 2, chunk_bytes: CHUNK_BYTES_MAX + 1 })];
    for state in states {
        let network = Network::giving(given(state, throttle.begin().unwrap()));
        let error = fetch_into(dir.path(), &network, &FetchLimits::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)), "{error}");
        assert_eq!(files_in(dir.path()), 0);
    }
}

#[tokio::test]
async fn no_more_are_given_at_once_than_allowed() {
    let throttle = Throttle::new(2, None);
    let give = || Ok::<_, FetchError>(given(Box::new(Numbers { left: 1, chunk_bytes: 1 }), throttle.begin()?));
    let first = give().unwrap();
    let _second = give().unwrap();
    assert!(matches!(give().map(drop), Err(FetchError::Refused(_))));
    drop(first);
    give().unwrap();
}

#[tokio::test]
async fn all_together_keep_to_the_share_of_bytes() {
    // Two streams of 10 chunks of 10 kB at 1 MB/s: 0.2 s for both, less the first chunk, which goes at once.
    let throttle = Throttle::new(2, NonZeroU64::new(1_000_000));
    let began = time::now();
    let give = |throttle: &Arc<Throttle>| {
        let mut stream = given(Box::new(Numbers { left: 15, chunk_bytes: 10_000 }), throttle.begin().unwrap());
        async move {
            let mut bytes = 0;
            while let Some(part) = stream.next().await.unwrap() {
                if let CheckpointPart::Chunk(chunk) = part {
                    bytes += chunk.len();
                }
            }
            bytes
        }
    };
    let (one, two) = futures_util::future::join(give(&throttle), give(&throttle)).await;
    assert_eq!((one, two), (100_000, 100_000));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(190), "{took:?}");
}
