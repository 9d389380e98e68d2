//! The vector index of one named vector of one shard: flat below some thousands of rows, IVF-PQ above. Pure computation: no async,
//! clock, thread or I/O; chance comes from a seed. The same rows, seed and queries give the same bytes and answers on every CPU.
//!
//! A [`VectorIndex`] is a flat tail of f32 rows and, once trained, immutable posting lists with live bits. An upsert lands in the
//! tail and is found by the next search. Rows go by ordinal, which [`Points`] gives to ids. [`train`] builds lists from a consistent
//! view, [`FilingJob::run`] moves the tail's rows into them, [`ReshapeJob::run`] keeps the lists in shape, [`ArrangeJob::run`] does both as often as it takes, [`RecalibrationJob::run`] renews the
//! plans of searches; all run off the caller's lock and are then installed. A search ranks the lists, scans 4-bit codes with one look-up table, re-ranks candidates in int8, and leaves the f32 re-score to the caller, who has the vectors.
//!
//! Long scans that do not depend on the order of rows are cut into parts, which idle cores may take part in (`threads`); what is found
//! is the same.
//!
//! Called by `shard`. [`distance`] is the one exact distance of the system.

mod adoption;
mod allowed;
mod arrange;
mod assigner;
mod batch;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench_doors;
mod calibrate;
mod candidates;
mod damage;
mod distance;
mod encoder;
mod file;
mod filing;
mod filtered;
mod hash;
mod image;
pub mod kernels;
mod kmeans;
mod lift;
mod list;
mod locations;
mod pages;
mod placement;
mod plan;
mod points;
mod possible;
mod probes;
mod product;
mod quantizer;
mod random;
mod reach;
mod rearrange;
mod recalibrate;
mod region;
mod rerank;
mod reshape;
mod rotation;
mod sealed;
mod search;
mod select;
mod sieve;
mod spec;
mod tail;
mod threads;
mod top;
mod trace;
mod train;
mod trained;
mod truth;
mod vector_index;
mod verification;
mod visits;
mod work;

#[cfg(test)]
mod tests;

pub use adoption::Adoption;
pub use allowed::Allowed;
pub use arrange::{ArrangeJob, Arranged};
pub use damage::Damage;
pub use distance::{distance, normalize};
pub use file::IndexFileError;
pub use filing::FilingJob;
pub use hash::HashJob;
pub use image::{Image, SavedIndex, write_image};
pub use placement::{Memory, Placed, Placement};
pub use points::Points;
pub use rearrange::Rearranged;
pub use recalibrate::{Recalibrated, RecalibrationJob};
pub use region::Block;
pub use reshape::ReshapeJob;
pub use sealed::Sealed;
pub use search::Scratch;
pub use spec::{
    FilterPlan, Hit, IndexKind, IndexSpec, IndexState, SearchOutcome, SearchParams, SearchPlan, SearchStats,
};
pub use train::{Built, RowSource, RowVisitor, SourceError, TrainError, TrainOptions, train};
pub use vector_index::{InstallError, Installed, VectorIndex};
pub use verification::Verification;

/// The name of the kernels in use: `scalar`, `avx2`, `avx512` or `neon`.
pub fn active_simd() -> &'static str {
    kernels::active().name
}
