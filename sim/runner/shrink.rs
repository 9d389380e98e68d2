//! `SIM_SHRINK=1`: makes the plan of a failing seed smaller by delta debugging (Zeller and Hildebrandt, 2002) over its
//! faults and then over each client's steps, as long as the run goes on failing. Plans are looked at as JSON: whatever a
//! scenario's plans are like, these are their lists. The smallest plan is left beside the
//! logs, to be run with `SIM_PLAN`.
use super::{child, settings::Settings};
use crate::scenarios::Scenario;
use serde_json::Value;
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

    fn shrink(&mut self, mut plan: Value) -> Value {
        for list in lists(&plan) {
            let items = plan.pointer_mut(&list).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
            let with = |items: &[Value]| {
                let mut smaller = plan.clone();
                *smaller.pointer_mut(&list).expect("it was there") = Value::from(items.to_vec());
                smaller
            };
            let items = self.minimise(items, with);
            *plan.pointer_mut(&list).expect("it was there") = Value::from(items);
        }
        if let Some(clients) = plan["clients"].as_array_mut() {
            clients.retain(|client| client["steps"].as_array().is_none_or(|steps| !steps.is_empty()));
        }
        plan
    }

    /// A small sublist of `items` whose plan still fails: pieces are left out as long as that can be done, then smaller
    /// pieces.
    fn minimise(&mut self, mut items: Vec<Value>, plan: impl Fn(&[Value]) -> Value) -> Vec<Value> {
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
    fn fails(&mut self, plan: &Value) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let tried = self.path().with_extension("tried");
        let written = fs::create_dir_all(&self.settings.log_dir).and_then(|()| fs::write(&tried, plan.to_string()));
        written.expect("the log directory takes a plan");
        let finished = child::run(self.scenario, self.seed, Some(&tried), self.settings);
        let fails = finished.is_ok_and(|finished| finished.failure.is_some_and(|failure| !failure.contains("vacuous")));
        // Whoever loses patience finds the smallest so far.
        let kept = if fails { fs::rename(&tried, self.path()) } else { fs::remove_file(&tried) };
        kept.expect("what was written is there");
        fails
    }

    fn report(&self, plan: &Value) {
        let path = self.path();
        fs::write(&path, plan.to_string()).expect("it took one before");
        let left = lists(plan).into_iter().map(|list| {
            let items = plan.pointer(&list).and_then(Value::as_array).map_or(0, Vec::len);
            format!("{items} in {list}")
        });
        println!("after {} runs: {}", self.runs, left.collect::<Vec<_>>().join(", "));
        println!(
            "  replay: SIM_SEED={} SIM_PLAN={} cargo test --features sim --test sim -- --exact {}",
            self.seed,
            path.display(),
            self.scenario
        );
    }
}

/// The lists of a plan that may be made shorter: what goes wrong, then what each client asks.
fn lists(plan: &Value) -> Vec<String> {
    let mut lists: Vec<String> = ["/faults", "/moves/steps", "/troubles", "/changes"].map(str::to_string).to_vec();
    let clients = plan["clients"].as_array().map_or(0, Vec::len);
    lists.extend((0..clients).flat_map(|client| [format!("/clients/{client}"), format!("/clients/{client}/steps")]));
    lists.retain(|list| plan.pointer(list).is_some_and(Value::is_array));
    lists
}
