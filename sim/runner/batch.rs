//! All runs of a batch, several processes at a time, and what became of them.
use super::{
    child::{self, Finished},
    settings::Settings,
    totals::Totals,
};
use crate::{
    scenarios::{self, Scenario},
    world::FIGURE,
};
use std::{
    collections::BTreeSet,
    io::Write,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// A batch of all scenarios with so many seeds or more is to hit this share of the marks: or it no longer tries what it is there for.
const LARGE_BATCH_SEEDS: u64 = 20;
const MARKS_HIT_MIN: f64 = 0.93;

/// Runs every scenario with every seed; whether all passed, and a large batch has hit its marks.
pub fn run(scenarios: &[Scenario], settings: &Settings, filtered_out: usize) -> bool {
    // Seed by seed, not scenario by scenario: a batch that is cut short has tried a bit of everything.
    let seeds = settings.first_seed..settings.first_seed.saturating_add(settings.seeds);
    let mut work: Vec<Work> = regressions(scenarios, settings);
    let kept = work.len();
    work.extend(
        seeds.flat_map(|seed| {
            scenarios.iter().map(move |scenario| Work { scenario, seed, plan: settings.plan.clone() })
        }),
    );
    println!(
        "\nrunning {} tests ({kept} kept plans; {} scenarios, {} seeds from {}{}), {} at a time",
        work.len(),
        scenarios.len(),
        settings.seeds,
        settings.first_seed,
        if settings.check { ", each twice" } else { "" },
        settings.jobs
    );
    let begun = Instant::now();
    let (next, totals) = (AtomicUsize::new(0), Mutex::new(Totals::default()));
    let failed = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for _ in 0..settings.jobs {
            scope.spawn(|| {
                while let Some(work) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if settings.fail_fast && !failed.lock().expect("no panic while locked").is_empty() {
                        break;
                    }
                    let (finished, failure) = run_one(work, settings);
                    if let Some(failure) = &failure {
                        failed.lock().expect("no panic while locked").insert(work.scenario.name);
                        print_failure(work, failure, finished.as_ref(), settings);
                    }
                    let mut totals = totals.lock().expect("no panic while locked");
                    totals.add(work.scenario.name, finished.map(|finished| finished.report), failure.is_none());
                }
            });
        }
    });
    child::clean_up();
    let (totals, failed) = (totals.into_inner().expect("threads ended"), failed.into_inner().expect("threads ended"));
    for scenario in scenarios {
        println!("test {} ... {}", scenario.name, if failed.contains(scenario.name) { "FAILED" } else { "ok" });
    }
    let marks_hit = totals.print(scenarios);
    let is_large = settings.seeds >= LARGE_BATCH_SEEDS
        && !settings.check
        && !settings.fail_fast
        && scenarios.len() == unattended();
    let is_vacuous = is_large && marks_hit < MARKS_HIT_MIN;
    if is_vacuous {
        println!(
            "vacuous: {:.0} % of the marks were hit, of which {:.0} % are wanted",
            marks_hit * 100.0,
            MARKS_HIT_MIN * 100.0
        );
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {filtered_out} filtered out; finished in {:.2}s\n",
        if failed.is_empty() && !is_vacuous { "ok" } else { "FAILED" },
        totals.passed,
        totals.failed,
        begun.elapsed().as_secs_f64()
    );
    failed.is_empty() && !is_vacuous
}

/// Scenarios that no filter has to name.
fn unattended() -> usize {
    scenarios::all().iter().filter(|scenario| !scenario.by_hand).count()
}

/// One run of a batch.
struct Work<'a> {
    scenario: &'a Scenario,
    seed: u64,
    /// Instead of the seed's own.
    plan: Option<PathBuf>,
}

/// Where the plans of bugs that were found are kept, each as `<scenario>.<seed>.json`.
const PLANS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sim/plans");

/// The kept plans of these scenarios, in order; none if this is about one seed or one plan.
fn regressions<'a>(scenarios: &'a [Scenario], settings: &Settings) -> Vec<Work<'a>> {
    if settings.one_seed || settings.plan.is_some() || settings.seeds == 0 {
        return Vec::new();
    }
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(PLANS).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let work = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
        let (scenario, seed) = name.split_once('.')?;
        let scenario = scenarios.iter().find(|known| known.name == scenario)?;
        Some(Work { scenario, seed: seed.parse().ok()?, plan: Some(path.clone()) })
    };
    paths.iter().filter_map(work).collect()
}

/// One run, or two that must leave the same log; with why it failed, if it did.
fn run_one(work: &Work, settings: &Settings) -> (Option<Finished>, Option<String>) {
    let (scenario, seed) = (work.scenario.name, work.seed);
    let once = || child::run(scenario, seed, work.plan.as_deref(), settings);
    let first = match once() {
        Ok(first) => first,
        Err(error) => return (None, Some(format!("cannot run a process: {error}"))),
    };
    let name = format!("{scenario}-{seed}");
    if settings.keep_all {
        let _ = first.keep(&settings.log_dir, &name);
    }
    if let Some(failure) = first.failure.clone() {
        return (Some(first), Some(failure));
    }
    print_figures(&first);
    if !settings.check {
        return (Some(first), None);
    }
    match once() {
        Ok(second) if second.failure.is_none() && second.log == first.log => (Some(first), None),
        Ok(second) => {
            let _ = second.keep(&settings.log_dir, &format!("{name}.second"));
            let difference = first_difference(&first.log, &second.log);
            (Some(first), Some(format!("NOT DETERMINISTIC: {difference}")))
        }
        Err(error) => (Some(first), Some(format!("cannot run the second process: {error}"))),
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> String {
    let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    let (mut left, mut right) = (one.lines(), other.lines());
    for line in 1.. {
        match (left.next(), right.next()) {
            (None, None) => return "the logs differ in their last bytes".to_string(),
            (one, other) if one == other => {}
            (one, other) => {
                let end = "(end)";
                return format!("line {line}\n  {}\n  {}", one.unwrap_or(end), other.unwrap_or(end));
            }
        }
    }
    unreachable!("a log has an end")
}

/// What a run measured.
fn print_figures(finished: &Finished) {
    let log = String::from_utf8_lossy(&finished.log);
    log.lines().filter_map(|line| Some(line.split_once(FIGURE)?.1)).for_each(|figure| println!("{figure}"));
}

fn print_failure(work: &Work, failure: &str, finished: Option<&Finished>, settings: &Settings) {
    let (scenario, seed) = (work.scenario.name, work.seed);
    let kept = finished.and_then(|finished| finished.keep(&settings.log_dir, &format!("{scenario}-{seed}")).ok());
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "FAIL {scenario} seed {seed}: {}", failure.replace('\n', "\n    "));
    if let Some(log) = kept {
        let _ = writeln!(out, "  log:    {}", log.display());
    }
    let _ = writeln!(out, "  replay: {}", settings.replay(work.scenario, seed, work.plan.as_deref()));
    let _ = out.flush();
}
