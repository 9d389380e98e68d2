//! The lock file of the fuzz targets, which lie outside the workspace: nobody notices there that a dependency was added or raised,
//! until fuzzing does not build. It must lock what the program depends on, as the program's own does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use toml::{Table, Value};

/// What only the fuzz targets need.
const FUZZING_ONLY: [&str; 3] = ["arbitrary", "libfuzzer-sys", "vectorsphere-fuzz"];

#[test]
fn the_fuzz_targets_lock_what_the_program_locks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("it is there").parse::<Table>().expect("TOML");
    let complaints = complaints(&read("Cargo.toml"), &read("Cargo.lock"), &read("fuzz/Cargo.lock"));
    let hint = "mend it with `cargo update --workspace --manifest-path fuzz/Cargo.toml`";
    assert!(complaints.is_empty(), "{}\n{hint}", complaints.join("\n"));
}

/// In what `fuzz` is not what the manifest and the lock of the program ask for.
fn complaints(manifest: &Table, program: &Table, fuzz: &Table) -> Vec<String> {
    let (program, locked) = (versions(program), versions(fuzz));
    let strangers = locked.iter().filter(|(name, _)| !FUZZING_ONLY.contains(&name.as_str()));
    let mut complaints: Vec<String> = strangers
        .filter(|(name, locked)| !program.get(*name).is_some_and(|known| known.is_superset(locked)))
        .map(|(name, locked)| format!("fuzz/Cargo.lock: {name} {locked:?}, the program has {:?}", program.get(name)))
        .collect();
    let lacking = dependencies(manifest).into_iter().filter(|name| !locked.contains_key(name));
    complaints.extend(lacking.map(|name| format!("fuzz/Cargo.lock: lacks {name}")));
    complaints
}

/// The versions of each package in a lock file.
fn versions(lock: &Table) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("a list of packages") {
        let text = |key: &str| package[key].as_str().expect("text").to_owned();
        versions.entry(text("name")).or_default().insert(text("version"));
    }
    versions
}

/// The packages that are always built with the program.
fn dependencies(manifest: &Table) -> Vec<String> {
    let needed = manifest["dependencies"].as_table().expect("a table").iter();
    let needed = needed.filter(|(_, how)| how.get("optional") != Some(&Value::Boolean(true)));
    needed.map(|(name, how)| how.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()).collect()
}

#[test]
fn another_version_and_a_missing_package_are_found() {
    let table = |text: &str| text.parse::<Table>().expect("TOML");
    let manifest =
        table("[dependencies]\na = \"1\"\nb = { package = \"real-b\", version = \"1\" }\nc = { optional = true }");
    let package = |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
    let program = table(&(package("a", "1.0.0") + &package("a", "2.0.0") + &package("real-b", "1.0.0")));
    let same = table(&(package("a", "2.0.0") + &package("real-b", "1.0.0") + &package("arbitrary", "1.0.0")));
    assert_eq!(complaints(&manifest, &program, &same), [""; 0]);
    let stale = table(&package("a", "1.1.0"));
    let found = complaints(&manifest, &program, &stale).join("\n");
    assert!(found.contains("a {\"1.1.0\"}") && found.contains("lacks real-b"), "{found}");
}
