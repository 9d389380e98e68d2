//! What is known about one backend: its weight and how far it has started, what it is working on, how long it takes, whether
//! it is in, and its statistics. Owned by `balancer`, under its lock.

use super::{BalancerOptions, Candidate, Token, ejection::Ejection, latency::Latency};
use crate::rt::time::Instant;
use std::{sync::Arc, time::Duration};

/// The least part of its share that a backend gets while it starts: enough to learn how fast it is.
const RAMP_MIN: f64 = 0.05;

/// Whether a backend gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    In,
    /// It works, and wants no new ones: it is being drained.
    Draining,
    /// It says that it is not ready: it starts, or it is about to stop.
    NotReady,
    /// It failed.
    Ejected,
}

/// One backend, for metrics and status.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendStatistics {
    pub name: Arc<str>,
    pub state: State,
    /// Whether it has ever answered or been found ready; before that its state is hope.
    pub is_known: bool,
    /// Slow start included.
    pub weight: f64,
    pub in_flight: u32,
    /// Requests sent to it since the start.
    pub requests: u64,
    /// Those that failed by its fault.
    pub failures: u64,
    /// Those given up by the client.
    pub abandoned: u64,
    pub ejections: u64,
    /// Mean time of lately finished requests.
    pub latency: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backend<T> {
    pub name: Arc<str>,
    pub token: Token,
    /// Tells it from an earlier backend of the same name.
    pub serial: u64,
    pub value: T,
    pub weight: f64,
    pub in_flight: u32,
    pub is_ready: bool,
    /// Whether it may be sent new requests.
    accepts: bool,
    /// Whether it has ever answered or been found ready.
    pub is_known: bool,
    pub ejection: Ejection,
    pub latency: Latency,
    /// When the next routine check is due.
    pub check_at: Instant,
    pub is_checking: bool,
    /// When it began to get requests.
    started: Instant,
    pub requests: u64,
    pub failures: u64,
    pub abandoned: u64,
}

impl<T> Backend<T> {
    pub fn new(name: Arc<str>, serial: u64, value: T, weight: f64, now: Instant) -> Backend<T> {
        Backend {
            token: super::token(name.as_bytes()),
            name,
            serial,
            value,
            weight,
            in_flight: 0,
            is_ready: true,
            accepts: true,
            is_known: false,
            ejection: Ejection::new(now),
            latency: Latency::default(),
            check_at: now,
            is_checking: false,
            started: now,
            requests: 0,
            failures: 0,
            abandoned: 0,
        }
    }

    /// The same backend with another weight and value.
    pub fn changed(self, weight: f64, value: T) -> Backend<T> {
        Backend { weight, value, ..self }
    }

    /// Whether it may be sent new requests from `now` on; one that may again starts slowly.
    pub fn accept(&mut self, accepts: bool, now: Instant) {
        if accepts && !self.accepts {
            self.start(now);
        }
        self.accepts = accepts;
    }

    /// Begins slow start.
    pub fn start(&mut self, now: Instant) {
        self.started = now;
    }

    pub fn state(&self) -> State {
        match self.ejection.out_until() {
            Some(_) => State::Ejected,
            None if !self.is_ready => State::NotReady,
            None if !self.accepts => State::Draining,
            None => State::In,
        }
    }

    /// The part of its share that it gets at `now`: grows evenly from its start until slow start is over.
    fn ramp(&self, slow_start: Duration, now: Instant) -> f64 {
        if slow_start.is_zero() {
            return 1.0;
        }
        ((now - self.started).as_secs_f64() / slow_start.as_secs_f64()).clamp(RAMP_MIN, 1.0)
    }

    pub fn candidate(&self, options: &BalancerOptions, now: Instant) -> Candidate<'_> {
        let ramp = self.ramp(options.slow_start, now);
        Candidate {
            name: &self.name,
            token: self.token,
            weight: self.weight * ramp,
            ramp,
            in_flight: self.in_flight,
            latency_s: self.latency.mean_s(now),
        }
    }

    pub fn statistics(&self, options: &BalancerOptions, now: Instant) -> BackendStatistics {
        BackendStatistics {
            name: self.name.clone(),
            state: self.state(),
            is_known: self.is_known,
            weight: self.weight * self.ramp(options.slow_start, now),
            in_flight: self.in_flight,
            requests: self.requests,
            failures: self.failures,
            abandoned: self.abandoned,
            ejections: self.ejection.total(),
            latency: self.latency.mean_s(now).map(Duration::from_secs_f64),
        }
    }
}
