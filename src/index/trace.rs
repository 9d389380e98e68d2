//! What a search for one held-out row finds under every plan at once: the lists are visited once, to the last, and where a search
//! may stop it is noted what it would have by then, for each number of candidates. Made and read by `calibrate`.

use super::kernels::key_estimate;
use super::plan::{CALIBRATED_K, StopRule, later_half};
use super::search::{Lists, Scratch};
use super::truth::{GroundTruth, TruthQuery};
use crate::types::PointId;
use std::collections::BTreeMap;

/// The list and slot of true neighbours and queries.
pub(crate) type Homes = BTreeMap<PointId, (u32, u32)>;

/// The list and slot of each true neighbour and each held-out row.
pub(crate) fn homes(lists: Lists<'_>, truth: &GroundTruth) -> Homes {
    let k = CALIBRATED_K[CALIBRATED_K.len() - 1];
    let mut wanted = vec![false; lists.points.ordinals_end() as usize];
    for id in truth.queries.iter().flat_map(|query| query.true_ids(k).chain([query.id])) {
        lists.points.ordinal(id).into_iter().for_each(|ordinal| wanted[ordinal as usize] = true);
    }
    let mut homes = Homes::new();
    for (i, list) in lists.lists.iter().enumerate() {
        for slot in list.live_slots() {
            let ordinal = list.list.ordinals[slot];
            if wanted[ordinal as usize] {
                homes.extend(lists.points.id(ordinal).map(|id| (id, (i as u32, slot as u32))));
            }
        }
    }
    homes
}

/// One held-out row's search.
pub(crate) struct Trace {
    /// Where a search may stop, by lists visited, ascending: after the first list, at each check of the stop rule, after the last.
    /// The same for all queries.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Neighbours to be found, of each calibrated k.
    pub(crate) wanted: [usize; CALIBRATED_K.len()],
}

/// A search that stops here.
pub(crate) struct Snapshot {
    pub(crate) lists: usize,
    pub(crate) codes: usize,
    /// By number of candidates.
    pub(crate) held: Vec<Held>,
}

/// What so many candidates are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Held {
    /// Candidates of the later half of the lists.
    pub(crate) recent: u32,
    /// True neighbours among them, of each calibrated k.
    pub(crate) found: [u32; CALIBRATED_K.len()],
}

/// A true neighbour, by its place in the order of visits.
#[derive(Clone, Copy, Debug)]
struct Target {
    position: u32,
    /// Of how many of the calibrated k it is a neighbour: the nearer ones of all.
    counts: [bool; CALIBRATED_K.len()],
    /// The key of its estimate, then its position, once its list has been visited.
    candidate: Option<u64>,
}

impl Trace {
    /// Visits all lists. `steps`: numbers of candidates, ascending. In IVF-Flat what is found are the neighbours in the lists
    /// visited, whatever the step.
    pub(crate) fn of(
        lists: Lists<'_>,
        query: &TruthQuery,
        homes: &Homes,
        steps: &[usize],
        scratch: &mut Scratch,
    ) -> Trace {
        let count = lists.prepare(&query.vector, usize::MAX, scratch);
        let visits: Vec<(usize, u32)> = scratch.visits().collect();
        let places = Places::new(lists, &visits, homes);
        let mut run = Run {
            targets: places.targets(query),
            itself: places.position(query.id),
            best: Vec::new(),
            fresh: Vec::new(),
            room: steps.last().copied().unwrap_or(0),
            exact: lists.quantizer.codebook.is_none(),
            list: (Vec::new(), Vec::new()),
        };
        let mut snapshots = Vec::new();
        let (mut codes, mut next_check) = (0, 1);
        for (at, &(list, position)) in visits.iter().enumerate() {
            codes += lists.lists[list].live_rows;
            run.visit(lists, at, position, scratch);
            let visited = at + 1;
            if visited == next_check || visited == count {
                next_check = StopRule::next_check(if visited == 1 { 0 } else { visited });
                let later = visits[visited - later_half(visited)].1;
                let end = visits.get(visited).map_or(u32::MAX, |next| next.1);
                snapshots.push(Snapshot { lists: visited, codes, held: run.held(steps, later, end) });
            }
        }
        Trace { snapshots, wanted: CALIBRATED_K.map(|k| query.neighbours(k)) }
    }
}

/// Where points are in the order of visits.
struct Places<'a> {
    homes: &'a Homes,
    /// The first position of each list that is visited.
    starts: Vec<Option<u32>>,
}

impl Places<'_> {
    fn new<'a>(lists: Lists<'_>, visits: &[(usize, u32)], homes: &'a Homes) -> Places<'a> {
        let mut starts = vec![None; lists.lists.len()];
        visits.iter().for_each(|&(list, position)| starts[list] = Some(position));
        Places { homes, starts }
    }

    fn position(&self, id: PointId) -> Option<u32> {
        let &(list, slot) = self.homes.get(&id)?;
        Some(self.starts[list as usize]? + slot)
    }

    /// The neighbours of the largest k, in order of position.
    fn targets(&self, query: &TruthQuery) -> Vec<Target> {
        let counts: Vec<usize> = CALIBRATED_K.iter().map(|&k| query.true_ids(k).count()).collect();
        let target = |(i, id)| {
            let counts = std::array::from_fn(|j| i < counts[j]);
            Some(Target { position: self.position(id)?, counts, candidate: None })
        };
        let largest_k = CALIBRATED_K[CALIBRATED_K.len() - 1];
        let mut targets: Vec<Target> = query.true_ids(largest_k).enumerate().filter_map(target).collect();
        targets.sort_unstable_by_key(|target| target.position);
        targets
    }
}

/// The state between lists.
struct Run {
    targets: Vec<Target>,
    /// The query's own row: not among its neighbours, and no candidate of other queries.
    itself: Option<u32>,
    /// The `room` best candidates of all lists up to the last snapshot, ascending: keys, then positions.
    best: Vec<u64>,
    /// Candidates since, as good as the worst of those.
    fresh: Vec<u64>,
    room: usize,
    exact: bool,
    /// Of the list last visited: the candidates' keys and positions.
    list: (Vec<u32>, Vec<u32>),
}

impl Run {
    fn visit(&mut self, lists: Lists<'_>, at: usize, position: u32, scratch: &Scratch) {
        if self.exact {
            return;
        }
        let full = self.best.len() == self.room;
        let threshold =
            self.best.last().filter(|_| full).map_or(f32::INFINITY, |&last| key_estimate((last >> 32) as u32));
        let start = self.fresh.len();
        let (keys, positions) = &mut self.list;
        lists.collect_list(at, threshold, scratch, (keys, positions));
        let packed = keys.iter().zip(positions).map(|(&key, &mut at)| u64::from(key) << 32 | u64::from(at));
        self.fresh.extend(packed);
        // In order of positions.
        let found = &self.fresh[start..];
        let place = |position| found.binary_search_by_key(&position, |&candidate| candidate as u32);
        let own = self.itself.and_then(|own| place(own).ok());
        let from = self.targets.partition_point(|target| target.position < position);
        for target in &mut self.targets[from..] {
            match place(target.position) {
                Ok(i) => target.candidate = Some(found[i]),
                Err(i) if i == found.len() => break,
                Err(_) => {}
            }
        }
        if let Some(i) = own {
            self.fresh.remove(start + i);
        }
    }

    /// What a search stopping at position `end` has, of whose later half of lists `later` is the first position.
    fn held(&mut self, steps: &[usize], later: u32, end: u32) -> Vec<Held> {
        if self.exact {
            let found = self.found(|target| target.position < end);
            return steps.iter().map(|_| Held { recent: 0, found }).collect();
        }
        self.best.append(&mut self.fresh);
        // Two ascending runs at most: the sort merges them.
        self.best.sort();
        self.best.truncate(self.room);
        let mut recent = 0;
        let mut from = 0;
        let mut held = Vec::with_capacity(steps.len());
        for &step in steps {
            let to = step.min(self.best.len());
            recent += self.best[from..to].iter().filter(|&&candidate| candidate as u32 >= later).count() as u32;
            from = to;
            let last = to.checked_sub(1).map(|i| self.best[i]);
            held.push(Held {
                recent,
                found: self.found(|target| target.candidate.is_some() && target.candidate <= last),
            });
        }
        held
    }

    fn found(&self, is_found: impl Fn(&Target) -> bool) -> [u32; CALIBRATED_K.len()] {
        let mut found = [0; CALIBRATED_K.len()];
        for target in self.targets.iter().filter(|target| is_found(target)) {
            found.iter_mut().zip(target.counts).for_each(|(sum, counts)| *sum += u32::from(counts));
        }
        found
    }
}
