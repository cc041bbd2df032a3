//! The files that are shipped in `config/`: they are what newcomers copy, so each of them is read here
//! as Dayfly reads it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dayfly::config::{self, fit};
use dayfly::model::document::environment;
use dayfly::model::name::{AgentName, ToolName};
use dayfly::model::time::Timestamp;
use dayfly::registry::files;
use dayfly::registry::revision::revision;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

#[test]
fn every_configuration_that_is_shipped_can_be_read_and_fits_the_registry_beside_it() {
    let paths = files::files_in(&shipped(), "toml").unwrap();
    assert!(paths.len() >= 3, "{paths:?}");
    for path in paths {
        let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let loaded = files::load(&config.registry.agents, &config.registry.tools)
            .unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.warnings, []);
        assert_eq!(
            fit::fit(&config, &loaded.registry),
            fit::Fit::default(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_agent_that_is_shipped_is_in_good_standing_until_its_review() {
    let loaded = files::load(&shipped().join("agents"), &shipped().join("tools")).unwrap();
    let reviewed: Timestamp = "2027-12-31T23:59:59Z".parse().unwrap();
    let overdue: Timestamp = "2028-01-01T00:00:00Z".parse().unwrap();
    for name in ["support-bot", "report-bot", "ops-console"] {
        let name: AgentName = name.parse().unwrap();
        let agent = loaded.registry.agent(&name).unwrap();
        assert_eq!(agent.standing(reviewed), Ok(()), "{name}");
        assert!(agent.standing(overdue).is_err(), "{name}");
    }
    for name in ["crm", "payments", "reports", "dayfly"] {
        let name: ToolName = name.parse().unwrap();
        assert!(loaded.registry.tool(&name).is_some(), "{name}");
    }
}

#[test]
fn the_revision_is_the_same_wherever_the_files_are_and_changes_with_each_of_them() {
    let elsewhere = tempfile::tempdir().unwrap();
    for directory in ["agents", "tools"] {
        std::fs::create_dir(elsewhere.path().join(directory)).unwrap();
        for path in files::files_in(&shipped().join(directory), "toml").unwrap() {
            let name = path.file_name().unwrap();
            std::fs::copy(&path, elsewhere.path().join(directory).join(name)).unwrap();
        }
    }
    let of = |root: &Path| {
        revision(
            &files::load(&root.join("agents"), &root.join("tools"))
                .unwrap()
                .sources,
        )
    };
    let before = of(&shipped());
    assert_eq!(of(elsewhere.path()), before);

    let tool = elsewhere.path().join("tools/crm.toml");
    let text = std::fs::read_to_string(&tool).unwrap();
    std::fs::write(&tool, text.replace("\"15m\"", "\"14m\"")).unwrap();
    assert_ne!(of(elsewhere.path()), before);
}

#[test]
fn problems_name_the_file_the_line_and_the_remedy() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("dayfly.toml");
    let least = std::fs::read_to_string(shipped().join("dayfly.toml")).unwrap();
    std::fs::write(&path, least.replace("listen =", "lsten =")).unwrap();
    let problems = config::load(&path).unwrap_err().to_string();
    let line = 1 + least.lines().position(|line| line.starts_with("listen")).unwrap();
    let expected = format!(
        "{}:{line}:1: unknown key `lsten` in [server]\n  help: did you mean `listen`?",
        path.display()
    );
    assert_eq!(problems, expected);
}

#[test]
fn directories_that_are_not_there_are_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("dayfly.toml");
    std::fs::copy(shipped().join("dayfly.toml"), &path).unwrap();
    let config = config::load(&path).unwrap();
    let problems = files::load(&config.registry.agents, &config.registry.tools).unwrap_err();
    let problems: Vec<String> = problems.into_iter().map(|problem| problem.to_string()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    for (problem, directory) in problems.iter().zip(["agents", "tools"]) {
        let start = format!(
            "{}: the directory cannot be read",
            root.path().join(directory).display()
        );
        assert!(problem.starts_with(&start), "{problem}");
        assert!(
            problem.contains("help: create it, or name another one"),
            "{problem}"
        );
    }
}

/// Each key of a file that holds a secret can be said by the environment, wherever it stands.
#[test]
fn the_environment_stands_for_every_file_of_a_secret() {
    let text = std::fs::read_to_string(shipped().join("dayfly.full.toml")).unwrap();
    let written = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once(" = "));
    let files: BTreeSet<&str> = written
        .map(|(key, _)| key)
        .filter(|key| key.ends_with("_file"))
        .collect();
    assert!(files.len() > 8, "{files:?}");
    let public = ["ca_file", "cert_file", "bundle_file", "jwks_file"];
    for key in files.into_iter().filter(|key| !public.contains(key)) {
        let variable = format!("DAYFLY__SOMEWHERE__{}", key.to_ascii_uppercase());
        let one = environment::overrides([(variable.into(), "/run/secret".into())]);
        assert!(one.is_ok(), "{key}: {one:?}");
    }
}
