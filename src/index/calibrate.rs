//! The settings of a search, chosen when the lists are built: held-out rows are the queries, their true neighbours are found on the
//! side of the encoding pass, and the cheapest (nprobe, candidates) that reaches the target recall is kept. Costs are counted,
//! not timed, so the choice is the same on every machine. Called by `train`; read by `vector_index`.

use super::distance;
use super::kernels::Kernels;
use super::list::LiveList;
use super::points::Points;
use super::search::{Lists, Plan, Scratch};
use super::spec::SearchStats;
use crate::types::{Metric, PointId};
use std::collections::BTreeMap;

/// The numbers of neighbours that settings are chosen for; between them they are interpolated.
pub(crate) const CALIBRATED_K: [usize; 2] = [10, 100];
/// True neighbours kept of each query: beyond the largest k, so that ties at the k-th distance are known.
const NEIGHBOURS: usize = 160;
/// Candidates tried, fewest first.
const CANDIDATE_STEPS: [usize; 17] =
    [64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11_585, 16_384];
/// What an int8 re-rank costs, in codes scanned.
const RERANK_COST: usize = 40;
/// What visiting a list costs beyond its codes, in codes scanned.
const PROBE_COST: usize = 100;

/// Settings for each of [`CALIBRATED_K`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Calibration {
    pub(crate) settings: [Setting; CALIBRATED_K.len()],
}

/// What a search for some k uses, and the recall it had on held-out rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) nprobe: u32,
    pub(crate) candidates: u32,
    pub(crate) recall: f32,
}

impl Calibration {
    /// The plan for any k: interpolated between the calibrated ones, in proportion beyond.
    pub(crate) fn plan(&self, k: usize) -> Plan {
        let [low, high] = CALIBRATED_K;
        let at = |read: fn(&Setting) -> u32| {
            let (a, b) = (read(&self.settings[0]) as usize, read(&self.settings[1]) as usize);
            match k {
                k if k <= low => a,
                k if k <= high => a + (b.max(a) - a) * (k - low) / (high - low),
                k => (b.max(a) * k.div_ceil(high)).max(b),
            }
        };
        Plan { k, nprobe: at(|s| s.nprobe), candidates: at(|s| s.candidates).max(Plan::hits_returned(k)) }
    }

    /// Chooses by trial on the lists.
    pub(crate) fn choose(lists: Lists<'_>, truth: &GroundTruth, target: f32, kernels: &'static Kernels) -> Calibration {
        let scratch = Scratch::with_kernels(kernels);
        let home = truth.homes(lists.points, lists.lists);
        let mut trial = Trial { lists, truth, home, target, scratch };
        Calibration { settings: CALIBRATED_K.map(|k| trial.choose(k)) }
    }
}

struct Trial<'a> {
    lists: Lists<'a>,
    truth: &'a GroundTruth,
    /// The list of every true neighbour.
    home: BTreeMap<PointId, u32>,
    target: f32,
    scratch: Scratch,
}

/// One setting tried.
#[derive(Clone, Copy, Debug)]
struct Tried {
    setting: Setting,
    /// Whether the target is reached beyond doubt.
    reached: bool,
    cost: usize,
}

impl Trial<'_> {
    /// The cheapest setting that reaches the target. First the fewest lists that hold enough of the true neighbours: no codes
    /// needed. Then ever more candidates, each with the fewest lists from there on that it reaches the target with, until more
    /// candidates no longer pay.
    fn choose(&mut self, k: usize) -> Setting {
        let lists_max = self.lists.lists.len() as u32;
        if self.truth.queries.is_empty() || self.truth.neighbours(k) == 0 {
            return Setting { nprobe: lists_max, candidates: (8 * k).max(64) as u32, recall: 1.0 };
        }
        let least = self.lists_needed(k);
        if self.lists.quantizer.codebook.is_none() {
            return self.run(k, least, k, false).setting;
        }
        let mut best: Option<Tried> = None;
        for candidates in CANDIDATE_STEPS.into_iter().filter(|&c| c >= Plan::hits_returned(k)) {
            let most = best.map_or(least.saturating_mul(2), |held| held.setting.nprobe).min(lists_max);
            match (self.least_probes(k, candidates, least, most), &best) {
                (Some(tried), Some(held)) if tried.cost >= held.cost => break,
                (Some(tried), _) => best = Some(tried),
                (None, Some(_)) => break,
                (None, None) => {}
            }
        }
        // Nothing reached it: everything there is.
        best.unwrap_or_else(|| self.run(k, lists_max, CANDIDATE_STEPS[CANDIDATE_STEPS.len() - 1], false)).setting
    }

    /// The fewest lists that hold enough of the true neighbours, were all their rows scored exactly.
    fn lists_needed(&mut self, k: usize) -> u32 {
        let ranks: Vec<Vec<u32>> = (0..self.truth.queries.len()).map(|i| self.ranks(i, k)).collect();
        let reached = |nprobe: u32| {
            let mut counts = RecallCounts::default();
            for (ranks, query) in ranks.iter().zip(&self.truth.queries) {
                let wanted = query.neighbours(k);
                counts.add(ranks.iter().filter(|&&rank| rank < nprobe).count().min(wanted), wanted);
            }
            counts.lower_bound() >= f64::from(self.target)
        };
        let (mut below, mut enough) = (0, self.lists.lists.len() as u32);
        while enough - below > 1 {
            let middle = below + (enough - below) / 2;
            if reached(middle) { enough = middle } else { below = middle }
        }
        enough
    }

    /// For each true neighbour of a query, the place of its list in the order of visits.
    fn ranks(&mut self, query: usize, k: usize) -> Vec<u32> {
        let query = &self.truth.queries[query];
        let order = self.lists.visit_order(&query.vector, &mut self.scratch);
        let mut place = vec![u32::MAX; self.lists.lists.len()];
        order.iter().zip(0..).for_each(|(&list, rank)| place[list] = rank);
        query.true_ids(k).iter().filter_map(|id| self.home.get(id)).map(|&list| place[list as usize]).collect()
    }

    /// The fewest lists of `least..=most` that reach the target with so many candidates, to within a sixteenth.
    fn least_probes(&mut self, k: usize, candidates: usize, least: u32, most: u32) -> Option<Tried> {
        let mut reached = Some(self.run(k, most, candidates, true)).filter(|tried| tried.reached)?;
        let mut below = least - 1;
        while reached.setting.nprobe - below > 1 + reached.setting.nprobe / 16 {
            let middle = below + (reached.setting.nprobe - below) / 2;
            let tried = self.run(k, middle, candidates, true);
            if tried.reached {
                reached = tried;
            } else {
                below = middle;
            }
        }
        Some(reached)
    }

    /// Searches for every query; recall and cost. May give up early when the target is out of reach.
    fn run(&mut self, k: usize, nprobe: u32, candidates: usize, may_give_up: bool) -> Tried {
        // One more than k: the query is a row itself, and is its own nearest.
        let plan = Plan { k: k + 1, nprobe: nprobe as usize, candidates };
        let (mut counts, mut cost) = (RecallCounts::default(), 0);
        let mut hits = Vec::new();
        for query in &self.truth.queries {
            hits.clear();
            let stats = self.lists.search(&query.vector, plan, &mut self.scratch, &mut hits);
            cost += cost_of(stats);
            counts.add(query.found(k, hits.iter().map(|hit| hit.id)), query.neighbours(k));
            if may_give_up && counts.queries.is_multiple_of(32) && counts.upper_bound() < f64::from(self.target) {
                break;
            }
        }
        let setting = Setting { nprobe, candidates: candidates as u32, recall: counts.mean() as f32 };
        Tried { setting, reached: counts.lower_bound() >= f64::from(self.target), cost }
    }
}

/// Recalls of queries, one by one.
#[derive(Clone, Copy, Debug, Default)]
struct RecallCounts {
    queries: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl RecallCounts {
    fn add(&mut self, found: usize, wanted: usize) {
        if wanted > 0 {
            let recall = found as f64 / wanted as f64;
            self.queries += 1;
            self.sum += recall;
            self.sum_of_squares += recall * recall;
        }
    }

    fn mean(&self) -> f64 {
        if self.queries == 0 { 1.0 } else { self.sum / self.queries as f64 }
    }

    /// Two standard errors below the mean: what other queries of the kind will have, too, with 98 % confidence.
    fn lower_bound(&self) -> f64 {
        self.mean() - 2.0 * self.standard_error()
    }

    /// What the recall of all queries will hardly exceed. Wider than the lower bound: it is asked again and again.
    fn upper_bound(&self) -> f64 {
        self.mean() + 3.0 * self.standard_error()
    }

    fn standard_error(&self) -> f64 {
        let n = self.queries.max(1) as f64;
        let variance = (self.sum_of_squares / n - self.mean() * self.mean()).max(0.0);
        (variance / n).sqrt()
    }
}

fn cost_of(stats: SearchStats) -> usize {
    stats.codes_scanned + stats.lists_probed * PROBE_COST + stats.reranked * RERANK_COST
}

/// The held-out rows and their true neighbours among the rows seen.
pub(crate) struct GroundTruth {
    kernels: &'static Kernels,
    metric: Metric,
    pub(crate) queries: Vec<TruthQuery>,
}

/// One held-out row.
pub(crate) struct TruthQuery {
    id: PointId,
    vector: Vec<f32>,
    /// Ascending by (distance, id), the row itself left out.
    nearest: Vec<(f32, PointId)>,
}

impl GroundTruth {
    /// The rows at `places` of the sample.
    pub(crate) fn new(
        kernels: &'static Kernels,
        metric: Metric,
        dimension: usize,
        places: &[usize],
        ids: &[PointId],
        rows: &[f32],
    ) -> GroundTruth {
        let query = |&i: &usize| TruthQuery {
            id: ids[i],
            vector: rows[i * dimension..(i + 1) * dimension].to_vec(),
            nearest: Vec::with_capacity(NEIGHBOURS + 1),
        };
        GroundTruth { kernels, metric, queries: places.iter().map(query).collect() }
    }

    /// Compares a row with every query.
    pub(crate) fn see(&mut self, id: PointId, row: &[f32]) {
        for query in &mut self.queries {
            let distance = distance::exact(self.kernels, self.metric, &query.vector, row);
            query.see(id, distance);
        }
    }

    /// The list of each true neighbour.
    fn homes(&self, points: &Points, lists: &[LiveList]) -> BTreeMap<PointId, u32> {
        let mut homes: BTreeMap<PointId, u32> =
            self.queries.iter().flat_map(|q| &q.nearest).map(|(_, id)| (*id, 0)).collect();
        for (i, list) in lists.iter().enumerate() {
            for id in list.list.ordinals.iter().filter_map(|&ordinal| points.id(ordinal)) {
                if let Some(home) = homes.get_mut(&id) {
                    *home = i as u32;
                }
            }
        }
        homes
    }

    /// The most neighbours of k that any query has.
    fn neighbours(&self, k: usize) -> usize {
        self.queries.iter().map(|query| query.neighbours(k)).max().unwrap_or(0)
    }
}

impl TruthQuery {
    fn see(&mut self, id: PointId, distance: f32) {
        let full = self.nearest.len() == NEIGHBOURS;
        if id == self.id || (full && self.nearest.last().is_some_and(|last| distance >= last.0)) {
            return;
        }
        let order = |other: &(f32, PointId)| other.0.total_cmp(&distance).then_with(|| other.1.cmp(&id)).is_lt();
        let at = self.nearest.partition_point(order);
        self.nearest.insert(at, (distance, id));
        self.nearest.truncate(NEIGHBOURS);
    }

    /// Neighbours there are to find.
    fn neighbours(&self, k: usize) -> usize {
        self.nearest.len().min(k)
    }

    /// How many of the k nearest are among `ids`; one as near as the k-th counts.
    fn found(&self, k: usize, ids: impl Iterator<Item = PointId>) -> usize {
        let true_ids = self.true_ids(k);
        ids.filter(|id| true_ids.binary_search(id).is_ok()).count().min(self.neighbours(k))
    }

    /// The ids of the k nearest and of those as near as the k-th, ascending.
    fn true_ids(&self, k: usize) -> Vec<PointId> {
        let Some(last) = self.neighbours(k).checked_sub(1).map(|i| self.nearest[i].0) else { return Vec::new() };
        let mut ids: Vec<PointId> = self.nearest.iter().take_while(|(d, _)| *d <= last).map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }
}
