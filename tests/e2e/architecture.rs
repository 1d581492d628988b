//! Who may depend on whom. Read from `cargo metadata`, so that a new arrow can't slip in unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::house::House;
use crate::lodging::root;
use crate::tests;

tests![
    the_house_depends_in_one_direction,
    the_logs_tables_are_named_in_eventstore_alone,
    no_file_is_a_hall,
    a_log_line_tells_the_whole_error,
    every_link_in_the_documents_leads_somewhere,
];

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
    files(["domain", "eventstore", "commands", "projections", "api"].map(|name| root().join(name)).into(), "rs")
}

/// The files below these folders that end so, by their path in the repository; nothing of what was built or is hidden.
fn files(mut folders: Vec<PathBuf>, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                folders.extend((name != "target" && !name.to_string_lossy().starts_with('.')).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == ending) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
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
        "process_work",
        "tenant_clocks",
        "INTO leases",
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

async fn a_log_line_tells_the_whole_error(_: &House) {
    for (name, text) in sources() {
        for alone in ["as &dyn std::error::Error", "%error,", "?error,"] {
            assert!(!text.contains(alone), "{name}: `{alone}` leaves out what is behind the error; `chain` tells it");
        }
    }
}

async fn every_link_in_the_documents_leads_somewhere(_: &House) {
    let documents = files(vec![root().to_owned()], "md");
    let mut checked = 0;
    for (name, text) in &documents {
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            assert!(folder.join(path).exists(), "{name}: {link} leads nowhere");
        }
    }
    assert!(checked > 10, "{checked} links in {} documents", documents.len());
}
