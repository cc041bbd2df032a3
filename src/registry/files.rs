//! Agents and tools as files: read, checked, and built into one registry.
//!
//! One entry a file, and the file is called like the entry: `agents/support-bot.toml`. So a name is
//! taken once by construction, a copied file that kept its old name is noticed, and a review shows
//! who was touched. Nothing is taken from a set in which anything is wrong, and everything that is
//! wrong is said at once.

pub mod agent;
pub mod tool;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::model::document::problem::{Place, Problem, Problems};
use crate::model::document::{Document, Section};

use super::revision::SourceFile;
use super::{OwnedRule, Registry};

/// The largest entry, in bytes.
pub const LARGEST_FILE: u64 = 64 * 1024;
/// The most entries in one directory.
pub const MOST_FILES: usize = 20_000;
/// The most overlapping rules that are listed.
const MOST_OVERLAPS: usize = 100;

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    /// The agents and tools.
    pub registry: Registry,
    /// The files as they were read, for the revision.
    pub sources: Vec<SourceFile>,
    /// What works and is probably not meant.
    pub warnings: Vec<Problem>,
}

/// One file as it was read, from a directory or from somebody who sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text {
    /// What problems call it.
    pub shown: String,
    /// Its name without the extension.
    pub stem: String,
    /// What it holds.
    pub text: String,
}

/// Reads `*.toml` of both directories. Hidden files and sub-directories are left out.
pub fn load(agents: &Path, tools: &Path) -> Result<Loaded, Problems> {
    let mut loading = Loading::default();
    let agents_read = loading.read(agents, "agents");
    let tools_read = loading.read(tools, "tools");
    loading.build(&agents.display().to_string(), agents_read, tools_read)
}

/// Builds a registry of files that somebody sent.
pub fn build(agents: Vec<Text>, tools: Vec<Text>) -> Result<Loaded, Problems> {
    Loading::default().build("agents", agents, tools)
}

impl Loading {
    /// What is in a directory and can be read; what cannot is a problem.
    fn read(&mut self, directory: &Path, role: &'static str) -> Vec<Text> {
        let paths = match files_in(directory, "toml") {
            Ok(paths) => paths,
            Err(problem) => {
                let help =
                    format!("create it, or name another one: `{role} = …` in [registry] of dayfly.toml");
                self.problems.push(problem.help(help));
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for path in paths {
            match read_text(&path, LARGEST_FILE) {
                Ok(text) => texts.push(Text {
                    shown: path.display().to_string(),
                    stem: path
                        .file_stem()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                    text,
                }),
                Err(problem) => self.problems.push(problem),
            }
        }
        texts
    }

    fn build(self, shown: &str, agents: Vec<Text>, tools: Vec<Text>) -> Result<Loaded, Problems> {
        let mut loading = self;
        let mut found_agents = Vec::new();
        let mut rules = Vec::new();
        for entry in loading.entries(agents, "agents", agent::read) {
            let agent::Read { agent, rules: own } = entry.value;
            let file = entry.file;
            if agent.owner.is_none() {
                loading.warnings.push(
                    Problem::about(
                        &file,
                        format!("the agent `{}` has no owner, so it gets nothing", agent.name),
                    )
                    .help("write `owner = \"…\"`: the team that answers for it"),
                );
            }
            if own.is_empty() {
                loading.warnings.push(
                    Problem::about(&file, format!("no workload can be the agent `{}`", agent.name))
                        .help("add a `[[match]]` section that says which workload it is"),
                );
            }
            let name = agent.name.clone();
            let own = own.into_iter().map(|(rule, place)| Site {
                rule: (rule, name.clone()),
                file: file.clone(),
                place,
            });
            rules.extend(own);
            found_agents.push(agent);
        }
        let found_tools: Vec<_> = loading.entries(tools, "tools", tool::read);
        loading.warn_about_shared_audiences(&found_tools);
        let registry = Registry::build(
            found_agents,
            rules.iter().map(|site| site.rule.clone()),
            found_tools.into_iter().map(|entry| entry.value),
        );
        let registry = match registry {
            Ok(registry) => {
                let overlaps = registry.overlaps();
                let overlaps = overlaps.map(|(narrow, wide)| overlap(&rules, narrow, wide));
                loading.problems.extend(overlaps.take(MOST_OVERLAPS));
                Some(registry)
            }
            Err(error) => {
                loading.problems.push(Problem::about(shown, error.to_string()));
                None
            }
        };
        let registry = Problems::settle(shown, registry, loading.problems)?;
        Ok(Loaded {
            registry,
            sources: loading.sources,
            warnings: loading.warnings,
        })
    }
}

/// A rule, and where it is written.
struct Site {
    rule: OwnedRule,
    file: String,
    place: Place,
}

fn overlap(sites: &[Site], narrow: &OwnedRule, wide: &OwnedRule) -> Problem {
    let site = |rule: &OwnedRule| sites.iter().find(|site| site.rule == *rule);
    let at = site(wide).map_or_else(String::new, |site| format!("{}:{}", site.file, site.place.line));
    Problem {
        file: site(narrow).map(|site| site.file.clone()).unwrap_or_default(),
        place: site(narrow).map(|site| site.place),
        message: format!("whoever this rule fits is the agent `{}` too, by {at}", wide.1),
        help: Some("make the two rules name different workloads: nobody could say which agent it is".into()),
    }
}

/// One file that could be read.
#[derive(Debug)]
struct Entry<T> {
    file: String,
    value: T,
}

#[derive(Default)]
struct Loading {
    sources: Vec<SourceFile>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Loading {
    /// Every entry that can be understood; the others become problems.
    fn entries<T>(
        &mut self,
        texts: Vec<Text>,
        role: &'static str,
        read: impl Fn(&mut Section<'_>, &str) -> Option<T>,
    ) -> Vec<Entry<T>> {
        let mut entries = Vec::new();
        for Text {
            shown: file,
            stem,
            text,
        } in texts
        {
            let document = Document::new(&file, &text);
            let value = document.root().and_then(|mut root| read(&mut root, &stem));
            match document.finish(value) {
                Ok(value) => entries.push(Entry { file, value }),
                Err(problems) => self.problems.extend(problems),
            }
            self.sources.push(SourceFile {
                path: format!("{role}/{stem}.toml"),
                bytes: text.into_bytes(),
            });
        }
        entries
    }

    fn warn_about_shared_audiences(&mut self, tools: &[Entry<crate::model::tool::Tool>]) {
        let mut seen = BTreeMap::new();
        for Entry { file, value: tool } in tools {
            if let Some(other) = seen.insert(&tool.audience, &tool.name) {
                let message = format!("the tools `{other}` and `{}` have the same audience", tool.name);
                self.warnings.push(
                    Problem::about(file, message)
                        .help("give each its own, or a token for one is addressed to the other too"),
                );
            }
        }
    }
}

/// The regular files of a directory with that extension, by name. Hidden ones are left out.
pub fn files_in(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, Problem> {
    let shown = directory.display().to_string();
    let unreadable =
        |error: std::io::Error| Problem::about(&shown, format!("the directory cannot be read: {error}"));
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let wanted = path.extension().is_some_and(|found| found == extension);
        if wanted && !hidden && path.is_file() {
            paths.insert(path);
        }
        if paths.len() > MOST_FILES {
            return Err(Problem::about(
                &shown,
                format!("there are more than {MOST_FILES} files"),
            ));
        }
    }
    Ok(paths.into_iter().collect())
}

/// The text of a file of at most `most` bytes.
pub fn read_text(path: &Path, most: u64) -> Result<String, Problem> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| Problem::about(&shown, format!("the file cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(Problem::about(
            &shown,
            format!("the file is larger than {most} bytes"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Problem::about(&shown, format!("the file is not UTF-8 from byte {place} on"))
    })
}

/// The name of an entry, which is the name of its file.
fn name<N: FromStr<Err: Display> + Display>(section: &mut Section<'_>, stem: &str) -> Option<N> {
    let name: Option<N> = if section.has("name") {
        section.parsed("name")
    } else {
        section.blame("name", "it is missing", &format!("write `name = \"{stem}\"`"));
        None
    };
    if let Some(name) = &name
        && name.to_string() != stem
    {
        let help = format!("rename the file to `{name}.toml`, or write `name = \"{stem}\"`");
        section.blame("name", format!("the file is called `{stem}.toml`"), &help);
    }
    name
}

/// Facts: at most 64, each name and value short enough to be read.
fn facts(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let facts: BTreeMap<String, String> = section.map("facts");
    let fits = |text: &String, most| (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
    if facts.len() > 64
        || !facts
            .iter()
            .all(|(name, value)| fits(name, 64) && fits(value, 256))
    {
        section.blame(
            "facts",
            "there are too many, or one is empty or too long",
            "write at most 64 facts, with names up to 64 bytes and values up to 256 bytes on one line",
        );
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    const AGENT: &str = r#"
name = "a"
owner = "Team A"
purpose = "Answers customers"
environment = "production"
autonomy = 2
zone = "eu"
review_by = 2027-06-30
[[match]]
kind = "jwt_svid"
subject = "spiffe://example.org/a"
"#;
    const TOOL: &str = r#"
name = "crm"
description = "Customers"
owner = "Team B"
risk = "low"
sensitivity = "public"
zone = "eu"
environment = "production"
audience = "https://crm.example.org"
provider = "jwt"
max_ttl = "10m"
actions = { read = "read" }
parameters = { depth = 2, tags = ["x"] }
"#;

    fn try_load(files: &[(&str, &str)]) -> Result<Loaded, String> {
        let root = tempfile::tempdir().unwrap();
        let (agents, tools) = (root.path().join("agents"), root.path().join("tools"));
        for directory in [&agents, &tools] {
            std::fs::create_dir(directory).unwrap();
        }
        for (path, text) in files {
            std::fs::write(root.path().join(path), text).unwrap();
        }
        let shown = format!("{}/", root.path().display());
        load(&agents, &tools).map_err(|problems| problems.to_string().replace(&shown, ""))
    }

    fn problems(files: &[(&str, &str)]) -> String {
        try_load(files).unwrap_err()
    }

    #[test]
    fn reads_an_agent_and_a_tool() {
        let loaded = try_load(&[
            ("agents/a.toml", AGENT),
            ("tools/crm.toml", TOOL),
            ("tools/.hidden.toml", "not = read"),
            ("tools/README.md", "not read"),
        ])
        .unwrap();
        assert_eq!(loaded.warnings, []);
        let agent = loaded.registry.agent(&"a".parse().unwrap()).unwrap();
        let last: Timestamp = "2027-06-30T23:59:59.999Z".parse().unwrap();
        assert_eq!(agent.standing(last), Ok(()));
        assert!(agent.standing("2027-07-01T00:00:00Z".parse().unwrap()).is_err());
        let tool = loaded.registry.tool(&"crm".parse().unwrap()).unwrap();
        assert_eq!(tool.default_ttl.to_string(), "5m");
        assert_eq!(tool.binding.parameters["tags"], serde_json::json!(["x"]));
        let sources: Vec<_> = loaded.sources.iter().map(|source| source.path.as_str()).collect();
        assert_eq!(sources, ["agents/a.toml", "tools/crm.toml"]);
    }

    #[test]
    fn credentials_go_where_the_audience_is_unless_it_is_written() {
        let origins = |tool: &str| {
            let loaded = try_load(&[("agents/a.toml", AGENT), ("tools/crm.toml", tool)])?;
            let tool = loaded.registry.tool(&"crm".parse().unwrap()).unwrap();
            Ok::<Vec<String>, String>(tool.origins.iter().map(ToString::to_string).collect())
        };
        assert_eq!(origins(TOOL).unwrap(), ["https://crm.example.org"]);
        let abstract_one = TOOL.replace("https://crm.example.org", "urn:example:crm");
        assert!(origins(&abstract_one).unwrap().is_empty());
        let written = |text: &str| TOOL.replace("max_ttl", &format!("origins = {text}\nmax_ttl"));
        assert!(origins(&written("[]")).unwrap().is_empty());
        let two = written(r#"["https://A.example", "http://127.0.0.1:8441"]"#);
        assert_eq!(
            origins(&two).unwrap(),
            ["https://a.example", "http://127.0.0.1:8441"]
        );
        let bad = origins(&written(r#"["https://a.example/v1"]"#)).unwrap_err();
        assert!(bad.contains("tools/crm.toml:11:12: `origins`"), "{bad}");
        let many = format!(
            "{:?}",
            (0..17)
                .map(|n| format!("https://{n}.example"))
                .collect::<Vec<_>>()
        );
        let bad = origins(&written(&many)).unwrap_err();
        assert!(bad.contains("there are more than 16"), "{bad}");
    }

    #[test]
    fn says_everything_that_is_wrong_with_every_file_at_once() {
        let agent = AGENT
            .replace("autonomy = 2", "autonomy = 6")
            .replace("zone", "zoen");
        let tool = TOOL
            .replace("\"10m\"", "\"10m\"\ndefault_ttl = 900")
            .replace("read = \"read\"", "read = \"peek\"")
            .replace("depth = 2", "depth = 2027-01-01");
        let problems = problems(&[("agents/a.toml", &agent), ("tools/crm.toml", &tool)]);
        for expected in [
            "agents/a.toml:1:1: `zone`: it is missing",
            "agents/a.toml:6:12: `autonomy`: an autonomy level is a number from 0 to 5",
            "agents/a.toml:7:1: unknown key `zoen`\n  help: did you mean `zone`?",
            "tools/crm.toml:12:1: `default_ttl`: 15m is longer than `max_ttl`, 10m",
            "tools/crm.toml:13:20: `actions.read`: unknown variant `peek`, expected",
            "tools/crm.toml:14:24: `parameters.depth`: write dates as text",
        ] {
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
    }

    #[test]
    fn an_entry_is_called_like_its_file() {
        let problems = problems(&[("agents/b.toml", AGENT)]);
        assert!(
            problems.contains("agents/b.toml:2:1: `name`: the file is called `b.toml`"),
            "{problems}"
        );
    }

    #[test]
    fn no_file_takes_the_place_of_dayfly_itself() {
        let tool = TOOL.replace("\"crm\"", "\"dayfly\"");
        let problems = problems(&[("tools/dayfly.toml", &tool)]);
        assert!(
            problems.contains("tools/dayfly.toml:2:1: `name`: this name stands for Dayfly itself"),
            "{problems}"
        );
    }

    #[test]
    fn refuses_two_agents_that_one_workload_would_be() {
        let other = AGENT
            .replace("\"a\"", "\"b\"")
            .replace("example.org/a", "example.org/*");
        let problems = problems(&[("agents/a.toml", AGENT), ("agents/b.toml", &other)]);
        assert!(
            problems.contains("agents/a.toml:9:1: whoever this rule fits is the agent `b` too, by ")
                && problems.contains("agents/b.toml:9"),
            "{problems}"
        );
    }

    #[test]
    fn a_rule_that_does_not_hold_is_refused_where_it_stands() {
        for (rule, expected) in [
            (
                "kind = \"oidc\"\nsubject = \"x\"",
                "agents/a.toml:9:1: `match.issuer`: the rule does not say",
            ),
            (
                "kind = \"oidc\"\nissuer = \"https://x\"",
                "`match.subject`: the rule fits everybody",
            ),
            (
                "kind = \"x509\"\nsubject = \"x\"",
                "agents/a.toml:10:8: `match.kind`: unknown variant",
            ),
            (
                "kind = \"jwt_svid\"\nsubject = \"x\"",
                "agents/a.toml:11:1: `match.subject`: the subject can never fit",
            ),
            (
                "kind = \"jwt_svid\"\nsubject = \"spiffe://example.org/a-*\"",
                "agents/a.toml:11:1: `match.subject`: `spiffe://example.org/a-*` is not a valid pattern",
            ),
            (
                "kind = \"jwt_svid\"\nissuer = \"x\"\nsubject = \"spiffe://example.org/a\"",
                "agents/a.toml:11:1: unknown key `issuer` in [match]",
            ),
        ] {
            let text = AGENT.split("kind").next().unwrap().to_owned() + rule;
            let problems = problems(&[("agents/a.toml", &text)]);
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
    }

    #[test]
    fn warns_about_agents_that_get_nothing_and_tools_that_share_an_audience() {
        let agent = AGENT.replace("owner = \"Team A\"", "");
        let agent = agent.split("[[match]]").next().unwrap();
        let other = TOOL.replace("\"crm\"", "\"crm2\"");
        let loaded = try_load(&[
            ("agents/a.toml", agent),
            ("tools/crm.toml", TOOL),
            ("tools/crm2.toml", &other),
        ])
        .unwrap();
        let warnings: Vec<_> = loaded.warnings.iter().map(|w| w.message.as_str()).collect();
        assert_eq!(
            warnings,
            [
                "the agent `a` has no owner, so it gets nothing",
                "no workload can be the agent `a`",
                "the tools `crm` and `crm2` have the same audience",
            ]
        );
    }

    #[test]
    fn refuses_what_cannot_be_read() {
        let huge = format!("# {}", "x".repeat(usize::try_from(LARGEST_FILE).unwrap()));
        let problems = problems(&[("agents/a.toml", &huge), ("tools/a.toml", "a = \n")]);
        assert!(
            problems.contains("agents/a.toml: the file is larger than 65536 bytes"),
            "{problems}"
        );
        assert!(problems.contains("tools/a.toml:1:"), "{problems}");
        let root = tempfile::tempdir().unwrap();
        let missing = load(&root.path().join("a"), &root.path().join("b")).unwrap_err();
        assert_eq!(missing.as_slice().len(), 2);
        assert!(missing.to_string().contains("help: create it"), "{missing}");
    }
}
