//! Where rows are placed when the distance is the inner product. Nearness to a centroid then says little: a long row far from
//! every centroid may be the best answer. So rows are lifted onto a sphere, one more dimension holding what they lack in length,
//! `√(R² − |x|²)` (Bachrach et al. 2014, "Speeding up the Xbox recommender system"); a query has 0 there. Of rows of one length
//! those nearest to a direction have the largest products with it, and lists gather rows alike in direction and in length.
//! Only lists are chosen in the lifted space: codes and int8 rows leave the height out. Called by `quantizer` and `train`.

/// `R²` is the squared length that this share of the rows stays below: a few very long rows must not make all others look alike.
const SHARE_BELOW: f64 = 0.99;

/// The lift of a quantizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lift {
    /// `R²`.
    pub(crate) square: f32,
}

impl Lift {
    /// For rows of these squared lengths (put in another order).
    pub(crate) fn of(squares: &mut [f32]) -> Lift {
        let at = (squares.len().saturating_sub(1) as f64 * SHARE_BELOW) as usize;
        if squares.is_empty() {
            return Lift { square: 0.0 };
        }
        let (_, &mut square, _) = squares.select_nth_unstable_by(at, f32::total_cmp);
        Lift { square }
    }

    /// The last component of a row of this squared length.
    pub(crate) fn height(self, square: f32) -> f32 {
        if square < self.square { (self.square - square).sqrt() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifted_rows_lie_on_a_sphere_but_for_the_longest() {
        let mut squares: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let lift = Lift::of(&mut squares);
        assert_eq!(lift.square, 989.0);
        for square in [0.0, 1.0, 500.0, 989.0] {
            assert!((lift.height(square) * lift.height(square) + square - 989.0).abs() < 1e-3);
        }
        assert_eq!(lift.height(999.0), 0.0);
        assert_eq!(Lift::of(&mut []).height(1.0), 0.0);
    }
}
