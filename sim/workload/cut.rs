//! How the table of a run is cut into shards, as the nodes tell it: which documents a shard's name stands for in an answer that says
//! this shard is missing. Used by the workloads that ask for partial answers.
use super::{Client, Failure};
use crate::{
    check::gap::{self, Gap, Slots},
    plan::Plan,
};
use std::{collections::BTreeMap, sync::OnceLock};

/// See the module.
#[derive(Default)]
pub struct Cut {
    /// Slots go from shard to shard: what one has at a moment is not known.
    moves: bool,
    shards: OnceLock<BTreeMap<u64, Slots>>,
}

impl Cut {
    pub fn of(plan: &Plan) -> Cut {
        Cut { moves: plan.splits(), shards: OnceLock::new() }
    }

    /// Asks which slots each shard has.
    pub async fn ask(&self, client: &Client) -> Result<(), Failure> {
        let shards = client.shards().await?;
        // A second answer would be the same.
        let _first = self.shards.set(shards);
        Ok(())
    }

    /// What is missing where these shards are.
    ///
    /// # Panics
    /// If the table has no such shard.
    pub fn gap(&self, failed: &[u64]) -> Gap {
        if self.moves {
            return Gap::of(vec![gap::ALL]);
        }
        let shards = self.shards.get().expect("it was asked before the clients begin");
        let slots = |shard: &u64| *shards.get(shard).unwrap_or_else(|| panic!("there is no shard {shard}: {shards:?}"));
        Gap::of(failed.iter().map(slots).collect())
    }
}
