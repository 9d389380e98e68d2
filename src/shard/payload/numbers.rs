//! The points by number: a B+tree whose inner nodes hold the union of their points, so that a range takes a few large bitmaps
//! from within and compares only at its ends. (Bit slices would do with one number a point; payloads may have arrays.)
//!
//! A point's numbers are put in, and taken out, all at once: only then is it known that a node has no other of them. Called
//! by `field`.

use super::{number::NumberKey, postings::Postings};
use roaring::{MultiOps, RoaringBitmap};

/// Numbers of a leaf, at most.
const LEAF_MAX: usize = 128;
/// Children of an inner node, at most.
const FANOUT_MAX: usize = 32;

/// See the module.
#[derive(Clone, Debug)]
pub struct Numbers {
    root: Node,
    /// Distinct numbers.
    len: usize,
}

#[derive(Clone, Debug)]
enum Node {
    /// Ascending.
    Leaf(Vec<(NumberKey, Postings)>),
    Inner(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    /// No number of the child is less.
    first: NumberKey,
    /// Every point below.
    all: RoaringBitmap,
    node: Node,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { root: Node::Leaf(Vec::new()), len: 0 }
    }
}

impl Numbers {
    /// Distinct numbers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a point under each of its numbers.
    pub fn put(&mut self, ordinal: u32, keys: &[NumberKey]) {
        for key in keys {
            let (new, right) = self.root.insert(*key, ordinal);
            self.len += usize::from(new);
            if let Some(right) = right {
                let left = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
                self.root = Node::Inner(vec![Child::over(left), right]);
            }
        }
    }

    /// Takes a point away; `keys` are all the numbers it was put under.
    pub fn take(&mut self, ordinal: u32, keys: &[NumberKey]) {
        for key in keys {
            self.len -= usize::from(self.root.remove(*key, ordinal));
        }
        while let Node::Inner(children) = &mut self.root {
            match children.len() {
                0 => self.root = Node::Leaf(Vec::new()),
                1 => self.root = children.remove(0).node,
                _ => break,
            }
        }
    }

    /// The points with a number whose order is within the ends, those at the ends only if `compare` says so.
    pub fn between(&self, low: u64, high: u64, compare: &dyn Fn(NumberKey) -> bool) -> RoaringBitmap {
        let mut found = Found { low, high, compare, whole: Vec::new(), rest: Vec::new() };
        if low <= high {
            self.root.find(0, u64::MAX, &mut found);
        }
        found.rest.sort_unstable();
        found.rest.dedup();
        let rest = RoaringBitmap::from_sorted_iter(found.rest).unwrap_or_default();
        found.whole.into_iter().chain([&rest]).union()
    }

    /// The points with a number equal to this one as filters see it.
    pub fn equal(&self, number: NumberKey) -> RoaringBitmap {
        self.between(number.order(), number.order(), &|key| key.matches(number))
    }
}

/// A range being looked up.
struct Found<'t> {
    low: u64,
    high: u64,
    compare: &'t dyn Fn(NumberKey) -> bool,
    whole: Vec<&'t RoaringBitmap>,
    rest: Vec<u32>,
}

impl<'t> Found<'t> {
    /// Whether all orders from `first` to `last` are strictly within the range.
    fn encloses(&self, first: u64, last: u64) -> bool {
        self.low < first && (last < self.high || self.high == u64::MAX)
    }

    fn misses(&self, first: u64, last: u64) -> bool {
        last < self.low || self.high < first
    }

    fn take(&mut self, postings: &'t Postings) {
        match postings {
            Postings::One(only) => self.rest.push(*only),
            Postings::Few(few) => self.rest.extend(few),
            Postings::Many(many) => self.whole.push(many),
        }
    }
}

impl Child {
    fn over(node: Node) -> Child {
        Child { first: node.first(), all: node.all(), node }
    }
}

impl Node {
    fn first(&self) -> NumberKey {
        let first = match self {
            Node::Leaf(entries) => entries.first().map(|(key, _)| *key),
            Node::Inner(children) => children.first().map(|child| child.first),
        };
        first.expect("a node under another is not empty")
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(entries) => entries.is_empty(),
            Node::Inner(children) => children.is_empty(),
        }
    }

    fn all(&self) -> RoaringBitmap {
        match self {
            Node::Leaf(entries) => {
                let mut all = RoaringBitmap::new();
                entries.iter().for_each(|(_, postings)| postings.add_to(&mut all));
                all
            }
            Node::Inner(children) => children.iter().map(|child| &child.all).union(),
        }
    }

    /// Adds an ordinal; whether the number is new, and the right half of the node if it had to be cut.
    fn insert(&mut self, key: NumberKey, ordinal: u32) -> (bool, Option<Child>) {
        match self {
            Node::Leaf(entries) => match entries.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(at) => {
                    entries[at].1.insert(ordinal);
                    (false, None)
                }
                Err(at) => {
                    entries.insert(at, (key, Postings::One(ordinal)));
                    let right = (entries.len() > LEAF_MAX).then(|| Node::Leaf(entries.split_off(LEAF_MAX / 2)));
                    (true, right.map(Child::over))
                }
            },
            Node::Inner(children) => {
                let at = child_of(children, key);
                let child = &mut children[at];
                child.first = child.first.min(key);
                child.all.insert(ordinal);
                let (new, right) = child.node.insert(key, ordinal);
                if let Some(right) = right {
                    child.all = child.node.all();
                    children.insert(at + 1, right);
                }
                let right = (children.len() > FANOUT_MAX).then(|| Node::Inner(children.split_off(FANOUT_MAX / 2)));
                (new, right.map(Child::over))
            }
        }
    }

    /// Takes an ordinal away; whether the number has gone with it.
    fn remove(&mut self, key: NumberKey, ordinal: u32) -> bool {
        match self {
            Node::Leaf(entries) => {
                let Ok(at) = entries.binary_search_by_key(&key, |(key, _)| *key) else { return false };
                let gone = entries[at].1.remove(ordinal);
                if gone {
                    entries.remove(at);
                }
                gone
            }
            Node::Inner(children) => {
                if children.is_empty() {
                    return false;
                }
                let at = child_of(children, key);
                let child = &mut children[at];
                child.all.remove(ordinal);
                let gone = child.node.remove(key, ordinal);
                if child.node.is_empty() {
                    children.remove(at);
                }
                gone
            }
        }
    }

    /// Gathers the points of a range; the node's orders lie between `first` and `last`.
    fn find<'t>(&'t self, first: u64, last: u64, found: &mut Found<'t>) {
        match self {
            Node::Leaf(entries) => {
                let from = entries.partition_point(|(key, _)| key.order() < found.low);
                let high = found.high;
                for (key, postings) in entries[from..].iter().take_while(|(key, _)| key.order() <= high) {
                    if found.encloses(key.order(), key.order()) || (found.compare)(*key) {
                        found.take(postings);
                    }
                }
            }
            Node::Inner(children) => {
                for (i, child) in children.iter().enumerate() {
                    let first = child.first.order().max(first);
                    let last = children.get(i + 1).map_or(last, |next| next.first.order());
                    if found.encloses(first, last) {
                        found.whole.push(&child.all);
                    } else if !found.misses(first, last) {
                        child.node.find(first, last, found);
                    }
                }
            }
        }
    }
}

/// The child a key belongs to.
fn child_of(children: &[Child], key: NumberKey) -> usize {
    children.partition_point(|child| child.first <= key).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Number;
    use std::collections::{BTreeMap, BTreeSet};

    fn key(number: u32) -> NumberKey {
        NumberKey::of(&Number::from(number))
    }

    fn check(tree: &Numbers, points: &BTreeMap<u32, BTreeSet<u32>>, low: u32, high: u32) {
        // `low` itself is out, `high` is in.
        let (low_key, high_key) = (key(low), key(high));
        let compare = |key: NumberKey| key > low_key && key <= high_key;
        let found = tree.between(low_key.order(), high_key.order(), &compare);
        let inside = |numbers: &BTreeSet<u32>| numbers.iter().any(|n| low < *n && *n <= high);
        let expected: Vec<u32> = points.iter().filter(|(_, n)| inside(n)).map(|(ordinal, _)| *ordinal).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{low}..={high}");
    }

    #[test]
    fn ranges_of_a_deep_tree_with_changes_in_between() {
        let mut points: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut tree = Numbers::default();
        let mut random = 1_u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for round in 0..60_000 {
            let ordinal = next(12_000);
            let keys = |numbers: &BTreeSet<u32>| numbers.iter().map(|n| key(*n)).collect::<Vec<_>>();
            if let Some(old) = points.remove(&ordinal) {
                tree.take(ordinal, &keys(&old));
            }
            if next(5) > 0 {
                let new: BTreeSet<u32> = (0..next(3) + 1).map(|_| next(20_000)).collect();
                tree.put(ordinal, &keys(&new));
                points.insert(ordinal, new);
            }
            if round % 6_000 == 0 {
                let distinct: BTreeSet<u32> = points.values().flatten().copied().collect();
                assert_eq!(tree.len(), distinct.len());
                for _ in 0..20 {
                    let (a, b) = (next(20_000), next(20_000));
                    check(&tree, &points, a.min(b), a.max(b));
                }
            }
        }
        for (ordinal, numbers) in &points {
            tree.take(*ordinal, &numbers.iter().map(|n| key(*n)).collect::<Vec<_>>());
        }
        assert!(tree.len() == 0 && tree.root.is_empty());
    }

    proptest! {
        #[test]
        fn small_trees(points in prop::collection::btree_map(0..30_u32, prop::collection::btree_set(0..20_u32, 1..4), 0..20), low in 0..20_u32, high in 0..20_u32) {
            let mut tree = Numbers::default();
            for (ordinal, numbers) in &points {
                tree.put(*ordinal, &numbers.iter().map(|n| key(*n)).collect::<Vec<_>>());
            }
            check(&tree, &points, low.min(high), low.max(high));
        }
    }
}
