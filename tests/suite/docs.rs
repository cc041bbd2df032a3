//! The documentation, held to the code: links lead somewhere, configurations that are shown can be
//! read, and the references name what there is.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use dayfly::cli::Cli;
use dayfly::config;

/// What the first line of a block says when the block is a whole `dayfly.toml`.
const WHOLE: &str = "# full config";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every page: those beside the README, and those below `docs/`.
fn pages() -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => below(&path, found),
                path if path.extension().is_some_and(|end| end == "md") => found.push(path),
                _ => {}
            }
        }
    }
    let mut found: Vec<PathBuf> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    below(&root().join("docs"), &mut found);
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The text outside of blocks, and the blocks with their language.
fn split(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((language, body))) => open = Some((language, body + line + "\n")),
            (None, None) => prose = prose + line + "\n",
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (prose, blocks)
}

/// The targets of inline links.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// The anchors that headings make, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = split(text).0;
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading_in_it() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&split(&text).0).filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let leads = target.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&target).unwrap())
                        .iter()
                        .any(|it| it == anchor));
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn every_page_is_linked_from_another() {
    let pages = pages();
    let mut linked = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&split(&text).0) {
            let path = link.split('#').next().unwrap_or_default();
            if let Ok(target) = page.parent().unwrap().join(path).canonicalize() {
                linked.push(target);
            }
        }
    }
    for page in pages.iter().filter(|page| page.starts_with(root().join("docs"))) {
        assert!(
            linked.contains(&page.canonicalize().unwrap()),
            "{}",
            page.display()
        );
    }
}

#[test]
fn every_whole_configuration_that_is_shown_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dayfly.toml");
    let mut seen = 0;
    for page in pages() {
        for (_, body) in split(&fs::read_to_string(&page).unwrap())
            .1
            .iter()
            .filter(|(language, body)| language == "toml" && body.starts_with(WHOLE))
        {
            fs::write(&path, body).unwrap();
            if let Err(problems) = config::load(&path) {
                panic!("{}: {problems}", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen}");
}

#[test]
fn the_command_line_is_what_clap_takes() {
    // Clap checks a sub-command when it is called, so a fault in one would wait for its first user.
    Cli::command().debug_assert();
}

#[test]
fn the_command_line_reference_names_every_command_and_flag() {
    fn walk(command: &clap::Command, path: &str, page: &str, missing: &mut Vec<String>) {
        let told = |sub: &&clap::Command| sub.get_name() != "help" && !sub.is_hide_set();
        for sub in command.get_subcommands().filter(told) {
            let path = format!("{path} {}", sub.get_name());
            let has_own = sub.get_subcommands().next().is_some();
            if !has_own && !page.contains(&format!("`{path}`")) && !page.contains(&format!("`{path} ")) {
                missing.push(path.clone());
            }
            let flags = sub.get_arguments().filter_map(clap::Arg::get_long);
            missing.extend(
                flags
                    .filter(|flag| *flag != "help" && !page.contains(&format!("`--{flag}")))
                    .map(|flag| format!("{path} --{flag}")),
            );
            walk(sub, &path, page, missing);
        }
    }
    let mut missing = Vec::new();
    walk(
        &Cli::command(),
        "dayfly",
        &read("docs/reference/cli.md"),
        &mut missing,
    );
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_reference_of_records_names_every_field_and_verb() {
    let source = read("src/journal/record.rs");
    let page = read("docs/reference/records.md");
    let record = source.split("pub struct Record {").nth(1).unwrap();
    let record = record.split("\n}").next().unwrap();
    let fields: Vec<&str> = record
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
        .collect();
    assert!(fields.len() > 15, "{fields:?}");
    for field in fields {
        assert!(page.contains(&format!("| `{field}` |")), "{field}");
    }
    let verbs = source.split("pub const fn as_str").nth(1).unwrap();
    let verbs = verbs.split("\n    }").next().unwrap();
    for verb in verbs.split('"').skip(1).step_by(2) {
        assert!(page.contains(&format!("`{verb}`")), "{verb}");
    }
}
