//! Workloads: clients that carry out their part of the plan over the nodes' real faces and write down what came of it.
//!
//! [`client`] speaks to the nodes over [`rest`] and [`grpc`], [`answer`] says what an answer means; [`register`], [`set`], [`search`], [`bank`], [`append`], [`recreate`], [`alias`]
//! and [`session`] turn actions of the plan into calls and answers of their checkers; [`cut`] knows which
//! documents a shard that is missing has; [`drive`] runs one client.
pub mod alias;
pub mod answer;
pub mod append;
pub mod bank;
pub mod client;
mod cut;
pub mod drive;
mod filter;
mod grpc;
pub mod recreate;
pub mod register;
mod rest;
pub mod search;
pub mod session;
pub mod set;
pub mod vectors;

use crate::{
    check::{export::Describe, history::History},
    plan::{Action, Plan},
};
pub use answer::Failure;
pub use client::{Client, Found, Freshness, Put, Service};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// The table of a run.
pub const TABLE: &str = "things";

/// What the clients of a run know together.
#[derive(Default)]
pub struct Memory {
    /// The last version seen of each point.
    pub versions: BTreeMap<u64, u64>,
    /// The value last put (or tried) at each point.
    pub values: BTreeMap<u64, u64>,
    /// Request ids given out.
    pub requests: u64,
    /// Switches of aliases begun.
    pub switches: u64,
    /// Writes of documents that were settled, with their request ids.
    pub settled: Vec<(String, crate::check::register::Call, crate::check::register::Answer)>,
}

/// A kind of history: how it is made and how it is judged.
pub trait Workload: Send + Sync + 'static {
    type Call: Describe<Answer = Self::Answer> + Clone + std::fmt::Debug + Send + Sync;
    type Answer: std::fmt::Debug + Send + Sync;

    /// Hears of the plan before anything is begun: what holds of an answer may depend on it.
    fn learn(&mut self, plan: &Plan) {
        let _ = plan;
    }

    /// What must be there before the clients begin; sent again until it is acknowledged.
    fn preparation(&self) -> Vec<Put> {
        Vec::new()
    }

    /// What else must be there, beside the table; called again until it succeeds.
    fn prepare(&self, client: &Client) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = client;
        std::future::ready(Ok(()))
    }

    /// The call an action of client `client` means now; `None` if it means nothing (a search before anything was put).
    fn call(&self, action: Action, client: u64, memory: &mut Memory) -> Option<Self::Call>;

    /// Carries it out and notes in `memory` what was learnt.
    fn perform(
        &self,
        client: &Client,
        call: &Self::Call,
        memory: &Mutex<Memory>,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// Whether the call changes anything; a read that fails certainly had no effect.
    fn writes(&self, call: &Self::Call) -> bool;

    /// What somebody asks of a leader that is cut off from the other nodes, the `number`th time; mostly nothing.
    fn of_the_hunted(&self, number: u64) -> Option<Action> {
        let _ = number;
        None
    }

    /// The reads that a run ends with, when all is well again.
    fn closing(&self, memory: &Memory) -> Vec<Action>;

    /// Judges the history; `Err` is text for people.
    fn check(&self, history: &History<Self::Call, Self::Answer>) -> Result<(), String>;
}

/// A run that several clients work on.
pub type Shared<W> = Arc<drive::Run<W>>;
