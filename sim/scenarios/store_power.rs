//! The product's store on the simulated disk, in both disciplines (every commit synced, as the log; synced now and then,
//! as the points), under every disk fault. The oracle is the list of commits: what is there after a restart must be
//! exactly the state after some number of commits, at least as many as were durable, over both spaces at once.
use super::Run;
use crate::{
    disk::LossModel,
    world::{self, log, sometimes},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{collections::BTreeMap, path::Path};
use vectorsphere::store::{DataDir, Direction, Discipline, Durability, Space, Store, StoreError, StoreOptions};

pub const MARKS: &[&str] = &[
    "unsynced commits were lost",
    "unsynced commits survived",
    "a commit failed",
    "opening failed on a read error",
    "the power failed before anything was durable",
    "a start found what a failed sync had not brought to the disk",
];

const LIVES: usize = 12;
const KEYS: u64 = 40;

/// What a commit does: values to put (key, length) and keys to delete, in the first space. The second counts commits.
struct Commit {
    puts: Vec<(u64, usize)>,
    deletes: Vec<u64>,
}

type State = BTreeMap<u64, (u64, usize)>;

/// The first space after the first `count` commits: key, number of the commit that wrote it, length.
fn state_after(commits: &[Commit], count: usize) -> State {
    let mut state = State::new();
    for (number, commit) in (1..).zip(&commits[..count]) {
        state.extend(commit.puts.iter().map(|(key, length)| (*key, (number, *length))));
        state.retain(|key, _| !commit.deletes.contains(key));
    }
    state
}

struct Opened {
    store: Store,
    points: Space,
    counter: Space,
    _directory: DataDir,
}

fn open(dir: &Path, discipline: Discipline) -> Result<Opened, StoreError> {
    let directory = DataDir::open(dir)?;
    let options = StoreOptions { memtable_bytes_max: 30_000, discipline, ..StoreOptions::default() };
    let store = Store::open(directory.join("data"), options)?;
    let (points, counter) = (store.space("points")?, store.space("counter")?);
    Ok(Opened { store, points, counter, _directory: directory })
}

pub async fn run(run: Run) {
    let mut rng = StdRng::seed_from_u64(run.seed);
    let dir = run.disk.root().join("node");
    let discipline = if rng.random() { Discipline::EveryCommitSynced } else { Discipline::SyncedNowAndThen };
    log!("{discipline:?}");
    let (mut commits, mut durable): (Vec<Commit>, usize) = (Vec::new(), 0);
    for life in 0..LIVES {
        let opened = open(&dir, discipline).unwrap_or_else(|error| panic!("life {life} cannot open: {error:?}"));
        let found = check(&opened, &commits, durable);
        log!("life {life}: {found} commits, {durable} were durable, {} were made", commits.len());
        sometimes!(found < commits.len(), "unsynced commits were lost");
        sometimes!(found > durable, "unsynced commits survived");
        sometimes!(found == 0 && !commits.is_empty(), "the power failed before anything was durable");
        commits.truncate(found);
        set_fault(&run, &dir, &mut rng);
        let sync_errors = run.disk.statistics().sync_errors;
        durable = live(&opened, &mut commits, durable, discipline, &mut rng);
        let sync_failed = run.disk.statistics().sync_errors > sync_errors;
        let killed = stop(&run, &dir, &mut rng);
        sometimes!(killed && sync_failed, "a start found what a failed sync had not brought to the disk");
        drop(opened);
        run.disk.restart(&dir);
        run.disk.mend(&dir);
        open_with_read_errors(&run, &dir, discipline, &mut rng);
    }
    world::count("ops.ok", commits.len() as u64);
}

fn set_fault(run: &Run, dir: &Path, rng: &mut StdRng) {
    match rng.random_range(0..4) {
        0 => {
            world::count("fault.sync_error", 1);
            run.disk.fail_syncs(dir, rng.random_range(0..12), 1);
        }
        1 => {
            world::count("fault.disk_full", 1);
            run.disk.limit_space(dir, rng.random_range(0..200_000));
        }
        _ => {}
    }
}

/// Commits until enough or until something fails; how many commits are durable.
fn live(
    opened: &Opened,
    commits: &mut Vec<Commit>,
    mut durable: usize,
    discipline: Discipline,
    rng: &mut StdRng,
) -> usize {
    for _ in 0..rng.random_range(0..50) {
        let synced = discipline == Discipline::EveryCommitSynced || rng.random_bool(0.2);
        commits.push(random_commit(rng));
        let done = commit(opened, commits, synced).and_then(|()| opened.store.maintain());
        if let Err(error) = done {
            log!("commit {} failed: {error}", commits.len());
            sometimes!(true, "a commit failed");
            let again = opened.store.batch().commit(Durability::Synced);
            assert!(again.is_err() && opened.store.is_poisoned(), "a store that failed takes no more");
            break;
        }
        durable = if synced { commits.len() } else { durable };
    }
    durable
}

fn random_commit(rng: &mut StdRng) -> Commit {
    let puts = (0..rng.random_range(1..5)).map(|_| (rng.random_range(0..KEYS), rng.random_range(0..4000))).collect();
    Commit { puts, deletes: (0..rng.random_range(0..2)).map(|_| rng.random_range(0..KEYS)).collect() }
}

/// Makes the last of `commits`.
fn commit(opened: &Opened, commits: &[Commit], synced: bool) -> Result<(), StoreError> {
    let (number, last) = (commits.len() as u64, commits.last().expect("pushed by the caller"));
    let mut batch = opened.store.batch();
    // The engine keeps the last write of a key in a batch, as the oracle does; deletes come after.
    let puts: BTreeMap<u64, usize> = last.puts.iter().copied().collect();
    for (key, length) in puts.iter().filter(|(key, _)| !last.deletes.contains(key)) {
        batch.put(&opened.points, &point_key(*key), &value(number, *length));
    }
    for key in &last.deletes {
        batch.delete(&opened.points, &point_key(*key));
    }
    batch.put(&opened.counter, b"commits", &number.to_be_bytes());
    batch.commit(if synced { Durability::Synced } else { Durability::Buffered })
}

/// A tag, as all keys have (0 is the store's own), then the number.
fn point_key(number: u64) -> [u8; 9] {
    let mut key = [1; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The commit's number, then filler that names it again.
fn value(number: u64, length: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(8 + length, number as u8);
    value
}

/// The process is killed (`true`) or the power fails. After a failed sync, too: the kernel goes on showing bytes it never wrote, and a
/// process started again without a power cycle must not build on what is not there.
fn stop(run: &Run, dir: &Path, rng: &mut StdRng) -> bool {
    let model = match rng.random_range(0..4) {
        0 => {
            world::count("fault.kill", 1);
            log!("kill");
            run.disk.kill(dir);
            return true;
        }
        1 => LossModel::Everything,
        2 => LossModel::KeepPrefix,
        _ => LossModel::KeepSome,
    };
    world::count("fault.power_loss", 1);
    let loss = run.disk.power_failure(dir, model, rng);
    log!("{model:?}: lost {} of {}: {:?}", loss.lost, loss.unsynced, loss.names);
    false
}

/// A start during which the disk cannot be read fails or is right, and harms nothing.
fn open_with_read_errors(run: &Run, dir: &Path, discipline: Discipline, rng: &mut StdRng) {
    if rng.random_bool(0.7) {
        return;
    }
    world::count("fault.read_error", 1);
    run.disk.fail_reads(dir, rng.random_range(0..20), 1);
    if let Err(error) = open(dir, discipline) {
        log!("cannot open: {error}");
        sometimes!(true, "opening failed on a read error");
    }
    run.disk.mend(dir);
}

/// Compares everything that is there with the oracle; how many commits there are.
fn check(opened: &Opened, commits: &[Commit], durable: usize) -> usize {
    let view = opened.store.view();
    let counter = view.get(&opened.counter, b"commits").expect("no fault is set");
    let found = counter.map_or(0, |value| u64::from_be_bytes(value[..].try_into().expect("eight bytes"))) as usize;
    assert!(found >= durable, "durable commits are lost: {found} of {durable}");
    assert!(found <= commits.len(), "{found} commits, only {} were made", commits.len());
    let mut there = BTreeMap::new();
    let (first, last) = (point_key(0), point_key(u64::MAX));
    for entry in view.range(&opened.points, &first[..]..&last[..], Direction::Forward) {
        let (key, bytes) = entry.expect("no fault is set");
        let number = u64::from_be_bytes(bytes[..8].try_into().expect("values begin with a number"));
        assert!(bytes[..] == value(number, bytes.len() - 8), "the value of commit {number} is damaged");
        there
            .insert(u64::from_be_bytes(key[1..].try_into().expect("a tag and eight bytes")), (number, bytes.len() - 8));
    }
    assert!(there == state_after(commits, found), "the state is not that after {found} commits: {there:?}");
    found
}
