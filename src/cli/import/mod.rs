//! `vectorsphere import`: files of vectors into a table. Infers what the file holds, creates the table if it is absent, sends
//! batches in parallel, goes on where an interrupted run stopped, and sets refused rows aside. Called by `main.rs`.

pub mod batch;
pub mod checkpoint;
pub mod csv;
pub mod dead_letter;
mod dry_run;
pub mod fault;
pub mod format;
pub mod ids;
pub mod jsonl;
pub mod lines;
pub mod npy;
pub mod open;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod pipeline;
pub mod progress;
pub mod ranges;
pub mod row;
pub mod schema;
pub mod send;
#[cfg(test)]
mod tests;
pub mod vecs;

use self::{
    batch::{BatchSource, Requirements},
    checkpoint::{Checkpoint, ImportKey},
    dead_letter::DeadLetters,
    format::Format,
    pipeline::{Counts, Pipeline, Settings, Stopped},
    progress::{Progress, per_second},
    schema::{ColumnType, IdSource, Schema, SchemaChoice},
};
use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, ApiError, NewTable, Patience, Table},
    context::{facts, grouped},
};
use crate::{
    rt::{self, Shutdown},
    types::Metric,
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

/// Import a file of vectors into a table
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// The file: npy, fvecs, bvecs, ivecs, jsonl, csv or parquet
    pub file: PathBuf,
    /// Table to import into, created if absent [default: the file's name without extension]
    #[arg(long, short)]
    pub table: Option<String>,
    /// Format of the file [default: told by its first bytes and its name]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Show what would be imported and check the rows; no server is asked
    #[arg(long)]
    pub dry_run: bool,
    /// Rows that --dry-run checks; 0 checks all
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub check_rows: u64,
    /// Metric of a table that is created [default: the server's]
    #[arg(long, value_name = "METRIC", value_parser = metric)]
    pub metric: Option<Metric>,
    /// Index of a table that is created [default: the server's]
    #[arg(long, value_name = "TYPE")]
    pub index_type: Option<String>,
    /// Column with the ids [default: document_id, id, …; else the row's number]
    #[arg(long, value_name = "NAME")]
    pub id_column: Option<String>,
    /// Column with the vectors [default: vector, embedding, …; else the only list of numbers]
    #[arg(long, value_name = "NAME")]
    pub vector_column: Option<String>,
    /// Columns to keep as metadata, separated by commas; empty for none [default: all others]
    #[arg(long, value_name = "NAMES")]
    pub metadata_columns: Option<String>,
    /// Type of a csv column instead of the inferred one
    #[arg(long = "column-type", value_name = "NAME=TYPE")]
    pub column_types: Vec<ColumnTypeFlag>,
    /// Separator of csv fields [default: inferred]
    #[arg(long, value_name = "CHARACTER")]
    pub delimiter: Option<char>,
    /// Ids for the rows from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "id_column")]
    pub ids: Option<PathBuf>,
    /// Id of the first row where the file has no ids
    #[arg(long, default_value_t = 0, value_name = "ID")]
    pub first_id: u64,
    /// Rows in a request
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Requests at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// Begin at the first row even if an earlier run was interrupted
    #[arg(long)]
    pub no_resume: bool,
    /// Append refused rows and the reason to this file and go on [default: stop at the first]
    #[arg(long, value_name = "FILE.jsonl")]
    pub dead_letter: Option<PathBuf>,
    /// Refused rows after which the import stops
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub errors_max: u64,
}

/// `NAME=TYPE`.
#[derive(Clone, Debug)]
pub struct ColumnTypeFlag {
    name: String,
    r#type: ColumnType,
}

impl FromStr for ColumnTypeFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<ColumnTypeFlag, String> {
        let (name, r#type) = text.rsplit_once('=').ok_or("expected NAME=TYPE")?;
        Ok(ColumnTypeFlag { name: name.to_owned(), r#type: ColumnType::from_str(r#type, true)? })
    }
}

/// Parses a metric's name for a flag.
pub(super) fn metric(text: &str) -> Result<Metric, String> {
    let found = Metric::ALL.into_iter().find(|metric| metric.name() == text);
    found.ok_or_else(|| format!("expected one of {}", Metric::ALL.map(Metric::name).join(", ")))
}

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub table: String,
    pub file: PathBuf,
    pub format: Format,
    pub dimension: usize,
    /// Acknowledged by the server in this run.
    pub rows_imported: u64,
    /// Done by an earlier run and not sent again.
    pub rows_resumed: u64,
    pub rows_refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<PathBuf>,
    pub complete: bool,
    pub seconds: f64,
    pub rows_per_second: u64,
}

impl Summary {
    fn table(&self) -> String {
        let mut told = vec![
            ("table", self.table.clone()),
            ("imported", format!("{} rows of dimension {}", grouped(self.rows_imported), self.dimension)),
        ];
        if self.rows_resumed > 0 {
            told.push(("done before", format!("{} rows", grouped(self.rows_resumed))));
        }
        let path = self.dead_letter.as_ref().map_or(String::new(), |path| format!(", see {}", path.display()));
        if self.rows_refused > 0 {
            told.push(("refused", format!("{} rows{path}", grouped(self.rows_refused))));
        }
        told.push(("time", format!("{:.1} s, {} rows/s", self.seconds, grouped(self.rows_per_second))));
        facts(&told)
    }
}

/// Runs the command. Ctrl-C (or SIGTERM) ends it after the batches in flight, a second one at once.
pub async fn run(args: ImportArgs, context: &Context) -> Result<ExitCode, CliError> {
    let stop = Shutdown::new();
    let trigger = stop.clone();
    let _watch = rt::spawn("import.signals", async move {
        if rt::signal::terminated().await.is_ok() {
            trigger.trigger();
        }
    });
    if args.dry_run {
        return dry_run::run(&args, context).await;
    }
    let (summary, ended) = import(&args, &context.endpoint, &stop).await?;
    context.print(&summary, || summary.table())?;
    ended.map_err(|stopped| explained(stopped, &args))?;
    // Done, but a script should notice that not every row is there.
    Ok(if summary.rows_refused > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn explained(stopped: Stopped, args: &ImportArgs) -> CliError {
    let resume = if args.no_resume { "" } else { "; the same command goes on from here" };
    match stopped {
        Stopped::Interrupted => CliError::interrupted(format!("interrupted{resume}")),
        Stopped::Refused { rows, source } => {
            let error = CliError::from(source);
            let message = format!("rows {} to {}: {}{resume}", rows.0, rows.1.saturating_sub(1), error.message);
            CliError { message, ..error }
        }
        other => CliError::failed(other.to_string()),
    }
}

/// Imports and tells what came of it; an error of the outer kind means that nothing was sent.
pub async fn import(
    args: &ImportArgs,
    endpoint: &str,
    stop: &Shutdown,
) -> Result<(Summary, Result<(), Stopped>), CliError> {
    let client = ApiClient::new(endpoint, Patience::LONG)?;
    let schema = inspect(args).await?;
    let name = args.table_name()?;
    // Nothing is under way yet: a server that is not there is told at once.
    let (metric, table) = ready_table(&ApiClient::new(endpoint, Patience::NONE)?, args, &schema, &name).await?;
    let checkpoint = checkpoint(args, &client, &table, &schema)?;
    let done = checkpoint.as_ref().map(|checkpoint| checkpoint.done.clone()).unwrap_or_default();
    if !done.is_empty() {
        eprintln!("{} rows were imported before; going on after them (--no-resume begins anew)", grouped(done.count()));
    }
    let dead_letters = args.dead_letter.as_deref().map(DeadLetters::open).transpose();
    let dead_letters =
        dead_letters.map_err(|error| CliError::failed(format!("cannot open the dead-letter file: {error}")))?;
    let (path, opened) = (args.file.clone(), schema.clone());
    let reader =
        rt::compute::io(move || open::open(&path, &opened)).await.map_err(|e| CliError::failed(e.to_string()))?;
    let requirements = Requirements { dimension: schema.dimension, metric };
    let rows_resumed = done.count();
    let source = BatchSource::new(reader, requirements, done, args.batch as usize);
    let settings =
        Settings { table: name.clone(), concurrency: args.concurrency as usize, errors_max: args.errors_max };
    let progress = Progress::start(schema.bytes, 0);
    let pipeline = Pipeline::new(client, settings, checkpoint, dead_letters, progress);
    let (counts, elapsed, ended) = pipeline.run(source, stop).await;
    Ok((summary(args, name, &schema, rows_resumed, counts, elapsed, ended.is_ok()), ended))
}

fn summary(
    args: &ImportArgs,
    table: String,
    schema: &Schema,
    rows_resumed: u64,
    counts: Counts,
    elapsed: Duration,
    complete: bool,
) -> Summary {
    Summary {
        table,
        file: args.file.clone(),
        format: schema.format,
        dimension: schema.dimension,
        rows_imported: counts.imported,
        rows_resumed,
        rows_refused: counts.refused,
        dead_letter: args.dead_letter.clone(),
        complete,
        seconds: elapsed.as_secs_f64(),
        rows_per_second: per_second(counts.imported, elapsed),
    }
}

impl ImportArgs {
    /// The table told, or one named like the file.
    fn table_name(&self) -> Result<String, CliError> {
        let stem = || self.file.file_stem()?.to_str().map(str::to_owned);
        self.table.clone().or_else(stem).ok_or_else(|| CliError::usage("tell the table with --table"))
    }

    fn choice(&self) -> Result<SchemaChoice, CliError> {
        let delimiter = self.delimiter.map(|character| u8::try_from(character).ok().filter(u8::is_ascii));
        if delimiter == Some(None) {
            return Err(CliError::usage("--delimiter: expected one ASCII character"));
        }
        let names =
            |list: &String| list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(SchemaChoice {
            id_column: self.id_column.clone(),
            vector_column: self.vector_column.clone(),
            metadata_columns: self.metadata_columns.as_ref().map(names),
            column_types: self
                .column_types
                .iter()
                .map(|flag| (flag.name.clone(), flag.r#type))
                .collect::<BTreeMap<_, _>>(),
            first_id: self.first_id,
            delimiter: delimiter.flatten(),
        })
    }
}

/// Infers the schema of the command's file.
async fn inspect(args: &ImportArgs) -> Result<Schema, CliError> {
    let (path, told, choice) = (args.file.clone(), args.format, args.choice()?);
    let inspected = rt::compute::io(move || {
        let format = told.map_or_else(|| Format::detect(&path), Ok)?;
        open::inspect(&path, format, &choice)
    });
    let mut schema = inspected.await.map_err(|error| CliError::failed(error.to_string()))?;
    if let Some(ids) = &args.ids {
        schema.id = IdSource::File(ids.clone());
    }
    Ok(schema)
}

/// Makes sure there is a table the file fits; returns its metric and what tells it from a later table of the same name.
async fn ready_table(
    client: &ApiClient,
    args: &ImportArgs,
    schema: &Schema,
    name: &str,
) -> Result<(Option<Metric>, String), CliError> {
    let table = match client.find_table(name).await? {
        Some(table) => table,
        None => create(client, args, schema, name).await?,
    };
    let (theirs, ours) = (table.only_dimension()?, schema.dimension);
    if theirs != ours {
        return Err(CliError::failed(format!("table {name:?} has dimension {theirs}, the file's vectors have {ours}")));
    }
    let theirs = table.metric.as_deref().and_then(|text| metric(text).ok());
    match (args.metric, theirs) {
        (Some(told), Some(theirs)) if told != theirs => {
            let (told, theirs) = (told.name(), theirs.name());
            Err(CliError::failed(format!("table {name:?} exists with metric {theirs}, --metric says {told}")))
        }
        _ => {
            let created = table.more.get("created_ms").and_then(serde_json::Value::as_u64).unwrap_or_default();
            Ok((theirs.or(args.metric), format!("{name}@{created}")))
        }
    }
}

async fn create(client: &ApiClient, args: &ImportArgs, schema: &Schema, name: &str) -> Result<Table, CliError> {
    let table = NewTable {
        table_name: name.to_owned(),
        dimension: schema.dimension,
        metric: args.metric.map(|metric| metric.name().to_owned()),
        index_type: args.index_type.clone(),
        quantization: None,
        shards: None,
        replicas: None,
    };
    match client.create_table(&table).await {
        Ok(created) => Ok(created),
        // A retried creation may find that its first try succeeded.
        Err(error) if error.is_status(http::StatusCode::CONFLICT) => Ok(client.table(name).await?),
        Err(error) => Err(ApiError::into(error)),
    }
}

fn checkpoint(
    args: &ImportArgs,
    client: &ApiClient,
    table: &str,
    schema: &Schema,
) -> Result<Option<Checkpoint>, CliError> {
    if args.no_resume {
        return Ok(None);
    }
    let key = ImportKey::new(&args.file, client.addr(), table, schema);
    let key = key.map_err(|error| CliError::failed(format!("cannot read {}: {error}", args.file.display())))?;
    Ok(Some(Checkpoint::load(&args.file, key)))
}
