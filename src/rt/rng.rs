//! Random numbers. Every user of chance takes a stream of its own, by name, so that one more draw in one room does not
//! change what another room draws. In production a stream starts from the system's entropy; in the simulation from the
//! run's seed, the node, the name, and how often that node has opened that name before (a node that restarts must not
//! draw the same numbers again). Not for secrets that outlive the process: keys come from `security`.
//! Called by whoever needs jitter, samples or identifiers.

use rand::{RngCore, SeedableRng, rngs::StdRng};
use uuid::Uuid;

/// One named stream of random numbers: ChaCha with 12 rounds, uniform, not shared between threads.
#[derive(Clone, Debug)]
pub struct Rng(StdRng);

/// Opens a new stream called `name`. Cost in production: two system calls; keep the stream rather than opening it anew.
pub fn stream(name: &str) -> Rng {
    Rng(StdRng::from_seed(source::seed(name)))
}

/// A random (version 4) UUID.
pub fn uuid_v4() -> Uuid {
    source::uuid_v4()
}

impl RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[cfg(not(madsim))]
mod source {
    use uuid::Uuid;

    /// Two random UUIDs are 244 bits from the system; the 12 fixed bits do no harm in a seed. The name plays no part:
    /// fresh entropy already makes streams differ.
    pub(super) fn seed(_name: &str) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        seed[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        seed
    }

    pub(super) fn uuid_v4() -> Uuid {
        Uuid::new_v4()
    }
}

#[cfg(madsim)]
mod source {
    use madsim::task::NodeId;
    use rand::{RngCore, SeedableRng, rngs::StdRng};
    use std::{cell::RefCell, collections::BTreeMap};
    use uuid::{Builder, Uuid};

    thread_local! {
        static OPENED: RefCell<BTreeMap<(NodeId, String), u64>> = const { RefCell::new(BTreeMap::new()) };
        static UUIDS: RefCell<BTreeMap<NodeId, StdRng>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Hashes (run seed, node, name, how many times before) into a seed.
    pub(super) fn seed(name: &str) -> [u8; 32] {
        let node = madsim::plugin::node();
        let opened_before = OPENED.with_borrow_mut(|opened| {
            let count = opened.entry((node, name.to_owned())).or_default();
            *count += 1;
            *count - 1
        });
        let text = format!("{}/{node}/{name}/{opened_before}", madsim::runtime::Handle::current().seed());
        let mut seed = [0; 32];
        for (lane, bytes) in seed.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&fnv1a(lane as u64, text.as_bytes()).to_le_bytes());
        }
        seed
    }

    pub(super) fn uuid_v4() -> Uuid {
        let node = madsim::plugin::node();
        let known = UUIDS.with_borrow(|uuids| uuids.contains_key(&node));
        if !known {
            let fresh = StdRng::from_seed(seed("rt.uuid"));
            UUIDS.with_borrow_mut(|uuids| uuids.insert(node, fresh));
        }
        let mut bytes = [0; 16];
        UUIDS.with_borrow_mut(|uuids| {
            uuids.get_mut(&node).expect("invariant: the stream was opened above").fill_bytes(&mut bytes);
        });
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Forgets what was opened, for a new run on the same thread.
    pub(in crate::rt) fn reset() {
        OPENED.with_borrow_mut(BTreeMap::clear);
        UUIDS.with_borrow_mut(BTreeMap::clear);
    }

    /// FNV-1a, 64 bits, with a lane number mixed in first and a final avalanche (the finaliser of SplitMix64).
    fn fnv1a(lane: u64, bytes: &[u8]) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ lane.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

#[cfg(madsim)]
pub(in crate::rt) use source::reset;

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_from_each_other_and_clones_do_not() {
        let (mut left, mut right) = (stream("left"), stream("right"));
        let mut copy = left.clone();
        let draws: Vec<u64> = (0..8).map(|_| left.next_u64()).collect();
        assert_eq!(draws, (0..8).map(|_| copy.next_u64()).collect::<Vec<_>>());
        assert_ne!(draws, (0..8).map(|_| right.next_u64()).collect::<Vec<_>>());
    }

    #[test]
    fn uuids_are_version_4_and_distinct() {
        let (one, two) = (uuid_v4(), uuid_v4());
        assert_eq!(one.get_version_num(), 4);
        assert_ne!(one, two);
    }
}
