//! The commands with which the seeds' guides start things, as they are written there, against this program: what can be started
//! serves; `roles.rs` has what finds the others in an etcd.
#![allow(clippy::disallowed_methods)] // real sockets and processes under a real clock

#[path = "coordination/members.rs"]
#[allow(dead_code)]
mod members;
#[path = "launch/roles.rs"]
mod roles;

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use vectorsphere::rt::{block_on, http::client::Client};

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_vectorsphere");

/// A command that runs in a directory, beside the shipped `conf` and `scripts`.
struct Started {
    process: Child,
    /// Gone with the last that runs in it.
    _directory: Rc<TempDir>,
    ready: PathBuf,
    log: PathBuf,
}

/// A directory with what is shipped.
fn shipped() -> Rc<TempDir> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["conf", "scripts"] {
        symlink(root.join(name), directory.path().join(name)).expect("a link");
    }
    Rc::new(directory)
}

impl Started {
    /// Starts `line` in a directory of its own, with a ready file and free ports, for what the guide leaves at its default.
    fn start(program: &Path, line: &str, free: &[&str]) -> Started {
        Started::start_in(shipped(), "node", program, line, free)
    }

    /// The same in `directory`, where others run under other names.
    fn start_in(directory: Rc<TempDir>, name: &str, program: &Path, line: &str, free: &[&str]) -> Started {
        let ready = directory.path().join(format!("{name}.ready"));
        let log = directory.path().join(format!("{name}.log"));
        let file = std::fs::File::create(&log).expect("a file");
        let mut command = Command::new(program);
        command.args(line.split_whitespace()).args(free).arg("--ready-file").arg(&ready);
        command.current_dir(directory.path()).env("VECTORSPHERE_BIN", PROGRAM);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Started { process: command.spawn().expect("it starts"), _directory: directory, ready, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it serves; what it says of itself.
    fn ready(&mut self) -> serde_json::Value {
        let since = Instant::now();
        while !self.ready.exists() {
            let ended = self.process.try_wait().expect("it can be asked");
            assert!(ended.is_none() && since.elapsed() < PATIENCE, "{ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        serde_json::from_slice(&std::fs::read(&self.ready).expect("it is there")).expect("JSON")
    }

    /// Waits for its end by itself; its exit code.
    fn code(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("it can be asked") {
                return status.code();
            }
            assert!(since.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM; its exit code.
    fn stop(&mut self) -> Option<i32> {
        let id = i32::try_from(self.process.id()).expect("an id");
        // SAFETY: kill only sends a signal, to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        self.code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn get(address: &str, path: &str) -> (u16, String) {
    let request = http::Request::builder().uri(path).body(http_body_util::Full::default()).expect("a request");
    let answer = block_on(1, Client::new(address).request(request)).expect("a runtime").expect("an answer");
    (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a free port").port()
}

/// What a node's other listeners are given beside the guide's own words, so that tests do not meet.
const FREE: [&str; 6] = ["--grpc", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--monitoring", "127.0.0.1:0"];

#[test]
fn a_standalone_node_of_the_integration_guide_starts() {
    let port = free_port();
    let lines = [
        (
            PROGRAM,
            format!("--mode=standalone --port={port} --etcd=localhost:2379 --service=VectorSphere --c=conf/app.yaml"),
        ),
        ("scripts/start.sh", format!("standalone {port} localhost:2379 VectorSphere")),
    ];
    for (program, line) in lines {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
        let is_script = program != PROGRAM;
        let mut started = Started::start(&script, &line, if is_script { &[] } else { &FREE });
        let ready = started.ready();
        assert_eq!(ready["http"], format!("127.0.0.1:{port}"), "{line}");
        assert_eq!(get(&format!("127.0.0.1:{port}"), "/health").0, 200);
        let monitoring = ready["monitoring"].as_str().expect("an address").to_owned();
        assert!(get(&monitoring, "/metrics").1.contains("vectorsphere_http_requests"));
        assert!(started.log().contains("serviceTTL"), "what has no effect is said: {}", started.log());
        assert_eq!(started.stop(), Some(0), "{line}");
    }
}

#[test]
fn the_distributed_guides_node_starts_with_its_file_and_flags() {
    let port = free_port();
    let mut flags = vec!["--http".to_owned(), format!("127.0.0.1:{port}")];
    flags.extend(FREE.map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for line in ["-log debug", ""] {
        let mut started = Started::start(Path::new(PROGRAM), line, &flags);
        started.ready();
        assert_eq!(get(&format!("127.0.0.1:{port}"), "/api/v1/cluster/status").0, 200);
        assert_eq!(started.stop(), Some(0));
    }
    // With its file, which it reads where it is there.
    let directory = shipped();
    std::fs::create_dir(directory.path().join("c")).expect("a directory");
    let file =
        format!("service_name: \"guided\"\nnode_type: \"standalone\"\nhttp_port: {port}\ndata_dir: \"./data\"\n");
    std::fs::write(directory.path().join("c/c.yaml"), file).expect("a file");
    let mut started = Started::start_in(directory.clone(), "node", Path::new(PROGRAM), "", &FREE);
    started.ready();
    let (status, answer) = get(&format!("127.0.0.1:{port}"), "/api/v1/cluster/status");
    assert!(status == 200 && answer.contains("guided"), "{answer}");
    assert!(directory.path().join("data").is_dir());
    assert_eq!(started.stop(), Some(0));
}

#[test]
fn a_gateway_starts_by_script_and_by_flags_and_finds_its_node() {
    let port = free_port();
    let mut node_flags = vec!["--http".to_owned(), format!("127.0.0.1:{port}")];
    node_flags.extend(FREE.map(str::to_owned));
    let node_flags: Vec<&str> = node_flags.iter().map(String::as_str).collect();
    let mut node = Started::start(Path::new(PROGRAM), "serve", &node_flags);
    node.ready();
    let nodes = format!("gateway.nodes=127.0.0.1:{port}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/start.sh");
    // The role's own program, as the Kamaitachi guide calls it, reads conf/gateway.ini.
    let names = tempfile::tempdir().expect("a directory");
    let by_name = names.path().join("gateway");
    symlink(PROGRAM, &by_name).expect("a link");
    for (program, line) in [(script, "gateway 0000"), (by_name, "")] {
        let public = free_port();
        let line = line.replace("0000", &public.to_string());
        let port_flag = ["--port".to_owned(), public.to_string()];
        let mut flags = vec!["--set", nodes.as_str()];
        if line.is_empty() {
            flags.extend(["--monitoring", "127.0.0.1:0", &port_flag[0], &port_flag[1]]);
        }
        let mut started = Started::start(&program, &line, &flags);
        let ready = started.ready();
        assert_eq!(ready["gateway"], format!("127.0.0.1:{public}"), "{line}");
        let since = Instant::now();
        while get(&format!("127.0.0.1:{public}"), "/health").0 != 200 {
            assert!(since.elapsed() < PATIENCE, "{}", started.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let (status, answer) = get(&format!("127.0.0.1:{public}"), "/data/api/v1/tables");
        assert_eq!((status, answer.as_str()), (200, r#"{"tables":[]}"#));
        assert_eq!(started.stop(), Some(0), "{}", started.log());
    }
    assert_eq!(node.stop(), Some(0));
}

/// Waits until a node takes requests.
fn serves(started: &Started, port: u16) {
    let since = Instant::now();
    while get(&format!("127.0.0.1:{port}"), "/readyz").0 != 200 {
        assert!(since.elapsed() < PATIENCE, "{}", started.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a node tells of so many that are up, itself included.
fn sees(port: u16, count: usize) {
    let since = Instant::now();
    let status = || get(&format!("127.0.0.1:{port}"), "/api/v1/cluster/status").1;
    while status().matches("\"status\":\"up\"").count() != count {
        assert!(since.elapsed() < PATIENCE, "{}", status());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_role_whose_etcd_is_not_there_waits_for_it_and_says_so() {
    let port = free_port();
    let line = format!("--mode=slave --port={port} --etcd=127.0.0.1:1 --service=VectorSphere --c=conf/app.yaml");
    let mut started = Started::start(Path::new(PROGRAM), &line, &FREE);
    started.ready();
    let since = Instant::now();
    while !started.log().contains("etcd does not say yet which cluster this is") {
        assert!(since.elapsed() < PATIENCE, "{}", started.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/readyz").0, 503);
    assert_eq!(started.stop(), Some(0), "{}", started.log());
}
