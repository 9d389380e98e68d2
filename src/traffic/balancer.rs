//! The set of backends and the one door to it: [`Balancer::pick`] chooses one for a request and counts it as working until the
//! [`Pick`] is finished or dropped; what came of it moves latency, ejection and statistics. Backends come and go with
//! [`Balancer::set`]; health checks are asked for by [`Balancer::checks_due`] and told by [`Balancer::checked`], so that a
//! backend which is out comes back without risking a client's request.
//!
//! A request is sent to a backend that is out only where no other is left: then trying is better than refusing.

use super::{BackendStatistics, EjectionOptions, Policy, State, Token, backend::Backend, policy::rendezvous};
use crate::rt::time::Instant;
use rand::RngCore;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Bounds of a balancer.
#[derive(Clone, Copy, Debug)]
pub struct BalancerOptions {
    /// How long a backend that is new or comes back takes to get its whole share.
    pub slow_start: Duration,
    /// When a failing backend is taken out.
    pub ejection: EjectionOptions,
    /// How often a backend that is in is checked.
    pub check_interval: Duration,
}

impl Default for BalancerOptions {
    fn default() -> BalancerOptions {
        BalancerOptions {
            slow_start: Duration::from_secs(10),
            ejection: EjectionOptions::default(),
            check_interval: Duration::from_secs(1),
        }
    }
}

/// A backend that there should be.
#[derive(Clone, Debug)]
pub struct Wanted<T> {
    /// Unique, and the same as long as it is the same backend.
    pub name: String,
    /// Its share relative to others; what is not above zero counts as 1.
    pub weight: f64,
    /// Whether it may be sent new requests; those under way go on either way.
    pub accepts: bool,
    /// What the caller needs to reach it.
    pub value: T,
}

/// Where a request should go by who asks, whatever the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Requests of one client (a hash of its address) go to one backend, chosen as by [`super::ConsistentHash`].
    Client(u64),
    /// To the backend that an earlier answer named, while it is in; else by the policy.
    Backend(Token),
}

/// What a choice may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Hash of what the request is about.
    pub key: Option<u64>,
    /// Where it should stick.
    pub affinity: Option<Affinity>,
    /// Backends it was sent to before.
    pub avoid: &'a [Token],
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered, this long after it was picked.
    Answered(Duration),
    /// It answered, this long after it was picked, that it could not do it. It is there, and no faster for it.
    Refused(Duration),
    /// It could not be reached, or broke off.
    Failed,
    /// The client left; that says nothing about the backend.
    Abandoned,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes requests.
    Ready,
    /// It answers that it takes none.
    NotReady,
    /// It does not answer.
    Unreachable,
}

/// A check to be made.
#[derive(Clone, Debug)]
pub struct Check<T> {
    pub name: Arc<str>,
    pub value: T,
}

/// See the module. Clones are one balancer.
pub struct Balancer<T>(Arc<Mutex<Inner<T>>>);

struct Inner<T> {
    options: BalancerOptions,
    policy: Box<dyn Policy>,
    rng: Box<dyn RngCore + Send>,
    backends: BTreeMap<Arc<str>, Backend<T>>,
    /// Backends made so far.
    made: u64,
}

impl<T> Clone for Balancer<T> {
    fn clone(&self) -> Balancer<T> {
        Balancer(self.0.clone())
    }
}

impl<T> fmt::Debug for Balancer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").finish_non_exhaustive()
    }
}

impl<T: Clone> Balancer<T> {
    /// A balancer without backends.
    pub fn new(options: BalancerOptions, policy: Box<dyn Policy>, rng: Box<dyn RngCore + Send>) -> Balancer<T> {
        Balancer(Arc::new(Mutex::new(Inner { options, policy, rng, backends: BTreeMap::new(), made: 0 })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        // Every field is valid on its own, so a panic elsewhere cannot have broken the whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `wanted` the backends. Those that were there keep what is known about them, with the new weight and value;
    /// new ones start slowly; requests under way to one that goes end as they would.
    pub fn set(&self, wanted: Vec<Wanted<T>>, now: Instant) {
        let mut inner = self.inner();
        let mut before = std::mem::take(&mut inner.backends);
        for Wanted { name, weight, accepts, value } in wanted {
            let weight = if weight.is_finite() && weight > 0.0 { weight } else { 1.0 };
            let mut backend = match before.remove(name.as_str()) {
                Some(known) => known.changed(weight, value),
                None => {
                    inner.made += 1;
                    Backend::new(Arc::from(name), inner.made, value, weight, now)
                }
            };
            backend.accept(accepts, now);
            inner.backends.insert(backend.name.clone(), backend);
        }
    }

    /// Changes the weight of one backend, if there is such.
    pub fn set_weight(&self, name: &str, weight: f64) {
        if let Some(backend) = self.inner().backends.get_mut(name).filter(|_| weight.is_finite() && weight > 0.0) {
            backend.weight = weight;
        }
    }

    /// Chooses a backend; `None` where there is none besides those to be avoided.
    pub fn pick(&self, ask: &Ask<'_>, now: Instant) -> Option<Pick<T>> {
        let mut inner = self.inner();
        let (name, was_out) = inner.choose(ask, now)?;
        let backend = inner.backends.get_mut(&name).expect("invariant: chosen among the backends");
        backend.in_flight += 1;
        backend.requests += 1;
        Some(Pick {
            balancer: self.clone(),
            token: backend.token,
            serial: backend.serial,
            value: backend.value.clone(),
            name,
            was_out,
            is_finished: false,
        })
    }

    /// The checks that are due; each is to be answered by [`Balancer::checked`]. A backend that is out is checked when its
    /// time is over, the others every check interval.
    pub fn checks_due(&self, now: Instant) -> Vec<Check<T>> {
        let mut inner = self.inner();
        let interval = inner.options.check_interval;
        let mut due = Vec::new();
        for backend in inner.backends.values_mut() {
            let at = backend.ejection.out_until().unwrap_or(backend.check_at);
            if at <= now && !backend.is_checking {
                backend.is_checking = true;
                backend.check_at = now + interval;
                due.push(Check { name: backend.name.clone(), value: backend.value.clone() });
            }
        }
        due
    }

    /// What a check of `name` found.
    pub fn checked(&self, name: &str, verdict: Verdict, now: Instant) {
        let mut inner = self.inner();
        let options = inner.options.ejection;
        let Some(backend) = inner.backends.get_mut(name) else { return };
        backend.is_checking = false;
        if verdict == Verdict::Unreachable {
            backend.ejection.found_unreachable(&options, now);
            return;
        }
        let is_ready = verdict == Verdict::Ready;
        let came_back = backend.ejection.succeeded(&options, now);
        if is_ready && (came_back || !backend.is_ready) {
            backend.start(now);
        }
        backend.is_ready = is_ready;
        backend.is_known |= is_ready;
    }

    /// Every backend, by name.
    pub fn statistics(&self, now: Instant) -> Vec<BackendStatistics> {
        let inner = self.inner();
        inner.backends.values().map(|backend| backend.statistics(&inner.options, now)).collect()
    }

    fn finish(&self, name: &str, serial: u64, outcome: Outcome, now: Option<Instant>) {
        let mut inner = self.inner();
        let options = inner.options.ejection;
        let same = |backend: &&mut Backend<T>| backend.serial == serial;
        let Some(backend) = inner.backends.get_mut(name).filter(same) else { return };
        backend.in_flight = backend.in_flight.saturating_sub(1);
        match (outcome, now) {
            (outcome @ (Outcome::Answered(took) | Outcome::Refused(took)), Some(now)) => {
                match outcome {
                    Outcome::Answered(_) => backend.latency.observe(took, now),
                    _ => backend.latency.refused(took, now),
                }
                backend.is_known = true;
                if backend.ejection.succeeded(&options, now) {
                    backend.start(now);
                }
            }
            (Outcome::Failed, Some(now)) => {
                backend.failures += 1;
                let _ejected = backend.ejection.failed(&options, now);
            }
            _ => backend.abandoned += 1,
        }
    }
}

impl<T> Inner<T> {
    /// The name of the chosen one, and whether it is one that should get no requests.
    fn choose(&mut self, ask: &Ask<'_>, now: Instant) -> Option<(Arc<str>, bool)> {
        let allowed = |backend: &&Backend<T>| !ask.avoid.contains(&backend.token);
        let is_in = |backend: &&Backend<T>| backend.state() == State::In;
        let mut among: Vec<&Backend<T>> = self.backends.values().filter(allowed).filter(is_in).collect();
        let was_out = among.is_empty();
        if was_out {
            // One that wants no more does its work; one that says it is not ready at least answers.
            for next in [State::Draining, State::NotReady] {
                if among.is_empty() {
                    among = self.backends.values().filter(allowed).filter(|one| one.state() == next).collect();
                }
            }
        }
        if among.is_empty() {
            among = self.backends.values().filter(allowed).collect();
        }
        if among.is_empty() {
            return None;
        }
        let candidates: Vec<_> = among.iter().map(|backend| backend.candidate(&self.options, now)).collect();
        let stuck = match ask.affinity {
            Some(Affinity::Client(client)) => Some(rendezvous(&candidates, client)),
            Some(Affinity::Backend(token)) => candidates.iter().position(|candidate| candidate.token == token),
            None => None,
        };
        let chosen = stuck.unwrap_or_else(|| self.policy.choose(&candidates, ask, &mut *self.rng));
        // A policy written by others may err; the last candidate is still a candidate.
        let chosen = among[chosen.min(among.len() - 1)];
        Some((chosen.name.clone(), was_out))
    }
}

/// A request's backend: counts as working until it is finished or dropped.
pub struct Pick<T: Clone> {
    balancer: Balancer<T>,
    name: Arc<str>,
    token: Token,
    serial: u64,
    value: T,
    was_out: bool,
    is_finished: bool,
}

impl<T: Clone> Pick<T> {
    /// The backend's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The backend's name as a number: for [`Ask::avoid`] and [`Affinity::Backend`].
    pub fn token(&self) -> Token {
        self.token
    }

    /// What the caller needs to reach it.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Whether it was chosen although it should get no requests, because no other was left.
    pub fn was_out(&self) -> bool {
        self.was_out
    }

    /// Whether the backend is now left alone because it failed, or is none any more.
    pub fn is_given_up(&self) -> bool {
        let inner = self.balancer.inner();
        let same = |backend: &&Backend<T>| backend.serial == self.serial;
        inner.backends.get(&self.name).filter(same).is_none_or(|backend| backend.state() == State::Ejected)
    }

    /// The request is over. Dropped instead, it counts as given up by the client.
    pub fn finish(mut self, outcome: Outcome, now: Instant) {
        self.is_finished = true;
        self.balancer.finish(&self.name, self.serial, outcome, Some(now));
    }
}

impl<T: Clone> Drop for Pick<T> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.balancer.finish(&self.name, self.serial, Outcome::Abandoned, None);
        }
    }
}

impl<T: Clone> fmt::Debug for Pick<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick").field("name", &self.name).finish_non_exhaustive()
    }
}
