//! The command line's grammar: every command and flag.
//!
//! Promise: the seeds' command lines are understood as written: Go's single-dash long flags (`-config F`), a missing
//! command (`vectorsphere --mode=… --port=…` means `serve`) and their flag names. What flags set in the configuration
//! leaves here as [`Assignment`]s, so that precedence and error texts are `config`'s alone. Parsed by `cli::main`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::context::{CliError, OutputFormat};
use super::exit::EXIT_CODES_HELP;
use super::{bench, cluster, export, import, quickstart, search, table};
use crate::config::Assignment;

/// Where clients find the node unless told otherwise.
pub const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:8080";

/// A distributed vector database.
#[derive(Debug, Parser)]
#[command(name = "vectorsphere", version, about, after_help = EXIT_CODES_HELP)]
#[command(subcommand_required = true, propagate_version = true)]
pub struct Cli {
    /// Form of the answer.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Address of the node that commands talk to.
    #[arg(long, global = true, env = "VECTORSPHERE_ENDPOINT", default_value = ENDPOINT_DEFAULT, value_name = "URL")]
    pub endpoint: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a node.
    #[command(after_help = EXIT_CODES_HELP)]
    Serve(ServeArgs),
    /// Start a node, load a sample and search it: a first look in one command.
    Quickstart(quickstart::QuickstartArgs),
    /// Create, list, show and delete tables, and give them other names.
    Table(table::TableArgs),
    /// Load vectors from files.
    Import(import::ImportArgs),
    /// Write a table to a file.
    Export(export::ExportArgs),
    /// Search a table.
    Search(search::SearchArgs),
    /// Measure a node under load.
    Bench(bench::BenchArgs),
    /// Look at the cluster.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Compare all replicas of all shards: exit code 1 and the first difference if they are not equal.
    Verify,
    /// Check, show and explain the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look for what on this machine would keep a node from running well.
    Doctor(ConfigArgs),
    /// Write a shell's completion script to standard output.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// What makes up a configuration: the file, and keys set on the command line.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file: .yaml, .toml or .ini. Without it a program called by the name of a role (master, slave, gateway) reads
    /// conf/ROLE.ini, and a `vectorsphere` without a command reads c/c.yaml if it is there.
    #[arg(long, visible_alias = "c", short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key, e.g. --set log.level=debug. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    named: NamedFlags,
}

/// Flags that stand for one key each.
#[derive(Args, Clone, Debug, Default)]
struct NamedFlags {
    /// standalone (default), auto, master, worker (slave) or gateway.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// As --mode.
    #[arg(long = "type", value_name = "MODE", conflicts_with = "mode")]
    node_type: Option<String>,
    /// Directory of everything durable.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// HTTP addresses, separated by commas.
    #[arg(long, value_name = "ADDR[,ADDR]")]
    http: Option<String>,
    /// HTTP port alone, instead of --http (the gateway's port in that mode). Of a node that meets others in etcd, ports that are not
    /// given follow if it is within 1,000 of 8080: with 8081 gRPC is on 6336, peers on 6337, metrics on 9091.
    #[arg(long, value_name = "PORT", conflicts_with = "http")]
    port: Option<String>,
    /// gRPC address.
    #[arg(long, value_name = "ADDR")]
    grpc: Option<String>,
    /// Address for other nodes.
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,
    /// Address of /metrics and /health.
    #[arg(long, value_name = "ADDR")]
    monitoring: Option<String>,
    /// Members of the etcd cluster, separated by commas.
    #[arg(long, value_name = "HOST:PORT[,…]")]
    etcd: Option<String>,
    /// Name of the cluster.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Log level, or filter directives.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Allow listeners beyond loopback although nothing asks callers who they are.
    #[arg(long)]
    insecure: bool,
}

impl ConfigArgs {
    /// What the flags set, in the configuration's terms.
    ///
    /// # Errors
    /// Exit code 2 for a `--set` without `=`.
    pub fn assignments(&self) -> Result<Vec<Assignment>, CliError> {
        let named = &self.named;
        let flags = [
            ("--mode", "mode", &named.mode),
            ("--type", "mode", &named.node_type),
            ("--data-dir", "data_dir", &named.data_dir),
            ("--http", "listen.http", &named.http),
            ("--port", "server.port", &named.port),
            ("--grpc", "listen.grpc", &named.grpc),
            ("--peer", "listen.peer", &named.peer),
            ("--monitoring", "listen.monitoring", &named.monitoring),
            ("--etcd", "etcd.endpoints", &named.etcd),
            ("--service", "cluster.name", &named.service),
            ("--log", "log.level", &named.log),
        ];
        let given = flags
            .into_iter()
            .filter_map(|(flag, key, value)| value.as_ref().map(|value| Assignment::named(flag, key, value)));
        let insecure = named.insecure.then(|| Assignment::named("--insecure", "security.insecure", "true"));
        let mut all: Vec<Assignment> = given.chain(insecure).collect();
        for argument in &self.set {
            all.push(Assignment::parse(argument)?);
        }
        Ok(all)
    }
}

/// Start a node.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Once ready, write the addresses bound and the process id to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// Check, show and explain the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read all layers and say whether a node could start with them.
    Check(ConfigArgs),
    /// Print every key with its value.
    Show(ShowArgs),
    /// Say what a key means, accepts and is set to by default.
    Explain {
        /// A key, such as log.level, or a section, such as log; all where absent.
        key: Option<String>,
    },
}

/// Print every key with its value.
#[derive(Args, Clone, Debug, Default)]
pub struct ShowArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where each value comes from.
    #[arg(long)]
    pub origin: bool,
    /// The defaults as a commented file, to start one's own from.
    #[arg(long)]
    pub defaults: bool,
}

/// Go's single-dash spellings that the seeds use, with ours.
const GO_FLAGS: [(&str, &str); 6] = [
    ("-config", "--config"),
    ("-type", "--type"),
    ("-mode", "--mode"),
    ("-port", "--port"),
    ("-log", "--log"),
    ("-etcd", "--etcd"),
];

/// The names under which the seeds have this program, one a role, each with the configuration file it reads by itself.
const ROLES: [(&str, &str); 3] =
    [("master", "conf/master.ini"), ("slave", "conf/slave.ini"), ("gateway", "conf/gateway.ini")];

/// The configuration file of a program that is called by the name of a role.
fn config_of_role(program: &OsStr) -> Option<&'static str> {
    let name = Path::new(program).file_stem()?.to_str()?;
    ROLES.iter().find(|(role, _)| *role == name).map(|(_, config)| *config)
}

/// The configuration file that a program of the distributed guide reads by itself, where it is there.
const GUIDE_CONFIG: &str = "c/c.yaml";

/// Rewrites the seeds' spellings: no argument at all, or a first one that is a flag of `serve`, means `serve`; a program
/// called `master`, `slave` or `gateway` reads its role's configuration file, and one that was not told to `serve` in so many words
/// `c/c.yaml` if that `is_there`, unless they are given another; and Go's single-dash long flags get their second dash. Only arguments
/// of `serve` are touched.
pub fn seed_spellings(arguments: Vec<OsString>, is_there: impl Fn(&Path) -> bool) -> Vec<OsString> {
    let mut arguments = arguments;
    let is_told = arguments.get(1).is_some_and(|command| command == "serve");
    if arguments.len() == 1 {
        arguments.push(OsString::from("serve"));
    }
    let ours = ["-h", "--help", "-V", "--version", "-o", "--output", "--endpoint"];
    let first = arguments.get(1).map(|first| first.to_string_lossy().into_owned());
    if let Some(first) = &first {
        let name = first.split('=').next().unwrap_or(first);
        if name.starts_with('-') && !ours.contains(&name) && !name.starts_with("-o") {
            arguments.insert(1, OsString::from("serve"));
        }
    }
    if arguments.get(1).is_some_and(|command| command == "serve") {
        for argument in arguments.iter_mut().skip(2) {
            if let Some(ours) = go_flag(argument) {
                *argument = ours;
            }
        }
        let names_config = |argument: &OsString| {
            let text = argument.to_string_lossy();
            ["--config", "--c", "-c"].contains(&text.split('=').next().unwrap_or_default())
        };
        let of_role = arguments.first().and_then(|program| config_of_role(program));
        let of_guide = || (!is_told && is_there(Path::new(GUIDE_CONFIG))).then_some(GUIDE_CONFIG);
        if !arguments.iter().skip(2).any(names_config)
            && let Some(config) = of_role.or_else(of_guide)
        {
            arguments.extend([OsString::from("--config"), OsString::from(config)]);
        }
    }
    arguments
}

fn go_flag(argument: &OsStr) -> Option<OsString> {
    let text = argument.to_str()?;
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let (_, ours) = GO_FLAGS.iter().find(|(go, _)| *go == name)?;
    Some(value.map_or_else(|| (*ours).to_owned(), |value| format!("{ours}={value}")).into())
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
