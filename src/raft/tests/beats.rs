//! Heartbeats that do not go through the library do what it would have done: a group at rest keeps its leader and its clocks, and
//! whatever is not at rest is left to the library.

use super::hand::Hand;
use super::*;
use crate::raft::beat::Beat;

/// Ticks everyone, and delivers the beats that `passes` lets through, by the short way only.
fn tick(hand: &mut Hand, passes: impl Fn(NodeId, NodeId) -> bool) {
    let nodes: Vec<NodeId> = hand.replicas.keys().copied().collect();
    for from in nodes {
        let beats = {
            let Hand { replicas, rng, .. } = hand;
            let replica = replicas.get_mut(&from).unwrap();
            replica.tick(rng);
            replica.take_beats()
        };
        for (to, beat) in beats.into_iter().filter(|(to, _)| passes(from, *to)) {
            let answer = hand.at(to).take_beat(from, &beat).expect("nothing new").expect("an answer");
            if passes(to, from) {
                assert_eq!(hand.at(from).take_beat(to, &answer), Some(None));
            }
        }
    }
}

fn has_work(hand: &mut Hand) -> bool {
    (1..=3).any(|node| hand.at(node).has_ready())
}

#[test]
fn a_group_at_rest_needs_no_more_than_beats() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    let term = hand.at(1).term();
    for _ in 0..100 {
        tick(&mut hand, |_, _| true);
        assert!(!has_work(&mut hand), "something went through the library");
    }
    assert!(hand.at(1).is_leader());
    assert_eq!((1..=3).map(|node| hand.at(node).term()).collect::<Vec<_>>(), [term; 3]);
}

#[test]
fn a_leader_that_hears_nothing_steps_down() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    (0..100).for_each(|_| tick(&mut hand, |from, to| [from, to] != [3, 1]));
    assert!(hand.at(1).is_leader(), "the other one answers");
    // It is heard itself: only check-quorum can end this.
    (0..21).for_each(|_| tick(&mut hand, |from, _| from == 1));
    assert!(!hand.at(1).is_leader());
}

#[test]
fn a_follower_that_hears_nothing_campaigns() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    (0..100).for_each(|_| tick(&mut hand, |_, _| true));
    (0..21).for_each(|_| tick(&mut hand, |_, to| to != 2));
    assert_eq!(hand.at(2).role(), Role::Candidate);
    assert_eq!(hand.at(3).role(), Role::Follower);
}

#[test]
fn what_a_beat_changes_is_left_to_the_library() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    let (term, commit) = (hand.at(1).term(), hand.at(1).committed());
    let (group, is_answer) = (GROUP, false);
    let plain = Beat { group, term, commit, is_answer };
    assert!(hand.at(2).take_beat(1, &plain).is_some());
    for (what, from, beat) in [
        ("an older term", 1, Beat { term: term - 1, ..plain }),
        ("a newer term", 1, Beat { term: term + 1, ..plain }),
        ("not its leader", 3, plain),
        ("more is committed", 1, Beat { commit: commit + 1, ..plain }),
        ("an answer to nobody's question", 1, Beat { is_answer: true, ..plain }),
    ] {
        assert_eq!(hand.at(2).take_beat(from, &beat), None, "{what}");
    }
    assert_eq!(hand.at(1).take_beat(2, &plain), None, "a leader is told that another leads");
    let answer = Beat { is_answer: true, ..plain };
    assert_eq!(hand.at(1).take_beat(9, &answer), None, "nobody's member");
    assert_eq!(hand.at(1).take_beat(2, &answer), Some(None));
    hand.propose(1, "more").unwrap();
    assert_eq!(hand.at(1).take_beat(2, &answer), None, "it lacks an entry");
    hand.carry(|_| true);
    assert_eq!(hand.at(2).take_beat(1, &plain), None, "its disk is not done");
    hand.calm();
    assert!(hand.at(2).take_beat(1, &plain).is_some());
}
