//! Writing the index file: posting lists and points of one log index on disk, so that a restart has to make up only for what came
//! after. Each replica saves when it likes: what it holds does not change by it. Called by `indexer` (writing) and `machine`
//! (taking, when a job has just ended: no job may be under way, its inputs are in no file).

use super::{files::IndexFiles, records::Records, state::State};
use crate::{
    index::{Points, Sealed},
    rt,
    store::keys::{
        journal::{Base, Row},
        meta::MetaKey,
    },
    types::{Error, Result, VectorName},
};
use std::collections::{BTreeMap, BTreeSet};

/// What the next index file will hold.
pub struct IndexFile {
    /// The log index at which it was taken.
    at: u64,
    points: Points,
    parts: Vec<(VectorName, Sealed)>,
    base: Base,
    filed: BTreeMap<VectorName, u64>,
    /// Rows written since the last file, when it was taken.
    unsaved_rows: u64,
}

impl IndexFile {
    /// Takes the sealed parts of now; `None` if there are none. The caller holds the gate, no job is under way. Cost: copies of
    /// handles and live bits, and a look at every row of the tails.
    pub fn capture(state: &State) -> Option<IndexFile> {
        let indexes = state.indexes();
        let trained = || indexes.iter().filter_map(|(name, index)| Some((name, index, index.sealed()?)));
        let parts: Vec<_> = trained().map(|(name, _, sealed)| (name.clone(), sealed)).collect();
        if parts.is_empty() {
            return None;
        }
        let points = indexes.points().clone();
        let tails: BTreeSet<u32> = trained().flat_map(|(_, index, _)| index.tail_ordinals()).collect();
        let unfiled: Vec<Row> = tails.into_iter().filter_map(|ordinal| points.get(ordinal)).collect();
        let keeper = state.keeper();
        Some(IndexFile {
            at: state.applied(),
            points,
            parts,
            base: keeper.base_record(unfiled),
            filed: keeper.filed_through().clone(),
            unsaved_rows: state.unsaved_rows(),
        })
    }

    /// Writes it, lets the journal build on it, and goes on with the lists as they are in the file, so that memory is free for
    /// others. Nothing is done for a state that was replaced.
    pub fn write(self, state: &State, files: &IndexFiles) -> Result<()> {
        let _saving = state.saving();
        if state.retired.is_triggered() || state.indexes().damage().found().is_some() {
            return Ok(());
        }
        let before = state.records.view().number(MetaKey::IndexEpoch)?;
        let epoch = state.next_epoch(before);
        files.write(epoch, &self.points, &self.parts).map_err(Records::failed)?;
        let block = files.map(epoch).map_err(|error| Error::internal(error.to_string()))?;
        let damage = state.indexes().damage().clone();
        let image = IndexFiles::image(&block, &damage).map_err(|error| Error::internal(error.to_string()))?;
        // Whoever takes a checkpoint meanwhile finds the file of its view.
        state.keeper().files.insert(epoch, block);
        state.records.index_saved(epoch, self.at, self.base)?;
        state.keeper().saved(self.at, self.filed);
        state.keeper().files.retain(|other, _| *other == epoch);
        // Also of rows that are in no list: the file of now would lack them as well. They count again when they are filed.
        state.saved(self.unsaved_rows);
        files.keep_only(Some(epoch)).map_err(Records::failed)?;
        let mut indexes = state.indexes_mut();
        for ((name, sealed), saved) in self.parts.iter().zip(image.parts) {
            if let Some((_, index)) = indexes.get_mut(name) {
                index.use_saved(sealed, saved);
            }
        }
        Ok(())
    }
}

/// No index has lists, and nothing is under way that could give it some: the records say everything, but which vectors are astray. The
/// caller holds the gate.
pub fn forget(state: &State, files: &IndexFiles) -> Result<()> {
    let _saving = state.saving();
    if state.retired.is_triggered() {
        return Ok(());
    }
    let base = state.keeper().base_record(Vec::new());
    if base.astray.is_empty() {
        state.records.index_forgotten(state.applied())?;
        state.keeper().forgotten();
    } else {
        state.records.index_saved(0, state.applied(), base)?;
        state.keeper().begin_journal(state.applied());
    }
    state.saved(state.unsaved_rows());
    files.keep_only(None).map_err(Records::failed)
}

/// The index file is damaged: its vectors are astray, all rows go to the tails. The caller holds the gate. Nothing is done to a state
/// that was replaced: the records and files are the new one's. Cost: a pass over all records.
pub fn go_astray(state: &State, files: &IndexFiles) -> Result<()> {
    let _saving = state.saving();
    if state.retired.is_triggered() {
        return Ok(());
    }
    rt::mark("a replica lost the lists of its index");
    let indexes = super::open::from_records(&state.records.view(), &state.spec, &state.settings)?;
    let base = {
        let mut keeper = state.keeper();
        keeper.lost();
        keeper.base_record(Vec::new())
    };
    state.records.index_saved(0, state.applied(), base)?;
    state.keeper().begin_journal(state.applied());
    state.replace_indexes(indexes);
    state.saved(state.unsaved_rows());
    files.keep_only(None).map_err(Records::failed)
}
