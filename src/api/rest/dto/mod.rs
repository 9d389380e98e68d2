//! The REST face's JSON, in and out: one struct a body, with the names of API.md and nothing else.
//!
//! What comes in refuses unknown and repeated fields and is converted with a fallible `into_…`; what goes out borrows
//! from the answer and is built with `new`. The same structs are the schemas of `/openapi.json`. Called by `handlers`.

mod administration;
mod alias;
mod cluster;
mod document;
mod field_index;
mod scalar;
mod search;
mod table;

pub use administration::*;
pub use alias::*;
pub use cluster::*;
pub use document::*;
pub use field_index::*;
pub use scalar::*;
pub use search::*;
pub use table::*;
