//! All payload indexes of a replica: which fields, filled or being filled, and every change of a point.
//!
//! Each field knows which ordinals it covers. So writes may go on while a field is filled from the records: a write to a
//! covered point takes the old values away first, any write covers its point, and the filling passes over what is covered.

use super::{field::FieldIndex, leaves::Leaves};
use crate::{
    mutants::mutant,
    types::{IndexedFields, PayloadIndexKind, path::Path},
};
use roaring::RoaringBitmap;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

type Object = Map<String, Value>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct PayloadIndexes {
    fields: BTreeMap<Path, Field>,
    /// Fields added so far.
    added: u64,
}

#[derive(Clone, Debug)]
struct Field {
    /// Which of the fields added it is: a field that was dropped and added again is another.
    number: u64,
    index: FieldIndex,
    /// The points that are in it.
    covered: RoaringBitmap,
    /// Whether those are all points.
    ready: bool,
}

/// A field's index as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldState {
    pub field: Path,
    pub kind: PayloadIndexKind,
    pub ready: bool,
    /// Points in it.
    pub points: u64,
    /// Different strings (or tokens) and numbers.
    pub distinct: u64,
    pub memory_bytes: u64,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    Ready(&'a FieldIndex),
    Building,
    Missing,
}

impl PayloadIndexes {
    /// Indexes of no fields.
    pub fn new() -> PayloadIndexes {
        PayloadIndexes::default()
    }

    /// Whether no field is indexed: then nobody need look at payloads.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Makes these the indexed fields. What stays as it was keeps its content; new ones are empty, and ready only if there are no
    /// points.
    pub fn set_fields(&mut self, fields: &IndexedFields, points: u64) {
        self.fields.retain(|path, field| fields.get(path) == Some(&field.index.kind()));
        for (path, kind) in fields {
            if !self.fields.contains_key(path) {
                self.added += 1;
                let (index, covered) = (FieldIndex::new(*kind), RoaringBitmap::new());
                self.fields.insert(path.clone(), Field { number: self.added, index, covered, ready: points == 0 });
            }
        }
    }

    /// The indexed fields.
    pub fn fields(&self) -> IndexedFields {
        self.fields.iter().map(|(path, field)| (path.clone(), field.index.kind())).collect()
    }

    /// What there is for a path.
    pub fn get(&self, path: &Path) -> Lookup<'_> {
        match self.fields.get(path) {
            None => Lookup::Missing,
            Some(field) if field.ready => Lookup::Ready(&field.index),
            Some(_) => Lookup::Building,
        }
    }

    /// A point was written: `before` is its payload until now, if there was such a point.
    pub fn put(&mut self, ordinal: u32, before: Option<&Object>, payload: &Object) {
        for (path, field) in &mut self.fields {
            let leaves = Leaves::of(payload, path);
            if !field.covered.insert(ordinal) {
                let old = before.map(|before| Leaves::of(before, path)).unwrap_or_default();
                // Mutant 47: what a write replaces stays where it was.
                if old == leaves || mutant!(47) {
                    continue;
                }
                field.index.take(ordinal, &old);
            }
            field.index.put(ordinal, &leaves);
        }
    }

    /// A point is gone; `before` was its payload.
    pub fn remove(&mut self, ordinal: u32, before: &Object) {
        for (path, field) in &mut self.fields {
            if field.covered.remove(ordinal) {
                field.index.take(ordinal, &Leaves::of(before, path));
            }
        }
    }

    /// Whether some field is still to be filled.
    pub fn wants_filling(&self) -> bool {
        self.fields.values().any(|field| !field.ready)
    }

    /// The numbers of the fields that are still to be filled.
    pub fn unfilled(&self) -> Vec<u64> {
        self.fields.values().filter(|field| !field.ready).map(|field| field.number).collect()
    }

    /// A point, as it is stored now, goes into those fields that lack it.
    pub fn fill(&mut self, ordinal: u32, payload: &Object) {
        for (path, field) in self.fields.iter_mut().filter(|(_, field)| !field.ready) {
            if field.covered.insert(ordinal) {
                field.index.put(ordinal, &Leaves::of(payload, path));
            }
        }
    }

    /// Every point has been shown to [`PayloadIndexes::fill`] since the fields of these numbers were added.
    pub fn filled(&mut self, numbers: &[u64]) {
        self.fields.values_mut().for_each(|field| field.ready |= numbers.contains(&field.number));
    }

    /// Each field as it is now. Cost: a walk over some bitmaps' containers.
    pub fn states(&self) -> Vec<FieldState> {
        let state = |(path, field): (&Path, &Field)| FieldState {
            field: path.clone(),
            kind: field.index.kind(),
            ready: field.ready,
            points: field.covered.len(),
            distinct: field.index.distinct() as u64,
            memory_bytes: (field.index.memory_bytes() + field.covered.serialized_size()) as u64,
        };
        self.fields.iter().map(state).collect()
    }
}
