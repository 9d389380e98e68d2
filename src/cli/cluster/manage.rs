//! `vectorsphere cluster rebalance | drain | remove | split | merge | history | upgrade`: what an administrator asks of a cluster, by any of its nodes.
//! Called by `cli::cluster`.

use super::super::{
    CliError, Context, ExitCode,
    client::{ApiClient, Patience, plain},
    listing,
};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

/// What to do about evening out. The cluster evens itself out all the time.
#[derive(Args, Clone, Copy, Debug)]
#[group(multiple = false)]
pub struct RebalanceArgs {
    /// Only tell what is still to be done (while it is paused: once it goes on), and how long it takes. The default.
    #[arg(long)]
    dry_run: bool,
    /// Begin no further move that can wait. What is lost is replaced all the same.
    #[arg(long)]
    pause: bool,
    /// Go on.
    #[arg(long)]
    resume: bool,
}

impl RebalanceArgs {
    fn action(self) -> &'static str {
        match (self.pause, self.resume) {
            (true, _) => "pause",
            (_, true) => "resume",
            _ => "dry_run",
        }
    }
}

fn client(context: &Context) -> Result<ApiClient, CliError> {
    ApiClient::new(&context.endpoint, Patience::SHORT)
}

/// `cluster rebalance`.
///
/// # Errors
/// The node cannot be reached, or is not part of a cluster.
pub async fn rebalance(args: RebalanceArgs, context: &Context) -> Result<ExitCode, CliError> {
    let body = json!({"action": args.action()});
    let answer = client(context)?.cluster(Method::POST, "rebalance", Some(&body)).await?;
    context.print(&answer, || forecast(&answer))?;
    Ok(ExitCode::Ok)
}

fn forecast(answer: &Value) -> String {
    let steps = answer["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = if answer["paused"] == true { "paused\n".to_owned() } else { String::new() };
    if steps.is_empty() {
        text += "everything is in its place\n";
    } else {
        let rows = steps.iter().map(|step| vec![plain(&step["what"]), plain(&step["why"]), size(&step["bytes"])]);
        text += &listing::left(&["CHANGE", "BECAUSE", "SIZE"], &rows.collect::<Vec<_>>());
        let seconds = answer["eta_seconds"].as_f64().unwrap_or(0.0);
        text += &format!("{} changes, {}, about {}\n", steps.len(), size(&answer["bytes"]), duration(seconds));
    }
    for finding in answer["findings"].as_array().into_iter().flatten() {
        text += &format!("{}\n", plain(finding));
    }
    text
}

/// `cluster drain`.
///
/// # Errors
/// The node cannot be reached; it refuses.
pub async fn drain(node: &str, cancel: bool, context: &Context) -> Result<ExitCode, CliError> {
    let method = if cancel { Method::DELETE } else { Method::POST };
    let answer = client(context)?.cluster(method, &format!("nodes/{node}/drain"), None).await?;
    context.print(&answer, || match cancel {
        true => format!("node {node} takes replicas again\n"),
        false => format!("node {node} is being drained; `vectorsphere cluster status` shows how far that is\n"),
    })?;
    Ok(ExitCode::Ok)
}

/// `cluster remove`.
///
/// # Errors
/// The node cannot be reached; it refuses.
pub async fn remove(node: &str, context: &Context) -> Result<ExitCode, CliError> {
    let answer = client(context)?.cluster(Method::DELETE, &format!("nodes/{node}"), None).await?;
    context.print(&answer, || format!("node {node} no longer belongs to the cluster\n"))?;
    Ok(ExitCode::Ok)
}

/// `cluster split`.
///
/// # Errors
/// The node cannot be reached; it refuses.
pub async fn split(table: &str, shard: u64, at: Option<u16>, context: &Context) -> Result<ExitCode, CliError> {
    let body = json!({"table_name": table, "shard": shard, "at": at});
    let answer = client(context)?.cluster(Method::POST, "split", Some(&body)).await?;
    context.print(&answer, || {
        let new = plain(&answer["to"]);
        format!("shard {shard} is being split, the new one is {new}; `vectorsphere cluster status` shows them\n")
    })?;
    Ok(ExitCode::Ok)
}

/// `cluster merge`.
///
/// # Errors
/// The node cannot be reached; it refuses.
pub async fn merge(table: &str, shard: u64, into: u64, context: &Context) -> Result<ExitCode, CliError> {
    let body = json!({"table_name": table, "shard": shard, "into": into});
    let answer = client(context)?.cluster(Method::POST, "merge", Some(&body)).await?;
    context.print(&answer, || {
        format!("shard {shard} is being merged into shard {into}; `vectorsphere cluster status` shows them\n")
    })?;
    Ok(ExitCode::Ok)
}

/// `cluster history`.
///
/// # Errors
/// The node cannot be reached.
pub async fn history(limit: usize, context: &Context) -> Result<ExitCode, CliError> {
    let mut answer = client(context)?.cluster(Method::GET, "history", None).await?;
    if let Some(changes) = answer["changes"].as_array_mut() {
        changes.truncate(limit);
    }
    context.print(&answer, || {
        let changes = answer["changes"].as_array().into_iter().flatten();
        let rows = changes.map(|change| {
            let at = change["at_ms"].as_u64().unwrap_or(0);
            vec![utc(at), plain(&change["what"]), plain(&change["why"]), size(&change["bytes"]), plain(&change["by"])]
        });
        listing::left(&["WHEN", "WHAT", "WHY", "SIZE", "BY"], &rows.collect::<Vec<_>>())
    })?;
    Ok(ExitCode::Ok)
}

/// `cluster upgrade --check`: whether a node can be restarted now without anything becoming unusable. Exit code 1 if not.
///
/// # Errors
/// The node cannot be reached.
pub async fn upgrade_check(context: &Context) -> Result<ExitCode, CliError> {
    let status = client(context)?.cluster_status().await?;
    let risks: Vec<String> = match status["placement"]["restart_risks"].as_array() {
        Some(risks) => risks.iter().map(plain).collect(),
        None => vec!["a standalone node cannot be used while it restarts".to_owned()],
    };
    let safe = risks.is_empty();
    let placement = &status["placement"];
    let spoken = &placement["protocol_version"];
    let nodes: Vec<Value> = placement["nodes"].as_array().into_iter().flatten().map(spoken_by).collect();
    let answer = json!({"safe": safe, "risks": risks, "protocol_version": spoken, "nodes": nodes});
    context.print(&answer, || {
        let verdict = match safe {
            true => "one node can be restarted now; check again before the next\n".to_owned(),
            false => {
                format!("restart no node now:\n{}", risks.iter().map(|risk| format!("  {risk}\n")).collect::<String>())
            }
        };
        verdict + &versions(spoken, &nodes)
    })?;
    Ok(if safe { ExitCode::Ok } else { ExitCode::Failed })
}

/// What a node runs.
fn spoken_by(node: &Value) -> Value {
    json!({"id": node["id"], "version": node["version"], "speaks": node["speaks"]})
}

/// Which program every node runs, and what the cluster speaks.
fn versions(spoken: &Value, nodes: &[Value]) -> String {
    let Some(spoken) = spoken.as_u64() else { return String::new() };
    let least = nodes.iter().map(|node| node["speaks"].as_u64().unwrap_or(0)).min().unwrap_or(0);
    let most = nodes.iter().map(|node| node["speaks"].as_u64().unwrap_or(0)).max().unwrap_or(0);
    let rows = nodes.iter().map(|node| ["id", "version", "speaks"].map(|field| plain(&node[field])).to_vec());
    let mut text = listing::left(&["NODE", "VERSION", "SPEAKS"], &rows.collect::<Vec<_>>());
    text += &format!("the cluster speaks version {spoken}");
    if most > spoken.max(least) {
        text += &format!("; {most} when every node does");
    }
    text + "\n"
}

/// Bytes in the unit that suits them.
pub fn size(bytes: &Value) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let bytes = bytes.as_u64().unwrap_or(0);
    if bytes < 1024 {
        return if bytes == 0 { "-".to_owned() } else { format!("{bytes} B") };
    }
    let step = (bytes.ilog2() / 10).min(4);
    format!("{:.1} {}", bytes as f64 / f64::from(1024_u32).powi(step as i32), UNITS[step as usize])
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Milliseconds since 1970 as `YYYY-MM-DD HH:MM:SS`, in UTC. Days to dates after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
fn utc(ms: u64) -> String {
    let (days, second) = ((ms / 86_400_000) as i64, ms / 1000 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecasts_are_told_in_words() {
        let steps = json!([{"what": "shard 1: a replica goes from a to b", "why": "unequal", "bytes": 5_242_880}]);
        let answer = json!({"paused": true, "steps": steps, "findings": ["shard 2 is sad"], "bytes": 5_242_880, "eta_seconds": 300.0});
        let text = forecast(&answer);
        assert!(text.starts_with("paused\nCHANGE") && text.contains("5.0 MiB"), "{text}");
        assert!(text.ends_with("1 changes, 5.0 MiB, about 5 min\nshard 2 is sad\n"), "{text}");
        let done = forecast(&json!({"paused": false, "steps": [], "findings": []}));
        assert_eq!(done, "everything is in its place\n");
    }

    #[test]
    fn versions_are_told_with_what_is_to_come() {
        let node = |id: &str, speaks: u64| json!({"id": id, "version": "1.0", "speaks": speaks});
        let text = versions(&json!(1), &[node("a", 2), node("b", 1)]);
        assert!(text.ends_with("the cluster speaks version 1; 2 when every node does\n"), "{text}");
        assert!(versions(&json!(2), &[node("a", 2)]).ends_with("the cluster speaks version 2\n"));
        assert_eq!(versions(&Value::Null, &[]), "", "a standalone node");
    }

    #[test]
    fn times_and_sizes_are_for_people() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(1_709_209_845_999), "2024-02-29 12:30:45");
        assert_eq!(utc(4_102_444_799_000), "2099-12-31 23:59:59");
        let sizes = [0, 1, 1024, 1 << 30, u64::MAX].map(|bytes| size(&json!(bytes)));
        assert_eq!(sizes, ["-", "1 B", "1.0 KiB", "1.0 GiB", "16777216.0 TiB"]);
        assert_eq!([1.0, 120.0, 7200.0].map(duration), ["1 s", "2 min", "2.0 h"]);
    }
}
