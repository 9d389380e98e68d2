//! Requests take effect once, and are forgotten in order.

use super::rig::{REQUEST_IDS_MAX, Rig, any_command, point, request, upsert};
use crate::{
    shard::{
        command::Command,
        commands,
        outcome::{Applied, Outcome},
    },
    types::RequestId,
};
use proptest::prelude::*;
use std::collections::VecDeque;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a plain list of the latest requests.
    #[test]
    fn a_remembered_request_gets_its_first_outcome_and_changes_nothing(
        rounds in prop::collection::vec(prop::collection::vec(any_command(), 1..6), 1..15),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(directory.path());
        let mut remembered: VecDeque<(RequestId, Outcome)> = VecDeque::new();
        for round in rounds {
            let before = rig.contents();
            let outcomes = rig.apply(&round);
            let mut only_retries = true;
            for (command, outcome) in round.iter().zip(outcomes) {
                let request = if command.is_empty() { None } else { Command::decode(command).unwrap().0 };
                let first = remembered.iter().find(|(id, _)| Some(*id) == request);
                if let Some((_, first)) = first {
                    prop_assert_eq!(first, &outcome);
                    continue;
                }
                only_retries &= command.is_empty();
                if let Some(request) = request {
                    remembered.push_back((request, outcome));
                    if remembered.len() as u64 > REQUEST_IDS_MAX {
                        remembered.pop_front();
                    }
                }
            }
            let after = rig.contents();
            if only_retries {
                prop_assert_eq!((after.hash, &after.points), (before.hash, &before.points));
            }
            prop_assert!(remembered.iter().all(|(id, _)| after.requests.contains_key(id)));
        }
    }
}

#[test]
fn a_refusal_is_remembered_though_a_retry_would_not_be_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path());
    let guarded = commands::upsert(vec![point(1, 1, Some(1))], Some(request(1))).unwrap();
    let refused = rig.apply(std::slice::from_ref(&guarded)).remove(0);
    let Outcome::Refused(error) = &refused else { panic!("{refused:?}") };
    assert_eq!(error.code(), "version_mismatch");
    rig.apply(&[upsert(1, 5, None)]);
    let before = rig.contents();
    drop(rig);
    let mut rig = Rig::open(directory.path());
    assert_eq!(rig.apply(&[guarded]), [refused]);
    assert_eq!(rig.contents().hash, before.hash);
}

#[test]
fn the_oldest_request_is_forgotten_within_a_round_as_between_rounds() {
    let ids = 1..=REQUEST_IDS_MAX as u8 + 1;
    let mut log: Vec<_> = ids.map(|number| upsert(number, number, Some(request(number)))).collect();
    // The first is forgotten by now, the second is not until the first is remembered again.
    log.extend([upsert(2, 0, Some(request(2))), upsert(1, 0, Some(request(1))), upsert(2, 0, Some(request(2)))]);
    let n = log.len() as u64;
    for rounds in [vec![&log[..]], log.chunks(1).collect(), log.chunks(REQUEST_IDS_MAX as usize).collect()] {
        let directory = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(directory.path());
        let outcomes: Vec<_> = rounds.iter().flat_map(|round| rig.apply(round)).collect();
        let versions = [2, n - 1, n].map(|version| Outcome::Applied(Applied::Written { version }));
        assert_eq!(outcomes[outcomes.len() - 3..], versions);
        assert_eq!(rig.contents().requests.len() as u64, REQUEST_IDS_MAX);
    }
}

#[test]
fn the_logs_own_entries_only_move_the_applied_index() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path());
    rig.apply(&[upsert(1, 1, Some(request(1)))]);
    let before = rig.contents();
    assert_eq!(rig.apply(&[Default::default()]), [Outcome::Applied(Applied::Nothing)]);
    drop(rig);
    let after = Rig::open(directory.path()).contents();
    assert_eq!((after.applied, after.hash, after.points), (2, before.hash, before.points));
}
