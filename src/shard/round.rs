//! One round of applying: a run of log entries becomes one batch in the store and one change of the index.
//!
//! Deterministic: what a round does depends on the entries and the state alone. Later entries of a round see what
//! earlier ones did through an overlay. Called by `machine`.

mod transfer;

use super::{
    border::{Border, owned_by_refusal},
    command::{Command, PointWrite},
    content,
    indexes::PayloadChange,
    mutated,
    outcome::{Applied, Outcome},
    records::{Changes, Counters, Records, View},
    requests::{First, Requests},
    selection,
    state::State,
};
use crate::{
    mutants::mutant,
    rt,
    store::keys::{
        border,
        journal::Entry,
        point::{self, PointRecord},
    },
    types::{DocumentId, Error, ErrorKind, Filter, Payload, PointId, RequestId, Result, SlotRange},
};
use std::{borrow::Cow, collections::BTreeMap};

/// See the module.
pub struct Round<'s> {
    state: &'s State,
    view: View,
    overlay: BTreeMap<PointId, Touched>,
    requests: Requests,
    border: Border,
    border_has_changed: bool,
    /// What becomes of the cargo, if something does: its bytes, or that it goes.
    cargo: Option<Option<Vec<u8>>>,
    /// Of requests, what `requests` says.
    counters: Counters,
}

/// A point that this round has written or removed.
struct Touched {
    /// Hash of its record in the view; nothing if it was not there.
    before: Option<u64>,
    /// Its record now; nothing if it is removed.
    after: Option<Vec<u8>>,
}

impl<'s> Round<'s> {
    /// A round that begins at the present state. The caller holds the gate.
    pub fn new(state: &'s State) -> Round<'s> {
        let (view, counters) = (state.records.view(), state.counters());
        let requests = Requests::new(counters.requests, state.request_ids_max);
        let (border, overlay) = (Border::clone(&state.border()), BTreeMap::new());
        Round { state, view, overlay, requests, border, border_has_changed: false, cargo: None, counters }
    }

    /// Applies one entry: the log's own, which has no data, does nothing. A refusal is an outcome; an error means the store
    /// or the log cannot be trusted. That the shard does not own a slot is not remembered: whoever does settles the request.
    pub fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Outcome> {
        self.counters.applied = index;
        if entry.is_empty() {
            return Ok(Outcome::Applied(Applied::Nothing));
        }
        let (request, command) = Command::decode(entry)?;
        let is_open = if command.is_clients() { self.border.check_open() } else { Ok(()) };
        if let Err(moved) = is_open.and_then(|()| self.border.check(named(&command))) {
            return Ok(Outcome::Refused(moved));
        }
        let outcome = match request {
            None => self.execute(index, &command, None)?,
            Some(request) => self.once(index, &command, request)?,
        };
        Ok(match (command, outcome) {
            // Of how many slots this was the whole is for the client's node to know: it adds all shards up.
            (Command::DeleteWhere(_), Outcome::Applied(Applied::Deleted { count })) if self.border.has_moved => {
                Outcome::Applied(Applied::DeletedIn { count, slots: self.border.owned })
            }
            (_, outcome) => outcome,
        })
    }

    /// Does what a request asks for, but for what it has done already, and remembers it.
    fn once(&mut self, index: u64, command: &Command<'_>, request: RequestId) -> Result<Outcome> {
        let slots = self.slots_of(command);
        let Some(first) = self.requests.first(&self.view, request, self.border.born)? else {
            let outcome = self.execute(index, command, None)?;
            let covers = if self.border.has_moved { vec![slots] } else { Vec::new() };
            self.requests.record(&self.view, &mut self.counters.hash, request, index, covers, &outcome)?;
            return Ok(outcome);
        };
        if first.covers_all(slots) {
            return Ok(first.outcome);
        }
        // Slots have moved, and what the first try did is a part of this.
        rt::mark("a retry did what its first try had not");
        let outcome = self.execute(index, command, Some(&first))?;
        let together = self.requests.extend(&mut self.counters.hash, request, first, &[slots], &outcome)?;
        self.tell_again();
        Ok(together)
    }

    /// The slots that a command speaks for: of the points it names, or all there are here.
    fn slots_of(&self, command: &Command<'_>) -> SlotRange {
        match command {
            Command::DeleteWhere(_) => self.border.owned,
            command => SlotRange::around(named(command)),
        }
    }

    /// Does what the command asks for, but for the points for which its request is `done`.
    fn execute(&mut self, index: u64, command: &Command<'_>, done: Option<&First>) -> Result<Outcome> {
        let is_due = |id: PointId| done.is_none_or(|done| !done.covers(id));
        let outcome = match command {
            Command::Upsert(writes) => self.upsert(index, writes, &is_due),
            Command::Patch(write) if is_due(write.id) => self.patch(index, write),
            Command::Patch(_) => Ok(Applied::Nothing),
            Command::Delete(ids) => self.delete(ids.iter().copied().filter(|id| is_due(*id))),
            Command::DeleteWhere(filter) => self.delete_where(filter, &is_due),
            Command::Release { slots, to, epoch } => self.release(index, *slots, *to, *epoch),
            Command::Receive { from, number, slots, cargo } => self.receive(index, (*from, *number), *slots, cargo),
            Command::Forget { number } => Ok(self.forget(*number)),
            Command::Close => Ok(self.close()),
        };
        match outcome {
            Ok(applied) => Ok(Outcome::Applied(applied)),
            Err(error) if error.kind().is_refusal() => Ok(Outcome::Refused(error)),
            // Slots came to a shard that is closed.
            Err(error) if owned_by_refusal(&error).is_some() => Ok(Outcome::Refused(error)),
            // The store could not be read: what the entry does is not known here, so nothing after it may be applied.
            Err(failure) => Err(failure),
        }
    }

    /// Commits the batch, then shows it in the index and the counters.
    pub fn finish(mut self) -> Result<()> {
        let mut changes = Changes::new(&self.state.records);
        for (id, touched) in &self.overlay {
            if let Some(before) = touched.before {
                self.counters.hash.remove(before);
            }
            match &touched.after {
                Some(record) => {
                    self.counters.hash.add(content::of_point(*id, record));
                    changes.put_point(*id, record);
                }
                None => changes.remove_point(*id),
            }
        }
        self.requests.put(&mut changes);
        self.counters.requests = self.requests.recorded();
        self.keep_for_upkeep(&mut changes)?;
        self.put_border(&mut changes)?;
        changes.put_counters(&self.counters);
        if self.border_has_changed {
            self.state.begin_border_change();
        }
        self.state.reach(self.counters.applied);
        changes.commit()?;
        self.show()?;
        if self.border_has_changed {
            self.state.end_border_change(self.border.clone());
        }
        self.state.publish(&self.counters, self.overlay.len() as u64);
        Ok(())
    }

    /// Writes to the journal of the indexes what was touched, and keeps the points that upkeep may have to be done again with.
    fn keep_for_upkeep(&self, changes: &mut Changes<'_>) -> Result<()> {
        let indexes = self.state.indexes();
        let keeper = self.state.keeper();
        if !keeper.has_journal() || self.overlay.is_empty() {
            return Ok(());
        }
        let mut touched = Vec::with_capacity(self.overlay.len());
        for (id, Touched { before, after }) in &self.overlay {
            let version = |record: &[u8]| PointRecord::decode(record).map(|record| record.version);
            touched.push((*id, after.as_deref().map(version).transpose().map_err(Records::corrupt)?.unwrap_or(0)));
            let points = indexes.points();
            let replaced = before.and_then(|_| points.ordinal(*id)).and_then(|at| points.get(at)).map(|row| row.1);
            if let Some(version) = replaced.filter(|version| keeper.keeps(*version))
                && let Some(record) = self.view.point(*id)?
            {
                changes.put_before(*id, version, self.counters.applied, &record);
            }
        }
        changes.put_journal(self.counters.applied, &Entry::Touched(touched))
    }

    /// Neighbours that were told of requests under which more is remembered now are told of them again, with the next slots.
    fn tell_again(&mut self) {
        if let Some(request) = self.requests.take_renewed()
            && self.border.tell_again(request)
        {
            rt::mark("a request that a neighbour knows in part is told again");
            self.border_has_changed = true;
        }
    }

    fn set_border(&mut self, border: Border) {
        self.border = border;
        self.border_has_changed = true;
    }

    /// Writes what the round has made of border and cargo, and keeps the content hash up.
    fn put_border(&mut self, changes: &mut Changes<'_>) -> Result<()> {
        let cargo = self.cargo.as_ref().map(|cargo| cargo.as_deref().map(border::encode));
        let border = self.border_has_changed.then(|| Some(border::encode(&self.border.encode())));
        for (key, now) in [(border::KEY, border), (border::CARGO_KEY, cargo)] {
            let Some(now) = now else { continue };
            if let Some(before) = self.view.border(key)? {
                self.counters.hash.remove(content::of_border(key, &before));
            }
            if let Some(now) = &now {
                self.counters.hash.add(content::of_border(key, now));
            }
            changes.put_border(key, now.as_deref());
        }
        Ok(())
    }

    fn show(&self) -> Result<()> {
        let payloads = self.payload_changes()?;
        let mut indexes = self.state.indexes_mut();
        for (id, touched) in &self.overlay {
            match &touched.after {
                Some(bytes) => {
                    let record = PointRecord::decode(bytes).map_err(Records::corrupt)?;
                    let vector = |name: &str| record.vectors.get(name).map(components);
                    indexes.put(*id, record.version, vector, payloads.get(id));
                }
                None if mutant!(16) => {}
                None => indexes.remove(*id, payloads.get(id)),
            }
        }
        indexes.set_applied(self.counters.applied);
        Ok(())
    }

    /// What becomes of the payloads, read before searches are kept out. Nothing if no field is indexed: none can be added
    /// behind the gate.
    fn payload_changes(&self) -> Result<BTreeMap<PointId, PayloadChange>> {
        if self.state.indexes().payload().is_empty() {
            return Ok(BTreeMap::new());
        }
        let change = |(id, touched): (&PointId, &Touched)| {
            let before = match touched.before {
                Some(_) => self.view.point(*id)?.map(|bytes| payload_of(&bytes)).transpose()?,
                None => None,
            };
            let after = touched.after.as_deref().map(payload_of).transpose()?;
            Ok((*id, PayloadChange { before, after }))
        };
        self.overlay.iter().map(change).collect()
    }

    fn upsert(&mut self, index: u64, writes: &[PointWrite<'_>], is_due: &dyn Fn(PointId) -> bool) -> Result<Applied> {
        // Mutant 31: the later version is the one with the later time of day.
        let version = if mutant!(31) { mutated::time_of_day() } else { index };
        let told = self.border.version_told(version);
        let due = || writes.iter().enumerate().filter(|(_, write)| is_due(write.id));
        for (row, write) in due() {
            self.check_version(write).map_err(|error| if writes.len() > 1 { error.row(row) } else { error })?;
        }
        for (_, write) in due() {
            let vectors: Vec<(&str, &[u8])> = write.vectors.iter().map(|v| (v.name, v.components)).collect();
            let record =
                point::encode(version, told, write.spelling, &vectors, write.payload).map_err(Records::corrupt)?;
            self.put(write.id, record)?;
        }
        Ok(Applied::Written { version: told.unwrap_or(version) })
    }

    fn patch(&mut self, version: u64, write: &PointWrite<'_>) -> Result<Applied> {
        self.check_version(write)?;
        let Some(current) = self.record(write.id)? else { return Err(document_not_found(spelled(write))) };
        let current = PointRecord::decode(&current).map_err(Records::corrupt)?;
        let old = Payload::from_json(current.payload).ok_or_else(|| Records::corrupt("a payload is no JSON object"))?;
        let change = Payload::from_json(write.payload).ok_or_else(|| Records::corrupt("a change is no JSON object"))?;
        let payload = old.merged(&change)?.to_json();
        let mut vectors: BTreeMap<&str, &[u8]> = current.vectors.iter().collect();
        vectors.extend(write.vectors.iter().map(|v| (v.name, v.components)));
        let vectors: Vec<(&str, &[u8])> = vectors.into_iter().collect();
        let told = self.border.version_told(version);
        let record = point::encode(version, told, current.original_id, &vectors, &payload).map_err(Records::corrupt)?;
        self.put(write.id, record)?;
        Ok(Applied::Written { version: told.unwrap_or(version) })
    }

    fn delete(&mut self, ids: impl Iterator<Item = PointId>) -> Result<Applied> {
        let mut count = 0;
        for id in ids {
            let before = if self.overlay.contains_key(&id) { None } else { self.hash_before(id)? };
            count += u64::from(self.remove(id, before));
        }
        Ok(Applied::Deleted { count })
    }

    fn delete_where(&mut self, filter: &str, is_due: &dyn Fn(PointId) -> bool) -> Result<Applied> {
        let source = serde_json::from_str(filter).map_err(Records::corrupt)?;
        let filter = Filter::from_json(&source).map_err(Records::corrupt)?;
        let passes = |id: PointId, record: &[u8]| {
            Ok::<_, Error>(is_due(id) && filter.passes(id, payload_of(record)?.as_object()))
        };
        let mut passing = Vec::new();
        let mut test = |id: PointId, record: &[u8]| -> Result<()> {
            if passes(id, record)? {
                passing.push((id, Some(content::of_point(id, record))));
            }
            Ok(())
        };
        // The indexes stand where the view does; they know nothing of the overlay yet.
        match selection::possible(&self.state.indexes(), &filter) {
            Some(ids) => {
                for id in ids.into_iter().filter(|id| !self.overlay.contains_key(id)) {
                    if let Some(record) = self.view.point(id)? {
                        test(id, &record)?;
                    }
                }
            }
            None => {
                for entry in self.view.points() {
                    let (id, record) = entry?;
                    if !self.overlay.contains_key(&id) {
                        test(id, &record)?;
                    }
                }
            }
        }
        for (id, touched) in &self.overlay {
            if let Some(record) = &touched.after
                && passes(*id, record)?
            {
                passing.push((*id, None));
            }
        }
        let removed = passing.into_iter().filter(|(id, before)| self.remove(*id, *before)).count();
        Ok(Applied::Deleted { count: removed as u64 })
    }

    /// The version a write asks for, against the one there is. No point has version 0.
    fn check_version(&self, write: &PointWrite<'_>) -> Result<()> {
        let Some(wanted) = write.if_version else { return Ok(()) };
        let current = match self.record(write.id)? {
            None => 0,
            Some(bytes) => PointRecord::decode(&bytes).map_err(Records::corrupt)?.told_version(),
        };
        if current == wanted {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "version_mismatch", "the document has another version")
            .at("if_version")
            .expected(wanted)
            .got(current)
            .document(spelled(write)))
    }

    fn put(&mut self, id: PointId, record: Vec<u8>) -> Result<()> {
        let is_new = match self.overlay.get_mut(&id) {
            Some(touched) => touched.after.replace(record).is_none(),
            None => {
                let before = self.hash_before(id)?;
                self.overlay.insert(id, Touched { before, after: Some(record) });
                before.is_none()
            }
        };
        self.counters.points += u64::from(is_new);
        Ok(())
    }

    /// Removes a point whose record in the view has the hash `before`, if it is there; for a point this round has touched
    /// `before` means nothing. Says whether it was there.
    fn remove(&mut self, id: PointId, before: Option<u64>) -> bool {
        let was_there = match self.overlay.get_mut(&id) {
            Some(touched) => touched.after.take().is_some(),
            None if before.is_none() => false,
            None => self.overlay.insert(id, Touched { before, after: None }).is_none(),
        };
        self.counters.points -= u64::from(was_there);
        was_there
    }

    /// Hash of a point's record in the view. Cost: reading the record, if it is there.
    fn hash_before(&self, id: PointId) -> Result<Option<u64>> {
        Ok(self.view.point(id)?.map(|record| content::of_point(id, &record)))
    }

    fn record(&self, id: PointId) -> Result<Option<Cow<'_, [u8]>>> {
        match self.overlay.get(&id) {
            Some(touched) => Ok(touched.after.as_deref().map(Cow::Borrowed)),
            None => Ok(self.view.point(id)?.map(|bytes| Cow::Owned(bytes.to_vec()))),
        }
    }
}

/// The points that a client's command names.
fn named<'c>(command: &'c Command<'_>) -> impl Iterator<Item = PointId> + 'c {
    let (writes, ids): (&[PointWrite<'_>], &[PointId]) = match command {
        Command::Upsert(writes) => (writes, &[]),
        Command::Patch(write) => (std::slice::from_ref(write), &[]),
        Command::Delete(ids) => (&[], ids),
        _ => (&[], &[]),
    };
    writes.iter().map(|write| write.id).chain(ids.iter().copied())
}

fn payload_of(record: &[u8]) -> Result<Payload> {
    let record = PointRecord::decode(record).map_err(Records::corrupt)?;
    Payload::from_json(record.payload).ok_or_else(|| Records::corrupt("a payload is no JSON object"))
}

fn spelled(write: &PointWrite<'_>) -> DocumentId {
    DocumentId::restore(write.id, write.spelling)
}

/// Little-endian bytes as components.
pub fn components(bytes: &[u8]) -> Cow<'static, [f32]> {
    Cow::Owned(point::f32s(bytes).collect())
}

/// The error of whoever names a point that is not there.
pub fn document_not_found(id: DocumentId) -> Error {
    Error::new(ErrorKind::NotFound, "document_not_found", "there is no such document").at("document_id").document(id)
}
