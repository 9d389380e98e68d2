//! Real nodes as processes on loopback: started with the flags a user would give, killed with SIGKILL, started again on the same
//! directory and ports. Called by the tests of `cluster`.

use super::client::Rest;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A node must be ready this soon after its start; the machine may be busy.
const READY_LIMIT: Duration = Duration::from_secs(60);

struct Node {
    directory: PathBuf,
    http: u16,
    peer: u16,
    monitoring: u16,
    process: Option<Child>,
}

/// The nodes of one cluster. Dropping it kills them.
pub struct Cluster {
    root: tempfile::TempDir,
    nodes: Vec<Node>,
    /// `host:port` of the etcd they meet in; where there is none, each is told of all others.
    etcd: Vec<String>,
}

impl Cluster {
    /// Starts `n` nodes that know each other and waits until all are ready.
    pub async fn start(n: usize) -> Cluster {
        let mut cluster = Cluster::prepare(n, Vec::new());
        (0..n).for_each(|i| cluster.restart(i));
        cluster.wait_until_ready().await;
        cluster
    }

    /// `n` nodes, none of which runs yet.
    pub fn prepare(n: usize, etcd: Vec<String>) -> Cluster {
        let root = tempfile::tempdir().expect("a directory");
        let ports = free_ports(3 * n);
        let node = |i: usize| Node {
            directory: root.path().join(format!("node{i}")),
            http: ports[3 * i],
            peer: ports[3 * i + 1],
            monitoring: ports[3 * i + 2],
            process: None,
        };
        let nodes = (0..n).map(node).collect();
        Cluster { root, nodes, etcd }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// `host:port` of a node's REST face.
    pub fn http(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[i].http)
    }

    /// `host:port` where a node's metrics are.
    pub fn monitoring(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[i].monitoring)
    }

    /// The REST faces of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        (0..self.len()).map(|i| self.http(i)).collect()
    }

    /// SIGTERM; the node has ended well when this is over.
    pub fn stop(&mut self, i: usize) {
        self.signal(i, "TERM");
        let mut process = self.nodes[i].process.take().expect("the node was started");
        let ended = process.wait().expect("a process that was told to ends");
        assert!(ended.success(), "node {i} stopped with {ended}:\n{}", self.log(i));
    }

    /// SIGKILL.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut process) = self.nodes[i].process.take() {
            process.kill().expect("a process can be killed");
            process.wait().expect("a killed process ends");
        }
    }

    /// Sends a node's process a signal, by name: `STOP`, `CONT`.
    pub fn signal(&self, i: usize, name: &str) {
        let process = self.nodes[i].process.as_ref().expect("the node was started");
        let done = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
        assert!(done.expect("kill can be run").success(), "a process can be sent {name}");
    }

    /// Starts a node again where it was.
    pub fn restart(&mut self, i: usize) {
        let others: Vec<String> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != i)
            .map(|(_, other)| format!("127.0.0.1:{}", other.peer))
            .collect();
        let node = &mut self.nodes[i];
        assert!(node.process.is_none(), "node {i} runs already");
        let log = fs::File::options().create(true).append(true).open(self.root.path().join(format!("node{i}.log")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vectorsphere"));
        command.args(["serve", "--mode", "auto", "--data-dir"]).arg(&node.directory);
        command.args(["--http", &format!("127.0.0.1:{}", node.http), "--grpc", "127.0.0.1:0"]);
        command.args(["--monitoring", &format!("127.0.0.1:{}", node.monitoring)]);
        command.args(["--peer", &format!("127.0.0.1:{}", node.peer)]);
        match self.etcd.is_empty() {
            true => command.arg("--set").arg(format!("cluster.peers={}", others.join(","))),
            false => command.args(["--etcd", &self.etcd.join(",")]),
        };
        command.args(["--set", "index.flat_points_max=200", "--set", "cluster.replace_after=3s"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log file"));
        node.process = Some(command.spawn().expect("the program starts"));
    }

    /// Waits until every node says it is ready.
    pub async fn wait_until_ready(&mut self) {
        for i in 0..self.len() {
            self.wait_until_one_is_ready(i).await;
        }
    }

    /// Waits until a node says it is ready.
    pub async fn wait_until_one_is_ready(&mut self, i: usize) {
        let (started, client) = (Instant::now(), Rest::new(&self.http(i), ""));
        while !client.ready().await {
            let process = self.nodes[i].process.as_mut().expect("the node was started");
            let ended = process.try_wait().expect("a process can be looked at");
            let (late, log) = (started.elapsed() > READY_LIMIT, self.log(i));
            assert!(ended.is_none() && !late, "node {i} is not ready (ended: {ended:?}):\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a node that was started ends by itself; how it did.
    pub async fn wait_until_it_ends(&mut self, i: usize) -> ExitStatus {
        let started = Instant::now();
        loop {
            let process = self.nodes[i].process.as_mut().expect("the node was started");
            if let Some(ended) = process.try_wait().expect("a process can be looked at") {
                self.nodes[i].process = None;
                return ended;
            }
            assert!(started.elapsed() < READY_LIMIT, "node {i} goes on:\n{}", self.log(i));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU time that the nodes that run have used since their starts, in the kernel and out of it.
    pub fn cpu(&self) -> Duration {
        let ids = self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Child::id);
        ids.map(cpu_of_process).sum()
    }

    /// Where a node keeps its data.
    pub fn directory(&self, i: usize) -> &Path {
        &self.nodes[i].directory
    }

    /// What a node has logged.
    pub fn log(&self, i: usize) -> String {
        fs::read_to_string(self.root.path().join(format!("node{i}.log"))).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.len()).for_each(|i| self.kill(i));
    }
}

/// Ports that were free a moment ago; all different, because all are held before any is given back.
fn free_ports(n: usize) -> Vec<u16> {
    let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listeners: Vec<TcpListener> = (0..n).map(listen).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect()
}

/// CPU time of a process, from the kernel's account of it (proc(5): `utime` and `stime`, in hundredths of a second).
fn cpu_of_process(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs");
    // The name before it is in parentheses and may hold anything.
    let (_, after) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = after.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}
