//! Reads of a whole collection, and of one point, while slots move between its shards. Every shard's answer says of which slots it
//! is; answers are taken only if together they are of every slot exactly once, so that no point is missing and none is there twice.
//! Else slots moved meanwhile: all shards are asked again, by the newest table, within the request's deadline. Called by the
//! operations that read.

use super::{
    Service,
    fan_out::Gathered,
    read::{Answer, Operation},
};
use crate::{
    cluster::{Collection, ShardId, ShardTable},
    mutants::mutant,
    rt::{
        self,
        time::{self, Instant},
    },
    shard::add_range,
    types::{
        CollectionName, DocumentId, Error, ErrorKind, Result, Session, SlotRange, StoredPoint,
        operation::{Consistency, OnUnavailable, ReadOptions},
    },
};
use std::time::Duration;

/// Between two tries: doubled from the first to the last. A step takes one command of a shard's log.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// What shards answered, all of one moment of the slots.
pub struct Whole<T> {
    pub taken: T,
    pub gathered: Gathered,
}

impl Service {
    /// Reads all shards of a collection; `begin` makes what `take` adds their answers to, anew for every try. An alias is looked up anew
    /// for every try, too, so `begin` also checks the request: the answer is wholly one collection's.
    ///
    /// # Errors
    /// `table_not_found`; those of `begin` and of [`Service::fan_out`]; `slots_moving` if until the deadline the answers did not fit each other.
    pub(super) async fn read_whole<T>(
        &self,
        name: &CollectionName,
        operation: Operation,
        options: &ReadOptions,
        begin: impl Fn(&Collection) -> Result<T>,
        take: impl Fn(&mut T, ShardId, Answer),
    ) -> Result<Whole<T>> {
        let mut tries = Tries::new(self.deadline(time::now()));
        loop {
            let collection = self.find(name).await?;
            let mut taken = begin(&collection)?;
            let add = |shard, answer| {
                take(&mut taken, shard, answer);
                Ok(())
            };
            let asked = self.0.owners.to_ask(&collection);
            let options = self.over_moves(&collection, options);
            let answers = self.fan_out(&asked, operation.clone(), &options, add).await;
            answers.iter().for_each(|gathered| self.0.owners.saw(&collection, &gathered.slots));
            let slots = |gathered: &Gathered| gathered.slots.iter().map(|(_, slots)| *slots).collect::<Vec<_>>();
            let error = match answers {
                // Mutant 39: answers of different moments are taken.
                Ok(mut gathered)
                    if mutant!(39) || are_whole(&slots(&gathered), &missing(&collection, &gathered.failed)) =>
                {
                    gathered.session.knew_table(collection.table_epoch);
                    return Ok(Whole { taken, gathered });
                }
                Ok(_) => {
                    Error::new(ErrorKind::Unavailable, "slots_moving", "slots moved between the answers of shards")
                }
                Err(error) if is_about_slots(&error) => error,
                Err(error) => return Err(error),
            };
            rt::mark("a read asked all shards again because slots had moved");
            tries.wait(error).await?;
            self.look_again().await;
        }
    }

    /// Reads one point where it is.
    ///
    /// # Errors
    /// `table_not_found`, `document_not_found`; those of [`Service::fan_out`]; `shard_moved` if until the deadline its slot was on its
    /// way.
    pub(super) async fn read_point(
        &self,
        name: &CollectionName,
        id: &DocumentId,
        options: &ReadOptions,
        route: impl Fn(&Collection) -> ShardId,
    ) -> Result<(StoredPoint, Gathered)> {
        // There is no part of one point.
        let options = ReadOptions { on_unavailable: OnUnavailable::Fail, ..options.clone() };
        let mut tries = Tries::new(self.deadline(time::now()));
        loop {
            let collection = self.find(name).await?;
            let shard = route(&collection);
            let options = self.over_moves(&collection, &options);
            let mut found = None;
            let take = |_, answer| {
                if let Answer::Point(point) = answer {
                    found = Some(point);
                }
                Ok(())
            };
            match self.fan_out(&[shard], Operation::Get(id.clone()), &options, take).await {
                Ok(mut gathered) => {
                    let point = found.ok_or_else(|| Error::internal("a read has another answer than a point"))?;
                    gathered.session.knew_table(collection.table_epoch);
                    return Ok((point, gathered));
                }
                Err(error) if is_about_slots(&error) => {
                    self.0.owners.learn(&collection, shard, &error);
                    tries.wait(error).await?;
                }
                Err(error) => return Err(error),
            }
            self.look_again().await;
        }
    }

    /// How a read is done while slots move: what a session has seen of the shard that got them says nothing of how far a replica of the
    /// one that gave them must be, so such a read is as fresh as any can be. Likewise where the session may know of moves that this node
    /// has not heard of, or has seen a shard that is no more.
    fn over_moves(&self, collection: &Collection, options: &ReadOptions) -> ReadOptions {
        let knows_more = |session: &Session| knows_of_moves(session, collection, &self.0.catalog.table());
        let moves = !collection.giving.is_empty() || options.session.as_ref().is_some_and(knows_more);
        match options.consistency {
            Consistency::Session if moves => ReadOptions { consistency: Consistency::Linearizable, ..options.clone() },
            _ => options.clone(),
        }
    }

    /// Hears of the newest table, if the coordinator answers.
    pub(super) async fn look_again(&self) {
        if let Err(error) = self.refresh().await {
            tracing::debug!(%error, "slots have moved, and the newest shard table is not to be had");
        }
    }
}

/// Whether slots may have moved between what a session has seen and the collection as it is known here: the session knew a newer shard
/// table, or has seen a shard that is none of the collection's, unless the newest table says that it is another's.
fn knows_of_moves(session: &Session, collection: &Collection, table: &ShardTable) -> bool {
    let is_known = |shard: ShardId| collection.shards.iter().any(|(id, _)| *id == shard);
    let is_anothers = |shard| table.shards.get(&shard).is_some_and(|entry| entry.collection != collection.name);
    session.table_epoch() > collection.table_epoch
        || session.shards().any(|shard| !is_known(shard) && !is_anothers(shard))
}

/// Pauses between tries, until the deadline.
pub(super) struct Tries {
    deadline: Instant,
    pause: Duration,
}

impl Tries {
    pub(super) fn new(deadline: Instant) -> Tries {
        Tries { deadline, pause: PAUSE_FIRST }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// Why the last one failed, if there is no time for another.
    pub(super) async fn wait(&mut self, failed: Error) -> Result<()> {
        if time::now() + self.pause >= self.deadline {
            return Err(failed);
        }
        time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Whether somebody was asked for slots that are, or are on their way, elsewhere: nothing happened.
pub(super) fn is_about_slots(error: &Error) -> bool {
    matches!(error.code(), "shard_moved" | "shard_moving")
}

/// The slots that shards which did not answer own or may own.
pub(super) fn missing(collection: &Collection, failed: &[(ShardId, Error)]) -> Vec<SlotRange> {
    let is_failed = |shard: ShardId| failed.iter().any(|(one, _)| *one == shard);
    let owned = collection.shards.iter().filter(|(shard, _)| is_failed(*shard)).map(|(_, slots)| *slots);
    let moving = collection.giving.iter().filter(|giving| is_failed(giving.from) || is_failed(giving.to));
    owned.chain(moving.map(|giving| giving.slots)).collect()
}

/// Whether these are all slots, each once, but for those that are `missing`.
pub(super) fn are_whole(slots: &[SlotRange], missing: &[SlotRange]) -> bool {
    let mut ranges: Vec<SlotRange> = slots.iter().copied().filter(|range| !range.is_empty()).collect();
    ranges.sort_unstable();
    let are_apart = ranges.windows(2).all(|pair| pair[0].end <= pair[1].first);
    let mut all = Vec::with_capacity(ranges.len());
    ranges.iter().chain(missing).for_each(|range| add_range(&mut all, *range));
    are_apart && all == [SlotRange::ALL]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CollectionSpec, IndexType, Metric, VectorSpec};

    /// Found by reading: a point that had come back with a merge was looked for at a replica that had not even heard of its leaving.
    #[test]
    fn who_has_seen_what_is_no_more_is_not_told_less() {
        let name = |name| CollectionName::new(name).unwrap();
        let mut table = ShardTable::default();
        assert_eq!(table.add_collection(&name("t"), None, &[vec![1]]), [1]);
        assert_eq!(table.add_collection(&name("u"), None, &[vec![1]]), [2]);
        let collection = Collection {
            name: name("t"),
            spec: CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).unwrap()),
            created_ms: 0,
            shards: vec![(1, SlotRange::ALL)],
            giving: Vec::new(),
            deleting: false,
            table_epoch: 7,
        };
        let knows = |session: &Session| knows_of_moves(session, &collection, &table);
        let mut session = Session::of(1, 5);
        assert!(!knows(&Session::default()) && !knows(&session));
        assert!(!knows(&Session::of(2, 5)), "another table's");
        assert!(knows(&Session::of(3, 5)), "it was split off, and merged again");
        session.knew_table(7);
        assert!(!knows(&session));
        session.knew_table(8);
        assert!(knows(&session), "this node has not heard of a move");
        let behind = Collection { name: name("u"), ..collection.clone() };
        assert!(
            knows_of_moves(&Session::of(2, 5), &behind, &table),
            "the newest table gives it a shard that is not shown yet"
        );
    }

    #[test]
    fn answers_are_whole_if_they_are_of_every_slot_once() {
        let range = |first, end| SlotRange { first, end };
        let end = SlotRange::ALL.end;
        for whole in [vec![range(0, end)], vec![range(9, end), SlotRange::NONE, range(0, 9)]] {
            assert!(are_whole(&whole, &[]) && are_whole(&whole, &[range(3, 8)]), "{whole:?}");
        }
        for gap in [vec![], vec![range(0, 9)], vec![range(9, end)], vec![range(0, 9), range(10, end)]] {
            assert!(!are_whole(&gap, &[]) && are_whole(&gap, &[SlotRange::ALL]), "{gap:?}");
        }
        for twice in [vec![range(0, end), range(0, 9)], vec![range(0, 10), range(9, end)]] {
            assert!(!are_whole(&twice, &[]) && !are_whole(&twice, &[SlotRange::ALL]), "{twice:?}");
        }
        assert!(are_whole(&[range(0, 9), range(20, end)], &[range(5, 12), range(12, 20)]));
        assert!(!are_whole(&[range(0, 9), range(20, end)], &[range(5, 19)]), "what nobody failed with is not missing");
    }
}
