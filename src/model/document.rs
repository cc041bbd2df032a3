//! Documents that people write: TOML, read key by key, with every problem collected and placed.
//!
//! A serde mirror stops at the first mistake. Here a reader asks a [`Section`] for the keys it
//! knows; a value that does not parse is a problem and reading goes on, and what nobody asked for is
//! an unknown key. One run says everything that is wrong, each with file, line, column and remedy.

pub mod environment;
pub mod problem;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

use environment::{Override, step};
use problem::{Place, Problem, Problems, closest};

/// One document and what was found out about it so far.
#[derive(Debug)]
pub struct Document<'t> {
    file: &'t str,
    text: &'t str,
    /// What stands elsewhere in its place.
    over: Vec<Override>,
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
struct Found {
    problems: Vec<Problem>,
    keys: BTreeSet<String>,
    /// For how many sections each override stands; none before the document was read.
    lent: Option<Vec<usize>>,
}

impl<'t> Document<'t> {
    /// A document that problems call `file`.
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            over: Vec::new(),
            found: RefCell::default(),
        }
    }

    /// The same with what the environment says in its place.
    #[must_use]
    pub fn over(self, over: Vec<Override>) -> Self {
        Self { over, ..self }
    }

    /// The top of the document. `None` when it is no TOML, which is then among the problems.
    pub fn root(&self) -> Option<Section<'_>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.report(error.span().map_or(0, |span| span.start), error.message(), None);
        }
        if !errors.is_empty() {
            return None;
        }
        self.found.borrow_mut().lent = Some(vec![0; self.over.len()]);
        Some(Section::new(self, Way::default(), 0, table.into_inner()))
    }

    /// What was read, unless there were problems. Reading must be over: sections report on drop.
    pub fn finish<T>(self, read: Option<T>) -> Result<T, Problems> {
        let found = self.found.into_inner();
        let lent = found.lent.unwrap_or_else(|| vec![1; self.over.len()]);
        let unfit = self.over.iter().zip(lent).filter_map(|(over, lent)| {
            let (message, help) = match lent {
                0 => (
                    format!("it stands for no section of {}", self.file),
                    "write the way to the key with two underscores between its steps, and for one of several sections its name",
                ),
                1 => return None,
                several => (
                    format!("it stands for {several} sections"),
                    "rename one of them, or write the path into it",
                ),
            };
            Some(over.problem(&message).help(help))
        });
        let problems = found.problems.into_iter().chain(unfit).collect();
        Problems::settle(self.file, read, problems)
    }

    /// Every key and section that was asked for, as dotted paths: what the document may hold.
    pub fn keys(&self) -> BTreeSet<String> {
        self.found.borrow().keys.clone()
    }

    fn report(&self, offset: usize, message: impl Into<String>, help: Option<String>) {
        self.found.borrow_mut().problems.push(Problem {
            file: self.file.into(),
            place: Some(Place::of(self.text, offset)),
            message: message.into(),
            help,
        });
    }
}

/// How a section is reached.
#[derive(Clone, Default, Debug)]
struct Way {
    /// As people write it: dotted.
    path: String,
    /// As the environment does: step by step, one of several sections by its name.
    steps: Vec<String>,
}

impl Way {
    fn below(&self, path: String, key: &str) -> Self {
        let steps = self.steps.iter().cloned().chain([step(key)]).collect();
        Self { path, steps }
    }
}

/// A table of a document. What nobody asked for is reported when it is dropped.
#[derive(Debug)]
pub struct Section<'d> {
    document: &'d Document<'d>,
    way: Way,
    at: usize,
    entries: BTreeMap<String, (usize, Spanned<DeValue<'d>>)>,
    asked: BTreeMap<&'static str, Option<usize>>,
}

impl<'d> Section<'d> {
    fn new(document: &'d Document<'d>, way: Way, at: usize, table: DeTable<'d>) -> Self {
        let entries = table.into_iter().map(|(key, value)| {
            let start = key.span().start;
            (key.into_inner().into_owned(), (start, value))
        });
        let mut entries: BTreeMap<_, _> = entries.collect();
        let mut found = document.found.borrow_mut();
        let lent = found.lent.iter_mut().flatten();
        for (over, lent) in document.over.iter().zip(lent) {
            if over.section == way.steps {
                *lent += 1;
                let path = DeValue::String(over.path.clone().into());
                entries.insert(over.key.clone(), (at, Spanned::new(at..at, path)));
            }
        }
        drop(found);
        Self {
            document,
            way,
            at,
            entries,
            asked: BTreeMap::new(),
        }
    }

    /// Where the section starts.
    pub fn place(&self) -> Place {
        Place::of(self.document.text, self.at)
    }

    /// The dotted path of a key of this section.
    fn dotted(&self, key: &str) -> String {
        if self.way.path.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.way.path)
        }
    }

    /// Whether the key is written there; asking makes it known.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.document.found.borrow_mut().keys.insert(self.dotted(key));
        let place = self.entries.get(key).map(|(start, _)| *start);
        let place = self.asked.get(key).copied().flatten().or(place);
        self.asked.insert(key, place);
        place.is_some()
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'d>>> {
        self.has(key);
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Reports a problem with a key of this section, at the key or, when it is not there, at the section.
    pub fn blame(&self, key: &str, message: impl Display, help: &str) {
        let place = self.asked.get(key).copied().flatten().unwrap_or(self.at);
        let help = (!help.is_empty()).then(|| help.to_owned());
        let message = format!("`{}`: {message}", self.dotted(key));
        self.document.report(place, message, help);
    }

    fn value<T: DeserializeOwned>(&self, name: &str, value: Spanned<DeValue<'d>>) -> Option<T> {
        let start = value.span().start;
        let read: Result<T, Error> = T::deserialize(ValueDeserializer::from(value));
        read.map_err(|error| {
            let place = error.span().map_or(start, |span| span.start);
            self.document.report(
                place,
                format!("`{}`: {}", self.dotted(name), error.message()),
                None,
            );
        })
        .ok()
    }

    /// A key that may be absent.
    pub fn optional<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        self.value(key, value)
    }

    /// A key that has a default.
    pub fn or<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A key that must be there; `help` says what to write.
    pub fn required<T: DeserializeOwned>(&mut self, key: &'static str, help: &str) -> Option<T> {
        if self.has(key) {
            return self.optional(key);
        }
        self.blame(key, "it is missing", help);
        None
    }

    /// A text that is read by its own parser.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<T> {
        let text: String = self.optional(key)?;
        text.parse().map_err(|error| self.blame(key, error, "")).ok()
    }

    /// An array, each element on its own. `None` when it is absent or no array.
    pub fn list<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Array(elements) => {
                let elements = elements.into_iter();
                Some(elements.filter_map(|element| self.value(key, element)).collect())
            }
            other => {
                let message = format!("`{}`: it is a {}", self.dotted(key), other.type_str());
                self.document
                    .report(start, message, Some(format!("write an array: `{key} = [...]`")));
                None
            }
        }
    }

    /// A table with keys of the writer's choosing, each entry on its own.
    pub fn map<K: FromStr<Err: Display> + Ord, V: DeserializeOwned>(
        &mut self,
        key: &'static str,
    ) -> BTreeMap<K, V> {
        let Some((_, table)) = self.table(key) else {
            return BTreeMap::new();
        };
        let entries = table.into_iter().filter_map(|(name, value)| {
            let start = name.span().start;
            let name = name.into_inner();
            let value = self.value(&format!("{key}.{name}"), value);
            let parsed = name.parse::<K>().map_err(|error| {
                let message = format!("`{}`: {error}", self.dotted(key));
                self.document.report(start, message, None);
            });
            Some((parsed.ok()?, value?))
        });
        entries.collect()
    }

    fn table(&mut self, key: &'static str) -> Option<(usize, DeTable<'d>)> {
        let value = self.take(key)?;
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Some((start, table)),
            other => {
                let path = self.dotted(key);
                let (message, help) = match other {
                    DeValue::Array(_) => ("there can be one only", format!("write `[{path}]`, once")),
                    _ => (
                        "it is not a section",
                        format!("write `[{path}]` on a line of its own"),
                    ),
                };
                self.document
                    .report(start, format!("`{path}`: {message}"), Some(help));
                None
            }
        }
    }

    /// A section below this one; an empty one when it is absent.
    pub fn section(&mut self, key: &'static str) -> Section<'d> {
        let (at, table) = self.table(key).unwrap_or((self.at, DeTable::new()));
        let way = self.way.below(self.dotted(key), key);
        Section::new(self.document, way, at, table)
    }

    /// Sections of which there can be any number: `[[key]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let path = self.dotted(key);
        let wrong = |start| {
            let help = format!("write `[[{path}]]` above each of them");
            let message = format!("`{path}`: it is not a list of sections");
            self.document.report(start, message, Some(help));
        };
        let start = value.span().start;
        let DeValue::Array(elements) = value.into_inner() else {
            wrong(start);
            return Vec::new();
        };
        let sections = elements.into_iter().filter_map(|element| {
            let at = element.span().start;
            match element.into_inner() {
                DeValue::Table(table) => {
                    let name = table.get("name").and_then(|name| name.get_ref().as_str());
                    let way = self.way.below(path.clone(), key);
                    let way = way.below(path.clone(), name.unwrap_or_default());
                    Some(Section::new(self.document, way, at, table))
                }
                _ => {
                    wrong(at);
                    None
                }
            }
        });
        sections.collect()
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for (key, (start, _)) in &self.entries {
            let mut over = self.document.over.iter();
            if let Some(over) = over.find(|over| over.section == self.way.steps && over.key == *key) {
                let message = format!("`{key}` is no key of [{}]", self.way.path);
                let problem = over.problem(&message);
                self.document.found.borrow_mut().problems.push(problem);
                continue;
            }
            let help = match closest(key, self.asked.keys()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => {
                    let known: Vec<&str> = self.asked.keys().copied().collect();
                    format!("what can stand here is: {}", known.join(", "))
                }
            };
            let message = if self.way.path.is_empty() {
                format!("unknown key `{key}`")
            } else {
                format!("unknown key `{key}` in [{}]", self.way.path)
            };
            self.document.report(*start, message, Some(help));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (Option<u16>, Vec<u8>, Option<String>, BTreeMap<String, bool>);

    fn read(text: &str) -> Result<Read, String> {
        let document = Document::new("a.toml", text);
        let read = document.root().map(|mut root| {
            let mut inner = root.section("server");
            let port = inner.required("port", "write `port = 1`");
            for mut item in root.sections("item") {
                item.or("name", String::new());
            }
            (
                port,
                root.list("list").unwrap_or_default(),
                inner.parsed("host"),
                root.map("flags"),
            )
        });
        document.finish(read).map_err(|problems| problems.to_string())
    }

    #[test]
    fn reads_what_is_there() {
        let text =
            "list = [1, 2]\nitem = [{ name = 'a' }]\n[server]\nport = 1\nhost = 'b'\n[flags]\nx = true";
        let flags = BTreeMap::from([("x".to_owned(), true)]);
        assert_eq!(read(text), Ok((Some(1), vec![1, 2], Some("b".into()), flags)));
    }

    #[test]
    fn says_everything_that_is_wrong_in_one_run_and_where() {
        let text = "list = [1, 'x', 300]\nitem = 3\n\n[server]\n  prot = 1\n[flags]\ny = 2\n[zzz]\n";
        let problems = read(text).unwrap_err();
        for expected in [
            "a.toml:1:12: `list`: invalid type",
            "a.toml:1:17: `list`: invalid value: integer `300`",
            "a.toml:2:8: `item`: it is not a list of sections\n  help: write `[[item]]` above each of them",
            "a.toml:4:1: `server.port`: it is missing\n  help: write `port = 1`",
            "a.toml:5:3: unknown key `prot` in [server]\n  help: did you mean `port`?",
            "a.toml:7:5: `flags.y`: invalid type: integer `2`, expected a boolean",
            "a.toml:8:2: unknown key `zzz`\n  help: what can stand here is: flags, item, list, server",
        ] {
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
        assert_eq!(problems.matches("a.toml:").count(), 7, "{problems}");
    }

    #[test]
    fn says_everything_that_is_no_toml() {
        let problems = read("a = \nb = [\"x\"\nc = 1\nc = 2\n").unwrap_err();
        assert!(problems.starts_with("a.toml:1:"), "{problems}");
        assert!(problems.lines().count() >= 2, "{problems}");
    }

    #[test]
    fn knows_what_it_was_asked_for() {
        let document = Document::new("a.toml", "");
        let mut root = document.root().unwrap();
        root.section("server").or("port", 1u8);
        drop(root);
        assert_eq!(
            document.keys().into_iter().collect::<Vec<_>>(),
            ["server", "server.port"]
        );
    }
}
