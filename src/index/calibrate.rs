//! The plans of searches, chosen when the lists are built: held-out rows are the queries, their true neighbours are found on the
//! side of the encoding pass, each is searched for once with every list (`trace`), and from what those searches had at each
//! moment the cheapest plan is read off for every recall target. Costs are counted, not timed, so the choice is the same on
//! every machine. Called by `train` and `recalibrate`.

use super::plan::{CALIBRATED_K, Calibration, Ladder, Plan, RECALL_TARGETS, Rung, StopRule, recall_required};
use super::search::{Lists, Scratch};
use super::spec::IndexKind;
use super::trace::{Homes, Trace, homes};
use super::truth::{GroundTruth, RecallCounts};
use super::work::Work;
use crate::types::{PointId, Rerank};
use std::collections::BTreeSet;

/// Numbers of candidates tried, fewest first.
const CANDIDATE_STEPS: [usize; 19] =
    [32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11_585, 16_384];
/// Those tried first; the others only if these do not reach every target.
const FIRST_STEPS: usize = 13;
/// Of a rule's patience: the least tried, the factor to the next, and how many.
const PATIENCE: (f32, f32, usize) = (2.0, 1.15, 96);
/// Held-out rows searched for in one piece.
const PART_QUERIES: usize = 4;
/// Held-out rows below which nothing is learnt: searches are exact, of so few rows.
const QUERIES_MIN: usize = 16;
/// Lists and candidates of the searches that tell what int8 loses: enough to meet nearly all neighbours.
const SHARE_LISTS: usize = 64;
const SHARE_CANDIDATES: usize = 1024;
/// What an int8 re-rank costs, in codes scanned.
const RERANK_COST: usize = 40;
/// What visiting a list costs beyond its codes, in codes scanned.
const PROBE_COST: usize = 100;

impl Calibration {
    /// Chooses by trial on the lists. Cost: a scan of all codes for each held-out row.
    pub(crate) fn choose(lists: Lists<'_>, truth: &GroundTruth, work: Work<'_>) -> Calibration {
        if truth.queries.len() < QUERIES_MIN || truth.neighbours(1) == 0 {
            return Calibration::default();
        }
        let exact = lists.quantizer.codebook.is_none();
        let homes = homes(lists, truth);
        let try_steps = |steps: &[usize]| {
            let traces = work.parallel(truth.queries.chunks(PART_QUERIES), |queries| {
                let mut scratch = Scratch::with_kernels(work.kernels);
                let wanted = queries.iter().filter(|_| !work.is_cancelled());
                wanted.map(|query| Trace::of(lists, query, &homes, steps, &mut scratch)).collect::<Vec<_>>()
            });
            let trial = Trial { traces: traces.into_iter().flatten().collect(), steps, exact };
            Calibration { ladders: std::array::from_fn(|k| trial.ladder(k)) }
        };
        let mut calibration = try_steps(&CANDIDATE_STEPS[..FIRST_STEPS]);
        if !exact && !calibration.ladders.iter().all(Ladder::is_complete) {
            calibration = try_steps(&CANDIDATE_STEPS);
        }
        if lists.quantizer.rerank == Rerank::Int8 || lists.quantizer.kind == IndexKind::IvfInt8 {
            for (ladder, k) in calibration.ladders.iter_mut().zip(CALIBRATED_K) {
                let share = int8_share(lists, truth, &homes, k, &mut Scratch::with_kernels(work.kernels));
                ladder.rungs.iter_mut().chain(&mut ladder.fixed).for_each(|rung| rung.recall *= share);
            }
        }
        calibration
    }
}

/// The share of the neighbours met that int8 distances keep: a trace counts who is among the candidates, not who int8 puts first.
fn int8_share(lists: Lists<'_>, truth: &GroundTruth, homes: &Homes, k: usize, scratch: &mut Scratch) -> f32 {
    // One more than k: the query is a row itself, and is its own nearest.
    let plan = Plan { k: k + 1, nprobe: SHARE_LISTS, candidates: SHARE_CANDIDATES, stop: StopRule::NEVER };
    let (mut met, mut kept) = (0, 0);
    let mut hits = Vec::new();
    for query in &truth.queries {
        hits.clear();
        lists.search(&query.vector, plan, scratch, &mut hits);
        let visited: BTreeSet<usize> = scratch.visits().map(|(list, _)| list).collect();
        let is_met = |id: &PointId| homes.get(id).is_some_and(|&(list, _)| visited.contains(&(list as usize)));
        // Of several as near as the k-th any will do.
        for id in query.true_ids(k).filter(is_met).take(k) {
            met += 1;
            kept += usize::from(hits.iter().any(|hit| hit.id == id));
        }
    }
    if met == 0 { 1.0 } else { kept as f32 / met as f32 }
}

impl Ladder {
    /// Whether every target is reached.
    fn is_complete(&self) -> bool {
        self.rungs.last().is_some_and(|last| last.recall >= recall_required(RECALL_TARGETS[RECALL_TARGETS.len() - 1]))
    }
}

/// The traces of all held-out rows.
struct Trial<'a> {
    traces: Vec<Trace>,
    steps: &'a [usize],
    exact: bool,
}

/// What a plan did.
#[derive(Clone, Copy, Debug)]
struct Tried {
    /// The lower bound.
    recall: f64,
    mean: f64,
    /// Of all queries, in codes scanned.
    cost: usize,
    lists_max: usize,
}

impl Trial<'_> {
    /// The plans for `CALIBRATED_K[k]`.
    fn ladder(&self, k: usize) -> Ladder {
        let fixed = self.fixed(k);
        if self.exact {
            let mut rungs = fixed.clone();
            rungs.dedup_by(|next, before| next.recall <= before.recall);
            return Ladder { rungs, fixed };
        }
        let mut rungs: Vec<Rung> = Vec::new();
        for target in RECALL_TARGETS {
            let higher = |rung: &Rung| rungs.last().is_none_or(|last| rung.recall > last.recall);
            rungs.extend(self.cheapest(k, recall_required(target)).filter(higher));
        }
        Ladder { rungs, fixed }
    }

    /// Steps that hold the hits a search for `CALIBRATED_K[k]` returns.
    fn steps(&self, k: usize) -> std::ops::Range<usize> {
        let least = Plan::hits_returned(CALIBRATED_K[k]);
        self.steps.partition_point(|&step| step < least)..self.steps.len()
    }

    /// The cheapest plan that has this recall.
    fn cheapest(&self, k: usize, recall: f32) -> Option<Rung> {
        let mut best: Option<(Tried, Rung)> = None;
        for step in self.steps(k) {
            let Some((rule, tried)) = self.least_patience(k, step, recall) else { continue };
            if best.is_none_or(|(held, _)| tried.cost < held.cost) {
                let rung = Rung {
                    recall: tried.recall as f32,
                    nprobe: tried.lists_max as u32,
                    candidates: self.steps[step] as u32,
                    patience: rule.patience,
                };
                best = Some((tried, rung));
            }
        }
        best.map(|(_, rung)| rung)
    }

    /// The least patience that has this recall with so many candidates.
    fn least_patience(&self, k: usize, step: usize, recall: f32) -> Option<(StopRule, Tried)> {
        let (least, factor, count) = PATIENCE;
        let rules: Vec<StopRule> = std::iter::successors(Some(least), |p| Some(p * factor))
            .take(count)
            .map(|patience| StopRule { patience })
            .collect();
        let reaches = |rule: StopRule| Some(self.run(k, step, rule)).filter(|tried| tried.recall >= f64::from(recall));
        let mut reached = (count - 1, reaches(rules[count - 1])?);
        let mut below = 0;
        while below < reached.0 {
            let middle = below + (reached.0 - below) / 2;
            match reaches(rules[middle]) {
                Some(tried) => reached = (middle, tried),
                None => below = middle + 1,
            }
        }
        Some((rules[reached.0], reached.1))
    }

    /// Every query with a rule.
    fn run(&self, k: usize, step: usize, rule: StopRule) -> Tried {
        self.sum(k, step, |trace| {
            let ends = |i: usize| {
                let snapshot = &trace.snapshots[i];
                snapshot.lists > 1 && rule.ends(snapshot.lists, snapshot.held[step].recent as usize, self.steps[step])
            };
            let last = trace.snapshots.len() - 1;
            (0..last).find(|&i| ends(i)).unwrap_or(last)
        })
    }

    /// Every query, each ended at one of its snapshots.
    fn sum(&self, k: usize, step: usize, end: impl Fn(&Trace) -> usize) -> Tried {
        let (mut counts, mut cost, mut lists_max) = (RecallCounts::default(), 0, 1);
        for trace in self.traces.iter().filter(|trace| !trace.snapshots.is_empty()) {
            let snapshot = &trace.snapshots[end(trace)];
            counts.add(snapshot.held[step].found[k] as usize, trace.wanted[k]);
            cost += snapshot.codes + snapshot.lists * PROBE_COST + self.steps[step].min(snapshot.codes) * RERANK_COST;
            lists_max = lists_max.max(snapshot.lists);
        }
        Tried { recall: counts.lower_bound(), mean: counts.mean(), cost, lists_max }
    }

    /// For every number of lists the candidates that suit: ever more, as long as that gains more for its cost than the next
    /// number of lists would.
    fn fixed(&self, k: usize) -> Vec<Rung> {
        let ends = self.traces.first().map_or(0, |trace| trace.snapshots.len());
        let steps = self.steps(k);
        let mut step = steps.start;
        let mut rungs = Vec::new();
        for end in 0..ends {
            let at = |step: usize, end: usize| self.sum(k, step, |_| end);
            let here = at(step, end);
            let gain = |than: Tried| (than.mean - here.mean, (than.cost - here.cost) as f64);
            let by_lists = if end + 1 < ends { gain(at(step, end + 1)) } else { (0.0, 1.0) };
            let pays = |by: (f64, f64)| by.0 > 0.0 && by.0 * by_lists.1 > by_lists.0 * by.1;
            if let Some(more) = (step + 1..steps.end).rev().find(|&more| !self.exact && pays(gain(at(more, end)))) {
                step = more;
            }
            rungs.push(Rung {
                recall: at(step, end).recall as f32,
                nprobe: self.traces[0].snapshots[end].lists as u32,
                candidates: self.steps[step] as u32,
                patience: f32::INFINITY,
            });
        }
        rungs
    }
}
