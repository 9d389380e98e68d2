//! Sets of ordinals as a filter's conditions make them: a bitmap, or everything but a bitmap. With the second form "not",
//! "is empty" and "not indexed" cost nothing, and no bitmap of all points is needed.
//!
//! [`Bounds`] is what an index can say of a condition: the points that pass for sure, and those that may. Called by
//! `evaluate` and `field`.

use roaring::RoaringBitmap;
use std::borrow::Cow;

/// Ordinals: those of a bitmap, or all others.
#[derive(Clone, Debug)]
pub enum Set<'a> {
    Only(Cow<'a, RoaringBitmap>),
    AllBut(Cow<'a, RoaringBitmap>),
}

use Set::{AllBut, Only};

impl<'a> Set<'a> {
    /// No ordinal.
    pub fn none() -> Set<'static> {
        Only(Cow::Owned(RoaringBitmap::new()))
    }

    /// Every ordinal.
    pub fn all() -> Set<'static> {
        AllBut(Cow::Owned(RoaringBitmap::new()))
    }

    /// Those of a bitmap that stays where it is.
    pub fn of(bitmap: &'a RoaringBitmap) -> Set<'a> {
        Only(Cow::Borrowed(bitmap))
    }

    /// Whether it is certainly without any ordinal.
    pub fn is_none(&self) -> bool {
        matches!(self, Only(bitmap) if bitmap.is_empty())
    }

    /// The other ordinals.
    pub fn not(self) -> Set<'a> {
        match self {
            Only(bitmap) => AllBut(bitmap),
            AllBut(bitmap) => Only(bitmap),
        }
    }

    /// The ordinals in both.
    pub fn and(self, other: Set<'a>) -> Set<'a> {
        match (self, other) {
            (Only(a), Only(b)) => Only(both(a, b)),
            (Only(a), AllBut(b)) | (AllBut(b), Only(a)) => Only(less(a, &b)),
            (AllBut(a), AllBut(b)) => AllBut(either(a, b)),
        }
    }

    /// The ordinals in one or the other.
    pub fn or(self, other: Set<'a>) -> Set<'a> {
        match (self, other) {
            (Only(a), Only(b)) => Only(either(a, b)),
            (Only(a), AllBut(b)) | (AllBut(b), Only(a)) => AllBut(less(b, &a)),
            (AllBut(a), AllBut(b)) => AllBut(both(a, b)),
        }
    }

    /// How many of `total` ordinals are in it.
    pub fn len(&self, total: u64) -> u64 {
        match self {
            Only(bitmap) => bitmap.len(),
            AllBut(bitmap) => total.saturating_sub(bitmap.len()),
        }
    }
}

fn both<'a>(a: Cow<'a, RoaringBitmap>, b: Cow<'a, RoaringBitmap>) -> Cow<'a, RoaringBitmap> {
    match (a, b) {
        (Cow::Owned(mut a), b) => {
            a &= &*b;
            Cow::Owned(a)
        }
        (a, Cow::Owned(mut b)) => {
            b &= &*a;
            Cow::Owned(b)
        }
        (a, b) => Cow::Owned(&*a & &*b),
    }
}

fn either<'a>(a: Cow<'a, RoaringBitmap>, b: Cow<'a, RoaringBitmap>) -> Cow<'a, RoaringBitmap> {
    if a.is_empty() {
        return b;
    }
    if b.is_empty() {
        return a;
    }
    match (a, b) {
        (Cow::Owned(mut a), b) => {
            a |= &*b;
            Cow::Owned(a)
        }
        (a, Cow::Owned(mut b)) => {
            b |= &*a;
            Cow::Owned(b)
        }
        (a, b) => Cow::Owned(&*a | &*b),
    }
}

fn less<'a>(a: Cow<'a, RoaringBitmap>, b: &RoaringBitmap) -> Cow<'a, RoaringBitmap> {
    if b.is_empty() {
        return a;
    }
    match a {
        Cow::Owned(mut a) => {
            a -= b;
            Cow::Owned(a)
        }
        Cow::Borrowed(a) => Cow::Owned(a - b),
    }
}

impl From<RoaringBitmap> for Set<'_> {
    fn from(bitmap: RoaringBitmap) -> Self {
        Only(Cow::Owned(bitmap))
    }
}

/// What is known of the points that pass: `sure` do; no other than `possible` does.
#[derive(Clone, Debug)]
pub struct Bounds<'a> {
    sure: Set<'a>,
    /// `None`: the same as `sure`.
    possible: Option<Set<'a>>,
}

impl<'a> Bounds<'a> {
    /// Exactly these pass.
    pub fn exact(set: Set<'a>) -> Bounds<'a> {
        Bounds { sure: set, possible: None }
    }

    /// These pass, and perhaps some of those.
    pub fn between(sure: Set<'a>, possible: Set<'a>) -> Bounds<'a> {
        Bounds { sure, possible: Some(possible) }
    }

    /// Any of these may pass, or none.
    pub fn at_most(possible: Set<'a>) -> Bounds<'a> {
        if possible.is_none() { Bounds::exact(possible) } else { Bounds::between(Set::none(), possible) }
    }

    /// Nothing is known.
    pub fn unknown() -> Bounds<'static> {
        Bounds::between(Set::none(), Set::all())
    }

    /// Whether `sure` is the answer.
    pub fn is_exact(&self) -> bool {
        self.possible.is_none()
    }

    /// Those that pass for certain.
    pub fn sure(&self) -> &Set<'a> {
        &self.sure
    }

    /// No others pass.
    pub fn possible(&self) -> &Set<'a> {
        self.possible.as_ref().unwrap_or(&self.sure)
    }

    /// The points that pass neither for sure nor not at all.
    pub fn doubtful(&self) -> Set<'a> {
        match &self.possible {
            None => Set::none(),
            Some(possible) => possible.clone().and(self.sure.clone().not()),
        }
    }

    /// The same, exact if nothing is left in doubt.
    pub fn settled(self) -> Bounds<'a> {
        if !self.is_exact() && self.doubtful().is_none() { Bounds::exact(self.sure) } else { self }
    }

    /// Of those that do not pass.
    pub fn not(self) -> Bounds<'a> {
        match self.possible {
            None => Bounds::exact(self.sure.not()),
            Some(possible) => Bounds::between(possible.not(), self.sure.not()),
        }
    }

    /// Of those that pass both.
    pub fn and(self, other: Bounds<'a>) -> Bounds<'a> {
        self.combine(other, Set::and)
    }

    /// Of those that pass one or the other.
    pub fn or(self, other: Bounds<'a>) -> Bounds<'a> {
        self.combine(other, Set::or)
    }

    fn combine(self, other: Bounds<'a>, how: impl Fn(Set<'a>, Set<'a>) -> Set<'a>) -> Bounds<'a> {
        if self.is_exact() && other.is_exact() {
            return Bounds::exact(how(self.sure, other.sure));
        }
        let possible = how(self.possible().clone(), other.possible().clone());
        if possible.is_none() {
            return Bounds::exact(possible);
        }
        Bounds::between(how(self.sure, other.sure), possible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOTAL: u32 = 40;

    fn set() -> impl Strategy<Value = Set<'static>> {
        (prop::collection::btree_set(0..TOTAL, 0..30), any::<bool>()).prop_map(|(members, inverted)| {
            let bitmap = Cow::Owned(members.into_iter().collect());
            if inverted { AllBut(bitmap) } else { Only(bitmap) }
        })
    }

    fn has(set: &Set<'_>, ordinal: u32) -> bool {
        match set {
            Only(bitmap) => bitmap.contains(ordinal),
            AllBut(bitmap) => !bitmap.contains(ordinal),
        }
    }

    proptest! {
        #[test]
        fn sets_are_sets(a in set(), b in set()) {
            let (and, or, not) = (a.clone().and(b.clone()), a.clone().or(b.clone()), a.clone().not());
            for i in 0..TOTAL {
                prop_assert_eq!(has(&and, i), has(&a, i) && has(&b, i));
                prop_assert_eq!(has(&or, i), has(&a, i) || has(&b, i));
                prop_assert_eq!(has(&not, i), !has(&a, i));
            }
            prop_assert_eq!(a.len(u64::from(TOTAL)), (0..TOTAL).filter(|i| has(&a, *i)).count() as u64);
        }

        #[test]
        fn bounds_enclose(a in set(), more_a in set(), b in set(), more_b in set(), truth_a: u64, truth_b: u64) {
            let bounds = |sure: &Set<'static>, more: &Set<'static>| {
                Bounds::between(sure.clone(), sure.clone().or(more.clone()))
            };
            // A truth somewhere between the bounds.
            let truth = |sure: &Set<'_>, more: &Set<'_>, bits: u64, i: u32| has(sure, i) || (has(more, i) && bits >> i & 1 == 1);
            let (x, y) = (bounds(&a, &more_a), bounds(&b, &more_b));
            for i in 0..TOTAL {
                let (p, q) = (truth(&a, &more_a, truth_a, i), truth(&b, &more_b, truth_b, i));
                for (bounds, passes) in [
                    (x.clone().and(y.clone()), p && q),
                    (x.clone().or(y.clone()), p || q),
                    (x.clone().not(), !p),
                ] {
                    prop_assert!(!has(bounds.sure(), i) || passes);
                    prop_assert!(has(bounds.possible(), i) || !passes);
                    prop_assert_eq!(has(&bounds.doubtful(), i), has(bounds.possible(), i) && !has(bounds.sure(), i));
                }
            }
        }
    }
}
