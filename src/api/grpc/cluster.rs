//! The calls on the cluster: nodes that come and go, replicas that are moved, evening out. Called by `grpc`.

use super::{Answers, Face, proto, status};
use crate::{
    api::rest::{dto, observe},
    rt::time,
    service::{Newcomer, PlannedInfo, Service, TransferInfo, TransferPhase},
    types::Error,
};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use proto::join_cluster_request::Who;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Between two messages about a move.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A move that is under way.
struct Transfer {
    service: Service,
    shard: u64,
    from: u64,
    to: u64,
    is_first: bool,
}

impl Face {
    /// Lets a node take part.
    pub(super) async fn joined(&self, request: proto::JoinClusterRequest) -> Result<proto::JoinClusterResponse, Error> {
        let who = request.who.ok_or_else(|| Error::invalid("missing_field", "who is to join").at("who"))?;
        let newcomer = match who {
            Who::Node(id) => Newcomer::Member(node_id(&id, "node")?),
            Who::PeerAddress(address) => Newcomer::At(address),
        };
        let node = self.service.join_node(newcomer).await?;
        Ok(proto::JoinClusterResponse { node: node_name(node), state: proto::NodeState::Active.into() })
    }

    /// Does one step of taking a node out.
    pub(super) async fn left(&self, request: proto::LeaveClusterRequest) -> Result<proto::LeaveClusterResponse, Error> {
        let node = node_id(&request.node, "node")?;
        let leaving = self.service.leave_node(node).await?;
        let state = if leaving.is_removed { proto::NodeState::Removed } else { proto::NodeState::Draining };
        Ok(proto::LeaveClusterResponse { node: node_name(node), state: state.into(), replicas: leaving.replicas })
    }

    /// Begins to move a replica, and tells how far that is.
    pub(super) async fn transferred(
        &self,
        request: Request<proto::TransferShardRequest>,
    ) -> Result<Response<Answers<proto::TransferShardProgress>>, Status> {
        let id = observe::request_id(request.metadata().as_ref());
        let service = self.service.clone();
        let begin = async move |request: proto::TransferShardRequest| {
            let (from, to) = (node_id(&request.from_node, "from_node")?, node_id(&request.to_node, "to_node")?);
            service.begin_transfer(request.shard, from, to).await?;
            Ok(Transfer { service, shard: request.shard, from, to, is_first: true })
        };
        let begun =
            self.observed("vectorsphere.v1.VectorService/TransferShard", &id, request.into_inner(), begin).await;
        let transfer = begun.map_err(|error| status::of(&error, id.clone()))?;
        let failed_id = id.clone();
        let told = told(transfer).map_err(move |error| status::of(&error, failed_id.clone()));
        let mut response = Response::new(told.boxed());
        response.metadata_mut().as_mut().insert(observe::REQUEST_ID, id);
        Ok(response)
    }

    /// Pauses evening out or goes on with it, and tells of it.
    pub(super) async fn rebalanced(
        &self,
        request: proto::RebalanceShardsRequest,
    ) -> Result<proto::RebalanceShardsResponse, Error> {
        let pause = match proto::RebalanceAction::try_from(request.action) {
            Ok(proto::RebalanceAction::Unspecified) => None,
            Ok(proto::RebalanceAction::Pause) => Some(true),
            Ok(proto::RebalanceAction::Resume) => Some(false),
            Err(_) => {
                let unknown = Error::invalid("unknown_value", "there is no such action").at("action");
                return Err(unknown.got(request.action.to_string()));
            }
        };
        let told = self.service.rebalance(pause, request.plan_id).await?;
        Ok(proto::RebalanceShardsResponse {
            plan_id: told.last_change,
            paused: told.paused,
            done: told.steps.is_empty() && told.in_flight == 0,
            in_flight: told.in_flight,
            steps: told.steps.into_iter().map(change).collect(),
            bytes: told.bytes,
            eta_seconds: told.eta_seconds,
            findings: told.findings,
            changes: told.changes.into_iter().map(change).collect(),
        })
    }
}

/// How far a move is, until it is done. Dropped, it leaves the move to the cluster.
fn told(transfer: Transfer) -> BoxStream<'static, Result<proto::TransferShardProgress, Error>> {
    let next = async |transfer: Option<Transfer>| {
        let Some(mut transfer) = transfer else { return Ok(None) };
        if !std::mem::take(&mut transfer.is_first) {
            time::sleep(PROGRESS_INTERVAL).await;
        }
        let Transfer { service, shard, from, to, .. } = &transfer;
        let info = service.transfer_progress(*shard, *from, *to).await?;
        let rest = (info.phase != TransferPhase::Done).then_some(transfer);
        Ok::<_, Error>(Some((progress(info), rest)))
    };
    stream::try_unfold(Some(transfer), next).boxed()
}

fn progress(info: TransferInfo) -> proto::TransferShardProgress {
    let phase = match info.phase {
        TransferPhase::Begun => proto::TransferPhase::Begun,
        TransferPhase::Copying => proto::TransferPhase::Copying,
        TransferPhase::HandingOver => proto::TransferPhase::HandingOver,
        TransferPhase::Done => proto::TransferPhase::Done,
    };
    proto::TransferShardProgress {
        phase: phase.into(),
        points_total: info.points.0,
        points: info.points.1,
        bytes_total: info.bytes.0,
        bytes: info.bytes.1,
        entries_behind: info.entries_behind,
    }
}

fn change(change: PlannedInfo) -> proto::ClusterChange {
    proto::ClusterChange { what: change.what, why: change.why, bytes: change.bytes }
}

fn node_name(node: u64) -> String {
    format!("{node:016x}")
}

fn node_id(text: &str, field: &'static str) -> Result<u64, Error> {
    dto::node_id(text).map_err(|error| error.at(field))
}
