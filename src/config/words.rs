//! The small types that keys hold: [`Mode`], [`Balance`], [`Sticky`], [`LogFormat`], [`Authority`], [`Name`] and [`Secret`].
//!
//! Promise: each can only be built valid, reads itself through [`Setting`], and a [`Secret`] never reaches a log, a
//! screen or a `Debug` line. Called by `config::model`.

use std::fmt;

use super::value::{ListItem, Setting, Value};
use crate::index::Memory;

/// What this process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything in one process, no etcd.
    #[default]
    Standalone,
    /// Joins the cluster, stands for master, holds shards.
    Auto,
    /// Stands for master and serves the API; holds no shards.
    Master,
    /// Holds shards, never master. `slave` is read as this.
    Worker,
    /// Stateless: routes to the cluster.
    Gateway,
}

impl Mode {
    /// The name as the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Standalone => "standalone",
            Mode::Auto => "auto",
            Mode::Master => "master",
            Mode::Worker => "worker",
            Mode::Gateway => "gateway",
        }
    }

    /// Whether this version of the program can start such a node.
    pub fn can_start(self) -> bool {
        true
    }
}

impl Setting for Mode {
    const EXPECTED: &'static str = "one of standalone, auto, master, worker (or slave), gateway";

    fn read(value: &Value) -> Option<Self> {
        Some(match String::read(value)?.as_str() {
            "standalone" => Mode::Standalone,
            "auto" => Mode::Auto,
            "master" => Mode::Master,
            "worker" | "slave" => Mode::Worker,
            "gateway" => Mode::Gateway,
            _ => return None,
        })
    }

    fn show(&self) -> Value {
        Value::Text(self.name().to_owned())
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text where standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line for a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "one of auto, text, json";

    fn read(value: &Value) -> Option<Self> {
        Some(match String::read(value)?.as_str() {
            "auto" => LogFormat::Auto,
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return None,
        })
    }

    fn show(&self) -> Value {
        let name = match self {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        Value::Text(name.to_owned())
    }
}

/// How the gateway chooses a node for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The better of two drawn by chance, by latency and load.
    #[default]
    TwoChoices,
    /// In turn.
    RoundRobin,
    /// In turn, in proportion to the weights that nodes register with.
    Weighted,
    /// The one with the fewest requests under way.
    LeastConnections,
    /// By the hash of the request's path.
    ConsistentHash,
}

impl Setting for Balance {
    const EXPECTED: &'static str = "one of two_choices, round_robin, weighted, least_connections, consistent_hash";

    fn read(value: &Value) -> Option<Self> {
        Some(match String::read(value)?.as_str() {
            "two_choices" => Balance::TwoChoices,
            "round_robin" => Balance::RoundRobin,
            "weighted" => Balance::Weighted,
            "least_connections" => Balance::LeastConnections,
            "consistent_hash" => Balance::ConsistentHash,
            _ => return None,
        })
    }

    fn show(&self) -> Value {
        let name = match self {
            Balance::TwoChoices => "two_choices",
            Balance::RoundRobin => "round_robin",
            Balance::Weighted => "weighted",
            Balance::LeastConnections => "least_connections",
            Balance::ConsistentHash => "consistent_hash",
        };
        Value::Text(name.to_owned())
    }
}

/// Whether the gateway keeps a client on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    /// No.
    #[default]
    None,
    /// By the client's IP address.
    Ip,
    /// By a cookie that the gateway sets.
    Cookie,
}

impl Setting for Sticky {
    const EXPECTED: &'static str = "one of none, ip, cookie";

    fn read(value: &Value) -> Option<Self> {
        Some(match String::read(value)?.as_str() {
            "none" => Sticky::None,
            "ip" => Sticky::Ip,
            "cookie" => Sticky::Cookie,
            _ => return None,
        })
    }

    fn show(&self) -> Value {
        let name = match self {
            Sticky::None => "none",
            Sticky::Ip => "ip",
            Sticky::Cookie => "cookie",
        };
        Value::Text(name.to_owned())
    }
}

impl Setting for Memory {
    const EXPECTED: &'static str = "one of low, balanced, fast";

    fn read(value: &Value) -> Option<Self> {
        Some(match String::read(value)?.as_str() {
            "low" => Memory::Low,
            "balanced" => Memory::Balanced,
            "fast" => Memory::Fast,
            _ => return None,
        })
    }

    fn show(&self) -> Value {
        let name = match self {
            Memory::Low => "low",
            Memory::Balanced => "balanced",
            Memory::Fast => "fast",
        };
        Value::Text(name.to_owned())
    }
}

/// A host (name or address) and a port, as another process dials it; maybe with a scheme, as etcd's tools write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Authority(String);

impl Authority {
    /// The text as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let Some((host, port)) = rest.rsplit_once(':') else { return false };
        let bare_host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let host_ok = match bare_host {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        };
        host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
    }
}

impl From<std::net::SocketAddr> for Authority {
    fn from(address: std::net::SocketAddr) -> Authority {
        Authority(address.to_string())
    }
}

impl Setting for Authority {
    const EXPECTED: &'static str = "a host and port, such as \"node1.example:6335\"";

    fn read(value: &Value) -> Option<Self> {
        String::read(value).filter(|text| Self::is_valid(text)).map(Self)
    }

    fn show(&self) -> Value {
        Value::Text(self.0.clone())
    }
}

impl ListItem for Authority {
    const LIST_EXPECTED: &'static str = "a list of hosts and ports, such as [\"localhost:2379\"]";
}

/// A name that appears in keys, labels and file names: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name known to be good at the time of writing.
    ///
    /// # Panics
    /// Where it is not.
    pub(super) fn known(text: &str) -> Self {
        text.parse().expect("a name written in the code follows the rule for names")
    }
}

/// Text that is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {0:?}", expected = Name::EXPECTED)]
pub struct BadName(String);

/// For configurations built by hand.
impl std::str::FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        Name::read(&Value::Text(text.to_owned())).ok_or_else(|| BadName(text.chars().take(80).collect()))
    }
}

impl ListItem for Name {
    const LIST_EXPECTED: &'static str =
        "a list of names of 1 to 64 letters, digits, dots, dashes or underscores, such as [\"ssd\"]";
}

impl Setting for Name {
    const EXPECTED: &'static str = "a name of 1 to 64 letters, digits, dots, dashes or underscores";

    fn read(value: &Value) -> Option<Self> {
        let text = String::read(value)?;
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let valid = (1..=64).contains(&text.len()) && !text.starts_with('.') && text.chars().all(good);
        valid.then_some(Self(text))
    }

    fn show(&self) -> Value {
        Value::Text(self.0.clone())
    }
}

/// A password or key. Neither `Debug` nor [`Setting::show`] reveals it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What is shown where a secret stands.
pub const HIDDEN: &str = "(hidden)";

impl Secret {
    /// The secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Setting for Secret {
    const EXPECTED: &'static str = "a string";
    const SECRET: bool = true;

    fn read(value: &Value) -> Option<Self> {
        // Not trimmed: white space in a password counts.
        match value {
            Value::Text(text) | Value::Bare(text) => Some(Self(text.clone())),
            _ => None,
        }
    }

    fn show(&self) -> Value {
        Value::Text(HIDDEN.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn slave_is_an_alias_of_worker() {
        assert_eq!(Mode::read(&text("slave")), Some(Mode::Worker));
        assert_eq!(Mode::read(&text("worker")), Some(Mode::Worker));
        assert_eq!(Mode::read(&text("Worker")), None);
    }

    #[test]
    fn modes_and_formats_read_back_what_they_show() {
        for mode in [Mode::Standalone, Mode::Auto, Mode::Master, Mode::Worker, Mode::Gateway] {
            assert_eq!(Mode::read(&mode.show()), Some(mode));
        }
        for memory in [Memory::Low, Memory::Balanced, Memory::Fast] {
            assert_eq!(Memory::read(&memory.show()), Some(memory));
        }
        use Balance::{ConsistentHash, LeastConnections, RoundRobin, TwoChoices, Weighted};
        for balance in [TwoChoices, RoundRobin, Weighted, LeastConnections, ConsistentHash] {
            assert_eq!(Balance::read(&balance.show()), Some(balance));
        }
        for sticky in [Sticky::None, Sticky::Ip, Sticky::Cookie] {
            assert_eq!(Sticky::read(&sticky.show()), Some(sticky));
        }
        for format in [LogFormat::Auto, LogFormat::Text, LogFormat::Json] {
            assert_eq!(LogFormat::read(&format.show()), Some(format));
        }
    }

    #[test]
    fn authorities_need_a_host_and_a_port() {
        for good in ["localhost:2379", "10.0.0.1:1", "[::1]:80", "http://etcd-1:2379", "https://a.b:443"] {
            assert!(Authority::read(&text(good)).is_some(), "{good}");
        }
        for bad in ["", "localhost", ":80", "host:0", "host:99999", "host:x", "::1:80", "a b:80", "ftp://a:1"] {
            assert!(Authority::read(&text(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        assert!(Name::read(&text("VectorSphere")).is_some());
        let long = "x".repeat(65);
        for bad in ["", "a/b", "../x", ".hidden", "a b", "é", long.as_str()] {
            assert!(Name::read(&text(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::read(&text("hunter2")).expect("a string");
        assert_eq!(format!("{secret:?} {}", secret.show()), "(hidden) \"(hidden)\"");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
