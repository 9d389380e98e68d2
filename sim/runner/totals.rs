//! What a batch saw: simulated time, operations, faults by kind, marks hit and missed.
use crate::{scenarios::Scenario, world::Report};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    simulated_ms: u64,
    counts: BTreeMap<String, u64>,
    /// By scenario.
    marks: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Totals {
    pub fn add(&mut self, scenario: &'static str, report: Option<Report>, passed: bool) {
        self.passed += usize::from(passed);
        self.failed += usize::from(!passed);
        let report = report.unwrap_or_default();
        self.simulated_ms += report.simulated_ms;
        for (name, count) in report.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.marks.entry(scenario).or_default().extend(report.marks.into_keys());
    }

    pub fn print(&self, scenarios: &[Scenario]) {
        println!("\nsimulated time: {:.2} h", self.simulated_ms as f64 / 3_600_000.0);
        for (title, prefix) in [("operations", "ops."), ("faults", "fault."), ("disk", "disk.")] {
            let of_kind: Vec<_> =
                self.counts.iter().filter_map(|(name, n)| Some((name.strip_prefix(prefix)?, n))).collect();
            if !of_kind.is_empty() {
                let list: Vec<_> = of_kind.iter().map(|(name, count)| format!("{name} {count}")).collect();
                println!("{title}: {}", list.join(", "));
            }
        }
        self.print_marks(scenarios);
    }

    /// A mark is hit if any scenario hits it, as several may share it.
    fn print_marks(&self, scenarios: &[Scenario]) {
        let wanted: BTreeSet<&str> =
            scenarios.iter().flat_map(|scenario| scenario.marks).copied().flatten().copied().collect();
        let hit: BTreeSet<&str> = self.marks.values().flatten().map(String::as_str).collect();
        let missed: Vec<_> = wanted.difference(&hit).collect();
        println!("sometimes: {} of {} marks hit", wanted.len() - missed.len(), wanted.len());
        missed.iter().for_each(|mark| println!("  missed: {mark}"));
        // A mark that is listed nowhere would not be missed if it stopped being hit.
        hit.difference(&wanted).for_each(|mark| println!("  not in any list: {mark}"));
    }
}
