//! How a candidate stands for election. Called by `election`.

use std::time::Duration;

/// Who stands first when the place is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The highest priority; a reigning candidate makes place for a higher one that has been ready for some time.
    Priority,
    /// Whoever chance names. Nobody makes place.
    Random,
}

/// See the module. The durations should be the same for all candidates.
#[derive(Clone, Debug)]
pub struct ElectionSettings {
    /// This candidate.
    pub node: u64,
    /// Higher stands earlier.
    pub priority: u32,
    pub policy: Policy,
    /// How long after its last word a candidate is taken for dead. etcd makes at least 2 s of it.
    pub ttl: Duration,
    /// Between candidates that stand one after the other.
    pub step: Duration,
    /// How long a higher candidate must have been ready before it is made place for.
    pub steady: Duration,
    /// How long a reign lasts before it makes place.
    pub reign_min: Duration,
}

impl ElectionSettings {
    /// The defaults for a candidate.
    pub fn of(node: u64) -> ElectionSettings {
        ElectionSettings {
            node,
            priority: 0,
            policy: Policy::Priority,
            ttl: Duration::from_secs(1),
            step: Duration::from_millis(50),
            steady: Duration::from_secs(10),
            reign_min: Duration::from_secs(30),
        }
    }
}
