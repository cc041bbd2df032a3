//! Problems with what people wrote: where, what, and what to do about it.

use std::fmt;

/// A place in a text. Both count from 1; columns count characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// The place of a byte.
    pub fn of(text: &str, offset: usize) -> Self {
        let before: &[u8] = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
        let start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        // Every character has one byte that is not a continuation (RFC 3629 §3).
        let characters = before.iter().skip(start).filter(|byte| **byte & 0xC0 != 0x80);
        Self {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: characters.count() + 1,
        }
    }
}

/// One problem.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// The file or directory.
    pub file: String,
    /// Where in the file; none when it is about the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with a file as a whole.
    pub fn about(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            place: None,
            message: message.into(),
            help: None,
        }
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// `file:line:column: message`, and below it `  help: …`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, by file and place. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The value, when there is one and nothing is wrong. Without either, the file is what is wrong.
    pub fn settle<T>(file: &str, value: Option<T>, mut problems: Vec<Problem>) -> Result<T, Self> {
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => {
                if problems.is_empty() {
                    problems.push(Problem::about(file, "it cannot be read"));
                }
                problems.sort();
                Err(Self(problems))
            }
        }
    }

    /// The problems, at least one.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}{problem}")?;
        }
        Ok(())
    }
}

/// The word that was probably meant: the nearest, when no more than a third of it is different.
pub fn closest<'a, 'b>(word: &str, known: impl IntoIterator<Item = &'a &'b str>) -> Option<&'b str>
where
    'b: 'a,
{
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, with the swap of two neighbours as two.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, y) in row
            .iter_mut()
            .zip(std::iter::once(None).chain(b.chars().map(Some)))
        {
            if let Some(y) = y {
                left = (diagonal + usize::from(x != y)).min(*cell + 1).min(left + 1);
                diagonal = *cell;
            }
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let place = |offset| {
            let Place { line, column } = Place::of("aä\n€b", offset);
            (line, column)
        };
        assert_eq!(
            [place(0), place(3), place(4), place(7), place(99)],
            [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3)]
        );
    }

    #[test]
    fn guesses_what_was_meant_and_does_not_guess_wildly() {
        let known = ["listen", "public_url", "body_limit"];
        assert_eq!(closest("lsten", &known), Some("listen"));
        assert_eq!(closest("public-url", &known), Some("public_url"));
        assert_eq!(closest("body_limt", &known), Some("body_limit"));
        assert_eq!(closest("max_ttl", &known), None);
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }
}
