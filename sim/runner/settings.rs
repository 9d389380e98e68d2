//! The environment variables of the simulation; sim/README.md explains them to users.
use crate::scenarios::Scenario;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Seeds a scenario when nothing is said.
const SEEDS_DEFAULT: u64 = 32;

pub struct Settings {
    /// `SIM_SEED` (just that one) or `SIM_FIRST_SEED`, else from the commit.
    pub first_seed: u64,
    /// Whether `SIM_SEED` was given.
    pub one_seed: bool,
    /// `SIM_SEEDS`: how many seeds each scenario gets.
    pub seeds: u64,
    /// `SIM_CHECK`: run each seed twice and compare the logs.
    pub check: bool,
    /// `SIM_JOBS`: processes at a time.
    pub jobs: usize,
    /// `SIM_LOG_DIR`: where the artifacts go.
    pub log_dir: PathBuf,
    /// Whether the artifacts of runs that passed are kept too: when `SIM_LOG_DIR` is set.
    pub keep_all: bool,
    /// `SIM_FAIL_FAST`: begin no run after one has failed.
    pub fail_fast: bool,
    /// `SIM_MUTANT`: the deliberate bug to switch on.
    pub mutant: Option<u32>,
    /// `SIM_PLAN`: a file with the plan to run instead of the seed's own.
    pub plan: Option<PathBuf>,
    /// `SIM_SHRINK`: make the plan of a failing seed smaller.
    pub shrink: bool,
    /// `SIM_TRACE`: what nodes say of themselves goes into the event log, as far as this lets it (`info`, `vectorsphere=debug`, …).
    pub trace: Option<String>,
    /// `SIM_WALL_LIMIT_S`: real seconds a process may take.
    pub wall_limit: Duration,
}

impl Settings {
    pub fn from_environment() -> Result<Settings, String> {
        let one_seed = number("SIM_SEED")?;
        let first_seed = match one_seed.map_or_else(|| number("SIM_FIRST_SEED"), |seed| Ok(Some(seed)))? {
            Some(seed) => seed,
            None => seed_of_commit().unwrap_or(1),
        };
        let log_dir = env::var_os("SIM_LOG_DIR").map(PathBuf::from);
        Ok(Settings {
            first_seed,
            one_seed: one_seed.is_some(),
            seeds: if one_seed.is_some() { 1 } else { number("SIM_SEEDS")?.unwrap_or(SEEDS_DEFAULT) },
            check: flag("SIM_CHECK"),
            jobs: number("SIM_JOBS")?.map_or_else(cores, |jobs| jobs.max(1) as usize),
            keep_all: log_dir.is_some(),
            log_dir: log_dir.unwrap_or_else(|| target_directory().join("sim-logs")),
            fail_fast: flag("SIM_FAIL_FAST"),
            mutant: mutant()?,
            plan: env::var_os("SIM_PLAN").map(PathBuf::from),
            shrink: flag("SIM_SHRINK"),
            trace: env::var("SIM_TRACE").ok().filter(|level| !level.is_empty()),
            wall_limit: Duration::from_secs(number("SIM_WALL_LIMIT_S")?.unwrap_or(120)),
        })
    }

    /// The line that runs one seed again, with the same mutant and plan.
    pub fn replay(&self, scenario: &Scenario, seed: u64, plan: Option<&Path>) -> String {
        let mutant = self.mutant.map_or(String::new(), |mutant| format!("SIM_MUTANT={mutant} "));
        let plan = plan.map_or(String::new(), |plan| format!("SIM_PLAN={} ", plan.display()));
        let features = if self.mutant.is_some() { "sim,mutants" } else { "sim" };
        let by_hand = if scenario.by_hand { " --ignored" } else { "" };
        let name = scenario.name;
        format!("SIM_SEED={seed} {plan}{mutant}cargo test --features {features} --test sim -- --exact {name}{by_hand}")
    }
}

fn number(name: &str) -> Result<Option<u64>, String> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => {
            text.parse().map(Some).map_err(|_| format!("{name}: expected a whole number, got {text:?}"))
        }
        _ => Ok(None),
    }
}

fn flag(name: &str) -> bool {
    env::var(name).is_ok_and(|text| !text.is_empty() && text != "0")
}

fn mutant() -> Result<Option<u32>, String> {
    let mutant = number("SIM_MUTANT")?.map(|number| number as u32);
    match mutant {
        Some(_) if !cfg!(feature = "mutants") => {
            Err("SIM_MUTANT is set, but this build has no mutants (add --features mutants)".to_string())
        }
        mutant => Ok(mutant),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Every commit tries seeds nobody has tried, and the same ones each time it is tested.
fn seed_of_commit() -> Option<u64> {
    let mut git = Command::new("git");
    git.args(["rev-parse", "--short=10", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = git.output().ok().filter(|output| output.status.success())?;
    u64::from_str_radix(String::from_utf8_lossy(&output.stdout).trim(), 16).ok()
}

/// The directory this program was built into: `<target>/sim/debug/deps/sim-…` lies three levels below it.
fn target_directory() -> PathBuf {
    let exe = env::current_exe().unwrap_or_default();
    exe.ancestors().nth(4).map_or_else(|| PathBuf::from("target"), PathBuf::from)
}
