//! The index of `bench ann`: built from rows, or opened from the file that a run before wrote. Called by `ann`.

use super::{
    AnnArgs,
    data::{Matrix, Rows},
};
use crate::{
    cli::CliError,
    index::{IndexKind, IndexSpec, Points, Sealed, VectorIndex, train},
    rt::cpu,
    types::PointId,
};
use std::{fs, io, path::Path, time::Duration};

/// The build's chance: fixed, so that two runs build the same index.
const SEED: u64 = 1;
/// Begins a file; then the build's processor time in nanoseconds, the bytes of the points, the points, the lists.
const MAGIC: &[u8; 8] = b"VSannix1";
const HEAD_BYTES: usize = 24;

pub(super) struct Engine {
    pub(super) points: Points,
    pub(super) index: VectorIndex,
    /// Of the run that built.
    pub(super) build_cpu: Duration,
    /// Whether it came from a file.
    pub(super) opened: bool,
}

impl Engine {
    /// Opens the file of `--index` if there is one; else builds, and writes it.
    pub(super) fn new(args: &AnnArgs, base: &Matrix) -> Result<Engine, CliError> {
        Engine::with_spec(args, base, spec(args, base.dimension))
    }

    fn with_spec(args: &AnnArgs, base: &Matrix, spec: IndexSpec) -> Result<Engine, CliError> {
        let saved = args.index.as_deref().map(|path| (path, fs::read(path)));
        match saved {
            Some((path, Ok(bytes))) => {
                let engine = open(&bytes, spec).map_err(|error| unusable(path, error))?;
                if engine.index.len() != base.rows() {
                    let (expected, got) = (base.rows(), engine.index.len());
                    return Err(unusable(path, format!("it has {got} rows, the base {expected}")));
                }
                Ok(engine)
            }
            Some((path, Err(error))) if error.kind() == io::ErrorKind::NotFound => {
                let (engine, bytes) = build(base, spec)?;
                let bytes = bytes.ok_or_else(|| unusable(path, "so few rows have no lists to keep in a file"))?;
                fs::write(path, bytes).map_err(|error| unusable(path, error))?;
                Ok(engine)
            }
            Some((path, Err(error))) => Err(unusable(path, error)),
            None => Ok(build(base, spec)?.0),
        }
    }
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("the index file {}: {error}", path.display()))
}

fn spec(args: &AnnArgs, dimension: usize) -> IndexSpec {
    let mut spec = IndexSpec::new(args.metric, dimension);
    spec.kind = args.kind;
    spec.subspace_width = args.compression.dimensions_per_code();
    spec.rerank = args.rerank;
    spec
}

/// Above the flat limit an index of posting lists, with its bytes for a file; below it the flat one: as a node would.
fn build(base: &Matrix, spec: IndexSpec) -> Result<(Engine, Option<Vec<u8>>), CliError> {
    let started = cpu::process();
    if base.rows() <= spec.flat_rows_max || spec.kind == IndexKind::Flat {
        let (mut points, mut index) = (Points::new(), VectorIndex::new(spec));
        (0..).zip(base.iter()).for_each(|(row, vector)| index.upsert(points.put(PointId::Num(row), 1), vector));
        return Ok((Engine { points, index, build_cpu: cpu::process() - started, opened: false }, None));
    }
    let built = train(&spec, &mut Rows(base), SEED).map_err(|error| CliError::failed(error.to_string()))?;
    let build_cpu = cpu::process() - started;
    let bytes = encode(build_cpu, &built.points, &built.sealed);
    let index = VectorIndex::restore(spec, &built.points, built.sealed).map_err(CliError::internal)?;
    Ok((Engine { points: built.points, index, build_cpu, opened: false }, Some(bytes)))
}

fn encode(build_cpu: Duration, points: &Points, sealed: &Sealed) -> Vec<u8> {
    let points = points.encode();
    let mut bytes = MAGIC.to_vec();
    bytes.extend((build_cpu.as_nanos() as u64).to_le_bytes());
    bytes.extend((points.len() as u64).to_le_bytes());
    bytes.extend(points);
    bytes.extend(sealed.encode());
    bytes
}

fn open(bytes: &[u8], spec: IndexSpec) -> Result<Engine, String> {
    let foreign = || "not an index of `bench ann`".to_owned();
    let (head, rest) =
        bytes.split_at_checked(HEAD_BYTES).filter(|(head, _)| head.starts_with(MAGIC)).ok_or_else(foreign)?;
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    let (points, lists) = rest.split_at_checked(number(16) as usize).ok_or_else(foreign)?;
    let points = Points::decode(points).map_err(|error| error.to_string())?;
    let sealed = Sealed::decode(lists).map_err(|error| error.to_string())?;
    let index = VectorIndex::restore(spec, &points, sealed).map_err(|error| error.to_string())?;
    Ok(Engine { points, index, build_cpu: Duration::from_nanos(number(8)), opened: true })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{AnnReport, bench_with};
    use super::*;

    /// The command with posting lists for few rows already.
    pub(in super::super) fn bench_small(args: &AnnArgs) -> Result<AnnReport, CliError> {
        bench_with(args, |base| {
            let small = IndexSpec { flat_rows_max: 100, list_rows: 50, ..spec(args, base.dimension) };
            Engine::with_spec(args, base, small)
        })
    }
}
