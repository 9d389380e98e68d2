//! Histories of operations and the checkers that judge them. Pure: no clock, no I/O, no runtime, so the simulation,
//! `tests/checker.rs` and the harness for real processes share it.
//!
//! - [`history`]: who asked for what, when, and what came of it; [`export`] writes it as Jepsen's EDN and as JSON lines.
//! - [`wgl`]: linearizability of any [`wgl::Model`], with a budget of steps; [`register`] is the model of one document.
//! - [`set`]: what was acknowledged is there, what was deleted is not, nothing else ever is.
//! - [`recreate`]: of a table that was dropped and made again nothing old is ever shown.
//! - [`alias`]: an alias that is switched is never missing, names one table at a time, and never one it did before.
//! - [`bank`]: a batch in one shard is atomic and isolated; [`append`]: lists lose nothing and never fork;
//! - [`session`]: a session reads its writes wherever it goes.
//! - [`filter`]: what a filter lets pass; [`gap`]: what an answer may leave out that says it is partial.
//! - [`search`]: a search that starts after an acknowledgement finds what was acknowledged.
pub mod alias;
pub mod append;
pub mod bank;
pub mod export;
pub mod filter;
pub mod gap;
pub mod history;
pub mod recreate;
pub mod register;
pub mod search;
pub mod session;
pub mod set;
pub mod wgl;
