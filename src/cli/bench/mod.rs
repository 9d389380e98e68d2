//! `vectorsphere bench`: a closed-loop load against a server (searches, inserts or both) with throughput, latencies and, where the true
//! neighbours are known, recall. Called by `cli::run`.

pub mod ann;
pub mod histogram;
mod load;
pub mod report;
pub mod truth;
mod upkeep;

use self::{
    histogram::Histogram,
    load::{Measured, Plan},
    report::{Latency, Report},
};
use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, Patience, SearchQuery, Table},
};
use crate::rt::{self, Shutdown};
use clap::{Args, Subcommand, ValueEnum};
use rand::seq::SliceRandom;
use std::{path::PathBuf, time::Duration};

/// Queries taken from the table itself when no file is given.
const OWN_QUERIES: usize = 1_000;

/// What the requests do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Searches only.
    #[default]
    Search,
    /// Inserts of random vectors only.
    Insert,
    /// Both; see --insert-share.
    Mixed,
}

/// Other measurements.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure the vector index alone, without a server.
    Ann(ann::AnnArgs),
    /// Replace every vector of an index while it is searched, without a server.
    Upkeep(upkeep::UpkeepArgs),
}

/// Arguments of `bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    /// Another measurement than the load on a server.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// The table to load.
    #[arg(long, short, required = true)]
    pub table: Option<String>,
    /// What the requests do. Inserts stay in the table.
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Queries: npy, fvecs or any file `import` reads [default: vectors of the table].
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Ids of each query's true neighbours, nearest first: npy of integers, or ivecs.
    #[arg(long, value_name = "FILE", requires = "queries")]
    pub ground_truth: Option<PathBuf>,
    /// Neighbours to find.
    #[arg(short, default_value_t = 10, value_name = "K")]
    pub k: usize,
    /// Requests to measure [default: as many as the time allows].
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Seconds to measure [default: 10, or unbounded with --requests].
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Seconds of searching before anything is measured; modes that insert have none.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub warm_up: f64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub concurrency: u32,
    /// Share of the requests that insert, in mixed mode.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub insert_share: f64,
    /// Documents in an insert.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Id of the first document inserted; the others follow.
    #[arg(long, default_value_t = 1 << 48, value_name = "ID")]
    pub first_id: u64,
    /// Lists of the index to look through [default: calibrated by the server].
    #[arg(long, value_name = "N")]
    pub nprobe: Option<u32>,
    /// Compare with every document instead of asking the index.
    #[arg(long)]
    pub exact: bool,
}

/// Runs the command; Ctrl-C ends the measurement and prints what there is.
///
/// # Errors
/// Files that cannot be read, a server that cannot be reached, or no request that succeeded.
pub async fn run(args: BenchArgs, context: &Context) -> Result<ExitCode, CliError> {
    match args.command {
        Some(BenchCommand::Ann(args)) => return ann::run(args, context).await.map(|()| ExitCode::Ok),
        Some(BenchCommand::Upkeep(args)) => return upkeep::run(args, context).await.map(|()| ExitCode::Ok),
        None => {}
    }
    let stop = Shutdown::new();
    let trigger = stop.clone();
    let _watch = rt::spawn("bench.signals", async move {
        if rt::signal::terminated().await.is_ok() {
            trigger.trigger();
        }
    });
    let report = bench(&args, &context.endpoint, &stop).await?;
    context.print(&report, || report.table())?;
    Ok(if report.errors > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

impl BenchArgs {
    fn table(&self) -> Result<&str, CliError> {
        self.table.as_deref().ok_or_else(|| CliError::usage("tell the table with --table"))
    }
}

async fn bench(args: &BenchArgs, endpoint: &str, stop: &Shutdown) -> Result<Report, CliError> {
    // Waiting would hide overload from the figures.
    let client = ApiClient::new(endpoint, Patience::NONE)?;
    let table = client.table(args.table()?).await?;
    let plan = plan(args, &client, &table).await?;
    let (measured, elapsed) = load::run(&client, plan, args.concurrency, stop).await.map_err(CliError::internal)?;
    Ok(report(args, &table, measured, elapsed))
}

async fn plan(args: &BenchArgs, client: &ApiClient, table: &Table) -> Result<Plan, CliError> {
    let insert_share = match args.mode {
        Mode::Search => 0.0,
        Mode::Insert => 1.0,
        Mode::Mixed => args.insert_share,
    };
    if !(0.0..=1.0).contains(&insert_share) {
        return Err(CliError::usage("--insert-share: expected a number from 0 to 1"));
    }
    let (queries, truth) = if insert_share < 1.0 { queries(args, client, table).await? } else { Default::default() };
    let searches = queries.into_iter().map(|vector| body(args, vector)).collect();
    let default = if args.requests.is_some() { f64::MAX } else { 10.0 };
    Ok(Plan {
        table: table.table_name.clone(),
        dimension: table.only_dimension()?,
        k: args.k,
        searches,
        truth,
        insert_share,
        insert_batch: args.batch as usize,
        first_id: args.first_id,
        requests: args.requests.unwrap_or(u64::MAX),
        duration: Duration::try_from_secs_f64(args.duration.unwrap_or(default)).unwrap_or(Duration::MAX),
        warm_up: warm_up(args.warm_up, insert_share)?,
    })
}

/// What is inserted stays, so only searches are warmed up.
fn warm_up(seconds: f64, insert_share: f64) -> Result<Duration, CliError> {
    let wanted = Duration::try_from_secs_f64(seconds).map_err(|_| CliError::usage("--warm-up: expected seconds"))?;
    Ok(if insert_share > 0.0 { Duration::ZERO } else { wanted })
}

fn body(args: &BenchArgs, vector: Vec<f32>) -> bytes::Bytes {
    let exact = args.exact.then_some(true);
    let query = SearchQuery { vector, top_k: args.k, exact, nprobe: args.nprobe, ..SearchQuery::default() };
    serde_json::to_vec(&query).expect("invariant: a query has string keys only").into()
}

type Queries = (Vec<Vec<f32>>, Vec<Vec<u64>>);

async fn queries(args: &BenchArgs, client: &ApiClient, table: &Table) -> Result<Queries, CliError> {
    let Some(path) = args.queries.clone() else { return Ok((own_queries(args, client).await?, Vec::new())) };
    let truth_path = args.ground_truth.clone();
    let read = rt::compute::io(move || {
        let queries = truth::read_vectors(&path)?;
        let truth = truth_path.map(|path| truth::read_truth(&path, queries.len())).transpose()?;
        Ok::<Queries, super::import::fault::ReadError>((queries, truth.unwrap_or_default()))
    });
    let (queries, truth) = read.await.map_err(|error| CliError::failed(error.to_string()))?;
    match queries.first().map(Vec::len) {
        None => Err(CliError::failed("the file of queries is empty")),
        Some(got) if Some(got) != table.dimension => {
            let expected = table.only_dimension()?;
            Err(CliError::failed(format!("the queries have dimension {got}, the table has {expected}")))
        }
        Some(_) if args.ground_truth.is_some() && truth.len() < queries.len() => {
            let (have, want) = (truth.len(), queries.len());
            Err(CliError::failed(format!("the ground truth has {have} rows for {want} queries")))
        }
        Some(_) if truth.iter().any(|row| row.len() < args.k) => {
            Err(CliError::failed(format!("the ground truth has fewer than k = {} ids a query", args.k)))
        }
        Some(_) => Ok((queries, truth)),
    }
}

/// Vectors of the table's first documents, in random order.
async fn own_queries(args: &BenchArgs, client: &ApiClient) -> Result<Vec<Vec<f32>>, CliError> {
    let page = client.list_documents(args.table()?, OWN_QUERIES, None, true, None).await?;
    let mut queries: Vec<Vec<f32>> = page.documents.into_iter().filter_map(|document| document.vector).collect();
    if queries.is_empty() {
        return Err(CliError::failed("the table has no documents to take queries from; use --queries"));
    }
    queries.shuffle(&mut rt::rng::stream("cli.bench.queries"));
    Ok(queries)
}

fn report(args: &BenchArgs, table: &Table, measured: Measured, elapsed: Duration) -> Report {
    let seconds = elapsed.as_secs_f64();
    let rate = |count: u64| count as f64 / seconds.max(1e-9);
    let counted = |histogram: &Histogram, figure: f64| (histogram.count() > 0).then_some(figure);
    Report {
        table: table.table_name.clone(),
        documents: table.documents_count,
        dimension: table.dimension.unwrap_or(0),
        concurrency: args.concurrency,
        seconds,
        searches_per_second: counted(&measured.search, rate(measured.search.count())),
        k: (measured.search.count() > 0).then_some(args.k),
        recall: (measured.true_neighbours > 0).then(|| measured.true_hits as f64 / measured.true_neighbours as f64),
        search: Latency::of(&measured.search),
        inserted_per_second: counted(&measured.insert, rate(measured.inserted)),
        insert: Latency::of(&measured.insert),
        errors: measured.errors,
        first_error: measured.first_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::{Fake, FakeTable, World};
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(flags: &[&str]) -> BenchArgs {
        Line::parse_from(["bench", "--table", "t", "--warm-up", "0"].iter().chain(flags)).bench
    }

    async fn fake() -> Fake {
        let mut table = FakeTable { description: json!({"table_name": "t", "dimension": 2}), ..FakeTable::default() };
        for id in 0..20u32 {
            let angle = f64::from(id) * 0.1;
            let vector = vec![angle.cos() as f32, angle.sin() as f32];
            table.documents.insert(id.to_string(), (vector, Default::default()));
        }
        Fake::start(World { tables: [("t".to_owned(), table)].into(), ..World::default() }).await
    }

    #[tokio::test]
    async fn searches_are_counted_and_recall_is_right() {
        let fake = fake().await;
        let directory = tempfile::tempdir().unwrap();
        let (queries, truth) = (directory.path().join("q.npy"), directory.path().join("t.ivecs"));
        let mut writer = crate::cli::import::npy::NpyWriter::create(&queries, 2).unwrap();
        writer.push(&[1.0, 0.0]).unwrap();
        writer.finish().unwrap();
        // Truly 0 and 1 are nearest; the file claims 0 and 19, so half of what is found is right.
        std::fs::write(&truth, [2i32, 0, 19].map(i32::to_le_bytes).concat()).unwrap();
        let flags = ["--queries", queries.to_str().unwrap(), "--ground-truth", truth.to_str().unwrap()];
        let flags = [&flags[..], &["-k", "2", "--requests", "50", "--concurrency", "3"]].concat();
        let report = bench(&args(&flags), &fake.endpoint, &Shutdown::new()).await.unwrap();
        assert_eq!((report.search.as_ref().unwrap().requests, report.errors, report.recall), (50, 0, Some(0.5)));
        assert!(report.insert.is_none());
        assert!(report.table().contains("0.5000 at 2"), "{}", report.table());
    }

    #[tokio::test]
    async fn mixed_load_inserts_and_searches_its_own_vectors() {
        let fake = fake().await;
        let flags =
            ["--mode", "mixed", "--insert-share", "0.5", "--batch", "7", "--requests", "60", "--concurrency", "2"];
        let report = bench(&args(&flags), &fake.endpoint, &Shutdown::new()).await.unwrap();
        let (search, insert) = (report.search.unwrap().requests, report.insert.unwrap().requests);
        assert_eq!(search + insert, 60);
        let world = fake.world.lock().unwrap();
        assert_eq!(world.tables["t"].documents.len() as u64, 20 + 7 * insert);
        assert!(world.tables["t"].documents.contains_key(&(1u64 << 48).to_string()));
    }

    #[tokio::test]
    async fn errors_are_counted_and_end_it() {
        let fake = fake().await;
        fake.world.lock().unwrap().forbids_after = Some(0);
        let report =
            bench(&args(&["--mode", "insert", "--duration", "30"]), &fake.endpoint, &Shutdown::new()).await.unwrap();
        assert_eq!((report.errors, report.insert.is_none()), (50, true));
        assert!(report.first_error.unwrap().contains("unauthenticated"));
    }
}
