//! Lays the layers over one another and keeps where each value came from.
//!
//! Promise: the result depends on [`Sources`] alone (files are read through the function it carries), the mode is
//! decided over all layers before anything that depends on it, every problem of every layer is reported, and nothing
//! set is ignored in silence: what has no effect yet becomes a [`Notice`]. Called by the command line and by tests.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document;
use super::error::{ConfigError, Origin, Problem};
use super::keys::{self, Effect, KEYS, Key};
use super::model::Config;
use super::seeds::{self, SeedKey, Translated};
use super::validate;
use super::value::{Setting, Value};
use super::words::Name;

/// What variables start with.
const VARIABLE_PREFIX: &str = "VECTORSPHERE__";
/// Where environment files lie when there is no configuration file.
const ENVIRONMENT_DIRECTORY: &str = "conf";

/// What a configuration is made of, besides the defaults.
pub struct Sources<'a> {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The process's environment; only `VECTORSPHERE__*` is looked at.
    pub variables: Vec<(String, String)>,
    /// Flags, in the order given.
    pub flags: Vec<Assignment>,
    /// Reads a file; `std::fs::read_to_string` outside tests.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// One value given by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The flag as it is shown (`--http`, `--set log.level`).
    pub flag: String,
    /// The key, canonical or (for flags of the seeds) a seed's.
    pub key: String,
    /// The value's text.
    pub value: String,
}

impl Assignment {
    /// A named flag that sets `key`.
    pub fn named(flag: &str, key: &str, value: impl Into<String>) -> Self {
        Self { flag: flag.to_owned(), key: key.to_owned(), value: value.into() }
    }

    /// The argument of a `--set`.
    ///
    /// # Errors
    /// [`Problem::BadAssignment`] where it has no `=` or no key.
    pub fn parse(argument: &str) -> Result<Self, Problem> {
        match argument.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                let key = key.trim().to_owned();
                Ok(Self { flag: format!("--set {key}"), key, value: value.to_owned() })
            }
            // What stands there may be a secret only after an `=`, so without one it is safe to show.
            _ => Err(Problem::BadAssignment { got: argument.split('=').next().unwrap_or_default().to_owned() }),
        }
    }
}

/// Something accepted that does nothing in this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Canonical key, or the seed's where there is none.
    pub key: String,
    /// Where it was set.
    pub origin: Origin,
    /// What will read it, or why nothing does.
    pub reason: &'static str,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: accepted, has no effect yet: {}", self.origin, self.key, self.reason)
    }
}

/// A valid configuration and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What was set and does nothing yet.
    pub notices: Vec<Notice>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

/// Reads all layers.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigError> {
    let mut merge = Merge::default();
    let mut layers: Vec<Vec<Setpoint>> = vec![
        sources.file.as_deref().map_or_else(Vec::new, |path| merge.file(path, sources.read)),
        sources.variables.iter().filter_map(|(name, value)| variable(name, value)).collect(),
        sources.flags.iter().map(flag).collect(),
    ];
    if let Some(environment) = environment_of(&layers) {
        let directory = sources
            .file
            .as_deref()
            .map_or(Path::new(ENVIRONMENT_DIRECTORY), |file| file.parent().unwrap_or(Path::new("")));
        let layer = merge.file(&directory.join(format!("{}.yaml", environment.as_str())), sources.read);
        merge.refuse_nested_environment(&layer);
        layers.insert(1, layer);
    }
    for sets_mode in [true, false] {
        for layer in &layers {
            merge.layer(layer.iter().filter(|setpoint| setpoint.sets_mode() == sets_mode));
        }
    }
    merge.finish()
}

/// One key set by a layer.
struct Setpoint {
    written: String,
    value: Value,
    origin: Origin,
    target: Target,
}

enum Target {
    Key(&'static Key),
    Seed(&'static SeedKey),
    Unknown { seeds_known: bool },
}

impl Setpoint {
    fn new(written: String, value: Value, origin: Origin, seeds_known: bool) -> Self {
        let seed = || if seeds_known { seeds::find(&written) } else { None };
        let target = match keys::find(&written) {
            Some(key) => Target::Key(key),
            None => seed().map_or(Target::Unknown { seeds_known }, Target::Seed),
        };
        Self { written, value, origin, target }
    }

    fn sets_mode(&self) -> bool {
        match self.target {
            Target::Key(key) => key.name == "mode",
            Target::Seed(seed) => seed.same_as() == Some("mode"),
            Target::Unknown { .. } => false,
        }
    }

    fn is_environment(&self) -> bool {
        self.written == "environment"
    }
}

fn variable(name: &str, value: &str) -> Option<Setpoint> {
    let path = name.strip_prefix(VARIABLE_PREFIX)?;
    let written = path.to_ascii_lowercase().replace("__", ".");
    Some(Setpoint::new(written, Value::Bare(value.to_owned()), Origin::Variable(name.to_owned()), false))
}

fn flag(assignment: &Assignment) -> Setpoint {
    let seeds_known = !assignment.flag.starts_with("--set");
    let origin = Origin::Flag(assignment.flag.clone());
    Setpoint::new(assignment.key.clone(), Value::Bare(assignment.value.clone()), origin, seeds_known)
}

/// The environment the highest layer names; a badly written one is reported when its layer is merged.
fn environment_of(layers: &[Vec<Setpoint>]) -> Option<Name> {
    let highest = layers.iter().rev().find_map(|layer| layer.iter().find(|setpoint| setpoint.is_environment()));
    highest.and_then(|setpoint| Option::<Name>::read(&setpoint.value)).flatten()
}

#[derive(Default)]
struct Merge {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    inert: Vec<Notice>,
    problems: Vec<Problem>,
}

impl Merge {
    /// Reads a file into a layer; an unreadable one is a problem and an empty layer.
    fn file(&mut self, path: &Path, read: &dyn Fn(&Path) -> io::Result<String>) -> Vec<Setpoint> {
        let entries = read(path)
            .map_err(|error| Problem::Unreadable { path: path.to_owned(), reason: error.to_string() })
            .and_then(|text| document::parse(path, &text));
        let entries = entries.unwrap_or_else(|problem| {
            self.problems.push(problem);
            Vec::new()
        });
        let path: Arc<Path> = path.into();
        let setpoint = |entry: document::Entry| {
            let written_as = keys::find(&entry.key).is_none().then(|| entry.key.clone());
            let known_seed = written_as.filter(|name| seeds::find(name).is_some());
            let origin = Origin::File { path: path.clone(), line: entry.line, written_as: known_seed };
            Setpoint::new(entry.key, entry.value, origin, true)
        };
        entries.into_iter().map(setpoint).collect()
    }

    fn refuse_nested_environment(&mut self, layer: &[Setpoint]) {
        for setpoint in layer.iter().filter(|setpoint| setpoint.is_environment()) {
            self.problems.push(Problem::Refused {
                key: "environment".to_owned(),
                origin: setpoint.origin.clone(),
                reason: "an environment's file cannot name another environment".to_owned(),
            });
        }
    }

    fn layer<'a>(&mut self, setpoints: impl Iterator<Item = &'a Setpoint>) {
        // A seed's port changes the address that lies below, so all of a layer is read against one state.
        let below = self.config.clone();
        let mut set_here: BTreeMap<&'static str, Origin> = BTreeMap::new();
        for setpoint in setpoints {
            match self.target(setpoint, &below) {
                Ok(Some((key, value))) => {
                    if let Some(first) = set_here.insert(key.name, setpoint.origin.clone()) {
                        let second = setpoint.origin.clone();
                        self.problems.push(Problem::SetTwice { key: key.name.to_owned(), first, second });
                    } else if !key.assign(&mut self.config, &value) {
                        self.problems.push(bad_value(&setpoint.written, key.expected(), key.secret, setpoint));
                    } else {
                        self.origins.insert(key.name, setpoint.origin.clone());
                    }
                }
                Ok(None) => {}
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    /// The canonical key and value that `setpoint` stands for, if it stands for one.
    fn target(&mut self, setpoint: &Setpoint, below: &Config) -> Result<Option<(&'static Key, Value)>, Problem> {
        match setpoint.target {
            Target::Key(key) => Ok(Some((key, setpoint.value.clone()))),
            Target::Unknown { seeds_known } => unknown(setpoint, seeds_known).map_or(Ok(None), Err),
            Target::Seed(seed) => match seed.translate(&setpoint.value, below) {
                Ok(Translated::Set(name, value)) => {
                    Ok(Some((keys::find(name).expect("invariant: a seed's key names a key"), value)))
                }
                Ok(Translated::Nothing(reason)) => {
                    let notice = |reason| Notice { key: seed.name.to_owned(), origin: plain(&setpoint.origin), reason };
                    self.inert.extend(reason.map(notice));
                    Ok(None)
                }
                Err(refused) => Err(bad_value(&setpoint.written, refused.expected, refused.secret, setpoint)),
            },
        }
    }

    /// Where a seed's spelling gave a node of a cluster its HTTP port, the ports that no layer has set follow it: a machine may have
    /// several such nodes, and the seeds have no words for these ports.
    fn ports_beside(&mut self) {
        let Some(origin) = self.origins.get("listen.http").filter(|origin| origin.is_seeds_port()).cloned() else {
            return;
        };
        for (name, value) in seeds::ports_beside(&self.config) {
            if !self.origins.contains_key(name) {
                let key = keys::find(name).expect("invariant: a seed's key names a key");
                key.assign(&mut self.config, &value);
                self.origins.insert(name, origin.clone());
            }
        }
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        self.ports_beside();
        self.problems.extend(validate::problems(&self.config, &self.origins));
        if !self.problems.is_empty() {
            return Err(ConfigError { problems: self.problems });
        }
        let mut notices = self.inert;
        notices.extend(KEYS.iter().filter_map(|key| later_notice(key, &self.config, &self.origins)));
        Ok(Loaded { config: self.config, notices, origins: self.origins })
    }
}

/// An origin without the seed's name, where the key shown is that name already.
fn plain(origin: &Origin) -> Origin {
    match origin {
        Origin::File { path, line, .. } => Origin::File { path: path.clone(), line: *line, written_as: None },
        other => other.clone(),
    }
}

fn later_notice(key: &Key, config: &Config, origins: &BTreeMap<&'static str, Origin>) -> Option<Notice> {
    let Effect::Later(reason) = key.effect else { return None };
    let origin = origins.get(key.name)?;
    let changed = key.value(config) != key.value(&Config::default());
    changed.then(|| Notice { key: key.name.to_owned(), origin: origin.clone(), reason })
}

fn bad_value(written: &str, expected: String, secret: bool, setpoint: &Setpoint) -> Problem {
    let got = if secret { setpoint.value.kind().to_owned() } else { setpoint.value.describe() };
    Problem::BadValue { key: written.to_owned(), expected, got, origin: plain(&setpoint.origin) }
}

fn unknown(setpoint: &Setpoint, seeds_known: bool) -> Option<Problem> {
    let name = &setpoint.written;
    let is_section = keys::is_section(name) || (seeds_known && seeds::is_section(name));
    if is_section {
        // A section whose lines are all commented out reads as null.
        let expected = || "a section: keys of its own below it".to_owned();
        return (setpoint.value != Value::Null).then(|| bad_value(name, expected(), true, setpoint));
    }
    let suggestion = suggest_among(name, seeds_known);
    Some(Problem::UnknownKey { key: name.clone(), origin: setpoint.origin.clone(), suggestion })
}

/// The canonical key nearest to `name`, where one is near enough to be meant.
pub fn suggest(name: &str) -> Option<String> {
    suggest_among(name, false)
}

fn suggest_among(name: &str, seeds_known: bool) -> Option<String> {
    let folded = fold(name);
    let leaf = fold(name.rsplit('.').next().unwrap_or(name));
    // The most letters that may differ: a third of what was written, at least two.
    let distance_max = (folded.len() / 3).clamp(2, 5);
    let seeds = seeds::names().filter(|_| seeds_known);
    let candidates = KEYS.iter().map(|key| key.name).chain(seeds);
    let by_distance = |candidate: &'static str| {
        let distance = strsim::damerau_levenshtein(&folded, &fold(candidate));
        // A right name under a wrong section (or none) is meant more surely than any misspelling.
        let same_leaf = fold(candidate.rsplit('.').next().unwrap_or(candidate)) == leaf;
        let rank = if same_leaf { distance.min(1) } else { distance };
        (rank <= distance_max).then_some((rank, distance, candidate))
    };
    candidates.filter_map(by_distance).min().map(|(_, _, candidate)| candidate.to_owned())
}

/// Case and separators left out: `dataDir` and `data_dir` are the same word.
fn fold(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
