//! What a node tells about itself: metrics and logs.
//!
//! Promise: no state is global. Metrics belong to the [`metrics::Metrics`] of one node, so many nodes live in one process
//! (simulation, embedded library) without sharing a counter; the one thing a process has once, its log subscriber, is
//! installed only where the command line asks. Rooms receive small cloneable handles and never see the registry.

pub mod logs;
pub mod metrics;
