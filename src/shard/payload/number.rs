//! Numbers as keys of an ordered map, in the order in which filters compare them: whole numbers exactly, others as 64-bit
//! floats. Called by `leaves`, `numbers` and `field`.

use crate::types::filter::Range;
use serde_json::Number;

/// A number: the nearest f64, and how far a whole number lies from it.
///
/// Filters compare two whole numbers as such and every other pair as f64 (`types::filter`). So a float equals all whole numbers
/// that round to it though those differ from one another, and keys of the same f64 have to stand side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NumberKey {
    /// Order-preserving bits of the f64; -0.0 is 0.0.
    order: u64,
    /// A whole number less its f64, at most 1,024 either way for 64-bit numbers; [`FLOAT`] for floats.
    offset: i16,
}

/// The offset of numbers that are not stored as whole ones.
const FLOAT: i16 = i16::MIN;

impl NumberKey {
    /// The key of a number.
    pub fn of(number: &Number) -> NumberKey {
        let float = number.as_f64().unwrap_or(f64::MAX);
        let offset = number.as_i128().map_or(FLOAT, |whole| (whole - float as i128) as i16);
        NumberKey { order: order_of(float), offset }
    }

    /// The number, or one that compares the same with all others.
    pub fn number(self) -> Number {
        let float = float_of(self.order);
        if self.offset == FLOAT {
            return Number::from_f64(float).unwrap_or_else(|| Number::from(0));
        }
        let whole = float as i128 + i128::from(self.offset);
        match u64::try_from(whole) {
            Ok(whole) => Number::from(whole),
            Err(_) => Number::from(whole.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
        }
    }

    /// Bits that order keys as their f64 do.
    pub fn order(self) -> u64 {
        self.order
    }

    /// Whether the two are equal for a filter.
    pub fn matches(self, other: NumberKey) -> bool {
        self.order == other.order && (self.offset == other.offset || self.offset == FLOAT || other.offset == FLOAT)
    }
}

/// The f64s between which a range's numbers lie, as [`NumberKey::order`]s, ends included. Numbers strictly between are in the
/// range; those of the ends have to be compared.
pub fn orders_of(range: &Range) -> std::ops::RangeInclusive<u64> {
    let order = |bound: &Option<Number>| bound.as_ref().map(|number| NumberKey::of(number).order);
    let low = order(&range.gt).max(order(&range.gte)).unwrap_or(0);
    let high = [&range.lt, &range.lte].into_iter().filter_map(order).min().unwrap_or(u64::MAX);
    low..=high
}

/// Flips the sign of positive floats and every bit of negative ones: unsigned order is then numeric order.
fn order_of(float: f64) -> u64 {
    let bits = (float + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn float_of(order: u64) -> f64 {
    f64::from_bits(if order >> 63 == 1 { order & !(1 << 63) } else { !order })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::types::{Filter, PointId};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Numbers near one another, near the limits and on both sides of where f64 loses whole numbers.
    pub fn number() -> impl Strategy<Value = Number> {
        let whole = prop_oneof![
            Just(0_i128),
            -5..5_i128,
            (-3..3_i128).prop_map(|i| (1 << 53) + i),
            (-3..3_i128).prop_map(|i| -(1 << 53) + i),
            (-3..3_i128).prop_map(|i| 1_700_000_000_000_000_000 + i),
            (0..1030_i128).prop_map(|i| i128::from(u64::MAX) - i),
            (0..1030_i128).prop_map(|i| i128::from(i64::MIN) + i),
        ];
        (whole, 0..4).prop_map(|(whole, form)| match (form, u64::try_from(whole)) {
            (0, _) => Number::from_f64(whole as f64).unwrap(),
            (1, _) => Number::from_f64(whole as f64 * 1.000_000_1 + 0.5).unwrap(),
            (_, Ok(whole)) => Number::from(whole),
            (_, Err(_)) => Number::from(whole as i64),
        })
    }

    fn passes(test: Value, number: &Number) -> bool {
        let filter = Filter::from_json(&json!({"must": [test]})).unwrap();
        filter.passes(PointId::Num(1), json!({ "k": number }).as_object().unwrap())
    }

    proptest! {
        #[test]
        fn keys_compare_as_filters_do(a in number(), b in number()) {
            let (x, y) = (NumberKey::of(&a), NumberKey::of(&b));
            let range = |bound: &str| passes(json!({"key": "k", "range": { bound: a }}), &b);
            prop_assert_eq!(x.matches(y), passes(json!({"key": "k", "match": {"value": a}}), &b));
            prop_assert_eq!(NumberKey::of(&x.number()), x);
            if x.order() < y.order() {
                prop_assert!(range("gt") && !range("lte"));
            }
        }

        #[test]
        fn the_inside_of_a_range_needs_no_comparison(bounds in prop::array::uniform4(prop::option::of(number())), n in number()) {
            let [gt, gte, lt, lte] = bounds;
            let range = Range { gt, gte, lt, lte };
            let orders = orders_of(&range);
            let order = NumberKey::of(&n).order();
            if *orders.start() < order && order < *orders.end() {
                prop_assert!(range.contains(&n));
            }
            if !orders.contains(&order) {
                prop_assert!(!range.contains(&n));
            }
        }
    }

    #[test]
    fn zeros_are_one() {
        assert_eq!(NumberKey::of(&Number::from_f64(-0.0).unwrap()), NumberKey::of(&Number::from_f64(0.0).unwrap()));
    }
}
