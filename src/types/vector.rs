//! A dense f32 vector that is known to be good: not empty, within the bound, every component finite.
//! Dimension and norm are rules of a collection and are checked by [`super::VectorSpec::check`].

use super::{Error, Result, limits};

/// A validated dense vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector(Vec<f32>);

impl Vector {
    /// Takes components over after checking them. Cost: one pass.
    ///
    /// # Errors
    /// `empty_vector`, `dimension_too_large`, `not_finite` (naming the component).
    pub fn new(components: Vec<f32>) -> Result<Vector> {
        if components.is_empty() {
            return Err(Error::invalid("empty_vector", "a vector has at least one component")
                .expected("1 or more components")
                .got("0 components"));
        }
        if components.len() > limits::DIMENSION_MAX {
            return Err(Error::invalid("dimension_too_large", "the vector has too many components")
                .expected(format!("at most {}", limits::DIMENSION_MAX))
                .got(components.len()));
        }
        if !all_finite(&components) {
            let (i, bad) = components.iter().enumerate().find(|(_, c)| !c.is_finite()).expect("one is not finite");
            return Err(Error::invalid("not_finite", "every component of a vector must be a finite 32-bit number")
                .at(format!("[{i}]"))
                .expected("a finite 32-bit number")
                .got(bad));
        }
        Ok(Vector(components))
    }

    /// Number of components.
    pub fn dimension(&self) -> usize {
        self.0.len()
    }

    /// The components.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Gives the components back.
    pub fn into_inner(self) -> Vec<f32> {
        self.0
    }
}

/// Whether every component is finite: the exponent bits are not all ones. Branch-free so that it vectorises.
fn all_finite(components: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    components.iter().fold(true, |all, c| all & (c.to_bits() & EXPONENT != EXPONENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_vector() {
        assert_eq!(Vector::new(vec![]).unwrap_err().code(), "empty_vector");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = Vector::new(vec![1.0, bad]).unwrap_err();
            assert_eq!((error.code(), error.detail().field.as_deref()), ("not_finite", Some("[1]")));
        }
        assert_eq!(Vector::new(vec![0.0; limits::DIMENSION_MAX + 1]).unwrap_err().code(), "dimension_too_large");
        assert_eq!(Vector::new(vec![f32::MAX, f32::MIN_POSITIVE / 2.0]).unwrap().dimension(), 2);
    }
}
