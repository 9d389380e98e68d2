//! `import --dry-run`: what the file seems to hold, its first rows, and which rows would not be imported. No server is asked.
//! Called by `import`.

use super::{
    ImportArgs,
    batch::Requirements,
    fault::{ReadError, RowFault},
    inspect, open,
    row::Row,
    schema::{IdSource, Schema, VectorSource},
};
use crate::{
    cli::{
        CliError, Context, ExitCode,
        context::{columns, facts, grouped},
    },
    rt,
    types::Metric,
};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// Rows shown.
const PREVIEW_ROWS: usize = 3;
/// Faults shown; all are counted.
const FAULTS_SHOWN: usize = 20;
/// Elements of a vector shown to people.
const ELEMENTS_SHOWN: usize = 4;

/// What a dry run found.
#[derive(Debug, Serialize)]
pub struct DryRun {
    pub table: String,
    pub schema: Schema,
    pub first_rows: Vec<Value>,
    pub rows_checked: u64,
    /// Whether the check reached the end of the file.
    pub checked_all: bool,
    pub rows_refused: u64,
    /// The first of them.
    pub faults: Vec<RowFault>,
}

/// Inspects and checks; refused rows are reported, and told by the exit code.
pub async fn run(args: &ImportArgs, context: &Context) -> Result<ExitCode, CliError> {
    let schema = inspect(args).await?;
    let (path, table) = (args.file.clone(), args.table_name()?);
    let (check_rows, metric) = (if args.check_rows == 0 { u64::MAX } else { args.check_rows }, args.metric);
    let checked = rt::compute::io(move || check(path, table, schema, check_rows, metric)).await;
    let report = checked.map_err(|error| CliError::failed(error.to_string()))?;
    context.print(&report, || report.table())?;
    Ok(if report.rows_refused > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn check(path: PathBuf, table: String, schema: Schema, rows: u64, metric: Option<Metric>) -> Result<DryRun, ReadError> {
    let requirements = Requirements { dimension: schema.dimension, metric };
    let mut reader = open::open(&path, &schema)?;
    let mut report = DryRun {
        table,
        schema,
        first_rows: Vec::new(),
        rows_checked: 0,
        checked_all: false,
        rows_refused: 0,
        faults: Vec::new(),
    };
    while report.rows_checked < rows {
        let Some(row) = reader.next_row()? else {
            report.checked_all = true;
            break;
        };
        report.count(row, requirements);
    }
    report.checked_all |= Some(report.rows_checked) == report.schema.rows;
    Ok(report)
}

impl DryRun {
    fn count(&mut self, row: Row, requirements: Requirements) {
        self.rows_checked += 1;
        let checked = row.content.and_then(|record| requirements.check(row.number, &record).map(|()| record));
        match checked {
            Ok(record) if self.first_rows.len() < PREVIEW_ROWS => self.first_rows.push(record.to_document()),
            Ok(_) => {}
            Err(fault) => {
                self.rows_refused += 1;
                if self.faults.len() < FAULTS_SHOWN {
                    self.faults.push(fault);
                }
            }
        }
    }

    fn table(&self) -> String {
        let schema = &self.schema;
        let rows = schema.rows.map_or("known only by reading it all".to_owned(), grouped);
        let format = format!("{:?}", schema.format).to_lowercase();
        let mut text = facts(&[
            ("table", self.table.clone()),
            ("format", format),
            ("rows", rows),
            ("bytes", grouped(schema.bytes)),
            ("dimension", schema.dimension.to_string()),
            ("id", id(&schema.id)),
            ("vector", vector(&schema.vector)),
            ("metadata", metadata(schema)),
        ]);
        let preview = |document: &Value| {
            let cell = |name: &str| document.get(name).map(super::super::client::plain).unwrap_or_default();
            vec![cell("document_id"), shortened(&document["vector"]), cell("metadata")]
        };
        text += "\n";
        text += &columns(&["id", "vector", "metadata"], &self.first_rows.iter().map(preview).collect::<Vec<_>>());
        let extent = if self.checked_all { "all" } else { "the first" };
        text += &format!(
            "\nchecked {extent} {} rows: {} would be refused\n",
            grouped(self.rows_checked),
            grouped(self.rows_refused)
        );
        for fault in &self.faults {
            text += &format!("  {fault}\n");
        }
        text
    }
}

fn id(source: &IdSource) -> String {
    match source {
        IdSource::Column(name) => format!("column {name}"),
        IdSource::RowNumberFrom(0) => "the row's number, from 0".to_owned(),
        IdSource::RowNumberFrom(first) => format!("the row's number, from {first}"),
        IdSource::File(path) => format!("lines of {}", path.display()),
    }
}

fn vector(source: &VectorSource) -> String {
    match source {
        VectorSource::Row => "the whole row".to_owned(),
        VectorSource::Column(name) => format!("column {name}"),
        VectorSource::Columns(names) => match &names[..] {
            [first, .., last] => format!("columns {first} to {last}"),
            _ => format!("column {}", names.join(", ")),
        },
    }
}

fn metadata(schema: &Schema) -> String {
    let named = schema.metadata.iter().map(|column| format!("{} ({})", column.name, column.r#type.name()));
    let all: Vec<String> =
        named.chain(schema.metadata_object.iter().map(|name| format!("members of {name}"))).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn shortened(vector: &Value) -> String {
    let elements = vector.as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = elements.iter().take(ELEMENTS_SHOWN).map(Value::to_string).collect();
    let more = if elements.len() > ELEMENTS_SHOWN { ", …" } else { "" };
    format!("[{}{more}]", shown.join(", "))
}
