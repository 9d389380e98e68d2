//! The requests a shard remembers, so that each takes effect once: as many of the latest as `limits::REQUEST_IDS_MAX`,
//! refusals too, since a retry must not get another answer than the first try. Recorded with the effects of the command, in
//! one batch; forgotten oldest first, by sequence number, so that every replica forgets the same at the same log index.
//!
//! A request is remembered for the slots in which all it asks for is done, since slots move between shards and a retry may be cut
//! otherwise than the first try: what is done is not done again, and what is not done is not taken for done. Where slots have moved
//! in between, the count in the answer to a repeated delete of several points may be greater than the first time. Called by `round`.

use super::{
    border::add_range,
    content::{self, ContentHash},
    outcome::Outcome,
    records::{Changes, Records, View},
};
use crate::{
    store::keys::request::RequestRecord,
    types::{PointId, RequestId, Result, SlotRange, slot_of},
};
use std::collections::BTreeMap;

/// What a request that is remembered led to.
pub struct First {
    sequence: u64,
    log_index: u64,
    /// In which slots it is done, in order.
    covers: Vec<SlotRange>,
    pub outcome: Outcome,
    /// Of its record.
    hash: u64,
}

impl First {
    /// Whether it is done for a point.
    pub fn covers(&self, id: PointId) -> bool {
        let slot = slot_of(id);
        self.covers.iter().any(|range| range.contains(slot))
    }

    /// Whether it is done in all of these slots.
    pub fn covers_all(&self, slots: SlotRange) -> bool {
        slots.is_empty() || self.covers.iter().any(|range| range.covers(slots))
    }
}

/// What a round adds to the requests of its view, and forgets of them.
pub struct Requests {
    /// How many are remembered.
    bound: u64,
    /// Requests ever recorded.
    recorded: u64,
    /// Their records, or nothing for those forgotten.
    overlay: BTreeMap<RequestId, Option<Vec<u8>>>,
    /// Sequence numbers of this round, and those it forgot.
    order: BTreeMap<u64, Option<RequestId>>,
    /// The least sequence number under which more is remembered now, since that was last asked.
    renewed: Option<u64>,
}

impl Requests {
    /// Nothing changed yet; so many were ever recorded before.
    pub fn new(recorded: u64, bound: u64) -> Requests {
        Requests { bound, recorded, overlay: BTreeMap::new(), order: BTreeMap::new(), renewed: None }
    }

    /// Requests ever recorded.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// The first request of those under which more is remembered since this was last asked: whoever was told of it has to be told again.
    pub fn take_renewed(&mut self) -> Option<u64> {
        self.renewed.take()
    }

    /// What the request led to so far, if it is remembered, in a shard that had the slots `born` at first.
    pub fn first(&self, view: &View, id: RequestId, born: SlotRange) -> Result<Option<First>> {
        let Some(record) = self.record_of(view, id)? else { return Ok(None) };
        let RequestRecord { sequence, log_index, covers, outcome } =
            RequestRecord::decode(&record).map_err(Records::corrupt)?;
        let covers = if covers.is_empty() { vec![born] } else { covers };
        Ok(Some(First {
            sequence,
            log_index,
            covers,
            outcome: Outcome::decode(outcome)?,
            hash: content::of_request(id, &record)?,
        }))
    }

    /// Remembers what the command at `log_index`, the first of the request, led to in the slots of `covers` (none: those the shard
    /// had at first), and forgets the oldest if there are then too many.
    pub fn record(
        &mut self,
        view: &View,
        hash: &mut ContentHash,
        id: RequestId,
        log_index: u64,
        covers: Vec<SlotRange>,
        outcome: &Outcome,
    ) -> Result<()> {
        self.recorded += 1;
        let outcome = outcome.encode();
        let record = RequestRecord { sequence: self.recorded, log_index, covers, outcome: &outcome }.encode();
        hash.add(content::of_request(id, &record)?);
        self.overlay.insert(id, Some(record));
        self.order.insert(self.recorded, Some(id));
        match self.recorded.checked_sub(self.bound) {
            None | Some(0) => Ok(()),
            Some(oldest) => self.forget(view, hash, oldest),
        }
    }

    /// Remembers of a request that is remembered already that it is done in the slots of `covers`, too, and what came of it there.
    pub fn extend(
        &mut self,
        hash: &mut ContentHash,
        id: RequestId,
        first: First,
        covers: &[SlotRange],
        outcome: &Outcome,
    ) -> Result<Outcome> {
        let together = first.outcome.with(outcome);
        self.replace(hash, id, &first, covers, &together)?;
        Ok(together)
    }

    /// Remembers of a request that is remembered already what another shard remembers of it: all that came of it in the slots of
    /// `covers`. What both know is told once, as far as one knows all that the other does.
    pub fn unite(
        &mut self,
        hash: &mut ContentHash,
        id: RequestId,
        first: &First,
        covers: &[SlotRange],
        outcome: &Outcome,
    ) -> Result<()> {
        let are_in = |ranges: &[SlotRange], others: &[SlotRange]| {
            ranges.iter().all(|range| others.iter().any(|other| other.covers(*range)))
        };
        if are_in(covers, &first.covers) {
            return Ok(());
        }
        let together = if are_in(&first.covers, covers) { outcome.clone() } else { first.outcome.with(outcome) };
        self.replace(hash, id, first, covers, &together)
    }

    fn replace(
        &mut self,
        hash: &mut ContentHash,
        id: RequestId,
        first: &First,
        covers: &[SlotRange],
        outcome: &Outcome,
    ) -> Result<()> {
        let (sequence, log_index, mut all) = (first.sequence, first.log_index, first.covers.clone());
        covers.iter().for_each(|range| add_range(&mut all, *range));
        let record = RequestRecord { sequence, log_index, covers: all, outcome: &outcome.encode() }.encode();
        hash.remove(first.hash);
        hash.add(content::of_request(id, &record)?);
        self.overlay.insert(id, Some(record));
        self.renewed = Some(self.renewed.map_or(sequence, |before| before.min(sequence)));
        Ok(())
    }

    /// The records of the requests behind sequence number `after` that are remembered, in the order they came. Cost: reading them.
    pub fn behind(&self, view: &View, after: u64) -> Result<Vec<(RequestId, Vec<u8>)>> {
        let first = after.max(self.recorded.saturating_sub(self.bound)) + 1;
        let mut found = Vec::new();
        for sequence in first..=self.recorded {
            found.push(self.at(view, sequence)?);
        }
        Ok(found)
    }

    fn forget(&mut self, view: &View, hash: &mut ContentHash, sequence: u64) -> Result<()> {
        let (id, record) = self.at(view, sequence)?;
        hash.remove(content::of_request(id, &record)?);
        self.overlay.insert(id, None);
        self.order.insert(sequence, None);
        Ok(())
    }

    /// The request with this sequence number, which is remembered, and its record.
    fn at(&self, view: &View, sequence: u64) -> Result<(RequestId, Vec<u8>)> {
        let id = match self.order.get(&sequence) {
            Some(id) => *id,
            None => view.request_at(sequence)?,
        };
        let lost = || Records::corrupt(format!("request {sequence} is not there"));
        let id = id.ok_or_else(lost)?;
        Ok((id, self.record_of(view, id)?.ok_or_else(lost)?))
    }

    fn record_of(&self, view: &View, id: RequestId) -> Result<Option<Vec<u8>>> {
        match self.overlay.get(&id) {
            Some(record) => Ok(record.clone()),
            None => Ok(view.request(id)?.map(|record| record.to_vec())),
        }
    }

    /// Writes all of it.
    pub fn put(&self, changes: &mut Changes<'_>) {
        for (id, record) in &self.overlay {
            match record {
                Some(record) => changes.put_request(*id, record),
                None => changes.remove_request(*id),
            }
        }
        for (sequence, id) in &self.order {
            match id {
                Some(id) => changes.put_request_at(*sequence, *id),
                None => changes.remove_request_at(*sequence),
            }
        }
    }
}
