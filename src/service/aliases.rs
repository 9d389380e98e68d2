//! Operations on aliases: change several at once, and list them. A change is answered once every member of the cluster serves requests
//! by it, or with the names of those that could not be heard of: whoever asks any other node from then on sees no older one. Called
//! by `api`.

use super::{
    Service,
    collections::{afterwards, to_its_end},
    status::node_name,
};
use crate::{
    cluster::NodeId,
    mutants::mutant,
    rt::{self, time},
    types::{AliasChange, CollectionName, Error, Result, limits},
};
use std::{collections::BTreeSet, time::Duration};

/// How long the other nodes may take to hear of a change before it is answered without them, and how often they are asked.
const HEAR_LIMIT: Duration = Duration::from_secs(2);
const ASK_INTERVAL: Duration = Duration::from_millis(5);

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasInfo {
    pub alias: CollectionName,
    /// What it names.
    pub table: CollectionName,
}

/// What came of changes of aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasesChanged {
    /// Aliases that are otherwise than before.
    pub changed: usize,
    /// Nodes that may serve requests by the aliases before, until they hear of the change: they did not say that they have.
    pub behind: Vec<String>,
}

impl Service {
    /// Makes changes of aliases, in their order, all or none, in one step. Goes on to its end even if the caller goes away.
    ///
    /// # Errors
    /// Nothing was changed: `no_changes`, `too_many_changes`, and those of [`Catalog::change_aliases`], with the place in the request.
    /// `outcome_unknown`.
    ///
    /// [`Catalog::change_aliases`]: crate::cluster::Catalog::change_aliases
    pub async fn change_aliases(&self, changes: Vec<AliasChange>) -> Result<AliasesChanged> {
        if changes.is_empty() {
            return Err(Error::invalid("no_changes", "the request has no changes").at("changes").expected("1 or more"));
        }
        if changes.len() > limits::ALIAS_CHANGES_MAX {
            return Err(Error::invalid("too_many_changes", "the request has too many changes")
                .at("changes")
                .expected(format!("at most {}", limits::ALIAS_CHANGES_MAX))
                .got(changes.len()));
        }
        let service = self.clone();
        to_its_end(rt::spawn("change-aliases", async move { service.change_aliases_now(&changes).await })).await
    }

    async fn change_aliases_now(&self, changes: &[AliasChange]) -> Result<AliasesChanged> {
        self.can_agree()?;
        let is_alone = self.0.admin.get().is_none();
        let changed = self.0.catalog.change_aliases(changes, is_alone).await?;
        self.follow_catalog().await.map_err(afterwards)?;
        // Mutant 42: it is answered before the other nodes have heard of it.
        let behind =
            if mutant!(42) { BTreeSet::new() } else { self.wait_heard(changed.epoch).await.map_err(afterwards)? };
        let behind: Vec<String> = behind.into_iter().map(node_name).collect();
        tracing::info!(changes = ?changes, changed = changed.count, epoch = changed.epoch, ?behind, "aliases changed");
        Ok(AliasesChanged { changed: changed.count, behind })
    }

    /// Waits until every other member serves requests by the aliases of `epoch` or newer ones; those that did not say so in time.
    async fn wait_heard(&self, epoch: u64) -> Result<BTreeSet<NodeId>> {
        let mut behind = self.0.catalog.recorded_members()?;
        // Founders write their records when they come to it.
        behind.extend(self.0.members.node_ids()?);
        behind.retain(|node| *node != self.0.identity.node_id && !self.0.members.is_removed(*node));
        let deadline = time::now() + HEAR_LIMIT;
        loop {
            let ask = async |node: NodeId| Some((node, self.0.others.aliases_epoch(node).await.ok()?));
            let told = futures_util::future::join_all(behind.iter().copied().map(ask)).await;
            for (node, known) in told.into_iter().flatten() {
                if known >= epoch {
                    behind.remove(&node);
                }
            }
            if behind.is_empty() || time::now() >= deadline {
                return Ok(behind);
            }
            time::sleep(ASK_INTERVAL).await;
        }
    }

    /// The epoch of the aliases by which this node serves requests. Cost: one atomic load.
    pub fn aliases_epoch(&self) -> u64 {
        self.0.catalog.aliases().epoch()
    }

    /// Every alias, by name; those that the coordinator has now, if it answers, else those that are known here.
    pub async fn aliases(&self) -> Vec<AliasInfo> {
        if let Err(error) = self.refresh().await {
            tracing::debug!(%error, "aliases are listed as they are known here");
        }
        let all = self.0.catalog.aliases();
        all.iter().map(|(alias, table)| AliasInfo { alias: alias.clone(), table: table.clone() }).collect()
    }

    /// The aliases of a collection, which may be named by one of them.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn aliases_of(&self, name: &CollectionName) -> Result<Vec<AliasInfo>> {
        let mut all = self.aliases().await;
        let collection = self.find(name).await?;
        all.retain(|info| info.table == collection.name);
        Ok(all)
    }
}
