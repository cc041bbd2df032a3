//! What is wrong with a set of policies: every problem at once, each with its place in the text.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A place in a policy file. Lines and columns count from 1; columns count characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Position {
    /// The name of the file, as it was given to the loader.
    pub source: Arc<str>,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// The place of the byte at `offset` in `text`; past its end it is the end.
    pub fn of(source: &Arc<str>, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let last = before.rsplit_once('\n').map_or(before, |(_, last)| last);
        Self {
            source: source.clone(),
            line: 1 + before.bytes().filter(|&byte| byte == b'\n').count(),
            column: 1 + last.chars().count(),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

/// One problem.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[error("{at}: {message}{}", help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default())]
pub struct Problem {
    /// Where.
    pub at: Position,
    /// What.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
}

/// Why a set of policies was refused as a whole: at least one problem, in the order of the text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PolicyProblems(pub Vec<Problem>);

/// Of the known names the one that `wrong` was probably meant to be.
pub(super) fn closest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}

/// The number of letters to insert, remove or replace to get from one word to the other (Levenshtein).
pub(super) fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (above, above + 1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in to.chars().zip(row.iter_mut().skip(1)) {
            left = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source: Arc<str> = "a.cedar".into();
        let text = "permit\nfür(x)";
        for (offset, line, column) in [(0, 1, 1), (7, 2, 1), (11, 2, 4), (999, 2, 7)] {
            let position = Position::of(&source, text, offset);
            assert_eq!((position.line, position.column), (line, column), "{offset}");
        }
    }

    #[test]
    fn the_distance_of_words_counts_edits() {
        for (from, to, edits) in [
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
        ] {
            assert_eq!(distance(from, to), edits, "{from} {to}");
        }
    }

    #[test]
    fn suggests_only_what_is_close() {
        let known = ["support", "operator"];
        assert_eq!(closest("suport", known.into_iter()), Some("support"));
        assert_eq!(closest("billing", known.into_iter()), None);
    }
}
