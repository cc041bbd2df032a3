//! The floors: imports go down, among the seams to the left only, and adapters never meet.

use std::fs;
use std::path::{Path, PathBuf};

/// Parts of the unit tests that are shared by several files.
const TEST_ONLY: [&str; 5] = [
    "identity::testing",
    "policy::samples",
    "provider::aws_sts::samples",
    "provider::vault::testing",
    "signal::testing",
];

/// Floor 2 from left to right.
const SEAMS: [&str; 8] = [
    "keys", "identity", "signal", "registry", "policy", "ledger", "provider", "journal",
];

/// Adapters: files that speak one technology. Nobody imports them but their own parts and floor 5.
/// An adapter of several files names each of them.
const ADAPTERS: [&[&str]; 18] = [
    &["keys::ring_keys"],
    &["keys::file"],
    &["keys::josekit"],
    &["identity::jwt_svid"],
    &["identity::kubernetes"],
    &["identity::oidc"],
    &["identity::x509_svid"],
    &["signal::poll"],
    &["registry::files"],
    &[
        "policy::cedar",
        "policy::annotations",
        "policy::cases",
        "policy::entities",
        "policy::explain",
        "policy::index",
        "policy::live",
        "policy::load",
        "policy::prepared",
        "policy::problem",
        "policy::reads",
        "policy::schema",
    ],
    &["ledger::embedded"],
    &["ledger::redis"],
    &["provider::jwt"],
    &["provider::aws_sts"],
    &["provider::vault"],
    &["provider::webhook"],
    &["provider::postgres"],
    &[
        "journal::file",
        "journal::memory",
        "journal::appender",
        "journal::recovery",
        "journal::segment",
        "journal::storage",
        "journal::writer",
    ],
];

/// Technology crates and the only places that may name them.
const TECHNOLOGIES: [(&str, &[&str]); 27] = [
    ("aws_config", &["provider::aws_sts"]),
    ("aws_sdk_iam", &["provider::aws_sts"]),
    ("aws_sdk_sts", &["provider::aws_sts"]),
    (
        "axum",
        &["http", "dev", "app", "cli::exec::aws", "cli::bench::floor"],
    ),
    ("cedar_policy", &["policy"]),
    ("clap", &["cli", "main"]),
    ("dayfly_client", &["cli::client", "cli::mcp", "dev"]),
    ("deadpool_postgres", &["provider::postgres"]),
    ("h2", &["identity::workload_api"]),
    ("hyper", &["cli::bench::wire"]),
    ("hyper_util", &["http::serve", "cli::bench::wire"]),
    ("josekit", &["keys::josekit"]),
    ("postcard", &["ledger::record"]),
    ("redb", &["ledger::embedded"]),
    ("redis", &["ledger::redis"]),
    (
        "reqwest",
        &[
            "identity::fetch",
            "provider::vault",
            "provider::webhook",
            "telemetry::otlp",
            "app::traces",
            "cli::mcp",
            "dev",
        ],
    ),
    ("rustify", &["provider::vault"]),
    (
        "rustix",
        &[
            "cli::exec",
            "cli::memory",
            "keys::file",
            "journal::storage",
            "telemetry::process",
            "app::observe",
        ],
    ),
    ("tokio_postgres", &["provider::postgres"]),
    ("tokio_postgres_rustls", &["provider::postgres"]),
    ("tokio_rustls", &["http::tls"]),
    ("toml", &["config", "registry", "model::document"]),
    ("tracing_subscriber", &["telemetry", "config::telemetry"]),
    ("utoipa", &["http"]),
    ("vaultrs", &["provider::vault"]),
    ("webpki", &["identity::certificates"]),
    ("x509_cert", &["app::certificate", "identity::certificates"]),
];

fn floor(module: &str) -> u8 {
    match module.split("::").next().unwrap_or_default() {
        "model" => 0,
        "clock" | "entropy" | "trace" => 1,
        seam if SEAMS.contains(&seam) => 2,
        "broker" => 3,
        "http" | "telemetry" => 4,
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
    let adapter = |path: &str| {
        ADAPTERS
            .iter()
            .find(|parts| parts.iter().any(|part| within(path, part)))
    };
    let (own, theirs) = (adapter(module), adapter(target)?);
    // The key directory also keeps the journal's key, and a ring key signs in tests and in providers.
    let shared = theirs
        .iter()
        .any(|part| ["keys::ring_keys", "keys::file"].contains(part));
    match (from, own) {
        (3 | 4, _) => Some("only floor 5 names adapters"),
        (2, _) if shared => None,
        (2, Some(own)) if own != theirs => Some("adapters never import each other"),
        (2, None) if top(module) != top(target) => Some("only its own seam names an adapter"),
        _ => None,
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

/// Where a path begins in code: not inside of another path or name. A leading `::` belongs to none.
fn starts<'c>(code: &'c str, head: &'c str) -> impl Iterator<Item = &'c str> {
    let of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(head).filter_map(move |(at, _)| {
        let before = &code[..at];
        let outer = before
            .strip_suffix("::")
            .filter(|outer| !outer.ends_with(of_name));
        let inside = outer
            .unwrap_or(before)
            .ends_with(|c| of_name(c) || matches!(c, ':' | '$'));
        (!inside).then(|| &code[at..])
    })
}

/// Every path of this crate that a module names, whole: `super::` is resolved, and braces are opened.
fn imports(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for text in starts(code, "crate::").chain(starts(code, "super::")) {
        let mut inside: Vec<&str> = module.split("::").collect();
        let mut rest = text;
        while let Some(above) = rest.strip_prefix("super::") {
            inside.pop();
            rest = above;
        }
        if let Some(whole) = rest.strip_prefix("crate::") {
            (inside, rest) = (Vec::new(), whole);
        }
        open(&inside.join("::"), rest, &mut found);
    }
    found
}

/// Adds what `rest` names below `head`, and answers what follows it.
fn open<'c>(head: &str, rest: &'c str, found: &mut Vec<String>) -> &'c str {
    let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')));
    let (path, mut rest) = rest.split_at(end.unwrap_or(rest.len()));
    let parts = head.split("::").chain(path.split("::"));
    let head = parts
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("::");
    if !rest.starts_with('{') {
        found.push(head);
        return rest;
    }
    while let Some(next) = rest.strip_prefix(['{', ',']) {
        let next = next.trim_start();
        rest = match next.strip_prefix('}') {
            Some(_) => next,
            None => open(&head, next, found).trim_start(),
        };
    }
    rest.strip_prefix('}').unwrap_or(rest)
}

/// Whether code names a crate. A URL is a value, whoever reads it; and a module of ours may have the
/// name of the crate that it stands for.
fn names(module: &str, code: &str, technology: &str) -> bool {
    let ours = format!("::{technology}");
    let shadowed = imports(module, code)
        .iter()
        .any(|path| path.trim_end_matches("::self").ends_with(&ours));
    let head = format!("{technology}::");
    !shadowed && starts(code, &head).any(|text| !text.starts_with("reqwest::Url"))
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
        for target in imports(&module, &code(&path)) {
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
            if names(&module, &code, technology) && !places.iter().any(|place| within(&module, place)) {
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
    assert!(broken_rule("broker::issue", "policy::load::Loaded").is_some());
    assert!(broken_rule("ledger::reservation", "policy::cedar::CedarEngine").is_some());
    assert!(broken_rule("policy::cases", "policy::cedar::CedarEngine").is_none());
}

#[test]
fn imports_are_found_however_they_are_written() {
    assert_eq!(
        imports("a::b", "use crate::model::{ids, name::{self, AgentName}, time};"),
        [
            "model::ids",
            "model::name::self",
            "model::name::AgentName",
            "model::time"
        ]
    );
    assert_eq!(
        imports(
            "a::b",
            "let x = super::c::D; use super::super::e; pub(crate) fn f() {}"
        ),
        ["a::c::D", "e"]
    );
    assert!(names("a", "fn f() -> redis::Value {}", "redis"));
    assert!(names("a", "use ::redis::Value;", "redis"));
    assert!(!names("a", "crate::ledger::redis::Mode", "redis"));
    assert!(!names(
        "a",
        "use super::ledger::redis::{self, Mode}; redis::open()",
        "redis"
    ));
}
