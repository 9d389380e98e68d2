//! `vectorsphere quickstart`: a standalone node in this process, the bundled sample loaded into it over HTTP, a few searches with the
//! words found, and how to go on. A second run finds the sample where the first put it. Called by `cli::run`.

mod sample;
mod text;

use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, NewTable, Patience, SearchQuery, plain},
    import::{batch::encode, row::Record},
};
use crate::{
    config::Config,
    node::{Addresses, Node},
    rt::{self, net::Listener, time},
};
use clap::Args;
use serde::Serialize;
use std::{io::IsTerminal, net::SocketAddr, path::PathBuf};

/// The table of the sample.
const TABLE: &str = "words";
/// Words shown for each query.
const NEIGHBOURS: usize = 5;
/// Documents in a request.
const BATCH: usize = 1_000;

/// Arguments of `quickstart`.
#[derive(Args, Clone, Debug)]
pub struct QuickstartArgs {
    /// Directory of everything durable.
    #[arg(long, default_value = "vectorsphere-quickstart", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Keep running until Ctrl-C [default: only when typed at a terminal].
    #[arg(long)]
    pub keep: bool,
}

/// What was done and found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub endpoint: String,
    pub data_dir: PathBuf,
    pub table: &'static str,
    pub documents: u64,
    /// Documents written by this run: none if an earlier one has.
    pub loaded: usize,
    pub start_ms: f64,
    pub load_ms: f64,
    /// From the start of the node to the answer of the first search.
    pub first_search_after_ms: f64,
    pub searches: Vec<Neighbours>,
    /// Listeners that are not where they are by default, and why.
    pub notices: Vec<String>,
}

/// A query and the words found for it, nearest first.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbours {
    pub query: &'static str,
    pub words: Vec<(String, f32)>,
    pub took_ms: f64,
}

/// Runs the command.
///
/// # Errors
/// The exit codes of a node that does not start; otherwise what the node refuses.
pub async fn run(args: QuickstartArgs, context: &Context) -> Result<ExitCode, CliError> {
    let (config, notices) = config(&args).await;
    let started = time::now();
    let node = Node::start(&config).await;
    let node = node.map_err(|error| CliError { exit_code: error.exit_code(), message: error.to_string() })?;
    let start_ms = milliseconds(started);
    let ended = show(&args, context, node.addresses(), notices, started, start_ms).await;
    if ended.is_ok() && (args.keep || std::io::stdin().is_terminal()) {
        eprintln!("running; Ctrl-C stops it");
        let failed = node.failed().clone();
        tokio::select! {
            biased;
            () = failed.wait() => eprintln!("the disk failed; stopping"),
            asked = rt::signal::terminated() => {
                asked.map_err(|error| CliError::internal(format!("cannot wait for signals: {error}")))?;
            }
        }
    }
    node.stop().await;
    ended.map(|()| ExitCode::Ok)
}

async fn show(
    args: &QuickstartArgs,
    context: &Context,
    addresses: &Addresses,
    notices: Vec<String>,
    started: time::Instant,
    start_ms: f64,
) -> Result<(), CliError> {
    let address = addresses.http.first().ok_or_else(|| CliError::internal("the node has no HTTP address"))?;
    let endpoint = format!("http://{address}");
    let client = ApiClient::new(&endpoint, Patience::SHORT)?;
    let before_load = time::now();
    let loaded = load(&client).await?;
    let load_ms = milliseconds(before_load);
    let mut searches = Vec::new();
    let mut first_search_after_ms = None;
    for query in sample::queries() {
        searches.push(search(&client, query).await?);
        first_search_after_ms.get_or_insert_with(|| milliseconds(started));
    }
    let documents = client.table(TABLE).await?.documents_count.unwrap_or(0);
    let report = Report {
        endpoint,
        data_dir: args.data_dir.clone(),
        table: TABLE,
        documents,
        loaded,
        start_ms,
        load_ms,
        first_search_after_ms: first_search_after_ms.unwrap_or(0.0),
        searches,
        notices,
    };
    context.print(&report, || text::shown(&report))
}

fn milliseconds(since: time::Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A default configuration in the command's directory; listeners whose default port is taken get a free one.
async fn config(args: &QuickstartArgs) -> (Config, Vec<String>) {
    let mut config = Config { data_dir: args.data_dir.clone(), ..Config::default() };
    let mut notices = Vec::new();
    let listen = &mut config.listen;
    let named = listen.http.iter_mut().map(|address| ("HTTP", address));
    let named = named.chain([("gRPC", &mut listen.grpc), ("monitoring", &mut listen.monitoring)]);
    for (name, address) in named {
        free_or_any(name, address, &mut notices).await;
    }
    (config, notices)
}

/// Turns an address that cannot be bound into one with a free port. Another process may take the port between here and the
/// start of the node, which then says so.
async fn free_or_any(name: &str, address: &mut SocketAddr, notices: &mut Vec<String>) {
    if let Err(error) = Listener::bind(*address).await {
        notices.push(format!("{name}: {address} cannot be used ({error}), so a free port was taken"));
        address.set_port(0);
    }
}

/// Loads the sample unless it is there; returns how many documents were written.
async fn load(client: &ApiClient) -> Result<usize, CliError> {
    let metric = Some("cosine".to_owned());
    let table = NewTable {
        table_name: TABLE.to_owned(),
        dimension: sample::DIMENSION,
        metric,
        index_type: None,
        quantization: None,
        shards: None,
        replicas: None,
    };
    match client.find_table(TABLE).await? {
        // Words may have been added or deleted since; what a user did is left alone.
        Some(found) if found.documents_count.is_some_and(|count| count >= sample::COUNT as u64) => return Ok(0),
        Some(found) if found.dimension != Some(sample::DIMENSION) => {
            let problem = format!("table {TABLE:?} in this directory is not the sample; use another --data-dir");
            return Err(CliError::failed(problem));
        }
        Some(_) => {}
        None => drop(client.create_table(&table).await?),
    }
    let records: Vec<(u64, Record)> = (0..).zip(sample::records()).collect();
    for batch in records.chunks(BATCH) {
        client.add_documents(TABLE, encode(batch)).await?;
    }
    Ok(records.len())
}

async fn search(client: &ApiClient, query: &'static str) -> Result<Neighbours, CliError> {
    let vector = sample::vector_of(query).ok_or_else(|| CliError::internal(format!("{query} is not in the sample")))?;
    // One more, because the word itself is its nearest neighbour.
    let request = SearchQuery { vector, top_k: NEIGHBOURS + 1, ..SearchQuery::default() };
    let started = time::now();
    let found = client.search(TABLE, &request).await?;
    let took_ms = milliseconds(started);
    let words = found.results.iter().map(|hit| (plain(&hit.document_id), hit.score));
    Ok(Neighbours { query, words: words.filter(|(word, _)| word != query).take(NEIGHBOURS).collect(), took_ms })
}
