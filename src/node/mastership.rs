//! A node's part in governing its cluster: its controller, which decides while this node is the master, and its candidacy for that
//! unless it was started as a worker. Whatever it is, it knows who the master is and lets the cluster be administered. Built by
//! [`super::Engine`] where there is a cluster; [`super::gate`] tells it of links that broke.

use super::observer::NodeObserver;
use crate::{
    cluster::{
        admin::Admin,
        controller::{Controller, ControllerSettings},
    },
    config::{Config, Mode},
    coordination::{
        Coordinator, Mirror,
        election::{self, Election, ElectionSettings},
    },
    raft::NodeId,
    rt::time,
    telemetry::metrics::Metrics,
};
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// Name of the election.
const MASTER: &str = "master";
/// How long a node that stops waits until another can be master. After it, its lease ends.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// See the module.
pub struct Mastership {
    coordinator: Arc<dyn Coordinator>,
    controller: Controller,
    part: RwLock<Part>,
}

/// What a node does about the election.
enum Part {
    Stands(Election),
    /// Of a worker, which only looks who is chosen.
    Looks(Mirror),
    /// The node stops.
    Left,
}

impl Mastership {
    /// Takes part from now on, until dropped. To be called inside the executor; that the cluster has formed is waited for.
    pub fn begin(
        config: &Config,
        coordinator: Arc<dyn Coordinator>,
        observer: NodeObserver,
        metrics: &Metrics,
    ) -> Mastership {
        let node = observer.node;
        let controller = Controller::new(
            node,
            coordinator.clone(),
            Arc::new(observer),
            settings(config),
            metrics.cluster.master.clone(),
        );
        let part = match config.mode {
            Mode::Worker => Part::Looks(Mirror::follow(coordinator.clone(), MASTER)),
            _ => {
                let candidate = Arc::new(controller.clone());
                let election = Election::stand(coordinator.clone(), MASTER, ElectionSettings::of(node), candidate);
                election.publish(metrics);
                Part::Stands(election)
            }
        };
        Mastership { coordinator, controller, part: RwLock::new(part) }
    }

    /// What administrators may ask.
    pub fn admin(&self) -> Admin {
        Admin::new(self.coordinator.clone(), self.controller.clone())
    }

    /// The master, as far as this node knows.
    pub fn master(&self) -> Option<NodeId> {
        match &*self.part.read().unwrap_or_else(PoisonError::into_inner) {
            Part::Stands(_) => self.controller.master(),
            Part::Looks(mirror) => election::chosen(MASTER, &mirror.entries()).map(|leader| leader.node),
            Part::Left => None,
        }
    }

    /// The link to a node broke: if it is the master, others need not wait until its lease ends. If it lives it may stand again.
    pub fn suspect(&self, node: NodeId) {
        if let Part::Stands(election) = &*self.part.read().unwrap_or_else(PoisonError::into_inner) {
            election.suspect(node);
        }
    }

    /// Lets another be master, as far as it comes to that in time, and takes part no more.
    pub async fn leave(&self) {
        if let Part::Stands(election) = self.end()
            && time::timeout(LEAVE_LIMIT, election.leave()).await.is_err()
        {
            tracing::info!("the election could not be left in time; the node's lease will end");
        }
    }

    /// Takes part no more, at once.
    pub fn stop(&self) {
        drop(self.end());
    }

    fn end(&self) -> Part {
        std::mem::replace(&mut *self.part.write().unwrap_or_else(PoisonError::into_inner), Part::Left)
    }
}

fn settings(config: &Config) -> ControllerSettings {
    let rebalance = &config.cluster.rebalance;
    ControllerSettings {
        replace_after: config.cluster.replace_after,
        bytes_per_second: rebalance.bytes_per_second.bytes(),
        moves_max: u32::try_from(rebalance.moves_max).unwrap_or(u32::MAX),
        split_above: config.cluster.shards.split_above,
        merge_below: config.cluster.shards.merge_below,
    }
}
