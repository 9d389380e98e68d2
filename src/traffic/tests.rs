//! The room in virtual time: shares, stickiness, bounded movement, slow start, ejection and return, and a queueing model in
//! which the default policy must beat blind ones.

use super::*;
use crate::rt::time::Instant;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("node-{i}")).collect()
}

fn wanted(names: &[String]) -> Vec<Wanted<()>> {
    names.iter().map(|name| Wanted { name: name.clone(), weight: 1.0, accepts: true, value: () }).collect()
}

/// A balancer over `n` equal backends whose slow start is over at 1 s.
fn balancer(policy: impl Policy + 'static, n: usize, seed: u64) -> Balancer<()> {
    let options = BalancerOptions { slow_start: Duration::from_secs(1), ..BalancerOptions::default() };
    let balancer = Balancer::new(options, Box::new(policy), Box::new(StdRng::seed_from_u64(seed)));
    balancer.set(wanted(&names(n)), at(0));
    balancer
}

/// How many of `requests` short requests each backend gets.
fn shares(
    balancer: &Balancer<()>,
    requests: usize,
    now: Instant,
    ask: impl Fn(usize) -> Ask<'static>,
) -> BTreeMap<String, usize> {
    let mut got = BTreeMap::new();
    for i in 0..requests {
        let pick = balancer.pick(&ask(i), now).expect("there are backends");
        *got.entry(pick.name().to_owned()).or_default() += 1;
        pick.finish(Outcome::Answered(Duration::from_millis(1)), now);
    }
    got
}

fn plain(_: usize) -> Ask<'static> {
    Ask::default()
}

fn keyed(i: usize) -> Ask<'static> {
    Ask { key: Some(token(&i.to_le_bytes())), ..Ask::default() }
}

#[test]
fn round_robin_is_even_and_takes_turns() {
    let balancer = balancer(RoundRobin::default(), 3, 1);
    let now = at(5_000);
    let order: Vec<String> =
        (0..6).map(|_| balancer.pick(&Ask::default(), now).expect("one").name().to_owned()).collect();
    assert_eq!(order[..3], order[3..]);
    assert!(shares(&balancer, 999, now, plain).values().all(|got| *got == 333));
}

#[test]
fn weights_give_exact_shares_and_can_change_at_any_time() {
    let balancer = balancer(Weighted::default(), 3, 1);
    balancer.set_weight("node-0", 5.0);
    let now = at(5_000);
    let got = shares(&balancer, 700, now, plain);
    assert_eq!((got["node-0"], got["node-1"], got["node-2"]), (500, 100, 100));
    balancer.set_weight("node-0", 1.0);
    balancer.set_weight("node-1", f64::NAN);
    let got = shares(&balancer, 300, now, plain);
    assert!(got.values().all(|got| (99..=101).contains(got)), "{got:?}");
    // Smooth: with weights 5, 1, 1 never more than five in a row go to the first.
    balancer.set_weight("node-0", 5.0);
    let mut in_a_row = 0;
    for _ in 0..70 {
        let pick = balancer.pick(&Ask::default(), now).expect("one");
        in_a_row = if pick.name() == "node-0" { in_a_row + 1 } else { 0 };
        assert!(in_a_row <= 5);
    }
}

#[test]
fn least_connections_evens_out_what_is_under_way() {
    let balancer = balancer(LeastConnections, 4, 7);
    let now = at(5_000);
    let mut held: Vec<Pick<()>> = (0..40).map(|_| balancer.pick(&Ask::default(), now).expect("one")).collect();
    assert!(balancer.statistics(now).iter().all(|one| one.in_flight == 10));
    held.retain(|pick| pick.name() != "node-2");
    let got: Vec<Pick<()>> = (0..10).map(|_| balancer.pick(&Ask::default(), now).expect("one")).collect();
    assert!(got.iter().all(|pick| pick.name() == "node-2"));
    drop((held, got));
    assert!(balancer.statistics(now).iter().all(|one| one.in_flight == 0));
}

#[test]
fn what_was_dropped_is_counted_as_given_up() {
    let balancer = balancer(PowerOfTwo, 1, 1);
    drop(balancer.pick(&Ask::default(), at(1)));
    let statistics = &balancer.statistics(at(1))[0];
    assert_eq!((statistics.requests, statistics.abandoned, statistics.failures, statistics.in_flight), (1, 1, 0, 0));
}

#[test]
fn a_new_backend_starts_slowly() {
    for policy in [Box::new(Weighted::default()) as Box<dyn Policy>, Box::new(RoundRobin::default())] {
        let options = BalancerOptions { slow_start: Duration::from_secs(10), ..BalancerOptions::default() };
        let balancer = Balancer::new(options, policy, Box::new(StdRng::seed_from_u64(3)));
        balancer.set(wanted(&names(3)), at(0));
        balancer.set(wanted(&names(4)), at(60_000));
        let share = |now| shares(&balancer, 4_000, now, plain)["node-3"];
        // Ramp 0.05 beside three at 1: 0.05 / 3.05 of 4000.
        assert!((60..=72).contains(&share(at(60_001))), "{}", share(at(60_001)));
        let half = share(at(65_000));
        assert!((560..=580).contains(&half), "{half}");
        assert!((995..=1_005).contains(&share(at(70_000))));
    }
}

#[test]
fn a_failing_backend_goes_is_checked_and_comes_back_slowly() {
    let balancer = balancer(RoundRobin::default(), 3, 1);
    let fail = |now| loop {
        let pick = balancer.pick(&Ask::default(), now).expect("one");
        if pick.name() == "node-1" {
            return pick.finish(Outcome::Failed, now);
        }
        pick.finish(Outcome::Answered(Duration::from_millis(1)), now);
    };
    (0..3).for_each(|_| fail(at(5_000)));
    let state = |now| balancer.statistics(now)[1].state;
    assert_eq!(state(at(5_000)), State::Ejected);
    assert!(!shares(&balancer, 300, at(5_001), plain).contains_key("node-1"));
    let due = |ms| balancer.checks_due(at(ms)).iter().map(|check| check.name.to_string()).collect::<Vec<_>>();
    assert_eq!(due(5_001), ["node-0", "node-2"], "one that is out is left alone");
    assert_eq!(due(5_499), [""; 0], "a check under way is not asked for again");
    assert_eq!(due(5_500), ["node-1"]);
    balancer.checked("node-1", Verdict::Unreachable, at(5_600));
    assert_eq!(due(6_599), [""; 0], "left alone for longer each time");
    assert_eq!(due(6_600), ["node-1"]);
    balancer.checked("node-1", Verdict::Ready, at(6_600));
    assert_eq!(state(at(6_600)), State::In);
    let share = shares(&balancer, 3_000, at(6_601), plain)["node-1"];
    assert!((50..=120).contains(&share), "it starts slowly again: {share}");
    assert_eq!(balancer.statistics(at(6_601))[1].ejections, 1);
}

#[test]
fn one_that_is_not_ready_gets_nothing_unless_nobody_else_is_left() {
    let balancer = balancer(PowerOfTwo, 2, 1);
    balancer.checks_due(at(10));
    balancer.checked("node-0", Verdict::NotReady, at(11));
    assert!(!shares(&balancer, 100, at(2_000), plain).contains_key("node-0"));
    (0..3).for_each(|_| balancer.checked("node-1", Verdict::Unreachable, at(2_000)));
    let pick = balancer.pick(&Ask::default(), at(2_001)).expect("the one that answers");
    assert!(pick.name() == "node-0" && pick.was_out());
    let avoid = [pick.token()];
    let other = balancer.pick(&Ask { avoid: &avoid, ..Ask::default() }, at(2_001)).expect("the other");
    assert!(other.name() == "node-1" && other.was_out());
    // A request that succeeds there brings it back without a check.
    other.finish(Outcome::Answered(Duration::from_millis(1)), at(2_002));
    assert_eq!(balancer.statistics(at(2_002))[1].state, State::In);
    let both = [token(b"node-0"), token(b"node-1")];
    assert!(balancer.pick(&Ask { avoid: &both, ..Ask::default() }, at(2_003)).is_none());
}

#[test]
fn affinity_sticks_while_the_backend_is_in() {
    let balancer = balancer(PowerOfTwo, 5, 9);
    let now = at(5_000);
    for client in 0..50u64 {
        let ask = Ask { affinity: Some(Affinity::Client(token(&client.to_le_bytes()))), ..Ask::default() };
        let first = balancer.pick(&ask, now).expect("one").name().to_owned();
        assert!((0..20).all(|_| balancer.pick(&ask, now).expect("one").name() == first));
        let named = Ask { affinity: Some(Affinity::Backend(token(first.as_bytes()))), ..Ask::default() };
        assert!((0..20).all(|_| balancer.pick(&named, now).expect("one").name() == first));
    }
    let gone = Ask { affinity: Some(Affinity::Backend(token(b"node-9"))), ..Ask::default() };
    assert!(shares(&balancer, 100, now, |_| gone).len() > 1, "an unknown one falls back to the policy");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A backend that goes gives up its own keys only; one that comes takes its share and nothing else moves.
    #[test]
    fn consistent_hashing_moves_no_more_than_it_must(n in 2usize..20, gone in 0usize..20, weight in 1u32..4) {
        let keys = 4_000;
        let owner = |balancer: &Balancer<()>| -> Vec<String> {
            (0..keys).map(|i| balancer.pick(&keyed(i), at(60_000)).expect("one").name().to_owned()).collect()
        };
        let all = balancer(ConsistentHash, n, 1);
        all.set_weight("node-0", f64::from(weight));
        let before = owner(&all);
        let gone = format!("node-{}", gone % n);
        let mut left = wanted(&names(n));
        left[0].weight = f64::from(weight);
        left.retain(|backend| backend.name != gone);
        all.set(left, at(0));
        let after = owner(&all);
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before == after || *before == gone);
        }
        let first = before.iter().filter(|name| *name == "node-0").count() as f64 / keys as f64;
        let fair = f64::from(weight) / (n as f64 - 1.0 + f64::from(weight));
        prop_assert!((first - fair).abs() < 0.04, "node-0 has {first} of the keys, fair is {fair}");
    }

    /// Whatever happens in whatever order, what is under way adds up, nobody who is to be avoided is chosen, and nobody who
    /// is out is chosen while another is in.
    #[test]
    fn every_history_keeps_the_books(seed in any::<u64>(), policy in 0usize..5) {
        let policies: [Box<dyn Policy>; 5] = [
            Box::new(RoundRobin::default()), Box::new(Weighted::default()), Box::new(LeastConnections),
            Box::new(ConsistentHash), Box::new(PowerOfTwo),
        ];
        let policy = policies.into_iter().nth(policy).expect("one of five");
        let balancer = Balancer::new(BalancerOptions::default(), policy, Box::new(StdRng::seed_from_u64(seed)));
        let mut rng = StdRng::seed_from_u64(seed ^ 1);
        let (mut now_ms, mut held) = (0u64, Vec::<Pick<()>>::new());
        for _ in 0..400 {
            now_ms += rng.random_range(0..200);
            let now = at(now_ms);
            match rng.random_range(0..10) {
                0 => balancer.set(wanted(&names(rng.random_range(0..6))), now),
                1 => for check in balancer.checks_due(now) {
                    let verdicts = [Verdict::Ready, Verdict::NotReady, Verdict::Unreachable];
                    balancer.checked(&check.name, verdicts[rng.random_range(0..3)], now);
                },
                2..=5 => {
                    let avoid: Vec<Token> = held.iter().take(2).map(Pick::token).collect();
                    let ask = Ask { key: Some(rng.random()), avoid: &avoid, ..Ask::default() };
                    let others_in = balancer.statistics(now).iter()
                        .any(|one| one.state == State::In && !avoid.contains(&token(one.name.as_bytes())));
                    let picked = balancer.pick(&ask, now);
                    prop_assert!(picked.as_ref().is_none_or(|pick| !avoid.contains(&pick.token())));
                    prop_assert!(picked.as_ref().is_none_or(|pick| pick.was_out() != others_in));
                    prop_assert!(picked.is_some() || !others_in);
                    held.extend(picked);
                }
                _ if held.is_empty() => {}
                kind => {
                    let pick = held.swap_remove(rng.random_range(0..held.len()));
                    match kind {
                        6 => drop(pick),
                        7 | 8 => pick.finish(Outcome::Failed, now),
                        _ => pick.finish(Outcome::Answered(Duration::from_millis(rng.random_range(1..50))), now),
                    }
                }
            }
            for one in balancer.statistics(now) {
                let here = held.iter().filter(|pick| pick.name() == &*one.name).count();
                // Requests under way to a backend that went are not counted for the one of the same name that came.
                prop_assert!(one.in_flight as usize <= here, "{one:?} holds {here}");
                prop_assert!(one.failures + one.abandoned + u64::from(one.in_flight) <= one.requests);
            }
        }
    }
}

/// One request at a time per backend, first come first served, at these service times; requests come evenly every
/// `gap_ns`. The 99th percentile of the time from arrival to answer, and each backend's share.
fn queueing(policy: impl Policy + 'static, service_us: &[u64], gap_ns: u64, requests: usize) -> (Duration, Vec<f64>) {
    let balancer = balancer(policy, service_us.len(), 5);
    let mut rng = StdRng::seed_from_u64(11);
    let mut free_at = vec![0u64; service_us.len()];
    let mut ends: BinaryHeap<std::cmp::Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut picks: BTreeMap<usize, (Pick<()>, u64)> = BTreeMap::new();
    let mut took = Vec::new();
    let start = 2_000_000_000u64;
    for i in 0..requests {
        let arrives = start + i as u64 * gap_ns;
        while ends.peek().is_some_and(|std::cmp::Reverse((end, _))| *end <= arrives) {
            let std::cmp::Reverse((end, request)) = ends.pop().expect("peeked");
            let (pick, arrived) = picks.remove(&request).expect("under way");
            took.push(end - arrived);
            pick.finish(Outcome::Answered(Duration::from_nanos(end - arrived)), Instant::from_nanos(end));
        }
        let pick = balancer.pick(&Ask::default(), Instant::from_nanos(arrives)).expect("one");
        let backend: usize = pick.name().strip_prefix("node-").and_then(|at| at.parse().ok()).expect("a number");
        let service = service_us[backend] * 1_000 * rng.random_range(50..150) / 100;
        let end = free_at[backend].max(arrives) + service;
        free_at[backend] = end;
        picks.insert(i, (pick, arrives));
        ends.push(std::cmp::Reverse((end, i)));
    }
    took.sort_unstable();
    let statistics = balancer.statistics(Instant::from_nanos(start));
    let shares = statistics.iter().map(|one| one.requests as f64 / requests as f64).collect();
    (Duration::from_nanos(took[took.len() * 99 / 100]), shares)
}

#[test]
fn two_choices_are_even_among_equals() {
    let (p99, shares) = queueing(PowerOfTwo, &[1_000; 5], 280_000, 20_000);
    assert!(shares.iter().all(|share| (0.17..0.23).contains(share)), "{shares:?}");
    assert!(p99 < Duration::from_millis(6), "{p99:?}");
}

#[test]
fn two_choices_spare_a_slow_backend_where_turns_drown_it() {
    // Two backends take 1 ms, one takes 5 ms: together 2.2 requests a ms; 1.25 a ms come.
    let service_us = [1_000, 1_000, 5_000];
    let (two, shares) = queueing(PowerOfTwo, &service_us, 800_000, 20_000);
    let (turns, _) = queueing(RoundRobin::default(), &service_us, 800_000, 20_000);
    assert!(shares[2] < 0.2, "{shares:?}");
    assert!(two < Duration::from_millis(20) && turns > two * 20, "{two:?} against {turns:?}");
}

#[test]
fn a_backend_that_is_drained_gets_nothing_while_others_do() {
    let balancer = balancer(PowerOfTwo, 2, 1);
    let drained = |accepts| {
        let mut wanted = wanted(&names(2));
        wanted[0].accepts = accepts;
        wanted
    };
    balancer.set(drained(false), at(5_000));
    let stuck = |_| Ask { affinity: Some(Affinity::Backend(token(b"node-0"))), ..Ask::default() };
    assert_eq!(shares(&balancer, 50, at(5_000), stuck), [("node-1".to_owned(), 50)].into());
    assert_eq!(balancer.statistics(at(5_000))[0].state, State::Draining);
    // Better than none, and than one that says no.
    let avoid = [token(b"node-1")];
    let picked = balancer.pick(&Ask { avoid: &avoid, ..Ask::default() }, at(5_000)).expect("there is one");
    assert!(picked.name() == "node-0" && picked.was_out() && !picked.is_given_up());
    balancer.checked("node-1", Verdict::NotReady, at(5_100));
    assert_eq!(balancer.pick(&Ask::default(), at(5_100)).expect("there is one").name(), "node-0");
    // It starts slowly when it is back.
    balancer.checked("node-1", Verdict::Ready, at(5_200));
    balancer.set(drained(true), at(20_000));
    let back = balancer.statistics(at(20_000));
    assert!(back[0].state == State::In && back[0].weight < 0.1 && back[1].weight == 1.0, "{back:?}");
}

#[test]
fn a_backend_that_fails_fast_does_not_look_fast() {
    let balancer = balancer(PowerOfTwo, 2, 1);
    let mut got = BTreeMap::<String, usize>::new();
    for i in 0..400 {
        let now = at(5_000 + 100 * i);
        let pick = balancer.pick(&Ask::default(), now).expect("there are backends");
        *got.entry(pick.name().to_owned()).or_default() += 1;
        let outcome = match (pick.name(), i > 100) {
            ("node-0", true) => Outcome::Refused(Duration::from_micros(50)),
            _ => Outcome::Answered(Duration::from_millis(10)),
        };
        pick.finish(outcome, now);
    }
    assert!(got["node-0"] < 280, "what refuses does not draw the requests to itself: {got:?}");
    assert!(balancer.statistics(at(45_000)).iter().all(|one| one.state == State::In && one.failures == 0));
}
