//! Upkeep of the indexes goes from a replaced state to the one that took its place.

use super::rig::{Rig, upserts};
use crate::{
    rt,
    shard::{files::IndexFiles, settings::IndexSettings},
    types::IndexType,
};
use std::{path::Path, sync::Arc, time::Duration};

/// Enough points for the index to be trained.
fn fill(rig: &mut Rig) {
    rig.apply(&[upserts(200)]);
}

fn open(path: &Path) -> Rig {
    let settings = IndexSettings { flat_points_max: 100, ..IndexSettings::default() };
    Rig::open_with(path, IndexType::IvfFlat, settings)
}

/// Waits until the index is trained and saved.
async fn trained(rig: &Rig, path: &Path) {
    let has_lists = || rig.live.state().indexes().iter().all(|(_, index)| index.lists() > 0);
    while !has_lists() || files_in(path) != 1 {
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}

fn files_in(path: &Path) -> usize {
    let files = crate::store::files::list(path).unwrap();
    files.iter().filter(|file| file.extension().is_some_and(|end| end == "index")).count()
}

#[tokio::test]
async fn the_new_state_is_kept_up_and_the_old_files_go() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut source, mut target) = (open(from.path()), open(to.path()));
    let trainings = Arc::new(tokio::sync::Semaphore::new(1));
    let upkeep = rt::spawn("indexer", target.live.clone().keep_up(IndexFiles::new(to.path(), 7), trainings));
    fill(&mut target);
    target.live.state().changed.notify_one();
    trained(&target, to.path()).await;

    source.apply(&[upserts(3)]);
    target.install(source.checkpoint()).unwrap();
    while files_in(to.path()) > 0 {
        rt::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(target.contents(), source.contents());

    fill(&mut target);
    trained(&target, to.path()).await;
    target.live.close();
    let _ended = upkeep.await;
    let contents = target.contents();
    drop(target);
    assert_eq!(open(to.path()).contents(), contents);
}
