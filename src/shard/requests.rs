//! The requests a shard remembers, so that each takes effect once: as many of the latest as `limits::REQUEST_IDS_MAX`,
//! refusals too, since a retry must not get another answer than the first try. Recorded with the effects of the command, in
//! one batch; forgotten oldest first, by sequence number, so that every replica forgets the same at the same log index.
//! Called by `round`.

use super::{
    content::{self, ContentHash},
    outcome::Outcome,
    records::{Changes, Records, View},
};
use crate::{
    store::keys::request::RequestRecord,
    types::{RequestId, Result},
};
use std::collections::BTreeMap;

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
}

impl Requests {
    /// Nothing changed yet; so many were ever recorded before.
    pub fn new(recorded: u64, bound: u64) -> Requests {
        Requests { bound, recorded, overlay: BTreeMap::new(), order: BTreeMap::new() }
    }

    /// Requests ever recorded.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// What the request led to the first time, if it is remembered.
    pub fn outcome(&self, view: &View, id: RequestId) -> Result<Option<Outcome>> {
        let Some(record) = self.record_of(view, id)? else { return Ok(None) };
        let record = RequestRecord::decode(&record).map_err(Records::corrupt)?;
        Outcome::decode(record.outcome).map(Some)
    }

    /// Remembers what the command at `log_index`, the first of the request, led to, and forgets the oldest if there are
    /// then too many.
    pub fn record(
        &mut self,
        view: &View,
        hash: &mut ContentHash,
        id: RequestId,
        log_index: u64,
        outcome: &Outcome,
    ) -> Result<()> {
        self.recorded += 1;
        let record = RequestRecord { sequence: self.recorded, log_index, outcome: &outcome.encode() }.encode();
        hash.add(content::of_request(id, &record)?);
        self.overlay.insert(id, Some(record));
        self.order.insert(self.recorded, Some(id));
        match self.recorded.checked_sub(self.bound) {
            None | Some(0) => Ok(()),
            Some(oldest) => self.forget(view, hash, oldest),
        }
    }

    fn forget(&mut self, view: &View, hash: &mut ContentHash, sequence: u64) -> Result<()> {
        let id = match self.order.get(&sequence) {
            Some(id) => *id,
            None => view.request_at(sequence)?,
        };
        let lost = || Records::corrupt(format!("request {sequence} is not there"));
        let id = id.ok_or_else(lost)?;
        let record = self.record_of(view, id)?.ok_or_else(lost)?;
        hash.remove(content::of_request(id, &record)?);
        self.overlay.insert(id, None);
        self.order.insert(sequence, None);
        Ok(())
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
