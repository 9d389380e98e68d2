//! The grammar holds together, and the seeds' command lines mean what they meant.

use super::*;
use crate::config::{Config, Loaded, Mode, Sources, load};
use clap::CommandFactory;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    parse_where(line, false)
}

/// In a directory with or without the guide's `c/c.yaml`.
fn parse_where(line: &str, is_there: bool) -> Result<Cli, clap::Error> {
    let arguments = line.split_whitespace().map(OsString::from).collect();
    Cli::try_parse_from(seed_spellings(arguments, |path| is_there && path == Path::new("c/c.yaml")))
}

fn serve(line: &str) -> ServeArgs {
    match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Serve(args) => args,
        other => panic!("{line}: {other:?}"),
    }
}

fn loaded(line: &str) -> Loaded {
    let read = |_: &std::path::Path| Ok(String::new());
    let args = serve(line).config;
    let flags = args.assignments().expect("good flags");
    load(&Sources { file: args.config, variables: Vec::new(), flags, read: &read }).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_grammar_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn the_integration_guides_lines_mean_serve() {
    let line = "vectorsphere --mode=slave --port=8081 --etcd=localhost:2379 --service=VectorSphere --c=conf/app.yaml";
    let loaded = loaded(line);
    assert_eq!(loaded.config.mode, Mode::Worker);
    assert_eq!(loaded.config.listen.http[0].to_string(), "127.0.0.1:8081");
    assert_eq!(loaded.config.cluster.name.as_str(), "VectorSphere");
    assert_eq!(loaded.origin("listen.http").to_string(), "--port");
    assert_eq!(serve(line).config.config, Some("conf/app.yaml".into()));
}

#[test]
fn the_distributed_guides_lines_mean_serve() {
    assert_eq!(serve("./vectorsphere").config.config, None);
    assert_eq!(serve("vectorsphere -c /path/to/c.yaml").config.config, Some("/path/to/c.yaml".into()));
    assert_eq!(loaded("vectorsphere -type master").config.mode, Mode::Master);
    assert_eq!(loaded("vectorsphere -type slave").config.mode, Mode::Worker);
    assert_eq!(loaded("vectorsphere -log debug").config.log.level, "debug");
}

#[test]
fn the_distributed_guides_file_is_read_where_it_is_there_and_nothing_else_is_said() {
    let config = |line| match parse_where(line, true).expect("a line of the guide").command {
        Command::Serve(args) => args.config.config,
        other => panic!("{other:?}"),
    };
    for line in ["./vectorsphere", "./vectorsphere -type master", "./vectorsphere -log debug"] {
        assert_eq!(config(line), Some("c/c.yaml".into()), "{line}");
    }
    assert_eq!(config("./vectorsphere -c config1.yaml"), Some("config1.yaml".into()));
    assert_eq!(config("./vectorsphere serve"), None);
    assert_eq!(config("bin/master"), Some("conf/master.ini".into()));
    assert!(matches!(parse_where("vectorsphere doctor", true).expect("a command").command, Command::Doctor(_)));
}

#[test]
fn the_kamaitachi_guides_lines_mean_serve() {
    assert_eq!(serve("bin/master").config.config, Some("conf/master.ini".into()));
    assert_eq!(serve("./bin/gateway.exe").config.config, Some("conf/gateway.ini".into()));
    assert_eq!(serve("bin/slave --log debug").config.config, Some("conf/slave.ini".into()));
    assert_eq!(serve("bin/slave -c conf/slave2.ini").config.config, Some("conf/slave2.ini".into()));
    assert_eq!(serve("slave -config conf/slave.ini").config.config, Some("conf/slave.ini".into()));
    assert_eq!(serve("slave -config=conf/slave.ini").config.config, Some("conf/slave.ini".into()));
}

#[test]
fn every_flag_of_serve_sets_its_key() {
    let line = "vectorsphere serve --mode standalone --config F.yaml --data-dir D --http 127.0.0.1:1,127.0.0.1:2 \
                --grpc 127.0.0.1:3 --peer 127.0.0.1:4 --monitoring 127.0.0.1:5 --etcd a:1,b:2 --service N \
                --set log.format=json --set index.flat_points_max=5 --ready-file R --insecure --log warn";
    let Loaded { config, .. } = loaded(line);
    let mut expected = Config { data_dir: "D".into(), ..Config::default() };
    expected.listen.http = vec!["127.0.0.1:1".parse().expect("one"), "127.0.0.1:2".parse().expect("two")];
    expected.listen.grpc = "127.0.0.1:3".parse().expect("an address");
    expected.listen.peer = "127.0.0.1:4".parse().expect("an address");
    expected.listen.monitoring = "127.0.0.1:5".parse().expect("an address");
    expected.index.flat_points_max = 5;
    expected.security.insecure = true;
    expected.log.level = "warn".to_owned();
    expected.log.format = crate::config::LogFormat::Json;
    expected.cluster.name = config.cluster.name.clone();
    expected.etcd.endpoints = config.etcd.endpoints.clone();
    assert_eq!(config, expected);
    assert_eq!(config.etcd.endpoints.len(), 2);
    assert_eq!(config.cluster.name.as_str(), "N");
    assert_eq!(serve(line).ready_file, Some("R".into()));
}

#[test]
fn wrong_lines_are_refused() {
    for line in [
        "vectorsphere fly",
        "vectorsphere serve --prot 1",
        "vectorsphere serve --mode auto --type auto",
        "vectorsphere serve --port 1 --http 127.0.0.1:1",
        "vectorsphere --output xml config show",
        "vectorsphere config",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    let args = serve("vectorsphere serve --set nonsense");
    assert_eq!(args.config.assignments().expect_err("no =").exit_code, crate::cli::exit::ExitCode::Usage as u8);
}

#[test]
fn other_commands_are_left_alone() {
    let cli = parse("vectorsphere -o json config show --origin").expect("a good line");
    assert_eq!(cli.output, OutputFormat::Json);
    assert!(matches!(cli.command, Command::Config(ConfigCommand::Show(ShowArgs { origin: true, .. }))));
    assert!(matches!(parse("vectorsphere doctor").expect("doctor").command, Command::Doctor(_)));
    assert!(matches!(parse("vectorsphere completions bash").expect("shell").command, Command::Completions { .. }));
    let cli = parse("vectorsphere config explain log --endpoint http://h:1").expect("a good line");
    assert_eq!(cli.endpoint, "http://h:1");
}
