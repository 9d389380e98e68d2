//! Layers, origins, suggestions, the seeds' files and the text of every problem.

use super::*;
use crate::config::units::ByteSize;
use crate::config::words::{LogFormat, Mode};
use std::time::Duration;

/// Files, variables and flags of one load, without touching the machine.
#[derive(Default)]
struct World {
    file: Option<&'static str>,
    files: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, &'static str)>,
    flags: Vec<Assignment>,
}

impl World {
    fn file(path: &'static str, text: &str) -> Self {
        World { file: Some(path), ..World::default() }.and_file(path, text)
    }

    fn and_file(mut self, path: &'static str, text: &str) -> Self {
        self.files.push((path, text.to_owned()));
        self
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    fn set(mut self, argument: &str) -> Self {
        self.flags.push(Assignment::parse(argument).expect("KEY=VALUE"));
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags.push(Assignment::named(flag, key, value));
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let read = |path: &Path| {
            let found = self.files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.clone()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        load(&Sources {
            file: self.file.map(PathBuf::from),
            variables: self.variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            flags: self.flags.clone(),
            read: &read,
        })
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self) -> String {
        self.load().expect_err("a problem").to_string()
    }
}

fn addresses(texts: &[&str]) -> Vec<std::net::SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn nothing_given_is_the_defaults() {
    let loaded = World::default().loaded();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.notices, []);
    assert_eq!(loaded.origin("log.level"), &Origin::Default);
}

#[test]
fn each_layer_lies_over_the_one_before_and_is_remembered() {
    let level = |text: &str| format!("log:\n  level: {text}\n");
    let mut world = World::file("/etc/vs/node.yaml", &format!("environment: prod\n{}", level("warn")))
        .and_file("/etc/vs/prod.yaml", "");
    let check = |world: &World, expected: &str, origin: &str| {
        let loaded = world.loaded();
        assert_eq!(
            (loaded.config.log.level.as_str(), loaded.origin("log.level").to_string().as_str()),
            (expected, origin)
        );
    };
    check(&world, "warn", "/etc/vs/node.yaml:3");
    world.files[1].1 = level("error");
    check(&world, "error", "/etc/vs/prod.yaml:2");
    world = world
        .variable("VECTORSPHERE__LOG__LEVEL", "debug")
        .variable("HOME", "/")
        .variable("VECTORSPHERE_ENDPOINT", "x");
    check(&world, "debug", "VECTORSPHERE__LOG__LEVEL");
    world = world.set("log.level=trace");
    check(&world, "trace", "--set log.level");
}

#[test]
fn values_of_every_type_come_through_files_variables_and_flags() {
    let loaded = World::file("a.toml", "[limits]\nrequest_timeout = \"1m\"\n[storage]\ncache = \"128MiB\"\n")
        .variable("VECTORSPHERE__LISTEN__HTTP", "127.0.0.1:1,127.0.0.1:2")
        .set("limits.connections=7")
        .set("log.format=json")
        .set("cluster.zone=")
        .loaded();
    assert_eq!(loaded.config.limits.request_timeout, Duration::from_secs(60));
    assert_eq!(loaded.config.storage.cache, ByteSize::mib(128));
    assert_eq!(loaded.config.listen.http, addresses(&["127.0.0.1:1", "127.0.0.1:2"]));
    assert_eq!(loaded.config.limits.connections, 7);
    assert_eq!(loaded.config.log.format, LogFormat::Json);
    assert_eq!(loaded.config.cluster.zone, None);
}

#[test]
fn the_environment_may_come_from_a_variable_or_flag_and_its_file_must_exist() {
    let world = World::default().and_file("conf/test.yaml", "log: {level: debug}\n");
    let loaded = world.variable("VECTORSPHERE__ENVIRONMENT", "test").loaded();
    assert_eq!(loaded.config.log.level, "debug");
    let error = World::file("/x/a.yaml", "").set("environment=prod").error();
    assert!(error.starts_with("/x/prod.yaml: cannot be read: "), "{error}");
    let error = World::default().set("environment=../etc").error();
    assert!(error.starts_with("--set environment: `environment`: expected a name of 1 to 64"), "{error}");
    let nested = World::file("a.yaml", "environment: b\n").and_file("b.yaml", "environment: c\n").error();
    assert_eq!(nested, "b.yaml:1: `environment`: an environment's file cannot name another environment");
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest() {
    for (world, expected) in [
        (
            World::file("a.yaml", "\nlog:\n  levl: info\n"),
            "a.yaml:3: unknown key `log.levl`; did you mean `log.level`?",
        ),
        (World::file("a.yaml", "dataDir: x\n"), "a.yaml:1: unknown key `dataDir`; did you mean `data_dir`?"),
        (World::file("a.toml", "level = \"x\"\n"), "a.toml:1: unknown key `level`; did you mean `log.level`?"),
        (
            World::file("a.ini", "[etcd]\nendpoint = x\n"),
            "a.ini:2: unknown key `etcd.endpoint`; did you mean `etcd.endpoints`?",
        ),
        (World::file("a.yaml", "servceTTL: 5\n"), "a.yaml:1: unknown key `servceTTL`; did you mean `serviceTTL`?"),
        (
            World::file("a.yaml", "mode: {name: auto}\n"),
            "a.yaml:1: unknown key `mode.name`; did you mean `cluster.name`?",
        ),
        (
            World::default().variable("VECTORSPHERE__LISTEN__GRCP", "x"),
            "VECTORSPHERE__LISTEN__GRCP: unknown key `listen.grcp`; did you mean `listen.grpc`?",
        ),
        (World::default().set("zzzzzzzzzz=1"), "--set zzzzzzzzzz: unknown key `zzzzzzzzzz`"),
    ] {
        assert_eq!(world.error(), expected);
    }
}

#[test]
fn variables_and_set_do_not_speak_the_seeds_names() {
    let error = World::default().set("http_port=1").error();
    assert!(error.starts_with("--set http_port: unknown key `http_port`"), "{error}");
    let error = World::default().variable("VECTORSPHERE__SERVER__PORT", "1").error();
    assert!(error.contains("unknown key `server.port`"), "{error}");
}

#[test]
fn a_bad_value_names_key_expected_got_and_origin() {
    for (world, expected) in [
        (
            World::file("a.yaml", "limits:\n  request_timeout: 30\n"),
            "a.yaml:2: `limits.request_timeout`: expected a duration with a unit, such as \"500ms\", \"30s\" or \"10m\", \
             from 10ms to 1h, got 30 (an integer)",
        ),
        (
            World::file("a.yaml", "storage:\n  cache: 2147483648\n"),
            "a.yaml:2: `storage.cache`: expected a size with a unit, such as \"64MB\" or \"2GiB\", from 1MiB to 1TiB, \
             got 2147483648 (an integer)",
        ),
        (
            World::file("a.yaml", "mode: leader\n"),
            "a.yaml:1: `mode`: expected one of standalone, auto, master, worker (or slave), gateway, got \"leader\" (a string)",
        ),
        (
            World::default().set("limits.connections=0"),
            "--set limits.connections: `limits.connections`: expected a whole number, from 1 to 1000000, got \"0\"",
        ),
        (
            World::default().flag("--grpc", "listen.grpc", "6334"),
            "--grpc: `listen.grpc`: expected an IP address and port, such as \"127.0.0.1:8080\" or \"[::1]:8080\", got \"6334\"",
        ),
        (
            World::default().variable("VECTORSPHERE__SECURITY__INSECURE", "yes"),
            "VECTORSPHERE__SECURITY__INSECURE: `security.insecure`: expected true or false, got \"yes\"",
        ),
        (
            World::file("a.yaml", "log: debug\n"),
            "a.yaml:1: `log`: expected a section: keys of its own below it, got a string",
        ),
        (
            World::file("a.yaml", "http_port: \"x\"\n"),
            "a.yaml:1: `http_port`: expected a port from 0 to 65535, got \"x\" (a string)",
        ),
        (
            World::file("a.yaml", "log: {level: verbose}\n"),
            "a.yaml:1: `log.level`: expected a level or filter directives: \"verbose\" is neither error, warn, info, \
             debug, trace or off nor TARGET=LEVEL",
        ),
    ] {
        assert_eq!(world.error(), expected);
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let error = World::file("a.yaml", "mode: x\nfoo_bar_baz: 1\nlog: {format: xml}\n").set("data_dir=").error();
    assert_eq!(error.lines().count(), 4, "{error}");
}

#[test]
fn a_file_that_is_missing_malformed_or_of_another_kind_is_named() {
    let error = World { file: Some("none.yaml"), ..World::default() }.error();
    assert!(error.starts_with("none.yaml: cannot be read: "), "{error}");
    let error = World::file("a.toml", "x = \n").error();
    assert!(error.starts_with("a.toml:1: "), "{error}");
    let error = World::file("a.json", "{}").error();
    assert_eq!(error, "a.json: expected a file ending in .yaml, .yml, .toml or .ini, got .json");
    let problem = Assignment::parse("log.level").expect_err("no =");
    assert_eq!(problem.to_string(), "--set: expected KEY=VALUE, got \"log.level\"");
    assert!(Assignment::parse("=hunter2").is_err_and(|problem| !problem.to_string().contains("hunter2")));
}

#[test]
fn a_key_set_twice_in_one_layer_is_an_error() {
    let error = World::file("a.yaml", "http_port: 8080\nlisten: {http: [\"127.0.0.1:1\"]}\n").error();
    assert_eq!(error, "a.yaml:2: `listen.http` is already set at a.yaml:1 (http_port)");
    let error = World::default().flag("--mode", "mode", "auto").flag("--type", "node_type", "master").error();
    assert_eq!(error, "--type: `mode` is already set at --mode");
    let error = World::file("a.ini", "mode = auto\nmode = auto\n").error();
    assert_eq!(error, "a.ini:2: `mode` is already set at a.ini:1");
}

#[test]
fn listeners_beyond_loopback_need_a_word() {
    let error = World::default().flag("--http", "listen.http", "0.0.0.0:8080").error();
    assert!(error.starts_with("--http: `listen.http`: 0.0.0.0:8080 can be reached from other machines"), "{error}");
    assert!(error.contains("security.insecure: true") && error.contains("--insecure"), "{error}");
    let error = World::default().set("listen.monitoring=10.1.2.3:9090").error();
    assert!(error.starts_with("--set listen.monitoring: `listen.monitoring`: 10.1.2.3:9090"), "{error}");
    let loaded = World::default().set("listen.http=0.0.0.0:8080").set("security.insecure=true").loaded();
    assert_eq!(loaded.config.listen.http, addresses(&["0.0.0.0:8080"]));
    for loopback in ["[::1]:8080", "127.8.8.8:8080", "[::ffff:127.0.0.1]:8080", "localhost:8080"] {
        World::default().set(&format!("listen.http={loopback}")).loaded();
    }
}

#[test]
fn listeners_do_not_collide() {
    let error = World::default().set("listen.grpc=127.0.0.1:9090").error();
    assert_eq!(
        error,
        "--set listen.grpc: `listen.grpc`: 127.0.0.1:9090 is taken by `listen.monitoring` (127.0.0.1:9090)"
    );
    let error = World::default().set("listen.http=127.0.0.1:1,127.0.0.1:1").error();
    assert!(error.contains("127.0.0.1:1 is taken by `listen.http`"), "{error}");
    World::default().set("listen.http=127.0.0.1:0,127.0.0.1:0").set("listen.grpc=127.0.0.1:0").loaded();
    World::default().set("listen.grpc=127.0.0.2:9090").loaded();
    let error = World::default().set("listen.http=").error();
    assert_eq!(error, "--set listen.http: `listen.http`: expected 1 to 16 addresses, got 0");
}

#[test]
fn checkpoints_are_given_without_a_bound_or_fast_enough_to_be_taken() {
    let key = "raft.checkpoint_bytes_per_second";
    assert_eq!(World::default().loaded().config.raft.checkpoint_bytes_per_second, ByteSize(0));
    for (text, bytes) in [("0B", 0), ("1MiB", 1 << 20), ("50MiB", 50 << 20)] {
        let loaded = World::default().set(&format!("{key}={text}")).loaded();
        assert_eq!(loaded.config.raft.checkpoint_bytes_per_second.bytes(), bytes);
    }
    let error = World::default().set(&format!("{key}=512KiB")).error();
    assert_eq!(error, format!("--set {key}: `{key}`: expected 0B (no bound) or at least 1MiB, got 512KiB"));
}

#[test]
fn half_a_secret_pair_is_refused() {
    let error = World::default().set("etcd.password=hunter2").error();
    assert_eq!(error, "--set etcd.password: `etcd.password`: needs `etcd.username` beside it");
    let error = World::default().set("etcd.tls.key_file=k.pem").error();
    assert_eq!(error, "--set etcd.tls.key_file: `etcd.tls.key_file`: needs `etcd.tls.cert_file` beside it");
}

#[test]
fn no_secret_is_ever_printed() {
    let text = "etcd: {username: u, password: hunter2}\nauth: {jwt_secret: hunter2}\n";
    let loaded = World::file("a.yaml", text).loaded();
    assert_eq!(loaded.config.etcd.password.as_ref().map(|secret| secret.reveal()), Some("hunter2"));
    let shown: String = KEYS.iter().map(|key| key.value(&loaded.config).to_string()).collect();
    let notices: String = loaded.notices.iter().map(Notice::to_string).collect();
    assert!(!format!("{shown}{notices}{loaded:?}").contains("hunter2"));
    let error = World::file("a.yaml", "etcd: {password: [hunter2]}\nauth: {jwt_secret: 20260101}\n").error();
    assert!(error.contains("got a list") && error.contains("got an integer"), "{error}");
    assert!(!error.contains("hunter2") && !error.contains("20260101"), "{error}");
}

#[test]
fn what_has_no_effect_yet_is_noticed_with_its_origin() {
    let text = "serviceTTL: 30\nauth: {enabled: true}\netcdEndpoints: [\"localhost:2379\"]\ncluster: {node_id: n}\n";
    let loaded = World::file("a.yaml", text).loaded();
    let notices: Vec<String> = loaded.notices.iter().map(Notice::to_string).collect();
    assert_eq!(
        notices,
        [
            "a.yaml:1: `serviceTTL`: accepted, has no effect yet: the program decides how long leases last and renews \
             them on its own",
            "a.yaml:2: `auth.enabled`: accepted, has no effect yet: this version asks no caller who they are",
            "a.yaml:4: `cluster.node_id`: accepted, has no effect yet: a node draws its id by chance and keeps it in \
             data_dir",
        ]
    );
}

#[test]
fn the_mode_of_a_higher_layer_decides_what_a_port_means() {
    let config = World::file("a.ini", "[server]\nport = 9001\n").flag("--mode", "mode", "gateway").loaded().config;
    assert_eq!(config.listen.gateway, addresses(&["127.0.0.1:9001"])[0]);
}

#[path = "load_seed_tests.rs"]
mod seed_files;

proptest::proptest! {
    #[test]
    fn no_file_makes_the_loader_panic(text in "[ -~\n]{0,200}", ending in "(yaml|toml|ini)") {
        let path = PathBuf::from(format!("a.{ending}"));
        let read = |_: &Path| Ok(text.clone());
        let sources = Sources { file: Some(path), variables: Vec::new(), flags: Vec::new(), read: &read };
        if let Err(error) = load(&sources) {
            proptest::prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn an_unknown_key_is_never_accepted(name in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}") {
        proptest::prop_assume!(keys::find(&name).is_none());
        let flags = vec![Assignment::named("--set x", &name, "1")];
        let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let loaded = load(&Sources { file: None, variables: Vec::new(), flags, read: &read });
        proptest::prop_assert!(loaded.is_err());
    }
}
