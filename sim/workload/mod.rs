//! Workloads: clients that carry out their part of the plan over the node's real faces and write down what came of it.
//!
//! [`client`] speaks to the node over [`rest`] and [`grpc`]; [`register`], [`set`] and [`search`] turn actions of the
//! plan into calls and answers of their checkers; [`drive`] runs one client.
pub mod client;
pub mod drive;
mod grpc;
pub mod register;
mod rest;
pub mod search;
pub mod set;
pub mod vectors;

use crate::{
    check::{export::Describe, history::History},
    plan::Action,
};
pub use client::{Client, Failure};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// What the clients of a run know together.
#[derive(Default)]
pub struct Memory {
    /// The last version seen of each point.
    pub versions: BTreeMap<u64, u64>,
    /// The value last put (or tried) at each point.
    pub values: BTreeMap<u64, u64>,
}

/// A kind of history: how it is made and how it is judged.
pub trait Workload: Send + Sync + 'static {
    type Call: Describe<Answer = Self::Answer> + Clone + std::fmt::Debug + Send + Sync;
    type Answer: std::fmt::Debug + Send + Sync;

    /// The call an action means now; `None` if it means nothing (a search before anything was put).
    fn call(&self, action: Action, memory: &mut Memory) -> Option<Self::Call>;

    /// Carries it out and notes in `memory` what was learnt.
    fn perform(
        &self,
        client: &Client,
        call: &Self::Call,
        memory: &Mutex<Memory>,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// Whether the call changes anything; a read that fails certainly had no effect.
    fn writes(&self, call: &Self::Call) -> bool;

    /// The reads that a run ends with, when all is well again.
    fn closing(&self, memory: &Memory) -> Vec<Action>;

    /// Judges the history; `Err` is text for people.
    fn check(&self, history: &History<Self::Call, Self::Answer>) -> Result<(), String>;
}

/// A history that several clients write.
pub type Shared<W> = Arc<Mutex<History<<W as Workload>::Call, <W as Workload>::Answer>>>;
