//! Opening a replica: what is stored becomes a state. Its indexes are made again as they were, from the index file and the journal;
//! from the records alone where none was ever trained, or, the replica then being astray, where they cannot be made again. Called by
//! `replica` and, for what a checkpoint brought, `machine`.

use super::{
    border::Border,
    content,
    files::IndexFiles,
    indexes::Indexes,
    records::{Changes, Counters, Records, View},
    round::components,
    saving,
    settings::IndexSettings,
    state::State,
    upkeep::{
        keeper::Keeper,
        replay::{self, Lost},
    },
};
use crate::{
    store::keys::{border, meta::MetaKey},
    types::{CollectionSpec, Result, SlotRange},
};

/// Reads what is stored, of a shard that had the slots `born` when it was made. Cost: mapping the index file, and doing again what happened since; without a file, every point once.
///
/// # Errors
/// `Corrupt` if records cannot be read. A bad index file is not an error.
pub fn state(
    id: u64,
    (spec, born): (CollectionSpec, SlotRange),
    records: Records,
    settings: IndexSettings,
    files: &IndexFiles,
) -> Result<State> {
    let view = records.view();
    let counters = counters(&records, &view)?;
    let border = stored_border(&view, born)?;
    let Some((at, base)) = replay::base(&view)? else {
        // Also of versions whose index files were each replica's own.
        if view.number(MetaKey::IndexEpoch)? > 0 {
            records.index_forgotten(counters.applied)?;
        }
        let indexes = from_records(&view, &spec, &settings)?;
        return Ok(State::new(id, spec, records, settings, (indexes, counters, Keeper::default()), border));
    };
    let indexes = Indexes::new(&spec, &settings);
    let state = State::new(id, spec, records, settings, (indexes, counters, Keeper::of_base(at, &base)), border);
    match replay::replay(&state, (at, &base), files) {
        Ok(()) => {}
        Err(Lost::Store(error)) => return Err(error),
        Err(error) => {
            tracing::error!(shard = id, %error, "the indexes cannot be made as they were; searches are exact until they are trained");
            let _standing_still = state.close_gate();
            let trained = replay::trainings(&view, at)?;
            trained.into_iter().for_each(|name| state.keeper().is_astray(name));
            saving::go_astray(&state, files)?;
        }
    }
    Ok(state)
}

fn stored_border(view: &View, born: SlotRange) -> Result<Border> {
    match view.border(border::KEY)? {
        Some(record) => Border::decode(born, border::decode(&record).map_err(Records::corrupt)?),
        None => Ok(Border::born(born)),
    }
}

/// The counters. Data of versions that kept no content hash is given one.
fn counters(records: &Records, view: &View) -> Result<Counters> {
    let mut counters = view.counters()?;
    if counters.applied > 0 && !view.has(MetaKey::ContentHash)? {
        counters.hash = content::of_view(view)?;
        let mut changes = Changes::new(records);
        changes.put_counters(&counters);
        changes.commit()?;
    }
    Ok(counters)
}

/// Indexes made from the records alone.
pub fn from_records(view: &View, spec: &CollectionSpec, settings: &IndexSettings) -> Result<Indexes> {
    let mut indexes = Indexes::new(spec, settings);
    let applied = view.counters()?.applied;
    view.visit_as_of(applied, &mut |id, record| {
        indexes.put(id, record.version, |name| record.vectors.get(name).map(components), None);
        Ok(true)
    })?;
    Ok(indexes)
}
