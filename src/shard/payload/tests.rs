//! The indexes against `Filter::passes`, for random filters over random payloads with changes in between.

use super::{PayloadIndexes, Set, evaluate, number::tests::number};
use crate::types::{Filter, IndexedFields, PayloadIndexKind, PointId, path::Path};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Object = Map<String, Value>;

/// Indexed as values, as text, and not at all.
const VALUE_PATHS: [&str; 5] = ["a", "b.c", "l", "l[]", "l[].x"];
const TEXT_PATH: &str = "t";
const OTHER_PATH: &str = "n";

fn word() -> impl Strategy<Value = String> {
    let long = "long ".repeat(80);
    prop_oneof![
        8 => prop::sample::select(vec!["red", "green", "Red fox", "the quick, Red", "", "fox"]).prop_map(str::to_owned),
        1 => Just(long.clone()),
        1 => Just(long.replace(' ', "")),
        1 => Just(format!("{}x", long.replace(' ', ""))),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        word().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (0..4_i64).prop_map(Value::from),
        (0..4_i64).prop_map(|n| json!(n as f64)),
        number().prop_map(Value::Number),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![4 => scalar(), 1 => Just(Value::Null), 1 => Just(json!({"x": 1}))];
    prop_oneof![
        3 => leaf.clone(),
        2 => prop::collection::vec(prop_oneof![4 => leaf.clone(), 1 => scalar().prop_map(|x| json!({ "x": x }))], 0..4).prop_map(Value::from),
        1 => prop::collection::vec(prop::collection::vec(leaf, 0..3), 0..2).prop_map(|lists| json!(lists)),
    ]
}

fn payload() -> impl Strategy<Value = Object> {
    let key = prop::sample::select(vec!["a", "b", "l", TEXT_PATH, OTHER_PATH]);
    prop::collection::btree_map(key, (value(), value()), 0..5).prop_map(|entries| {
        let entry = |(key, (value, within)): (&str, (Value, Value))| {
            (key.to_owned(), if key == "b" { json!({ "c": within }) } else { value })
        };
        entries.into_iter().map(entry).collect()
    })
}

fn condition(paths: Vec<&'static str>) -> impl Strategy<Value = Value> {
    let field = move |test: BoxedStrategy<Value>, name: &'static str| {
        let key = prop::sample::select(paths.clone());
        (key, test).prop_map(move |(key, test)| json!({"key": key, name: test}))
    };
    let list = || prop::collection::vec(scalar(), 0..4);
    let bound = || prop::option::weighted(0.6, prop_oneof![number(), (0..4).prop_map(|n: i32| n.into())]);
    let range = [bound(), bound(), bound(), bound()].prop_filter_map("no bound", |[gt, gte, lt, lte]| {
        let some = [&gt, &gte, &lt, &lte].iter().any(|bound| bound.is_some());
        some.then(|| json!({"gt": gt, "gte": gte, "lt": lt, "lte": lte}))
    });
    prop_oneof![
        3 => field(scalar().prop_map(|value| json!({ "value": value })).boxed(), "match"),
        2 => field(list().prop_map(|any| json!({ "any": any })).boxed(), "match"),
        2 => field(list().prop_map(|except| json!({ "except": except })).boxed(), "match"),
        2 => field(word().prop_map(|text| json!({ "text": text })).boxed(), "match"),
        3 => field(range.boxed(), "range"),
        1 => prop::collection::vec(0..30_u64, 0..5).prop_map(|ids| json!({ "has_id": ids })),
        2 => field(Just(json!(null)).boxed(), "is").prop_flat_map(|field| {
            let kind = prop::sample::select(vec!["is_empty", "is_null", "exists"]);
            kind.prop_map(move |kind| json!({ kind: {"key": field["key"]} }))
        }),
    ]
}

fn filter(paths: Vec<&'static str>) -> impl Strategy<Value = Value> {
    condition(paths).prop_recursive(3, 12, 3, |inner| {
        let list = || prop::collection::vec(inner.clone(), 0..3);
        (list(), list(), list())
            .prop_map(|(must, should, must_not)| json!({"must": must, "should": should, "must_not": must_not}))
    })
}

/// Points with their ordinals, and the indexes that follow them.
struct World {
    points: BTreeMap<u64, (u32, Object)>,
    free: Vec<u32>,
    indexes: PayloadIndexes,
}

impl World {
    fn new(kinds: &[(&str, PayloadIndexKind)], points: u64) -> World {
        let mut indexes = PayloadIndexes::new();
        let fields: IndexedFields = kinds.iter().map(|(path, kind)| (Path::parse(path).unwrap(), *kind)).collect();
        indexes.set_fields(&fields, points);
        World { points: BTreeMap::new(), free: (0..64).rev().collect(), indexes }
    }

    fn apply(&mut self, id: u64, payload: Option<Object>) {
        match (self.points.remove(&id), payload) {
            (Some((ordinal, before)), Some(payload)) => {
                self.indexes.put(ordinal, Some(&before), &payload);
                self.points.insert(id, (ordinal, payload));
            }
            (Some((ordinal, before)), None) => {
                self.indexes.remove(ordinal, &before);
                self.free.push(ordinal);
            }
            (None, Some(payload)) => {
                let ordinal = self.free.pop().unwrap();
                self.indexes.put(ordinal, None, &payload);
                self.points.insert(id, (ordinal, payload));
            }
            (None, None) => {}
        }
    }

    /// Checks what the indexes say of a filter; whether it was exact.
    fn check(&self, filter: &Value) -> bool {
        let filter = Filter::from_json(&json!({"must": [filter]})).unwrap();
        let ordinal = |id: PointId| match id {
            PointId::Num(id) => self.points.get(&id).map(|(ordinal, _)| *ordinal),
            PointId::Uuid(_) => None,
        };
        let bounds = evaluate(&filter, &self.indexes, &ordinal).bounds;
        for (id, (ordinal, payload)) in &self.points {
            let passes = filter.passes(PointId::Num(*id), payload);
            assert!(!has(bounds.sure(), *ordinal) || passes, "sure: {} of {payload:?}", filter.source());
            assert!(has(bounds.possible(), *ordinal) || !passes, "possible: {} of {payload:?}", filter.source());
        }
        bounds.is_exact()
    }
}

fn has(set: &Set<'_>, ordinal: u32) -> bool {
    match set {
        Set::Only(bitmap) => bitmap.contains(ordinal),
        Set::AllBut(bitmap) => !bitmap.contains(ordinal),
    }
}

fn all_kinds() -> Vec<(&'static str, PayloadIndexKind)> {
    let values = VALUE_PATHS.iter().map(|path| (*path, PayloadIndexKind::Value));
    values.chain([(TEXT_PATH, PayloadIndexKind::Text)]).collect()
}

fn all_paths() -> Vec<&'static str> {
    VALUE_PATHS.into_iter().chain([TEXT_PATH, OTHER_PATH]).collect()
}

fn changes() -> impl Strategy<Value = Vec<(u64, Option<Object>)>> {
    prop::collection::vec((0..30_u64, prop::option::weighted(0.8, payload())), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_indexes_agree_with_passes(changes in changes(), filters in prop::collection::vec(filter(all_paths()), 1..12)) {
        let mut world = World::new(&all_kinds(), 0);
        let half = changes.len() / 2;
        for (i, (id, payload)) in changes.into_iter().enumerate() {
            world.apply(id, payload);
            if i == half {
                filters.iter().for_each(|filter| { world.check(filter); });
            }
        }
        filters.iter().for_each(|filter| { world.check(filter); });
    }

    #[test]
    fn conditions_on_short_values_are_exact(changes in changes(), path in prop::sample::select(VALUE_PATHS.to_vec()), value in scalar(), low in number()) {
        let mut world = World::new(&all_kinds(), 0);
        changes.into_iter().for_each(|(id, payload)| world.apply(id, payload));
        let is = json!({"key": path, "match": {"value": value}});
        if value.as_str().is_none_or(|text| text.len() < 256) {
            for filter in [
                is.clone(),
                json!({"must_not": [is]}),
                json!({"should": [is, {"key": path, "match": {"any": [value, 2]}}]}),
                json!({"must": [{"key": path, "range": {"gt": low}}], "must_not": [{"is_null": {"key": path}}]}),
                json!({"is_empty": {"key": path}}),
                json!({"exists": {"key": TEXT_PATH}}),
                json!({"has_id": [3, 4]}),
            ] {
                prop_assert!(world.check(&filter), "{} is exact", filter);
            }
        }
    }

    #[test]
    fn filling_goes_on_beside_writes(
        before in changes(),
        steps in prop::collection::vec((any::<bool>(), 0..30_u64, prop::option::weighted(0.7, payload())), 0..60),
        filters in prop::collection::vec(filter(all_paths()), 1..8),
    ) {
        let mut world = World::new(&[], 0);
        before.into_iter().for_each(|(id, payload)| world.apply(id, payload));
        let fields = all_kinds().into_iter().map(|(path, kind)| (Path::parse(path).unwrap(), kind)).collect();
        world.indexes.set_fields(&fields, world.points.len() as u64);
        let to_fill = world.indexes.unfilled();
        let mut ids: Vec<u64> = world.points.keys().copied().collect();
        for (fill, id, payload) in steps {
            if fill {
                if let Some((ordinal, payload)) = ids.pop().and_then(|id| world.points.get(&id)) {
                    world.indexes.fill(*ordinal, payload);
                }
            } else {
                world.apply(id, payload);
                filters.iter().for_each(|filter| { world.check(filter); });
            }
        }
        for (ordinal, payload) in ids.iter().filter_map(|id| world.points.get(id)) {
            world.indexes.fill(*ordinal, payload);
        }
        world.indexes.filled(&to_fill);
        assert!(!world.indexes.wants_filling());
        filters.iter().for_each(|filter| { world.check(filter); });
        // Taken out again, nothing is left.
        let ids: Vec<u64> = world.points.keys().copied().collect();
        ids.into_iter().for_each(|id| world.apply(id, None));
        prop_assert!(world.indexes.states().iter().all(|state| (state.points, state.distinct) == (0, 0)));
    }
}

#[test]
fn text_and_except_are_exact_for_single_values() {
    let mut world = World::new(&all_kinds(), 0);
    for (id, text) in ["the quick red fox", "red", "a fox", ""].into_iter().enumerate() {
        world.apply(id as u64, json!({"t": text, "a": text}).as_object().cloned());
    }
    assert!(world.check(&json!({"key": "t", "match": {"text": "fox RED"}})));
    assert!(world.check(&json!({"key": "t", "match": {"text": "!"}})));
    assert!(world.check(&json!({"key": "a", "match": {"except": ["red", 1]}})));
    world.apply(9, json!({"t": ["fox", "red"], "a": [1, "red"]}).as_object().cloned());
    assert!(!world.check(&json!({"key": "t", "match": {"text": "fox red"}})), "the tokens of one string or of two?");
    assert!(!world.check(&json!({"key": "a", "match": {"except": ["red"]}})));
    assert!(world.check(&json!({"key": "a", "match": {"except": ["blue"]}})));
}

#[test]
fn fields_come_and_go() {
    let mut world = World::new(&[("a", PayloadIndexKind::Value)], 0);
    world.apply(1, json!({"a": 1, "b": "x"}).as_object().cloned());
    let fields = |text: &[(&str, PayloadIndexKind)]| -> IndexedFields {
        text.iter().map(|(path, kind)| (Path::parse(path).unwrap(), *kind)).collect()
    };
    world.indexes.set_fields(&fields(&[("a", PayloadIndexKind::Value), ("b", PayloadIndexKind::Value)]), 1);
    let started = world.indexes.unfilled();
    assert_eq!(started.len(), 1, "a stays as it is");
    world.indexes.set_fields(&fields(&[("a", PayloadIndexKind::Text)]), 1);
    world.indexes.set_fields(&fields(&[("a", PayloadIndexKind::Text), ("b", PayloadIndexKind::Value)]), 1);
    world.indexes.filled(&started);
    assert_eq!(world.indexes.unfilled().len(), 2, "added again, b has still to be filled");
    let b =
        Filter::from_json(&json!({"must": [{"key": "b", "match": {"value": "x"}}, {"key": "c", "range": {"gt": 1}}]}));
    let b = b.unwrap();
    let found = evaluate(&b, &world.indexes, &|_| None);
    assert_eq!(found.building.iter().map(Path::to_string).collect::<Vec<_>>(), ["b"]);
    assert_eq!(found.not_indexed.iter().map(Path::to_string).collect::<Vec<_>>(), ["c"]);
}
