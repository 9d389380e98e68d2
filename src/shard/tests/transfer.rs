//! Slots move between two shards with all that is in them: nothing is lost, doubled or done twice, in whatever order commands of
//! clients, steps of the move, restarts and checkpoints come.

use super::rig::{Chunks, Rig, point, request, upsert};
use crate::{
    raft::StateMachine,
    shard::{
        border::Border,
        cargo::Cargo,
        command::Command,
        commands,
        outcome::{Applied, Outcome},
        read, search,
    },
    store::keys::{border, point::PointRecord},
    types::{
        DocumentId, PointId, SLOTS, SlotRange, Vector,
        operation::{DeleteRequest, Search},
        slot_of,
    },
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn border_of(rig: &Rig) -> Border {
    Border::clone(&rig.live.state().border())
}

fn release(slots: SlotRange) -> Bytes {
    Command::Release { slots, to: 2, epoch: 1 }.encode(None).unwrap().into()
}

/// The command that brings what is on its way from `rig`, which is called `from`.
fn receive(rig: &Rig, from: u64) -> Bytes {
    let state = rig.live.state();
    let leaving = state.border().leaving.unwrap();
    let record = state.records.view().border(border::CARGO_KEY).unwrap().unwrap();
    let cargo = border::decode(&record).unwrap();
    Command::Receive { from, number: leaving.number, slots: leaving.slots, cargo }.encode(None).unwrap().into()
}

fn forget(rig: &Rig) -> Bytes {
    Command::Forget { number: border_of(rig).leaving.unwrap().number }.encode(None).unwrap().into()
}

fn code(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Refused(error) => error.code(),
        Outcome::Applied(applied) => panic!("{applied:?}"),
    }
}

fn slot(id: u8) -> u16 {
    slot_of(point(id, 0, None).id.point_id())
}

/// A shard with twelve points, a new neighbour, and the slots of six of the points, which were written by requests.
fn pair() -> ([tempfile::TempDir; 2], [Rig; 2], SlotRange) {
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut whole = Rig::open(directories[0].path());
    let new = Rig::open_born(directories[1].path(), SlotRange::NONE);
    let mut slots: Vec<u16> = (0..12).map(slot).collect();
    slots.sort_unstable();
    let right = SlotRange::new(slots[6], SLOTS).unwrap();
    // As many requests as a shard of the rig remembers.
    let request_of = |id| right.contains(slot(id)).then(|| request(id));
    whole.apply(&(0..12).map(|id| upsert(id, id, request_of(id))).collect::<Vec<_>>());
    (directories, [whole, new], right)
}

#[test]
fn slots_that_come_to_a_closed_shard_are_refused_and_its_log_goes_on() {
    let (_directories, [mut old, mut new], right) = pair();
    old.apply(&[release(right)]);
    new.apply(&[Command::Close.encode(None).unwrap().into()]);
    let came = receive(&old, 1);
    for outcome in new.apply(&[came.clone(), upsert(1, 1, None), came]) {
        assert_eq!(code(&outcome), "shard_moved");
    }
    assert!(new.contents().points.is_empty() && border_of(&new).owned.is_empty());
}

#[test]
fn slots_move_with_points_versions_and_requests() {
    let (_directories, [mut old, mut new], right) = pair();
    let before = old.contents();
    assert_eq!(old.apply(&[release(right)]), [Outcome::Applied(Applied::Nothing)]);
    let between = old.contents();
    assert!(between.points.keys().all(|id| !right.contains(slot_of(*id))));
    assert_eq!(between.points.len(), before.points.len() / 2);
    let came = receive(&old, 1);
    new.apply(std::slice::from_ref(&came));
    assert_eq!((border_of(&old).owned.end, border_of(&new).owned), (right.first, right));
    old.apply(&[forget(&old)]);
    assert_eq!(border_of(&old).leaving, None);
    // Twelve points, each once, with the version it had.
    let told = |rig: &Rig| -> BTreeMap<PointId, u64> {
        let points = rig.contents().points.into_iter();
        points.map(|(id, record)| (id, PointRecord::decode(&record).unwrap().told_version())).collect()
    };
    let (left, moved) = (told(&old), told(&new));
    assert!(left.keys().all(|id| !moved.contains_key(id)));
    let versions = |points: &BTreeMap<PointId, Vec<u8>>| -> BTreeMap<PointId, u64> {
        points.iter().map(|(id, record)| (*id, PointRecord::decode(record).unwrap().version)).collect()
    };
    assert_eq!(left.into_iter().chain(moved.clone()).collect::<BTreeMap<_, _>>(), versions(&before.points));
    // A reader sees what is told.
    let id = (0..12).find(|id| right.contains(slot(*id))).unwrap();
    let document = point(id, 0, None).id;
    let told_version = moved[&document.point_id()];
    assert_eq!(read::get(&new.live.state(), &document).unwrap().version, told_version);
    // A retry of what the old shard did does nothing at the new one.
    let hash = new.contents().hash;
    let first = Outcome::Applied(Applied::Written { version: u64::from(id) + 1 });
    assert_eq!(new.apply(&[upsert(id, id, Some(request(id)))]), [first]);
    assert_eq!(new.contents().hash, hash);
    // A cargo that comes twice is taken once.
    new.apply(&[came]);
    assert_eq!(new.contents().hash, hash);
    // Guards go by the version told, and new versions are greater than any before.
    let guarded = |version| commands::upsert(vec![point(id, 99, Some(version))], None).unwrap();
    assert_eq!(code(&new.apply(&[guarded(told_version + 1)])[0]), "version_mismatch");
    let [Outcome::Applied(Applied::Written { version })] = new.apply(&[guarded(told_version)])[..] else { panic!() };
    assert!(version > between.applied, "{version} against {}", between.applied);
    assert_eq!(read::get(&new.live.state(), &document).unwrap().version, version);
}

/// Found by reading: a neighbour that knew a request in part was not told the rest, so a retry overwrote what came after it.
#[test]
fn what_a_merge_adds_to_a_request_is_told_to_those_who_knew_it_before() {
    let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut ids: Vec<u8> = (0..12).collect();
    ids.sort_unstable_by_key(|id| slot(*id));
    let (low, middle, high) = (ids[1], ids[5], ids[9]);
    let cut = |id: u8| slot(id) - 1;
    let range = |first, end| SlotRange::new(first, end).unwrap();
    let (left, right) = (range(0, cut(middle)), range(cut(middle), SLOTS));
    let mut first = Rig::open_born(directories[0].path(), left);
    let mut second = Rig::open_born(directories[1].path(), right);
    let mut third = Rig::open_born(directories[2].path(), SlotRange::NONE);
    let asked = Some(request(77));
    first.apply(&[upsert(low, 1, asked)]);
    second.apply(&[upsert(middle, 1, asked)]);
    let give = |from: &mut Rig, from_id, slots, to: &mut Rig, to_id| {
        from.apply(&[Command::Release { slots, to: to_id, epoch: 1 }.encode(None).unwrap().into()]);
        assert_eq!(to.apply(&[receive(from, from_id)]), [Outcome::Applied(Applied::Nothing)]);
        from.apply(&[forget(from)]);
    };
    // The second shard is split, the first is merged into what is left of it, and that into the third.
    give(&mut second, 2, range(cut(high), SLOTS), &mut third, 3);
    give(&mut first, 1, left, &mut second, 2);
    give(&mut second, 2, range(0, cut(high)), &mut third, 3);
    assert_eq!(border_of(&third).owned, range(0, SLOTS));
    third.apply(&[upsert(low, 99, None)]);
    let hash = third.contents().hash;
    third.apply(&[upsert(low, 1, asked), upsert(middle, 1, asked)]);
    assert_eq!(third.contents().hash, hash, "a retry was done again");
}

/// Seed 112 of `cluster_splits_register_is_linearizable` found it counted twice.
#[test]
fn a_delete_is_counted_once_though_its_slots_went_and_came_back() {
    let (_directories, [mut old, mut new], right) = pair();
    let id = (0..12).find(|id| right.contains(slot(*id))).unwrap();
    let delete = DeleteRequest::Ids(vec![point(id, 0, None).id]);
    let delete = || [commands::delete(&delete, Some(request(60))).unwrap()];
    let once = [Outcome::Applied(Applied::Deleted { count: 1 })];
    assert_eq!(old.apply(&delete()), once);
    old.apply(&[release(right)]);
    new.apply(&[receive(&old, 1)]);
    old.apply(&[forget(&old)]);
    assert_eq!(new.apply(&delete()), once);
    new.apply(&[Command::Release { slots: right, to: 1, epoch: 1 }.encode(None).unwrap().into()]);
    old.apply(&[receive(&new, 2)]);
    assert_eq!(old.apply(&delete()), once);
}

#[test]
fn what_another_shard_owns_is_refused_and_the_refusal_is_not_remembered() {
    let (_directories, [mut old, mut new], right) = pair();
    let id = (0..12).find(|id| right.contains(slot(*id))).unwrap();
    assert_eq!(code(&new.apply(&[upsert(id, 50, Some(request(99)))])[0]), "shard_moved");
    old.apply(&[release(right)]);
    let before = old.contents();
    let delete = DeleteRequest::Ids(vec![point(id, 0, None).id]);
    let both = commands::upsert((0..12).map(|id| point(id, 1, None)).collect(), Some(request(99))).unwrap();
    for command in [upsert(id, 50, Some(request(99))), commands::delete(&delete, None).unwrap(), both] {
        assert_eq!(code(&old.apply(&[command])[0]), "shard_moved");
    }
    let after = old.contents();
    assert_eq!((after.hash, after.requests, after.points), (before.hash, before.requests, before.points));
    new.apply(&[receive(&old, 1)]);
    assert!(matches!(new.apply(&[upsert(id, 50, Some(request(99)))])[..], [Outcome::Applied(_)]));
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let (_directories, [mut old, _], right) = pair();
    let directory = tempfile::tempdir().unwrap();
    let inside = SlotRange::new(right.first, right.first + 1).unwrap();
    assert_eq!(code(&old.apply(&[release(inside)])[0]), "slots_not_at_the_edge");
    old.apply(&[release(right)]);
    let left = SlotRange::new(0, 1).unwrap();
    assert_eq!(code(&old.apply(&[release(left)])[0]), "slots_are_leaving");
    // Another cargo than the one that is known: it stays.
    old.apply(&[Command::Forget { number: 1 }.encode(None).unwrap().into()]);
    assert!(border_of(&old).leaving.is_some());
    // A cargo of slots that do not lie beside those of the new shard.
    let mut far = Rig::open_born(directory.path(), SlotRange::new(0, right.first - 1).unwrap());
    assert_eq!(code(&far.apply(&[receive(&old, 1)])[0]), "slots_not_at_the_edge");
    assert_eq!(border_of(&far), Border::born(SlotRange::new(0, right.first - 1).unwrap()));
}

#[test]
fn requests_can_go_before_the_first_slots() {
    let (_directories, [mut old, mut new], right) = pair();
    let id = (0..12).find(|id| right.contains(slot(*id))).unwrap();
    old.apply(&[release(SlotRange::NONE)]);
    assert_eq!(border_of(&old).owned, SlotRange::ALL);
    new.apply(&[receive(&old, 1)]);
    let remembered = new.contents().requests;
    assert_eq!(remembered.len(), super::rig::REQUEST_IDS_MAX as usize);
    old.apply(&[forget(&old), upsert(id, 5, None)]);
    old.apply(&[release(right)]);
    let cargo = receive(&old, 1);
    let Command::Receive { cargo: second, slots, .. } = Command::decode(&cargo).unwrap().1 else { panic!() };
    assert_eq!(Cargo::decode(second, slots).unwrap().requests, [], "told already");
    new.apply(std::slice::from_ref(&cargo));
    assert_eq!(new.contents().requests, remembered);
    let hash = new.contents().hash;
    new.apply(&[upsert(id, 77, Some(request(id)))]);
    assert_eq!(new.contents().hash, hash, "a retry");
}

#[test]
fn a_delete_by_filter_says_of_which_slots_it_was() {
    let (_directories, [mut old, mut new], right) = pair();
    let all = crate::types::Filter::from_json(&serde_json::json!({"must_not": [{"has_id": [99]}]})).unwrap();
    let delete = |id| commands::delete(&DeleteRequest::Filter(all.clone()), id).unwrap();
    old.apply(&[release(right)]);
    let left = border_of(&old).owned;
    let id = Some(request(90));
    assert_eq!(old.apply(&[delete(id)]), [Outcome::Applied(Applied::DeletedIn { count: 6, slots: left })]);
    new.apply(&[receive(&old, 1)]);
    // What came with the request that is remembered is not of this shard's slots.
    assert_eq!(new.apply(&[delete(id)]), [Outcome::Applied(Applied::DeletedIn { count: 6, slots: right })]);
    assert_eq!((old.contents().points.len(), new.contents().points.len()), (0, 0));
    new.apply(&[upsert((0..12).find(|id| right.contains(slot(*id))).unwrap(), 1, None)]);
    assert_eq!(new.apply(&[delete(id)]), [Outcome::Applied(Applied::DeletedIn { count: 6, slots: right })]);
    assert_eq!(new.contents().points.len(), 1, "a retry");
}

/// What happens to two neighbours.
#[derive(Clone, Debug)]
enum Happening {
    /// The client sends its request; what is wanted of a shard is lost on the way there if its bit is 0.
    Send {
        request: usize,
        reaches: u8,
    },
    /// Of the right edge of the left shard, or the left edge of the right one.
    Release {
        from: usize,
        slots: u16,
    },
    Receive,
    /// The last cargo once more.
    ReceiveAgain,
    Forget,
    Restart {
        side: usize,
    },
    /// Becomes what its checkpoint makes of another replica.
    Move {
        side: usize,
    },
}

fn any_happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        8 => (0..REQUESTS, 0..4u8).prop_map(|(request, reaches)| Send { request, reaches }),
        4 => (0..2usize, 1..9_000u16).prop_map(|(from, slots)| Release { from, slots }),
        4 => Just(Receive),
        1 => Just(ReceiveAgain),
        4 => Just(Forget),
        1 => (0..2usize).prop_map(|side| Restart { side }),
        1 => (0..2usize).prop_map(|side| Move { side }),
    ]
}

/// As many as a shard of the rig remembers, so that none is forgotten.
const REQUESTS: usize = super::rig::REQUEST_IDS_MAX as usize;

/// A request of a client: points to write with a number each, or to delete.
#[derive(Clone, Debug)]
struct Asked {
    points: BTreeMap<u8, u8>,
    is_delete: bool,
}

fn any_request() -> impl Strategy<Value = Asked> {
    let points = prop::collection::btree_map(0..12u8, any::<u8>(), 1..6);
    (points, prop::bool::weighted(0.3)).prop_map(|(points, is_delete)| Asked { points, is_delete })
}

impl Asked {
    fn command(&self, ids: &[u8], number: usize) -> Bytes {
        let id = Some(request(number as u8));
        if self.is_delete {
            let ids = ids.iter().map(|id| point(*id, 0, None).id).collect();
            return commands::delete(&DeleteRequest::Ids(ids), id).unwrap();
        }
        commands::upsert(ids.iter().map(|id| point(*id, self.points[id], None)).collect(), id).unwrap()
    }
}

struct World {
    directories: [tempfile::TempDir; 2],
    rigs: [Rig; 2],
    born: [SlotRange; 2],
    logs: [Vec<Bytes>; 2],
    last_cargo: Option<(usize, Bytes)>,
    /// What the clients should find: by point its number.
    model: BTreeMap<u8, u8>,
    /// Which requests are done for which points.
    done: BTreeSet<(usize, u8)>,
}

impl World {
    fn new(cut: u16) -> World {
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let born = [SlotRange { first: 0, end: cut }, SlotRange { first: cut, end: SLOTS }];
        let rigs = [0, 1].map(|side| Rig::open_born(directories[side].path(), born[side]));
        let (model, done, logs) = Default::default();
        World { directories, rigs, born, logs, last_cargo: None, model, done }
    }

    fn apply(&mut self, side: usize, command: Bytes) -> Outcome {
        self.logs[side].push(command.clone());
        self.rigs[side].apply(&[command]).remove(0)
    }

    fn giver(&self) -> Option<usize> {
        (0..2).find(|side| border_of(&self.rigs[*side]).leaving.is_some())
    }

    fn happen(&mut self, happening: &Happening, requests: &[Asked]) {
        match happening {
            Happening::Send { request, reaches } => self.send(*request, *reaches, &requests[*request]),
            Happening::Release { from, slots } if self.giver().is_none() => {
                let owned = border_of(&self.rigs[*from]).owned;
                let slots = (*slots).min(owned.end - owned.first);
                let edge = match from {
                    0 => SlotRange { first: owned.end - slots, end: owned.end },
                    _ => SlotRange { first: owned.first, end: owned.first + slots },
                };
                if !edge.is_empty() {
                    let command = Command::Release { slots: edge, to: 2 - *from as u64, epoch: 1 };
                    let outcome = self.apply(*from, command.encode(None).unwrap().into());
                    assert_eq!(outcome, Outcome::Applied(Applied::Nothing));
                }
            }
            Happening::Receive => {
                if let Some(from) = self.giver() {
                    let came = receive(&self.rigs[from], from as u64 + 1);
                    self.last_cargo = Some((1 - from, came.clone()));
                    assert_eq!(self.apply(1 - from, came), Outcome::Applied(Applied::Nothing));
                }
            }
            Happening::ReceiveAgain => {
                if let Some((to, came)) = self.last_cargo.clone() {
                    let before = self.rigs[to].contents().hash;
                    self.apply(to, came);
                    assert_eq!(self.rigs[to].contents().hash, before);
                }
            }
            Happening::Forget => {
                // Only whoever knows that it has arrived says so.
                if let Some(from) = self.giver() {
                    let leaving = border_of(&self.rigs[from]).leaving.unwrap();
                    if !border_of(&self.rigs[1 - from]).awaits(from as u64 + 1, leaving.number) {
                        self.apply(from, forget(&self.rigs[from]));
                    }
                }
            }
            Happening::Restart { side } => self.reopen(*side, None),
            Happening::Move { side } => {
                let checkpoint = self.rigs[*side].checkpoint();
                self.reopen(*side, Some(checkpoint));
            }
            Happening::Release { .. } => {}
        }
    }

    fn reopen(&mut self, side: usize, checkpoint: Option<Chunks>) {
        let nowhere = tempfile::tempdir().unwrap();
        drop(std::mem::replace(&mut self.rigs[side], Rig::open(nowhere.path())));
        if let Some(checkpoint) = checkpoint {
            self.directories[side] = tempfile::tempdir().unwrap();
            self.rigs[side] = Rig::open_born(self.directories[side].path(), self.born[side]);
            if checkpoint.at > 0 {
                self.rigs[side].install(checkpoint).unwrap();
            }
        } else {
            self.rigs[side] = Rig::open_born(self.directories[side].path(), self.born[side]);
        }
    }

    /// The service cuts a request by who owns what.
    fn send(&mut self, number: usize, reaches: u8, asked: &Asked) {
        for side in 0..2 {
            let owned = border_of(&self.rigs[side]).owned;
            let ids: Vec<u8> = asked.points.keys().copied().filter(|id| owned.contains(slot(*id))).collect();
            if ids.is_empty() || reaches & 1 << side == 0 {
                continue;
            }
            let outcome = self.apply(side, asked.command(&ids, number));
            assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
            for id in ids.into_iter().filter(|id| self.done.insert((number, *id))) {
                match asked.is_delete {
                    true => self.model.remove(&id),
                    false => self.model.insert(id, asked.points[&id]),
                };
            }
        }
    }

    /// All points of both, with their numbers, as a search finds them; each of a slot that its shard owns.
    fn found(&self) -> BTreeMap<u8, u8> {
        let mut found = BTreeMap::new();
        for rig in &self.rigs {
            let state = rig.live.state();
            let all =
                Search { exact: true, with_vector: true, ..Search::nearest(Vector::new(vec![0.0, 0.0]).unwrap(), 100) };
            let owned = state.owned().unwrap().1;
            for hit in search::search(&state, &all).unwrap().hits {
                assert!(owned.contains(slot_of(hit.point.id.point_id())));
                let of = |id: &DocumentId| (0..12).find(|number| point(*number, 0, None).id == *id).unwrap();
                let x = hit.point.vectors.unwrap()[0].1[0] as u8;
                assert_eq!(found.insert(of(&hit.point.id), x), None, "a point is in both");
            }
        }
        found
    }

    fn check(&self) {
        let borders = [0, 1].map(|side| border_of(&self.rigs[side]));
        let under_way = self.giver().and_then(|from| {
            let leaving = borders[from].leaving.unwrap();
            borders[1 - from].awaits(from as u64 + 1, leaving.number).then_some(leaving.slots)
        });
        let owned = [borders[0].owned, under_way.unwrap_or(SlotRange::NONE), borders[1].owned];
        let whole = owned.into_iter().try_fold(SlotRange::NONE, |all, range| all.with(range));
        assert_eq!(whole, Some(SlotRange::ALL), "every slot has one owner: {owned:?}");
        let expected = self.model.iter().filter(|(id, _)| !under_way.is_some_and(|range| range.contains(slot(**id))));
        assert_eq!(self.found(), expected.map(|(id, x)| (*id, *x)).collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn two_neighbours_are_as_one(
        requests in prop::collection::vec(any_request(), REQUESTS),
        happenings in prop::collection::vec(any_happening(), 1..60),
        cut in 0..=SLOTS,
    ) {
        let mut world = World::new(cut);
        for happening in &happenings {
            world.happen(happening, &requests);
            world.check();
        }
        // Replicas that applied the same logs at once hold the same.
        for side in 0..2 {
            let contents = world.rigs[side].contents();
            let directory = tempfile::tempdir().unwrap();
            let mut other = Rig::open_born(directory.path(), world.born[side]);
            other.apply(&world.logs[side]);
            prop_assert_eq!(other.machine.applied(), contents.applied);
            prop_assert_eq!(other.contents(), contents);
            prop_assert_eq!(border_of(&other), border_of(&world.rigs[side]));
        }
    }
}
