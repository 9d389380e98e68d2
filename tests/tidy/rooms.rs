//! The rooms of `src/` and their doors: which room may name which (the import table of ARCHITECTURE.md, as data), and
//! through which rooms the outside world comes in: clocks, chance, threads, tasks, files and sockets.
//!
//! Called by `tidy` for every file; files outside `src/` pass.

use crate::Complaint;
use crate::paths::{NamedPath, named_paths};
use crate::source::Source;

/// One room: a directory of `src/` (or a file of the same name) below the roof.
struct Room {
    name: &'static str,
    /// Rooms it may name, besides itself, [`EVERYWHERE`] and what its height grants.
    imports: &'static [&'static str],
}

/// What every room above the floor may name.
const FLOOR: &[&str] = &["types", "rt", "telemetry"];

/// The import table. Keep it equal to ARCHITECTURE.md.
const ROOMS: &[Room] = &[
    Room { name: "types", imports: &[] },
    Room { name: "rt", imports: &[] },
    Room { name: "telemetry", imports: &["types", "rt"] },
    Room { name: "index", imports: &[] },
    Room { name: "store", imports: &[] },
    Room { name: "raft", imports: &["store"] },
    Room { name: "shard", imports: &["index", "store", "raft"] },
    Room { name: "coordination", imports: &["store", "raft"] },
    Room { name: "cluster", imports: &["coordination"] },
    Room { name: "traffic", imports: &[] },
    Room { name: "security", imports: &["store", "coordination"] },
    Room { name: "service", imports: &["cluster", "shard", "security", "traffic"] },
    Room { name: "peer", imports: &["raft", "shard", "service", "cluster"] },
    Room { name: "api", imports: &["service", "security"] },
];

/// The roof: names every room, and no room names it.
const ROOF: &[&str] = &["main", "lib", "cli", "client", "config", "node", "gateway", "embedded", "fuzz"];

/// What any room may name: deliberate bugs for the simulation to catch, which must sit where they bite (a module and its
/// macro).
const EVERYWHERE: &[&str] = &["mutants", "mutant"];

/// A part of the outside world, and the rooms that are its door.
struct Door {
    rule: &'static str,
    /// Paths; each stands for itself and all below it. `*::x::y` is any path that ends in `x::y`.
    paths: &'static [&'static str],
    /// Paths below those that are harmless.
    except: &'static [&'static str],
    /// Rooms that may name them besides `rt`; `roof` for the roof.
    rooms: &'static [&'static str],
    mend: &'static str,
}

const DOORS: &[Door] = &[
    Door {
        rule: "clock",
        paths: &["std::time::Instant", "std::time::SystemTime", "tokio::time", "*::Instant::now", "*::SystemTime::now"],
        except: &[],
        rooms: &[],
        mend: "use crate::rt::time, which the simulation can turn and stop",
    },
    Door {
        rule: "chance",
        paths: &[
            "rand::rng",
            "rand::random",
            "rand::thread_rng",
            "rand::rngs::OsRng",
            "rand::rngs::ThreadRng",
            "getrandom",
            "fastrand",
            "std::collections::hash_map::RandomState",
            "std::hash::RandomState",
            "*::Uuid::new_v4",
            "*::Uuid::now_v7",
            "*::StdRng::from_os_rng",
        ],
        except: &[],
        rooms: &[],
        mend: "use crate::rt::rng::stream(name), which a seed decides in simulation",
    },
    Door {
        rule: "thread",
        paths: &["std::thread", "rayon", "tokio::task::spawn_blocking", "tokio::task::block_in_place"],
        except: &["std::thread::panicking", "std::thread::Result"],
        rooms: &[],
        mend: "use crate::rt::compute for work and crate::rt::time::sleep to wait",
    },
    Door {
        rule: "task",
        paths: &["tokio::spawn", "tokio::task", "tokio::runtime"],
        except: &["tokio::task::spawn_blocking", "tokio::task::block_in_place", "tokio::task::coop"],
        rooms: &[],
        mend: "use crate::rt::spawn, which names the task and ends it with its node",
    },
    Door {
        rule: "file",
        paths: &["std::fs", "tokio::fs"],
        except: &[],
        // telemetry: the process's own figures under /proc. security: keys and certificates.
        rooms: &["store", "telemetry", "security", "roof"],
        mend: "use crate::store (store::files, store::directory), which knows what a power failure leaves",
    },
    Door {
        rule: "socket",
        paths: &[
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::net::ToSocketAddrs",
            "std::os::unix::net",
            "tokio::net",
            "tokio::signal",
        ],
        except: &[],
        rooms: &[],
        mend: "use crate::rt::net, rt::http, rt::rpc or rt::signal",
    },
];

/// Import table and doors over one file.
pub fn check(source: &Source) -> Vec<Complaint> {
    let Some(room) = room_of(&source.path) else { return Vec::new() };
    let mut found = Vec::new();
    if !is_known(room) {
        found.push(complaint(source, 1, "room", format!("`{room}` is no room of ARCHITECTURE.md; put the file into one, or add the room there and to ROOMS in tests/tidy/rooms.rs")));
        return found;
    }
    for path in named_paths(source) {
        let line = source.line_of(path.offset);
        found.extend(import_trouble(room, &path).map(|text| complaint(source, line, "import", text)));
        // Tests may use real clocks, threads and files: they run in the ordinary build only.
        if !source.is_test(line) {
            found.extend(door_trouble(room, &path).map(|(rule, text)| complaint(source, line, rule, text)));
        }
    }
    found
}

/// The first part of a path below `src/`, without `.rs`.
fn room_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix("src/")?;
    Some(below.split('/').next().unwrap_or(below).trim_end_matches(".rs"))
}

fn is_roof(room: &str) -> bool {
    ROOF.contains(&room)
}

fn is_known(room: &str) -> bool {
    is_roof(room) || EVERYWHERE.contains(&room) || ROOMS.iter().any(|r| r.name == room)
}

fn may_import(room: &str, target: &str) -> bool {
    if room == target || is_roof(room) || EVERYWHERE.contains(&target) {
        return true;
    }
    let Some(row) = ROOMS.iter().find(|r| r.name == room) else { return false };
    row.imports.contains(&target) || (!FLOOR.contains(&room) && FLOOR.contains(&target))
}

fn import_trouble(room: &str, path: &NamedPath) -> Option<String> {
    let [first, target, rest @ ..] = path.segments.as_slice() else { return None };
    // A macro of the crate stands at the root whichever room it is from; what it expands to is checked where it is written.
    let is_root_macro = path.is_macro && rest.is_empty();
    if first != "crate" || is_root_macro || may_import(room, target) {
        return None;
    }
    if is_known(target) && !is_roof(target) {
        return Some(format!(
            "`{room}` may not import `{target}`; declare a trait in `{room}` and let node.rs plug it in, or move the code (import table: ARCHITECTURE.md)"
        ));
    }
    Some(format!(
        "`crate::{target}` belongs to the roof, which no room may import; pass what is needed as an argument, or name the room the item is defined in"
    ))
}

fn door_trouble(room: &str, path: &NamedPath) -> Option<(&'static str, String)> {
    let name = path.segments.join("::");
    let door = DOORS.iter().find(|door| {
        door.paths.iter().any(|pattern| matches(pattern, &name)) && !door.except.iter().any(|path| matches(path, &name))
    })?;
    let is_open = room == "rt" || door.rooms.contains(&room) || (is_roof(room) && door.rooms.contains(&"roof"));
    (!is_open).then(|| (door.rule, format!("`{name}` in `{room}`; {}", door.mend)))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*::") {
        Some(end) => name == end || name.strip_suffix(end).is_some_and(|start| start.ends_with("::")),
        None => name.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")),
    }
}

fn complaint(source: &Source, line: usize, rule: &'static str, text: String) -> Complaint {
    Complaint { file: source.path.clone(), line, rule, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        check(&Source::new(path, text)).into_iter().map(|c| (c.line, c.rule)).collect()
    }

    #[test]
    fn arrows_point_down() {
        assert_eq!(refused("src/store/a.rs", "//! x\nuse crate::shard::Host;"), [(2, "import")]);
        assert_eq!(refused("src/index/a.rs", "use crate::store::View;"), [(1, "import")]);
        assert_eq!(refused("src/types/a.rs", "use crate::rt::time;"), [(1, "import")]);
        assert_eq!(refused("src/shard/mod.rs", "use super::service::X;"), [(1, "import")]);
        assert_eq!(refused("src/shard/a.rs", "use crate::{\n store::View,\n api::Y,\n};"), [(3, "import")]);
        assert_eq!(refused("src/raft/a.rs", "fn f() { crate::shard::g() }"), [(1, "import")]);
        assert_eq!(refused("src/raft/a.rs", "#[cfg(test)]\nmod tests { use crate::api::x; }"), [(2, "import")]);
    }

    #[test]
    fn the_table_lets_its_rows_pass() {
        let text = "use crate::{index::A, raft::B, rt::time, shard::C, store::D, telemetry::E, types::F};";
        assert_eq!(refused("src/shard/a.rs", text), []);
        assert_eq!(refused("src/node.rs", "use crate::{api, config::Config, shard::Host};"), []);
        assert_eq!(refused("src/raft/a.rs", "crate::mutants::on(3); crate::mark!(x);"), []);
        assert_eq!(refused("src/raft/a.rs", "// crate::api::x\nlet a = \"crate::api::x\";"), []);
        assert_eq!(refused("sim/main.rs", "use crate::api::x;"), []);
    }

    #[test]
    fn the_roof_is_not_imported() {
        assert_eq!(refused("src/api/a.rs", "use crate::config::Config;"), [(1, "import")]);
        assert_eq!(refused("src/api/a.rs", "use crate::Database;"), [(1, "import")]);
        assert_eq!(refused("src/api/mod.rs", "use super::*;"), [(1, "import")]);
    }

    #[test]
    fn unknown_rooms_are_refused() {
        assert_eq!(refused("src/util/mod.rs", "//! x"), [(1, "room")]);
        assert_eq!(refused("src/helpers.rs", "//! x"), [(1, "room")]);
    }

    #[test]
    fn the_world_comes_in_by_its_doors() {
        for (text, rule) in [
            ("use std::time::{Duration, Instant};", "clock"),
            ("let a = SystemTime::now();", "clock"),
            ("let a = time::Instant::now();", "clock"),
            ("tokio::time::sleep(d).await;", "clock"),
            ("let a = rand::rng();", "chance"),
            ("let a = uuid::Uuid::new_v4();", "chance"),
            ("std::thread::spawn(f);", "thread"),
            ("use std::{fmt, thread};", "thread"),
            ("tokio::task::spawn_blocking(f);", "thread"),
            ("tokio::spawn(f);", "task"),
            ("std::fs::read(p);", "file"),
            ("use tokio::net::TcpStream;", "socket"),
        ] {
            assert_eq!(refused("src/shard/a.rs", text), [(1, rule)], "{text}");
            assert_eq!(refused("src/rt/a.rs", text), [], "{text}");
        }
    }

    #[test]
    fn the_doors_let_the_harmless_pass() {
        for text in [
            "use std::time::Duration; use std::net::SocketAddr;",
            "crate::rt::time::now(); crate::rt::time::Instant::elapsed(&a);",
            "if std::thread::panicking() {}",
            "#[cfg(test)]\nmod tests { fn a() { std::thread::spawn(f); } }",
            "use rand::{Rng, SeedableRng, rngs::StdRng};",
        ] {
            assert_eq!(refused("src/shard/a.rs", text), [], "{text}");
        }
        assert_eq!(refused("src/store/files.rs", "use std::fs::File;"), []);
        assert_eq!(refused("src/cli/a.rs", "use std::fs::File;"), []);
        assert_eq!(refused("src/cli/a.rs", "use std::time::Instant;"), [(1, "clock")]);
    }
}
