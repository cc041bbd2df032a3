//! The revision: one digest over everything that decides, so that a decision can be explained later
//! with exactly what was in force.

use ring::digest::{Context, SHA256};

use crate::model::decision::Revision;

/// A file that takes part in decisions: a policy, an agent or a tool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SourceFile {
    /// Where it is below the directory it was loaded from, with that directory's role in front, such
    /// as `agents/support-bot.toml`: the same on every machine.
    pub path: String,
    /// What it holds, as it was read.
    pub bytes: Vec<u8>,
}

/// SHA-256, in hex, over the files sorted by path: for each the length of its path, its path, the
/// length of its contents and its contents, lengths as eight bytes, big end first.
pub fn revision(sources: &[SourceFile]) -> Revision {
    let mut sorted: Vec<&SourceFile> = sources.iter().collect();
    sorted.sort();
    let mut context = Context::new(&SHA256);
    for source in sorted {
        for part in [source.path.as_bytes(), &source.bytes] {
            // A length that does not fit eight bytes cannot be in memory.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
    }
    let hex: String = context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Revision(hex.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.into(),
            bytes: text.into(),
        }
    }

    #[test]
    fn depends_on_names_and_contents_and_not_on_their_order() {
        let (a, b) = (source("agents/a.toml", "x"), source("agents/b.toml", "y"));
        let both = revision(&[a.clone(), b.clone()]);
        assert_eq!(both.0.len(), 64);
        assert_eq!(both, revision(&[b.clone(), a.clone()]));
        assert_ne!(both, revision(std::slice::from_ref(&a)));
        assert_ne!(both, revision(&[a, source("agents/b.toml", "z")]));
        assert_ne!(
            revision(&[source("ab", "c")]),
            revision(&[source("a", "bc")]),
            "a byte cannot move from a name into the contents"
        );
    }
}
