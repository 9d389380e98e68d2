//! What a running simulation writes down: its event log, its `sometimes!` marks and its counters.
//!
//! The log is the artifact of a run and, byte for byte, the proof of determinism: `SIM_CHECK=1` compares two. So
//! nothing that differs between two runs of a seed (addresses, process ids, real time) may be logged.
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Arguments,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Mutex,
};

static WORLD: Mutex<Option<World>> = Mutex::new(None);

struct World {
    log: BufWriter<File>,
    report: Report,
}

/// What a run tells its runner at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Simulated time.
    pub simulated_ms: u64,
    /// What the run took of a core, in the program and in the kernel.
    #[serde(default)]
    pub cpu_ms: u64,
    /// Events by name: `ops.ok`, `fault.kill`, …
    pub counts: BTreeMap<String, u64>,
    /// Marks that were hit, with how often.
    pub marks: BTreeMap<String, u64>,
}

/// Begins the log of this process.
pub fn begin(log: &Path) -> std::io::Result<()> {
    let world = World { log: BufWriter::new(File::create(log)?), report: Report::default() };
    *WORLD.lock().expect("no panic while locked") = Some(world);
    Ok(())
}

fn with<T>(f: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.lock().ok().and_then(|mut world| world.as_mut().map(f))
}

/// Simulated time since the run began.
pub fn now_ns() -> u64 {
    let elapsed = madsim::time::TimeHandle::try_current().map(|time| time.elapsed());
    elapsed.map_or(0, |elapsed| elapsed.as_nanos() as u64)
}

/// From here on what nodes say of themselves goes into the log, after the name of the node, as far as `filter` lets it.
pub fn trace(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().with_writer(|| Said).init();
}

/// A line that a node says.
struct Said;

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let inside = madsim::time::TimeHandle::try_current().map(|_| madsim::plugin::node());
        let node = inside.and_then(vectorsphere::rt::sim::node_name).unwrap_or_default();
        line(format_args!("{node}: {}", String::from_utf8_lossy(bytes).trim_end()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Adds a line to the log; use `log!`.
pub fn line(line: Arguments) {
    let now_ns = now_ns();
    with(|world| {
        let _ = writeln!(world.log, "{:>6}.{:06} {line}", now_ns / 1_000_000_000, now_ns / 1_000 % 1_000_000);
    });
}

/// Adds a figure to the log, where the runner finds it, and whoever waits; use `figure!`.
pub fn measured(figure: Arguments) {
    line(format_args!("{FIGURE}{figure}"));
    with(|world| {
        let _ = world.log.flush();
    });
}

/// What the lines of figures begin with.
pub const FIGURE: &str = "FIGURE ";

/// Counts an event for the totals.
pub fn count(name: &str, by: u64) {
    with(|world| *world.report.counts.entry(name.to_string()).or_default() += by);
}

/// How often [`count`] counted `name` so far.
pub fn counted(name: &str) -> u64 {
    with(|world| world.report.counts.get(name).copied()).flatten().unwrap_or(0)
}

/// A mark was hit; use `sometimes!`.
pub fn mark(name: &'static str) {
    with(|world| *world.report.marks.entry(name.to_string()).or_default() += 1);
}

/// Writes everything to disk and gives the report.
pub fn end() -> Report {
    let now_ns = now_ns();
    with(|world| {
        world.report.simulated_ms = world.report.simulated_ms.max(now_ns / 1_000_000);
        world.report.cpu_ms = cpu_ms();
        let _ = world.log.flush();
        world.report.clone()
    })
    .unwrap_or_default()
}

/// What this process took of a core so far.
fn cpu_ms() -> u64 {
    // SAFETY: a rusage is plain data, zero is a valid value, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let ms = |time: libc::timeval| time.tv_sec as u64 * 1_000 + time.tv_usec as u64 / 1_000;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

/// A line for the event log.
macro_rules! log {
    ($($part:tt)*) => { $crate::world::line(format_args!($($part)*)) };
}

/// A figure that a run measured.
macro_rules! figure {
    ($($part:tt)*) => { $crate::world::measured(format_args!($($part)*)) };
}

/// Something rare that a good batch of seeds must see at least once. The scenario's list of marks must name it, so that
/// a mark nobody hits is noticed.
macro_rules! sometimes {
    ($holds:expr, $name:literal) => {
        if $holds {
            $crate::world::mark($name);
        }
    };
}

pub(crate) use {figure, log, sometimes};
