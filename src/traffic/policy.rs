//! How one of several candidates is chosen. A [`Policy`] sees every backend that may be chosen, in the order of their names,
//! with its weight (slow start included), its load and its latency; it keeps what it needs between two choices itself.
//! Called by `balancer`; who wants another rule implements the trait and hands it over.

use super::{Ask, Token};
use rand::{Rng, RngCore};
use std::{collections::BTreeMap, fmt};

/// A backend that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its name as a number.
    pub token: Token,
    /// Its share of the requests relative to others, slow start included. Above zero.
    pub weight: f64,
    /// The part of its full share that slow start grants it now, above zero and at most 1.
    pub ramp: f64,
    /// Requests it is working on.
    pub in_flight: u32,
    /// How long it takes lately, in seconds; `None` before its first answer.
    pub latency_s: Option<f64>,
}

/// A rule for choosing. One object serves one balancer.
pub trait Policy: fmt::Debug + Send {
    /// The position of the chosen one in `candidates`, which is not empty.
    fn choose(&mut self, candidates: &[Candidate<'_>], ask: &Ask<'_>, rng: &mut dyn RngCore) -> usize;
}

/// One after the other, weights aside; a backend in slow start gets its turn less often.
#[derive(Debug, Default)]
pub struct RoundRobin(Turns);

impl Policy for RoundRobin {
    fn choose(&mut self, candidates: &[Candidate<'_>], _ask: &Ask<'_>, _rng: &mut dyn RngCore) -> usize {
        self.0.next(candidates, |candidate| candidate.ramp)
    }
}

/// In turn, in proportion to the weights, evenly mixed (never three times the heaviest, then the others).
#[derive(Debug, Default)]
pub struct Weighted(Turns);

impl Policy for Weighted {
    fn choose(&mut self, candidates: &[Candidate<'_>], _ask: &Ask<'_>, _rng: &mut dyn RngCore) -> usize {
        self.0.next(candidates, |candidate| candidate.weight)
    }
}

/// Smooth weighted round robin: everybody earns its weight, the richest is chosen and pays what all have earned.
#[derive(Debug, Default)]
struct Turns(BTreeMap<Token, f64>);

impl Turns {
    fn next(&mut self, candidates: &[Candidate<'_>], weight: impl Fn(&Candidate<'_>) -> f64) -> usize {
        let total: f64 = candidates.iter().map(&weight).sum();
        let mut richest = (0, f64::NEG_INFINITY);
        let mut kept = BTreeMap::new();
        for (position, candidate) in candidates.iter().enumerate() {
            let earned = self.0.get(&candidate.token).copied().unwrap_or(0.0) + weight(candidate);
            kept.insert(candidate.token, earned);
            if earned > richest.1 {
                richest = (position, earned);
            }
        }
        if let Some(earned) = kept.get_mut(&candidates[richest.0].token) {
            *earned -= total;
        }
        // Who is no candidate now begins anew when it is one again: what it missed is not owed to it.
        self.0 = kept;
        richest.0
    }
}

/// The one with the fewest requests under way, relative to its weight; among equals by chance.
#[derive(Debug, Default)]
pub struct LeastConnections;

impl Policy for LeastConnections {
    fn choose(&mut self, candidates: &[Candidate<'_>], _ask: &Ask<'_>, rng: &mut dyn RngCore) -> usize {
        let load = |candidate: &Candidate<'_>| f64::from(candidate.in_flight.saturating_add(1)) / candidate.weight;
        let least = candidates.iter().map(load).fold(f64::INFINITY, f64::min);
        let equals: Vec<usize> = (0..candidates.len()).filter(|at| load(&candidates[*at]) <= least).collect();
        equals[rng.random_range(0..equals.len())]
    }
}

/// The one that the request's key belongs to; requests without a key go by chance. See [`rendezvous`].
#[derive(Debug, Default)]
pub struct ConsistentHash;

impl Policy for ConsistentHash {
    fn choose(&mut self, candidates: &[Candidate<'_>], ask: &Ask<'_>, rng: &mut dyn RngCore) -> usize {
        rendezvous(candidates, ask.key.unwrap_or_else(|| rng.next_u64()))
    }
}

/// The candidate with the highest score for `key`, where a score is drawn from the hash of key and name so that each wins
/// in proportion to its weight. A candidate that goes gives up its own keys and no others move; one that comes takes its
/// share evenly from all. Every process chooses the same.
pub fn rendezvous(candidates: &[Candidate<'_>], key: u64) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (position, candidate) in candidates.iter().enumerate() {
        // A point of (0, 1); −weight / ln(point) is the classic weighted score.
        let point = ((mixed(key ^ candidate.token) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let score = -candidate.weight / point.ln();
        if score > best.1 {
            best = (position, score);
        }
    }
    best.0
}

/// The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
fn mixed(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The better of two drawn by chance: the one whose next request is expected to be answered first, by how long it takes
/// lately, how many requests it is working on and its weight. Needs no agreement between gateways and does not send
/// everybody to the one that looks best for a moment.
#[derive(Debug, Default)]
pub struct PowerOfTwo;

impl Policy for PowerOfTwo {
    fn choose(&mut self, candidates: &[Candidate<'_>], _ask: &Ask<'_>, rng: &mut dyn RngCore) -> usize {
        if candidates.len() == 1 {
            return 0;
        }
        let one = rng.random_range(0..candidates.len());
        let other = (one + rng.random_range(1..candidates.len())) % candidates.len();
        if expected(&candidates[other], &candidates[one]) < expected(&candidates[one], &candidates[other]) {
            other
        } else {
            one
        }
    }
}

/// How long the next request to `candidate` is expected to take. One that has not answered yet is taken to be as fast as
/// the one it is compared with.
fn expected(candidate: &Candidate<'_>, compared: &Candidate<'_>) -> f64 {
    /// Differences below this are noise of the measurement.
    const FLOOR_S: f64 = 50e-6;
    let latency_s = candidate.latency_s.or(compared.latency_s).unwrap_or(FLOOR_S).max(FLOOR_S);
    latency_s * f64::from(candidate.in_flight.saturating_add(1)) / candidate.weight
}
