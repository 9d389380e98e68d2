//! `vectorsphere verify`: asks a node to compare all replicas of all shards. Called by `cli::run`.

use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, Patience},
    listing,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
struct Report {
    equal: bool,
    shards: Vec<Shard>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Shard {
    id: u64,
    table_name: String,
    verdict: String,
    difference: Option<String>,
    replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Replica {
    node: String,
    applied_index: Option<u64>,
    content_hash: Option<String>,
    index_hash: Option<String>,
    documents_count: Option<u64>,
    error: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The node cannot be reached. Replicas that differ, or could not be compared, end it with exit code 1.
pub async fn run(context: &Context) -> Result<ExitCode, CliError> {
    let client = ApiClient::new(&context.endpoint, Patience::SHORT)?;
    let report: Report = client.verify().await?;
    context.print(&report, || table(&report))?;
    Ok(if report.equal { ExitCode::Ok } else { ExitCode::Failed })
}

fn table(report: &Report) -> String {
    let mut rows = Vec::new();
    for shard in &report.shards {
        for replica in &shard.replicas {
            let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            rows.push(vec![
                shard.table_name.clone(),
                shard.id.to_string(),
                shard.verdict.clone(),
                replica.node.clone(),
                number(replica.applied_index),
                number(replica.documents_count),
                replica.content_hash.clone().or_else(|| replica.error.clone()).unwrap_or_default(),
                replica.index_hash.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
    }
    let mut text =
        listing::left(&["TABLE", "SHARD", "VERDICT", "NODE", "APPLIED", "DOCUMENTS", "HASH", "INDEX"], &rows);
    for shard in &report.shards {
        if let Some(difference) = &shard.difference {
            text += &format!("shard {} of {}: {difference}\n", shard.id, shard.table_name);
        }
    }
    text + if report.equal { "all replicas are equal\n" } else { "not all replicas are known to be equal\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        let replica = |node: &str, hash: &str| Replica {
            node: node.to_owned(),
            applied_index: Some(9),
            content_hash: Some(hash.to_owned()),
            index_hash: None,
            documents_count: Some(3),
            error: None,
        };
        let shard = Shard {
            id: 1,
            table_name: "t".to_owned(),
            verdict: "different".to_owned(),
            difference: Some("node b against node a: point 7 has other bytes".to_owned()),
            replicas: vec![replica("a", "00ff"), replica("b", "00fe")],
        };
        let text = table(&Report { equal: false, shards: vec![shard] });
        assert!(text.contains("shard 1 of t: node b against node a: point 7 has other bytes"), "{text}");
        assert!(text.ends_with("not all replicas are known to be equal\n"), "{text}");
    }
}
