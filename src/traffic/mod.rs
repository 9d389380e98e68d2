//! Traffic: to which of several backends a request goes, when one that fails is left alone, and how often a request may be
//! tried again.
//!
//! Promise: nothing here waits, reads a clock, or knows what a request is. Time comes in as an argument, chance as a stream
//! handed over at the start, and everything iterated is ordered, so the same calls give the same choices. No state is
//! shared between two [`Balancer`]s. The gateway and everything else that has several equal ways to send something calls
//! this room.
//!
//! - `balancer`: the set of backends, and the one door to choose and to report.
//! - `policy`: how one of several candidates is chosen; a trait, so that others can be written.
//! - `backend`: what is known about one backend: weight, slow start, load, statistics.
//! - `ejection`: when a backend that fails is taken out, and when it is looked at again.
//! - `latency`: how long a backend takes lately.
//! - `retry`: how often and when to try again, under a budget.

mod backend;
mod balancer;
mod ejection;
mod latency;
mod policy;
mod retry;
#[cfg(test)]
mod tests;

pub use backend::{BackendStatistics, State};
pub use balancer::{Affinity, Ask, Balancer, BalancerOptions, Check, Outcome, Pick, Verdict, Wanted};
pub use ejection::EjectionOptions;
pub use policy::{Candidate, ConsistentHash, LeastConnections, Policy, PowerOfTwo, RoundRobin, Weighted, rendezvous};
pub use retry::{RetryBudget, RetryOptions};

use xxhash_rust::xxh3::xxh3_64;

/// A backend's name as a number that is the same in every process: what an affinity cookie holds.
pub type Token = u64;

/// The token of the backend called `name`, and the key of any other text.
pub fn token(name: &[u8]) -> Token {
    xxh3_64(name)
}
