//! A group with one voter and others that only learn, as between two steps of a change of members: whoever votes alone has won at once,
//! before anything is on its disk. On replicas without a driver, as in `rules`.

use super::hand::Hand;
use crate::raft::replica::MemberChange;
use ::raft::eraftpb::{Message, MessageType};

/// Node 1 votes, node 2 learns, and both are calm.
fn only_voter_and_learner() -> Hand {
    let mut hand = Hand::with_others(1, 1);
    hand.elect(1);
    hand.do_at(1, |replica, _| replica.propose_members(&[MemberChange::AddLearner(2)])).unwrap();
    hand.calm();
    hand
}

/// Nobody's vote has waited for the disk where nobody else votes: led twice in one term, with two entries at one index, after a power
/// loss. (Found by `group_is_linearizable_while_members_change`, seed 91003.)
#[test]
fn what_the_only_voter_says_waits_until_its_term_is_on_the_disk() {
    let mut hand = only_voter_and_learner();
    let before = hand.at(1).term();
    hand.restart(1, |_| {});
    hand.do_at(1, |replica, rng| replica.campaign(rng));
    assert!(hand.at(1).is_leader() && hand.at(1).term() == before + 1);
    hand.propose(1, "lost").unwrap();
    assert_eq!(hand.kinds(), [], "its term is not on the disk");
    // Power loss: the term is another one for nobody, so it may be led once more.
    hand.restart(1, |_| {});
    hand.do_at(1, |replica, rng| replica.campaign(rng));
    assert_eq!((hand.at(1).term(), hand.kinds()), (before + 1, vec![]));
    hand.sync(1);
    assert_eq!(hand.kinds(), [MessageType::MsgAppend], "the leader's own entry");
    hand.calm();
    hand.propose(1, "a").unwrap();
    assert_eq!(hand.kinds(), [MessageType::MsgAppend], "from then on at once");
    hand.calm();
    assert_eq!(hand.at(2).last_index(), hand.at(1).committed());
}

/// With other voters it has not won before they answered a question that waited for the disk; the library counts on that.
#[test]
fn the_only_voter_does_not_campaign_before_its_log_is_on_the_disk() {
    let mut hand = only_voter_and_learner();
    does_not_win_before_its_log_is_durable(&mut hand);
}

/// The same while old and new members decide together, which are one and the same voter where only learners change.
#[test]
fn nor_does_the_only_voter_of_old_and_new_members() {
    let mut hand = only_voter_and_learner();
    let learners = [MemberChange::AddLearner(3), MemberChange::AddLearner(4)];
    hand.do_at(1, |replica, _| replica.propose_members(&learners)).unwrap();
    hand.sync(1);
    assert_eq!(hand.at(1).members().voters_outgoing, [1]);
    does_not_win_before_its_log_is_durable(&mut hand);
}

fn does_not_win_before_its_log_is_durable(hand: &mut Hand) {
    hand.propose(1, "a").unwrap();
    // Somebody has heard of a higher term, from a member that is none any more.
    let mut higher = Message { from: 2, to: 1, term: hand.at(1).term() + 1, ..Message::default() };
    higher.set_msg_type(MessageType::MsgHeartbeatResponse);
    hand.do_at(1, |replica, rng| replica.step(higher, rng));
    assert!(!hand.at(1).is_leader() && hand.at(1).persisted() < hand.at(1).last_index());
    hand.do_at(1, |replica, rng| replica.campaign(rng));
    for _ in 0..40 {
        hand.do_at(1, |replica, rng| replica.tick(rng));
    }
    assert!(!hand.at(1).is_leader());
    for _ in 0..6 {
        hand.sync(1);
        hand.apply(1);
    }
    hand.do_at(1, |replica, rng| replica.campaign(rng));
    assert!(hand.at(1).is_leader());
}
