//! The calls that administer the cluster, one function each. Called by the router.

use super::{
    App, answer,
    body::Json,
    dto,
    path::{NoQuery, Node},
    problem::ApiError,
};
use crate::types::CollectionName;
use axum::{extract::State, response::Response};

type Answer = Result<Response, ApiError>;

/// Even out, or not
///
/// The cluster evens itself out all the time. `dry_run` tells what is still to be done, with reasons, bytes and the time it takes (while it
/// is paused: once it goes on);
/// `pause` begins no further move that can wait, `resume` goes on. What is lost is replaced in any case.
#[utoipa::path(post, path = "/api/v1/cluster/rebalance", tag = "cluster", request_body = dto::RebalanceBody,
    responses((status = 200, description = "What is still to be done", body = dto::RebalanceAnswer)))]
pub async fn rebalance(State(app): State<App>, _: NoQuery, Json(body): Json<dto::RebalanceBody>) -> Answer {
    match body.action {
        dto::RebalanceWord::DryRun => {}
        dto::RebalanceWord::Pause => app.service.pause_rebalance(true).await?,
        dto::RebalanceWord::Resume => app.service.pause_rebalance(false).await?,
    }
    Ok(answer::ok(&dto::RebalanceAnswer::from(&app.service.rebalance_forecast().await?)))
}

/// Drain a node
///
/// Its leaders, then its replicas, move to other nodes; it goes on to serve. `/api/v1/cluster/status` tells how far that is.
#[utoipa::path(post, path = "/api/v1/cluster/nodes/{node}/drain", tag = "cluster", params(("node" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The node is being drained", body = dto::NodeChanged)))]
pub async fn drain(State(app): State<App>, _: NoQuery, Node(node): Node) -> Answer {
    app.service.drain_node(node, true).await?;
    Ok(answer::ok(&changed(node, "draining")))
}

/// Stop draining a node
#[utoipa::path(delete, path = "/api/v1/cluster/nodes/{node}/drain", tag = "cluster", params(("node" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The node takes replicas again", body = dto::NodeChanged)))]
pub async fn cancel_drain(State(app): State<App>, _: NoQuery, Node(node): Node) -> Answer {
    app.service.drain_node(node, false).await?;
    Ok(answer::ok(&changed(node, "active")))
}

/// Remove a node
///
/// For ever: the node's id is not taken in again. Refused unless it was drained and holds nothing, or does not answer and is not
/// needed for a majority.
#[utoipa::path(delete, path = "/api/v1/cluster/nodes/{node}", tag = "cluster", params(("node" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The node no longer belongs to the cluster", body = dto::NodeChanged)))]
pub async fn remove(State(app): State<App>, _: NoQuery, Node(node): Node) -> Answer {
    app.service.remove_node(node).await?;
    Ok(answer::ok(&changed(node, "removed")))
}

/// The last changes of the cluster
#[utoipa::path(get, path = "/api/v1/cluster/history", tag = "cluster",
    responses((status = 200, description = "What was changed, when, why and by whom", body = dto::HistoryAnswer)))]
pub async fn history(State(app): State<App>, _: NoQuery) -> Answer {
    let changes = app.service.cluster_history()?;
    Ok(answer::ok(&dto::HistoryAnswer { changes: changes.iter().map(dto::ChangeAnswer::from).collect() }))
}

/// Split a shard
///
/// A new shard gets part of its slots, half if nothing is said, on the same nodes at first. Reads and writes go on meanwhile.
/// `/api/v1/cluster/status` tells whether it goes on. Refused while slots of the table move already, and until every node is of a
/// version that knows how.
#[utoipa::path(post, path = "/api/v1/cluster/split", tag = "cluster", request_body = dto::SplitBody,
    responses((status = 200, description = "It has begun", body = dto::SlotsMove)))]
pub async fn split(State(app): State<App>, _: NoQuery, Json(body): Json<dto::SplitBody>) -> Answer {
    let name = CollectionName::new(body.table_name)?;
    let to = app.service.split_shard(&name, body.shard, body.at).await?;
    Ok(answer::ok(&dto::SlotsMove { from: body.shard, to }))
}

/// Merge two shards
///
/// All documents of a shard go to its neighbour; then it is no more. Reads and writes go on meanwhile. Refused as a split is.
#[utoipa::path(post, path = "/api/v1/cluster/merge", tag = "cluster", request_body = dto::MergeBody,
    responses((status = 200, description = "It has begun", body = dto::SlotsMove)))]
pub async fn merge(State(app): State<App>, _: NoQuery, Json(body): Json<dto::MergeBody>) -> Answer {
    let name = CollectionName::new(body.table_name)?;
    app.service.merge_shard(&name, body.shard, body.into).await?;
    Ok(answer::ok(&dto::SlotsMove { from: body.shard, to: body.into }))
}

fn changed(node: u64, state: &'static str) -> dto::NodeChanged {
    dto::NodeChanged { id: format!("{node:016x}"), state }
}
