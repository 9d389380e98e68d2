//! The grid of `cluster status`: every shard against every node, and the nodes themselves. Called by `cli::cluster`.

use super::{super::client::plain, super::listing, manage::size};
use serde_json::Value;

/// More nodes than this are not columns any more: each shard lists its replicas instead.
const COLUMNS_MAX: usize = 8;
/// Digits of a node's id at the head of a column.
const SHORT_DIGITS: usize = 8;

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Nodes, shards, and what is under way.
pub fn words(placement: &Value) -> String {
    let nodes = items(&placement["nodes"]);
    let rows = nodes.iter().map(|node| {
        let state = match (node["up"] == true, plain(&node["state"])) {
            (_, state) if state == "removed" => state,
            (true, state) => state,
            (false, state) => format!("{state}, AWAY"),
        };
        let figures = ["replicas", "leads"].map(|field| plain(&node[field]));
        let texts = ["zone", "version"].map(|field| plain(&node[field]));
        [vec![plain(&node["id"]), state], texts.to_vec(), figures.to_vec(), vec![size(&node["disk_bytes"])]].concat()
    });
    let mut text =
        listing::left(&["NODE", "STATE", "ZONE", "VERSION", "REPLICAS", "LEADS", "DISK"], &rows.collect::<Vec<_>>());
    text += "\n";
    text += &shards(placement, nodes);
    let count = |field: &str| placement[field].as_u64().unwrap_or(0);
    if count("in_flight") + count("waiting") > 0 {
        text += &format!("\n{} changes under way, {} waiting\n", count("in_flight"), count("waiting"));
    }
    for shard in items(&placement["shards"]).iter().filter(|shard| shard["giving"].is_object()) {
        let (giving, slots) = (&shard["giving"], items(&shard["giving"]["slots"]));
        let slots = slots.iter().map(plain).collect::<Vec<_>>().join("..");
        text += &format!("shard {} gives the slots {slots} to shard {}\n", plain(&shard["id"]), plain(&giving["to"]));
    }
    if placement["paused"] == true {
        text += "evening out is paused\n";
    }
    for advice in items(&placement["advice"]) {
        text += &format!("{}\n", plain(advice));
    }
    text
}

fn shards(placement: &Value, nodes: &[Value]) -> String {
    let columns: Vec<&Value> = nodes.iter().filter(|node| node["state"] != "removed").collect();
    let as_grid = columns.len() <= COLUMNS_MAX;
    let short = |id: &Value| plain(id).chars().take(SHORT_DIGITS).collect::<String>();
    let rows = items(&placement["shards"]).iter().map(|shard| {
        let mut row = vec![plain(&shard["table_name"]), plain(&shard["id"]), plain(&shard["documents_count"])];
        row.push(size(&shard["disk_bytes"]));
        let replicas = items(&shard["replicas"]);
        if as_grid {
            let of = |node: &&Value| replicas.iter().find(|replica| replica["node"] == node["id"]);
            row.extend(columns.iter().map(|node| of(node).map_or_else(String::new, cell)));
        } else {
            let listed = replicas.iter().map(|replica| format!("{} {}", short(&replica["node"]), cell(replica)));
            row.push(listed.collect::<Vec<_>>().join(", "));
        }
        row
    });
    let mut header: Vec<String> = ["TABLE", "SHARD", "DOCUMENTS", "SIZE"].map(str::to_owned).to_vec();
    match as_grid {
        true => header.extend(columns.iter().map(|node| short(&node["id"]))),
        false => header.push("REPLICAS".to_owned()),
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    listing::left(&header, &rows.collect::<Vec<_>>())
}

/// One replica: what it is, and how far behind.
fn cell(replica: &Value) -> String {
    let state = plain(&replica["state"]);
    match (state.as_str(), replica["lag"].as_u64()) {
        ("leader", _) => "LEADER".to_owned(),
        ("follower" | "arriving", Some(lag)) if lag > 0 => format!("{state} -{lag}"),
        ("failed", _) => "FAILED".to_owned(),
        ("unreachable", _) => "AWAY".to_owned(),
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn placement(nodes: usize) -> Value {
        let id = |i: usize| format!("{i:08}aaaaaaaa");
        let node = |i| json!({"id": id(i), "state": "active", "up": i != 1, "zone": "z", "version": "1", "replicas": 1, "leads": 0, "disk_bytes": 2048});
        let replica = |i, state: &str, lag| json!({"node": id(i), "state": state, "lag": lag});
        let shard = json!({"id": 7, "table_name": "t", "documents_count": 5, "disk_bytes": 1024,
            "replicas": [replica(0, "leader", Some(0)), replica(1, "unreachable", None), replica(2, "follower", Some(12))]});
        let nodes: Vec<Value> = (0..nodes).map(node).collect();
        json!({"nodes": nodes, "shards": [shard], "in_flight": 1, "waiting": 2, "paused": false, "advice": []})
    }

    #[test]
    fn a_small_cluster_is_a_grid() {
        let text = words(&placement(4));
        assert!(text.contains("00000001aaaaaaaa  active, AWAY"), "{text}");
        let row = text.lines().find(|line| line.starts_with("t ")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>().join(" "), "t 7 5 1.0 KiB LEADER AWAY follower -12");
        assert!(text.ends_with("1 changes under way, 2 waiting\n"), "{text}");
    }

    #[test]
    fn slots_on_their_way_are_told() {
        let mut placement = placement(4);
        placement["shards"][0]["giving"] = json!({"to": 8, "slots": [8192, 16384]});
        let text = words(&placement);
        assert!(text.ends_with("shard 7 gives the slots 8192..16384 to shard 8\n"), "{text}");
    }

    #[test]
    fn a_large_one_lists_replicas() {
        let text = words(&placement(9));
        assert!(text.contains("00000000 LEADER, 00000001 AWAY, 00000002 follower -12"), "{text}");
    }
}
