//! `vectorsphere cluster dev`: a whole cluster on this machine, as real processes of this very program on loopback, with a
//! gateway, to try things out and to break. Commands typed into it kill, pause, restart, add and cut off nodes; when it ends,
//! in whatever way, so do they.
//!
//! - `ground`: the directory and the free ports. - `plan`: which process gets what. - `process`: one process. - `fleet`: all of them. - `command`: what is typed.
//! - `view`: what is shown.
//!
//! Called by `cli::cluster`.

mod command;
mod fleet;
mod ground;
mod plan;
mod process;
mod view;

use super::{CliError, ExitCode, serve::write_whole};
use crate::rt::{self, stdin::Lines, time};
use clap::Args;
use command::{DevCommand, Target};
use fleet::{Fleet, Programs};
use ground::Root;
use plan::{Coordination, NODES_MAX};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use view::View;

/// How often the processes are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Arguments of `cluster dev`.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub nodes: usize,
    /// Without the gateway.
    #[arg(long)]
    pub no_gateway: bool,
    /// Directory of everything, kept for the next time [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// HTTP port of the first node; the others follow, the gateway has this + 920. 0 takes free ports.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub port: u16,
    /// Where nodes keep what they agree on: in an etcd process, or among themselves.
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub coordinator: Wish,
    /// Sets a key for every node, as `serve --set` does. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Once everything is ready, write addresses and process ids to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Stop when standard input ends, also where it is not a terminal.
    #[arg(long)]
    pub exit_on_eof: bool,
    /// How long everything may take to become ready.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub ready_within: Duration,
}

/// Which coordinator the nodes should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wish {
    /// The one the data directory was made with; in a new one etcd where it is on PATH, else the nodes themselves.
    #[default]
    Auto,
    /// An etcd process.
    Etcd,
    /// The nodes themselves.
    Embedded,
}

/// Runs the command until it is told to stop.
///
/// # Errors
/// A process cannot be started or is not ready in time; then everything is stopped again.
pub async fn run(args: &DevArgs) -> Result<ExitCode, CliError> {
    if !(1..=NODES_MAX).contains(&args.nodes) {
        return Err(CliError::usage(format!("--nodes: expected 1 to {NODES_MAX}, got {}", args.nodes)));
    }
    // Asked from here on: a signal that comes while everything starts still stops it in order.
    let told_to_stop = Arc::new(AtomicBool::new(false));
    let signal = watch_signals(told_to_stop.clone());
    let root = Root::make(args.data_dir.as_deref())?;
    let vectorsphere = std::env::current_exe().map_err(|error| CliError::internal(format!("who am I: {error}")))?;
    let etcd = ground::etcd_program(args.coordinator, root.path(), ground::on_path("etcd"))?;
    let plan = ground::plan(args, root.path(), etcd.is_some()).await?;
    let mut fleet = Fleet::new(Programs { vectorsphere, etcd }, plan);
    let mut view = View::new();
    let ended = tokio::select! {
        biased;
        () = signal.wait() => Ok(()),
        ended = live(args, &mut fleet, &mut view) => ended,
    };
    view.leave();
    let stopping = view.event("stopping");
    told_to_stop.store(false, Ordering::SeqCst);
    fleet.stop(|| told_to_stop.load(Ordering::SeqCst)).await;
    drop(root);
    ended.and(stopping).map(|()| ExitCode::Ok)
}

/// Gives a signal to stop when the system asks for it; `again` is set each time.
fn watch_signals(again: Arc<AtomicBool>) -> rt::Shutdown {
    let shutdown = rt::Shutdown::new();
    let given = shutdown.clone();
    drop(rt::spawn("dev-signals", async move {
        while rt::signal::terminated().await.is_ok() {
            again.store(true, Ordering::SeqCst);
            given.trigger();
        }
    }));
    shutdown
}

/// Starts everything, then does what is typed until `quit` or the end of the input.
async fn live(args: &DevArgs, fleet: &mut Fleet, view: &mut View) -> Result<(), CliError> {
    let started = time::now();
    let targets = fleet.targets();
    for target in &targets {
        fleet.start(*target)?;
        if *target == Target::Etcd {
            fleet.wait_until_ready(&[Target::Etcd], args.ready_within).await?;
        }
    }
    fleet.wait_until_ready(&targets, args.ready_within).await?;
    let took_s = started.elapsed().as_secs_f64();
    view.event(&welcome(fleet, took_s))?;
    let rows = fleet.rows().await;
    if let Some(path) = &args.ready_file {
        write_ready_file(path, fleet, &rows)?;
    }
    view.rows(rows, true)?;
    commands(args, fleet, view).await
}

async fn commands(args: &DevArgs, fleet: &mut Fleet, view: &mut View) -> Result<(), CliError> {
    let broken = |error: std::io::Error| CliError::failed(format!("standard input: {error}"));
    let is_interactive = std::io::stdin().is_terminal();
    let mut lines = Some(Lines::open().map_err(broken)?);
    let mut tick = pin!(time::sleep(TICK));
    loop {
        let line = tokio::select! {
            biased;
            line = next_line(&mut lines) => line.map_err(broken)?,
            () = tick.as_mut() => {
                tick.set(time::sleep(TICK));
                view.rows(fleet.rows().await, false)?;
                continue;
            }
        };
        view.typed();
        match line.as_deref().map(command::parse) {
            None if is_interactive || args.exit_on_eof => return Ok(()),
            None => lines = None,
            Some(Ok(None)) => view.rows(fleet.rows().await, true)?,
            Some(Ok(Some(DevCommand::Quit))) => return Ok(()),
            Some(Ok(Some(command))) => obey(command, args, fleet, view).await?,
            Some(Err(problem)) => view.event(&problem)?,
        }
    }
}

/// The next line; waits for ever once the input has ended and was let go.
async fn next_line(lines: &mut Option<Lines>) -> std::io::Result<Option<String>> {
    match lines {
        Some(lines) => lines.next().await,
        None => std::future::pending().await,
    }
}

/// Does one command and says what came of it. What fails is said and changes nothing else.
async fn obey(command: DevCommand, args: &DevArgs, fleet: &mut Fleet, view: &mut View) -> Result<(), CliError> {
    let said = match command {
        DevCommand::Status => {
            let words = cluster_words(fleet).await;
            view.event(&words)?;
            return view.rows(fleet.rows().await, true);
        }
        DevCommand::Help => Ok(command::HELP.trim_end().to_owned()),
        DevCommand::Quit => return Ok(()),
        command => hurt(command, args, fleet).await,
    };
    view.event(&said.unwrap_or_else(|error| error.to_string()))?;
    view.rows(fleet.rows().await, false)
}

async fn hurt(command: DevCommand, args: &DevArgs, fleet: &mut Fleet) -> Result<String, CliError> {
    match command {
        DevCommand::Kill(target) => {
            fleet.running(target)?.kill();
            Ok(format!("{target}: killed"))
        }
        DevCommand::Pause(target) => {
            fleet.running(target)?.pause();
            Ok(format!("{target}: paused"))
        }
        DevCommand::Resume(target) => {
            fleet.running(target)?.resume();
            Ok(format!("{target}: resumed"))
        }
        DevCommand::Restart(target) => restart(target, args, fleet).await,
        DevCommand::Partition(sides) => Ok(told(fleet.partition(sides).await?, "the network is cut")),
        DevCommand::Heal => Ok(told(fleet.partition(Vec::new()).await?, "the network is whole")),
        DevCommand::Add => add(args, fleet).await,
        DevCommand::Status | DevCommand::Help | DevCommand::Quit => Ok(String::new()),
    }
}

async fn restart(target: Target, args: &DevArgs, fleet: &mut Fleet) -> Result<String, CliError> {
    if fleet.running(target).is_ok() {
        fleet.stop_one(target).await?;
    }
    let started = time::now();
    fleet.start(target)?;
    let ready = fleet.wait_until_ready(&[target], args.ready_within).await;
    // Also where it is not ready: alone on its side it may never be.
    if let Target::Node(number) = target {
        fleet.renew_cuts(number).await.map_err(CliError::failed)?;
    }
    ready?;
    Ok(format!("{target}: ready again after {:.2} s", started.elapsed().as_secs_f64()))
}

async fn add(args: &DevArgs, fleet: &mut Fleet) -> Result<String, CliError> {
    let number = fleet.plan.nodes.len() + 1;
    if number > NODES_MAX {
        return Err(CliError::failed(format!("there are {NODES_MAX} nodes already")));
    }
    let started = time::now();
    let target = fleet.add(ground::node_ports(args.port, number).await?)?;
    if let Err(error) = fleet.wait_until_ready(&[target], args.ready_within).await {
        fleet.take_back();
        return Err(error);
    }
    Ok(format!("{target}: ready after {:.2} s", started.elapsed().as_secs_f64()))
}

/// What came of telling every node.
fn told(failed: Vec<String>, done: &str) -> String {
    if failed.is_empty() {
        return done.to_owned();
    }
    format!("{done}, but could not be told to: {}", failed.join("; "))
}

/// What the cluster says of itself, asked of the first node that answers.
async fn cluster_words(fleet: &mut Fleet) -> String {
    let up = fleet.rows().await.into_iter().find(|row| row.state == "ready" && matches!(row.target, Target::Node(_)));
    let Some(row) = up else { return "no node is ready".to_owned() };
    let asked = async {
        let client = super::client::ApiClient::new(&format!("http://{}", row.address), super::client::Patience::SHORT)?;
        let status = client.cluster_status().await?;
        let master = super::client::plain(&status["master"]);
        let reasons: Vec<String> =
            status["reasons"].as_array().into_iter().flatten().map(super::client::plain).collect();
        let verdict = super::client::plain(&status["verdict"]);
        Ok::<_, CliError>(format!("{verdict}; led by {master}; {}", reasons.join("; ")))
    };
    asked.await.unwrap_or_else(|error| error.to_string()).trim_end_matches([';', ' ']).to_owned()
}

fn welcome(fleet: &Fleet, took_s: f64) -> String {
    let nodes = fleet.plan.nodes.len();
    let how = match fleet.plan.coordination {
        Coordination::Etcd { client, .. } => format!("etcd on {}", plan::loopback(client)),
        Coordination::Peers => "the nodes themselves".to_owned(),
    };
    let door = match (&fleet.plan.gateway, fleet.plan.nodes.first()) {
        (Some(gateway), _) => format!("http://{}", plan::loopback(gateway.public)),
        (None, Some(node)) => format!("http://{}", plan::loopback(node.http)),
        (None, None) => String::new(),
    };
    format!(
        "{nodes} nodes ready after {took_s:.2} s, coordinated by {how}; logs and data in {}\n\
         next:\n  \
         curl -X POST {door}/api/v1/tables -H 'Content-Type: application/json' -d '{{\"table_name\":\"t\",\"dimension\":3}}'\n  \
         vectorsphere --endpoint {door} cluster status\n  \
         vectorsphere --endpoint {door} verify\n\
         type help for what can be done to it",
        fleet.plan.root().display()
    )
}

fn write_ready_file(path: &Path, fleet: &Fleet, rows: &[fleet::Row]) -> Result<(), CliError> {
    let row = |row: &fleet::Row| {
        let ports = match row.target {
            Target::Node(number) => fleet.plan.node(number),
            _ => None,
        };
        serde_json::json!({
            "name": row.target.to_string(), "pid": row.pid, "http": row.address, "grpc": row.grpc,
            "peer": ports.map(|ports| plan::loopback(ports.peer)),
            "monitoring": ports.map(|ports| ports.monitoring)
                .or(fleet.plan.gateway.filter(|_| row.target == Target::Gateway).map(|ports| ports.monitoring))
                .map(plan::loopback),
        })
    };
    let document = serde_json::json!({
        "pid": std::process::id(), "directory": fleet.plan.root(), "processes": rows.iter().map(row).collect::<Vec<_>>(),
    });
    write_whole(path, &document)
}
