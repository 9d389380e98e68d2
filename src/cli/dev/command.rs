//! What a person types into a running development cluster. Pure: text in, command out.

use std::collections::BTreeSet;

/// One line typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevCommand {
    Status,
    Help,
    Kill(Target),
    Pause(Target),
    Resume(Target),
    Restart(Target),
    /// Nodes of different groups do not reach each other.
    Partition(Vec<BTreeSet<usize>>),
    Heal,
    Add,
    Quit,
}

/// A process that a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Node(usize),
    Gateway,
    Etcd,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Node(number) => write!(f, "node {number}"),
            Target::Gateway => f.write_str("gateway"),
            Target::Etcd => f.write_str("etcd"),
        }
    }
}

/// The commands, for `help`.
pub const HELP: &str = "\
  status            who is up, and what the cluster says of itself
  kill N            SIGKILL node N (or: gateway, etcd)
  pause N           SIGSTOP: it stays, and says nothing
  resume N          SIGCONT
  restart N         start it again where it was; stops it first if it runs
  partition 1|2,3   node 1 on one side, 2 and 3 on the other; nodes not named form one more side
  heal              no partition
  add               one more node
  quit              stop everything (also Ctrl-C, Ctrl-D)
";

/// Reads one line; `None` for an empty one.
///
/// # Errors
/// What is wrong with it, for the one who typed it.
pub fn parse(line: &str) -> Result<Option<DevCommand>, String> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let alone = |command: DevCommand| match rest {
        "" => Ok(Some(command)),
        _ => Err(format!("{word} takes nothing, got {rest:?}")),
    };
    match word {
        "" => Ok(None),
        "status" | "s" => alone(DevCommand::Status),
        "help" | "?" => alone(DevCommand::Help),
        "heal" => alone(DevCommand::Heal),
        "add" => alone(DevCommand::Add),
        "quit" | "exit" | "q" => alone(DevCommand::Quit),
        "kill" => Ok(Some(DevCommand::Kill(target(rest)?))),
        "pause" => Ok(Some(DevCommand::Pause(target(rest)?))),
        "resume" => Ok(Some(DevCommand::Resume(target(rest)?))),
        "restart" => Ok(Some(DevCommand::Restart(target(rest)?))),
        "partition" => Ok(Some(DevCommand::Partition(groups(rest)?))),
        other => Err(format!("there is no command {other:?}; help lists them")),
    }
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "gateway" => Ok(Target::Gateway),
        "etcd" => Ok(Target::Etcd),
        number => node(number).map(Target::Node),
    }
}

fn node(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("expected the number of a node, got {text:?}")),
    }
}

fn groups(text: &str) -> Result<Vec<BTreeSet<usize>>, String> {
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for side in text.split('|') {
        let mut group = BTreeSet::new();
        for number in side.split(',') {
            let number = node(number).map_err(|_| format!("expected sides such as 1|2,3, got {text:?}"))?;
            if !seen.insert(number) {
                return Err(format!("node {number} stands on two sides of {text:?}"));
            }
            group.insert(number);
        }
        groups.push(group);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(parse("  "), Ok(None));
        assert_eq!(parse(" kill 2 "), Ok(Some(DevCommand::Kill(Target::Node(2)))));
        assert_eq!(parse("restart gateway"), Ok(Some(DevCommand::Restart(Target::Gateway))));
        let sides = vec![BTreeSet::from([1]), BTreeSet::from([2, 3])];
        assert_eq!(parse("partition 1|2, 3"), Ok(Some(DevCommand::Partition(sides))));
        assert_eq!(parse("q"), Ok(Some(DevCommand::Quit)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, part) in [
            ("kil 2", "no command \"kil\""),
            ("kill", "number of a node"),
            ("kill 0", "number of a node"),
            ("partition 1|1", "two sides"),
            ("partition", "1|2,3"),
            ("partition 1||2", "1|2,3"),
            ("heal 3", "takes nothing"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        for word in ["status", "kill", "pause", "resume", "restart", "partition", "heal", "add", "quit"] {
            assert!(HELP.lines().any(|line| line.trim_start().starts_with(word)), "{word}");
        }
    }
}
