//! The processes of a development cluster: etcd where there is one, the nodes, the gateway; started, watched, hurt as asked,
//! and stopped. Called by the command's loop, on the program's main thread (see `process`).

use super::{
    command::Target,
    plan::{Coordination, Plan, loopback, node_name},
    process::{Alive, Process},
};
use crate::{
    cli::CliError,
    rt::{
        http::client::{Client, ClientOptions},
        time,
    },
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, time::Duration};

/// How often a starting cluster is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a process may take to stop in good order before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long one look at a process may take.
const LOOK_LIMIT: Duration = Duration::from_millis(500);
/// Lines of a log shown when its process did not start.
const LOG_LINES: usize = 12;

/// The programs that are started.
#[derive(Clone, Debug)]
pub struct Programs {
    pub vectorsphere: PathBuf,
    pub etcd: Option<PathBuf>,
}

/// One process as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub target: Target,
    /// `ready`, `not ready`, `paused`, `stopped`, `killed` or how it ended.
    pub state: String,
    pub pid: Option<u32>,
    /// `host:port` that serves clients.
    pub address: String,
    /// `host:port` of gRPC, where it is another.
    pub grpc: Option<String>,
}

/// See the module.
pub struct Fleet {
    programs: Programs,
    pub plan: Plan,
    etcd: Option<Process>,
    nodes: Vec<Option<Process>>,
    gateway: Option<Process>,
    /// Sides of the partition; none where there is none.
    sides: Vec<BTreeSet<usize>>,
}

impl Fleet {
    /// Nothing is started yet.
    pub fn new(programs: Programs, plan: Plan) -> Fleet {
        let nodes = plan.nodes.iter().map(|_| None).collect();
        Fleet { programs, plan, etcd: None, nodes, gateway: None, sides: Vec::new() }
    }

    /// Every process of the plan, in the order in which they are started.
    pub fn targets(&self) -> Vec<Target> {
        let etcd = matches!(self.plan.coordination, Coordination::Etcd { .. }).then_some(Target::Etcd);
        let nodes = (1..=self.nodes.len()).map(Target::Node);
        etcd.into_iter().chain(nodes).chain(self.plan.gateway.map(|_| Target::Gateway)).collect()
    }

    /// Starts a process that does not run.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self, target: Target) -> Result<(), CliError> {
        let (program, arguments) = self.command(target)?;
        let name = file_name(target);
        // A ready file of an earlier start would say too much.
        let _ = std::fs::remove_file(self.plan.ready_file(&name));
        let process = Process::start(&program, &arguments, environment(target), &self.plan.log_file(&name));
        let process =
            process.map_err(|error| CliError::failed(format!("cannot start {}: {error}", program.display())))?;
        *self.slot(target)? = Some(process);
        Ok(())
    }

    /// What a process is started with.
    fn command(&self, target: Target) -> Result<(PathBuf, Vec<OsString>), CliError> {
        let own = || self.programs.vectorsphere.clone();
        let command = match target {
            Target::Node(number) => {
                let ports = self.plan.node(number).ok_or_else(|| no_such(target))?;
                (own(), self.plan.node_arguments(number, ports))
            }
            Target::Gateway => {
                let ports = self.plan.gateway.as_ref().ok_or_else(|| no_such(target))?;
                (own(), self.plan.gateway_arguments(ports))
            }
            Target::Etcd => match (self.plan.coordination, &self.programs.etcd) {
                (Coordination::Etcd { client, peer }, Some(program)) => {
                    (program.clone(), self.plan.etcd_arguments(client, peer))
                }
                _ => return Err(no_such(target)),
            },
        };
        Ok(command)
    }

    fn slot(&mut self, target: Target) -> Result<&mut Option<Process>, CliError> {
        match target {
            Target::Etcd => Ok(&mut self.etcd),
            Target::Gateway => Ok(&mut self.gateway),
            Target::Node(number) => {
                number.checked_sub(1).and_then(|at| self.nodes.get_mut(at)).ok_or_else(|| no_such(target))
            }
        }
    }

    /// The process of a target, started and not ended.
    pub fn running(&mut self, target: Target) -> Result<&mut Process, CliError> {
        let process = self.slot(target)?.as_mut();
        let is_running = |process: &mut &mut Process| !matches!(process.alive(), Alive::Ended(_));
        let mut process = process.ok_or_else(|| CliError::failed(format!("{target} does not run")))?;
        if !is_running(&mut process) {
            return Err(CliError::failed(format!("{target} does not run")));
        }
        Ok(process)
    }

    /// Puts one more node into the plan and starts it.
    ///
    /// # Errors
    /// It cannot be started; then it is not in the plan.
    pub fn add(&mut self, ports: super::plan::NodePorts) -> Result<Target, CliError> {
        self.plan.nodes.push(ports);
        self.nodes.push(None);
        let target = Target::Node(self.nodes.len());
        match self.start(target) {
            Ok(()) => Ok(target),
            Err(error) => {
                self.take_back();
                Err(error)
            }
        }
    }

    /// Takes back the node that was added last, which did not get ready.
    pub fn take_back(&mut self) {
        self.plan.nodes.pop();
        // Dropping the process kills it.
        self.nodes.pop();
    }

    /// Waits until every one of `targets` is ready.
    ///
    /// # Errors
    /// One of them ended, with the end of its log; or `limit` passed.
    pub async fn wait_until_ready(&mut self, targets: &[Target], limit: Duration) -> Result<(), CliError> {
        let deadline = time::now() + limit;
        let mut waiting: Vec<Target> = targets.to_vec();
        loop {
            let looks = waiting.iter().map(|target| is_ready(self.health_url(*target)));
            let ready = join_all(looks).await;
            waiting = waiting.into_iter().zip(ready).filter(|(_, ready)| !ready).map(|(target, _)| target).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            for target in &waiting {
                let ended = self.slot(*target)?.as_mut().is_none_or(|one| matches!(one.alive(), Alive::Ended(_)));
                if ended || time::now() >= deadline {
                    let what = if ended {
                        "ended while it started".to_owned()
                    } else {
                        format!("is not ready after {limit:?}")
                    };
                    let log = self.log_end(*target);
                    return Err(CliError::failed(format!("{target} {what}; its log ends:\n{log}")));
                }
            }
            time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Where a process says whether it is ready: address and path.
    fn health_url(&self, target: Target) -> Option<(String, &'static str)> {
        Some(match target {
            Target::Node(number) => (loopback(self.plan.node(number)?.http), "/readyz"),
            Target::Gateway => (loopback(self.plan.gateway?.public), "/readyz"),
            Target::Etcd => match self.plan.coordination {
                Coordination::Etcd { client, .. } => (loopback(client), "/health"),
                Coordination::Peers => return None,
            },
        })
    }

    /// The last lines of a process's log.
    pub fn log_end(&self, target: Target) -> String {
        let text = std::fs::read_to_string(self.plan.log_file(&file_name(target))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Every process as it is now. Takes at most half a second.
    pub async fn rows(&mut self) -> Vec<Row> {
        let targets = self.targets();
        let ready = join_all(targets.iter().map(|target| is_ready(self.health_url(*target)))).await;
        targets.into_iter().zip(ready).map(|(target, ready)| self.row(target, ready)).collect()
    }

    fn row(&mut self, target: Target, ready: bool) -> Row {
        let address = self.health_url(target).map_or_else(String::new, |(address, _)| address);
        let grpc = match target {
            Target::Node(number) => self.plan.node(number).map(|ports| loopback(ports.grpc)),
            _ => None,
        };
        let process = self.slot(target).ok().and_then(Option::as_mut);
        let (state, pid) = match process {
            None => ("stopped".to_owned(), None),
            Some(process) => match process.alive() {
                Alive::Ended(status) => (status.to_string(), None),
                Alive::Paused => ("paused".to_owned(), Some(process.id())),
                Alive::Runs => ((if ready { "ready" } else { "not ready" }).to_owned(), Some(process.id())),
            },
        };
        Row { target, state, pid, address, grpc }
    }

    /// Cuts the nodes of different sides off from each other; nodes that no side names form one more. No sides: heals.
    /// What could not be told, node by node.
    ///
    /// # Errors
    /// A side names a node that there is not.
    pub async fn partition(&mut self, mut sides: Vec<BTreeSet<usize>>) -> Result<Vec<String>, CliError> {
        let all: BTreeSet<usize> = (1..=self.nodes.len()).collect();
        let named: BTreeSet<usize> = sides.iter().flatten().copied().collect();
        if let Some(unknown) = named.difference(&all).next() {
            return Err(no_such(Target::Node(*unknown)));
        }
        if !sides.is_empty() {
            sides.push(all.difference(&named).copied().collect());
        }
        self.sides = sides;
        let told = join_all(all.iter().map(|number| self.tell_cuts(*number))).await;
        Ok(told.into_iter().filter_map(Result::err).collect())
    }

    /// Tells a node that was started again what it must not reach.
    pub async fn renew_cuts(&self, number: usize) -> Result<(), String> {
        if self.sides.is_empty() { Ok(()) } else { self.tell_cuts(number).await }
    }

    /// The nodes that `number` must not reach.
    fn cut_off(&self, number: usize) -> BTreeSet<usize> {
        let own = self.sides.iter().find(|side| side.contains(&number));
        let others = self.sides.iter().flatten().copied();
        own.map_or_else(BTreeSet::new, |own| others.filter(|other| !own.contains(other)).collect())
    }

    async fn tell_cuts(&self, number: usize) -> Result<(), String> {
        let Some(ports) = self.plan.node(number) else { return Ok(()) };
        let cut = self.cut_off(number);
        let addresses: Vec<String> =
            cut.iter().filter_map(|other| self.plan.node(*other)).map(|other| loopback(other.peer)).collect();
        let body = Full::new(Bytes::from(serde_json::json!(addresses).to_string()));
        let request = Request::builder().method(Method::PUT).uri("/dev/cuts");
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        let request = request.expect("invariant: constants make a request");
        let client = Client::new(loopback(ports.monitoring));
        match client.request_within(Duration::from_secs(2), request).await {
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => Ok(()),
            Ok(answer) => Err(format!("node {number}: {}", answer.status())),
            Err(error) => Err(format!("node {number}: {error}")),
        }
    }

    /// Stops everything in good order, the gateway first and etcd last; kills what does not stop in time, or at once where
    /// `hurry` says so.
    pub async fn stop(&mut self, hurry: impl Fn() -> bool) {
        let (gateway, nodes, etcd) = (self.gateway.take(), std::mem::take(&mut self.nodes), self.etcd.take());
        let deadline = time::now() + STOP_LIMIT;
        for stage in [vec![gateway], nodes, vec![etcd]] {
            let mut stage: Vec<Process> = stage.into_iter().flatten().collect();
            stage.iter_mut().for_each(Process::terminate);
            while stage.iter_mut().any(|one| !matches!(one.alive(), Alive::Ended(_))) {
                if hurry() || time::now() >= deadline {
                    break;
                }
                time::sleep(LOOK_INTERVAL).await;
            }
            // Dropping kills what is left.
        }
    }

    /// Asks one process to stop and waits for its end.
    pub async fn stop_one(&mut self, target: Target) -> Result<(), CliError> {
        let process = self.running(target)?;
        process.terminate();
        let deadline = time::now() + STOP_LIMIT;
        while !matches!(process.alive(), Alive::Ended(_)) && time::now() < deadline {
            time::sleep(LOOK_INTERVAL).await;
        }
        process.kill();
        Ok(())
    }
}

/// Variables that a process needs. etcd 3.4 asks for one wherever it is not an amd64, although it works.
fn environment(target: Target) -> &'static [(&'static str, &'static str)] {
    match target {
        Target::Etcd => &[("ETCD_UNSUPPORTED_ARCH", ETCD_ARCHITECTURE)],
        Target::Node(_) | Target::Gateway => &[],
    }
}

/// The architecture by the name that etcd has for it.
const ETCD_ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { std::env::consts::ARCH };

/// What a process's files are called.
fn file_name(target: Target) -> String {
    match target {
        Target::Node(number) => node_name(number),
        Target::Gateway => "gateway".to_owned(),
        Target::Etcd => "etcd-process".to_owned(),
    }
}

fn no_such(target: Target) -> CliError {
    CliError::failed(format!("there is no {target}"))
}

async fn is_ready(health: Option<(String, &'static str)>) -> bool {
    let Some((address, path)) = health else { return false };
    let client = Client::with_options(address, ClientOptions { timeout: LOOK_LIMIT, ..ClientOptions::default() });
    let request = Request::builder().uri(path).body(Full::default()).expect("invariant: constants make a request");
    client.request(request).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dev::plan::node_ports;

    fn fleet(nodes: usize) -> Fleet {
        let nodes = (1..=nodes).filter_map(|number| node_ports(8080, number)).collect();
        let plan =
            Plan { root: "/r".into(), coordination: Coordination::Peers, nodes, gateway: None, settings: Vec::new() };
        Fleet::new(Programs { vectorsphere: "/bin/false".into(), etcd: None }, plan)
    }

    #[test]
    fn sides_do_not_reach_each_other_and_the_rest_is_a_side() {
        let mut fleet = fleet(5);
        fleet.sides = vec![[1].into(), [2, 3].into(), [4, 5].into()];
        assert_eq!(fleet.cut_off(1), [2, 3, 4, 5].into());
        assert_eq!(fleet.cut_off(3), [1, 4, 5].into());
        fleet.sides.clear();
        assert!(fleet.cut_off(1).is_empty());
    }

    #[test]
    fn a_node_that_cannot_be_started_is_not_added() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut fleet = fleet(2);
        fleet.programs.vectorsphere = "/nowhere/vectorsphere".into();
        fleet.plan.root = directory.path().to_owned();
        fleet.add(node_ports(8080, 3).expect("in range")).expect_err("there is no such program");
        assert_eq!((fleet.targets().len(), fleet.plan.nodes.len()), (2, 2));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let mut fleet = fleet(2);
        assert!(fleet.start(Target::Node(3)).expect_err("two nodes").message.contains("no node 3"));
        assert!(fleet.start(Target::Etcd).expect_err("no etcd").message.contains("no etcd"));
        assert!(fleet.running(Target::Node(2)).expect_err("not started").message.contains("node 2 does not run"));
        assert_eq!(fleet.targets(), [Target::Node(1), Target::Node(2)]);
    }
}
