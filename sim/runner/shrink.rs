//! `SIM_SHRINK=1`: makes the plan of a failing seed smaller by delta debugging (Zeller and Hildebrandt, 2002) over its
//! faults and then over each client's steps, as long as the run goes on failing. The smallest plan is left beside the
//! logs, to be run with `SIM_PLAN`.
use super::{child, settings::Settings};
use crate::{plan::Plan, scenarios::Scenario};
use std::{fs, path::PathBuf};

/// Runs at most; each takes about as long as the failing one.
const RUNS_MAX: usize = 300;

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
        let mut shrinker = Shrinker { scenario: scenario.name, seed, settings, runs: 0 };
        let smallest = shrinker.shrink(plan);
        shrinker.report(&smallest);
        child::clean_up();
        return false;
    }
    child::clean_up();
    println!("no seed fails");
    true
}

struct Shrinker<'a> {
    scenario: &'a str,
    seed: u64,
    settings: &'a Settings,
    runs: usize,
}

impl Shrinker<'_> {
    fn path(&self) -> PathBuf {
        self.settings.log_dir.join(format!("{}-{}.smallest-plan.json", self.scenario, self.seed))
    }

    fn shrink(&mut self, mut plan: Plan) -> Plan {
        let faults = std::mem::take(&mut plan.faults);
        plan.faults = self.minimise(faults, |faults| Plan { faults: faults.to_vec(), ..plan.clone() });
        for client in 0..plan.clients.len() {
            let steps = std::mem::take(&mut plan.clients[client].steps);
            plan.clients[client].steps = self.minimise(steps, |steps| {
                let mut smaller = plan.clone();
                smaller.clients[client].steps = steps.to_vec();
                smaller
            });
        }
        plan.clients.retain(|client| !client.steps.is_empty());
        plan
    }

    /// A small sublist of `items` whose plan still fails: pieces are left out as long as that can be done, then smaller
    /// pieces.
    fn minimise<T: Clone>(&mut self, mut items: Vec<T>, plan: impl Fn(&[T]) -> Plan) -> Vec<T> {
        let mut piece = items.len();
        while piece > 0 {
            let mut at = 0;
            while at < items.len() {
                let mut fewer = items.clone();
                fewer.drain(at..(at + piece).min(items.len()));
                if self.fails(&plan(&fewer)) {
                    items = fewer;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
        items
    }

    /// Whether the run fails with this plan, for any reason but that the plan leaves too little to do.
    fn fails(&mut self, plan: &Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let path = self.path();
        let text = serde_json::to_string(plan).expect("a plan is plain data");
        let written = fs::create_dir_all(&self.settings.log_dir).and_then(|()| fs::write(&path, text));
        written.expect("the log directory takes a plan");
        let finished = child::run(self.scenario, self.seed, Some(&path), self.settings);
        finished.is_ok_and(|finished| finished.failure.is_some_and(|failure| !failure.contains("vacuous")))
    }

    fn report(&self, plan: &Plan) {
        let (path, steps) = (self.path(), plan.steps());
        fs::write(&path, serde_json::to_string(plan).expect("a plan is plain data")).expect("it took one before");
        println!("after {} runs: {} faults, {steps} steps", self.runs, plan.faults.len());
        println!(
            "  replay: SIM_SEED={} SIM_PLAN={} cargo test --features sim --test sim -- --exact {}",
            self.seed,
            path.display(),
            self.scenario
        );
    }
}
