//! A filter as clients ask it and as checkers judge it: values of a range, but for those that end in one digit. Used by [`super::set`] and
//! [`super::search`]; `workload` says it as the node takes it.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where {
    pub first: u64,
    pub end: u64,
    /// Values that end in it do not pass; none do where it is no digit.
    pub spared: u64,
}

impl Where {
    pub fn passes(&self, value: u64) -> bool {
        (self.first..self.end).contains(&value) && !self.spares(value)
    }

    pub fn spares(&self, value: u64) -> bool {
        value % 10 == self.spared
    }
}
