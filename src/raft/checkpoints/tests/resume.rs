//! Streams that break, and what goes on behind them: how much is sent again, and what is noticed.

use super::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

const CHUNK: usize = 10_000;
const CHUNKS: u32 = 100;
const WHOLE: usize = CHUNK * CHUNKS as usize;

/// A state of numbered chunks; each giving out of it differs from every other.
struct State {
    giving: u64,
    next: u32,
    chunk_bytes: usize,
}

fn chunk(giving: u64, number: u32, bytes: usize) -> Bytes {
    let mut chunk = [&giving.to_le_bytes()[..], &number.to_le_bytes()].concat();
    chunk.resize(bytes, 7);
    chunk.into()
}

impl Checkpoint for State {
    fn index(&self) -> LogIndex {
        40
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        let number = self.next;
        self.next += 1;
        Ok((number < CHUNKS).then(|| chunk(self.giving, number, self.chunk_bytes)))
    }
}

/// A giver whose first streams break, each after so many parts.
#[derive(Clone)]
struct Giver {
    shelf: Arc<Shelf>,
    throttle: Arc<Throttle>,
    breaks: Arc<Mutex<VecDeque<usize>>>,
    begun: Arc<AtomicU64>,
    sent: Arc<AtomicUsize>,
    chunk_bytes: usize,
}

impl Giver {
    fn new(breaks: &[usize]) -> Giver {
        Giver {
            shelf: Shelf::new(2),
            throttle: Throttle::new(2, None),
            breaks: Arc::new(Mutex::new(breaks.iter().copied().collect())),
            begun: Arc::default(),
            sent: Arc::default(),
            chunk_bytes: CHUNK,
        }
    }

    /// Bytes of chunks that went out.
    fn sent(&self) -> usize {
        self.sent.load(SeqCst)
    }

    /// How many givings out of the state began.
    fn begun(&self) -> u64 {
        self.begun.load(SeqCst)
    }

    async fn give(&self, wanted: CheckpointWanted) -> Result<Box<dyn CheckpointStream>, FetchError> {
        let mut turn = self.throttle.begin()?;
        if let Some(place) = wanted.goes_on
            && let Some(kept) = self.shelf.find(GROUP, place.id)
        {
            match go_on(&self.shelf, kept, place, turn).await {
                Ok(parts) => return Ok(parts),
                Err(back) => turn = back,
            }
        }
        let giving = self.begun.fetch_add(1, SeqCst);
        let state = State { giving, next: 0, chunk_bytes: self.chunk_bytes };
        Ok(serve(&self.shelf, GROUP, head(), Box::new(state), turn))
    }
}

impl Transport for Giver {
    fn send(&self, _to: NodeId, _messages: Vec<GroupMessage>) -> Result<(), SendError> {
        Err(SendError::Disconnected)
    }

    fn fetch_checkpoint(
        &self,
        _from: NodeId,
        _group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        let giver = self.clone();
        async move {
            let left = giver.breaks.lock().unwrap().pop_front().unwrap_or(usize::MAX);
            let parts = giver.give(wanted).await?;
            Ok(Box::new(Breaking { parts, left, sent: giver.sent }) as Box<dyn CheckpointStream>)
        }
        .boxed()
    }
}

struct Breaking {
    parts: Box<dyn CheckpointStream>,
    left: usize,
    sent: Arc<AtomicUsize>,
}

impl CheckpointStream for Breaking {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        async move {
            let Some(left) = self.left.checked_sub(1) else { return Err(FetchError::Unreachable("cut".to_owned())) };
            self.left = left;
            let part = self.parts.next().await?;
            if let Some(CheckpointPart::Chunk(chunk)) = &part {
                self.sent.fetch_add(chunk.len(), SeqCst);
            }
            Ok(part)
        }
        .boxed()
    }
}

fn limits(tries: u32) -> FetchLimits {
    FetchLimits { tries, try_after: Duration::from_millis(1), ..FetchLimits::default() }
}

async fn fetch_from(giver: &Giver, dir: &Path, partials: &Partials, tries: u32) -> Result<Fetched, FetchError> {
    fetch(giver, dir, WANTED, partials, &limits(tries)).await
}

fn check(fetched: &Fetched, dir: &Path, giving: u64, chunk_bytes: usize) {
    let expected: Vec<_> = (0..CHUNKS).map(|number| chunk(giving, number, chunk_bytes)).collect();
    assert!(read(&fetched.path).unwrap() == expected, "what was given is what was taken");
    assert_eq!(files_in(dir), 1, "and nothing else lies here");
}

/// A fetch that broke after 30 chunks and was given up.
async fn broken(giver: &Giver, dir: &Path, partials: &Partials) -> PathBuf {
    let error = fetch_from(giver, dir, partials, 0).await.unwrap_err();
    assert_eq!(error, FetchError::Unreachable("cut".to_owned()));
    let left = super::partials(dir).unwrap();
    assert_eq!((left.len(), left[0].group, left[0].index), (1, GROUP, 40));
    left[0].path.clone()
}

#[tokio::test]
async fn what_breaks_in_the_middle_goes_on_and_nothing_is_sent_twice() {
    let dir = tempfile::tempdir().unwrap();
    // After 30 chunks, before anything, after a head, in the end, and between.
    let giver = Giver::new(&[31, 0, 1, 41, 20, 12]);
    let fetched = fetch_from(&giver, dir.path(), &Partials::default(), 3).await.unwrap();
    check(&fetched, dir.path(), 0, CHUNK);
    assert_eq!((giver.sent(), giver.begun()), (WHOLE, 1));
}

#[tokio::test]
async fn streams_that_bring_nothing_are_not_followed_by_others_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let partials = Partials::default();
    let giver = Giver::new(&[31, 1, 1, 1, 1, 1]);
    let error = fetch_from(&giver, dir.path(), &partials, 3).await.unwrap_err();
    assert_eq!(error, FetchError::Unreachable("cut".to_owned()));
    assert_eq!(giver.breaks.lock().unwrap().len(), 2, "three more were tried");
    // Offered again, it goes on.
    let fetched = fetch_from(&giver, dir.path(), &partials, 3).await.unwrap();
    check(&fetched, dir.path(), 0, CHUNK);
    assert_eq!(giver.sent(), WHOLE);
}

#[tokio::test]
async fn a_node_that_starts_again_goes_on_with_what_its_directory_has() {
    let dir = tempfile::tempdir().unwrap();
    let giver = Giver::new(&[31]);
    broken(&giver, dir.path(), &Partials::default()).await;
    // Another process: all it knows is in the directory.
    let partials = Partials::default();
    super::partials(dir.path()).unwrap().into_iter().for_each(|partial| partials.put(partial));
    assert_eq!(found(dir.path()).unwrap(), [], "it is not whole, and stays");
    let fetched = fetch_from(&giver, dir.path(), &partials, 0).await.unwrap();
    check(&fetched, dir.path(), 0, CHUNK);
    assert_eq!((giver.sent(), giver.begun()), (WHOLE, 1));
}

#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_what_the_next_start_goes_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let giver = Giver::new(&[31, 0]);
    let patient = FetchLimits { try_after: Duration::from_secs(100), ..limits(3) };
    let partials = Partials::default();
    let dropped = fetch(&giver, dir.path(), WANTED, &partials, &patient);
    assert!(time::timeout(Duration::from_millis(200), dropped).await.is_err());
    super::partials(dir.path()).unwrap().into_iter().for_each(|partial| partials.put(partial));
    giver.breaks.lock().unwrap().clear();
    let fetched = fetch_from(&giver, dir.path(), &partials, 0).await.unwrap();
    check(&fetched, dir.path(), 0, CHUNK);
    assert_eq!((giver.sent(), giver.begun()), (WHOLE, 1));
}

#[tokio::test]
async fn another_giving_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (giver, partials) = (Giver::new(&[31]), Partials::default());
    broken(&giver, dir.path(), &partials).await;
    giver.shelf.forget(GROUP);
    let fetched = fetch_from(&giver, dir.path(), &partials, 0).await.unwrap();
    check(&fetched, dir.path(), 1, CHUNK);
    assert_eq!((giver.sent(), giver.begun()), (30 * CHUNK + WHOLE, 2));
}

#[tokio::test]
async fn what_is_too_old_to_be_of_use_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (giver, partials) = (Giver::new(&[31]), Partials::default());
    broken(&giver, dir.path(), &partials).await;
    let later = Wanted { partial_at_least: 41, ..WANTED };
    let fetched = fetch(&giver, dir.path(), later, &partials, &limits(0)).await.unwrap();
    check(&fetched, dir.path(), 1, CHUNK);
    assert_eq!(giver.sent(), 30 * CHUNK + WHOLE);
}

#[tokio::test]
async fn a_changed_byte_in_what_came_is_noticed_and_fetched_again() {
    // In the head of the file, in its first block, in the 11th chunk, in the last.
    for (at, good) in [(3, None), (20, None), (11 * CHUNK, Some(10)), (30 * CHUNK, Some(29))] {
        let dir = tempfile::tempdir().unwrap();
        let (giver, partials) = (Giver::new(&[31]), Partials::default());
        let path = broken(&giver, dir.path(), &partials).await;
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let fetched = fetch_from(&giver, dir.path(), &partials, 0).await.unwrap();
        check(&fetched, dir.path(), if good.is_some() { 0 } else { 1 }, CHUNK);
        assert_eq!(giver.sent(), 30 * CHUNK + WHOLE - good.unwrap_or(0) * CHUNK, "changed at {at}");
    }
}

/// What a power loss takes from the taker may be more than the giver has at hand.
#[tokio::test]
async fn who_lost_too_much_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let large = 1 << 20;
    let (giver, partials) = (Giver { chunk_bytes: large, ..Giver::new(&[31]) }, Partials::default());
    let path = broken(&giver, dir.path(), &partials).await;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(20 * large as u64).unwrap();
    let fetched = fetch_from(&giver, dir.path(), &partials, 0).await.unwrap();
    check(&fetched, dir.path(), 1, large);
    assert_eq!(giver.sent(), (30 + CHUNKS as usize) * large);
}

#[tokio::test]
async fn a_giver_that_goes_on_with_what_was_not_asked_for_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let place = CheckpointPlace { id: 5, chunks: 2 };
    let parts = vec![CheckpointPart::Head(head(), place), CheckpointPart::End { chunks: 2, hash: 0 }];
    let error = fetch_into(dir.path(), &Network::of(parts), &limits(3)).await.unwrap_err();
    assert!(matches!(error, FetchError::Damaged(_)), "{error}");
    assert_eq!(files_in(dir.path()), 0);
}

#[tokio::test]
async fn an_older_stream_gives_nothing_more_and_takes_nothing_away() {
    let giver = Giver::new(&[]);
    let new = CheckpointWanted { at_least: 40, goes_on: None };
    let mut older = giver.give(new).await.unwrap();
    let Some(CheckpointPart::Head(_, place)) = older.next().await.unwrap() else { panic!("the head comes first") };
    assert_eq!(older.next().await.unwrap(), Some(CheckpointPart::Chunk(chunk(0, 0, CHUNK))));
    let place = CheckpointPlace { chunks: 1, ..place };
    let mut newer = giver.give(CheckpointWanted { goes_on: Some(place), ..new }).await.unwrap();
    assert_eq!(newer.next().await.unwrap(), Some(CheckpointPart::Head(head(), place)));
    assert!(matches!(older.next().await, Err(FetchError::Refused(_))));
    drop(older);
    assert_eq!(newer.next().await.unwrap(), Some(CheckpointPart::Chunk(chunk(0, 1, CHUNK))));
    assert!(giver.shelf.find(GROUP, place.id).is_some());
    assert!(giver.shelf.find(GROUP + 1, place.id).is_none());
    while newer.next().await.unwrap().is_some() {}
    assert_eq!(giver.shelf.count(), 0, "it was given whole");
}

#[tokio::test]
async fn neither_end_keeps_what_nobody_comes_back_for() {
    let dir = tempfile::tempdir().unwrap();
    let (giver, partials) = (Giver::new(&[31, 31, 31]), Partials::default());
    let path = broken(&giver, dir.path(), &partials).await;
    let now = time::now();
    giver.shelf.count_time(now);
    assert_eq!(partials.count_time(now), Vec::<PathBuf>::new());
    let almost = now + GONE_ON_WITHIN - Duration::from_millis(1);
    giver.shelf.count_time(almost);
    assert_eq!((giver.shelf.count(), partials.count_time(almost).len()), (1, 0));
    let over = now + GONE_ON_WITHIN;
    giver.shelf.count_time(over);
    assert_eq!((giver.shelf.count(), partials.count_time(over)), (0, vec![path]));
    assert_eq!(partials.count_time(over), Vec::<PathBuf>::new());

    // No more are kept than may be given at once, and what is being given stays.
    let new = CheckpointWanted { at_least: 40, goes_on: None };
    let given = giver.give(new).await.unwrap();
    for _ in 0..4 {
        drop(giver.give(new).await.unwrap());
    }
    // The last of them was seen by none that came after it.
    assert_eq!(giver.shelf.count(), 4);
    giver.shelf.count_time(over);
    assert_eq!(giver.shelf.count(), 3);
    giver.shelf.count_time(over + 2 * GONE_ON_WITHIN);
    assert_eq!(giver.shelf.count(), 1);
    drop(given);
}
