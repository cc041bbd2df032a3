//! What a token may do: paths with capabilities. `+` is one segment, and `*` at the end is any rest.

use std::collections::{BTreeMap, BTreeSet};

use super::Inside;

/// Capabilities by path.
pub(crate) type Policy = BTreeMap<String, Vec<String>>;

/// Reads the rules of a policy, one a line: `path "…" { capabilities = ["…"] }`.
pub(crate) fn parse(text: &str) -> Policy {
    let rules = text.lines().filter(|line| line.starts_with("path "));
    let quoted =
        |line: &str| -> Vec<String> { line.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    rules
        .map(|line| {
            let mut words = quoted(line).into_iter();
            (words.next().unwrap(), words.collect())
        })
        .collect()
}

fn fits(pattern: &str, path: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix('*') {
        return path.starts_with(prefix);
    }
    let (mut left, mut right) = (pattern.split('/'), path.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(pattern), Some(segment)) if pattern == "+" || pattern == segment => {}
            _ => return false,
        }
    }
}

impl Inside {
    /// What this token may do with this path, as `sys/capabilities-self` says it.
    pub(super) fn capabilities(&self, token: &str, path: &str) -> BTreeSet<String> {
        let token = &self.tokens[token];
        if token.policies.contains(&"root".to_owned()) {
            return ["root".to_owned()].into();
        }
        let own = [
            ("auth/token/lookup-self", "read"),
            ("auth/token/renew-self", "update"),
            ("auth/token/revoke-self", "update"),
            ("sys/capabilities-self", "update"),
            ("sys/wrapping/wrap", "update"),
        ];
        let mut may = BTreeSet::new();
        for name in &token.policies {
            if name == "default" {
                may.extend(
                    own.iter()
                        .filter(|(at, _)| *at == path)
                        .map(|(_, word)| word.to_string()),
                );
            }
            for (pattern, words) in self.policies.get(name).into_iter().flatten() {
                if fits(pattern, path) {
                    may.extend(words.iter().map(|word| word.to_string()));
                }
            }
        }
        if may.is_empty() {
            may.insert("deny".into());
        }
        may
    }
}
