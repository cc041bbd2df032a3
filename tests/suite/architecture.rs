//! The floors: imports go down, among the seams to the left only, and adapters never meet.

use std::fs;
use std::path::{Path, PathBuf};

/// Parts of the unit tests that are shared by several files.
const TEST_ONLY: [&str; 2] = ["identity::testing", "policy::samples"];

/// Floor 2 from left to right.
const SEAMS: [&str; 7] = [
    "keys", "identity", "registry", "policy", "ledger", "provider", "journal",
];

/// Adapters: files that speak one technology. Nobody imports them but their own parts and floor 5.
const ADAPTERS: [&str; 14] = [
    "keys::ring_keys",
    "keys::file",
    "keys::josekit",
    "identity::jwt_svid",
    "identity::kubernetes",
    "identity::oidc",
    "policy::cedar",
    "ledger::embedded",
    "ledger::redis",
    "provider::jwt",
    "journal::file",
    "journal::memory",
    "registry::files",
    "policy::cases",
];

/// Technology crates and the only places that may name them.
const TECHNOLOGIES: [(&str, &[&str]); 9] = [
    ("axum", &["http", "dev", "app"]),
    ("cedar_policy", &["policy"]),
    ("clap", &["cli", "main"]),
    ("josekit", &["keys::josekit"]),
    ("redb", &["ledger::embedded"]),
    ("redis", &["ledger::redis"]),
    (
        "reqwest",
        &["identity", "resource_server", "cli::client", "dev", "config"],
    ),
    ("toml", &["config", "registry", "model::document"]),
    ("utoipa", &["http"]),
];

fn floor(module: &str) -> u8 {
    match module.split("::").next().unwrap_or_default() {
        "model" => 0,
        "clock" | "entropy" => 1,
        seam if SEAMS.contains(&seam) => 2,
        "broker" => 3,
        "http" | "telemetry" | "resource_server" => 4,
        _ => 5,
    }
}

fn within(module: &str, place: &str) -> bool {
    module == place
        || module
            .strip_prefix(place)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// Why `module` may not import `target`, if so.
fn broken_rule(module: &str, target: &str) -> Option<&'static str> {
    let (from, to) = (floor(module), floor(target));
    if from < to {
        return Some("imports go down");
    }
    let top = |path: &str| SEAMS.iter().position(|seam| within(path, seam));
    if let (Some(mine), Some(theirs)) = (top(module), top(target))
        && mine < theirs
    {
        return Some("among the seams, imports go left");
    }
    let adapter = ADAPTERS.iter().find(|adapter| within(target, adapter));
    match adapter {
        // The key directory also keeps the journal's key, and the parsed keys are what all of floor 2 verifies with.
        Some(&("keys::ring_keys" | "keys::file")) if from == 2 => None,
        Some(adapter) if from == 5 || within(module, adapter) => None,
        Some(adapter) if module == adapter.split("::").next().unwrap_or_default() => None,
        Some(_) if from == 3 || from == 4 => Some("only floor 5 names adapters"),
        Some(adapter)
            if top(module) == top(adapter) && !ADAPTERS.iter().any(|other| within(module, other)) =>
        {
            None
        }
        Some(_) => Some("adapters never import each other"),
        None => None,
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let own = text.lines().take_while(|line| !line.ends_with("mod tests {"));
    own.filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every `crate::…` path that a file names, with braces opened: `crate::a::{b, c::d}` is two paths.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let head = rest[..end].trim_end_matches("::").to_owned();
        match rest[end..].strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(
                    list.split(',')
                        .map(|item| format!("{head}::{}", item.trim().replace('{', ""))),
                );
            }
            None => found.push(head),
        }
    }
    found
}

fn modules() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let name = |path: &PathBuf| {
        let inside = path.strip_prefix(&root).unwrap().with_extension("");
        inside
            .iter()
            .map(|part| part.to_str().unwrap())
            .collect::<Vec<_>>()
            .join("::")
    };
    files
        .into_iter()
        .map(|path| (name(&path), path))
        .filter(|(name, _)| name != "lib" && !TEST_ONLY.contains(&name.as_str()))
        .collect()
}

#[test]
fn imports_go_down_and_left() {
    let mut broken = Vec::new();
    for (module, path) in modules() {
        for target in imports(&code(&path)) {
            if let Some(rule) = broken_rule(&module, &target) {
                broken.push(format!("{module} imports {target}: {rule}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn each_technology_has_its_place() {
    let mut broken = Vec::new();
    for (module, path) in modules() {
        let code = code(&path);
        for (technology, places) in TECHNOLOGIES {
            let named = code.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with(&format!("use {technology}::"))
                    || line.starts_with(&format!("use ::{technology}::"))
            });
            if named && !places.iter().any(|place| within(&module, place)) {
                broken.push(format!("{module} uses {technology}, which belongs to {places:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_lives_there() {
    for (module, path) in modules() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{module} has no opening doc");
    }
}

#[test]
fn no_file_is_past_a_split() {
    for (module, path) in modules() {
        let lines = code(&path).lines().count();
        assert!(lines <= 450, "{module} has {lines} lines of code: a split is due");
    }
}

#[test]
fn the_rules_can_be_broken() {
    assert!(broken_rule("model::lease", "broker::issue").is_some());
    assert!(broken_rule("identity::oidc", "ledger::Ledger").is_some());
    assert!(broken_rule("broker::issue", "ledger::redis::RedisLedger").is_some());
    assert!(broken_rule("ledger::redis", "ledger::embedded::Embedded").is_some());
    assert!(broken_rule("http::tasks", "provider::jwt::JwtProvider").is_some());
    assert!(broken_rule("app", "ledger::redis::RedisLedger").is_none());
    assert!(broken_rule("ledger::redis::scripts", "ledger::redis::Keys").is_none());
    assert_eq!(
        imports("use crate::model::{ids, name::AgentName};"),
        ["model::ids", "model::name::AgentName"]
    );
}
