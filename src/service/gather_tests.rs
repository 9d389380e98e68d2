//! Gatherings in virtual time: what is asked of whom and when, over scripted answers.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(ms: u64) -> Instant {
    Instant::START + MS * ms as u32
}

fn limits(patience_ms: u64, deadline_ms: u64) -> Limits {
    Limits { deadline: at(deadline_ms), patience: at(patience_ms), give_up: at(deadline_ms) }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "node_unreachable", "gone")
}

fn asks(gather: &mut Gather<'_, impl FnMut(ShardId) -> Vec<NodeId>>) -> Vec<(AskId, NodeId, Vec<ShardId>)> {
    gather.take_asks().into_iter().map(|ask| (ask.id, ask.node, ask.shards)).collect()
}

/// Holders of shards 1 to 4 on nodes 10, 20 and 30, two each.
fn placed(shard: ShardId) -> Vec<NodeId> {
    match shard {
        1 | 2 => vec![10, 20],
        3 => vec![20, 30],
        _ => vec![30, 10],
    }
}

#[test]
fn one_ask_a_node_carries_all_its_shards() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Search, &[1, 2, 3, 4], limits(0, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather), [(1, 10, vec![1, 2]), (2, 20, vec![3]), (3, 30, vec![4])]);
    for (ask, shard) in [(1, 2), (3, 4), (2, 3), (1, 1)] {
        assert!(!gather.is_over());
        assert!(gather.answered(ask, shard, at(1)));
    }
    assert!(gather.is_over() && gather.take_failures().is_empty() && asks(&mut gather).is_empty());
    assert!(!gather.answered(1, 1, at(2)), "a second answer is nobody's");
    assert!(!gather.answered(9, 1, at(2)), "nor that of an ask that never was");
}

#[test]
fn a_node_that_breaks_off_is_replaced_for_what_it_owes() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Search, &[1, 2], limits(0, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather), [(1, 10, vec![1, 2])]);
    assert!(gather.answered(1, 1, at(1)));
    gather.ended(1, &unavailable(), at(2));
    assert_eq!(asks(&mut gather), [(2, 20, vec![2])]);
    assert!(reach.is_passed_over(10, at(3)));
    gather.refused(2, 2, unavailable(), at(3));
    assert!(gather.is_over(), "without patience every holder is asked once");
    assert_eq!(gather.take_failures(), [(2, unavailable())]);
}

#[test]
fn a_node_that_is_busy_is_not_taken_for_one_that_failed() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Search, &[1], limits(0, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather), [(1, 10, vec![1])]);
    gather.ended(1, &Error::new(ErrorKind::Exhausted, "queue_full", "too many calls"), at(1));
    assert_eq!(asks(&mut gather), [(2, 20, vec![1])]);
    assert!(!reach.is_passed_over(10, at(1)));
    gather.ended(2, &unavailable(), at(2));
    assert!(reach.is_passed_over(20, at(2)));
}

#[test]
fn rounds_are_repeated_while_the_patience_lasts() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Get, &[1], limits(100, 1_000), |_| vec![10], at(0));
    let (mut now, mut asked_at) = (at(0), Vec::new());
    while !gather.is_over() {
        for (ask, ..) in asks(&mut gather) {
            asked_at.push((now - Instant::START).as_millis());
            gather.ended(ask, &unavailable(), now);
        }
        now = gather.wake_at();
        gather.tick(now);
    }
    assert_eq!(asked_at, [0, 10, 30, 70], "pauses of 10, 20 and 40 ms; after 80 more it would be too late");
    assert_eq!(gather.take_failures().len(), 1);
}

#[test]
fn a_shard_without_a_holder_is_looked_up_again() {
    let reach = Reach::new(1);
    let mut lookups = 0;
    let holders = |_| {
        lookups += 1;
        if lookups < 3 { Vec::new() } else { vec![10] }
    };
    let mut gather = Gather::new(&reach, Kind::Get, &[1], limits(500, 1_000), holders, at(0));
    assert!(asks(&mut gather).is_empty());
    gather.tick(at(10));
    assert_eq!((asks(&mut gather), gather.wake_at()), (vec![], at(30)));
    gather.tick(at(30));
    assert_eq!(asks(&mut gather), [(1, 10, vec![1])]);
    let mut gather = Gather::new(&reach, Kind::Get, &[1], limits(0, 1_000), |_| Vec::new(), at(0));
    assert_eq!(gather.take_failures()[0].1.code(), "shard_not_here");
}

#[test]
fn a_refusal_is_final_and_settles_its_shard_alone() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Search, &[1, 2], limits(900, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather).len(), 1);
    gather.refused(1, 1, Error::invalid("session_ahead", "too far"), at(1));
    assert_eq!(gather.take_failures()[0].1.code(), "session_ahead");
    assert!(asks(&mut gather).is_empty() && !gather.is_over());
    assert!(gather.answered(1, 2, at(1)) && gather.is_over());
    assert!(!reach.is_passed_over(10, at(1)), "it answered");
}

#[test]
fn a_slow_node_is_hedged_and_the_first_answer_wins() {
    let reach = Reach::new(1);
    for _ in 0..20 {
        reach.asked(10, Kind::Get);
        reach.answered(10, Kind::Get, 8 * MS);
    }
    let mut gather = Gather::new(&reach, Kind::Get, &[1, 2], limits(0, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather), [(1, 10, vec![1, 2])]);
    assert!(gather.answered(1, 1, at(3)));
    assert_eq!(gather.wake_at(), at(8), "its p95");
    gather.tick(at(7));
    assert!(asks(&mut gather).is_empty());
    gather.tick(at(8));
    assert_eq!(asks(&mut gather), [(2, 20, vec![2])], "only what it still owes");
    assert!(gather.answered(2, 2, at(9)) && gather.is_over());
    assert!(!gather.answered(1, 2, at(10)), "the loser's answer is dropped");
}

#[test]
fn the_slow_one_may_still_win_and_one_failure_does_not_end_the_race() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Get, &[1], limits(0, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather).len(), 1);
    gather.tick(at(100));
    assert_eq!(asks(&mut gather), [(2, 20, vec![1])]);
    gather.ended(2, &unavailable(), at(101));
    assert!(!gather.is_over() && asks(&mut gather).is_empty());
    assert!(gather.answered(1, 1, at(500)));
}

#[test]
fn hedges_have_a_budget() {
    let reach = Reach::new(1);
    let mut hedged = 0;
    for _ in 0..1_000 {
        let mut gather = Gather::new(&reach, Kind::Get, &[1], limits(0, 1_000), placed, at(0));
        assert_eq!(asks(&mut gather).len(), 1);
        // No sooner than the p95 of what it took before.
        gather.tick(at(101));
        hedged += asks(&mut gather).len();
        assert!(gather.answered(1, 1, at(101)) && gather.is_over());
    }
    // A hedge is an ask itself and pays a tenth of the next one.
    assert!((100..=113).contains(&hedged), "{hedged} hedges of 1,000 asks");
}

#[test]
fn one_deadline_ends_all() {
    let reach = Reach::new(1);
    let mut gather = Gather::new(&reach, Kind::Search, &[1, 3], limits(900, 1_000), placed, at(0));
    assert_eq!(asks(&mut gather).len(), 2);
    gather.refused(2, 3, unavailable(), at(10));
    assert_eq!(asks(&mut gather), [(3, 30, vec![3])]);
    gather.tick(at(1_000));
    let failures = gather.take_failures();
    assert_eq!(
        failures.iter().map(|(shard, error)| (*shard, error.code())).collect::<Vec<_>>(),
        [(1, "read_timeout"), (3, "node_unreachable")]
    );
    assert!(gather.is_over());
}

#[test]
fn who_takes_a_part_does_not_wait_for_every_holder_of_a_shard_that_fails() {
    let reach = Reach::new(1);
    let limits = Limits { give_up: at(500), ..limits(0, 1_000) };
    let mut gather = Gather::new(&reach, Kind::List, &[1, 3, 4], limits, placed, at(0));
    assert_eq!(asks(&mut gather), [(1, 10, vec![1]), (2, 20, vec![3]), (3, 30, vec![4])]);
    gather.refused(1, 1, unavailable(), at(300));
    assert_eq!(asks(&mut gather), [(4, 20, vec![1])]);
    gather.tick(at(499));
    assert!(gather.take_failures().is_empty());
    assert!(gather.wake_at() <= at(500));
    gather.tick(at(500));
    assert_eq!(gather.take_failures(), [(1, unavailable())], "the second holder is not waited for");
    assert!(gather.wake_at() > at(500));
    asks(&mut gather);
    gather.refused(2, 3, unavailable(), at(600));
    assert_eq!(gather.take_failures(), [(3, unavailable())], "nor is one asked after that");
    assert!(gather.answered(3, 4, at(900)), "who is slow and has not failed is");
    assert!(gather.is_over());
}

#[test]
fn a_gathering_that_is_dropped_leaves_no_load_behind() {
    let reach = Reach::new(1);
    for node in [10, 20] {
        reach.asked(node, Kind::Get);
        reach.answered(node, Kind::Get, 10 * MS);
    }
    for _ in 0..5 {
        drop(Gather::new(&reach, Kind::Get, &[1], limits(0, 1_000), placed, at(0)));
    }
    reach.asked(20, Kind::Get);
    assert_eq!(reach.order(&[10, 20], at(0)), [10, 20], "node 10 has nothing under way, 20 has one");
}

#[test]
fn many_shards_of_a_node_go_in_several_asks() {
    let reach = Reach::new(1);
    let shards: Vec<ShardId> = (0..10_000).collect();
    let mut gather = Gather::new(&reach, Kind::Figures, &shards, limits(0, 1_000), |_| vec![10], at(0));
    let sizes: Vec<usize> = asks(&mut gather).iter().map(|(.., shards)| shards.len()).collect();
    assert_eq!(sizes, [SHARDS_PER_ASK_MAX, SHARDS_PER_ASK_MAX, 10_000 - 2 * SHARDS_PER_ASK_MAX]);
}
