//! Who may depend on whom. Read from `cargo metadata`, so that a new arrow can't slip in unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::house::House;
use crate::tests;

tests![the_house_depends_in_one_direction, the_logs_tables_are_named_in_eventstore_alone, no_file_is_a_hall];

fn metadata() -> Value {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The direct dependencies of each crate, those for its tests left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies.filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect()
    };
    packages.iter().map(|package| (text(&package["name"]), of(package))).collect()
}

async fn the_house_depends_in_one_direction(_: &House) {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("domain-derive", [].as_slice()),
        ("domain", &["domain-derive"]),
        ("eventstore", &["domain"]),
        ("commands", &["eventstore", "domain"]),
        ("projections", &["eventstore", "domain"]),
        ("api", &["eventstore", "domain", "commands", "projections"]),
        ("tests", &[]),
    ]);
    let found = dependencies();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), allowed.keys().copied().collect::<Vec<_>>());
    for (name, dependencies) in &found {
        let ours: BTreeSet<_> = dependencies.iter().map(String::as_str).filter(|d| found.contains_key(*d)).collect();
        let may: BTreeSet<_> = allowed[name.as_str()].iter().copied().collect();
        assert!(ours.is_subset(&may), "{name} depends on {ours:?}, and may depend on {may:?}");
    }
    for outside in ["sqlx", "tokio", "axum", "rdkafka", "reqwest"] {
        assert!(!found["domain"].contains(outside), "domain depends on {outside}");
    }
    assert!(!found["projections"].contains("chacha20poly1305"), "projectors hold no keys");
}

/// Every source file of the workspace's crates.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        ["domain", "eventstore", "commands", "projections", "api"].iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

async fn the_logs_tables_are_named_in_eventstore_alone(_: &House) {
    let tables = [
        "log_head",
        "tenant_heads",
        "idempotency_keys",
        "unique_claims",
        "process_commands",
        "api_key_lookup",
        "FROM events",
        "INTO events",
    ];
    for (name, text) in sources().iter().filter(|(name, _)| !name.starts_with("eventstore/")) {
        for table in tables {
            assert!(!text.contains(table), "{name} names {table}");
        }
    }
}

async fn no_file_is_a_hall(_: &House) {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 500, "{name} has {lines} lines");
    }
}
