//! `vectorsphere bench ann`: the vector index alone, in this process, on one thread, over files of vectors: what search benchmarks
//! drive. Writes a line of ids (row numbers) for each query, then `#time` (seconds of search, re-ranking included), `#build` and
//! `#bytes` (what the index holds; the f32 rows that re-score the last candidates are the store's and not counted). Called by `bench`.

use crate::{
    cli::{
        CliError, Context,
        context::{facts, grouped},
        import::{fault::ReadError, metric, npy::NpyFile},
    },
    index::{
        IndexKind, IndexSpec, Points, RowSource, RowVisitor, Scratch, SearchParams, SourceError, VectorIndex, distance,
        normalize, train,
    },
    rt::{self, time},
    types::{Metric, PointId},
};
use clap::Args;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// The build's chance: fixed, so that two runs build the same index.
const SEED: u64 = 1;

/// Arguments of `bench ann`.
#[derive(Args, Clone, Debug)]
pub struct AnnArgs {
    /// Vectors to search: npy of floats.
    #[arg(long, value_name = "FILE.npy")]
    pub base: PathBuf,
    /// Queries: npy of floats.
    #[arg(long, value_name = "FILE.npy")]
    pub query: PathBuf,
    /// Neighbours to find.
    #[arg(short, default_value_t = 10, value_name = "K")]
    pub k: usize,
    /// cosine, euclidean, dot or manhattan.
    #[arg(long, value_parser = metric)]
    pub metric: Metric,
    /// File for the ids found.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Lists to look through [default: calibrated].
    #[arg(long, value_name = "N")]
    pub nprobe: Option<usize>,
    /// Candidates to re-rank [default: calibrated].
    #[arg(long, value_name = "N")]
    pub candidates: Option<usize>,
    /// Compare with every row.
    #[arg(long)]
    pub exact: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct AnnReport {
    pub rows: u64,
    pub dimension: usize,
    pub queries: usize,
    pub build_seconds: f64,
    pub search_seconds: f64,
    pub queries_per_second: f64,
    pub index_bytes: usize,
    pub lists: usize,
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be read or written, or do not fit each other.
pub async fn run(args: AnnArgs, context: &Context) -> Result<(), CliError> {
    let report = rt::compute::cpu(move || bench(&args)).await?;
    context.print(&report, || {
        facts(&[
            ("rows", format!("{} of dimension {}", grouped(report.rows), report.dimension)),
            (
                "build",
                format!(
                    "{:.2} s, {} lists, {} bytes",
                    report.build_seconds,
                    report.lists,
                    grouped(report.index_bytes as u64)
                ),
            ),
            (
                "search",
                format!(
                    "{} queries in {:.3} s, {:.0} a second",
                    report.queries, report.search_seconds, report.queries_per_second
                ),
            ),
        ])
    })
}

fn bench(args: &AnnArgs) -> Result<AnnReport, CliError> {
    let read = |path: &Path| Matrix::read(path, args.metric).map_err(|error| CliError::failed(error.to_string()));
    let (base, queries) = (read(&args.base)?, read(&args.query)?);
    if base.dimension != queries.dimension {
        let (a, b) = (base.dimension, queries.dimension);
        return Err(CliError::failed(format!("the vectors have dimension {a}, the queries {b}")));
    }
    let started = time::now();
    let (points, index) = build(args.metric, &base)?;
    let build_seconds = started.elapsed().as_secs_f64();
    let started = time::now();
    let found = search(args, (&points, &index), &base, &queries);
    let search_seconds = started.elapsed().as_secs_f64();
    let report = AnnReport {
        rows: base.rows() as u64,
        dimension: base.dimension,
        queries: queries.rows(),
        build_seconds,
        search_seconds,
        queries_per_second: queries.rows() as f64 / search_seconds.max(1e-9),
        index_bytes: points.memory_bytes() + index.memory_bytes(),
        lists: index.state().lists,
    };
    let failed = |error| CliError::failed(format!("cannot write {}: {error}", args.out.display()));
    write(&args.out, &found, &report).map_err(failed)?;
    Ok(report)
}

/// Above the flat limit an index of posting lists, below it the flat one: as a node would.
fn build(metric: Metric, base: &Matrix) -> Result<(Points, VectorIndex), CliError> {
    let spec = IndexSpec::new(metric, base.dimension);
    if base.rows() <= spec.flat_rows_max || spec.kind == IndexKind::Flat {
        let (mut points, mut index) = (Points::new(), VectorIndex::new(spec));
        (0..).zip(base.iter()).for_each(|(row, vector)| index.upsert(points.put(PointId::Num(row), 1), vector));
        return Ok((points, index));
    }
    let built = train(&spec, &mut Rows(base), SEED).map_err(|error| CliError::failed(error.to_string()))?;
    let index = VectorIndex::restore(spec, &built.points, built.sealed).map_err(CliError::internal)?;
    Ok((built.points, index))
}

fn search(args: &AnnArgs, (points, index): (&Points, &VectorIndex), base: &Matrix, queries: &Matrix) -> Vec<Vec<u64>> {
    let params = SearchParams {
        nprobe: args.nprobe,
        candidates: args.candidates,
        exact: args.exact,
        ..SearchParams::new(args.k)
    };
    let mut scratch = Scratch::new();
    let one = |query: &[f32]| {
        let mut hits = index.search(points, query, &params, &mut scratch).hits;
        for hit in hits.iter_mut().filter(|hit| !hit.exact) {
            hit.distance = distance(args.metric, query, base.row(row_of(hit.id)));
        }
        hits.sort_by(crate::index::Hit::order);
        hits.iter().take(args.k).map(|hit| row_of(hit.id)).collect()
    };
    queries.iter().map(one).collect()
}

fn row_of(id: PointId) -> u64 {
    match id {
        PointId::Num(row) => row,
        PointId::Uuid(_) => unreachable!("invariant: ids are row numbers"),
    }
}

fn write(path: &Path, found: &[Vec<u64>], report: &AnnReport) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for ids in found {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        writeln!(file, "{}", ids.join(" "))?;
    }
    writeln!(file, "#build {}\n#bytes {}\n#time {}", report.build_seconds, report.index_bytes, report.search_seconds)?;
    file.flush()
}

/// All rows of a file, of unit length where the metric is cosine.
pub(super) struct Matrix {
    pub(super) dimension: usize,
    pub(super) values: Vec<f32>,
}

impl Matrix {
    pub(super) fn read(path: &Path, metric: Metric) -> Result<Matrix, ReadError> {
        let mut file = NpyFile::open(path)?;
        let (dimension, element) = (file.columns(), file.element());
        // The file is as long as its header says, so this is no more than twice what is on disk.
        let mut values = Vec::with_capacity(file.rows() as usize * dimension);
        while let Some(bytes) = file.next_bytes()? {
            let mut row = element.to_f32(bytes);
            if metric == Metric::Cosine {
                normalize(&mut row);
            }
            values.extend(row);
        }
        Ok(Matrix { dimension, values })
    }

    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.dimension
    }

    fn row(&self, row: u64) -> &[f32] {
        &self.values[row as usize * self.dimension..][..self.dimension]
    }

    fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension)
    }
}

/// A matrix as the source of a build; ids are row numbers.
struct Rows<'a>(&'a Matrix);

impl RowSource for Rows<'_> {
    fn rows_hint(&self) -> usize {
        self.0.rows()
    }

    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError> {
        (0..).zip(self.0.iter()).for_each(|(row, vector)| visit(PointId::Num(row), 1, vector));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::npy::NpyWriter;

    #[test]
    fn the_output_is_what_benchmarks_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut writer = NpyWriter::create(&path("x.npy"), 2).unwrap();
        (0..50).for_each(|n| writer.push(&[n as f32, 0.5]).unwrap());
        writer.finish().unwrap();
        let args = AnnArgs {
            base: path("x.npy"),
            query: path("x.npy"),
            k: 3,
            metric: Metric::Euclidean,
            out: path("out"),
            nprobe: None,
            candidates: None,
            exact: false,
        };
        bench(&args).unwrap();
        let text = std::fs::read_to_string(path("out")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[7], lines.len()), ("0 1 2", "7 6 8", 53));
        let seconds: f64 = lines[52].strip_prefix("#time ").unwrap().parse().unwrap();
        assert!(seconds > 0.0);
    }
}
