//! The simulated disk against its specification: random file work through std::fs, power failures, and a comparison
//! with a model that knows nothing of undo logs: it keeps for every file what was fsynced last and every state since.
use super::Run;
use crate::{
    disk::LossModel,
    world::{self, log, sometimes},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

pub const MARKS: &[&str] =
    &["a file came back after its removal", "a new file was lost with its name", "only part of a file survived"];

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const POWER_FAILURES: usize = 12;

/// Every state a thing had since it was last durable; the first is the durable one, the last the current one.
type Since<T> = Vec<T>;

type Inode = usize;
type Names = BTreeMap<String, Inode>;

struct Specification {
    contents: Vec<Since<Vec<u8>>>,
    names: Since<Names>,
}

impl Specification {
    fn current(&self, name: &str) -> Option<Inode> {
        self.names.last().expect("never empty").get(name).copied()
    }

    fn rename(&mut self, change: impl FnOnce(&mut Names)) {
        let mut names = self.names.last().expect("never empty").clone();
        change(&mut names);
        self.names.push(names);
    }

    fn write(&mut self, inode: Inode, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.contents[inode].last().expect("never empty").clone();
        change(&mut content);
        self.contents[inode].push(content);
    }

    fn durable<T: Clone>(since: &mut Since<T>) {
        *since = vec![since.last().expect("never empty").clone()];
    }
}

pub async fn run(run: Run) {
    let mut rng = StdRng::seed_from_u64(run.seed);
    let dir = run.disk.root().join("node");
    fs::create_dir(&dir).expect("the disk takes a directory");
    sync_directory(run.disk.root());
    let mut specification = Specification { contents: Vec::new(), names: vec![Names::new()] };
    for _ in 0..POWER_FAILURES {
        for _ in 0..rng.random_range(1..40) {
            change_something(&dir, &mut specification, &mut rng);
            compare_exactly(&dir, &specification);
        }
        let model = [LossModel::Everything, LossModel::KeepPrefix, LossModel::KeepSome][rng.random_range(0..3)];
        let loss = run.disk.power_failure(&dir, model, &mut rng);
        run.disk.restart(&dir);
        log!("{model:?}: lost {} of {}", loss.lost, loss.unsynced);
        world::count("fault.power_loss", 1);
        survive(&dir, &mut specification, model);
    }
    let statistics = run.disk.statistics();
    log!("{statistics:?}");
    world::count("ops.ok", statistics.writes + statistics.name_changes);
}

fn change_something(dir: &Path, specification: &mut Specification, rng: &mut StdRng) {
    let name = NAMES[rng.random_range(0..NAMES.len())];
    let path = dir.join(name);
    let existing = specification.current(name);
    match (rng.random_range(0..12), existing) {
        (0..6, None) => {
            File::create_new(&path).expect("a free name can be created");
            let inode = specification.contents.len();
            specification.contents.push(vec![Vec::new()]);
            specification.rename(|names| names.extend([(name.to_string(), inode)]));
        }
        (0..4, Some(inode)) => write_somewhere(&path, inode, specification, rng),
        (4, Some(inode)) => {
            // The longer ones have holes of whole pages.
            let most = if rng.random_bool(0.3) { 40_000 } else { 3_000 };
            let length = rng.random_range(0..most);
            open(&path).set_len(length).expect("length can be set");
            specification.write(inode, |content| content.resize(length as usize, 0));
        }
        (5, Some(inode)) => {
            File::create(&path).expect("a file can be emptied");
            specification.write(inode, Vec::clear);
        }
        (6..8, Some(inode)) => {
            open(&path).sync_data().expect("no fault is set");
            Specification::durable(&mut specification.contents[inode]);
        }
        (8, Some(_)) => {
            fs::remove_file(&path).expect("the file is there");
            specification.rename(|names| names.retain(|other, _| other != name));
        }
        (9, Some(inode)) => {
            let to = NAMES[rng.random_range(0..NAMES.len())];
            fs::rename(&path, dir.join(to)).expect("the file is there");
            specification.rename(|names| {
                names.remove(name);
                names.insert(to.to_string(), inode);
            });
        }
        _ => {
            sync_directory(dir);
            Specification::durable(&mut specification.names);
        }
    }
}

fn write_somewhere(path: &Path, inode: Inode, specification: &mut Specification, rng: &mut StdRng) {
    let now = specification.contents[inode].last().expect("never empty").len() as u64;
    let bytes = vec![rng.random_range(1..=255u8); rng.random_range(1..1500)];
    let mut offset = now;
    match rng.random_range(0..3) {
        0 => drop(OpenOptions::new().append(true).open(path).expect("it exists").write_all(&bytes)),
        1 => {
            offset = rng.random_range(0..=now);
            open(path).write_all_at(&bytes, offset).expect("no fault is set");
        }
        _ => {
            offset = rng.random_range(0..=now + 600);
            let mut file = open(path).try_clone().expect("descriptors can be copied");
            file.seek(SeekFrom::Start(offset)).expect("files can seek");
            file.write_all(&bytes).expect("no fault is set");
        }
    }
    specification.write(inode, |content| {
        let end = offset as usize + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(&bytes);
    });
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("the file exists")
}

fn sync_directory(dir: &Path) {
    File::open(dir).and_then(|dir| dir.sync_all()).expect("no fault is set");
}

fn listed(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    entries.map(|entry| entry.expect("it can be listed").file_name().into_string().expect("plain names")).collect()
}

fn read(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(dir).join(name)).expect("the file is there")
}

/// While the power is on, everything is seen at once.
fn compare_exactly(dir: &Path, specification: &Specification) {
    let names = specification.names.last().expect("never empty");
    assert_eq!(listed(dir), names.keys().cloned().collect(), "names while the power is on");
    for (name, inode) in names {
        assert!(&read(dir, name) == specification.contents[*inode].last().expect("never empty"), "content of {name}");
    }
}

/// Compares what is there after a power failure with what may be, and makes that the new durable state.
fn survive(dir: &Path, specification: &mut Specification, model: LossModel) {
    let now = listed(dir);
    let before = specification.names.last().expect("never empty").clone();
    let states = if model == LossModel::Everything { &specification.names[..1] } else { &specification.names[..] };
    let names = states.iter().find(|names| {
        names.keys().cloned().collect::<BTreeSet<_>>() == now
            && names.iter().all(|(name, inode)| may_hold(&specification.contents[*inode], &read(dir, name), model))
    });
    let names = names.unwrap_or_else(|| panic!("{model:?}: no state since the last sync explains {now:?}")).clone();
    sometimes!(before.keys().any(|name| !names.contains_key(name)), "a new file was lost with its name");
    sometimes!(names.keys().any(|name| !before.contains_key(name)), "a file came back after its removal");
    for (name, inode) in &names {
        let content = read(dir, name);
        let since = &mut specification.contents[*inode];
        sometimes!(Some(&content) != since.last() && Some(&content) != since.first(), "only part of a file survived");
        *since = vec![content];
    }
    specification.names = vec![names];
}

/// Whether a file with these states since its last fsync may be `content` after a power failure.
fn may_hold(since: &Since<Vec<u8>>, content: &[u8], model: LossModel) -> bool {
    if model == LossModel::Everything {
        return content == since[0];
    }
    let longest = since.iter().map(Vec::len).max().unwrap_or(0);
    content.len() <= longest
        && (0..content.len())
            .all(|place| content[place] == 0 || since.iter().any(|state| state.get(place) == Some(&content[place])))
}
