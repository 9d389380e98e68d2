//! A member that left its group and is back without its log, while another one was cut off and counts on what it acknowledged before.
//! On replicas without a driver, as in `rules`.

use super::hand::Hand;
use super::*;
use crate::raft::replica::MemberChange;
use ::raft::eraftpb::{Message, MessageType};

const LEADER: NodeId = 1;
const BACK: NodeId = 2;
const CUT_OFF: NodeId = 3;
const NEW: NodeId = 4;

/// The group of the first three replaces [`BACK`] by [`NEW`] and goes on without it; the old voter [`CUT_OFF`] knows nothing of that. The
/// index of what was acknowledged then.
fn replaced(hand: &mut Hand) -> LogIndex {
    hand.elect(LEADER);
    hand.propose(LEADER, "of the old members").unwrap();
    calm_without_one(hand);
    let changes = [MemberChange::Remove(BACK), MemberChange::AddVoter(NEW)];
    hand.do_at(LEADER, |replica, _| replica.propose_members(&changes)).unwrap();
    for _ in 0..30 {
        hand.do_at(LEADER, |replica, rng| replica.tick(rng));
        calm_without_one(hand);
    }
    assert_eq!(hand.at(LEADER).members().voters, [LEADER, CUT_OFF, NEW]);
    let index = hand.propose(LEADER, "acknowledged").unwrap();
    calm_without_one(hand);
    assert_eq!(hand.at(NEW).last_index(), index);
    assert!(hand.at(LEADER).committed() == index && hand.at(CUT_OFF).last_index() < index);
    index
}

fn calm_without_one(hand: &mut Hand) {
    for _ in 0..20 {
        settle(hand);
        hand.carry(without_one);
    }
}

fn without_one(message: &Message) -> bool {
    message.from != CUT_OFF && message.to != CUT_OFF
}

fn settle(hand: &mut Hand) {
    for node in [LEADER, BACK, CUT_OFF, NEW] {
        hand.sync(node);
        hand.apply(node);
    }
}

/// Whether the one that was cut off comes to lead if only the one that is back can help it.
fn wins_with_its_help(hand: &mut Hand) -> bool {
    for node in [BACK, CUT_OFF] {
        hand.do_at(node, |replica, rng| replica.forget_leader(LEADER, rng));
    }
    hand.do_at(CUT_OFF, |replica, rng| replica.campaign(rng));
    for _ in 0..10 {
        settle(hand);
        let is_between =
            |message: &Message| [message.from, message.to].iter().all(|node| [BACK, CUT_OFF].contains(node));
        hand.carry(is_between);
    }
    hand.at(CUT_OFF).is_leader()
}

/// Found by the simulation (`cluster_moves_switched_alias_names_one_table`, seed 41022): acknowledged entries were lost.
#[test]
fn an_emptied_log_does_not_help_an_old_one_to_win() {
    let mut hand = Hand::with_others(3, 1);
    let index = replaced(&mut hand);
    let term = hand.at(LEADER).term();
    hand.restart(BACK, |log| {
        log.leave_group(GROUP, term).unwrap();
        log.write([&LogWrite { group: GROUP, ..LogWrite::default() }]).unwrap();
    });
    assert_eq!((hand.at(BACK).last_index(), hand.at(BACK).term()), (0, term));
    assert!(!wins_with_its_help(&mut hand));
    // It is made a member again. What it gets first is a checkpoint of long ago, by which it is an old member, too.
    hand.do_at(LEADER, |replica, _| replica.propose_members(&[MemberChange::AddVoter(BACK)])).unwrap();
    while hand.at(BACK).leader().is_none() {
        hand.do_at(LEADER, |replica, rng| replica.tick(rng));
        settle(&mut hand);
        let is_lost = |message: &Message| message.to == BACK && message.get_msg_type() != MessageType::MsgHeartbeat;
        hand.carry(|message| without_one(message) && !is_lost(message));
    }
    let old = Members { index: 1, voters: vec![LEADER, BACK, CUT_OFF], ..Members::default() };
    assert!(hand.do_at(BACK, |replica, rng| replica.adopt(1, 1, &old, rng)));
    settle(&mut hand);
    hand.at(BACK).set_may_campaign(true);
    assert_eq!(hand.at(BACK).members().voters, old.voters);
    assert!(!wins_with_its_help(&mut hand));
    hand.do_at(BACK, |replica, rng| replica.campaign(rng));
    assert_eq!(hand.at(BACK).role(), Role::Follower, "nor does it ask for votes of old members");
    // With all of the log it is a member like any other.
    for _ in 0..60 {
        hand.do_at(LEADER, |replica, rng| replica.tick(rng));
        calm_without_one(&mut hand);
    }
    assert!(hand.at(BACK).last_index() > index);
    for node in [BACK, NEW] {
        hand.do_at(node, |replica, rng| replica.forget_leader(LEADER, rng));
    }
    hand.do_at(BACK, |replica, rng| replica.campaign(rng));
    for _ in 0..10 {
        settle(&mut hand);
        hand.carry(|message| message.from != LEADER && message.to != LEADER);
    }
    assert!(hand.at(BACK).is_leader() && hand.at(BACK).committed() > index);
}
