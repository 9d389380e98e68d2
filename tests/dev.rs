//! `vectorsphere cluster dev` as a user starts it: nodes and gateway as processes on loopback, hurt by typed commands while a client
//! goes on through the gateway, and nothing left behind, however it ends.
#![allow(clippy::disallowed_methods)] // real sockets and processes under a real clock

#[path = "coordination/members.rs"]
#[allow(dead_code)]
mod members;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use members::has_etcd;
use serde_json::{Value, json};
use std::{
    io::Write,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};
use vectorsphere::rt::http::client::Client;

/// The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

struct Dev {
    process: Child,
    input: Option<ChildStdin>,
    ready: Value,
    root: tempfile::TempDir,
}

impl Dev {
    /// Starts a cluster that coordinates itself, on free ports, and waits until it is ready.
    fn start(arguments: &[&str]) -> Dev {
        Dev::start_with("embedded", arguments)
    }

    fn start_with(coordinator: &str, arguments: &[&str]) -> Dev {
        let root = tempfile::tempdir().expect("a directory");
        let ready_file = root.path().join("ready");
        let output = std::fs::File::create(root.path().join("output")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vectorsphere"));
        command.args(["cluster", "dev", "--port", "0", "--exit-on-eof", "--coordinator", coordinator, "--ready-file"]);
        command.arg(&ready_file).arg("--data-dir").arg(root.path().join("data")).args(arguments);
        command.stdin(Stdio::piped()).stdout(output.try_clone().expect("a file")).stderr(output);
        let mut process = command.spawn().expect("the program starts");
        let input = process.stdin.take();
        let mut dev = Dev { process, input, ready: Value::Null, root };
        dev.wait("ready", |dev| {
            let ended = dev.process.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "ended: {ended:?}\n{}", dev.output());
            ready_file.exists()
        });
        dev.ready = serde_json::from_slice(&std::fs::read(&ready_file).expect("it is there")).expect("JSON");
        dev
    }

    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Dev) -> bool) {
        let since = Instant::now();
        while !done(self) {
            assert!(since.elapsed() < PATIENCE, "not {what}:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.root.path().join("output")).unwrap_or_default()
    }

    /// Types a line and waits until `answer` is shown once more than before.
    fn say(&mut self, line: &str, answer: &str) {
        let before = self.output().matches(answer).count();
        writeln!(self.input.as_mut().expect("open"), "{line}").expect("it listens");
        self.wait(answer, |dev| dev.output().matches(answer).count() > before);
    }

    fn process(&self, name: &str) -> &Value {
        let all = self.ready["processes"].as_array().expect("a list");
        all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {}", self.ready))
    }

    /// Ids of all processes, this one's included.
    fn pids(&self) -> Vec<u64> {
        let all = self.ready["processes"].as_array().expect("a list");
        all.iter().map(|one| &one["pid"]).chain([&self.ready["pid"]]).map(|pid| pid.as_u64().expect("an id")).collect()
    }

    fn client(&self, name: &str) -> Client {
        Client::new(self.process(name)["http"].as_str().expect("an address"))
    }

    /// Waits for the end and asserts that no process is left: not those of the start, nor any with its directory on its
    /// command line.
    fn ends(mut self) -> Option<i32> {
        let pids = self.pids();
        let mut code = None;
        self.wait("ended", |dev| match dev.process.try_wait().expect("it can be asked") {
            Some(status) => {
                code = Some(status.code());
                true
            }
            None => false,
        });
        let root = self.root.path().to_owned();
        self.wait("free of processes", |_| !pids.iter().any(|pid| is_alive(*pid)) && using(&root).is_empty());
        code.expect("it ended")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether there is such a process that has not ended (one that was not waited for yet has).
fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The command lines of processes that name `directory`.
fn using(directory: &Path) -> Vec<String> {
    let directory = directory.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&directory) && (line.contains("serve") || line.contains("etcd"))).collect()
}

async fn call(client: &Client, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let answer = client.request(request.body(Full::new(body)).expect("a request")).await.expect("an answer");
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
}

/// Repeats a write that the cluster could not take yet, as clients do while a leader is chosen.
async fn write(client: &Client, id: u64) {
    let document = json!({"document_id": id, "vector": [id as f32, 1.0], "metadata": {"id": id}});
    let since = Instant::now();
    loop {
        let (status, answer) = call(client, Method::POST, "/data/api/v1/tables/t/documents", document.clone()).await;
        if status == 200 {
            return;
        }
        // Twice is once: the document has its id.
        assert!(matches!(status, 503 | 504) && since.elapsed() < PATIENCE, "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_cluster_is_written_hurt_read_and_gone() {
    let mut dev = Dev::start(&["--nodes", "3", "--set", "index.list_points=8"]);
    let gateway = dev.client("gateway");
    let table = json!({"table_name": "t", "dimension": 2, "metric": "euclidean", "shards": 2});
    assert_eq!(call(&gateway, Method::POST, "/api/v1/tables", table).await.0, 201);
    for id in 0..20 {
        write(&gateway, id).await;
    }
    dev.say("kill 2", "node 2: killed");
    for id in 20..40 {
        write(&gateway, id).await;
    }
    for id in 0..40 {
        let (status, found) =
            call(&gateway, Method::GET, &format!("/api/v1/tables/t/documents/{id}"), Value::Null).await;
        assert_eq!((status, &found["metadata"]["id"]), (200, &json!(id)));
    }
    dev.say("kill 2", "node 2 does not run");
    dev.say("restart 2", "node 2: ready again");
    dev.say("status", "led by");
    dev.say("frobnicate", "there is no command");
    drop(dev.input.take().map(|mut input| writeln!(input, "quit")));
    assert_eq!(dev.ends(), Some(0));
}

#[tokio::test]
async fn a_partition_stops_a_minority_and_heals() {
    let mut dev = Dev::start(&["--no-gateway"]);
    let (alone, others) = (dev.client("node 1"), dev.client("node 2"));
    let table = json!({"table_name": "t", "dimension": 2, "metric": "euclidean"});
    assert_eq!(call(&others, Method::POST, "/api/v1/tables", table).await.0, 201);
    write_direct(&others, 1).await;
    dev.say("partition 1|2,3", "the network is cut");
    write_direct(&others, 2).await;
    // The one on its own can neither write nor answer a linearizable read.
    let read = Request::builder().uri("/api/v1/tables/t/documents/2").body(Full::default()).expect("a request");
    let answer = alone.request_within(Duration::from_secs(5), read).await;
    assert!(!answer.as_ref().is_ok_and(|answer| answer.status().is_success()), "{answer:?}");
    dev.say("heal", "the network is whole");
    let since = Instant::now();
    while call(&alone, Method::GET, "/api/v1/tables/t/documents/2", Value::Null).await.0 != 200 {
        assert!(since.elapsed() < PATIENCE, "{}", dev.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(dev.input.take());
    assert_eq!(dev.ends(), Some(0), "the end of the input ends it");
}

async fn write_direct(client: &Client, id: u64) {
    let document = json!({"document_id": id, "vector": [id as f32, 1.0]});
    let since = Instant::now();
    while call(client, Method::POST, "/api/v1/tables/t/documents", document.clone()).await.0 != 200 {
        assert!(since.elapsed() < PATIENCE, "no write in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn with_etcd_tables_wait_for_it_and_documents_do_not() {
    if !has_etcd("with_etcd_tables_wait_for_it_and_documents_do_not") {
        return;
    }
    let mut dev = Dev::start_with("etcd", &["--nodes", "3"]);
    assert!(dev.output().contains("coordinated by etcd on 127.0.0.1:"), "{}", dev.output());
    let gateway = dev.client("gateway");
    let table = |name: &str| json!({"table_name": name, "dimension": 2, "metric": "euclidean"});
    assert_eq!(call(&gateway, Method::POST, "/api/v1/tables", table("t")).await.0, 201);
    write(&gateway, 1).await;
    dev.say("kill etcd", "etcd: killed");
    write(&gateway, 2).await;
    let node = dev.client("node 1");
    let (status, refused) = call(&node, Method::POST, "/api/v1/tables", table("u")).await;
    assert_eq!((status, &refused["code"]), (503, &json!("coordinator")), "{refused}");
    dev.say("restart etcd", "etcd: ready again");
    let since = Instant::now();
    while call(&node, Method::POST, "/api/v1/tables", table("u")).await.0 != 201 {
        assert!(since.elapsed() < PATIENCE, "{}", dev.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    dev.say("add", "node 4: ready");
    dev.say("restart 2", "node 2: ready again");
    for id in [1, 2] {
        let path = format!("/api/v1/tables/t/documents/{id}");
        assert_eq!(call(&gateway, Method::GET, &path, Value::Null).await.0, 200);
    }
    drop(dev.input.take().map(|mut input| writeln!(input, "quit")));
    assert_eq!(dev.ends(), Some(0));
}

#[test]
fn a_signal_stops_everything_and_so_does_its_own_death() {
    let coordinators =
        if has_etcd("the end of etcd by a signal") { vec!["embedded", "etcd"] } else { vec!["embedded"] };
    let signals = [(libc::SIGTERM, Some(0)), (libc::SIGINT, Some(0)), (libc::SIGKILL, None)];
    for (coordinator, (signal, code)) in coordinators.into_iter().flat_map(|one| signals.map(|signal| (one, signal))) {
        let mut dev = Dev::start_with(coordinator, &["--nodes", "2"]);
        // One that is stopped must end as well.
        dev.say("pause 2", "node 2: paused");
        let pid = i32::try_from(dev.process.id()).expect("an id");
        // SAFETY: kill only sends a signal, to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        assert_eq!(dev.ends(), code, "signal {signal}, coordinator {coordinator}");
    }
}
