//! What a batch saw: simulated time and what it cost, operations, faults by kind, marks hit and missed.
use crate::{scenarios::Scenario, world::Report};
use std::collections::{BTreeMap, BTreeSet};

/// How many scenarios' costs are told.
const DEAREST: usize = 5;

/// What runs took, and how much time passed in them.
#[derive(Clone, Copy, Default)]
struct Cost {
    runs: u64,
    simulated_ms: u64,
    cpu_ms: u64,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.runs += other.runs;
        self.simulated_ms += other.simulated_ms;
        self.cpu_ms += other.cpu_ms;
    }

    /// Simulated seconds a second of a core.
    fn speed(self) -> f64 {
        self.simulated_ms as f64 / self.cpu_ms.max(1) as f64
    }

    fn cpu_s_a_run(self) -> f64 {
        self.cpu_ms as f64 / 1_000.0 / self.runs.max(1) as f64
    }
}

#[derive(Default)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    /// By scenario.
    costs: BTreeMap<&'static str, Cost>,
    counts: BTreeMap<String, u64>,
    /// By scenario.
    marks: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Totals {
    pub fn add(&mut self, scenario: &'static str, report: Option<Report>, passed: bool) {
        self.passed += usize::from(passed);
        self.failed += usize::from(!passed);
        let report = report.unwrap_or_default();
        let cost = Cost { runs: 1, simulated_ms: report.simulated_ms, cpu_ms: report.cpu_ms };
        self.costs.entry(scenario).or_default().add(cost);
        for (name, count) in report.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.marks.entry(scenario).or_default().extend(report.marks.into_keys());
    }

    /// Prints what the runs came to. Returns the share of the marks that were hit.
    pub fn print(&self, scenarios: &[Scenario]) -> f64 {
        self.print_costs();
        for (title, prefix) in [("operations", "ops."), ("faults", "fault."), ("disk", "disk.")] {
            let of_kind: Vec<_> =
                self.counts.iter().filter_map(|(name, n)| Some((name.strip_prefix(prefix)?, n))).collect();
            if !of_kind.is_empty() {
                let list: Vec<_> = of_kind.iter().map(|(name, count)| format!("{name} {count}")).collect();
                println!("{title}: {}", list.join(", "));
            }
        }
        self.print_marks(scenarios)
    }

    /// Simulated time, what it took of a core, and where most of that went.
    fn print_costs(&self) {
        let mut all = Cost::default();
        self.costs.values().for_each(|cost| all.add(*cost));
        println!(
            "\nsimulated time: {:.2} h, {:.0} simulated seconds a core-second, {:.2} core-seconds a run",
            all.simulated_ms as f64 / 3_600_000.0,
            all.speed(),
            all.cpu_s_a_run()
        );
        let mut dearest: Vec<_> = self.costs.iter().collect();
        dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.cpu_ms));
        let told = dearest.iter().take(DEAREST).map(|(scenario, cost)| {
            format!("{scenario} {:.2} ({:.0} a core-second)", cost.cpu_s_a_run(), cost.speed())
        });
        println!("dearest, core-seconds a run: {}", told.collect::<Vec<_>>().join(", "));
    }

    /// A mark is hit if any scenario hits it, as several may share it.
    fn print_marks(&self, scenarios: &[Scenario]) -> f64 {
        let wanted: BTreeSet<&str> =
            scenarios.iter().flat_map(|scenario| scenario.marks).copied().flatten().copied().collect();
        let hit: BTreeSet<&str> = self.marks.values().flatten().map(String::as_str).collect();
        let missed: Vec<_> = wanted.difference(&hit).collect();
        println!("sometimes: {} of {} marks hit", wanted.len() - missed.len(), wanted.len());
        missed.iter().for_each(|mark| println!("  missed: {mark}"));
        // A mark that is listed nowhere would not be missed if it stopped being hit.
        hit.difference(&wanted).for_each(|mark| println!("  not in any list: {mark}"));
        1.0 - missed.len() as f64 / wanted.len().max(1) as f64
    }
}
