//! `vectorsphere config`: check, show and explain the configuration; and the one place that loads it from the machine.
//!
//! Promise: `check` says exactly what `serve` would say, with its exit code; secrets are never printed. Called by
//! `cli::run`; [`load_config`] also by `serve` and `doctor`.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::args::{ConfigArgs, ConfigCommand, ShowArgs};
use super::context::{CliError, Context, OutputFormat, say};
use super::exit::ExitCode;
use super::listing;
use crate::config::{self, Config, DEFAULT_YAML, Effect, KEYS, Key, Loaded, Mode, Sources, Value};

/// Loads the configuration from the file, the process's environment and the flags.
///
/// # Errors
/// Exit code 2 with every problem.
pub fn load_config(args: &ConfigArgs) -> Result<Loaded, CliError> {
    let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    let sources = Sources {
        file: args.config.clone(),
        variables: std::env::vars_os().filter_map(utf8).collect(),
        flags: args.assignments()?,
        read: &|path: &Path| std::fs::read_to_string(path),
    };
    Ok(config::load(&sources)?)
}

/// Says why no node can be started with this configuration, if so.
///
/// # Errors
/// Exit code 2 for a mode that is no node's.
pub fn require_startable(loaded: &Loaded) -> Result<(), CliError> {
    let (mode, config) = (loaded.config.mode, &loaded.config);
    if mode == Mode::Gateway && config.gateway.nodes.is_empty() && config.etcd.endpoints.is_empty() {
        return Err(CliError::usage(format!(
            "{}: mode gateway needs etcd.endpoints (--etcd), where the nodes are registered, or gateway.nodes, the HTTP addresses of \
             some of them",
            loaded.origin("mode"),
        )));
    }
    if mode.can_start() {
        return Ok(());
    }
    let origin = loaded.origin("mode");
    Err(CliError::usage(format!("{origin}: mode {} holds no data and is not started as a node", mode.name())))
}

/// Runs a `config` command.
///
/// # Errors
/// Exit code 2 where the configuration is not usable or the key is unknown.
pub fn run(command: &ConfigCommand, context: &Context) -> Result<ExitCode, CliError> {
    match command {
        ConfigCommand::Check(args) => check(args, context),
        ConfigCommand::Show(args) => show(args, context),
        ConfigCommand::Explain { key } => explain(key.as_deref(), context),
    }?;
    Ok(ExitCode::Ok)
}

fn check(args: &ConfigArgs, context: &Context) -> Result<(), CliError> {
    let loaded = load_config(args)?;
    require_startable(&loaded)?;
    let notices: Vec<String> = loaded.notices.iter().map(ToString::to_string).collect();
    let document = json!({"ok": true, "notices": notices});
    context.print(&document, || {
        let mut text = "the configuration is good\n".to_owned();
        text.extend(notices.iter().map(|notice| format!("{notice}\n")));
        text
    })
}

fn show(args: &ShowArgs, context: &Context) -> Result<(), CliError> {
    if args.defaults {
        return say(DEFAULT_YAML);
    }
    let loaded = load_config(&args.config)?;
    if args.origin && context.output == OutputFormat::Table {
        let row = |key: &Key| {
            vec![key.name.to_owned(), key.value(&loaded.config).to_string(), loaded.origin(key.name).to_string()]
        };
        return say(&listing::left(&["KEY", "VALUE", "ORIGIN"], &KEYS.iter().map(row).collect::<Vec<_>>()));
    }
    let document = match args.origin {
        true => nested(
            |key| json!({"value": key.value(&loaded.config).to_json(), "origin": loaded.origin(key.name).to_string()}),
        ),
        false => nested(|key| key.value(&loaded.config).to_json()),
    };
    let row = |key: &Key| vec![key.name.to_owned(), key.value(&loaded.config).to_string()];
    context.print(&document, || listing::left(&["KEY", "VALUE"], &KEYS.iter().map(row).collect::<Vec<_>>()))
}

/// A document with the sections as objects, which read back as a configuration file where `leaf` gives the value.
fn nested(leaf: impl Fn(&Key) -> Json) -> Json {
    let mut root = Map::new();
    for key in KEYS {
        let mut section = &mut root;
        let parts: Vec<&str> = key.name.split('.').collect();
        let (last, sections) = parts.split_last().expect("invariant: a key's name has a part");
        for part in sections {
            let inner = section.entry((*part).to_owned()).or_insert_with(|| Json::Object(Map::new()));
            section = inner.as_object_mut().expect("invariant: no key is also a section");
        }
        section.insert((*last).to_owned(), leaf(key));
    }
    Json::Object(root)
}

fn explain(name: Option<&str>, context: &Context) -> Result<(), CliError> {
    let keys = matching(name)?;
    let defaults = Config::default();
    let document: Vec<Json> = keys.iter().map(|key| explanation(key, &defaults)).collect();
    context.print(&document, || keys.iter().map(|key| explanation_text(key, &defaults)).collect::<Vec<_>>().join("\n"))
}

fn matching(name: Option<&str>) -> Result<Vec<&'static Key>, CliError> {
    let Some(name) = name else { return Ok(KEYS.iter().collect()) };
    let within = |key: &&Key| key.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let found: Vec<_> = KEYS.iter().filter(within).collect();
    if found.is_empty() {
        let hint = config::suggest(name).map_or_else(
            || "; `vectorsphere config explain` lists them all".to_owned(),
            |near| format!("; did you mean `{near}`?"),
        );
        return Err(CliError::usage(format!("no key or section `{name}`{hint}")));
    }
    Ok(found)
}

/// The variable that sets `key`.
fn variable_of(key: &Key) -> String {
    format!("VECTORSPHERE__{}", key.name.to_ascii_uppercase().replace('.', "__"))
}

fn explanation(key: &Key, defaults: &Config) -> Json {
    let later = match key.effect {
        Effect::Now => Json::Null,
        Effect::Later(reason) => reason.into(),
    };
    json!({
        "key": key.name,
        "help": key.help,
        "expected": key.expected(),
        "default": key.value(defaults).to_json(),
        "variable": variable_of(key),
        "secret": key.secret,
        "no_effect_yet": later,
    })
}

fn explanation_text(key: &Key, defaults: &Config) -> String {
    let default = match key.value(defaults) {
        Value::Null => "not set".to_owned(),
        value => value.to_string(),
    };
    let mut text = format!("{}\n  {}\n", key.name, key.help);
    if let Effect::Later(reason) = key.effect {
        text += &format!("  No effect yet: {reason}.\n");
    }
    text + &format!("  accepts   {}\n  default   {default}\n  variable  {}\n", key.expected(), variable_of(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, load};

    fn loaded(flags: &[(&str, &str)]) -> Loaded {
        let flags = flags.iter().map(|(key, value)| Assignment::named("--set", key, *value)).collect();
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        load(&Sources { file: None, variables: Vec::new(), flags, read: &read }).expect("a good configuration")
    }

    #[test]
    fn what_is_no_node_is_refused_with_its_origin() {
        assert!(require_startable(&loaded(&[])).is_ok());
        assert!(require_startable(&loaded(&[("mode", "auto"), ("cluster.peers", "10.0.0.2:6335")])).is_ok());
        assert!(require_startable(&loaded(&[("mode", "gateway"), ("gateway.nodes", "10.0.0.2:8080")])).is_ok());
        for mode in ["auto", "master", "worker", "slave"] {
            assert!(require_startable(&loaded(&[("mode", mode)])).is_ok(), "{mode}");
        }
        let error = require_startable(&loaded(&[("mode", "gateway")])).expect_err("a gateway");
        assert_eq!(error.exit_code, ExitCode::Usage as u8);
        assert!(error.message.starts_with("--set: mode "), "{}", error.message);
    }

    #[test]
    fn what_show_prints_is_a_configuration_file() {
        let before = loaded(&[("log.level", "debug"), ("listen.http", "127.0.0.1:1"), ("limits.head_timeout", "3s")]);
        let text = serde_saphyr::to_string(&nested(|key| key.value(&before.config).to_json())).expect("YAML");
        let read = |_: &Path| Ok(text.clone());
        let sources = Sources { file: Some("a.yaml".into()), variables: Vec::new(), flags: Vec::new(), read: &read };
        assert_eq!(load(&sources).expect("it reads back").config, before.config);
    }

    #[test]
    fn explain_finds_keys_sections_and_near_misses() {
        assert_eq!(matching(None).expect("all").len(), KEYS.len());
        assert_eq!(matching(Some("log.level")).expect("one").len(), 1);
        assert_eq!(matching(Some("etcd.tls")).expect("a section").len(), 3);
        let error = matching(Some("log.levl")).expect_err("no such key");
        assert_eq!(error.message, "no key or section `log.levl`; did you mean `log.level`?");
        let key = config::find("limits.request_timeout").expect("a key");
        let text = explanation_text(key, &Config::default());
        for part in ["\"30s\"", "VECTORSPHERE__LIMITS__REQUEST_TIMEOUT", "from 10ms to 1h"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
