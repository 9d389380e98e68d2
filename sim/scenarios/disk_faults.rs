//! Each fault of the simulated disk, one after the other, through std::fs: what the program sees and what is left.
use super::Run;
use crate::{
    disk::{Disk, LossModel},
    world::log,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

type Case = fn(&Disk, &Path, &mut StdRng);

pub async fn run(run: Run) {
    let mut rng = StdRng::seed_from_u64(run.seed);
    let disk = &run.disk;
    let cases: [(&str, Case); 7] = [
        ("kill_keeps_what_was_written", kill_keeps_what_was_written),
        ("dead_processes_write_nothing", dead_processes_write_nothing),
        ("a_failed_sync_dooms_its_writes", a_failed_sync_dooms_its_writes),
        ("reads_fail_when_told", reads_fail_when_told),
        ("the_disk_fills_up", the_disk_fills_up),
        ("writes_tear_at_sectors", writes_tear_at_sectors),
        ("a_rename_needs_its_directory_synced", a_rename_needs_its_directory_synced),
    ];
    for (name, case) in cases {
        let dir = disk.root().join(name);
        fs::create_dir(&dir).expect("the disk takes a directory");
        sync_directory(disk.root());
        case(disk, &dir, &mut rng);
        log!("{name} holds");
    }
}

fn sync_directory(dir: &Path) {
    File::open(dir).and_then(|dir| dir.sync_all()).expect("no fault is set");
}

/// A durable file of that content.
fn durable(dir: &Path, name: &str, content: &[u8]) -> File {
    let path = dir.join(name);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("a new name");
    file.write_all(content).expect("no fault is set");
    file.sync_all().expect("no fault is set");
    sync_directory(dir);
    file
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn kill_keeps_what_was_written(disk: &Disk, dir: &Path, _: &mut StdRng) {
    let mut file = durable(dir, "f", b"synced ");
    file.write_all(b"written").expect("no fault is set");
    disk.kill(dir);
    drop(file);
    disk.restart(dir);
    assert_eq!(fs::read(dir.join("f")).expect("it is there"), b"synced written");
}

fn dead_processes_write_nothing(disk: &Disk, dir: &Path, _: &mut StdRng) {
    let mut file = durable(dir, "f", b"before");
    disk.kill(dir);
    file.write_all(b"from the grave").expect("the dead do not notice");
    file.set_len(0).expect("the dead do not notice");
    fs::remove_file(dir.join("f")).expect("the dead do not notice");
    assert_eq!(errno(File::create_new(dir.join("new"))), Some(libc::EIO));
    disk.restart(dir);
    file.write_all(b"still dead").expect("the dead do not notice");
    assert_eq!(fs::read(dir.join("f")).expect("it is there"), b"before");
    fs::write(dir.join("f"), b"alive").expect("a new process may write");
    assert_eq!(fs::read(dir.join("f")).expect("it is there"), b"alive");
}

fn a_failed_sync_dooms_its_writes(disk: &Disk, dir: &Path, rng: &mut StdRng) {
    let mut file = durable(dir, "f", b"one");
    file.write_all(b"two").expect("no fault is set");
    disk.fail_syncs(dir, 0, 1);
    assert_eq!(errno(file.sync_data()), Some(libc::EIO));
    file.write_all(b"three").expect("no fault is set");
    file.sync_data().expect("the fault is over");
    assert_eq!(fs::read(dir.join("f")).expect("it is there"), b"onetwothree", "reads see everything");
    // Even the mildest failure takes what the failed sync covered; what a later sync covered stays.
    disk.power_failure(dir, LossModel::KeepPrefix, rng);
    disk.restart(dir);
    assert_eq!(fs::read(dir.join("f")).expect("it is there"), b"one\0\0\0three");
}

fn reads_fail_when_told(disk: &Disk, dir: &Path, _: &mut StdRng) {
    drop(durable(dir, "f", b"content"));
    disk.fail_reads(dir, 1, 2);
    let mut file = File::open(dir.join("f")).expect("opening reads nothing");
    let mut byte = [0];
    assert_eq!(file.read(&mut byte).expect("one is let through"), 1);
    assert_eq!(errno(file.read(&mut byte)), Some(libc::EIO));
    assert_eq!(errno(file.read(&mut byte)), Some(libc::EIO));
    assert_eq!(file.read(&mut byte).expect("the fault is over"), 1);
}

fn the_disk_fills_up(disk: &Disk, dir: &Path, _: &mut StdRng) {
    let mut file = durable(dir, "f", b"");
    disk.limit_space(dir, 10);
    let free = || vectorsphere::store::room::free_bytes(dir).expect("it is told");
    assert_eq!(free(), 10);
    file.write_all(b"12345678").expect("it fits");
    assert_eq!(free(), 2);
    assert_eq!(errno(file.write_all(b"abcd")), Some(libc::ENOSPC));
    assert_eq!(fs::read(dir.join("f")).expect("it is there"), b"12345678ab", "a write may come short");
    assert_eq!(errno(File::create_new(dir.join("new"))), Some(libc::ENOSPC));
    assert_eq!(errno(fs::create_dir(dir.join("directory"))), Some(libc::ENOSPC));
    assert_eq!(free(), 0);
    disk.mend(dir);
    assert!(free() > 1 << 30);
    file.write_all(b"cd").expect("there is room again");
}

fn writes_tear_at_sectors(disk: &Disk, dir: &Path, rng: &mut StdRng) {
    for round in 0..20 {
        let name = format!("f{round}");
        let mut file = durable(dir, &name, &[b'o'; 4096]);
        let (from, to) = (rng.random_range(0..2000), rng.random_range(2000..4096));
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from as u64)).expect("files can seek");
        file.write_all(&vec![b'n'; to - from]).expect("no fault is set");
        let model = if round % 2 == 0 { LossModel::KeepPrefix } else { LossModel::KeepSome };
        disk.power_failure(dir, model, rng);
        disk.restart(dir);
        let content = fs::read(dir.join(&name)).expect("it is there");
        assert_eq!(content.len(), 4096);
        for place in 1..content.len() {
            let changes = content[place] != content[place - 1];
            assert!(!changes || place == from || place == to || place % 512 == 0, "torn at {place}, not at a sector");
        }
    }
}

fn a_rename_needs_its_directory_synced(disk: &Disk, dir: &Path, rng: &mut StdRng) {
    for synced in [false, true] {
        let (old, new) = (format!("old{synced}"), format!("new{synced}"));
        drop(durable(dir, &old, b"old"));
        drop(durable(dir, &new, b"new"));
        fs::rename(dir.join(&new), dir.join(&old)).expect("both are there");
        if synced {
            sync_directory(dir);
        }
        disk.power_failure(dir, LossModel::Everything, rng);
        disk.restart(dir);
        let expected: &[u8] = if synced { b"new" } else { b"old" };
        assert_eq!(fs::read(dir.join(&old)).expect("it is there"), expected);
        assert_eq!(dir.join(&new).exists(), !synced);
    }
}
