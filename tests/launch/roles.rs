//! The seeds' commands that make a node one of several, which find each other in an etcd: the roles of each guide, and files of the
//! distributed guide's shape. Where there is no etcd they say so and count as skipped.

use super::{
    FREE, PATIENCE, PROGRAM, Started, free_port, get,
    members::{Members, has_etcd},
    sees, serves, shipped,
};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

#[test]
fn the_guides_roles_find_each_other_in_etcd() {
    if !has_etcd("the_guides_roles_find_each_other_in_etcd") {
        return;
    }
    let etcd = Members::start(1);
    let endpoint = &etcd.clients[0];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/start.sh");
    let (ports, program) = (free_ports::<5>(), PathBuf::from(PROGRAM));
    let http = format!("127.0.0.1:{}", ports[4]);
    // The files have free ports for what is not HTTP: all roles run on one machine.
    let told = format!("advertise.http={http}");
    let by_file = ["--http", &http, "--set", &told, "--etcd", endpoint];
    let lines = [
        (&script, format!("master {} {endpoint} VectorSphere", ports[0]), &[][..]),
        (&script, format!("slave {} {endpoint} VectorSphere", ports[1]), &[]),
        (
            &program,
            format!("--mode=slave --port={} --etcd={endpoint} --service=VectorSphere --c=conf/app.yaml", ports[2]),
            &FREE,
        ),
        (
            &program,
            format!("--mode=master --port={} --etcd={endpoint} --service=VectorSphere --c=conf/app.yaml", ports[3]),
            &FREE,
        ),
        // A cluster of another name.
        (&program, "-config conf/slave.ini".to_owned(), &by_file),
    ];
    let mut all: Vec<Started> = lines.iter().map(|(program, line, free)| Started::start(program, line, free)).collect();
    for (started, port) in all.iter_mut().zip(ports) {
        started.ready();
        serves(started, port);
    }
    for (port, count) in ports.into_iter().zip([4, 4, 4, 4, 1]) {
        sees(port, count);
    }
    // The gateway of that cluster finds its node.
    let public = free_port();
    let port = public.to_string();
    let mut gateway = Started::start(&program, "-config conf/gateway.ini", &["--port", &port, "--etcd", endpoint]);
    gateway.ready();
    let since = Instant::now();
    let status = || get(&format!("127.0.0.1:{public}"), "/data/api/v1/cluster/status");
    while !(status().0 == 200 && status().1.contains(r#""cluster_name":"kamaitachi""#)) {
        assert!(since.elapsed() < PATIENCE, "{:?}\n{}", status(), gateway.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    for started in all.iter_mut().chain([&mut gateway]) {
        assert_eq!(started.stop(), Some(0), "{}", started.log());
    }
}

/// The Kamaitachi guide, in one directory: a master, a slave, and a second slave by a copy of the first one's file in which port, address
/// and snapshot path are others.
#[test]
fn a_second_slave_starts_by_the_guides_recipe() {
    if !has_etcd("a_second_slave_starts_by_the_guides_recipe") {
        return;
    }
    let etcd = Members::start(1);
    let endpoint = &etcd.clients[0];
    let directory = shipped();
    let ports = free_ports::<3>();
    let recipe = fs::read_to_string(directory.path().join("conf/slave.ini")).expect("the shipped file");
    let recipe = recipe.replace("8081", &ports[2].to_string()).replace("slave_snapshot.dat", "slave2_snapshot.dat");
    fs::write(directory.path().join("slave2.ini"), recipe).expect("a file");
    let by_name = |role| {
        let path = directory.path().join(role);
        symlink(PROGRAM, &path).map(|()| path).expect("a link")
    };
    let (master, slave) = (by_name("master"), by_name("slave"));
    // The shipped files' own ports may be taken on this machine.
    let port_flags = |port: u16| {
        let flags = ["--port".to_owned(), port.to_string(), "--set".to_owned()];
        flags.into_iter().chain([format!("advertise.http=127.0.0.1:{port}")])
    };
    let free = |port: Option<u16>| {
        let flags = FREE.map(str::to_owned).into_iter().chain(["--etcd".to_owned(), endpoint.clone()]);
        flags.chain(port.into_iter().flat_map(port_flags)).collect::<Vec<String>>()
    };
    let lines = [
        ("m", &master, "", free(Some(ports[0]))),
        ("s1", &slave, "-config conf/slave.ini", free(Some(ports[1]))),
        ("s2", &slave, "-config slave2.ini", free(None)),
    ];
    let start = |(name, program, line, free): &(&str, &PathBuf, &str, Vec<String>)| {
        let free: Vec<&str> = free.iter().map(String::as_str).collect();
        Started::start_in(directory.clone(), name, program, line, &free)
    };
    let mut all: Vec<Started> = lines.iter().map(start).collect();
    for (started, port) in all.iter_mut().zip(ports) {
        started.ready();
        serves(started, port);
    }
    sees(ports[2], 3);
    for data in ["master_snapshot", "slave_snapshot", "slave2_snapshot"] {
        assert!(directory.path().join("data").join(data).is_dir(), "{data}");
    }
    for started in &mut all {
        assert_eq!(started.stop(), Some(0), "{}", started.log());
    }
}

/// The distributed guide's file for a node: its ports, its directory and the etcd are the test's.
fn guides_file(port: u16, data: &str, endpoint: &str) -> String {
    let operators = free_port();
    format!(
        "service_name: \"vectorsphere\"\nnode_type: \"auto\"  # auto, master, slave\nhttp_port: {port}\ndefault_port: {operators}\n\
         data_dir: \"{data}\"\ntask_timeout: 30\nheartbeat: 10\nhealth_check_interval: 30\nscheduler_worker_count: 4\n\n\
         etcd:\n  endpoints:\n    - \"{endpoint}\"\n  username: \"\"\n  password: \"\"\n  dial_timeout: 5\n  request_timeout: 10\n\n\
         master:\n  election_timeout: 15\n  session_ttl: 30\n  max_retry_count: 3\n  retry_interval: 5\n\n\
         slave:\n  register_retry_count: 3\n  register_retry_interval: 5\n  heartbeat_interval: 10\n"
    )
}

/// Waits until each of these nodes sees them all and names the same master; what each tells of the cluster.
fn one_cluster(nodes: &mut [Started], ports: &[u16]) -> Vec<Value> {
    for (node, port) in nodes.iter_mut().zip(ports) {
        node.ready();
        serves(node, *port);
        sees(*port, ports.len());
    }
    let since = Instant::now();
    loop {
        let told = |port: &u16| get(&format!("127.0.0.1:{port}"), "/api/v1/cluster/status").1;
        let told: Vec<Value> = ports.iter().map(|port| serde_json::from_str(&told(port)).expect("JSON")).collect();
        let master = &told[0]["master"];
        if master.is_string() && told.iter().all(|one| one["master"] == *master) {
            return told;
        }
        assert!(since.elapsed() < PATIENCE, "{told:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `./vectorsphere -type master`, `./vectorsphere -type slave` and `./vectorsphere`, each with its own `c/c.yaml`, as on a machine of its
/// own: the flag counts for more than the file, which says `auto`.
#[test]
fn the_distributed_guides_node_types_make_one_cluster() {
    if !has_etcd("the_distributed_guides_node_types_make_one_cluster") {
        return;
    }
    let etcd = Members::start(1);
    let ports = free_ports::<3>();
    let start = |(line, port): (&str, u16)| {
        let directory = shipped();
        fs::create_dir(directory.path().join("c")).expect("a directory");
        let file = guides_file(port, "./data", &etcd.clients[0]);
        fs::write(directory.path().join("c/c.yaml"), file).expect("a file");
        Started::start_in(directory, "node", Path::new(PROGRAM), line, &FREE)
    };
    let lines = ["-type master", "-type slave", ""];
    let mut nodes: Vec<Started> = lines.into_iter().zip(ports).map(start).collect();
    let told = one_cluster(&mut nodes, &ports);
    let modes: Vec<&str> = told.iter().filter_map(|one| one["mode"].as_str()).collect();
    assert_eq!(modes, ["master", "worker", "auto"]);
    assert_eq!(told[0]["cluster_name"], "vectorsphere");
    for node in &mut nodes {
        assert_eq!(node.stop(), Some(0), "{}", node.log());
    }
}

/// HTTP ports so near to the default that others follow them, with these others free.
fn ports_with_room() -> [u16; 3] {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = u16::try_from(std::process::id() % 900).expect("small") + 8_081;
    let near = (first..first + 80).filter(|http| {
        let beside = 6_334 + (http - 8_080) * 2;
        [*http, beside, beside + 1].into_iter().all(is_free)
    });
    let found: Vec<u16> = near.take(3).collect();
    found.try_into().expect("three nodes find ports")
}

/// `./vectorsphere -c config1.yaml` and so on, beside each other on one machine, as written: the first is named by its whole path, as the guide does elsewhere.
#[test]
fn three_files_of_the_distributed_guide_make_one_cluster() {
    if !has_etcd("three_files_of_the_distributed_guide_make_one_cluster") {
        return;
    }
    let etcd = Members::start(1);
    let ports = ports_with_room();
    let directory = shipped();
    let start = |(number, port): (usize, u16)| {
        let name = format!("config{number}.yaml");
        let path = directory.path().join(&name);
        fs::write(&path, guides_file(port, &format!("./data{number}"), &etcd.clients[0])).expect("a file");
        let named = if number == 1 { path } else { PathBuf::from(name) };
        let line = format!("-c {}", named.display());
        // The files name no ports for gRPC and peers: these follow from the HTTP port.
        Started::start_in(directory.clone(), &number.to_string(), Path::new(PROGRAM), &line, &[])
    };
    let mut nodes: Vec<Started> = (1..).zip(ports).map(start).collect();
    one_cluster(&mut nodes, &ports);
    for number in 1..=3 {
        assert!(directory.path().join(format!("data{number}")).is_dir());
    }
    for node in &mut nodes {
        assert_eq!(node.stop(), Some(0), "{}", node.log());
    }
}
