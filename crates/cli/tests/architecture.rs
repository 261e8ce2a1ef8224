//! Checks that ARCHITECTURE.md tells the truth: the edges between crates, the paths that it names,
//! the decisions that it refers to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Behind the protocol. Whoever is named neither here nor below is the platform, or a client.
const ENGINE_SIDE: &[&str] = &[
    "tidemill-engine",
    "tidemill-checksums",
    "tidemill-store",
    "tidemill-server",
    "tidemill-frontend",
];
/// The binary knows both sides; the simulation, the fuzz targets and the models drive the engine
/// without the protocol.
const KNOW_BOTH_SIDES: &[&str] = &[
    "tidemill",
    "tidemill-sim",
    "tidemill-fuzzing",
    "tidemill-server-models",
    "tidemill-store-models",
];
/// Our crates that each crate may name.
const EDGES: &[(&str, &[&str])] = &[
    ("tidemill-proto", &[]),
    ("tidemill-engine", &["tidemill-proto"]),
    ("tidemill-checksums", &[]),
    ("tidemill-store", &["tidemill-checksums"]),
    (
        "tidemill-server",
        &["tidemill-proto", "tidemill-engine", "tidemill-store"],
    ),
    (
        "tidemill-frontend",
        &[
            "tidemill-proto",
            "tidemill-engine",
            "tidemill-store",
            "tidemill-server",
        ],
    ),
    ("tidemill-pipeline", &[]),
    ("tidemill-connect", &["tidemill-pipeline"]),
    ("tidemill-device", &["tidemill-pipeline"]),
    (
        "tidemill-stages",
        &["tidemill-pipeline", "tidemill-connect", "tidemill-device"],
    ),
    (
        "tidemill-worker",
        &[
            "tidemill-pipeline",
            "tidemill-connect",
            "tidemill-device",
            "tidemill-stages",
        ],
    ),
    ("tidemill-runtime", &["tidemill-pipeline"]),
];
/// Everything that the engine is made of. What does I/O, waits, reads a clock or draws a random
/// number does not belong here.
const ENGINE_MADE_OF: &[&str] = &[
    "bytes",
    "imbl",
    "jiff",
    "prost",
    "serde_json",
    "thiserror",
    "tidemill-proto",
];
/// What a source of the engine does not say; `crates/engine/clippy.toml` has the rest.
const NOT_IN_ENGINE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "SystemTime",
    "Instant",
    "async fn",
    "async move",
    "async {",
    "tokio",
    "tonic",
];
const MAY_NAME_TONIC: &[&str] = &[
    "tidemill-frontend",
    "tidemill-proto",
    "tidemill-connect",
    "tidemill",
];
const MAY_NAME_SQL: &[&str] = &["tidemill-checksums", "tidemill-store", "tidemill-connect"];
const SQL_CRATES: &[&str] = &[
    "rusqlite",
    "libsqlite3-sys",
    "sqlx",
    "diesel",
    "postgres",
    "tokio-postgres",
];
const SQL_WORDS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "PRAGMA ",
    "BEGIN IMMEDIATE",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

struct Package {
    name: String,
    folder: PathBuf,
    /// What its manifest names, tests and build scripts included.
    named: BTreeSet<String>,
    /// What its library or binary is built with.
    built_with: BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages: Vec<Package> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(package)
        .collect();
    assert!(packages.len() > EDGES.len(), "the workspace was read");
    packages
}

fn package(metadata: &Value) -> Package {
    let dependencies = metadata["dependencies"].as_array().unwrap();
    let name = |dependency: &Value| dependency["name"].as_str().unwrap().to_owned();
    Package {
        name: name(metadata),
        folder: Path::new(metadata["manifest_path"].as_str().unwrap())
            .parent()
            .unwrap()
            .canonicalize()
            .unwrap(),
        named: dependencies.iter().map(name).collect(),
        built_with: dependencies
            .iter()
            .filter(|d| d["kind"].is_null())
            .map(name)
            .collect(),
    }
}

impl Package {
    fn is_crate(&self) -> bool {
        self.folder.parent() == Some(&root().join("crates"))
    }

    fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Lines of `src` that are not comments, with their place.
    fn code_lines(&self) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for path in files(&self.folder.join("src"), "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim_start().starts_with("//"));
            lines.extend(code.map(|(number, line)| {
                (
                    format!("{}:{}", path.display(), number + 1),
                    line.to_owned(),
                )
            }));
        }
        assert!(!lines.is_empty(), "{} has sources", self.name);
        lines
    }
}

/// All files below a folder with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn the_map() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

#[test]
fn crates_name_only_crates_that_they_may_know() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in &packages {
        let named = package
            .named
            .iter()
            .map(String::as_str)
            .filter(|name| ours.contains(name) && *name != package.name);
        if let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == package.name) {
            for other in named {
                assert!(
                    allowed.contains(&other),
                    "{} must not know {other}",
                    package.name
                );
            }
        } else if !package.is_one_of(KNOW_BOTH_SIDES) {
            for other in named {
                let behind = ENGINE_SIDE.contains(&other);
                assert!(
                    !behind,
                    "{} must not know {other}: the engine is reached through the protocol",
                    package.name
                );
            }
        }
    }
    for (name, _) in EDGES {
        assert!(ours.contains(name), "{name} is in the workspace");
    }
}

#[test]
fn only_the_wire_knows_tonic_and_only_the_store_knows_sql() {
    for package in packages().iter().filter(|package| package.is_crate()) {
        for dependency in &package.named {
            let tonic = dependency.starts_with("tonic");
            assert!(
                !tonic || package.is_one_of(MAY_NAME_TONIC),
                "{} names {dependency}",
                package.name
            );
            let sql = SQL_CRATES.contains(&dependency.as_str());
            assert!(
                !sql || package.is_one_of(MAY_NAME_SQL),
                "{} names {dependency}",
                package.name
            );
        }
        if package.is_one_of(MAY_NAME_SQL) {
            continue;
        }
        for (place, line) in package.code_lines() {
            let word = SQL_WORDS.iter().find(|word| line.contains(**word));
            assert!(
                word.is_none(),
                "{place} has SQL outside of the store: {line}"
            );
        }
    }
}

#[test]
fn the_engine_is_a_function() {
    let packages = packages();
    let engine = packages
        .iter()
        .find(|package| package.name == "tidemill-engine")
        .unwrap();
    for dependency in &engine.built_with {
        let known = ENGINE_MADE_OF.contains(&dependency.as_str());
        assert!(
            known,
            "the engine is built with {dependency}: it may be if that has no I/O, clock or randomness"
        );
    }
    for (place, line) in engine.code_lines() {
        let word = NOT_IN_ENGINE.iter().find(|word| line.contains(**word));
        assert!(word.is_none(), "{place} says {word:?}: {line}");
    }
}

#[test]
fn the_map_names_what_is_there() {
    let map = the_map();
    let paths = paths_of(&map);
    assert!(paths.len() > 30, "paths were found: {paths:?}");
    for path in &paths {
        assert!(
            root().join(path).exists(),
            "ARCHITECTURE.md names {path}, which does not exist"
        );
    }
    for package in packages().iter().filter(|package| package.is_crate()) {
        let folder = format!("crates/{}", file_name(&package.folder));
        assert!(
            paths.contains(&folder),
            "ARCHITECTURE.md does not name {folder}"
        );
    }
    assert_eq!(
        map.matches("**Architecture Invariant: ").count(),
        7,
        "the rules that hold the shape"
    );
}

#[test]
fn decisions_are_there_when_named_and_named_when_there() {
    let there = files(&root().join("docs/decisions"), "md");
    let map = the_map();
    let mut numbers = BTreeSet::new();
    for path in &there {
        let (name, text) = (file_name(path), fs::read_to_string(path).unwrap());
        let number = name.split('-').next().unwrap();
        assert!(
            number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()),
            "{name} begins with a number"
        );
        assert!(numbers.insert(number.to_owned()), "{number} is used twice");
        assert!(
            text.starts_with(&format!("# {number}: ")),
            "{name} begins with its number and title"
        );
        for part in [
            "Status: ",
            "## Context",
            "## Decision",
            "## Consequences",
            "## Rejected",
        ] {
            assert!(text.contains(part), "{name} has no {part:?}");
        }
        assert!(
            map.contains(&format!("docs/decisions/{name}")),
            "ARCHITECTURE.md does not name {name}"
        );
        for path in paths_of(&text) {
            assert!(
                root().join(&path).exists(),
                "{name} names {path}, which does not exist"
            );
        }
    }
    let names: BTreeSet<String> = there.iter().map(|path| file_name(path)).collect();
    let documents = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|e| e == "md"));
    for path in documents.chain(files(&root().join("crates"), "rs")) {
        for name in decisions_of(&fs::read_to_string(&path).unwrap()) {
            assert!(
                names.contains(&name),
                "{} names the decision {name}, which does not exist",
                path.display()
            );
        }
    }
}

/// The files of decisions that a text names.
fn decisions_of(text: &str) -> BTreeSet<String> {
    let named = text.split("docs/decisions/").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '.'))
            .unwrap_or(rest.len());
        // A sentence may end behind the name.
        rest[..end].trim_end_matches('.')
    });
    named
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// What a text names as a path of the repository: between back quotes, or as the target of a link.
fn paths_of(text: &str) -> BTreeSet<String> {
    let quoted = text.split('`').skip(1).step_by(2).filter(|token| {
        let plain = token
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        plain
            && (token.contains('/')
                || [".rs", ".md", ".toml"]
                    .iter()
                    .any(|end| token.ends_with(end)))
    });
    let linked = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let linked = linked.map(|target| target.split('#').next().unwrap_or_default());
    let linked = linked.filter(|target| !target.is_empty() && !target.contains("://"));
    quoted.chain(linked).map(str::to_owned).collect()
}

#[test]
fn names_are_found_in_text() {
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("nothing `here` at all, `Run::deadlines` neither", &[], &[]),
        (
            "the file `crates/a/src/lib.rs` and `deny.toml`",
            &["crates/a/src/lib.rs", "deny.toml"],
            &[],
        ),
        (
            "`(state, input) -> effects` and `accelerator/<model>`",
            &[],
            &[],
        ),
        ("```\nx/y\n```\nthen `a/b`", &["a/b"], &[]),
        (
            "[a](README.md), [b](docs/x.md#part), [c](https://example.com/d.md), [d](#here)",
            &["README.md", "docs/x.md"],
            &[],
        ),
        // These are there, because this file is looked through as well.
        (
            "see docs/decisions/0001-persistent-maps-for-run-state.md. In docs/decisions/ are all",
            &[],
            &["0001-persistent-maps-for-run-state.md"],
        ),
        (
            "[why](docs/decisions/0002-wake-up-time-per-run.md)",
            &["docs/decisions/0002-wake-up-time-per-run.md"],
            &["0002-wake-up-time-per-run.md"],
        ),
    ];
    for (text, paths, decisions) in rows {
        let found: Vec<String> = paths_of(text).into_iter().collect();
        assert_eq!(found, *paths, "{text}");
        let found: Vec<String> = decisions_of(text).into_iter().collect();
        assert_eq!(found, *decisions, "{text}");
    }
}
