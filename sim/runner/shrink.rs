//! `SIM_SHRINK=1`: makes the plan of a failing seed smaller ([`crate::plan::shrink`]), as long as the run goes on failing in the
//! same place: another bug found on the way is another bug's plan. The smallest is left beside the logs, to be run with `SIM_PLAN`.
use super::{child, settings::Settings};
use crate::{plan::shrink, scenarios::Scenario};
use serde_json::Value;
use std::{fs, path::PathBuf};

/// Runs at most; each takes about as long as the failing one.
const RUNS_MAX: usize = 400;

/// Shrinks the first failing seed of the first selected scenario; whether nothing failed.
pub fn run(scenarios: &[Scenario], settings: &Settings) -> bool {
    let Some(scenario) = scenarios.first() else { return true };
    let seeds = settings.first_seed..settings.first_seed.saturating_add(settings.seeds);
    for seed in seeds {
        let Ok(finished) = child::run(scenario.name, seed, settings.plan.as_deref(), settings) else { return false };
        let Some(failure) = &finished.failure else { continue };
        println!("{} seed {seed} fails: {failure}", scenario.name);
        let Some(plan) = finished.plan() else {
            println!("it left no plan: nothing to shrink");
            return false;
        };
        let mut runs = Runs { scenario, seed, settings, place: place(failure), done: 0 };
        println!("its plan has {}", told(&plan));
        let smallest = shrink::shrink(plan, &mut |plan| runs.fail_with(plan));
        runs.report(&smallest);
        child::clean_up();
        return false;
    }
    child::clean_up();
    println!("no seed fails");
    true
}

/// Where a run failed, by what its failure says; nothing if it took too long.
fn place(failure: &str) -> Option<String> {
    failure.lines().find(|line| line.contains("panicked at ")).map(str::to_string)
}

struct Runs<'a> {
    scenario: &'a Scenario,
    seed: u64,
    settings: &'a Settings,
    /// Where the first one failed.
    place: Option<String>,
    done: usize,
}

impl Runs<'_> {
    fn path(&self) -> PathBuf {
        self.settings.log_dir.join(format!("{}-{}.smallest-plan.json", self.scenario.name, self.seed))
    }

    /// Whether the run fails with this plan where the first one did.
    fn fail_with(&mut self, plan: &Value) -> bool {
        if self.done >= RUNS_MAX {
            return false;
        }
        self.done += 1;
        let tried = self.path().with_extension("tried");
        let written = fs::create_dir_all(&self.settings.log_dir).and_then(|()| fs::write(&tried, plan.to_string()));
        written.expect("the log directory takes a plan");
        let finished = child::run(self.scenario.name, self.seed, Some(&tried), self.settings);
        let failure = finished.ok().and_then(|finished| finished.failure);
        let fails = failure.is_some_and(|failure| !failure.contains("vacuous") && place(&failure) == self.place);
        // Whoever loses patience finds the smallest so far.
        let kept = if fails { fs::rename(&tried, self.path()) } else { fs::remove_file(&tried) };
        kept.expect("what was written is there");
        fails
    }

    fn report(&self, plan: &Value) {
        let path = self.path();
        fs::write(&path, plan.to_string()).expect("it took one before");
        println!("after {} runs it has {}", self.done, told(plan));
        println!("  replay: {}", self.settings.replay(self.scenario, self.seed, Some(&path)));
    }
}

/// The sizes of a plan's lists, in words.
fn told(plan: &Value) -> String {
    let sizes = shrink::sizes(plan).into_iter().map(|(list, items)| format!("{items} in {list}"));
    sizes.collect::<Vec<_>>().join(", ")
}
