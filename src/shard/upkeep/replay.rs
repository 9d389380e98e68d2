//! Making the indexes again as they were when the replica stopped: from the index file, the journal of what happened since, and the
//! points kept for it. The same jobs run in the same order on the same rows, so the outcome is the same to the bit. Called by `open`.

use super::{
    Upkeep, Work,
    begin::{self, Beginning},
};
use crate::{
    index::VectorIndex,
    mutants::mutant,
    rt,
    shard::{
        files::{IndexFiles, Unusable},
        records::{Records, View},
        round::components,
        state::State,
    },
    store::keys::{
        journal::{self, Entry, Row},
        meta::MetaKey,
        point::PointRecord,
    },
    types::{Error, PointId, Result, VectorName},
};
use std::collections::BTreeSet;

/// Why the indexes are not what they were.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error(transparent)]
    File(#[from] Unusable),
    #[error("{0}")]
    Journal(&'static str),
    #[error(transparent)]
    Store(#[from] Error),
}

/// Rows whose record is known neither from the points nor from those kept: they are replaced again before anything looks at them.
type Unknown = BTreeSet<PointId>;

/// Log index of the base, on which the journal builds. `None` if no index was ever trained.
pub fn base_index(view: &View) -> Result<Option<u64>> {
    let is_there = view.has(MetaKey::IndexBase)?;
    is_there.then(|| view.number(MetaKey::IndexBase)).transpose()
}

/// The base with its log index.
pub fn base(view: &View) -> Result<Option<(u64, journal::Base)>> {
    let Some(at) = base_index(view)? else { return Ok(None) };
    let first = view.journal(at).next().transpose()?.filter(|(index, _)| *index == at);
    let Some((_, value)) = first else { return Ok(Some((at, journal::Base::default()))) };
    match journal::decode(&value).map_err(Records::corrupt)? {
        Entry::Base(base) => Ok(Some((at, base))),
        Entry::Touched(_) | Entry::Upkeep(_) => Err(Records::corrupt("the journal does not begin with its base")),
    }
}

/// The vectors that the journal says lists were built for.
pub fn trainings(view: &View, at: u64) -> Result<BTreeSet<VectorName>> {
    let mut names = BTreeSet::new();
    for entry in view.journal(at.saturating_add(1)) {
        let (_, value) = entry?;
        if let Ok(Entry::Upkeep(command)) = journal::decode(&value)
            && let Ok(Upkeep::Begin { vector, work: Work::Train, .. }) = Upkeep::decode(command)
        {
            names.extend(VectorName::new(vector));
        }
    }
    Ok(names)
}

/// Makes the indexes of `state`, which are empty, what they were. `state` knows its base.
///
/// # Errors
/// Whatever keeps them from being made: they then mean nothing.
pub fn replay(state: &State, (at, base): (u64, &journal::Base), files: &IndexFiles) -> std::result::Result<(), Lost> {
    let view = state.records.view();
    let loaded = load(state, &view, files)?;
    if base.filed.iter().any(|(name, _)| !loaded.iter().any(|loaded| loaded.as_str() == name)) {
        return Err(Lost::Journal("the index file lacks an index"));
    }
    fill(state, &view, at, &loaded)?;
    let mut unknown = Unknown::new();
    // Of the points of the file, those whose rows are in no list.
    for row in &base.unfiled {
        put_unfiled(state, &view, *row, &mut unknown)?;
    }
    let mut rows = 0;
    for entry in view.journal(at.saturating_add(1)) {
        let (index, value) = entry?;
        match journal::decode(&value).map_err(Records::corrupt)? {
            Entry::Touched(touched) => {
                rows += touched.len() as u64;
                for row in touched {
                    put(state, &view, row, &mut unknown)?;
                }
            }
            Entry::Upkeep(command) => again(state, index, command, &unknown)?,
            Entry::Base(_) => return Err(Lost::Journal("the journal has a second base")),
        }
    }
    if !unknown.is_empty() || state.indexes().points().len() as u64 != state.points() {
        return Err(Lost::Journal("the journal is not of these points"));
    }
    if state.indexes().damage().found().is_some() {
        return Err(Lost::Journal("the index file is damaged"));
    }
    state.restored(rows + base.unfiled.len() as u64);
    Ok(())
}

/// Puts the file's parts in their indexes; returns their names.
fn load(state: &State, view: &View, files: &IndexFiles) -> std::result::Result<BTreeSet<VectorName>, Lost> {
    let epoch = view.number(MetaKey::IndexEpoch)?;
    let mut names = BTreeSet::new();
    if epoch == 0 {
        return Ok(names);
    }
    let block = files.map(epoch)?;
    let mut indexes = state.indexes_mut();
    let image = IndexFiles::image(&block, indexes.damage())?;
    state.keeper().files.insert(epoch, block);
    indexes.set_points(image.points);
    for saved in image.parts {
        let name = saved.name.clone();
        let (_, index) = indexes.get_mut(&name).ok_or_else(|| Unusable::Foreign(format!("unknown vector {name}")))?;
        let opened = VectorIndex::open(index.spec().clone(), saved);
        *index = opened.map_err(|error| Unusable::Foreign(error.to_string()))?;
        names.insert(name);
    }
    Ok(names)
}

/// Enters the points of log index `at` in the indexes that no file has, as far as they are known.
fn fill(state: &State, view: &View, at: u64, loaded: &BTreeSet<VectorName>) -> Result<()> {
    let names: Vec<VectorName> = state.spec.vectors.keys().filter(|name| !loaded.contains(*name)).cloned().collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut indexes = state.indexes_mut();
    view.visit_as_of(at, &mut |id, record| {
        for name in &names {
            indexes.put_one(name, id, record.version, record.vectors.get(name.as_str()).map(components));
        }
        Ok(true)
    })
}

/// Gives a point its rows in those indexes that have none of it.
fn put_unfiled(state: &State, view: &View, (id, version): Row, unknown: &mut Unknown) -> Result<()> {
    let mut indexes = state.indexes_mut();
    let known = indexes.points().ordinal_at(id, version);
    let has_row = |index: &VectorIndex| known.is_some_and(|ordinal| index.contains(ordinal));
    let lacking: Vec<VectorName> =
        indexes.iter().filter(|(_, index)| !has_row(index)).map(|(name, _)| name.clone()).collect();
    let mut show = |record: &PointRecord<'_>| {
        for name in lacking.iter().filter(|_| !mutant!(17)) {
            indexes.put_one(name, id, version, record.vectors.get(name.as_str()).map(components));
        }
    };
    if view.version(id, version, &mut show)?.is_none() {
        unknown.insert(id);
    }
    Ok(())
}

/// Does to the indexes what a command did that made a point what `row` says.
fn put(state: &State, view: &View, (id, version): Row, unknown: &mut Unknown) -> Result<()> {
    let mut indexes = state.indexes_mut();
    unknown.remove(&id);
    // Mutant 17: the sealed part is taken for the whole index, and the tail written since is dropped.
    if mutant!(17) && version > 0 {
        indexes.put(id, version, |_| None, None);
        return Ok(());
    }
    if version == 0 {
        indexes.remove(id, None);
        return Ok(());
    }
    let mut show = |record: &PointRecord<'_>| {
        indexes.put(id, version, |name| record.vectors.get(name).map(components), None);
    };
    if view.version(id, version, &mut show)?.is_none() {
        indexes.put(id, version, |_| None, None);
        unknown.insert(id);
    }
    Ok(())
}

/// Carries out a command of upkeep as `machine` did.
fn again(state: &State, at: u64, command: &[u8], unknown: &Unknown) -> std::result::Result<(), Lost> {
    match Upkeep::decode(command)? {
        Upkeep::Begin { vector, work, list_rows } => {
            let beginning = Beginning { at, vector, work, list_rows };
            // What nothing looked at was not kept when it was replaced (`Keeper::keeps`).
            if begin::is_possible(state, &beginning) && work.takes_rows() && !unknown.is_empty() {
                return Err(Lost::Journal("a point that upkeep worked on was not kept"));
            }
            begin::begin(state, &beginning, state.records.view());
        }
        Upkeep::Adopt { begun } => {
            let job = state.keeper().job_begun(begun);
            if let Some(job) = job {
                rt::mark("a restart did upkeep again");
                begin::adopt(state, &job, at, job.take(state));
            }
        }
    }
    Ok(())
}
