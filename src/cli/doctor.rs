//! `vectorsphere doctor`: looks for what on this machine would keep a node from running well.
//!
//! Promise: it changes nothing that stays (the probe file in the data directory is removed, probed ports are closed
//! again); each finding says what was seen and, where it matters, what to do. Ends with 0 where nothing fails, 1 where
//! something does. Called by `cli::run`.

mod probes;

use serde_json::json;

use super::args::ConfigArgs;
use super::config_cmd::{load_config, require_startable};
use super::context::{CliError, Context};
use super::exit::ExitCode;
use super::listing;
use crate::config::{Config, Loaded};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Good,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        }
    }
}

/// What one check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    check: &'static str,
    verdict: Verdict,
    seen: String,
    advice: String,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, seen: impl Into<String>, advice: &str) -> Self {
        Self { check, verdict, seen: seen.into(), advice: advice.to_owned() }
    }

    fn good(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Good, seen, "")
    }
}

/// Runs every check and prints what they found.
///
/// # Errors
/// Where the answer cannot be written. A configuration that does not load is a finding, not an error.
pub async fn run(args: &ConfigArgs, context: &Context) -> Result<ExitCode, CliError> {
    let (config_findings, config) = configuration(load_config(args));
    let mut findings = vec![probes::cpu(), probes::page_size(), probes::open_files()];
    findings.push(probes::huge_pages());
    findings.push(probes::clock());
    findings.extend(probes::data_directory(&config.data_dir));
    findings.extend(probes::ports(&config).await);
    findings.extend(config_findings);
    let document: Vec<_> = findings
        .iter()
        .map(|f| json!({"check": f.check, "verdict": f.verdict.word(), "seen": f.seen, "advice": f.advice}))
        .collect();
    context.print(&document, || render(&findings))?;
    let worst = findings.iter().map(|finding| finding.verdict).max();
    Ok(if worst == Some(Verdict::Fail) { ExitCode::Failed } else { ExitCode::Ok })
}

/// What is to say about the configuration; and the one the other checks go by, the defaults where none loads.
fn configuration(loaded: Result<Loaded, CliError>) -> (Vec<Finding>, Config) {
    const CHECK: &str = "configuration";
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let problems = error.message.lines().skip(1).filter(|line| !line.starts_with('`'));
            let advice = "mend it; the other checks went by the defaults";
            let finding = |problem: &str| Finding::new(CHECK, Verdict::Fail, problem, advice);
            return (problems.map(finding).collect(), Config::default());
        }
    };
    let mut findings: Vec<Finding> = loaded
        .notices
        .iter()
        .map(|notice| Finding::new(CHECK, Verdict::Warn, notice.to_string(), "take it out, or leave it for later"))
        .collect();
    if let Err(error) = require_startable(&loaded) {
        findings.push(Finding::new(CHECK, Verdict::Fail, error.message, ""));
    }
    if loaded.config.security.insecure {
        let advice = "make sure a firewall or proxy stands in front of it";
        findings.push(Finding::new(CHECK, Verdict::Warn, "security.insecure is true: anyone may connect", advice));
    }
    if findings.is_empty() {
        findings.push(Finding::good(CHECK, "loads, and a node can start with it"));
    }
    (findings, loaded.config)
}

fn render(findings: &[Finding]) -> String {
    let row = |f: &Finding| vec![f.check.to_owned(), f.verdict.word().to_owned(), f.seen.clone(), f.advice.clone()];
    listing::left(&["CHECK", "", "SEEN", "ADVICE"], &findings.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, ConfigError, Problem, Sources, load};

    fn loaded(key: &str, value: &str) -> Result<Loaded, CliError> {
        let read = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let flags = vec![Assignment::named("--set", key, value)];
        Ok(load(&Sources { file: None, variables: Vec::new(), flags, read: &read })?)
    }

    #[test]
    fn a_configuration_that_does_not_load_is_one_finding_a_problem() {
        let problem = |got: &str| Problem::BadAssignment { got: got.to_owned() };
        let error = ConfigError { problems: vec![problem("a"), problem("b")] };
        let (findings, config) = configuration(Err(error.into()));
        assert_eq!(config, Config::default());
        let seen: Vec<_> = findings.iter().map(|f| (f.verdict, f.seen.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Verdict::Fail, "--set: expected KEY=VALUE, got \"a\""),
                (Verdict::Fail, "--set: expected KEY=VALUE, got \"b\""),
            ]
        );
    }

    #[test]
    fn openness_and_modes_to_come_are_told() {
        let verdicts = |key, value| configuration(loaded(key, value)).0.iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts("log.level", "debug"), [Verdict::Good]);
        assert_eq!(verdicts("security.insecure", "true"), [Verdict::Warn]);
        assert_eq!(verdicts("mode", "auto"), [Verdict::Good]);
        assert_eq!(verdicts("mode", "gateway"), [Verdict::Fail]);
        assert_eq!(verdicts("cluster.node_id", "a"), [Verdict::Warn]);
    }

    #[test]
    fn the_table_shows_verdict_and_advice() {
        let findings = [Finding::good("cpu", "avx2"), Finding::new("clock", Verdict::Fail, "1970", "set it")];
        assert_eq!(render(&findings), "CHECK        SEEN  ADVICE\ncpu    ok    avx2\nclock  FAIL  1970  set it\n");
    }
}
