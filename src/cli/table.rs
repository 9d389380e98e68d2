//! `vectorsphere table create|list|show|delete|alias` against a server's native REST API. Called by `cli::run`.

use super::{
    CliError, Context, ExitCode,
    alias::{self, AliasCommand},
    client::{ApiClient, NewQuantization, NewTable, Patience, Table, plain},
    context::{columns, facts, grouped},
    import::metric,
};
use crate::types::Metric;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Arguments of `table`.
#[derive(Args, Clone, Debug)]
pub struct TableArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TableCommand,
}

/// What to do with tables.
#[derive(Clone, Debug, Subcommand)]
pub enum TableCommand {
    /// Create a table.
    Create(CreateArgs),
    /// List all tables.
    List,
    /// Show one table.
    Show {
        /// The table.
        name: String,
    },
    /// Delete a table and everything in it, its aliases too.
    Delete {
        /// The table, by its own name.
        name: String,
    },
    /// List, set, rename and delete other names of tables.
    #[command(subcommand)]
    Alias(AliasCommand),
}

/// What the new table is like.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// The table.
    pub name: String,
    /// Elements of every vector.
    #[arg(long, short, value_name = "N")]
    pub dimension: usize,
    /// cosine, euclidean, dot or manhattan [default: the server's].
    #[arg(long, value_name = "METRIC", value_parser = metric)]
    pub metric: Option<Metric>,
    /// ivf_pq, ivf_binary, ivf_scalar, ivf_flat, flat or hnsw [default: the server's].
    #[arg(long, value_name = "TYPE")]
    pub index_type: Option<String>,
    /// How vectors are encoded: product, binary, scalar or none [default: the index type's].
    #[arg(long, value_name = "CODES")]
    pub quantization: Option<String>,
    /// Of product codes: x16, x32 or x64 times smaller than the vectors [default: x16].
    #[arg(long, value_name = "TIMES", requires = "quantization")]
    pub compression: Option<String>,
    /// The last pass over a search's candidates: f32 or int8 [default: f32].
    #[arg(long, value_name = "PRECISION", requires = "quantization")]
    pub rerank: Option<String>,
    /// Shards [default: the server's].
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// Replicas of each shard [default: the server's].
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
}

/// Runs the command.
///
/// # Errors
/// What the server refuses, or that there is none.
pub async fn run(args: TableArgs, context: &Context) -> Result<ExitCode, CliError> {
    let client = ApiClient::new(&context.endpoint, Patience::SHORT)?;
    match args.command {
        TableCommand::Create(args) => {
            let table = client.create_table(&args.table()).await?;
            context.print(&table, || format!("created\n{}", shown(&table)))?;
        }
        TableCommand::List => {
            let tables = client.tables().await?;
            context.print(&json!({ "tables": &tables }), || listed(&tables))?;
        }
        TableCommand::Show { name } => {
            let table = client.table(&name).await?;
            context.print(&table, || shown(&table))?;
        }
        TableCommand::Delete { name } => {
            client.delete_table(&name).await?;
            context.print(&json!({ "deleted": &name }), || format!("deleted {name}"))?;
        }
        TableCommand::Alias(command) => return alias::run(command, &client, context).await,
    }
    Ok(ExitCode::Ok)
}

impl CreateArgs {
    fn table(&self) -> NewTable {
        NewTable {
            table_name: self.name.clone(),
            dimension: self.dimension,
            metric: self.metric.map(|metric| metric.name().to_owned()),
            index_type: self.index_type.clone(),
            quantization: self.quantization.clone().map(|kind| NewQuantization {
                kind,
                compression: self.compression.clone(),
                rerank: self.rerank.clone(),
            }),
            shards: self.shards,
            replicas: self.replicas,
        }
    }
}

fn listed(tables: &[Table]) -> String {
    if tables.is_empty() {
        return "no tables; `vectorsphere table create` or `vectorsphere import` makes one\n".to_owned();
    }
    let row = |table: &Table| {
        vec![
            table.table_name.clone(),
            table.dimension.map_or_else(|| "named".to_owned(), |dimension| dimension.to_string()),
            table.metric.clone().unwrap_or_default(),
            table.index_type.clone().unwrap_or_default(),
            table.documents_count.map(grouped).unwrap_or_default(),
        ]
    };
    columns(&["TABLE", "DIMENSION", "METRIC", "INDEX", "DOCUMENTS"], &tables.iter().map(row).collect::<Vec<_>>())
}

fn shown(table: &Table) -> String {
    let Ok(Value::Object(members)) = serde_json::to_value(table) else { return String::new() };
    let mut told: Vec<(String, String)> = Vec::new();
    for (name, value) in &members {
        match value {
            // One level of nesting (the index's state) is shown flat.
            Value::Object(inner) => {
                told.extend(inner.iter().map(|(key, value)| (format!("{name}.{key}"), plain(value))))
            }
            value => told.push((name.clone(), plain(value))),
        }
    }
    facts(&told.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        OutputFormat,
        fake::{Fake, World},
    };

    #[tokio::test]
    async fn tables_come_and_go() {
        let fake = Fake::start(World::default()).await;
        let context = Context { endpoint: fake.endpoint.clone(), output: OutputFormat::Json };
        let create = CreateArgs {
            name: "a b".into(),
            dimension: 3,
            metric: Some(Metric::Dot),
            index_type: Some("flat".into()),
            quantization: None,
            compression: None,
            rerank: None,
            shards: None,
            replicas: None,
        };
        let command = |command| run(TableArgs { command }, &context);
        assert_eq!(command(TableCommand::Create(create.clone())).await.unwrap(), ExitCode::Ok);
        let error = command(TableCommand::Create(create)).await.unwrap_err();
        assert_eq!((error.exit_code, error.message.contains("The table exists")), (1, true));
        command(TableCommand::Show { name: "a b".into() }).await.unwrap();
        let table = ApiClient::new(&fake.endpoint, Patience::NONE).unwrap().table("a b").await.unwrap();
        assert_eq!(
            (table.only_dimension().unwrap(), table.metric.as_deref(), table.index_type.as_deref()),
            (3, Some("dot"), Some("flat"))
        );
        let listed = listed(&[table]);
        let cells: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["a", "b", "3", "dot", "flat", "0"]);
        command(TableCommand::Delete { name: "a b".into() }).await.unwrap();
        assert!(fake.world.lock().unwrap().tables.is_empty());
        assert!(command(TableCommand::Delete { name: "a b".into() }).await.is_err());
    }
}
