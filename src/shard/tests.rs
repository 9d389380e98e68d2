//! The promises of a shard's state machine on a real store: equal logs give equal states, however they are cut into rounds
//! and wherever a checkpoint comes between; a request takes effect once; a torn install leaves nothing.

mod astray;
mod checkpoints;
mod equal;
mod live;
mod requests;
mod rig;
mod transfer;
mod verify;

pub use rig::upserts;
