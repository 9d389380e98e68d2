//! `vectorsphere import`: files of vectors into a table.

pub mod csv;
pub mod fault;
pub mod format;
pub mod jsonl;
pub mod lines;
pub mod npy;
pub mod row;
pub mod schema;
pub mod vecs;
