//! The single checks of `doctor`: what is asked of the machine, and how an answer is judged.
//!
//! Promise: asking and judging are apart, so every judgement is tested without the machine that would give rise to it;
//! what the system does not tell is said so and fails nothing. Called by `cli::doctor`.

use std::fs;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;

use super::{Finding, Verdict};
use crate::config::{ByteSize, Config};
use crate::store::room::free_bytes;
use crate::{index, rt};

/// Below this a node meets its limit under an ordinary load: connections, tables and journals each hold one.
const OPEN_FILES_LOW: u64 = 1_024;
const OPEN_FILES_WANTED: u64 = 65_536;
const FREE_SPACE_LOW: u64 = 1 << 30;
const FREE_SPACE_WANTED: u64 = 10 << 30;
/// 2026-01-01: the program is younger than this, so a clock before it is wrong.
const CLOCK_EARLIEST_MS: u64 = 1_767_225_600_000;
/// 2100-01-01.
const CLOCK_LATEST_MS: u64 = 4_102_444_800_000;

pub(super) fn cpu() -> Finding {
    judge_cpu(index::active_simd(), &index::kernels::names())
}

/// `used` are the kernels of the index in use, `known` all this machine has.
fn judge_cpu(used: &str, known: &[&str]) -> Finding {
    let architecture = std::env::consts::ARCH;
    let seen = format!("{architecture}: {used} (of {})", known.join(", "));
    match (used, known) {
        (_, [_]) => Finding::new("cpu", Verdict::Warn, seen, "searches work, several times slower"),
        ("scalar", _) => Finding::new("cpu", Verdict::Warn, seen, "unset VECTORSPHERE_SIMD"),
        _ => Finding::good("cpu", seen),
    }
}

pub(super) fn page_size() -> Finding {
    // SAFETY: sysconf takes any number by value and touches no memory of ours; an unknown one gives -1.
    judge_page_size(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
}

fn judge_page_size(bytes: i64) -> Finding {
    let seen = format!("{bytes} bytes");
    match bytes {
        4_096 => Finding::good("page size", seen),
        ..=0 => Finding::new("page size", Verdict::Warn, "the system does not tell", ""),
        _ => Finding::new("page size", Verdict::Warn, seen, "memory figures were measured with 4096; expect more"),
    }
}

pub(super) fn open_files() -> Finding {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the pointer is valid for one rlimit, which the call fills where it gives 0.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) };
    if status != 0 {
        return Finding::new("open files", Verdict::Warn, "the system does not tell", "");
    }
    // SAFETY: the call gave 0, so the value is initialised.
    judge_open_files(unsafe { limit.assume_init() }.rlim_cur)
}

fn judge_open_files(limit: u64) -> Finding {
    const ADVICE: &str = "raise it: ulimit -n 65536, or LimitNOFILE= of the service";
    let seen = format!("limit {limit}");
    match limit {
        ..OPEN_FILES_LOW => Finding::new("open files", Verdict::Fail, seen, ADVICE),
        OPEN_FILES_LOW..OPEN_FILES_WANTED => Finding::new("open files", Verdict::Warn, seen, ADVICE),
        _ => Finding::good("open files", seen),
    }
}

pub(super) fn huge_pages() -> Finding {
    judge_huge_pages(fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok().as_deref())
}

fn judge_huge_pages(setting: Option<&str>) -> Finding {
    const CHECK: &str = "huge pages";
    let chosen = setting.and_then(|text| text.split_once('[')).and_then(|(_, rest)| rest.split_once(']'));
    match chosen.map(|(word, _)| word) {
        Some(word @ ("madvise" | "always")) => Finding::good(CHECK, word),
        Some(word) => {
            let advice = "madvise makes searches of large tables faster: \
                          echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
            Finding::new(CHECK, Verdict::Warn, word, advice)
        }
        None => Finding::good(CHECK, "the system does not tell"),
    }
}

pub(super) fn clock() -> Finding {
    judge_clock(rt::time::wall().0)
}

fn judge_clock(now_ms: u64) -> Finding {
    let seen = format!("{} s since 1970", now_ms / 1_000);
    if (CLOCK_EARLIEST_MS..CLOCK_LATEST_MS).contains(&now_ms) {
        return Finding::good("clock", seen);
    }
    Finding::new("clock", Verdict::Fail, seen, "set the clock; have it kept by NTP")
}

pub(super) fn data_directory(directory: &Path) -> Vec<Finding> {
    // What does not exist yet is made by `serve`; what counts until then is where it would be made.
    let existing = directory.ancestors().map(|path| if path == Path::new("") { Path::new(".") } else { path });
    let Some(existing) = existing.into_iter().find(|path| path.exists()) else {
        let seen = format!("{}: nothing of this path exists", directory.display());
        return vec![Finding::new("data directory", Verdict::Fail, seen, "choose another data_dir")];
    };
    vec![writable(directory, existing), judge_free_space(existing, free_bytes(existing).ok())]
}

fn writable(directory: &Path, existing: &Path) -> Finding {
    let probe = existing.join(format!(".vectorsphere-doctor-{}", std::process::id()));
    let written = fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    match written.and_then(|_file| fs::remove_file(&probe)) {
        Ok(()) if directory == existing => {
            Finding::good("data directory", format!("{}: writable", directory.display()))
        }
        Ok(()) => {
            let seen = format!("{}: not there yet, can be made", directory.display());
            Finding::good("data directory", seen)
        }
        Err(error) => {
            let seen = format!("{}: {error}", existing.display());
            Finding::new("data directory", Verdict::Fail, seen, "make it writable for this user")
        }
    }
}

fn judge_free_space(path: &Path, free: Option<u64>) -> Finding {
    const CHECK: &str = "free space";
    let Some(free) = free else { return Finding::new(CHECK, Verdict::Warn, "the system does not tell", "") };
    let seen = format!("{} at {}", rounded(free), path.display());
    match free {
        ..FREE_SPACE_LOW => Finding::new(CHECK, Verdict::Fail, seen, "free some, or choose another data_dir"),
        FREE_SPACE_LOW..FREE_SPACE_WANTED => Finding::new(CHECK, Verdict::Warn, seen, "enough to try, little to run"),
        _ => Finding::good(CHECK, seen),
    }
}

/// Whole GiB, or MiB below one.
fn rounded(bytes: u64) -> ByteSize {
    let unit = if bytes >= 1 << 30 { 1 << 30 } else { 1 << 20 };
    ByteSize(bytes / unit * unit)
}

pub(super) async fn ports(config: &Config) -> Vec<Finding> {
    let listen = &config.listen;
    let mut named: Vec<(&str, SocketAddr)> = listen.http.iter().map(|address| ("listen.http", *address)).collect();
    named.extend([("listen.grpc", listen.grpc), ("listen.monitoring", listen.monitoring)]);
    let mut findings = Vec::with_capacity(named.len());
    for (key, address) in named {
        let bound = rt::net::Listener::bind(address).await;
        findings.push(judge_port(key, address, bound.err().map(|error| error.kind())));
    }
    findings
}

fn judge_port(key: &str, address: SocketAddr, error: Option<ErrorKind>) -> Finding {
    const CHECK: &str = "port";
    let (seen, advice) = match error {
        None => return Finding::good(CHECK, format!("{address}: free")),
        Some(ErrorKind::AddrInUse) => (format!("{address}: in use"), "a node may be running; else choose another"),
        Some(ErrorKind::AddrNotAvailable) => (format!("{address}: not an address of this machine"), "choose another"),
        Some(ErrorKind::PermissionDenied) => (format!("{address}: not allowed"), "choose a port from 1024 on"),
        Some(other) => (format!("{address}: {other}"), "choose another"),
    };
    Finding::new(CHECK, Verdict::Fail, seen, &format!("{advice} (`{key}`)"))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Takes a real port.
mod tests {
    use super::*;

    #[test]
    fn cpus_without_the_fast_path_are_told() {
        assert_eq!(judge_cpu("avx2", &["scalar", "avx2"]).verdict, Verdict::Good);
        let forced = judge_cpu("scalar", &["scalar", "avx2"]);
        assert_eq!((forced.verdict, forced.advice.as_str()), (Verdict::Warn, "unset VECTORSPHERE_SIMD"));
        let slow = judge_cpu("scalar", &["scalar"]);
        assert_eq!(slow.verdict, Verdict::Warn);
        assert!(slow.seen.ends_with("scalar (of scalar)"), "{}", slow.seen);
    }

    #[test]
    fn numbers_are_judged_at_their_limits() {
        let verdicts = [1_023, 1_024, 65_535, 65_536, u64::MAX].map(|limit| judge_open_files(limit).verdict);
        assert_eq!(verdicts, [Verdict::Fail, Verdict::Warn, Verdict::Warn, Verdict::Good, Verdict::Good]);
        let space = |free| judge_free_space(Path::new("/"), free).verdict;
        assert_eq!(space(Some((1 << 30) - 1)), Verdict::Fail);
        assert_eq!(space(Some(1 << 30)), Verdict::Warn);
        assert_eq!(space(Some(10 << 30)), Verdict::Good);
        assert_eq!(space(None), Verdict::Warn);
        assert_eq!(
            [-1, 4_096, 16_384].map(|b| judge_page_size(b).verdict),
            [Verdict::Warn, Verdict::Good, Verdict::Warn]
        );
        assert_eq!(judge_clock(0).verdict, Verdict::Fail);
        assert_eq!(judge_clock(CLOCK_EARLIEST_MS).verdict, Verdict::Good);
        assert_eq!(judge_clock(CLOCK_LATEST_MS).verdict, Verdict::Fail);
    }

    #[test]
    fn the_chosen_huge_page_setting_is_the_one_in_brackets() {
        assert_eq!(judge_huge_pages(Some("always [madvise] never\n")).seen, "madvise");
        assert_eq!(judge_huge_pages(Some("always madvise [never]\n")).verdict, Verdict::Warn);
        assert_eq!(judge_huge_pages(None).verdict, Verdict::Good);
    }

    #[test]
    fn the_probe_of_the_data_directory_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for path in [directory.path().to_owned(), directory.path().join("not/yet")] {
            assert_eq!(data_directory(&path)[0].verdict, Verdict::Good, "{path:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
        let file = directory.path().join("file");
        fs::write(&file, "").expect("writable");
        assert_eq!(data_directory(&file.join("below"))[0].verdict, Verdict::Fail);
        assert!(free_bytes(directory.path()).is_ok_and(|free| free > 0));
    }

    #[test]
    fn a_port_in_use_is_told() {
        if rt::SIMULATED {
            return; // No runtime can be built there, and its ports are not the machine's.
        }
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut config = Config::default();
        config.listen.http = vec![taken.local_addr().expect("bound")];
        config.listen.grpc.set_port(0);
        config.listen.monitoring.set_port(0);
        let findings = rt::block_on(1, ports(&config)).expect("a runtime");
        let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Fail, Verdict::Good, Verdict::Good]);
        assert!(findings[0].seen.ends_with("in use") && findings[0].advice.contains("`listen.http`"));
    }
}
