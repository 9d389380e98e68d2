//! The words of the system: ids, vectors, payloads, points, collections, filters, operations, limits and errors.
//! Domain types can only be built valid. No async, no I/O, no wire format. Every room imports this one.

pub mod alias;
pub mod collection;
pub mod error;
pub mod filter;
pub mod id;
pub mod limits;
pub mod metric;
pub mod operation;
pub mod path;
pub mod payload;
pub mod point;
pub mod quantization;
pub mod session;
pub mod slot;
pub mod vector;
pub mod write;

pub use alias::AliasChange;
pub use collection::{
    CollectionName, CollectionSpec, IndexType, IndexedFields, PayloadIndexKind, VectorName, VectorSpec,
};
pub use error::{Error, ErrorKind, Result};
pub use filter::Filter;
pub use id::PointId;
pub use limits::Limits;
pub use metric::Metric;
pub use payload::Payload;
pub use point::{DocumentId, Point, PointPatch, StoredPoint};
pub use quantization::{CodeSettings, Compression, Rerank};
pub use session::Session;
pub use slot::{SLOTS, SlotRange, slot_of};
pub use vector::Vector;
pub use write::{Ack, RequestId, WriteOptions};
