//! Operations on collections: create, list, look, delete.

use super::{
    CollectionInfo, CollectionStats, Service, ShardStats, VectorIndexInfo,
    fan_out::Gathered,
    figures::{ShardFigures, VectorFigures},
    payload_indexes,
    read::{Answer, Operation},
    status::node_name,
    whole::{Whole, are_whole, missing},
};
use crate::{
    cluster::{Candidate, Collection, NodeId, ShardId, placement::Standing},
    rt,
    types::{
        CollectionName, CollectionSpec, Error, ErrorKind, IndexType, Result, SlotRange, VectorName, VectorSpec,
        operation::{Consistency, OnUnavailable, ReadOptions},
    },
};
use std::collections::BTreeMap;

/// The figures of shards, of whichever replica answered, and which shards did not.
pub(super) struct Figures {
    by_shard: BTreeMap<ShardId, ShardFigures>,
    /// Of which slots each shard's are.
    slots: Vec<(ShardId, SlotRange)>,
    failed: Vec<(ShardId, Error)>,
}

impl Figures {
    /// Those of a collection's shards, in slot order.
    pub(super) fn of<'f>(&'f self, collection: &'f Collection) -> Vec<&'f ShardFigures> {
        collection.shards.iter().filter_map(|(shard, _)| self.by_shard.get(shard)).collect()
    }

    /// Whether each of a collection's points is counted once: no slots moved meanwhile.
    fn are_whole(&self, collection: &Collection) -> bool {
        let is_of = |shard: ShardId| collection.shards.iter().any(|(id, _)| *id == shard);
        let slots = self.slots.iter().filter(|(shard, _)| is_of(*shard)).map(|(_, slots)| *slots);
        are_whole(&slots.collect::<Vec<_>>(), &missing(collection, &self.failed))
    }

    /// The points of all of them.
    pub(super) fn points(&self) -> u64 {
        self.by_shard.values().map(|shard| shard.points).sum()
    }

    /// Which shards did not answer, in words.
    pub(super) fn silent(&self) -> Vec<String> {
        self.failed.iter().map(|(shard, error)| silent(*shard, error)).collect()
    }
}

impl Service {
    /// Creates a collection; when it is answered the collection survives power loss and takes writes. Goes on to its end
    /// even if the caller goes away.
    ///
    /// # Errors
    /// `table_exists`, `too_many_tables`, `too_many_shards_here`; `outcome_unknown`: also if it was made, and cannot be used here yet.
    pub async fn create_collection(&self, name: CollectionName, spec: CollectionSpec) -> Result<CollectionInfo> {
        let service = self.clone();
        to_its_end(rt::spawn("create-table", async move { service.create(name, spec).await })).await
    }

    async fn create(&self, name: CollectionName, spec: CollectionSpec) -> Result<CollectionInfo> {
        self.can_agree()?;
        let nodes = self.candidates()?;
        self.0.catalog.create(&name, spec, rt::time::wall().0, &nodes).await?;
        self.follow_catalog().await.map_err(afterwards)?;
        let collection = self.0.catalog.collection(&name).map_err(afterwards)?;
        let figures = self.first_figures(&collection).await.map_err(afterwards)?;
        tracing::info!(table = %name, shards = collection.shards.len(), "table created");
        Ok(self.info(&collection, &figures))
    }

    /// Refuses at once what the cluster cannot agree on now, rather than after the coordinator's time is over.
    ///
    /// # Errors
    /// `coordinator`, `Unavailable`: why it is not obeyed, or for how long it has not answered.
    pub(super) fn can_agree(&self) -> Result<()> {
        match (self.0.identity.alarm)() {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Unavailable, "coordinator", why)),
        }
    }

    /// The members that replicas may be placed on; those that this node is not connected to only where there are too few others.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let (others, this) = (self.0.others.nodes(), self.0.identity.node_id);
        let is_met = |id: NodeId| id == this || others.get(&id).is_some_and(|node| node.connected);
        let mut candidates = self.0.members.candidates()?;
        let away = candidates.iter_mut().filter(|node| node.standing == Standing::Active && !is_met(node.id));
        away.for_each(|node| node.standing = Standing::Away);
        Ok(candidates)
    }

    /// The figures of a new collection once every shard answers, or of those that do after a while: then its first requests wait.
    async fn first_figures(&self, collection: &Collection) -> Result<Figures> {
        let shards = collection.shard_ids();
        match self.figures_with(&ReadOptions::default(), &shards).await {
            Err(error) => {
                tracing::warn!(table = %collection.name, %error, "a shard of a new table does not answer yet");
                self.figures(&shards).await
            }
            all => all,
        }
    }

    /// Every collection, by name; those that the coordinator has now, if it answers, else those that are known here.
    pub async fn list_collections(&self) -> Result<Vec<CollectionInfo>> {
        if let Err(error) = self.refresh().await {
            tracing::debug!(%error, "tables are listed as they are known here");
        }
        let collections = self.0.catalog.collections();
        let shards: Vec<ShardId> = collections.values().flat_map(|collection| collection.shard_ids()).collect();
        let figures = self.figures(&shards).await?;
        let mut infos = Vec::with_capacity(collections.len());
        for collection in collections.values() {
            // The closed shards of one that is being deleted will not answer.
            if figures.are_whole(collection) || collection.deleting {
                infos.push(self.info(collection, &figures));
                continue;
            }
            match self.figures_of(&collection.name).await {
                Ok((collection, figures)) => infos.push(self.info(&collection, &figures)),
                // It was dropped meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(infos)
    }

    /// One collection.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn collection(&self, name: &CollectionName) -> Result<CollectionInfo> {
        let (collection, figures) = self.figures_of(name).await?;
        Ok(self.info(&collection, &figures))
    }

    /// Sizes and states of a collection and its shards. A shard that does not answer is left out, and a notice says so.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn stats(&self, name: &CollectionName) -> Result<CollectionStats> {
        let (collection, figures) = self.figures_of(name).await?;
        let shard = |(id, range): &(ShardId, SlotRange)| {
            let figures = figures.by_shard.get(id)?;
            Some(ShardStats {
                id: *id,
                slots: (range.first, range.end),
                points: figures.points,
                applied_index: figures.applied,
                role: match self.0.host.find(*id) {
                    Some(replica) if replica.is_leader() => "leader",
                    Some(_) => "follower",
                    None => "none",
                },
                leader: figures.leader.map(node_name),
                replicas: self.holders(*id).into_iter().map(node_name).collect(),
                memory_bytes: figures.memory_bytes,
                disk_bytes: figures.disk_bytes,
            })
        };
        let shards: Vec<ShardStats> = collection.shards.iter().filter_map(shard).collect();
        Ok(CollectionStats {
            info: self.info(&collection, &figures),
            memory_bytes: shards.iter().map(|shard| shard.memory_bytes).sum(),
            disk_bytes: shards.iter().map(|shard| shard.disk_bytes).sum(),
            shards,
        })
    }

    /// The figures of shards wherever they are, exact: what is summed over them counts every write acknowledged before. Shards that
    /// do not answer are told, each after all its holders were asked.
    pub(super) async fn figures(&self, shards: &[ShardId]) -> Result<Figures> {
        self.figures_as_of(Consistency::Linearizable, shards).await
    }

    /// The same as fresh as asked.
    pub(super) async fn figures_as_of(&self, consistency: Consistency, shards: &[ShardId]) -> Result<Figures> {
        self.figures_with(&partial(consistency), shards).await
    }

    /// A collection and the figures of its shards, all of one moment of its slots: each point is counted once. Shards that do not
    /// answer are told.
    ///
    /// # Errors
    /// `table_not_found`; `slots_moving`.
    async fn figures_of(&self, name: &CollectionName) -> Result<(Collection, Figures)> {
        let options = partial(Consistency::Linearizable);
        let begin = |collection: &Collection| Ok((collection.clone(), BTreeMap::new()));
        let take = |taken: &mut (Collection, BTreeMap<ShardId, ShardFigures>), shard, answer| {
            if let Answer::Figures(figures) = answer {
                taken.1.insert(shard, figures);
            }
        };
        let Whole { taken, gathered } = self.read_whole(name, Operation::Figures, &options, begin, take).await?;
        let Gathered { slots, failed, .. } = gathered;
        Ok((taken.0, Figures { by_shard: taken.1, slots, failed }))
    }

    async fn figures_with(&self, options: &ReadOptions, shards: &[ShardId]) -> Result<Figures> {
        let mut by_shard = BTreeMap::new();
        let take = |shard, answer| {
            if let Answer::Figures(figures) = answer {
                by_shard.insert(shard, figures);
            }
            Ok(())
        };
        let Gathered { slots, failed, .. } = self.fan_out(shards, Operation::Figures, options, take).await?;
        Ok(Figures { by_shard, slots, failed })
    }

    fn info(&self, collection: &Collection, figures: &Figures) -> CollectionInfo {
        info_of(collection, figures, self.copies(collection))
    }

    /// Copies that each shard of a collection shall have.
    fn copies(&self, collection: &Collection) -> u32 {
        let copies = collection.shards.iter().map(|(id, _)| self.0.catalog.replicas_of(*id).len() as u32);
        copies.min().unwrap_or(0)
    }
}

/// The answer of a task that must not be cut short by its caller going away.
pub(super) async fn to_its_end<T>(task: rt::Task<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|ended| Err(Error::internal(ended.to_string())))
}

/// An error that came after the catalog was changed: it must not read as if nothing had happened.
pub(super) fn afterwards(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Indeterminate | ErrorKind::Corrupt | ErrorKind::Internal => error,
        _ => {
            let message = format!("the change was made, but then: {error}");
            Error::new(ErrorKind::Indeterminate, "outcome_unknown", message)
        }
    }
}

fn info_of(collection: &Collection, figures: &Figures, replicas: u32) -> CollectionInfo {
    let shards = figures.of(collection);
    CollectionInfo {
        replicas,
        name: collection.name.clone(),
        spec: collection.spec.clone(),
        shards: collection.shards.len() as u32,
        points: shards.iter().map(|shard| shard.points).sum(),
        created_ms: collection.created_ms,
        indexes: collection.spec.vectors.iter().map(|(name, spec)| index_info(name, spec, &shards)).collect(),
        payload_indexes: payload_indexes::infos(collection, &shards),
        notices: notices(collection).into_iter().chain(not_counted(collection, figures)).collect(),
    }
}

/// As fresh as asked, without the shards that do not answer.
fn partial(consistency: Consistency) -> ReadOptions {
    ReadOptions { consistency, session: None, on_unavailable: OnUnavailable::Partial }
}

fn index_info(name: &VectorName, spec: &VectorSpec, shards: &[&ShardFigures]) -> VectorIndexInfo {
    let states: Vec<&VectorFigures> =
        shards.iter().flat_map(|shard| &shard.vectors).filter(|vector| vector.name == *name).collect();
    let sum = |part: fn(&VectorFigures) -> u64| states.iter().map(|state| part(state)).sum();
    let trained = states.iter().any(|state| state.trained);
    let training = shards.iter().any(|shard| shard.training);
    VectorIndexInfo {
        vector: name.clone(),
        spec: *spec,
        served_by: if trained { spec.index.served_by() } else { IndexType::Flat },
        state: match (training, trained) {
            (true, _) => "training",
            (false, true) => "ready",
            (false, false) => "exact",
        },
        rows: sum(|state| state.rows),
        tail_rows: sum(|state| state.tail_rows),
        dead_rows: sum(|state| state.dead_rows),
        lists: sum(|state| state.lists),
        memory_bytes: sum(|state| state.memory_bytes),
    }
}

/// Shards whose points are not in the figures.
fn not_counted(collection: &Collection, figures: &Figures) -> Vec<String> {
    let failed = figures.failed.iter().filter(|(shard, _)| collection.shards.iter().any(|(id, _)| id == shard));
    failed.map(|(shard, error)| silent(*shard, error)).collect()
}

fn silent(shard: ShardId, error: &Error) -> String {
    format!("shard {shard} did not answer and is not counted: {error}")
}

/// What is served otherwise than it was asked for, and what becomes of it.
fn notices(collection: &Collection) -> Vec<String> {
    let asked = collection.spec.vectors.values().any(|vector| vector.index == IndexType::Hnsw);
    let graph = "index_type hnsw is served by ivf_pq, which needs no graph and answers the same searches";
    let end = "it is being deleted, as soon as every shard has a leader";
    [(asked, graph), (collection.deleting, end)]
        .iter()
        .filter(|(is_so, _)| *is_so)
        .map(|(_, text)| (*text).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_change_no_error_says_that_nothing_happened() {
        for kind in ErrorKind::ALL {
            let told = afterwards(Error::new(kind, "why", "of all reasons")).kind();
            let says_nothing_of_it = [ErrorKind::Indeterminate, ErrorKind::Corrupt, ErrorKind::Internal];
            assert!(says_nothing_of_it.contains(&told), "{kind:?} is told as {told:?}");
        }
    }
}
