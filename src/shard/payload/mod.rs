//! Payload indexes of one replica: for each indexed field the points by value, as bitmaps over ordinals, so that a filter is
//! answered without reading records. Derived from the records; kept in memory.
//!
//! [`PayloadIndexes`] changes with every write, behind the same gate as the vector indexes, and is filled in the background
//! when a field is added or the replica opens. [`evaluate`] answers a filter with [`Bounds`]: exact where every condition is
//! on a ready field that can tell, else between the points that pass for sure and those that may. Called by `state`, `search`,
//! `round`, `read` and `indexer`.

mod allowed;
mod evaluate;
mod field;
mod indexes;
mod leaves;
mod number;
mod numbers;
mod postings;
mod set;
mod terms;
mod words;

#[cfg(test)]
mod tests;

pub use allowed::{allowed, members};
pub use evaluate::{Evaluated, evaluate};
pub use indexes::{FieldState, PayloadIndexes};
pub use set::Set;
