//! The commands that move slots between a shard and its neighbours (`border` says how): what they do to points, requests and
//! border of a round. Called by `round`.

use super::Round;
use crate::{
    mutants::mutant,
    shard::{
        cargo::{Cargo, CarriedRequest},
        outcome::{Applied, Outcome},
        records::Records,
    },
    store::keys::{
        point::{self, PointRecord},
        request::RequestRecord,
    },
    types::{PointId, RequestId, Result, SlotRange, slot_of},
};

impl Round<'_> {
    /// Takes slots off the shard: their points leave store and indexes and become the cargo, with the requests that shard `to` was not
    /// told of. Cost: a look at the id of every point of the shard, and reading those that leave.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`, `slots_are_leaving`, `slots_too_large`: nothing has changed.
    pub(super) fn release(&mut self, index: u64, slots: SlotRange, to: u64, epoch: u64) -> Result<Applied> {
        let mut border = self.border.clone();
        let told = border.release(slots, to, epoch, (index, self.requests.recorded()))?;
        let ids = self.points_in(slots);
        let mut records = Vec::with_capacity(ids.len());
        for id in &ids {
            let record = self.record(*id)?.ok_or_else(|| Records::corrupt(format!("point {id} has no record")))?;
            records.push((*id, record));
        }
        // Mutant 37: the other shard is not told which requests are done.
        let requests = match mutant!(37) {
            true => Vec::new(),
            false => self.requests.behind(&self.view, told)?,
        };
        let mut carried = Vec::with_capacity(requests.len());
        for (id, record) in &requests {
            let RequestRecord { log_index, covers, outcome, .. } =
                RequestRecord::decode(record).map_err(Records::corrupt)?;
            let covers = if covers.is_empty() { vec![border.born] } else { covers };
            carried.push(CarriedRequest { id: *id.as_bytes(), log_index, covers, outcome });
        }
        let cargo = Cargo {
            version_floor: index + border.version_base,
            epoch,
            points: records.iter().map(|(id, record)| (*id, &record[..])).collect(),
            requests: carried,
        };
        let cargo = cargo.encode()?;
        drop(records);
        for id in ids {
            let before = if self.overlay.contains_key(&id) { None } else { self.hash_before(id)? };
            self.remove(id, before);
        }
        self.set_border(border);
        self.cargo = Some(Some(cargo));
        Ok(Applied::Nothing)
    }

    /// Takes a cargo of another shard, unless it has come before: its slots are the shard's from here on, with their points, and
    /// its requests are remembered.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`: nothing has changed.
    pub(super) fn receive(
        &mut self,
        index: u64,
        (from, number): (u64, u64),
        slots: SlotRange,
        cargo: &[u8],
    ) -> Result<Applied> {
        let cargo = Cargo::decode(cargo, slots)?;
        let mut border = self.border.clone();
        if !border.awaits(from, number) {
            return Ok(Applied::Nothing);
        }
        border.receive(slots, (from, number), &cargo, index)?;
        self.set_border(border);
        self.take_requests(&cargo)?;
        self.tell_again();
        for (id, record) in &cargo.points {
            let record = PointRecord::decode(record).map_err(Records::corrupt)?;
            let vectors: Vec<(&str, &[u8])> = record.vectors.iter().collect();
            let told = Some(record.told_version());
            let record = point::encode(index, told, record.original_id, &vectors, record.payload);
            self.put(*id, record.map_err(Records::corrupt)?)?;
        }
        Ok(Applied::Nothing)
    }

    /// The cargo has arrived; one that is gone already is nothing new.
    pub(super) fn forget(&mut self, number: u64) -> Applied {
        let mut border = self.border.clone();
        if border.forget(number) {
            self.set_border(border);
            self.cargo = Some(None);
        }
        Applied::Nothing
    }

    /// The collection is being deleted. The points stay where they are, for nobody, until the replica's data is removed.
    pub(super) fn close(&mut self) -> Applied {
        let mut border = self.border.clone();
        border.close();
        self.set_border(border);
        Applied::Nothing
    }

    /// Remembers the requests of a cargo beside the shard's own.
    fn take_requests(&mut self, cargo: &Cargo<'_>) -> Result<()> {
        let born = self.border.born;
        for CarriedRequest { id, log_index, covers, outcome } in &cargo.requests {
            let (id, outcome) = (RequestId::from_bytes(*id), Outcome::decode(outcome)?);
            match self.requests.first(&self.view, id, born)? {
                Some(first) => {
                    self.requests.unite(&mut self.counters.hash, id, &first, covers, &outcome)?;
                }
                None => {
                    let (view, hash) = (&self.view, &mut self.counters.hash);
                    self.requests.record(view, hash, id, *log_index, covers.clone(), &outcome)?;
                }
            }
        }
        Ok(())
    }

    /// The points that are in these slots now, in id order.
    fn points_in(&self, slots: SlotRange) -> Vec<PointId> {
        let is_in = |id: &PointId| slots.contains(slot_of(*id));
        let indexes = self.state.indexes();
        let before = indexes.points().iter().map(|(_, id, _)| id);
        let mut ids: Vec<PointId> = before.filter(is_in).filter(|id| !self.overlay.contains_key(id)).collect();
        let touched = self.overlay.iter().filter(|(_, touched)| touched.after.is_some());
        ids.extend(touched.map(|(id, _)| *id).filter(is_in));
        ids.sort_unstable();
        ids
    }
}
