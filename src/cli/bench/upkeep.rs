//! `vectorsphere bench upkeep`: the vector index alone, in this process, while every one of its vectors is replaced: one thread
//! writes at a steady rate, one does the background work (training, filing, reshaping, calibrating), the others search. After every round:
//! recall beside that of an index built afresh, the shape of the lists, and what searches waited. Called by `bench`.

mod rounds;
mod world;

use super::ann::data::Matrix;
use crate::{
    cli::{CliError, Context, import::metric},
    rt,
    types::Metric,
};
use clap::Args;
use rounds::{Experiment, Pace};
use serde::Serialize;
use std::path::PathBuf;
use world::{Synthetic, World};

/// Arguments of `bench upkeep`.
#[derive(Args, Clone, Debug)]
pub struct UpkeepArgs {
    /// Vectors: npy of floats. Half of them are there at first, the other half replaces them [default: synthetic clusters].
    #[arg(long, value_name = "FILE.npy")]
    pub base: Option<PathBuf>,
    /// cosine, euclidean, dot or manhattan.
    #[arg(long, value_parser = metric, default_value = "euclidean")]
    pub metric: Metric,
    /// Rows in the index [default: half the file, or 100000].
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Numbers a synthetic vector has.
    #[arg(long, default_value_t = 64, value_name = "D")]
    pub dimension: usize,
    /// Vectors that replace others are of another kind: of other clusters, or from the other side of a plane through the file's.
    #[arg(long)]
    pub drift: bool,
    /// Share of the rows replaced in a round.
    #[arg(long, default_value_t = 0.25, value_name = "SHARE")]
    pub fraction: f64,
    /// Rounds.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub rounds: usize,
    /// Rows replaced a second.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub writes_per_second: u32,
    /// Threads that search.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Queries of the recall, from vectors that are in no index.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub queries: usize,
    /// Chance of the order of replacement, and of synthetic vectors.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct UpkeepReport {
    pub rows: usize,
    pub dimension: usize,
    pub drift: bool,
    pub writes_per_second: u32,
    pub rounds: Vec<Round>,
}

/// What it was like at the end of a round, and while it lasted.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub replaced_percent: f64,
    pub recall_at_10: f64,
    pub recall_at_10_of_a_fresh_build: f64,
    pub codes_per_query: usize,
    pub codes_per_query_of_a_fresh_build: usize,
    pub lists: usize,
    pub smallest_list: usize,
    pub largest_list: usize,
    pub tail_rows: usize,
    pub dead_rows: usize,
    pub trainings: usize,
    pub filings: usize,
    pub reshapings: usize,
    pub recalibrations: usize,
    pub moved_rows: usize,
    pub bytes_copied_per_row_filed: usize,
    pub idle_p50_us: f64,
    pub idle_p99_us: f64,
    pub upkeep_p50_us: f64,
    pub upkeep_p99_us: f64,
    /// The longest that a search waited for the lock.
    pub longest_wait_us: f64,
    /// The longest that a job held the lock to install its lists.
    pub longest_install_us: f64,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or is too small; shares and counts that make no sense.
pub async fn run(args: UpkeepArgs, context: &Context) -> Result<(), CliError> {
    let report = rt::compute::io(move || bench(&args)).await?;
    context.print(&report, || table(&report))
}

fn bench(args: &UpkeepArgs) -> Result<UpkeepReport, CliError> {
    let usage = |problem: &str| Err(CliError::usage(problem.to_owned()));
    if !(args.fraction > 0.0 && args.fraction <= 1.0) {
        return usage("--fraction: expected more than 0, at most 1");
    }
    if args.threads == 0 || args.writes_per_second == 0 || args.queries == 0 || args.dimension == 0 {
        return usage("--threads, --writes-per-second, --queries, --dimension: expected 1 or more");
    }
    let world = world(args)?;
    let (rows, dimension) = (world.rows(), world.dimension());
    let pace = Pace { writes_per_second: args.writes_per_second, searchers: args.threads };
    let mut experiment = Experiment::start(&world, pace, args.seed).map_err(CliError::failed)?;
    let mut rounds = vec![experiment.judge(0)];
    for round in 1..=args.rounds {
        let replaced = ((rows as f64 * args.fraction * round as f64) as usize).min(rows);
        experiment.replace_up_to(replaced).map_err(CliError::failed)?;
        rounds.push(experiment.judge(replaced));
    }
    let UpkeepArgs { drift, writes_per_second, .. } = *args;
    Ok(UpkeepReport { rows, dimension, drift, writes_per_second, rounds })
}

fn world(args: &UpkeepArgs) -> Result<World, CliError> {
    let Some(path) = &args.base else {
        let rows = args.rows.unwrap_or(100_000);
        let synthetic = Synthetic { rows, dimension: args.dimension, queries: args.queries, drift: args.drift };
        return Ok(synthetic.world(args.metric, args.seed));
    };
    let matrix = Matrix::read(path, args.metric).map_err(|error| CliError::failed(error.to_string()))?;
    let most = (matrix.rows() / 2).saturating_sub(args.queries);
    let rows = args.rows.unwrap_or(most).min(most);
    if rows < 1_000 {
        return Err(CliError::failed(format!("{} vectors are too few to replace any", matrix.rows())));
    }
    Ok(World::of_file(matrix.values, matrix.dimension, args.metric, (rows, args.queries), args.drift, args.seed))
}

fn table(report: &UpkeepReport) -> String {
    let UpkeepReport { rows, dimension, writes_per_second, .. } = report;
    let mut text = format!(
        "{rows} rows of dimension {dimension}, {writes_per_second} replaced a second{}\n\
         replaced  recall   fresh  codes  fresh  lists  sizes       dead  train/file/reshape/calibrate  \
         idle p50/p99 us  upkeep p50/p99 us  wait max us  install max us\n",
        if report.drift { ", by others of another kind" } else { "" }
    );
    for r in &report.rounds {
        text += &format!(
            "{:>7.0}%  {:.4}  {:.4}  {:>5}  {:>5}  {:>5}  {:>4}-{:<5}  {:>6}  {:>5}/{:>4}/{:>7}/{:<9}  {:>7.0}/{:<7.0}  {:>8.0}/{:<8.0}  {:>11.0}  {:>14.0}\n",
            r.replaced_percent,
            r.recall_at_10,
            r.recall_at_10_of_a_fresh_build,
            r.codes_per_query,
            r.codes_per_query_of_a_fresh_build,
            r.lists,
            r.smallest_list,
            r.largest_list,
            r.dead_rows,
            r.trainings,
            r.filings,
            r.reshapings,
            r.recalibrations,
            r.idle_p50_us,
            r.idle_p99_us,
            r.upkeep_p50_us,
            r.upkeep_p99_us,
            r.longest_wait_us,
            r.longest_install_us,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        upkeep: UpkeepArgs,
    }

    #[test]
    fn every_row_is_replaced_while_it_is_searched() {
        let flags = "upkeep --rows 3000 --dimension 8 --drift --rounds 2 --fraction 0.5 --queries 20 --writes-per-second 100000";
        let report = bench(&Line::parse_from(flags.split(' ')).upkeep).unwrap();
        let last = report.rounds.last().unwrap();
        assert_eq!((report.rows, report.rounds.len(), last.replaced_percent), (3000, 3, 100.0));
        assert!(last.filings > 0 && last.recall_at_10 > 0.8 && last.recall_at_10_of_a_fresh_build > 0.8, "{report:?}");
        assert!(last.upkeep_p99_us > 0.0 && table(&report).lines().count() == 5);
    }

    #[test]
    fn shares_must_make_sense() {
        let refused = |flags: &str| bench(&Line::parse_from(flags.split(' ')).upkeep).is_err();
        assert!(
            refused("upkeep --fraction 0") && refused("upkeep --threads 0") && refused("upkeep --base /nowhere.npy")
        );
    }
}
