//! From a filter to the ordinals that pass, by the indexes alone.

use super::{
    indexes::{Lookup, PayloadIndexes},
    set::{Bounds, Set},
};
use crate::types::{
    Filter, PointId,
    filter::{Clause, Condition},
    path::Path,
};
use roaring::RoaringBitmap;

/// What the indexes say of a filter.
#[derive(Clone, Debug)]
pub struct Evaluated<'a> {
    /// The points that pass.
    pub bounds: Bounds<'a>,
    /// Fields of the filter without an index.
    pub not_indexed: Vec<Path>,
    /// Fields of the filter whose index is not filled yet.
    pub building: Vec<Path>,
}

/// Answers a filter; `ordinal` finds a point's. Cost: of the bitmaps, not of the points.
pub fn evaluate<'a>(
    filter: &Filter,
    indexes: &'a PayloadIndexes,
    ordinal: &dyn Fn(PointId) -> Option<u32>,
) -> Evaluated<'a> {
    let mut evaluator = Evaluator { indexes, ordinal, not_indexed: Vec::new(), building: Vec::new() };
    let bounds = evaluator.clause(filter.clause());
    let sorted = |mut paths: Vec<Path>| {
        paths.sort_unstable();
        paths.dedup();
        paths
    };
    Evaluated { bounds, not_indexed: sorted(evaluator.not_indexed), building: sorted(evaluator.building) }
}

struct Evaluator<'a, 'o> {
    indexes: &'a PayloadIndexes,
    ordinal: &'o dyn Fn(PointId) -> Option<u32>,
    not_indexed: Vec<Path>,
    building: Vec<Path>,
}

impl<'a> Evaluator<'a, '_> {
    fn clause(&mut self, clause: &Clause) -> Bounds<'a> {
        let mut passing = self.all_of(&clause.must);
        if !clause.should.is_empty() {
            passing = passing.and(self.any_of(&clause.should));
        }
        if !clause.must_not.is_empty() {
            passing = passing.and(self.any_of(&clause.must_not).not());
        }
        passing
    }

    /// The rarest first: what follows then works on less.
    fn all_of(&mut self, conditions: &[Condition]) -> Bounds<'a> {
        let mut all: Vec<Bounds<'a>> = conditions.iter().map(|condition| self.condition(condition)).collect();
        all.sort_by_key(|bounds| bounds.possible().len(u64::MAX));
        all.into_iter().reduce(Bounds::and).unwrap_or_else(|| Bounds::exact(Set::all()))
    }

    fn any_of(&mut self, conditions: &[Condition]) -> Bounds<'a> {
        let any = conditions.iter().map(|condition| self.condition(condition)).reduce(Bounds::or);
        any.unwrap_or_else(|| Bounds::exact(Set::none()))
    }

    fn condition(&mut self, condition: &Condition) -> Bounds<'a> {
        match condition {
            Condition::Field(path, test) => self.field(path, |index| index.passing(test)),
            Condition::IsNull(path) => self.field(path, |index| index.null()),
            Condition::Exists(path) => self.field(path, |index| index.exists()),
            Condition::IsEmpty(path) => self.field(path, |index| index.exists().not()),
            Condition::HasId(ids) => {
                let ordinals: RoaringBitmap = ids.iter().filter_map(|id| (self.ordinal)(*id)).collect();
                Bounds::exact(Set::from(ordinals))
            }
            Condition::Nested(clause) => self.clause(clause),
        }
    }

    fn field(&mut self, path: &Path, ask: impl FnOnce(&'a super::field::FieldIndex) -> Bounds<'a>) -> Bounds<'a> {
        match self.indexes.get(path) {
            Lookup::Ready(index) => return ask(index),
            Lookup::Building => self.building.push(path.clone()),
            Lookup::Missing => self.not_indexed.push(path.clone()),
        }
        Bounds::unknown()
    }
}
