//! A node says in the registry that it is there: where it is reached, what it is, how it is and whether it takes requests. Only where
//! etcd is the coordinator: without it nodes know of each other by their links, ask each other, and would write a log entry for every
//! heartbeat. Gateways look there. Safety rests on nothing of this. Started and ended by [`super::Engine`].
//!
//! It promises: a node that belongs to its cluster is registered as long as etcd can be reached; a lease that was lost is made anew; a
//! node that stops says so at once, and is taken off when its requests have ended; in an etcd that is not obeyed nothing is written.

use crate::{
    cluster::{MemberState, Members, SelfTold},
    coordination::{
        Coordinator,
        registry::{Health, Load, NodeAddresses, NodeRecord, NodeState, Registration},
    },
    rt::{
        self, Shutdown, Task,
        time::{self, Instant},
    },
    service::{HealthReport, Phase, Service},
    telemetry::metrics::Metrics,
};
use std::{sync::Arc, time::Duration};

/// Between two looks whether there is something to tell. What is told is told at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// After etcd could not be reached.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked how busy the node is.
const LOAD_INTERVAL: Duration = Duration::from_secs(10);
/// How long a node that stops waits until it is taken off. After it, its lease ends.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// The score of a node that takes requests, and is not as it should be.
const SCORE_AILING: u8 = 70;

/// What a node says of itself, but for what changes.
pub struct Registering {
    pub coordinator: Arc<dyn Coordinator>,
    pub members: Members,
    pub service: Service,
    pub told: SelfTold,
    /// Where its operators' port is.
    pub monitoring: String,
    /// They know how many requests are under way.
    pub metrics: Metrics,
}

/// The task that keeps a node registered.
pub struct Registered {
    task: Task<()>,
    stop: Shutdown,
}

impl Registered {
    /// Takes the node off, as far as it comes to that in time. When this returns nothing of the node is looked at any more.
    pub async fn leave(self) {
        self.stop.trigger();
        let _ended = self.task.await;
    }
}

impl Registering {
    /// Registers the node as soon as it has a cluster, and keeps it so until it leaves.
    pub fn start(self) -> Registered {
        let stop = Shutdown::new();
        Registered { task: rt::spawn("node-registration", self.run(stop.clone())), stop }
    }

    async fn run(self, stop: Shutdown) {
        let mut kept: Option<(Registration, NodeRecord)> = None;
        let mut busy = Busy::default();
        let started_ms = time::wall().0;
        loop {
            let wait = tokio::select! {
                biased;
                () = stop.wait() => break,
                wait = self.look(&mut kept, &mut busy, started_ms) => wait,
            };
            tokio::select! {
                biased;
                () = stop.wait() => break,
                () = time::sleep(wait) => {}
            }
        }
        // What it tells of is about to be closed.
        drop(self);
        let Some((registration, _)) = kept else { return };
        let left = time::timeout(LEAVE_LIMIT, registration.leave()).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::info!("the node could not be taken off the registry; its lease will end");
        }
    }

    /// Tells what there is to tell; how long to wait before the next look.
    async fn look(&self, kept: &mut Option<(Registration, NodeRecord)>, busy: &mut Busy, started_ms: u64) -> Duration {
        // Whose etcd it is is not known before.
        if self.members.cluster_id().is_none() {
            return LOOK_INTERVAL;
        }
        let record = self.record(busy.load(self, time::now()), started_ms);
        match kept {
            Some((_, told)) if *told == record => {}
            Some((registration, told)) => {
                registration.update(record.clone());
                *told = record;
            }
            None => match Registration::begin(self.coordinator.clone(), vec![record.clone()]).await {
                Ok(registration) => *kept = Some((registration, record)),
                Err(error) => {
                    tracing::debug!(%error, "the node could not be registered yet");
                    return RETRY_INTERVAL;
                }
            },
        }
        LOOK_INTERVAL
    }

    fn record(&self, load: Load, started_ms: u64) -> NodeRecord {
        let identity = self.service.identity();
        let member = self.members.records().get(&identity.node_id).map(|record| record.state);
        NodeRecord {
            node: identity.node_id,
            addresses: NodeAddresses {
                peer: self.told.peer.clone(),
                http: identity.http.clone(),
                grpc: identity.grpc.clone(),
                monitoring: self.monitoring.clone(),
            },
            zone: self.told.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.told.mode.clone(),
            state: state(identity.phase(), member),
            weight: self.told.weight,
            tags: self.told.labels.tags.clone(),
            group: self.told.labels.group.clone(),
            load,
            health: health(&self.service.health()),
            started_ms,
        }
    }
}

/// What those who send requests are to make of a node.
fn state(phase: Phase, member: Option<MemberState>) -> NodeState {
    match (phase, member) {
        (Phase::Stopping, _) | (_, Some(MemberState::Removed)) => NodeState::Stopping,
        (Phase::Starting, _) => NodeState::Starting,
        (Phase::Up, Some(MemberState::Draining)) => NodeState::Draining,
        (Phase::Up, _) => NodeState::Serving,
    }
}

fn health(report: &HealthReport) -> Health {
    let failed = report.checks.iter().filter(|check| !check.ok);
    let reasons: Vec<String> = failed.map(|check| check.detail.clone()).collect();
    let score = match report.ready {
        false => 0,
        true if reasons.is_empty() => 100,
        true => SCORE_AILING,
    };
    Health { score, reasons }
}

/// How busy the node was found.
#[derive(Default)]
struct Busy {
    found: Option<Found>,
}

#[derive(Clone, Copy)]
struct Found {
    at: Instant,
    /// Processor time of the process until then.
    cpu: Duration,
    load: Load,
}

impl Busy {
    fn load(&mut self, of: &Registering, now: Instant) -> Load {
        if let Some(found) = self.found.filter(|found| now < found.at + LOAD_INTERVAL) {
            return found.load;
        }
        let replicas = of.service.host().replicas();
        let sum = |of: fn(&crate::shard::Replica) -> u64| replicas.iter().map(|(_, replica)| of(replica)).sum();
        let (points, data_bytes) = (sum(|replica| replica.points()), sum(|replica| replica.stored_bytes()));
        let cpu = rt::cpu::process();
        let busy = self.found.map_or(0.0, |before| share(cpu.saturating_sub(before.cpu), now - before.at));
        let (points, data_bytes) = (coarse(points), coarse(data_bytes));
        let load = Load { requests: coarse(of.metrics.in_flight()), cpu: busy, data_bytes, points };
        self.found = Some(Found { at: now, cpu, load });
        load
    }
}

/// The part of this machine's processors that was busy for `spent` of the time that has `passed`, to a twentieth.
fn share(spent: Duration, passed: Duration) -> f32 {
    let all = passed.as_secs_f32() * rt::compute::cores() as f32;
    ((spent.as_secs_f32() / all.max(f32::MIN_POSITIVE)).min(1.0) * 20.0).round() / 20.0
}

/// Within a sixteenth: every node hears of every change.
fn coarse(amount: u64) -> u64 {
    let kept_bits = 5;
    let dropped = (u64::BITS - amount.leading_zeros()).saturating_sub(kept_bits);
    amount >> dropped << dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Check;

    #[test]
    fn who_is_being_drained_stops_or_was_removed_says_so() {
        let (active, draining, removed) = (MemberState::Active, MemberState::Draining, MemberState::Removed);
        for (phase, member, told) in [
            (Phase::Starting, None, NodeState::Starting),
            (Phase::Starting, Some(draining), NodeState::Starting),
            (Phase::Up, None, NodeState::Serving),
            (Phase::Up, Some(active), NodeState::Serving),
            (Phase::Up, Some(draining), NodeState::Draining),
            (Phase::Up, Some(removed), NodeState::Stopping),
            (Phase::Stopping, Some(draining), NodeState::Stopping),
        ] {
            assert_eq!(state(phase, member), told, "{phase:?} {member:?}");
        }
    }

    #[test]
    fn health_is_what_the_checks_say() {
        let report = |ready, ok| HealthReport {
            live: true,
            ready,
            checks: vec![Check { name: "c", ok, detail: "ill".to_owned() }],
        };
        assert_eq!(health(&report(true, true)), Health::default());
        let reasons = vec!["ill".to_owned()];
        assert_eq!(health(&report(true, false)), Health { score: 70, reasons: reasons.clone() });
        assert_eq!(health(&report(false, false)), Health { score: 0, reasons });
    }

    #[test]
    fn small_changes_of_load_are_no_news() {
        assert_eq!([0, 1, 31, 32, 33].map(coarse), [0, 1, 31, 32, 32]);
        assert_eq!(coarse(1_000_000), coarse(1_010_000));
        assert!((0..64).map(|bit| 1u64 << bit).all(|amount| coarse(amount) == amount));
        assert!([999, 123_456_789, u64::MAX].iter().all(|amount| amount - coarse(*amount) <= amount / 16));
        let second = Duration::from_secs(1);
        let cores = rt::compute::cores() as u32;
        assert_eq!(share(Duration::ZERO, second), 0.0);
        assert_eq!(share(second * 5 * cores, 10 * second), 0.5);
        assert_eq!(share(second * 5 * cores + second / 10, 10 * second), 0.5);
        // Clocks that are read one after the other.
        assert_eq!((share(11 * second * cores, 10 * second), share(second, Duration::ZERO)), (1.0, 1.0));
    }
}
