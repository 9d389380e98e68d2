//! The index of one field: which points have which value there, and which have none.
//!
//! Promises: what it says of a condition holds for exactly the points for which `Filter::passes` is true, or encloses them
//! where the index cannot tell (see [`Bounds`]). Called by `payload`'s `indexes` (changing) and `evaluate` (asking).

use super::{
    leaves::Leaves,
    number::{self, NumberKey},
    numbers::Numbers,
    set::{Bounds, Set},
    terms::Terms,
};
use crate::types::{
    PayloadIndexKind,
    filter::{Range, Scalar, Test, tokens_of},
};
use roaring::RoaringBitmap;
use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Debug)]
pub struct FieldIndex {
    kind: PayloadIndexKind,
    /// Whole strings, or their tokens.
    terms: Terms,
    numbers: Numbers,
    has_false: RoaringBitmap,
    has_true: RoaringBitmap,
    null: RoaringBitmap,
    exists: RoaringBitmap,
    has_string: RoaringBitmap,
    several_strings: RoaringBitmap,
    /// Some value that is not null.
    has_value: RoaringBitmap,
    several_values: RoaringBitmap,
    /// Some value that equals no scalar.
    has_other: RoaringBitmap,
    /// Numbers of all points together.
    number_postings: usize,
}

impl FieldIndex {
    /// An index of no points.
    pub fn new(kind: PayloadIndexKind) -> FieldIndex {
        FieldIndex {
            kind,
            terms: Terms::default(),
            numbers: Numbers::default(),
            has_false: RoaringBitmap::new(),
            has_true: RoaringBitmap::new(),
            null: RoaringBitmap::new(),
            exists: RoaringBitmap::new(),
            has_string: RoaringBitmap::new(),
            several_strings: RoaringBitmap::new(),
            has_value: RoaringBitmap::new(),
            several_values: RoaringBitmap::new(),
            has_other: RoaringBitmap::new(),
            number_postings: 0,
        }
    }

    /// What strings are put under.
    pub fn kind(&self) -> PayloadIndexKind {
        self.kind
    }

    /// Different strings (or tokens) and numbers.
    pub fn distinct(&self) -> usize {
        self.terms.len() + self.numbers.len()
    }

    /// Adds a point that is not in the index.
    pub fn put(&mut self, ordinal: u32, leaves: &Leaves<'_>) {
        for (bitmap, belongs) in self.flags(leaves) {
            if belongs {
                bitmap.insert(ordinal);
            }
        }
        self.numbers.put(ordinal, &leaves.numbers);
        self.number_postings += leaves.numbers.len();
        match self.kind {
            PayloadIndexKind::Value => leaves.strings.iter().for_each(|text| self.terms.put(ordinal, text)),
            PayloadIndexKind::Text => all_tokens(leaves).iter().for_each(|token| self.terms.put(ordinal, token)),
        }
    }

    /// Takes away a point that was put in with the same leaves.
    pub fn take(&mut self, ordinal: u32, leaves: &Leaves<'_>) {
        for (bitmap, belongs) in self.flags(leaves) {
            if belongs {
                bitmap.remove(ordinal);
            }
        }
        self.numbers.take(ordinal, &leaves.numbers);
        self.number_postings -= leaves.numbers.len();
        match self.kind {
            PayloadIndexKind::Value => leaves.strings.iter().for_each(|text| self.terms.take(ordinal, text)),
            PayloadIndexKind::Text => all_tokens(leaves).iter().for_each(|token| self.terms.take(ordinal, token)),
        }
    }

    /// The bitmaps of yes and no, and whether a point with these leaves is in them.
    fn flags(&mut self, leaves: &Leaves<'_>) -> [(&mut RoaringBitmap, bool); 9] {
        [
            (&mut self.has_false, leaves.has_false),
            (&mut self.has_true, leaves.has_true),
            (&mut self.null, leaves.null),
            (&mut self.exists, leaves.exists),
            (&mut self.has_string, !leaves.strings.is_empty()),
            (&mut self.several_strings, leaves.strings.len() > 1),
            (&mut self.has_value, leaves.distinct() > 0),
            (&mut self.several_values, leaves.distinct() > 1),
            (&mut self.has_other, leaves.has_other),
        ]
    }

    /// The points at which the path leads to a null.
    pub fn null(&self) -> Bounds<'_> {
        Bounds::exact(Set::of(&self.null))
    }

    /// The points at which the path leads to anything but nulls and arrays of nothing.
    pub fn exists(&self) -> Bounds<'_> {
        Bounds::exact(Set::of(&self.exists))
    }

    /// The points with a value that passes the test.
    pub fn passing(&self, test: &Test) -> Bounds<'_> {
        match test {
            Test::Is(scalar) => self.equal(scalar),
            Test::Any(scalars) => self.any(scalars),
            Test::Except(scalars) => self.other_than(scalars),
            Test::Text(tokens) => self.with_tokens(tokens),
            Test::Range(range) => Bounds::exact(Set::from(self.within(range))),
        }
    }

    fn equal(&self, scalar: &Scalar) -> Bounds<'_> {
        match (scalar, self.kind) {
            (Scalar::Bool(false), _) => Bounds::exact(Set::of(&self.has_false)),
            (Scalar::Bool(true), _) => Bounds::exact(Set::of(&self.has_true)),
            (Scalar::Number(number), _) => Bounds::exact(Set::from(self.numbers.equal(NumberKey::of(number)))),
            (Scalar::Text(text), PayloadIndexKind::Value) => self.terms.get(text),
            // A string has all the tokens of its equal, and so have others.
            (Scalar::Text(text), PayloadIndexKind::Text) => {
                let tokens: BTreeSet<String> = tokens_of(text).collect();
                Bounds::at_most(self.having(tokens.iter()).possible().clone())
            }
        }
    }

    fn any(&self, scalars: &[Scalar]) -> Bounds<'_> {
        let mut all = Bounds::exact(Set::none());
        for scalar in scalars {
            all = all.or(self.equal(scalar));
        }
        all
    }

    /// A point passes if it has a value besides the scalars: for certain if it has one that equals no scalar at all, or none
    /// of these; not if its only value is one of them. Of a point with several nothing is known.
    fn other_than(&self, scalars: &[Scalar]) -> Bounds<'_> {
        let among = self.any(scalars);
        let has_value = Set::of(&self.has_value);
        let sure = has_value.clone().and(among.possible().clone().not()).or(Set::of(&self.has_other));
        let only_among = among.sure().clone().and(Set::of(&self.several_values).not());
        let possible = has_value.and(only_among.not()).or(Set::of(&self.has_other));
        Bounds::between(sure, possible).settled()
    }

    /// All tokens in one string. Of a point with several strings only that it has them all somewhere.
    fn with_tokens(&self, tokens: &[String]) -> Bounds<'_> {
        if tokens.is_empty() {
            return Bounds::exact(Set::of(&self.has_string));
        }
        match self.kind {
            PayloadIndexKind::Value => Bounds::at_most(Set::of(&self.has_string)),
            PayloadIndexKind::Text => {
                let having = self.having(tokens.iter());
                let one_string = Bounds::exact(Set::of(&self.several_strings).not());
                let several = Bounds::at_most(Set::of(&self.several_strings));
                having.clone().and(one_string).or(having.and(several)).settled()
            }
        }
    }

    /// The points with every one of the tokens; with none given, those with a string.
    fn having<'t>(&self, tokens: impl Iterator<Item = &'t String>) -> Bounds<'_> {
        let mut having = Bounds::exact(Set::of(&self.has_string));
        for token in tokens {
            having = having.and(self.terms.get(token));
        }
        having
    }

    fn within(&self, range: &Range) -> RoaringBitmap {
        let ends = number::orders_of(range);
        self.numbers.between(*ends.start(), *ends.end(), &|key| range.contains(&key.number()))
    }

    /// Bytes of memory, roughly: values and postings are counted, not weighed. Cost: that of a few bitmaps.
    pub fn memory_bytes(&self) -> usize {
        /// A number in its leaf and its share of the inner nodes' unions.
        const NUMBER_BYTES: usize = 72;
        const POSTING_BYTES: usize = 6;
        let flags = [
            &self.has_false,
            &self.has_true,
            &self.null,
            &self.exists,
            &self.has_string,
            &self.several_strings,
            &self.has_value,
            &self.several_values,
            &self.has_other,
        ];
        let flags: usize = flags.iter().map(|bitmap| bitmap.serialized_size()).sum();
        let numbers = self.numbers.len() * NUMBER_BYTES + self.number_postings * POSTING_BYTES;
        size_of::<FieldIndex>() + flags + numbers + self.terms.memory_bytes()
    }
}

/// The tokens of all strings.
fn all_tokens(leaves: &Leaves<'_>) -> BTreeSet<String> {
    leaves.strings.iter().flat_map(|text| tokens_of(text)).collect()
}
