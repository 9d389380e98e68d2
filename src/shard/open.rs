//! Opening a replica: its indexes from the index file where there is one, brought up to date by the deltas; from the
//! records where there is none or it cannot be trusted. Called by `replica`.

use super::{
    content,
    files::{IndexFiles, Unusable},
    records::{Changes, Counters, Records, View},
    round::components,
    settings::IndexSettings,
    state::{Found, Indexes},
};
use crate::{
    index::VectorIndex,
    mutants::mutant,
    store::keys::{meta::MetaKey, point::PointRecord},
    types::{CollectionSpec, PointId, Result, VectorName},
};
use std::collections::BTreeSet;

/// Reads what is stored. Cost: mapping the index file, and the points changed since; without a file, every point once.
///
/// # Errors
/// `Corrupt` if records cannot be read. A bad index file is not an error: it is made again.
pub fn find(records: &Records, spec: &CollectionSpec, settings: &IndexSettings, files: &IndexFiles) -> Result<Found> {
    let view = records.view();
    let counters = counters(records, &view)?;
    let mut indexes = Indexes::new(spec, settings);
    let mut filled = BTreeSet::new();
    let mut unsaved_rows = 0;
    let epoch = view.number(MetaKey::IndexEpoch)?;
    if epoch > 0 {
        match load(files, epoch, &mut indexes) {
            Ok(names) => filled = names,
            Err(error) => {
                tracing::warn!(%error, "the index file cannot be used; the index is made again from the records");
                indexes = Indexes::new(spec, settings);
            }
        }
        let through = view.number(MetaKey::IndexedThrough)?;
        let touched: BTreeSet<PointId> = view.touched_after(through)?.into_iter().collect();
        unsaved_rows = touched.len() as u64;
        // Mutant 17: the sealed part is taken for the whole index, and the tail written since is dropped.
        for id in touched.into_iter().filter(|_| !mutant!(17)) {
            refresh(&view, id, &filled, &mut indexes)?;
        }
    }
    let missing: BTreeSet<VectorName> = spec.vectors.keys().filter(|name| !filled.contains(*name)).cloned().collect();
    if !missing.is_empty() && counters.points > 0 {
        fill(&view, &missing, &mut indexes)?;
    }
    // Bringing the file up to date is a use, too.
    if let Some(part) = indexes.damage().found() {
        tracing::warn!(part, "the index file is damaged; the index is made again from the records");
        indexes = from_records(&view, spec, settings)?;
    }
    Ok(Found { indexes, counters, keeps_deltas: epoch > 0, unsaved_rows })
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
    fill(view, &spec.vectors.keys().cloned().collect(), &mut indexes)?;
    Ok(indexes)
}

/// Enters every point in the named indexes.
fn fill(view: &View, names: &BTreeSet<VectorName>, indexes: &mut Indexes) -> Result<()> {
    for entry in view.points() {
        let (id, bytes) = entry?;
        show(id, &bytes, names, indexes)?;
    }
    Ok(())
}

/// Puts the file's parts in their indexes; returns their names.
fn load(files: &IndexFiles, epoch: u64, indexes: &mut Indexes) -> Result<BTreeSet<VectorName>, Unusable> {
    let mut names = BTreeSet::new();
    let image = files.open(epoch, indexes.damage())?;
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

/// Brings one point up to date in the named indexes.
fn refresh(view: &View, id: PointId, names: &BTreeSet<VectorName>, indexes: &mut Indexes) -> Result<()> {
    match view.point(id)? {
        Some(bytes) => show(id, &bytes, names, indexes),
        None => {
            indexes.remove(id, None);
            Ok(())
        }
    }
}

fn show(id: PointId, bytes: &[u8], names: &BTreeSet<VectorName>, indexes: &mut Indexes) -> Result<()> {
    let record = PointRecord::decode(bytes).map_err(Records::corrupt)?;
    let points = indexes.points();
    let known = points.ordinal(id).filter(|&at| points.get(at).is_some_and(|point| point.1 == record.version));
    for name in names {
        if known.is_some_and(|ordinal| indexes.get(name).is_some_and(|index| index.contains(ordinal))) {
            continue;
        }
        let vector = record.vectors.get(name.as_str()).map(components);
        indexes.put_one(name, id, record.version, vector);
    }
    Ok(())
}
