//! The speed of a simulated node's disk. What goes through `rt::compute::io` takes up to so long before it begins and again
//! before its caller learns that it is over, which is where a device's queue keeps it waiting. What the disk keeps and
//! loses is not known here but in the simulation's own model of files.

use madsim::task::NodeId;
use rand::RngCore as _;
use std::{cell::RefCell, collections::BTreeMap, time::Duration};

thread_local! {
    static DELAYS: RefCell<BTreeMap<NodeId, (Duration, crate::rt::rng::Rng)>> = const { RefCell::new(BTreeMap::new()) };
}

pub(super) fn reset() {
    DELAYS.with_borrow_mut(BTreeMap::clear);
}

/// From now on every blocking operation of `node` waits up to `max` twice; zero makes the disk fast again.
pub fn set_disk_delay(node: NodeId, max: Duration) {
    DELAYS.with_borrow_mut(|delays| match max {
        Duration::ZERO => drop(delays.remove(&node)),
        _ => drop(delays.insert(node, (max, crate::rt::rng::stream("disk/delay")))),
    });
}

/// The wait of the current node's next operation; none on a fast disk.
pub(in crate::rt) async fn disk_delay() {
    let node = madsim::plugin::node();
    let wait = DELAYS.with_borrow_mut(|delays| {
        let (max, rng) = delays.get_mut(&node)?;
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(rng.next_u64() % nanos.max(1)))
    });
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}
