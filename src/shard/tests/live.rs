//! Upkeep of the indexes goes from a replaced state to the one that took its place.

use super::rig::{Rig, upserts};
use crate::{
    raft::{Entry, StateMachine},
    rt,
    shard::{indexer::Proposer, live::Live, machine::Machine, settings::IndexSettings},
    types::{IndexType, Result},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A group of one: what is proposed is applied, until the machine is taken away.
struct Alone(Arc<Mutex<Option<Machine>>>);

impl Proposer for Alone {
    fn leads(&self) -> bool {
        true
    }

    fn propose(&self, data: Bytes) -> BoxFuture<'static, Result<()>> {
        let machine = self.0.clone();
        Box::pin(rt::compute::io(move || {
            if let Some(machine) = machine.lock().unwrap().as_mut() {
                let index = machine.applied() + 1;
                machine.apply(&[Entry { index, term: 1, data }]).unwrap();
            }
            Ok(())
        }))
    }
}

/// A replica with upkeep, so far as the tests here need one.
struct Kept {
    live: Arc<Live>,
    machine: Arc<Mutex<Option<Machine>>>,
    upkeep: rt::Task<()>,
}

impl Kept {
    fn open(path: &Path) -> Kept {
        Kept::of(open(path))
    }

    fn of(Rig { live, machine, files }: Rig) -> Kept {
        let machine = Arc::new(Mutex::new(Some(machine)));
        let trainings = Arc::new(tokio::sync::Semaphore::new(1));
        let proposer = Arc::new(Alone(machine.clone()));
        let upkeep = rt::spawn("indexer", live.clone().keep_up(files, proposer, trainings));
        Kept { live, machine, upkeep }
    }

    /// Enough points for the index to be trained.
    fn fill(&self) {
        self.with_machine(|machine| {
            let index = machine.applied() + 1;
            machine.apply(&[Entry { index, term: 1, data: upserts(200) }]).unwrap();
        });
    }

    fn with_machine(&self, act: impl FnOnce(&mut Machine)) {
        act(self.machine.lock().unwrap().as_mut().expect("it was not taken away"));
    }

    /// Waits until the index is trained and saved.
    async fn trained(&self, path: &Path) {
        let has_lists = || self.live.state().indexes().iter().all(|(_, index)| index.lists() > 0);
        while !has_lists() || files_in(path) != 1 {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn open(path: &Path) -> Rig {
    let settings = IndexSettings { flat_points_max: 100, ..IndexSettings::default() };
    Rig::open_with(path, IndexType::IvfFlat, settings)
}

fn files_in(path: &Path) -> usize {
    let files = crate::store::files::list(path).unwrap();
    files.iter().filter(|file| file.extension().is_some_and(|end| end == "index")).count()
}

#[tokio::test]
async fn the_new_state_is_kept_up_and_the_old_files_go() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut source, target) = (open(from.path()), Kept::open(to.path()));
    target.fill();
    target.trained(to.path()).await;

    source.apply(&[upserts(3)]);
    let mut checkpoint = source.checkpoint();
    target.with_machine(|machine| machine.install(checkpoint.at, &mut checkpoint).unwrap());
    while files_in(to.path()) > 0 {
        rt::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(target.live.state().counters(), source.live.state().counters());

    target.fill();
    target.trained(to.path()).await;
    // Nothing is applied any more, whatever was proposed a moment ago.
    drop(target.machine.lock().unwrap().take());
    target.live.close();
    let _ended = target.upkeep.await;
    let (counters, hash) = (target.live.state().counters(), target.live.state().index_hash());
    drop((target.live, target.machine));
    let again = open(to.path());
    assert_eq!((again.live.state().counters(), again.live.state().index_hash()), (counters, hash));
    assert!(hash.1.is_some());
}

#[tokio::test]
async fn a_long_tail_is_filed_and_does_not_have_the_file_written_again_and_again() {
    const TAIL_ROWS_MAX: usize = 50;
    let directory = tempfile::tempdir().unwrap();
    // More rows wait to be filed than the file may lack.
    let settings = IndexSettings {
        flat_points_max: 100,
        tail_rows_max: TAIL_ROWS_MAX,
        unsaved_rows_max: 60,
        ..IndexSettings::default()
    };
    let kept = Kept::of(Rig::open_with(directory.path(), IndexType::IvfFlat, settings));
    kept.fill();
    kept.trained(directory.path()).await;
    kept.fill();
    let is_long = || kept.live.state().indexes().iter().any(|(_, index)| index.tail_rows() > TAIL_ROWS_MAX);
    let filed = async {
        while is_long() {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
    };
    rt::time::timeout(Duration::from_secs(20), filed).await.expect("the rows come into lists");
    drop(kept.machine.lock().unwrap().take());
    kept.live.close();
    let _ended = kept.upkeep.await;
}
