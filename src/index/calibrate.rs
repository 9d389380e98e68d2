//! The settings of a search, chosen when the lists are built: held-out rows are the queries, their true neighbours are found on the
//! side of the encoding pass, and the cheapest (nprobe, candidates) that reaches the target recall is kept. Costs are counted,
//! not timed, so the choice is the same on every machine. Called by `train`; read by `vector_index`.

use super::distance;
use super::kernels::Kernels;
use super::list::LiveList;
use super::quantizer::Quantizer;
use super::search::{Lists, Plan, Scratch};
use super::spec::SearchStats;
use crate::types::{Metric, PointId};

/// The numbers of neighbours that settings are chosen for; between them they are interpolated.
pub(crate) const CALIBRATED_K: [usize; 2] = [10, 100];
/// True neighbours kept of each query: beyond the largest k, so that ties at the k-th distance are known.
const NEIGHBOURS: usize = 160;
/// Candidates tried, most first.
const CANDIDATE_STEPS: [usize; 17] =
    [16_384, 11_585, 8192, 5793, 4096, 2896, 2048, 1448, 1024, 724, 512, 362, 256, 181, 128, 91, 64];
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
    pub(crate) fn choose(
        quantizer: &Quantizer,
        lists: &[LiveList],
        truth: &GroundTruth,
        target: f32,
        kernels: &'static Kernels,
    ) -> Calibration {
        let scratch = Scratch::with_kernels(kernels);
        let mut trial = Trial { lists: Lists { quantizer, lists }, truth, target, scratch };
        Calibration { settings: CALIBRATED_K.map(|k| trial.choose(k)) }
    }
}

struct Trial<'a> {
    lists: Lists<'a>,
    truth: &'a GroundTruth,
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
    /// Walks along the edge of what reaches the target: from most candidates down, with as many more lists as that takes.
    fn choose(&mut self, k: usize) -> Setting {
        let lists_max = self.lists.lists.len() as u32;
        if self.truth.queries.is_empty() || self.truth.neighbours(k) == 0 {
            return Setting { nprobe: lists_max, candidates: (8 * k).max(64) as u32, recall: 1.0 };
        }
        let rows: usize = self.lists.lists.iter().map(|list| list.live_rows).sum();
        let steps: Vec<usize> = match self.lists.quantizer.codebook {
            Some(_) => {
                let fits = |&c: &usize| c >= Plan::hits_returned(k) && c < 2 * rows;
                CANDIDATE_STEPS.iter().copied().filter(fits).collect()
            }
            None => vec![k],
        };
        let mut best: Option<Tried> = None;
        let mut nprobe = 1;
        for candidates in steps {
            let Some(tried) = self.least_probes(k, candidates, nprobe, lists_max) else { break };
            nprobe = tried.setting.nprobe;
            match best {
                Some(held) if tried.cost > held.cost + held.cost / 4 => break,
                Some(held) if tried.cost >= held.cost => {}
                _ => best = Some(tried),
            }
        }
        // Nothing reached it: everything there is.
        best.unwrap_or_else(|| self.run(k, lists_max, CANDIDATE_STEPS[0].max(4 * k))).setting
    }

    /// The fewest lists from `least` on that reach the target with so many candidates: doubling, then bisection.
    fn least_probes(&mut self, k: usize, candidates: usize, least: u32, most: u32) -> Option<Tried> {
        let mut below = least.saturating_sub(1);
        let mut probe = least.max(1);
        let mut reached = loop {
            let tried = self.run(k, probe, candidates);
            if tried.reached {
                break tried;
            }
            if probe >= most {
                return None;
            }
            below = probe;
            probe = (probe + probe.div_ceil(2)).min(most);
        };
        // To within 1/16: a list more or less does not matter among many.
        while reached.setting.nprobe - below > 1 + reached.setting.nprobe / 16 {
            let middle = below + (reached.setting.nprobe - below) / 2;
            let tried = self.run(k, middle, candidates);
            if tried.reached {
                reached = tried;
            } else {
                below = middle;
            }
        }
        Some(reached)
    }

    /// Searches for every query; recall and cost.
    fn run(&mut self, k: usize, nprobe: u32, candidates: usize) -> Tried {
        let plan = Plan { k, nprobe: nprobe as usize, candidates };
        let (mut counts, mut cost) = (RecallCounts::default(), 0);
        let mut hits = Vec::new();
        for query in &self.truth.queries {
            hits.clear();
            let stats = self.lists.search(&query.vector, plan, &mut self.scratch, &mut hits);
            cost += cost_of(stats);
            counts.add(query.found(k, hits.iter().map(|hit| hit.id)), query.neighbours(k));
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
        let n = self.queries.max(1) as f64;
        let variance = (self.sum_of_squares / n - self.mean() * self.mean()).max(0.0);
        self.mean() - 2.0 * (variance / n).sqrt()
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
        let wanted = self.neighbours(k);
        let Some(last) = wanted.checked_sub(1).map(|i| self.nearest[i].0) else { return 0 };
        let mut true_ids: Vec<PointId> =
            self.nearest.iter().take_while(|(d, _)| *d <= last).map(|(_, id)| *id).collect();
        true_ids.sort_unstable();
        ids.filter(|id| true_ids.binary_search(id).is_ok()).count().min(wanted)
    }
}
