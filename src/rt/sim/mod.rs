//! What the simulation may do to a node's surroundings: its clocks, its links and the speed of its disk. Everything is kept in thread-local
//! state, because one simulated run is one thread. Recording and hashing what happens is the runner's business.
//!
//! Called by the simulation's runner and its fault injectors, never by the server.

pub(in crate::rt) mod clock;
mod disk;
pub(in crate::rt) mod links;
#[cfg(test)]
mod tests;

pub use clock::{DRIFT_PPM_MAX, jump_wall, set_drift_ppm, set_wall_offset};
pub(in crate::rt) use disk::disk_delay;
pub use disk::set_disk_delay;
pub use links::{cut, heal, heal_all, is_cut, set_dark};

use madsim::task::NodeId;
use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

thread_local! {
    static MARKS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    static NAMES: RefCell<BTreeMap<NodeId, String>> = const { RefCell::new(BTreeMap::new()) };
    static VERSIONS: RefCell<BTreeMap<NodeId, RangeInclusive<u32>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Makes a node known: its name for logs, and its address for the links. Before the node's first task runs; once more
/// after a restart does no harm.
pub fn register(node: NodeId, name: &str, ip: IpAddr) {
    NAMES.with_borrow_mut(|names| names.insert(node, name.to_owned()));
    links::register(node, ip);
}

/// Counts what [`crate::rt::mark`] notes.
pub(in crate::rt) fn mark(name: &'static str) {
    MARKS.with_borrow_mut(|marks| *marks.entry(name).or_default() += 1);
}

/// What was noted since the start of the run, and how often.
pub fn marks() -> BTreeMap<&'static str, u64> {
    MARKS.with_borrow(Clone::clone)
}

/// The name `node` was registered under.
pub fn node_name(node: NodeId) -> Option<String> {
    NAMES.with_borrow(|names| names.get(&node).cloned())
}

/// From its next process on, the node speaks these versions of the cluster's protocols: it passes for an older or a newer program.
pub fn set_versions(node: NodeId, versions: RangeInclusive<u32>) {
    VERSIONS.with_borrow_mut(|all| all.insert(node, versions));
}

/// What [`set_versions`] set last.
pub fn versions_of(node: NodeId) -> Option<RangeInclusive<u32>> {
    VERSIONS.with_borrow(|all| all.get(&node).cloned())
}

/// Forgets every node, clock, link and random stream: the start of a new run on this thread.
pub fn reset() {
    NAMES.with_borrow_mut(BTreeMap::clear);
    VERSIONS.with_borrow_mut(BTreeMap::clear);
    MARKS.with_borrow_mut(BTreeMap::clear);
    clock::reset();
    links::reset();
    disk::reset();
    crate::rt::rng::reset();
}
