//! Real fjall on the simulated disk, used as the store uses it: batches, SyncData, flush and compaction by the caller.
//! After every power failure it opens, holds everything that was synced, in order and without a hole. The one exception
//! is fjall's own: a batch torn in the middle by a disk that reorders sectors makes it refuse to open, whether the batch
//! was synced or not. It refuses, it does not lie; `store` mends what was not synced before fjall sees it.
use super::Run;
use crate::{
    disk::LossModel,
    world::{self, log, sometimes},
};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::path::Path;

pub const MARKS: &[&str] = &[
    "unsynced records were lost",
    "unsynced records survived",
    "tables were flushed",
    "a sync failed",
    "fjall refused a torn batch",
];

const POWER_FAILURES: usize = 10;
const MEMTABLE_BYTES: u64 = 40_000;

pub async fn run(run: Run) {
    let mut rng = StdRng::seed_from_u64(run.seed);
    let dir = run.disk.root().join("node");
    std::fs::create_dir(&dir).expect("the disk takes a directory");
    std::fs::File::open(run.disk.root()).and_then(|root| root.sync_all()).expect("no fault is set");
    let (mut synced, mut written, mut torn) = (0, 0, false);
    for life in 0..POWER_FAILURES {
        let (database, records) = match open(&dir) {
            Ok(opened) => opened,
            Err(error) if torn && format!("{error:?}").contains("JournalRecovery(ChecksumMismatch)") => {
                log!("fjall refuses a torn batch");
                sometimes!(true, "fjall refused a torn batch");
                break;
            }
            Err(error) => panic!("fjall refuses to open: {error:?}"),
        };
        let found = check(&records, synced);
        sometimes!(found < written, "unsynced records were lost");
        sometimes!(found > synced, "unsynced records survived");
        log!("life {life}: {found} records, {synced} were synced, {written} written");
        written = found;
        if life % 4 == 3 {
            run.disk.fail_syncs(&dir, rng.random_range(0..4), 1);
        }
        for _ in 0..rng.random_range(5..60) {
            match write_some(&database, &records, &mut written, &mut rng) {
                Ok(true) => synced = written,
                Ok(false) => {}
                Err(error) => {
                    log!("write failed: {error:?}");
                    sometimes!(true, "a sync failed");
                    break;
                }
            }
        }
        let model = [LossModel::Everything, LossModel::KeepPrefix, LossModel::KeepSome][rng.random_range(0..3)];
        torn = model == LossModel::KeepSome;
        let loss = run.disk.power_failure(&dir, model, &mut rng);
        log!("{model:?}: lost {} of {}: {:?}", loss.lost, loss.unsynced, loss.names);
        world::count("fault.power_loss", 1);
        drop((database, records));
        run.disk.restart(&dir);
        run.disk.mend(&dir);
    }
    world::count("ops.ok", written);
}

fn open(dir: &Path) -> fjall::Result<(Database, Keyspace)> {
    let path = dir.join("db");
    let database = Database::builder(&path).worker_threads_unchecked(0).open()?;
    let records = database.keyspace("records", || KeyspaceCreateOptions::default().max_memtable_size(u64::MAX))?;
    // fjall 3.1.13 syncs neither the directory its own lies in nor the one that holds its keyspaces' directories.
    for created_in in [dir, &path.join("keyspaces")] {
        std::fs::File::open(created_in)?.sync_all()?;
    }
    Ok((database, records))
}

/// Records are 1, 2, 3, …: at least `synced` of them, without a hole. The last one.
fn check(records: &Keyspace, synced: u64) -> u64 {
    let mut last = 0;
    for record in records.iter() {
        let (key, value) = record.into_inner().unwrap_or_else(|error| panic!("record after {last}: {error:?}"));
        let key = u64::from_be_bytes(key.as_ref().try_into().expect("keys are eight bytes"));
        assert_eq!(key, last + 1, "a hole in the records");
        assert!(value.iter().all(|byte| *byte == key as u8), "record {key} is damaged");
        last = key;
    }
    assert!(last >= synced, "synced records are lost: {last} of {synced}");
    last
}

/// Writes a batch; whether everything is durable now.
fn write_some(database: &Database, records: &Keyspace, written: &mut u64, rng: &mut StdRng) -> fjall::Result<bool> {
    let mut batch = database.batch();
    for _ in 0..rng.random_range(1..5) {
        *written += 1;
        batch.insert(records, written.to_be_bytes(), vec![*written as u8; rng.random_range(10..3000)]);
    }
    batch.commit()?;
    let flush = records.tree.active_memtable().size() > MEMTABLE_BYTES;
    let sync = flush || rng.random_bool(0.3);
    if sync {
        database.persist(PersistMode::SyncData)?;
    }
    if flush {
        flush_and_compact(records)?;
        sometimes!(true, "tables were flushed");
    }
    Ok(sync)
}

/// What fjall's worker threads would do.
fn flush_and_compact(records: &Keyspace) -> fjall::Result<()> {
    records.tree.rotate_memtable();
    let lock = records.tree.get_flush_lock();
    records.tree.flush(&lock, 0)?;
    drop(lock);
    if records.tree.table_count() > 4 {
        records.major_compact()?;
    }
    Ok(())
}
