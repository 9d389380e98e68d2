//! The seam between VectorSphere and the machine: every task, clock, random number, thread, socket and signal of the
//! server comes from here, and nowhere else. In an ordinary build it is tokio and the operating system; in a simulated
//! build (`--cfg madsim`) the same functions run on one thread, under a clock and a network that the simulation owns.
//!
//! It promises that the code above never needs to know which of the two it runs in: `cfg(madsim)` appears only in this
//! room, and only in `task`, `time`, `rng`, `compute`, `net`, `signal`, `stdin`, `runtime`, `sim` and this file. HTTP and gRPC are one code
//! path in both builds, so the servers that the simulation breaks are the servers that ship.
//!
//! Called by every other room.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the one place that may

pub mod compute;
pub mod cpu;
pub mod cuts;
pub mod http;
pub mod net;
pub mod rng;
pub mod rpc;
mod runtime;
pub mod shutdown;
pub mod signal;
#[cfg(madsim)]
pub mod sim;
pub mod stdin;
mod task;
pub mod time;

pub use runtime::{Runtime, block_on};
pub use shutdown::Shutdown;
pub use task::{Task, TaskFailed, spawn, yield_now};

use std::ops::RangeInclusive;

/// Whether this build runs inside the simulation. For logging and for sizing only: behaviour must not depend on it.
pub const SIMULATED: bool = cfg!(madsim);

/// Notes that something rare happened. A simulation counts it, to show what its runs have covered; else nothing.
pub fn mark(name: &'static str) {
    #[cfg(madsim)]
    sim::mark(name);
    #[cfg(not(madsim))]
    let _ = name;
}

/// The versions of the cluster's protocols that this process speaks: the program's `own`, unless a simulation lets it pass for another
/// program.
pub fn protocol_versions(own: RangeInclusive<u32>) -> RangeInclusive<u32> {
    #[cfg(madsim)]
    let own = sim::versions_of(madsim::plugin::node()).unwrap_or(own);
    own
}

/// A boxed error that may cross threads, the currency of the tower services this room serves and calls.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
