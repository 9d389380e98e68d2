//! Tests of the history checkers that the simulation relies on (sim/check): hand-made histories whose verdict is known,
//! and a differential test of the linearizability search against the independent checker of `todc-utils`.
#[path = "../sim/check/mod.rs"]
#[allow(dead_code)]
mod check;

use check::{
    alias, append, bank, export, filter, gap,
    history::{History, Operation, Outcome, Stamp},
    recreate, register, search, session, set,
    wgl::{self, Model, STEPS_MAX, Verdict},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use register::{Answer, Call, Present, Register};
use todc_utils::{Action, History as TodcHistory, Specification, WGLChecker};

type RegisterHistory = History<Call, Answer>;

/// Histories the differential test compares; small enough to make every kind of verdict common.
const HISTORIES: u64 = 8_000;

/// The same register for the other checker: an operation is a call with its answer.
struct TodcRegister;

impl Specification for TodcRegister {
    type State = Option<Present>;
    type Operation = (Call, Option<Answer>);

    fn init() -> Self::State {
        None
    }

    fn apply((call, answer): &Self::Operation, state: &Self::State) -> (bool, Self::State) {
        match Register.step(state, call, answer.as_ref()) {
            Some(next) => (true, next),
            None => (false, *state),
        }
    }
}

/// The other checker wants every operation to end, so an unknown one is either left out or ends last: the history is
/// linearizable if it is for some choice.
fn todc_verdict(history: &RegisterHistory) -> bool {
    let unknown: Vec<usize> =
        (0..history.operations.len()).filter(|place| history.operations[*place].unknown()).collect();
    (0..1u32 << unknown.len()).any(|choice| {
        let left_out =
            |place: usize| unknown.iter().position(|other| *other == place).is_some_and(|bit| choice & (1 << bit) == 0);
        let kept = (0..history.operations.len()).filter(|place| !left_out(*place));
        todc_history(history, kept).is_none_or(WGLChecker::<TodcRegister>::is_linearizable)
    })
}

/// `None` if nothing is left: the other checker does not take an empty history.
fn todc_history(
    history: &RegisterHistory,
    kept: impl Iterator<Item = usize>,
) -> Option<TodcHistory<(Call, Option<Answer>)>> {
    let mut actions = Vec::new();
    for place in kept {
        let operation = &history.operations[place];
        if operation.failed() {
            continue;
        }
        let what = (operation.call.clone(), operation.answer().cloned());
        // One process an operation: the other checker allows a process one open call.
        actions.push((operation.start.index, 0, (place, Action::Call(what.clone()))));
        actions.push((operation.end_index(), place, (place, Action::Response(what))));
    }
    actions.sort_by_key(|(index, place, _)| (*index, *place));
    let actions: Vec<_> = actions.into_iter().map(|(_, _, action)| action).collect();
    (!actions.is_empty()).then(|| TodcHistory::from_actions(actions))
}

fn check_history(model: &Register, history: &RegisterHistory, steps_max: u64) -> Verdict {
    wgl::check(model, &history.operations.iter().collect::<Vec<_>>(), steps_max)
}

/// A register that is run for real: every operation takes effect at a random moment between start and end, so the
/// history is linearizable by construction, until `lie` spoils one answer.
fn random_history(rng: &mut StdRng, lie: bool) -> RegisterHistory {
    let processes = rng.random_range(1..=4);
    let mut history = History::new(processes);
    let mut open: Vec<Option<Running>> = (0..processes).map(|_| None).collect();
    let (mut state, mut version, mut names, mut unknowns) = (None, 0, (0..processes).collect::<Vec<_>>(), 0);
    for _ in 0..rng.random_range(4..36) {
        let client = rng.random_range(0..processes as usize);
        match open[client].take() {
            None => {
                let call = random_call(rng, version);
                let operation = history.start(names[client], 0, call.clone());
                open[client] = Some(Running { operation, call, answer: None });
            }
            Some(Running { operation, call, answer: None }) => {
                // An operation may lose its answer before or after it took effect.
                if unknowns < 3 && rng.random_bool(0.08) {
                    if rng.random_bool(0.5) {
                        execute(&mut state, &mut version, &call);
                    }
                    history.end(operation, 0, Outcome::Unknown("lost".into()));
                    (names[client], unknowns) = (history.retire(), unknowns + 1);
                } else {
                    let answer = execute(&mut state, &mut version, &call);
                    open[client] = Some(Running { operation, call, answer: Some(answer) });
                }
            }
            Some(Running { operation, answer: Some(answer), .. }) => {
                history.end(operation, 0, Outcome::Ok(answer));
            }
        }
    }
    // The other checker's cost doubles with each unknown outcome: leave no more of them than were counted.
    for running in open.into_iter().flatten() {
        let answer = running.answer.unwrap_or_else(|| execute(&mut state, &mut version, &running.call));
        history.end(running.operation, 0, Outcome::Ok(answer));
    }
    if lie {
        spoil(rng, &mut history);
    }
    history
}

struct Running {
    operation: check::history::OpenOperation,
    call: Call,
    answer: Option<Answer>,
}

fn random_call(rng: &mut StdRng, version: u64) -> Call {
    match rng.random_range(0..12) {
        0..4 => Call::Get { key: 0 },
        4..7 => Call::Put { key: 0, value: rng.random_range(0..4), if_version: None },
        7..9 => Call::Put {
            key: 0,
            value: rng.random_range(0..4),
            if_version: Some(version.saturating_sub(rng.random_range(0..2))),
        },
        9 => Call::Delete { key: 0 },
        place => Call::Patch {
            key: 0,
            patch: rng.random_range(0..4),
            if_version: (place == 11).then(|| version.saturating_sub(rng.random_range(0..2))),
        },
    }
}

fn execute(state: &mut Option<(u64, u64)>, version: &mut u64, call: &Call) -> Answer {
    match call {
        Call::Get { .. } => state.map_or(Answer::Absent, |(value, version)| Answer::Found { value, version }),
        Call::Put { if_version: Some(wanted), .. } | Call::Patch { if_version: Some(wanted), .. }
            if state.map_or(0, |(_, current)| current) != *wanted =>
        {
            Answer::Conflict
        }
        Call::Patch { patch, .. } => match state {
            None => Answer::Absent,
            Some((value, current)) => {
                *version += 1;
                (*value, *current) = (register::patched(*value, *patch), *version);
                Answer::Written { version: *version }
            }
        },
        Call::Put { value, .. } => {
            *version += 1;
            *state = Some((*value, *version));
            Answer::Written { version: *version }
        }
        Call::Delete { .. } => Answer::Deleted { existed: state.take().is_some() },
    }
}

fn spoil(rng: &mut StdRng, history: &mut RegisterHistory) {
    let place = rng.random_range(0..history.operations.len());
    let Some((_, Outcome::Ok(answer))) = &mut history.operations[place].end else { return };
    *answer = match answer.clone() {
        Answer::Found { value, version } if rng.random_bool(0.5) => Answer::Found { value: (value + 1) % 4, version },
        Answer::Found { value, version } => Answer::Found { value, version: version.saturating_sub(1) },
        Answer::Absent => Answer::Found { value: 0, version: 1 },
        Answer::Written { version } => Answer::Written { version: version.saturating_sub(1) },
        Answer::Conflict => Answer::Written { version: 1 },
        Answer::Deleted { existed } => Answer::Deleted { existed: !existed },
    };
}

#[test]
fn agrees_with_an_independent_checker_on_thousands_of_random_histories() {
    let (mut linearizable, mut violations) = (0, 0);
    for seed in 0..HISTORIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let history = random_history(&mut rng, seed % 2 == 1);
        let ours = check_history(&Register, &history, STEPS_MAX);
        let theirs = todc_verdict(&history);
        assert_ne!(ours, Verdict::BudgetSpent, "seed {seed}");
        assert_eq!(ours == Verdict::Linearizable, theirs, "seed {seed}: {:#?}", history.operations);
        assert!(theirs || seed % 2 == 1, "seed {seed}: a history that really happened was refused");
        if theirs { linearizable += 1 } else { violations += 1 }
    }
    assert!(violations > HISTORIES / 8 && linearizable > HISTORIES / 2, "{linearizable} / {violations}");
}

#[test]
fn the_smallest_violation_is_itself_a_violation_and_smaller() {
    let mut shrunk = 0;
    for seed in (1..2_000).step_by(2) {
        let history = random_history(&mut StdRng::seed_from_u64(seed), true);
        let all: Vec<&Operation<Call, Answer>> = history.operations.iter().collect();
        if wgl::check(&Register, &all, STEPS_MAX) == Verdict::Linearizable {
            continue;
        }
        let part = wgl::smallest_violation(&Register, &all, STEPS_MAX);
        let part: Vec<_> = part.iter().collect();
        assert_ne!(wgl::check(&Register, &part, STEPS_MAX), Verdict::Linearizable, "seed {seed}");
        shrunk += usize::from(part.len() < all.len());
    }
    assert!(shrunk > 100, "only {shrunk} got smaller");
}

#[test]
fn a_spent_budget_is_no_verdict() {
    let mut history = RegisterHistory::new(12);
    let open: Vec<_> = (0..12).map(|p| history.start(p, 0, Call::Put { key: 0, value: p, if_version: None })).collect();
    for (place, operation) in open.into_iter().enumerate() {
        history.end(operation, 0, Outcome::Ok(Answer::Written { version: 100 - place as u64 }));
    }
    let read = history.start(0, 0, Call::Get { key: 0 });
    history.end(read, 0, Outcome::Ok(Answer::Absent));
    assert_eq!(check_history(&Register, &history, 100), Verdict::BudgetSpent);
    assert!(register::check(&history, 100).unwrap_err().contains("no verdict"));
    assert!(matches!(check_history(&Register, &history, STEPS_MAX), Verdict::Violation { .. }));
}

/// Runs `calls` one after the other, each with its outcome.
fn sequence<C, R>(calls: Vec<(C, Outcome<R>)>) -> History<C, R> {
    let mut history = History::new(1);
    let mut process = 0;
    for (time, (call, outcome)) in (0..).zip(calls) {
        let unknown = matches!(outcome, Outcome::Unknown(_));
        let open = history.start(process, time * 10, call);
        history.end(open, time * 10 + 5, outcome);
        if unknown {
            process = history.retire();
        }
    }
    history
}

fn ok<R>(answer: R) -> Outcome<R> {
    Outcome::Ok(answer)
}

fn lost<R>() -> Outcome<R> {
    Outcome::Unknown("connection reset".into())
}

fn put(value: u64) -> Call {
    Call::Put { key: 7, value, if_version: None }
}

#[test]
fn a_lost_acknowledged_write_is_seen_and_an_unknown_one_may_go_either_way() {
    let get = Call::Get { key: 7 };
    let judge = |calls| register::check(&sequence(calls), STEPS_MAX);
    let written = |version| ok(Answer::Written { version });
    let found = |value, version| ok(Answer::Found { value, version });
    assert!(judge(vec![(put(1), written(1)), (get.clone(), found(1, 1))]).is_ok());
    let lost_write = judge(vec![(put(1), written(1)), (get.clone(), ok(Answer::Absent))]).unwrap_err();
    assert!(lost_write.contains("key 7 is not linearizable"), "{lost_write}");
    assert!(judge(vec![(put(1), lost()), (get.clone(), ok(Answer::Absent))]).is_ok());
    assert!(judge(vec![(put(1), lost()), (get.clone(), found(1, 9))]).is_ok());
    // It may take effect late, but then it has; a version once seen stays.
    let late = vec![(put(1), lost()), (get.clone(), ok(Answer::Absent)), (get.clone(), found(1, 9))];
    assert!(judge(late.clone()).is_ok());
    assert!(judge([late.clone(), vec![(get.clone(), ok(Answer::Absent))]].concat()).is_err());
    assert!(judge([late, vec![(get.clone(), found(1, 8))]].concat()).is_err());
    // A write that certainly failed has no effect.
    assert!(judge(vec![(put(1), Outcome::Failed("refused".into())), (get, found(1, 1))]).is_err());
}

#[test]
fn conditional_writes_are_decided_by_the_current_version() {
    let cas = |version| Call::Put { key: 7, value: 2, if_version: Some(version) };
    let judge = |calls| register::check(&sequence(calls), STEPS_MAX);
    let written = |version| ok(Answer::Written { version });
    assert!(judge(vec![(put(1), written(4)), (cas(4), written(5))]).is_ok());
    assert!(judge(vec![(put(1), written(4)), (cas(3), written(5))]).is_err());
    assert!(judge(vec![(put(1), written(4)), (cas(4), ok(Answer::Conflict))]).is_err());
    assert!(judge(vec![(put(1), written(4)), (cas(3), ok(Answer::Conflict))]).is_ok());
    assert!(judge(vec![(cas(0), written(5))]).is_ok(), "0 means: only if it does not exist");
    assert!(judge(vec![(put(1), written(4)), (cas(0), written(5))]).is_err());
    assert!(judge(vec![(put(1), lost()), (cas(0), written(5))]).is_ok(), "the lost write may never have happened");
    assert!(judge(vec![(put(1), written(4)), (put(2), written(4))]).is_err(), "versions grow");
}

#[test]
fn a_patch_keeps_what_it_does_not_change_and_makes_nothing() {
    let get = Call::Get { key: 7 };
    let patch = |if_version| Call::Patch { key: 7, patch: 9, if_version };
    let judge = |calls| register::check(&sequence(calls), STEPS_MAX);
    let written = |version| ok(Answer::Written { version });
    let found = |value, version| ok(Answer::Found { value, version });
    let both = register::patched(1, 9);
    assert!(judge(vec![(put(1), written(4)), (patch(None), written(5)), (get.clone(), found(both, 5))]).is_ok());
    for (value, version) in [(1, 5), (register::patched(2, 9), 5), (both, 4)] {
        let shown = (get.clone(), found(value, version));
        assert!(judge(vec![(put(1), written(4)), (patch(None), written(5)), shown]).is_err());
    }
    let lost_update = vec![(put(1), written(4)), (put(2), written(5)), (patch(None), written(6))];
    assert!(judge([lost_update, vec![(get.clone(), found(both, 6))]].concat()).is_err());
    // A put writes the whole.
    let overwritten = vec![(put(1), written(4)), (patch(None), written(5)), (put(2), written(6))];
    assert!(judge([overwritten.clone(), vec![(get.clone(), found(2, 6))]].concat()).is_ok());
    assert!(judge([overwritten, vec![(get.clone(), found(register::patched(2, 9), 6))]].concat()).is_err());
    assert!(judge(vec![(patch(None), ok(Answer::Absent)), (get.clone(), ok(Answer::Absent))]).is_ok());
    assert!(judge(vec![(patch(None), written(5))]).is_err());
    assert!(judge(vec![(put(1), written(4)), (patch(None), ok(Answer::Absent))]).is_err());
    assert!(judge(vec![(put(1), written(4)), (patch(Some(3)), ok(Answer::Conflict))]).is_ok());
    assert!(judge(vec![(put(1), written(4)), (patch(Some(4)), ok(Answer::Conflict))]).is_err());
    assert!(judge(vec![(put(1), written(4)), (patch(Some(3)), written(5))]).is_err());
    assert!(judge(vec![(patch(Some(3)), ok(Answer::Conflict))]).is_ok());
    for value in [1, both] {
        assert!(
            judge(vec![(put(1), written(4)), (patch(None), lost()), (get.clone(), found(value, 4 + value / both))])
                .is_ok()
        );
    }
    let refused = Outcome::Failed("refused".into());
    assert!(judge(vec![(put(1), written(4)), (patch(None), refused), (get, found(both, 5))]).is_err());
}

#[test]
fn the_set_checker_knows_must_may_and_must_not() {
    use set::{Answer::*, Call::*};
    let judge = |calls| set::check(&sequence(calls), Default::default());
    let list = |ids: &[u64]| (List, ok(Listed(ids.to_vec())));
    assert!(judge(vec![(Add(vec![1, 2]), ok(Done)), list(&[2, 1])]).is_ok());
    assert!(judge(vec![(Add(vec![1, 2]), ok(Done)), list(&[2])]).unwrap_err().contains("missing"));
    assert!(judge(vec![list(&[3])]).unwrap_err().contains("never added"));
    assert!(judge(vec![(Add(vec![1]), ok(Done)), list(&[1, 1])]).unwrap_err().contains("different"));
    let deleted = vec![(Add(vec![1]), ok(Done)), (Delete(1), ok(Deleted(1)))];
    assert!(judge([deleted.clone(), vec![list(&[])]].concat()).is_ok());
    assert!(judge([deleted.clone(), vec![list(&[1])]].concat()).unwrap_err().contains("deleted"));
    let again = [deleted, vec![(Add(vec![1]), ok(Done))]].concat();
    assert!(judge([again.clone(), vec![list(&[1])]].concat()).is_ok());
    assert!(judge([again, vec![list(&[])]].concat()).is_err());
    for shown in [list(&[]), list(&[1])] {
        assert!(judge(vec![(Add(vec![1]), lost()), shown.clone()]).is_ok());
        assert!(judge(vec![(Add(vec![1]), ok(Done)), (Delete(1), lost()), shown]).is_ok());
    }
    let refused: Outcome<set::Answer> = Outcome::Failed("refused".into());
    assert!(judge(vec![(Add(vec![1]), refused), list(&[1])]).is_err());
}

#[test]
fn a_delete_by_filter_takes_what_passes_and_leaves_the_rest() {
    use filter::Where;
    use set::{Answer::*, Call::*};
    let judge = |calls| set::check(&sequence(calls), Default::default());
    let add = (Add(vec![20, 21, 30, 40]), ok(Done));
    // 20 and 30 pass.
    let filter = DeleteWhere(Where { first: 15, end: 40, spared: 1 });
    let list = |ids: &[u64]| (List, ok(Listed(ids.to_vec())));
    let gone = |count| vec![add.clone(), (filter.clone(), ok(Deleted(count)))];
    assert!(judge([gone(2), vec![list(&[21, 40])]].concat()).is_ok());
    assert!(judge([gone(2), vec![list(&[21, 30, 40])]].concat()).unwrap_err().contains("30 is there, but deleted"));
    assert!(judge([gone(2), vec![list(&[40])]].concat()).unwrap_err().contains("acknowledged id 21 is missing"));
    assert!(judge([gone(2), vec![list(&[21])]].concat()).unwrap_err().contains("acknowledged id 40 is missing"));
    for wrong in [1, 3] {
        assert!(judge(gone(wrong)).unwrap_err().contains("from 2 to 2"));
    }
    // Not atomic: what it took of one shard it need not have taken of another, if nobody knows what became of it.
    for shown in [vec![20, 21, 30, 40], vec![20, 21, 40], vec![21, 40]] {
        assert!(judge(vec![add.clone(), (filter.clone(), lost()), list(&shown)]).is_ok());
    }
    assert!(judge(vec![add.clone(), (filter.clone(), lost()), list(&[20, 30])]).is_err(), "what does not pass stays");
    let refused = (filter.clone(), Outcome::Failed("refused".into()));
    assert!(judge(vec![add.clone(), refused, list(&[21, 40])]).unwrap_err().contains("missing"));
    // What is added meanwhile may be taken or not, and counted so.
    for (count, shown) in [(0, vec![30]), (1, vec![])] {
        let mut history = History::new(2);
        let delete = history.start(0, 0, filter.clone());
        let add = history.start(1, 0, Add(vec![30]));
        history.end(add, 0, Outcome::Ok(Done));
        history.end(delete, 0, Outcome::Ok(Deleted(count)));
        let list = history.start(0, 0, List);
        history.end(list, 0, Outcome::Ok(Listed(shown)));
        assert_eq!(set::check(&history, Default::default()), Ok(()));
    }
    // A delete of one id counts, too.
    let one = |count| vec![add.clone(), (Delete(20), ok(Deleted(count))), (Delete(20), ok(Deleted(1 - count)))];
    assert!(judge(one(1)).is_ok() && judge(one(0)).unwrap_err().contains("from 1 to 1"));
}

#[test]
fn what_was_added_asynchronously_may_be_lost_but_only_whole_and_only_before_it_was_seen() {
    use set::{Answer::*, Call::*, Table};
    let add = (AddAsync(vec![1, 2]), ok(Done));
    let list = |ids: &[u64]| (List, ok(Listed(ids.to_vec())));
    let judge = |table, calls| set::check(&sequence(calls), table);
    let (any, whole) = (Table::default(), Table { one_shard: true, one_copy: false });
    for shown in [&[][..], &[1, 2]] {
        assert!(judge(whole, vec![add.clone(), list(shown), list(shown)]).is_ok());
    }
    assert!(judge(any, vec![add.clone(), list(&[]), list(&[2]), list(&[2])]).is_ok(), "late, and in part");
    assert!(judge(any, vec![add.clone(), list(&[2]), list(&[])]).unwrap_err().contains("id 2 is missing"));
    assert!(judge(whole, vec![add.clone(), list(&[2]), list(&[2])]).unwrap_err().contains("id 1 is missing"));
    let lost_add = (Add(vec![1, 2]), lost());
    assert!(judge(any, vec![lost_add.clone(), list(&[2]), list(&[])]).unwrap_err().contains("id 2 is missing"));
    assert!(judge(whole, vec![lost_add, list(&[2]), list(&[2])]).unwrap_err().contains("id 1 is missing"));
    let one_copy = Table { one_shard: false, one_copy: true };
    assert!(judge(one_copy, vec![add.clone(), list(&[])]).unwrap_err().contains("missing"));
    // If it happens it does so before what begins after its acknowledgement.
    let deleted = |count| vec![add.clone(), (Delete(1), ok(Deleted(count)))];
    for count in [0, 1] {
        assert!(judge(any, [deleted(count), vec![list(&[2])]].concat()).is_ok());
        let back = judge(any, [deleted(count), vec![list(&[1, 2])]].concat());
        assert!(back.unwrap_err().contains("1 is there, but deleted"));
    }
    // An add of unknown outcome may come later; once it was seen it has.
    let unknown = |shown: &[u64]| vec![(Add(vec![1]), lost()), list(shown), (Delete(1), ok(Deleted(1)))];
    assert!(judge(any, [unknown(&[]), vec![list(&[1])]].concat()).is_ok());
    assert!(judge(any, [unknown(&[1]), vec![list(&[1])]].concat()).unwrap_err().contains("deleted"));
    let lost_ids = |calls| set::lost(&sequence(calls));
    assert_eq!(lost_ids(vec![add.clone(), list(&[2])]), [1]);
    assert_eq!(lost_ids([deleted(0), vec![list(&[2])]].concat()), [0; 0]);
    assert_eq!(lost_ids(vec![list(&[]), add]), [0; 0], "nobody looked since");
}

/// A gap of the slot of one id.
fn gap_of(id: u64) -> gap::Gap {
    let slot = vectorsphere::types::slot_of(vectorsphere::types::PointId::Num(id));
    gap::Gap::of(vec![(slot, slot + 1)])
}

#[test]
fn a_partial_answer_lacks_what_it_says_and_nothing_else() {
    use set::{Answer::*, Call::*};
    let add = (Add(vec![1, 2, 3]), ok(Done));
    let judge = |calls| set::check(&sequence(calls), Default::default());
    let partly = |ids: &[u64], gaps: &[gap::Gap]| (ListPartly, ok(Partial { ids: ids.to_vec(), gaps: gaps.to_vec() }));
    assert!(judge(vec![add.clone(), partly(&[1, 2, 3], &[])]).is_ok());
    assert!(judge(vec![add.clone(), partly(&[1, 3], &[gap_of(2)])]).is_ok());
    assert!(judge(vec![add.clone(), partly(&[1, 3], &[])]).unwrap_err().contains("id 2 is missing"));
    assert!(judge(vec![add.clone(), partly(&[1], &[gap_of(2)])]).unwrap_err().contains("id 3 is missing"));
    assert!(judge(vec![add.clone(), partly(&[], &[gap::Gap::of(vec![gap::ALL])])]).is_ok());
    let behind = gap::Gap { first: 3, ..gap_of(2) };
    assert!(judge(vec![add.clone(), partly(&[1, 3], &[behind])]).unwrap_err().contains("id 2"), "of another page");
    assert!(judge(vec![add.clone(), partly(&[1, 1], &[gap_of(2), gap_of(3)])]).unwrap_err().contains("different"));
    assert!(judge(vec![partly(&[1], &[gap_of(2)])]).unwrap_err().contains("never added"));
    let gone = (Delete(1), ok(Deleted(1)));
    let late = judge(vec![add.clone(), gone.clone(), partly(&[1, 2, 3], &[gap_of(1)])]);
    assert!(late.unwrap_err().contains("1 is there, but deleted"));
    let count = |count, gaps: &[gap::Gap]| (Count, ok(Counted { count, gaps: gaps.to_vec() }));
    assert!(judge(vec![add.clone(), count(3, &[]), gone.clone(), count(2, &[]), count(1, &[gap_of(2)])]).is_ok());
    for wrong in [count(2, &[]), count(4, &[]), count(1, &[gap_of(2)])] {
        assert!(judge(vec![add.clone(), wrong]).unwrap_err().contains("it is from"));
    }
    assert!(judge(vec![add.clone(), (Delete(1), lost()), count(2, &[]), count(3, &[])]).is_ok());
}

#[test]
fn a_partial_search_misses_what_is_of_the_shards_it_names_and_nothing_else() {
    use search::{Answer::*, Call::*, Hit};
    let judge = |calls| search::check(&sequence(calls));
    let put = |id, value| (Put { id, value }, ok(Done));
    let look = |hits: &[u64], of| {
        let hits = hits.iter().map(|id| Hit { id: *id, value: id * 10, vector_matches: true }).collect();
        (Search { id: 1, value: 10, exact: false, within: None, partly: true }, ok(Partial(hits, gap_of(of))))
    };
    let puts = || vec![put(1, 10), put(2, 20)];
    assert!(judge([puts(), vec![look(&[2], 1)]].concat()).is_ok());
    assert!(judge([puts(), vec![look(&[2], 2)]].concat()).unwrap_err().contains("not the first hit"));
    assert!(judge([puts(), vec![look(&[1], 2)]].concat()).is_ok());
    assert!(judge([puts(), vec![look(&[2, 3], 1)]].concat()).unwrap_err().contains("never written"));
    let gone = (Delete { id: 2 }, ok(Done));
    assert!(judge([puts(), vec![gone, look(&[2], 1)]].concat()).unwrap_err().contains("was deleted"));
}

#[test]
fn the_checker_of_recreated_tables_wants_all_that_is_new_and_nothing_old() {
    use recreate::{Answer::*, Call::*};
    let judge = |calls| recreate::check(&sequence(calls));
    let add = |id| (Add(vec![id]), ok(Done));
    let list = |ids: &[u64]| (List, ok(Listed(ids.to_vec())));
    let anew = || (Recreate, ok(Done));
    assert!(judge(vec![add(1), list(&[1]), anew(), list(&[]), add(2), list(&[2])]).is_ok());
    assert!(judge(vec![add(1), anew(), list(&[1])]).unwrap_err().contains("dropped"));
    assert!(judge(vec![add(1), anew(), anew(), add(2), list(&[2, 1])]).unwrap_err().contains("dropped"));
    assert!(judge(vec![anew(), add(1), list(&[])]).unwrap_err().contains("missing"));
    assert!(judge(vec![list(&[3]), add(3)]).unwrap_err().contains("never added"));
    assert!(judge(vec![add(1), list(&[1, 1])]).unwrap_err().contains("different"));
    for shown in [list(&[]), list(&[1])] {
        assert!(judge(vec![add(1), (Recreate, lost()), shown.clone()]).is_ok(), "it may have been made anew");
        assert!(judge(vec![(Add(vec![1]), lost()), anew(), shown]).is_ok(), "it may arrive in the new one");
    }
    let refused: Outcome<recreate::Answer> = Outcome::Failed("refused".into());
    assert!(judge(vec![(Add(vec![1]), refused), list(&[1])]).is_err());
}

#[test]
fn the_checker_of_aliases_wants_one_table_that_was_named_and_no_older_one() {
    use alias::{Answer::*, Call::*, MARKERS, Name::*, marker};
    let judge = |calls| alias::check(&sequence(calls));
    let all = |table| (0..MARKERS).map(|id| (id, marker(id, table))).collect::<Vec<_>>();
    let with = |table, ids: &[u64]| Shown([all(table), ids.iter().map(|id| (*id, *id)).collect()].concat());
    let list = |name, table| (List(name), ok(Shown(all(table))));
    let switch = |number, behind| (Switch(number), ok(Switched { behind }));
    assert!(judge(vec![list(Live, 0), list(Spare, 1), switch(1, 0), list(Live, 1), list(Spare, 0)]).is_ok());
    for stale in
        [vec![list(Live, 1)], vec![switch(1, 0), list(Live, 0)], vec![switch(1, 0), switch(2, 0), list(Spare, 0)]]
    {
        assert!(judge(stale).unwrap_err().contains("had not named since"));
    }
    for either in [list(Live, 0), list(Live, 1)] {
        assert!(judge(vec![switch(1, 1), either.clone()]).is_ok(), "a node is behind");
        assert!(judge(vec![(Switch(1), lost()), either]).is_ok(), "it may have been switched");
    }
    assert!(judge(vec![switch(1, 1), switch(2, 0), list(Live, 1)]).is_err(), "everybody has heard of the second");
    assert!(judge(vec![(List(Live), ok(Missing))]).unwrap_err().contains("is missing"));
    assert!(judge(vec![(Add(Live, vec![20]), ok(Missing))]).unwrap_err().contains("is missing"));
    let mixed = [all(0), all(1)[1..].to_vec()].concat();
    assert!(judge(vec![(List(Live), ok(Shown(mixed)))]).unwrap_err().contains("two tables"));
    assert!(judge(vec![(List(Live), ok(Shown(all(0)[1..].to_vec())))]).unwrap_err().contains("marker 0"));
    assert!(judge(vec![(ListTable(1), ok(Shown(all(0))))]).unwrap_err().contains("what is in table 0"));

    let add = |ids: &[u64]| (Add(Live, ids.to_vec()), ok(Done));
    let shown = |table, ids: &[u64]| (ListTable(table), ok(with(table, ids)));
    assert!(judge(vec![add(&[20, 21]), shown(0, &[20, 21]), shown(1, &[])]).is_ok());
    assert!(judge(vec![add(&[20]), shown(0, &[]), shown(1, &[])]).unwrap_err().contains("neither table"));
    assert!(judge(vec![add(&[20, 21]), shown(0, &[20]), shown(1, &[21])]).unwrap_err().contains("in two tables"));
    assert!(judge(vec![add(&[20]), shown(0, &[20]), shown(1, &[20])]).unwrap_err().contains("both tables"));
    assert!(judge(vec![add(&[20]), shown(1, &[20])]).unwrap_err().contains("had not named"));
    assert!(judge(vec![add(&[20]), shown(0, &[]), shown(0, &[20])]).unwrap_err().contains("lacks"));
    let refused: Outcome<alias::Answer> = Outcome::Failed("refused".into());
    assert!(judge(vec![(Add(Live, vec![20]), refused), shown(0, &[20])]).unwrap_err().contains("refused"));
    let found = |hits: Vec<(u64, u64)>| (Search(Live, 3), ok(Shown(hits)));
    assert!(judge(vec![found(vec![(3, marker(3, 0))])]).is_ok());
    assert!(judge(vec![found(vec![(3, marker(3, 1))])]).is_err());
    assert!(judge(vec![found(vec![(20, 20)]), shown(1, &[20])]).is_err(), "by what was added there");
}

#[test]
fn what_was_under_way_while_a_table_was_made_anew_may_show_or_not() {
    use recreate::{Answer::*, Call::*};
    for shown in [vec![], vec![1]] {
        let mut history = History::new(3);
        let add = history.start(0, 0, Add(vec![1]));
        let anew = history.start(1, 0, Recreate);
        history.end(add, 0, Outcome::Ok(Done));
        let early = history.start(2, 0, List);
        history.end(early, 0, Outcome::Ok(Listed(shown.clone())));
        history.end(anew, 0, Outcome::Ok(Done));
        let late = history.start(2, 0, List);
        history.end(late, 0, Outcome::Ok(Listed(shown)));
        assert_eq!(recreate::check(&history), Ok(()));
    }
}

#[test]
fn the_search_checker_wants_the_acknowledged_point_first_and_nothing_old() {
    use search::{Answer::*, Call::*, Hit};
    let judge = |calls| search::check(&sequence(calls));
    let hit = |id, value| Hit { id, value, vector_matches: true };
    let put = |id, value| (Put { id, value }, ok(Done));
    let look =
        |id, value, hits: Vec<Hit>| (Search { id, value, exact: false, within: None, partly: false }, ok(Hits(hits)));
    assert!(judge(vec![put(1, 10), put(2, 20), look(1, 10, vec![hit(1, 10), hit(2, 20)])]).is_ok());
    assert!(judge(vec![put(1, 10), put(2, 20), look(1, 10, vec![hit(2, 20), hit(1, 10)])]).is_err());
    assert!(judge(vec![put(1, 10), look(1, 10, vec![])]).is_err());
    assert!(judge(vec![put(1, 10), look(1, 10, vec![hit(1, 10), hit(3, 30)])]).is_err());
    assert!(judge(vec![put(1, 10), put(1, 11), look(1, 10, vec![hit(1, 10)])]).is_err(), "replaced");
    assert!(judge(vec![put(1, 10), (Delete { id: 1 }, ok(Done)), look(1, 10, vec![hit(1, 10)])]).is_err());
    assert!(judge(vec![put(1, 10), (Delete { id: 1 }, lost()), look(1, 10, vec![hit(1, 10)])]).is_ok());
    assert!(judge(vec![put(1, 10), (Delete { id: 1 }, lost()), look(1, 10, vec![])]).is_ok());
    let torn = Hit { id: 1, value: 10, vector_matches: false };
    assert!(judge(vec![put(1, 10), look(1, 10, vec![torn])]).unwrap_err().contains("different writes"));
}

#[test]
fn a_filtered_search_finds_what_passes_and_an_exact_one_all_of_it() {
    use filter::Where;
    use search::{Answer::*, Call::*, Hit};
    let look = |end, spared, hits: &[u64]| {
        let hits = hits.iter().map(|id| Hit { id: *id, value: id * 10, vector_matches: true }).collect();
        let within = Some(Where { first: 10, end, spared });
        (Search { id: 2, value: 20, exact: true, within, partly: false }, ok(Hits(hits)))
    };
    let judge = |search| {
        let puts = (1..=3).map(|id| (Put { id, value: id * 10 }, ok(Done)));
        search::check(&sequence(puts.chain([search]).collect()))
    };
    assert!(judge(look(31, 1, &[2, 1, 3])).is_ok());
    assert!(judge(look(30, 1, &[2, 1])).is_ok());
    assert!(judge(look(30, 1, &[2, 1, 3])).unwrap_err().contains("does not pass"));
    assert!(judge(look(31, 0, &[])).is_ok(), "all are spared, what is looked for, too");
    assert!(judge(look(31, 0, &[2])).unwrap_err().contains("does not pass"));
    assert!(judge(look(31, 1, &[1, 2, 3])).unwrap_err().contains("not the first hit"));
    assert!(judge(look(31, 1, &[2, 1])).unwrap_err().contains("point 3 is not among the 2 hits"));
}

#[test]
fn the_bank_checker_counts_the_money_and_wants_whole_transfers() {
    use bank::{Account, Answer::*, Call::*};
    let judge = |calls| bank::check(&sequence(calls), 2, 20);
    let list = |accounts: &[(u64, u64, u64)]| {
        let account =
            |(id, balance, version): &(u64, u64, u64)| Account { id: *id, balance: *balance, version: *version };
        (List, ok(Listed(accounts.iter().map(account).collect())))
    };
    let transfer = |outcome| (Transfer { from: 0, to: 1, amount: 3 }, outcome);
    let (before, after) = (list(&[(0, 10, 1), (1, 10, 1)]), list(&[(0, 7, 2), (1, 13, 2)]));
    assert!(judge(vec![before.clone(), transfer(ok(Moved { version: 2 })), after.clone()]).is_ok());
    let stale = judge(vec![transfer(ok(Moved { version: 2 })), before.clone()]).unwrap_err();
    assert!(stale.contains("acknowledged transfer with version 2 is missing"), "{stale}");
    let torn = list(&[(0, 7, 2), (1, 10, 1)]);
    assert!(judge(vec![transfer(lost()), torn]).unwrap_err().contains("add up to 17, not 20"));
    // Half a transfer is seen even where the money happens to be right.
    let half = list(&[(0, 10, 3), (1, 10, 1)]);
    assert!(judge(vec![transfer(ok(Moved { version: 3 })), half]).unwrap_err().contains("half of the transfer"));
    for shown in [before.clone(), after.clone()] {
        assert!(judge(vec![transfer(lost()), shown.clone()]).is_ok());
        assert!(judge(vec![transfer(ok(Declined)), shown]).is_ok(), "somebody else may have moved it");
    }
    assert!(judge(vec![list(&[(0, 20, 1)])]).unwrap_err().contains("1 accounts"));
    assert!(judge(vec![list(&[(0, 10, 1), (0, 10, 1)])]).is_err());
    assert!(judge(vec![before, list(&[(0, 7, 1), (1, 13, 2)])]).unwrap_err().contains("version 1 of account 0"));
}

#[test]
fn the_append_checker_finds_what_is_lost_doubled_forked_or_old() {
    use append::{Answer::*, Call::*};
    let judge = |calls| append::check(&sequence(calls));
    let add = |value| (Append { key: 7, value }, ok(Done));
    let read = |list: &[u64]| (append::Call::Read { key: 7 }, ok(append::Answer::Read(list.to_vec())));
    assert!(judge(vec![read(&[]), add(1), read(&[1]), add(2), read(&[1, 2])]).is_ok());
    assert!(judge(vec![add(1), read(&[])]).unwrap_err().contains("without the acknowledged 1"));
    assert!(judge(vec![add(1), add(2), read(&[2])]).unwrap_err().contains("without the acknowledged 1"));
    assert!(judge(vec![add(1), add(2), read(&[1]), read(&[1, 2])]).unwrap_err().contains("less than"));
    assert!(judge(vec![add(1), read(&[1, 1])]).unwrap_err().contains("twice"));
    assert!(judge(vec![add(1), add(2), read(&[1, 2]), read(&[2, 1])]).unwrap_err().contains("another"));
    assert!(judge(vec![read(&[3])]).unwrap_err().contains("never appended"));
    let failed = (Append { key: 7, value: 1 }, Outcome::Failed("conflict".into()));
    assert!(judge(vec![failed, read(&[1])]).unwrap_err().contains("its append failed"));
    let maybe = (Append { key: 7, value: 1 }, lost());
    for list in [&[][..], &[1]] {
        assert!(judge(vec![maybe.clone(), read(list)]).is_ok());
    }
    assert!(judge(vec![maybe.clone(), read(&[1]), read(&[])]).unwrap_err().contains("less than"), "reads go forward");
    assert!(judge(vec![maybe, add(2), read(&[2]), read(&[2, 1])]).is_ok(), "it may come late");
}

#[test]
fn the_session_checker_lets_only_other_sessions_be_late() {
    use session::{Answer::*, Call::*};
    let judge = |calls| session::check(&sequence(calls));
    let put = |session, value, version| (Put { session, key: 7, value }, ok(Written { version }));
    let get = |session, eventual, answer| (Get { session, key: 7, eventual }, ok(answer));
    let found = |value, version| Found { value, version, token: false };
    assert!(judge(vec![put(1, 10, 3), get(1, false, found(10, 3))]).is_ok());
    assert!(judge(vec![put(1, 10, 3), get(1, false, Absent)]).unwrap_err().contains("had seen 3"));
    assert!(judge(vec![put(1, 10, 3), get(2, false, Absent)]).is_ok(), "another session may be late");
    assert!(judge(vec![put(1, 10, 3), get(1, true, Absent)]).is_ok(), "an eventual read may be late");
    assert!(judge(vec![put(1, 10, 3), put(2, 11, 4), get(1, false, found(10, 3))]).is_ok());
    let older = vec![put(1, 10, 3), put(1, 11, 4), get(1, false, found(10, 3))];
    assert!(judge(older).unwrap_err().contains("shows version 3"));
    // What a token was given for must not be unseen.
    let seen = Found { value: 10, version: 3, token: true };
    assert!(judge(vec![put(1, 10, 3), get(2, false, seen.clone()), get(2, false, Absent)]).is_err());
    assert!(judge(vec![put(1, 10, 3), get(2, false, found(10, 3)), get(2, false, Absent)]).is_ok());
    assert!(judge(vec![put(1, 10, 3), get(2, true, found(12, 3))]).unwrap_err().contains("nobody wrote"));
    assert!(judge(vec![put(1, 10, 3), get(2, true, found(10, 5))]).unwrap_err().contains("was given 3"));
    assert!(judge(vec![get(2, true, found(10, 3)), put(1, 10, 3)]).unwrap_err().contains("not yet written"));
    // An eventual read may be late, but not by more than it was told.
    let late_by = |time_ns: u64| {
        let mut history = sequence(vec![put(1, 10, 3), get(2, true, Absent)]);
        let read = &mut history.operations[1];
        (read.start.time_ns, read.end) =
            (time_ns, read.end.take().map(|(end, answer)| (Stamp { time_ns, ..end }, answer)));
        session::check(&history)
    };
    let staleness_ns = session::STALENESS_MAX.as_nanos() as u64;
    assert!(late_by(staleness_ns).is_ok());
    assert!(late_by(staleness_ns / 10 * 11).unwrap_err().contains("anybody could have seen 3"));
    let lost_put = (Put { session: 1, key: 7, value: 10 }, lost());
    for answer in [Absent, found(10, 9)] {
        assert!(judge(vec![lost_put.clone(), get(1, false, answer)]).is_ok());
    }
}

#[test]
fn histories_are_written_as_jepsen_reads_them() {
    let history = sequence(vec![
        (put(1), ok(Answer::Written { version: 3 })),
        (Call::Get { key: 7 }, ok(Answer::Found { value: 1, version: 3 })),
        (Call::Delete { key: 7 }, lost()),
    ]);
    let events = export::events(&history);
    let edn = export::to_edn(&events);
    let lines: Vec<&str> = edn.lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0], "{:f :write, :index 0, :key 7, :process 0, :time 0, :type :invoke, :value 1}");
    assert_eq!(lines[3], "{:f :read, :index 3, :key 7, :process 0, :time 15, :type :ok, :value [1 3]}");
    assert!(lines[5].contains(":error \"connection reset\"") && lines[5].contains(":type :info"));
    let jsonl = export::to_jsonl(&events);
    let back: Vec<serde_json::Value> = jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(back, events);
}
