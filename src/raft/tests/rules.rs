//! The rules that the library leaves to its user (the brief of replication), each on replicas without a driver.

use super::hand::Hand;
use super::*;
use crate::raft::replica::{MemberChange, NotProposed, Step, Work};
use crate::rt::rng;
use ::raft::eraftpb::{Message, MessageType};
use std::collections::VecDeque;

#[test]
fn rule_1_election_timeouts_are_drawn_by_us() {
    let mut hand = Hand::new(3);
    let mut drawn = Vec::new();
    for _ in 0..20 {
        let ticks = (1..=40).find(|_| {
            hand.do_at(1, |replica, rng| replica.tick(rng));
            !hand.on_the_way.is_empty()
        });
        drawn.push(ticks.unwrap());
        hand.on_the_way.clear();
    }
    assert!(drawn.iter().all(|ticks| (10..20).contains(ticks)), "{drawn:?}");
    let (mut again, mut other) = (Hand::new(3), Hand::new(3));
    (again.rng, other.rng) = (hand.rng.clone(), hand.rng.clone());
    for _ in 0..200 {
        again.do_at(2, |replica, rng| replica.tick(rng));
        other.do_at(2, |replica, rng| replica.tick(rng));
        assert_eq!(again.kinds(), other.kinds(), "the same chance, the same timeouts");
    }
}

#[test]
fn rule_2_a_checkpoint_is_installed_only_when_the_log_remembers_it() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    let members = hand.at(1).members().clone();
    let adopted = hand.do_at(2, |replica, rng| replica.adopt(50, 2, &members, rng));
    assert!(adopted);
    assert!(hand.steps.get(&2).is_none_or(Vec::is_empty), "not durable yet");
    assert_eq!(hand.at(2).mirror().log().last_index(GROUP), 2);
    hand.sync(2);
    assert!(matches!(hand.steps[&2][..], [Step::Install(50)]));
    assert_eq!(hand.at(2).mirror().log().bounds(GROUP), LogBounds::empty_behind(50, 2));
}

/// Three members, the first of which leads, while the second has adopted a checkpoint and its state is still older than that.
fn installing() -> Hand {
    let mut hand = Hand::new(3);
    hand.elect(1);
    let members = hand.at(1).members().clone();
    assert!(hand.do_at(2, |replica, rng| replica.adopt(50, 2, &members, rng)));
    hand.sync(2);
    hand.on_the_way.clear();
    hand
}

/// The library looks through what is committed and not applied before it campaigns, and that is not in the log any more.
#[test]
fn who_awaits_the_state_of_a_checkpoint_does_not_campaign_whatever_it_is_told() {
    let mut hand = installing();
    let campaigns = |hand: &mut Hand| {
        hand.at(2).set_may_campaign(true);
        hand.do_at(2, |replica, rng| replica.forget_leader(1, rng));
        hand.do_at(2, |replica, rng| replica.campaign(rng));
        (0..40).for_each(|_| hand.do_at(2, |replica, rng| replica.tick(rng)));
        hand.kinds().contains(&MessageType::MsgRequestPreVote)
    };
    assert!(!campaigns(&mut hand), "its state is older than its log");
    hand.apply(2);
    assert!(campaigns(&mut hand), "it has the state now");
}

#[test]
fn votes_and_acknowledgements_wait_for_the_disk_and_the_leaders_entries_do_not() {
    let mut hand = Hand::new(3);
    hand.do_at(1, |replica, rng| replica.campaign(rng));
    assert_eq!(hand.kinds(), [MessageType::MsgRequestPreVote; 2], "a pre-vote changes nothing");
    hand.carry(|_| true);
    hand.carry(|_| true);
    assert_eq!(hand.kinds(), [], "the vote for itself is not on the disk");
    hand.sync(1);
    assert_eq!(hand.kinds(), [MessageType::MsgRequestVote; 2]);
    hand.carry(|_| true);
    assert_eq!(hand.kinds(), [], "nor are those of the others");
    hand.sync(2);
    hand.sync(3);
    assert_eq!(hand.kinds(), [MessageType::MsgRequestVoteResponse; 2]);
    hand.calm();
    assert!(hand.at(1).is_leader());
    let index = hand.propose(1, "a").unwrap();
    assert_eq!(hand.kinds(), [MessageType::MsgAppend; 2], "at once, while its own disk is busy");
    hand.carry(|_| true);
    assert_eq!(hand.kinds(), []);
    hand.sync(2);
    hand.sync(3);
    assert_eq!(hand.kinds(), [MessageType::MsgAppendResponse; 2]);
    hand.carry(|_| true);
    assert_eq!(hand.at(1).committed(), index, "two disks are a majority, the leader's is not needed");
    assert!(hand.steps.get(&1).is_none_or(Vec::is_empty), "but it applies only what its own disk has");
    hand.sync(1);
    assert!(matches!(&hand.steps[&1][..], [Step::Apply(entries)] if entries[0].index == index));
}

#[test]
fn two_that_ask_at_once_refuse_each_other_and_need_not_wait_for_more() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    for node in [2, 3] {
        hand.do_at(node, |replica, rng| replica.forget_leader(1, rng));
        hand.do_at(node, |replica, rng| replica.campaign(rng));
    }
    let among_two = |message: &Message| message.from != 1 && message.to != 1;
    for _ in 0..2 {
        hand.carry(among_two);
    }
    hand.sync(2);
    assert!(hand.at(2).awaits_votes(), "its votes are under way");
    hand.sync(3);
    hand.carry(among_two);
    hand.carry(among_two);
    for node in [2, 3] {
        assert_eq!((hand.at(node).role(), hand.at(node).awaits_votes()), (Role::Candidate, false), "node {node}");
    }
    hand.do_at(2, |replica, rng| replica.campaign(rng));
    for _ in 0..6 {
        hand.carry(among_two);
        hand.sync(2);
        hand.sync(3);
    }
    assert!(hand.at(2).is_leader());
}

#[test]
fn the_voters_of_a_lost_leader_agree_on_their_turns() {
    let mut hand = Hand::new(5);
    let places: Vec<_> = [1, 3, 4, 5].map(|node| hand.at(node).place_among_successors(2)).into();
    assert_eq!(places, [(0, 4), (1, 4), (2, 4), (3, 4)]);
    let mut alone = Hand::new(1);
    assert_eq!(alone.at(1).place_among_successors(1), (0, 1));
}

#[test]
fn a_commit_index_alone_costs_no_sync() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    hand.propose(1, "a").unwrap();
    hand.carry(|_| true);
    for node in 1..=3 {
        hand.sync(node);
    }
    hand.carry(|_| true);
    hand.carry(|_| true);
    assert_eq!(hand.at(2).committed(), 3);
    assert!(hand.unsynced.values().all(VecDeque::is_empty), "{:?}", hand.unsynced);
}

#[test]
fn rule_4_a_lost_offer_is_made_again() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    for i in 0..20 {
        hand.propose(1, &format!("{i}")).unwrap();
        hand.carry(|message| message.to != 3 && message.from != 3);
        for node in [1, 2, 1] {
            hand.sync(node);
            hand.apply(node);
            hand.carry(|message| message.to != 3 && message.from != 3);
        }
    }
    hand.at(1).mirror_mut().compact(15).unwrap();
    let offer = |message: &Message| message.get_msg_type() == MessageType::MsgSnapshot;
    let offered = |hand: &mut Hand| {
        for _ in 0..12 {
            hand.do_at(1, |replica, rng| replica.tick(rng));
            if hand.on_the_way.iter().any(offer) {
                return true;
            }
            // The offer itself is always lost.
            hand.carry(|message| !offer(message));
            (1..=3).for_each(|node| hand.sync(node));
            if hand.on_the_way.iter().any(offer) {
                return true;
            }
        }
        false
    };
    hand.at(1).unreachable(3);
    assert!(offered(&mut hand));
    assert_eq!(hand.at(1).awaiting_checkpoint(), [3]);
    hand.on_the_way.clear();
    assert!(!offered(&mut hand), "the library waits for ever");
    hand.at(1).checkpoint_lost(3);
    assert!(offered(&mut hand));
}

#[test]
fn rule_6_only_a_leader_proposes_and_only_one_that_has_committed_answers_reads() {
    let mut hand = Hand::new(3);
    assert_eq!(hand.propose(2, "a"), Err(NotProposed::NotLeader));
    assert!(!hand.at(1).can_read());
    hand.elect(1);
    assert_eq!(hand.propose(2, "a"), Err(NotProposed::NotLeader));
    assert!(hand.kinds().is_empty(), "nothing is forwarded");
    assert!(hand.at(1).can_read() && hand.at(2).can_read());
    // A new leader has committed nothing of its own yet.
    hand.do_at(2, |replica, rng| {
        replica.forget_leader(1, rng);
        replica.campaign(rng);
    });
    hand.do_at(3, |replica, rng| replica.forget_leader(1, rng));
    for _ in 0..6 {
        (1..=3).for_each(|node| hand.sync(node));
        hand.carry(|message| message.get_msg_type() != MessageType::MsgAppend);
    }
    assert!(hand.at(2).is_leader() && !hand.at(2).can_read());
    // A proposal or a transfer that somebody else forwards is dropped.
    let mut forwarded = Message { from: 3, to: 2, ..Message::default() };
    forwarded.set_msg_type(MessageType::MsgPropose);
    let last = hand.at(2).last_index();
    hand.do_at(2, |replica, rng| replica.step(forwarded, rng));
    assert_eq!(hand.at(2).last_index(), last);
}

#[test]
fn rule_5_a_read_needs_a_majority_that_answers_its_own_question() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    hand.do_at(1, |replica, _| replica.read_index(b"first".to_vec()));
    let heartbeats: Vec<Message> = hand.on_the_way.drain(..).collect();
    assert!(hand.reads.get(&1).is_none_or(Vec::is_empty), "nobody has answered");
    hand.on_the_way.extend(heartbeats);
    hand.carry(|message| message.to == 2);
    hand.carry(|_| true);
    assert_eq!(hand.reads.remove(&1).unwrap(), [(2, b"first".to_vec())]);
    // Late answers to the first question answer no other.
    hand.do_at(1, |replica, _| replica.read_index(b"second".to_vec()));
    let mut late = Message { from: 3, to: 1, term: hand.at(1).term(), ..Message::default() };
    late.set_msg_type(MessageType::MsgHeartbeatResponse);
    late.context = Bytes::from_static(b"first");
    hand.on_the_way.clear();
    hand.do_at(1, |replica, rng| replica.step(late, rng));
    assert!(hand.reads.get(&1).is_none_or(Vec::is_empty));
}

#[test]
fn rule_10_every_member_begins_alike() {
    let mut hand = Hand::new(3);
    for node in 1..=3 {
        let replica = hand.at(node);
        assert_eq!((replica.term(), replica.committed(), replica.last_index()), (1, 1, 1));
        assert_eq!(replica.members().voters, [1, 2, 3]);
    }
    hand.elect(3);
    assert_eq!(hand.at(1).last_index(), 2, "one entry: the leader's own");
}

#[test]
fn rule_11_a_change_of_members_is_applied_only_when_it_is_remembered() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    let index = hand.do_at(1, |replica, _| replica.propose_members(&[MemberChange::AddLearner(9)])).unwrap();
    let second = hand.do_at(1, |replica, _| replica.propose_members(&[MemberChange::AddLearner(8)]));
    assert_eq!(second, Err(NotProposed::Busy), "one change at a time");
    hand.carry(|_| true);
    hand.sync(2);
    hand.carry(|_| true);
    // Entry and vote are durable; the members that follow from it are not.
    let write = hand.unsynced.get_mut(&1).unwrap().pop_front().unwrap();
    let mut work = Work::default();
    hand.at(1).mirror().log().write([&write.what]).unwrap();
    hand.at(1).written(write.number, &mut work);
    hand.keep(1, work);
    hand.collect(1);
    assert_eq!(hand.at(1).committed(), index);
    assert_eq!(hand.at(1).members().learners, [9]);
    assert!(hand.steps.get(&1).is_none_or(Vec::is_empty), "not applied yet");
    hand.sync(1);
    assert!(matches!(&hand.steps[&1][..], [Step::Apply(entries)] if entries[0].kind == EntryKind::Members));
    assert_eq!(hand.at(1).mirror().log().group(GROUP).unwrap().members.learners, [9]);
    let at = hand.at(1).mirror().members_at(index - 1).unwrap().clone();
    assert_eq!((at.index, at.learners), (1, vec![]), "a checkpoint from before knows the members from before");
}

#[test]
fn several_members_change_through_a_time_in_which_old_and_new_decide() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    hand.do_at(1, |replica, _| replica.propose_members(&[MemberChange::Remove(2), MemberChange::Remove(3)])).unwrap();
    hand.carry(|_| true);
    for node in [2, 1] {
        hand.sync(node);
        hand.carry(|_| true);
    }
    hand.sync(1);
    let members = hand.at(1).members().clone();
    assert_eq!((members.voters, members.voters_outgoing, members.auto_leave), (vec![1], vec![1, 2, 3], true));
    assert!(!hand.at(1).decides_alone());
    let index = hand.propose(1, "needs both").unwrap();
    hand.on_the_way.clear();
    hand.sync(1);
    assert!(hand.at(1).committed() < index, "the new voter alone does not decide");
    for _ in 0..30 {
        (1..=3).for_each(|node| hand.do_at(node, |replica, rng| replica.tick(rng)));
        hand.calm();
    }
    assert_eq!(hand.at(1).members().voters_outgoing, Vec::<NodeId>::new());
    assert!(hand.at(1).decides_alone() && hand.at(1).committed() > index);
}

#[test]
fn a_leader_that_is_removed_while_it_writes_leads_no_more() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    hand.do_at(1, |replica, _| replica.propose_members(&[MemberChange::Remove(1)])).unwrap();
    let last = hand.propose(1, "behind it").unwrap();
    // Found by the simulation (group scenario, seed 38): the acknowledgements of the second entry come to a leader that has
    // removed itself, which the library takes for impossible.
    hand.calm();
    assert!(!hand.at(1).is_leader());
    for node in [2, 3] {
        hand.do_at(node, |replica, rng| replica.forget_leader(1, rng));
    }
    hand.elect(2);
    assert!(hand.at(3).committed() > last && hand.at(3).members().voters == [2, 3]);
}

#[test]
fn rule_12_followers_of_a_dead_leader_elect_another_at_once() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    hand.do_at(2, |replica, rng| replica.campaign(rng));
    hand.calm();
    assert!(hand.at(1).is_leader(), "while a leader is known, votes for others are ignored");
    let mut hand = Hand::new(3);
    hand.elect(1);
    for node in [2, 3] {
        hand.do_at(node, |replica, rng| replica.forget_leader(1, rng));
        assert_eq!(hand.at(node).leader(), None);
    }
    hand.do_at(2, |replica, rng| replica.campaign(rng));
    for _ in 0..6 {
        hand.sync(2);
        hand.sync(3);
        hand.carry(|message| message.to != 1 && message.from != 1);
    }
    assert!(hand.at(2).is_leader());
    hand.at(2).forget_leader(2, &mut rng::stream("rules"));
    assert!(hand.at(2).is_leader(), "a leader is not forgotten by itself");
}

#[test]
fn entries_of_an_older_term_are_committed_only_with_one_of_the_present() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    // An entry that only 1 and 3 have, and nobody has committed.
    let index = hand.propose(1, "old").unwrap();
    hand.carry(|message| message.to == 3);
    for node in [1, 3] {
        hand.sync(node);
    }
    hand.on_the_way.clear();
    for node in [2, 3] {
        hand.do_at(node, |replica, rng| replica.forget_leader(1, rng));
    }
    hand.do_at(3, |replica, rng| replica.campaign(rng));
    for _ in 0..6 {
        hand.sync(2);
        hand.sync(3);
        hand.carry(|message| message.to != 1 && message.from != 1 && message.get_msg_type() != MessageType::MsgAppend);
    }
    assert!(hand.at(3).is_leader());
    assert!(hand.at(3).committed() < index);
    for _ in 0..6 {
        hand.do_at(3, |replica, rng| replica.tick(rng));
        hand.calm();
    }
    assert_eq!(hand.at(3).committed(), index + 1, "with the leader's own entry behind it");
}

/// Members are on the disk before a change of them is applied, a commit index need not be: after a restart the library hands the
/// change out once more. (Found by `group_is_linearizable_while_members_change`, seed 8: "can't leave a non-joint config".)
#[test]
fn a_change_of_members_that_the_log_remembers_does_not_happen_twice() {
    let mut hand = Hand::new(3);
    hand.elect(1);
    hand.do_at(1, |replica, _| replica.propose_members(&[MemberChange::Remove(2), MemberChange::Remove(3)])).unwrap();
    for _ in 0..30 {
        (1..=3).for_each(|node| hand.do_at(node, |replica, rng| replica.tick(rng)));
        hand.calm();
    }
    let found = hand.at(1).mirror().log().group(GROUP).unwrap();
    let members = found.members;
    assert!(members.voters == [1] && members.voters_outgoing.is_empty(), "{members:?}");
    assert!(found.hard.commit < members.index, "the log knows of the change, not that it is committed");
    hand.restart(1, |_| {});
    (hand.unsynced, hand.steps) = Default::default();
    hand.on_the_way.clear();
    // Nobody campaigns before it has applied the changes it knows to be committed.
    hand.collect(1);
    hand.calm();
    hand.elect(1);
    assert_eq!(hand.at(1).committed(), hand.at(1).last_index());
    assert_eq!(*hand.at(1).members(), members);
}

/// Installing may take longer than an election timeout. (Found by `group_is_linearizable_while_members_change` with a slow disk:
/// "unexpected error getting unapplied entries".)
#[test]
fn who_is_installing_a_checkpoint_does_not_campaign() {
    let mut hand = installing();
    for _ in 0..60 {
        hand.do_at(2, |replica, rng| replica.tick(rng));
    }
    assert_eq!(hand.kinds(), []);
    hand.do_at(2, |replica, rng| {
        replica.applied(50, usize::MAX, rng);
        replica.set_may_campaign(true);
    });
    for _ in 0..40 {
        hand.do_at(2, |replica, rng| replica.tick(rng));
    }
    assert!(hand.kinds().contains(&MessageType::MsgRequestPreVote), "{:?}", hand.kinds());
}
