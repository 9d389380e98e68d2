//! The index of `bench ann`: built from rows, or opened from the file that a run before wrote. Called by `ann`.

use super::{
    AnnArgs,
    data::{Matrix, Rows},
};
use crate::{
    cli::CliError,
    index::{
        Block, Damage, Image, IndexKind, IndexSpec, Memory, Points, Sealed, TrainOptions, VectorIndex, train,
        write_image,
    },
    rt::cpu,
    store::files::{self, FileKind},
    types::{PointId, VectorName},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The build's chance: fixed, so that two runs build the same index.
const SEED: u64 = 1;
/// How the name ends of the file with the build's processor time, beside the index file, which is as a node writes it.
const BUILD: &str = ".build";
const BUILD_KIND: FileKind = FileKind { tag: *b"BNCH", version: 1 };
/// Of the only vector.
const NAME: &str = "base";

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
        let threads = args.threads as usize;
        let Some(path) = args.index.as_deref() else { return Ok(build(base, spec, threads)?.0) };
        let failed = |error: String| unusable(path, error);
        if let Some(map) = files::map_file(path).map_err(|error| failed(error.to_string()))? {
            let engine = open(Block::mapped(map), path, spec, args.memory).map_err(failed)?;
            let (expected, got) = (base.rows(), engine.index.len());
            return if got == expected {
                Ok(engine)
            } else {
                Err(failed(format!("it has {got} rows, the base {expected}")))
            };
        }
        let (engine, sealed) = build(base, spec, threads)?;
        let sealed = sealed.ok_or_else(|| failed("so few rows have no lists to keep in a file".to_owned()))?;
        save(path, &engine, sealed).map_err(|error| failed(error.to_string()))?;
        Ok(engine)
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

/// Above the flat limit an index of posting lists, with its lists for a file; below it the flat one: as a node would.
fn build(base: &Matrix, spec: IndexSpec, threads: usize) -> Result<(Engine, Option<Sealed>), CliError> {
    let started = cpu::process();
    if base.rows() <= spec.flat_rows_max || spec.kind == IndexKind::Flat {
        let (mut points, mut index) = (Points::new(), VectorIndex::new(spec));
        (0..).zip(base.iter()).for_each(|(row, vector)| index.upsert(points.put(PointId::Num(row), 1), vector));
        return Ok((Engine { points, index, build_cpu: cpu::process() - started, opened: false }, None));
    }
    let options = TrainOptions { threads, ..TrainOptions::new(SEED) };
    let built = train(&spec, &mut Rows(base), &options).map_err(|error| CliError::failed(error.to_string()))?;
    let build_cpu = cpu::process() - started;
    let sealed = built.sealed.clone();
    let (points, index) = VectorIndex::of_built(spec, built).map_err(CliError::internal)?;
    Ok((Engine { points, index, build_cpu, opened: false }, Some(sealed)))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BUILD);
    PathBuf::from(name)
}

fn save(path: &Path, engine: &Engine, sealed: Sealed) -> Result<(), Box<dyn std::error::Error>> {
    let nanoseconds = (engine.build_cpu.as_nanos() as u64).to_le_bytes();
    files::write_file_synced(&beside(path), BUILD_KIND, &nanoseconds)?;
    let parts = [(VectorName::new(NAME)?, sealed)];
    Ok(files::write_synced_with(path, |out| write_image(out, &engine.points, &parts))?)
}

/// As a node opens its files: mapped, then what is to be in memory is moved there.
fn open(block: Arc<Block>, path: &Path, spec: IndexSpec, memory: Memory) -> Result<Engine, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let foreign = || "not an index of `bench ann`".to_owned();
    let image = Image::open(&block, &Damage::default()).map_err(|error| text(&error))?;
    let saved = image.parts.into_iter().next().ok_or_else(foreign)?;
    let (_, build) = files::read_file(&beside(path), BUILD_KIND).map_err(|error| text(&error))?.ok_or_else(foreign)?;
    let nanoseconds = u64::from_le_bytes(build.try_into().map_err(|_| foreign())?);
    let mut index = VectorIndex::open(spec, saved).map_err(|error| text(&error))?;
    index.install_placed(index.placement(memory).run().map_err(|error| text(&error))?);
    Ok(Engine { points: image.points, index, build_cpu: Duration::from_nanos(nanoseconds), opened: true })
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
