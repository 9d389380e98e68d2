//! `vectorsphere bench ann`: the vector index alone, in this process, over files of vectors: what search benchmarks drive. Writes a
//! line of ids (row numbers) for each query, then figures, one a line:
//!
//! - `#build`: processor seconds of the build, all threads together.
//! - `#time`: seconds of search, re-ranking included. On one thread processor time, of each call the least of all repetitions;
//!   on more threads the wall time of the fastest repetition.
//! - `#bytes`: what the index keeps resident. Where `--index` opened a file, by the system's count (growth of anonymous and of file
//!   pages while it was opened and searched: `#anon_bytes` and `#file_bytes`); else what the index itself counts. The f32 rows
//!   that re-score the last candidates are the store's and not counted.
//!
//! Called by `bench`.

pub(super) mod data;
mod engine;

use self::{data::Matrix, engine::Engine};
use crate::{
    cli::{
        CliError, Context,
        context::{facts, grouped},
        import::metric,
    },
    index::{Hit, IndexKind, Memory, Scratch, SearchOutcome, SearchParams, SearchStats, distance},
    rt::{self, cpu, time},
    telemetry::metrics::Resident,
    types::{Compression, Metric, PointId, Rerank},
};
use clap::Args;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

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
    /// Keep the index in this file: built and written if there is none, else opened. A second run of the same base so searches in a
    /// process that has not built, whose memory is that of the search.
    #[arg(long, value_name = "FILE")]
    pub index: Option<PathBuf>,
    /// Where an opened file's rows are kept: low, balanced or fast, as a collection's setting.
    #[arg(long, value_parser = memory, default_value = "balanced")]
    pub memory: Memory,
    /// Queries that are searched for in one call.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: u32,
    /// ivf_pq, ivf_flat, ivf_binary, ivf_int8 or flat.
    #[arg(long, value_parser = kind, default_value = IndexKind::IvfPq.name())]
    pub kind: IndexKind,
    /// Size of the codes: x16, x32 or x64 times smaller than f32.
    #[arg(long, value_parser = compression, default_value = Compression::X16.name())]
    pub compression: Compression,
    /// The last pass over the candidates: f32 or int8.
    #[arg(long, value_parser = rerank, default_value = Rerank::F32.name())]
    pub rerank: Rerank,
    /// The recall to reach, by the index's own estimate [default: the index's own target].
    #[arg(long, value_name = "RECALL")]
    pub recall_target: Option<f32>,
    /// Lists to look through [default: calibrated].
    #[arg(long, value_name = "N")]
    pub nprobe: Option<usize>,
    /// Candidates to re-rank [default: calibrated].
    #[arg(long, value_name = "N")]
    pub candidates: Option<usize>,
    /// Compare with every row.
    #[arg(long)]
    pub exact: bool,
    /// Threads that build, and that search, each its own queries.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Times the queries are run; the least time counts.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub reps: u32,
}

fn kind(text: &str) -> Result<IndexKind, String> {
    let kinds = [IndexKind::IvfPq, IndexKind::IvfFlat, IndexKind::IvfBinary, IndexKind::IvfInt8, IndexKind::Flat];
    one_of(&kinds, IndexKind::name, text)
}

fn compression(text: &str) -> Result<Compression, String> {
    one_of(&Compression::ALL, Compression::name, text)
}

fn memory(text: &str) -> Result<Memory, String> {
    let name = |memory| match memory {
        Memory::Low => "low",
        Memory::Balanced => "balanced",
        Memory::Fast => "fast",
    };
    one_of(&[Memory::Low, Memory::Balanced, Memory::Fast], name, text)
}

fn rerank(text: &str) -> Result<Rerank, String> {
    one_of(&[Rerank::F32, Rerank::Int8], Rerank::name, text)
}

fn one_of<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    let names = || all.iter().map(|&one| name(one)).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|&one| name(one) == text).ok_or_else(|| format!("expected one of {}", names()))
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct AnnReport {
    pub rows: u64,
    pub dimension: usize,
    pub queries: usize,
    pub kernels: &'static str,
    pub build_cpu_seconds: f64,
    pub search_seconds: f64,
    pub queries_per_second: f64,
    pub threads: u32,
    /// Queries a call.
    pub batch: u32,
    pub index_bytes: usize,
    /// Where a file was opened and the system tells.
    pub resident: Option<Resident>,
    pub lists: usize,
    pub lists_probed: f64,
    pub codes_scanned: f64,
    pub reranked: f64,
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be read or written, or do not fit each other.
pub async fn run(args: AnnArgs, context: &Context) -> Result<(), CliError> {
    let report = rt::compute::cpu(move || bench(&args)).await?;
    context.print(&report, || report.table())
}

impl AnnReport {
    fn table(&self) -> String {
        let bytes = |bytes: u64| grouped(bytes) + " bytes";
        let mut lines = vec![
            ("rows", format!("{} of dimension {}", grouped(self.rows), self.dimension)),
            ("kernels", self.kernels.to_owned()),
            ("build", format!("{:.2} s of processor time, {} lists", self.build_cpu_seconds, self.lists)),
            ("index", bytes(self.index_bytes as u64)),
        ];
        if let Some(resident) = self.resident {
            let (anonymous, file) = (bytes(resident.anonymous_bytes), bytes(resident.file_bytes));
            lines.push(("resident", format!("{anonymous} anonymous, {file} of files")));
        }
        let clock = if self.threads == 1 { "processor time" } else { "wall time" };
        lines.push((
            "search",
            format!(
                "{} queries in {:.3} s of {clock}, {:.0} a second",
                self.queries, self.search_seconds, self.queries_per_second
            ),
        ));
        lines.push((
            "a query",
            format!("{:.1} lists, {:.0} codes, {:.1} re-ranked", self.lists_probed, self.codes_scanned, self.reranked),
        ));
        facts(&lines)
    }
}

fn bench(args: &AnnArgs) -> Result<AnnReport, CliError> {
    bench_with(args, |base| Engine::new(args, base))
}

fn bench_with(args: &AnnArgs, engine: impl FnOnce(&Matrix) -> Result<Engine, CliError>) -> Result<AnnReport, CliError> {
    let read = |path: &Path| Matrix::read(path, args.metric).map_err(|error| CliError::failed(error.to_string()));
    let (base, queries) = (read(&args.base)?, read(&args.query)?);
    if base.dimension != queries.dimension {
        let (a, b) = (base.dimension, queries.dimension);
        return Err(CliError::failed(format!("the vectors have dimension {a}, the queries {b}")));
    }
    let before = Resident::now();
    let engine = engine(&base)?;
    let found = search(args, &engine, &base, &queries);
    let grown = before.and_then(|before| Some(Resident::now()?.since(before)));
    let per_query = |count: usize| count as f64 / queries.rows().max(1) as f64;
    let report = AnnReport {
        rows: base.rows() as u64,
        dimension: base.dimension,
        queries: queries.rows(),
        kernels: crate::index::active_simd(),
        build_cpu_seconds: engine.build_cpu.as_secs_f64(),
        search_seconds: found.time.as_secs_f64(),
        queries_per_second: queries.rows() as f64 / found.time.as_secs_f64().max(1e-9),
        threads: args.threads,
        batch: args.batch,
        index_bytes: engine.points.memory_bytes() + engine.index.memory_bytes(),
        resident: grown.filter(|_| engine.opened),
        lists: engine.index.state().lists,
        lists_probed: per_query(found.lists_probed),
        codes_scanned: per_query(found.codes_scanned),
        reranked: per_query(found.reranked),
    };
    let failed = |error| CliError::failed(format!("cannot write {}: {error}", args.out.display()));
    write(&args.out, &found.ids, &report).map_err(failed)?;
    Ok(report)
}

/// Answers, and what they took.
#[derive(Default)]
struct Found {
    ids: Vec<Vec<u64>>,
    time: Duration,
    lists_probed: usize,
    codes_scanned: usize,
    reranked: usize,
}

fn search(args: &AnnArgs, engine: &Engine, base: &Matrix, queries: &Matrix) -> Found {
    /// Calls a thread makes at a time: enough that making buffers for them costs nothing.
    const PART_CALLS: usize = 250;
    let rows: Vec<&[f32]> = queries.iter().collect();
    let calls: Vec<&[&[f32]]> = rows.chunks(args.batch as usize).collect();
    let (mut least, mut fastest, mut found) = (vec![Duration::MAX; calls.len()], Duration::MAX, Found::default());
    for _ in 0..args.reps {
        let started = time::now();
        let answers = rt::compute::parallel(args.threads as usize, calls.chunks(PART_CALLS), |part| {
            let mut searcher = Searcher { args, engine, base, scratch: Scratch::new() };
            part.iter().map(|queries| searcher.call(queries)).collect::<Vec<_>>()
        });
        fastest = fastest.min(started.elapsed());
        found = Found::default();
        for (answer, least) in answers.into_iter().flatten().zip(&mut least) {
            *least = answer.cpu.min(*least);
            for (ids, stats) in answer.found {
                found.ids.push(ids);
                found.lists_probed += stats.lists_probed;
                found.codes_scanned += stats.codes_scanned;
                found.reranked += stats.reranked;
            }
        }
    }
    Found { time: if args.threads == 1 { least.iter().sum() } else { fastest }, ..found }
}

struct Searcher<'a> {
    args: &'a AnnArgs,
    engine: &'a Engine,
    base: &'a Matrix,
    scratch: Scratch,
}

/// Of one call: each query's ids and work.
struct Answer {
    found: Vec<(Vec<u64>, SearchStats)>,
    cpu: Duration,
}

impl Searcher<'_> {
    /// As a shard does it: what is not exact is scored again in f32, unless the index says that int8 decides.
    fn call(&mut self, queries: &[&[f32]]) -> Answer {
        let Searcher { args, engine: Engine { points, index, .. }, scratch, .. } = self;
        let params = SearchParams {
            nprobe: args.nprobe,
            candidates: args.candidates,
            recall_target: args.recall_target,
            exact: args.exact,
            ..SearchParams::new(args.k)
        };
        let started = cpu::thread();
        let outcomes = match queries {
            [query] => vec![index.search(points, query, &params, scratch)],
            _ => index.search_batch(points, queries, &params, scratch),
        };
        let found = queries.iter().zip(outcomes).map(|(query, outcome)| self.finish(query, outcome)).collect();
        Answer { found, cpu: cpu::thread().saturating_sub(started) }
    }

    fn finish(&self, query: &[f32], outcome: SearchOutcome) -> (Vec<u64>, SearchStats) {
        let mut hits = outcome.hits;
        if !outcome.settled {
            for hit in hits.iter_mut().filter(|hit| !hit.exact) {
                hit.distance = distance(self.args.metric, query, self.base.row(row_of(hit.id)));
            }
            hits.sort_unstable_by(Hit::order);
        }
        (hits.iter().take(self.args.k).map(|hit| row_of(hit.id)).collect(), outcome.stats)
    }
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
    let bytes = report.resident.map_or(report.index_bytes as u64, |r| r.anonymous_bytes + r.file_bytes);
    if let Some(resident) = report.resident {
        writeln!(file, "#anon_bytes {}\n#file_bytes {}", resident.anonymous_bytes, resident.file_bytes)?;
    }
    writeln!(file, "#build {}\n#bytes {bytes}\n#time {}", report.build_cpu_seconds, report.search_seconds)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::npy::NpyWriter;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ann: AnnArgs,
    }

    fn args(directory: &Path, flags: &[&str]) -> AnnArgs {
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let files = ["--base", &path("x.npy"), "--query", &path("x.npy"), "--out", &path("out")].map(str::to_owned);
        let flags = flags.iter().map(|&flag| flag.to_owned());
        Line::parse_from(["ann".to_owned()].into_iter().chain(files).chain(flags)).ann
    }

    fn vectors(directory: &Path, rows: usize, dimension: usize) {
        let mut writer = NpyWriter::create(&directory.join("x.npy"), dimension).unwrap();
        for row in 0..rows {
            let vector: Vec<f32> = (0..dimension).map(|t| ((row * 31 + t * 17 + row * t) % 97) as f32).collect();
            writer.push(&vector).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn the_output_is_what_benchmarks_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = NpyWriter::create(&directory.path().join("x.npy"), 2).unwrap();
        (0..50).for_each(|n| writer.push(&[n as f32, 0.5]).unwrap());
        writer.finish().unwrap();
        for threads in ["1", "2"] {
            bench(&args(directory.path(), &["-k", "3", "--metric", "euclidean", "--threads", threads])).unwrap();
            let text = std::fs::read_to_string(directory.path().join("out")).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!((lines[0], lines[7], lines.len()), ("0 1 2", "7 6 8", 53));
            let seconds: f64 = lines[52].strip_prefix("#time ").unwrap().parse().unwrap();
            assert!(seconds > 0.0);
        }
    }

    #[test]
    fn many_queries_a_call_find_what_one_does() {
        let directory = tempfile::tempdir().unwrap();
        vectors(directory.path(), 600, 8);
        let ids = |batch: &str| {
            let args = args(directory.path(), &["--metric", "euclidean", "--batch", batch, "--reps", "1"]);
            assert_eq!(engine::tests::bench_small(&args).unwrap().batch.to_string(), batch);
            let text = std::fs::read_to_string(directory.path().join("out")).unwrap();
            text.lines().take(600).map(str::to_owned).collect::<Vec<_>>()
        };
        let alone = ids("1");
        assert_eq!((ids("7"), ids("600")), (alone.clone(), alone));
    }

    #[test]
    fn an_index_kept_in_a_file_answers_as_it_did_when_built() {
        let directory = tempfile::tempdir().unwrap();
        vectors(directory.path(), 600, 8);
        let file = directory.path().join("index");
        let flags = ["--metric", "euclidean", "--index", file.to_str().unwrap(), "--reps", "1"];
        let args = AnnArgs { k: 5, ..args(directory.path(), &flags) };
        let built = engine::tests::bench_small(&args).unwrap();
        let ids = |path: &str| {
            let text = std::fs::read_to_string(directory.path().join(path)).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = ids("out");
        let opened = engine::tests::bench_small(&args).unwrap();
        assert_eq!((before.len(), ids("out")), (600, before.clone()));
        assert_eq!(opened.build_cpu_seconds, built.build_cpu_seconds);
        assert!(built.resident.is_none() && built.lists > 1);
        for memory in [Memory::Low, Memory::Fast] {
            engine::tests::bench_small(&AnnArgs { memory, ..args.clone() }).unwrap();
            assert_eq!(ids("out"), before, "{memory:?}");
        }
        std::fs::write(&file, b"something else").unwrap();
        let error = engine::tests::bench_small(&args).unwrap_err();
        assert!(error.message.contains("index"), "{error}");
    }

    #[test]
    fn words_that_name_nothing_are_refused_with_those_that_do() {
        assert_eq!(kind("hnsw").unwrap_err(), "expected one of ivf_pq, ivf_flat, ivf_binary, ivf_scalar, flat");
        assert!(compression("x8").is_err() && rerank("f64").is_err());
    }
}
