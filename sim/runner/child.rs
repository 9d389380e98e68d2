//! One run: a process of this same program that runs one scenario with one seed and leaves a log and a report.
use super::settings::Settings;
use crate::{
    disk::Disk,
    scenarios::{self, Run},
    world::{self, Report},
};
use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio, exit},
    thread,
    time::{Duration, Instant},
};

const CHILD: &str = "--child";
/// How much a child writes down of what nodes say.
const TRACE: &str = "SIM_TRACE";

/// What a child is told to do. `scratch` is its directory on a memory file system; the log, the plan, the history and
/// the report lie in it beside the simulated disks.
pub struct Order {
    scenario: String,
    seed: u64,
    scratch: PathBuf,
    plan: Option<PathBuf>,
}

impl Order {
    pub fn from_arguments(raw: &[String]) -> Option<Order> {
        match raw {
            [child, scenario, seed, scratch, plan @ ..] if child == CHILD => Some(Order {
                scenario: scenario.clone(),
                seed: seed.parse().ok()?,
                scratch: PathBuf::from(scratch),
                plan: plan.first().map(PathBuf::from),
            }),
            _ => None,
        }
    }
}

/// Runs the scenario; ends the process with 101 if anything panics.
pub fn be(order: Order) {
    let scenario = scenarios::all().into_iter().find(|scenario| scenario.name == order.scenario);
    let scenario = scenario.expect("the runner orders scenarios that exist");
    world::begin(&order.scratch.join("log")).expect("the scratch directory takes a log");
    std::panic::set_hook(Box::new(|panic| {
        world::line(format_args!("PANIC {panic}"));
        world::end();
        eprintln!("{panic}");
        eprintln!("{}", std::backtrace::Backtrace::capture());
        // Not by unwinding: destructors would run in a broken simulation.
        exit(101);
    }));
    if let Ok(filter) = env::var(TRACE) {
        world::trace(&filter);
    }
    let disks = order.scratch.join("disks");
    fs::create_dir(&disks).expect("the scratch directory takes a directory");
    let runtime = madsim::runtime::Runtime::with_seed_and_config(order.seed, madsim::Config::default());
    let plan = order.plan.map(|path| fs::read_to_string(path).expect("the plan can be read"));
    let run =
        Run { seed: order.seed, disk: Disk::install(&disks, scenario.name_rule), scratch: order.scratch.clone(), plan };
    let report = runtime.block_on(async move {
        (scenario.run)(run).await;
        world::end()
    });
    let text = serde_json::to_string(&report).expect("a report is plain data");
    fs::write(order.scratch.join("report.json"), text).expect("the scratch directory takes a report");
    exit(0);
}

/// How a run ended. The scratch directory is gone; `log` is its event log.
pub struct Finished {
    pub failure: Option<String>,
    pub report: Report,
    pub log: Vec<u8>,
    artifacts: Vec<(String, Vec<u8>)>,
}

impl Finished {
    /// The plan it ran, if its scenario has plans.
    pub fn plan(&self) -> Option<serde_json::Value> {
        let (_, bytes) = self.artifacts.iter().find(|(name, _)| name == PLAN)?;
        serde_json::from_slice(bytes).ok()
    }

    /// Writes the log and the other artifacts as `<dir>/<name>.<artifact>`; the path of the log.
    pub fn keep(&self, dir: &Path, name: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(dir)?;
        for (artifact, bytes) in &self.artifacts {
            fs::write(dir.join(format!("{name}.{artifact}")), bytes)?;
        }
        let log = dir.join(format!("{name}.log"));
        fs::write(&log, &self.log)?;
        Ok(log)
    }
}

/// Runs `scenario` with `seed` in a process of its own.
pub fn run(scenario: &str, seed: u64, plan: Option<&Path>, settings: &Settings) -> io::Result<Finished> {
    let scratch = scratch_directory(scenario, seed)?;
    let finished = run_in(&scratch, scenario, seed, plan, settings);
    let _ = fs::remove_dir_all(&scratch);
    finished
}

fn scratch_directory(scenario: &str, seed: u64) -> io::Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_path_buf() } else { env::temp_dir() };
    // The same for both runs of a checked seed, so that not even a path differs between them.
    let scratch = base.join(format!("vectorsphere-sim-{}", std::process::id())).join(format!("{scenario}-{seed}"));
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

/// Removes what [`run`] leaves: the empty directory that held the runs' own.
pub fn clean_up() {
    if let Ok(scratch) = scratch_directory("end", 0)
        && let Some(base) = scratch.parent()
    {
        let _ = fs::remove_dir_all(base);
    }
}

fn run_in(scratch: &Path, scenario: &str, seed: u64, plan: Option<&Path>, settings: &Settings) -> io::Result<Finished> {
    let mut command = Command::new(env::current_exe()?);
    command.args([CHILD, scenario, &seed.to_string()]).arg(scratch).args(plan);
    // A clean environment: what is in it moves the stack, and a program may read it.
    command.env_clear();
    for name in ["PATH", "RUST_BACKTRACE"] {
        command.envs(env::var_os(name).map(|value| (name, value)));
    }
    command.envs(settings.trace.as_ref().map(|level| (TRACE, level)));
    command.envs(settings.mutant.map(|mutant| ("SIM_MUTANT", mutant.to_string())));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(scratch.join("stderr"))?);
    // SAFETY: personality is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::personality(libc::ADDR_NO_RANDOMIZE as _);
            Ok(())
        });
    }
    let status = wait(command.spawn()?, settings.wall_limit)?;
    collect(scratch, status, settings.wall_limit)
}

/// On a machine that has other things to do a run may take so many times its limit.
const PATIENCE: u32 = 10;

/// Whether a process that has run for longer than `limit` got little of a core in that time, a quarter of it at most.
fn starves(child: &Child, limit: Duration) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // Behind the name, which may hold anything, the 12th and 13th field: clock ticks in the program and in the kernel.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: Option<u64> = fields.skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf takes no pointers.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    ticks.is_some_and(|ticks| ticks / ticks_a_second < limit.as_secs() / 4)
}

/// `None`: it took too long and was killed.
fn wait(mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > limit && !(starves(&child, limit) && begun.elapsed() < limit * PATIENCE) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// How much of a failed run's standard error is printed; the whole of it is among the artifacts.
const FAILURE_LINES: usize = 12;

/// What a run may leave in its scratch directory besides the log.
const PLAN: &str = "plan.json";
const ARTIFACTS: [&str; 5] = [PLAN, "history.edn", "history.jsonl", "report.json", "stderr"];

fn collect(scratch: &Path, status: Option<ExitStatus>, limit: Duration) -> io::Result<Finished> {
    let read = |name: &str| fs::read(scratch.join(name)).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&read("stderr")).into_owned();
    let failure = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{status}\n{}", first_lines(&stderr, FAILURE_LINES))),
        None => Some(format!("took longer than {} s\n{}", limit.as_secs(), first_lines(&stderr, FAILURE_LINES))),
    };
    let artifacts = ARTIFACTS.iter().map(|name| (name.to_string(), read(name))).filter(|(_, bytes)| !bytes.is_empty());
    Ok(Finished {
        failure,
        report: serde_json::from_slice(&read("report.json")).unwrap_or_default(),
        log: read("log"),
        artifacts: artifacts.collect(),
    })
}

fn first_lines(text: &str, count: usize) -> String {
    text.lines().filter(|line| !line.trim().is_empty()).take(count).collect::<Vec<_>>().join("\n")
}
