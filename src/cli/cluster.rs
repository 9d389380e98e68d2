//! `vectorsphere cluster`: the verdict, the nodes, who holds and leads what; draining, removing, splitting, merging, evening out. Called by `cli::run`.

mod grid;
mod manage;

use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, Patience, plain},
    listing,
};
use clap::Subcommand;
use serde_json::{Value, json};

/// What to do with the cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// The verdict in words, every node, and every replica of every shard. Exit code 1 if it is not healthy.
    Status,
    /// What is still to be moved so that nodes hold equal shares; pause that, or go on.
    Rebalance(manage::RebalanceArgs),
    /// Move a node's leaders and replicas to other nodes. It goes on to serve.
    Drain {
        /// Id of the node, as `cluster status` shows it.
        node: String,
        /// Stop draining: it takes replicas again.
        #[arg(long)]
        cancel: bool,
    },
    /// Remove a node for ever: one that was drained, or one that is dead and not needed.
    Remove {
        /// Id of the node, as `cluster status` shows it.
        node: String,
    },
    /// Split a shard in two while it is in use: a new one gets the upper half of its slots.
    Split {
        /// The table.
        table: String,
        /// Number of the shard, as `cluster status` shows it.
        shard: u64,
        /// The first slot of the new shard, instead of the middle.
        #[arg(long, value_name = "SLOT")]
        at: Option<u16>,
    },
    /// Merge a shard into its neighbour while both are in use; then it is no more.
    Merge {
        /// The table.
        table: String,
        /// Number of the shard, as `cluster status` shows it.
        shard: u64,
        /// Number of the neighbour that gets all its documents.
        into: u64,
    },
    /// What was changed, when, why and by whom; newest first.
    History {
        /// Most changes shown.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Rolling upgrades.
    Upgrade {
        /// Tell whether one node can be restarted now. Exit code 1 if not.
        #[arg(long, required = true)]
        check: bool,
    },
    /// A whole cluster on this machine, with a gateway: to try things out and to break.
    Dev(super::dev::DevArgs),
}

/// Runs a `cluster` command.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub async fn run(command: &ClusterCommand, context: &Context) -> Result<ExitCode, CliError> {
    match command {
        ClusterCommand::Status => status(context).await,
        ClusterCommand::Rebalance(args) => manage::rebalance(*args, context).await,
        ClusterCommand::Drain { node, cancel } => manage::drain(node, *cancel, context).await,
        ClusterCommand::Remove { node } => manage::remove(node, context).await,
        ClusterCommand::Split { table, shard, at } => manage::split(table, *shard, *at, context).await,
        ClusterCommand::Merge { table, shard, into } => manage::merge(table, *shard, *into, context).await,
        ClusterCommand::History { limit } => manage::history(*limit, context).await,
        ClusterCommand::Upgrade { check: _ } => manage::upgrade_check(context).await,
        ClusterCommand::Dev(args) => super::dev::run(args).await,
    }
}

async fn status(context: &Context) -> Result<ExitCode, CliError> {
    let client = ApiClient::new(&context.endpoint, Patience::SHORT)?;
    let cluster = client.cluster_status().await?;
    let healthy = cluster["verdict"] == "healthy";
    if cluster["placement"].is_object() {
        context.print(&cluster, || verdict(&cluster) + "\n" + &grid::words(&cluster["placement"]))?;
    } else {
        let mut shards = Vec::new();
        for table in client.tables().await? {
            let stats = client.table_stats(&table.table_name).await?;
            for shard in stats["shards"].as_array().into_iter().flatten() {
                shards.push(json!({"table_name": table.table_name, "shard": shard}));
            }
        }
        context.print(&json!({"cluster": cluster, "shards": shards}), || words(&cluster, &shards))?;
    }
    Ok(if healthy { ExitCode::Ok } else { ExitCode::Failed })
}

/// The cluster in a sentence, and why it is not well.
fn verdict(cluster: &Value) -> String {
    let meaning = match cluster["verdict"].as_str() {
        Some("healthy") => "healthy: everything works, with every copy there should be",
        Some("degraded") => "degraded: everything works, with less to spare than there should be",
        Some("unavailable") => "unavailable: some of it cannot be used",
        other => other.unwrap_or("unknown"),
    };
    let mut text = format!("{}: {meaning}\n", plain(&cluster["cluster_name"]));
    for reason in cluster["reasons"].as_array().into_iter().flatten() {
        text += &format!("  {}\n", plain(reason));
    }
    text
}
fn words(cluster: &Value, shards: &[Value]) -> String {
    let mut text = verdict(cluster);
    let nodes = cluster["nodes"].as_array().into_iter().flatten().map(|node| {
        let http = node["http"].as_array().and_then(|all| all.first()).map(plain).unwrap_or_default();
        let leads = shards.iter().filter(|shard| shard["shard"]["leader"] == node["id"]).count();
        vec![plain(&node["id"]), plain(&node["status"]), http, leads.to_string(), plain(&node["version"])]
    });
    text += "\n";
    text += &listing::left(&["NODE", "STATUS", "HTTP", "LEADS", "VERSION"], &nodes.collect::<Vec<_>>());
    let rows = shards.iter().map(|row| {
        let shard = &row["shard"];
        let leader = if shard["leader"].is_null() { "none".to_owned() } else { plain(&shard["leader"]) };
        let cells = ["id", "documents_count", "applied_index"].map(|field| plain(&shard[field]));
        [vec![plain(&row["table_name"])], cells.to_vec(), vec![leader]].concat()
    });
    text += "\n";
    text + &listing::left(&["TABLE", "SHARD", "DOCUMENTS", "APPLIED", "LEADER"], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_leaders_are_shown() {
        let cluster = json!({"cluster_name": "c", "verdict": "degraded", "reasons": ["node b cannot be reached from here"],
            "nodes": [{"id": "a", "status": "up", "http": ["127.0.0.1:8080"], "version": "1"}, {"id": "b", "status": "unreachable"}]});
        let shard =
            json!({"table_name": "t", "shard": {"id": 1, "documents_count": 5, "applied_index": 9, "leader": "a"}});
        let text = words(&cluster, &[shard]);
        assert!(
            text.starts_with("c: degraded: ") && text.contains("\n  node b cannot be reached from here\n"),
            "{text}"
        );
        assert!(text.contains("a     up           127.0.0.1:8080  1      1"), "{text}");
    }
}
