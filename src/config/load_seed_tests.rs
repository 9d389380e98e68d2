//! The seeds' configuration files, as their guides print them, load as written.

use super::*;

const GUIDE_APP_YAML: &str = r#"
etcdEndpoints:
  - "localhost:2379"
serviceRegistryPath: "/services/vectorsphere/"
serviceTTL: 30
configPathPrefix: "/c/vectorsphere/"
electionPathPrefix: "/election/vectorsphere/"
development:
  enabled: true
  debugMode: true
  profileEnabled: true
  profilePort: 6060
security:
  tls:
    enabled: true
    certFile: "certs/server.crt"
    keyFile: "certs/server.key"
  auth:
    enabled: true
    jwtSecret: "your-jwt-secret-key"
    tokenExpiry: 24h
"#;

#[test]
fn the_app_yaml_of_the_integration_guide_loads() {
    let loaded = World::file("conf/app.yaml", GUIDE_APP_YAML)
        .flag("--mode", "mode", "slave")
        .flag("--port", "server.port", "8081")
        .flag("--etcd", "etcd.endpoints", "localhost:2379")
        .flag("--service", "cluster.name", "VectorSphere")
        .loaded();
    let config = &loaded.config;
    assert_eq!(config.mode, Mode::Worker);
    assert_eq!(config.listen.http, addresses(&["127.0.0.1:8081"]));
    assert_eq!(config.etcd.endpoints.iter().map(|e| e.as_str()).collect::<Vec<_>>(), ["localhost:2379"]);
    assert_eq!(config.cluster.name.as_str(), "VectorSphere");
    assert_eq!(config.log.level, "debug");
    assert!(config.mode.can_start());
    assert!(loaded.notices.iter().any(|notice| notice.key == "security.auth.enabled"));
}

const GUIDE_C_YAML: &str = r#"
service_name: "vectorsphere"
node_type: "auto"  # auto, master, slave
http_port: 8080
default_port: 9090
data_dir: "./data"
task_timeout: 30
heartbeat: 10
health_check_interval: 30
scheduler_worker_count: 4

etcd:
  endpoints:
    - "localhost:2379"
  username: ""
  password: ""
  dial_timeout: 5
  request_timeout: 10
  max_call_send_msg_size: 10485760  # 10MB
  max_call_recv_msg_size: 10485760  # 10MB

master:
  election_timeout: 15
  session_ttl: 30
  max_retry_count: 3
  retry_interval: 5

slave:
  register_retry_count: 3
  register_retry_interval: 5
  heartbeat_interval: 10

grpc_max_connections: 10
grpc_keepalive_time: 30
grpc_keepalive_timeout: 5
auth:
  enabled: true
  jwt_secret: "your_jwt_secret"
  token_expiry: 3600
rate_limit:
  enabled: true
  requests_per_second: 100
  burst_size: 200
"#;

#[test]
fn the_c_yaml_of_the_distributed_guide_loads() {
    let loaded = World::file("c/c.yaml", GUIDE_C_YAML).loaded();
    let config = &loaded.config;
    assert_eq!(config.mode, Mode::Auto);
    assert_eq!(config.listen.http, addresses(&["127.0.0.1:8080"]));
    assert_eq!(config.listen.monitoring, addresses(&["127.0.0.1:9090"])[0]);
    assert_eq!((&config.etcd.username, &config.etcd.password), (&None, &None));
    assert_eq!(loaded.origin("mode").to_string(), "c/c.yaml:3 (node_type)");
    // The same file starts a node of this version when the mode is given.
    let overridden = World::file("c/c.yaml", GUIDE_C_YAML).flag("--type", "node_type", "standalone").loaded();
    assert!(overridden.config.mode.can_start());
}

#[test]
fn what_the_guides_have_no_ports_for_follows_the_http_port() {
    let ports = |http: &str, more: &str| {
        let text = GUIDE_C_YAML.replace("http_port: 8080\ndefault_port: 9090", &format!("http_port: {http}\n{more}"));
        let loaded = World::file("config2.yaml", &text).loaded();
        let listen = &loaded.config.listen;
        [listen.http[0], listen.grpc, listen.peer, listen.monitoring].map(|address| address.port())
    };
    assert_eq!(ports("8080", ""), [8080, 6334, 6335, 9090]);
    assert_eq!(ports("8081", "default_port: 9090"), [8081, 6336, 6337, 9090]);
    assert_eq!(ports("8082", ""), [8082, 6338, 6339, 9092]);
    assert_eq!(ports("8082", "listen: {grpc: \"127.0.0.1:7\"}"), [8082, 7, 6339, 9092], "what is set stays");
    assert_eq!(ports("50000", ""), [50_000, 6334, 6335, 9090], "too far away");
    assert_eq!(ports("80", ""), [80, 6334, 6335, 9090]);
    assert_eq!(ports("8082", "advertise: {peer: \"db:6335\"}"), [8082, 6338, 6335, 9092], "others are told this one");
    for off in (-1_000..=1_000).filter(|off| *off != 0) {
        let mut all = ports(&(8080 + off).to_string(), "");
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }
    let origin = |key| {
        let text = GUIDE_C_YAML.replace("8080", "8081");
        World::file("config2.yaml", &text).loaded().origin(key).to_string()
    };
    assert_eq!(origin("listen.peer"), "config2.yaml:4 (http_port)");
    // Whoever speaks of addresses knows them, and without etcd others do.
    let listen = |world: World| world.loaded().config.listen;
    let usual = Config::default().listen;
    let by_address = World::file("c.yaml", GUIDE_C_YAML).flag("--http", "listen.http", "127.0.0.1:8081");
    assert_eq!(listen(by_address).grpc, usual.grpc);
    let by_port = World::file("c.yaml", GUIDE_C_YAML).flag("--port", "server.port", "8081");
    assert_eq!(listen(by_port).grpc.port(), 6336);
    let alone = World::default().flag("--mode", "mode", "auto").flag("--port", "server.port", "8081");
    assert_eq!(listen(alone).peer, usual.peer);
}

#[test]
fn the_etcd_security_of_the_distributed_guide_loads() {
    let text = "etcd:\n  ca_file: \"/path/to/ca.crt\"\n  cert_file: \"/path/to/client.crt\"\n  \
                key_file: \"/path/to/client.key\"\n\n  username: \"vectorsphere\"\n  password: \"your_password\"\n";
    let config = World::file("c.yaml", text).loaded().config;
    assert_eq!(config.etcd.tls.ca_file, Some("/path/to/ca.crt".into()));
    assert_eq!(config.etcd.username.as_deref(), Some("vectorsphere"));
}

const MASTER_INI: &str = "[server]
port = 8080
mode = master
service_name = kamaitachi-master
service_addr = localhost:8080

[cache]
max_bytes = 2147483648          # 2GB
snapshot_path = ./data/master_snapshot.dat
snapshot_interval = 10           # 10 minutes

[etcd]
endpoints = localhost:2379
prefix = /kamaitachi
ttl = 10                         # 10 seconds
";

#[test]
fn the_ini_files_of_the_kamaitachi_guide_load() {
    let master = World::file("conf/master.ini", MASTER_INI).loaded().config;
    assert_eq!((master.mode, master.storage.cache), (Mode::Master, ByteSize::gib(2)));
    assert_eq!(master.cluster.name.as_str(), "kamaitachi");
    assert_eq!(master.advertise.http.as_ref().map(|a| a.as_str()), Some("localhost:8080"));

    let slave = MASTER_INI.replace("8080", "8081").replace("master", "slave");
    let slave = World::file("conf/slave.ini", &slave).loaded().config;
    assert_eq!((slave.mode, slave.listen.http), (Mode::Worker, addresses(&["127.0.0.1:8081"])));
    assert_eq!(master.data_dir.to_str(), Some("./data/master_snapshot"));
    assert_eq!(slave.data_dir.to_str(), Some("./data/slave_snapshot"));

    let gateway = "[server]\nport = 9000\nmode = gateway\nservice_name = kamaitachi-gateway\n\
                   service_addr = localhost:9000\n\n[etcd]\nendpoints = localhost:2379\nprefix = /kamaitachi\nttl = 10\n";
    let gateway = World::file("conf/gateway.ini", gateway).loaded().config;
    assert_eq!(gateway.mode, Mode::Gateway);
    assert_eq!(gateway.listen.gateway, addresses(&["127.0.0.1:9000"])[0]);
    assert_eq!(gateway.listen.http, Config::default().listen.http, "the gateway's port is not the node's HTTP port");
}
