//! How much of the lists a search visits, and the ladder of such plans that an index is built with: for each recall target the
//! cheapest plan that reached it on held-out rows. Chosen by `calibrate`, kept in the index's file, read by `vector_index`.

/// The numbers of neighbours that plans are calibrated for; between them they are interpolated.
pub(crate) const CALIBRATED_K: [usize; 2] = [10, 100];
/// The recalls that a ladder has a rung for, where it reached them.
pub(crate) const RECALL_TARGETS: [f32; 6] = [0.80, 0.90, 0.95, 0.98, 0.99, 0.995];
/// The share of the misses a target allows that is kept in reserve: plans are the best of many tried, and queries are less like
/// the rows than held-out rows are.
const RESERVE: f32 = 0.1;
/// Candidates decide the size of a buffer.
pub(crate) const CANDIDATES_MAX: usize = 1 << 20;

/// The recall that held-out rows must have had for a target to be promised.
pub(crate) fn recall_required(target: f32) -> f32 {
    target + (1.0 - target) * RESERVE
}

/// How much of the lists to visit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) k: usize,
    /// Lists visited at most.
    pub(crate) nprobe: usize,
    /// Codes of least estimate that are re-ranked.
    pub(crate) candidates: usize,
    pub(crate) stop: StopRule,
}

impl Plan {
    /// A plan that visits a given number of lists, with candidates that suit most data.
    pub(crate) fn unmeasured(k: usize, nprobe: usize) -> Plan {
        Plan { k, nprobe, candidates: (8 * k).max(64), stop: StopRule::NEVER }
    }

    /// Int8-ranked hits that are returned for `k`.
    pub(crate) fn hits_returned(k: usize) -> usize {
        (2 * k).max(16)
    }
}

/// Ends a search early: when the later half of the lists visited holds less than one candidate in `patience` a list, those
/// still to come (each farther than all before) hold fewer still. Only counts decide, so that the end is the same everywhere.
///
/// Measured against rules by distance (next centroid against the first, against the k-th estimate) and against "the last j lists
/// gave no new neighbour": this one needs the fewest codes at equal recall on word embeddings, and on no set more than a fixed
/// number of lists does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StopRule {
    /// Lists a candidate is worth; infinite: never stop.
    pub(crate) patience: f32,
}

impl StopRule {
    pub(crate) const NEVER: StopRule = StopRule { patience: f32::INFINITY };

    pub(crate) fn is_never(self) -> bool {
        self.patience == f32::INFINITY
    }

    /// Whether to stop after `lists`, of whose later half `recent` of the `wanted` candidates come.
    pub(crate) fn ends(self, lists: usize, recent: usize, wanted: usize) -> bool {
        recent as f32 * self.patience < (wanted * later_half(lists)) as f32
    }

    /// The number of lists after which to ask first.
    pub(crate) fn first_check(self) -> usize {
        if self.is_never() { usize::MAX } else { StopRule::next_check(0) }
    }

    /// The number of lists after which to ask next, having asked (or begun) at `lists`. Every quarter more: to ask costs a
    /// cut of the candidates.
    pub(crate) fn next_check(lists: usize) -> usize {
        (lists + lists / 4).max(lists + 1).max(2)
    }
}

/// Lists in the later half.
pub(crate) fn later_half(lists: usize) -> usize {
    lists.div_ceil(2)
}

/// A plan and the recall it had on held-out rows: less two standard errors, so that other queries of the kind have it, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rung {
    pub(crate) recall: f32,
    pub(crate) nprobe: u32,
    pub(crate) candidates: u32,
    /// Of the [`StopRule`].
    pub(crate) patience: f32,
}

impl Rung {
    pub(crate) const NUMBERS: usize = 4;

    /// Between two rungs: `share` 0 is `self`, 1 is `other`.
    fn towards(self, other: Rung, share: f32) -> Rung {
        let between = |a: f32, b: f32| if a == b { a } else { a + (b - a) * share };
        let rounded = |a: u32, b: u32| between(a as f32, b as f32).ceil() as u32;
        Rung {
            recall: between(self.recall, other.recall),
            nprobe: rounded(self.nprobe, other.nprobe),
            candidates: rounded(self.candidates, other.candidates),
            patience: between(self.patience, other.patience),
        }
    }
}

/// The lists that plans were tried on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TriedOn {
    pub(crate) lists: usize,
    /// How many were renewed or dissolved since then.
    pub(crate) renewed: usize,
}

impl TriedOn {
    pub(crate) fn now(lists: usize) -> TriedOn {
        TriedOn { lists, renewed: 0 }
    }
}

/// Plans for one k.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ladder {
    /// With early stops, by recall, ascending. Empty: no plan reached any target.
    pub(crate) rungs: Vec<Rung>,
    /// Without, by nprobe, ascending: the candidates that suit a number of lists.
    pub(crate) fixed: Vec<Rung>,
}

impl Ladder {
    /// The plan for a target: recall rises ever more slowly with each of the parameters, so that what lies between two rungs is at
    /// least as good as the line between them. `None` beyond the last.
    fn reaching(&self, target: f32) -> Option<Rung> {
        let recall = recall_required(target);
        let above = self.rungs.partition_point(|rung| rung.recall < recall);
        let upper = *self.rungs.get(above)?;
        let Some(lower) = above.checked_sub(1).map(|i| self.rungs[i]) else { return Some(upper) };
        Some(lower.towards(upper, (recall - lower.recall) / (upper.recall - lower.recall)))
    }

    /// What suits a number of lists.
    fn at(&self, nprobe: usize) -> Option<Rung> {
        let above = self.fixed.partition_point(|rung| (rung.nprobe as usize) < nprobe);
        let Some(&upper) = self.fixed.get(above) else { return self.fixed.last().copied() };
        let Some(lower) = above.checked_sub(1).map(|i| self.fixed[i]) else { return Some(upper) };
        let share = (nprobe - lower.nprobe as usize) as f32 / (upper.nprobe - lower.nprobe) as f32;
        Some(lower.towards(upper, share))
    }
}

/// The plans an index was built with, one ladder for each of [`CALIBRATED_K`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calibration {
    pub(crate) ladders: [Ladder; CALIBRATED_K.len()],
}

impl Calibration {
    /// The plan that reaches a target for any k, with the recall to be counted on; `None` if no plan did on held-out rows.
    /// Interpolated between the calibrated k, in proportion beyond.
    pub(crate) fn reaching(&self, k: usize, target: f32) -> Option<(Plan, f32)> {
        self.for_k(k, |ladder| ladder.reaching(target))
    }

    /// The plan that visits a given number of lists.
    pub(crate) fn at(&self, k: usize, nprobe: usize) -> Option<(Plan, f32)> {
        let (plan, recall) = self.for_k(k, |ladder| ladder.at(nprobe))?;
        Some((Plan { nprobe, stop: StopRule::NEVER, ..plan }, recall))
    }

    fn for_k(&self, k: usize, choose: impl Fn(&Ladder) -> Option<Rung>) -> Option<(Plan, f32)> {
        let [low, high] = CALIBRATED_K;
        let within = k.clamp(low, high);
        let rung = if within == low {
            choose(&self.ladders[0])?
        } else {
            choose(&self.ladders[0])?.towards(choose(&self.ladders[1])?, (within - low) as f32 / (high - low) as f32)
        };
        let times = k.div_ceil(high).max(1);
        let plan = Plan {
            k,
            nprobe: rung.nprobe as usize * times,
            candidates: (rung.candidates as usize * times).max(Plan::hits_returned(k)),
            stop: StopRule { patience: rung.patience },
        };
        Some((plan, rung.recall))
    }

    /// All of it as numbers, for a file.
    pub(crate) fn to_numbers(&self) -> Vec<f32> {
        let mut numbers = Vec::new();
        for rungs in self.ladders.iter().flat_map(|ladder| [&ladder.rungs, &ladder.fixed]) {
            numbers.push(rungs.len() as f32);
            numbers.extend(rungs.iter().flat_map(|r| [r.recall, r.nprobe as f32, r.candidates as f32, r.patience]));
        }
        numbers
    }

    /// Reads what [`Calibration::to_numbers`] gave; `None` if they are no ladders.
    pub(crate) fn from_numbers(mut numbers: &[f32]) -> Option<Calibration> {
        let mut calibration = Calibration::default();
        for ladder in &mut calibration.ladders {
            for (rungs, by_recall) in [(&mut ladder.rungs, true), (&mut ladder.fixed, false)] {
                let (&count, rest) = numbers.split_first()?;
                let (ours, rest) = rest.split_at_checked((count as usize).checked_mul(Rung::NUMBERS)?)?;
                *rungs = ours.chunks_exact(Rung::NUMBERS).map(valid_rung).collect::<Option<_>>()?;
                let ascends = |a: &Rung, b: &Rung| if by_recall { a.recall < b.recall } else { a.nprobe < b.nprobe };
                if count != rungs.len() as f32 || !rungs.is_sorted_by(ascends) {
                    return None;
                }
                numbers = rest;
            }
        }
        numbers.is_empty().then_some(calibration)
    }
}

fn valid_rung(numbers: &[f32]) -> Option<Rung> {
    let &[recall, nprobe, candidates, patience] = numbers else { return None };
    // f32 holds these whole numbers; rows of a shard are fewer.
    let whole = |x: f32, most: usize| (x >= 1.0 && x <= most as f32 && x.fract() == 0.0).then_some(x as u32);
    let valid = (0.0..=1.0).contains(&recall) && patience > 0.0;
    valid.then_some(Rung {
        recall,
        nprobe: whole(nprobe, 1 << 24)?,
        candidates: whole(candidates, CANDIDATES_MAX)?,
        patience,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(recall: f32, nprobe: u32, candidates: u32, patience: f32) -> Rung {
        Rung { recall, nprobe, candidates, patience }
    }

    fn calibration() -> Calibration {
        let ladder = |times: u32| Ladder {
            rungs: vec![rung(0.9, 10 * times, 64 * times, 50.0), rung(0.98, 50 * times, 128 * times, 250.0)],
            fixed: vec![rung(0.7, 1, 32 * times, f32::INFINITY), rung(0.95, 65, 128 * times, f32::INFINITY)],
        };
        Calibration { ladders: [ladder(1), ladder(2)] }
    }

    #[test]
    fn a_target_between_rungs_lies_between_their_plans() {
        let calibration = calibration();
        // A tenth of the misses is kept in reserve: 0.955 is required for it, 11/16 of the way up.
        let (plan, recall) = calibration.reaching(10, 0.95).unwrap();
        assert_eq!((plan.nprobe, plan.candidates), (38, 108));
        assert!((recall - 0.955).abs() < 1e-6 && (plan.stop.patience - 187.5).abs() < 0.01);
        let (easy, recall) = calibration.reaching(10, 0.3).unwrap();
        assert_eq!((easy.nprobe, recall), (10, 0.9));
        assert_eq!(calibration.reaching(10, 0.979), None, "no plan reached it");
    }

    #[test]
    fn more_neighbours_and_higher_targets_never_cost_less() {
        let calibration = calibration();
        let mut before = (0, 0);
        for k in [1, 10, 11, 55, 99, 100, 101, 250, 1000] {
            let (plan, _) = calibration.reaching(k, 0.95).unwrap();
            assert!((plan.nprobe, plan.candidates) >= before && plan.candidates >= Plan::hits_returned(k), "{k}");
            before = (plan.nprobe, plan.candidates);
        }
        let plans: Vec<_> = (50..=97).map(|t| calibration.reaching(10, t as f32 / 100.0).unwrap()).collect();
        assert!(plans.is_sorted_by(|a, b| a.1 <= b.1 && a.0.nprobe <= b.0.nprobe && a.0.candidates <= b.0.candidates));
    }

    #[test]
    fn given_lists_get_candidates_that_suit() {
        let calibration = calibration();
        let candidates = |nprobe| calibration.at(10, nprobe).map(|(plan, _)| (plan.nprobe, plan.candidates)).unwrap();
        assert_eq!(candidates(1), (1, 32));
        assert_eq!(candidates(33), (33, 80));
        assert_eq!(candidates(5000), (5000, 128));
        assert!(calibration.at(10, 33).unwrap().0.stop.is_never());
    }

    #[test]
    fn numbers_are_read_back_and_checked() {
        let numbers = calibration().to_numbers();
        assert_eq!(Calibration::from_numbers(&numbers), Some(calibration()));
        assert_eq!(Calibration::from_numbers(&numbers[1..]), None);
        for (at, wrong) in [(0, -1.0), (0, f32::NAN), (1, 1.5), (2, 0.5), (3, 1e9), (4, f32::NAN), (5, 0.2)] {
            let mut numbers = numbers.clone();
            numbers[at] = wrong;
            assert_eq!(Calibration::from_numbers(&numbers), None, "{wrong} at {at}");
        }
    }

    #[test]
    fn a_search_stops_when_later_lists_give_little() {
        let rule = StopRule { patience: 100.0 };
        // Ten lists in the later half; 128 candidates; one in a hundred a list is 1.28, of ten lists 12.8.
        assert!(rule.ends(20, 12, 128) && !rule.ends(20, 13, 128));
        assert!(!StopRule::NEVER.ends(20, 1, 128));
        let checks: Vec<usize> = std::iter::successors(Some(0), |&p| Some(StopRule::next_check(p))).take(10).collect();
        assert_eq!(checks, [0, 2, 3, 4, 5, 6, 7, 8, 10, 12]);
    }
}
