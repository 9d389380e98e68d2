//! What the process uses, from the operating system, under the names the Prometheus convention gives them.
//!
//! Promise: reading never fails; what the system does not tell (no `/proc`) is left out. Called at each scrape, and by
//! the command line's measurements.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serde::Serialize;

/// What the process uses now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessUse {
    /// Memory in RAM, in bytes.
    pub resident_bytes: u64,
    /// User and system CPU time since start, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
}

impl ProcessUse {
    /// Asks the operating system; `None` where it does not tell in a way known here. About 50 µs.
    pub fn now() -> Option<Self> {
        let resident_pages: u64 = read("/proc/self/statm")?.split(' ').nth(1)?.parse().ok()?;
        let open_fds = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        Some(Self {
            resident_bytes: resident_pages * system_value(libc::_SC_PAGESIZE)?,
            cpu_seconds: cpu_ticks(&read("/proc/self/stat")?)? as f64 / system_value(libc::_SC_CLK_TCK)? as f64,
            // The listing itself holds one open.
            open_fds: open_fds.saturating_sub(1),
        })
    }
}

/// Memory in RAM by what is behind it. Pages of files can be taken back at any time, anonymous ones only swapped out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resident {
    pub anonymous_bytes: u64,
    pub file_bytes: u64,
}

impl Resident {
    /// Asks the operating system, by exact counts; `None` where it does not tell.
    pub fn now() -> Option<Self> {
        resident(&read("/proc/self/smaps_rollup")?)
    }

    /// What came in since `before`.
    pub fn since(self, before: Resident) -> Resident {
        Resident {
            anonymous_bytes: self.anonymous_bytes.saturating_sub(before.anonymous_bytes),
            file_bytes: self.file_bytes.saturating_sub(before.file_bytes),
        }
    }
}

/// From `/proc/self/smaps_rollup` (proc(5)), whose counts are exact where those of `status` may lag behind.
fn resident(rollup: &str) -> Option<Resident> {
    let bytes = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let (all, anonymous_bytes) = (bytes("Rss:")?, bytes("Anonymous:")?);
    Some(Resident { anonymous_bytes, file_bytes: all.saturating_sub(anonymous_bytes) })
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// utime + stime of `/proc/self/stat` (proc(5), fields 14 and 15). The name in field 2 may hold spaces and brackets, so
/// fields are counted from the last bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn system_value(name: libc::c_int) -> Option<u64> {
    // SAFETY: sysconf takes any number by value and touches no memory of ours; an unknown one gives -1.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0)
}

#[derive(Debug)]
pub(super) struct ProcessCollector {
    started_at_seconds: f64,
}

impl ProcessCollector {
    pub(super) fn new(started_at_ms: u64) -> Self {
        Self { started_at_seconds: started_at_ms as f64 / 1e3 }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        let started = "Start of the process, in seconds since 1970";
        gauge("process_start_time", started, Some(&Unit::Seconds), self.started_at_seconds)?;
        let Some(used) = ProcessUse::now() else { return Ok(()) };
        let resident = "Memory of the process in RAM";
        gauge("process_resident_memory", resident, Some(&Unit::Bytes), used.resident_bytes as f64)?;
        gauge("process_open_fds", "Open file descriptors", None, used.open_fds as f64)?;
        let help = "User and system CPU time";
        let metric = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(used.cpu_seconds).encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0";
        assert_eq!(cpu_ticks(stat), Some(123));
        assert_eq!(cpu_ticks("7 (x"), None);
        assert_eq!(cpu_ticks("7 (x) S 1"), None);
    }

    #[test]
    fn resident_memory_is_read_by_kind() {
        let rollup = "55d0-7ffc ---p 00000000 00:00 0  [rollup]\nRss:  300 kB\nPss:  9 kB\nAnonymous:  200 kB\n";
        let found = resident(rollup).unwrap();
        assert_eq!(found, Resident { anonymous_bytes: 200 << 10, file_bytes: 100 << 10 });
        assert_eq!(found.since(Resident { anonymous_bytes: 1 << 30, file_bytes: 1024 }).anonymous_bytes, 0);
        assert_eq!(resident("Rss: 1 kB"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let used = ProcessUse::now().expect("Linux tells");
        assert!(used.resident_bytes > 1 << 20 && used.resident_bytes < 1 << 40, "{used:?}");
        assert!(used.open_fds >= 3 && used.cpu_seconds >= 0.0, "{used:?}");
    }
}
