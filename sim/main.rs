//! The simulation: the whole node, its REST and gRPC faces and real fjall, in one thread under a simulated clock,
//! network and disk, with every failure and every choice drawn from one seed. See sim/README.md.
//!
//! One test target, two programs. In an ordinary build this is the [`launcher`], which builds the target again with
//! `--cfg madsim`; in that build it is the [`runner`], which runs one process for each scenario and seed.

// The runner stands outside the simulation, and the simulated disk beneath it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#[cfg(madsim)]
mod check;
#[cfg(madsim)]
mod disk;
#[cfg(madsim)]
mod etcd;
#[cfg(madsim)]
mod faults;
#[cfg(not(madsim))]
mod launcher;
#[cfg(madsim)]
mod plan;
#[cfg(madsim)]
mod runner;
#[cfg(madsim)]
mod scenarios;
#[cfg(madsim)]
mod workload;
#[cfg(madsim)]
mod world;

fn main() {
    #[cfg(not(madsim))]
    launcher::main();
    #[cfg(madsim)]
    runner::main();
}
