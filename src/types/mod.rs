//! The words of the system: ids, vectors, payloads, points, collections, filters, operations, limits and errors.
//! Domain types can only be built valid. No async, no I/O, no wire format. Every room imports this one.

pub mod id;
pub mod metric;

pub use id::PointId;
pub use metric::Metric;
