//! The name of what is held at the server: the accessor of the lease's token, and what hangs on it.
//!
//! An accessor ends its token, and every secret that was made with the token; it reads nothing, so it
//! is no secret.

use super::parameters::Kind;
use crate::model::lease::Handle;

/// What a handle says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Name {
    /// The accessor of the token.
    pub(super) accessor: String,
    /// What hangs on the token.
    pub(super) rest: Rest,
}

/// What hangs on a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// Nothing that the server does not end with the token.
    Token,
    /// A secret with this lease of the server's.
    Lease(String),
    /// A secret that only time ends.
    Expiring,
    /// A secret that nothing here ends.
    Stored,
}

const EXPIRING: &str = "expiring";
const STORED: &str = "stored";

impl Name {
    /// The name before the secret is there.
    pub(super) fn before(accessor: &str, kind: Kind) -> Self {
        Self {
            accessor: accessor.to_owned(),
            rest: match kind {
                Kind::Leased | Kind::Token => Rest::Token,
                Kind::Expiring => Rest::Expiring,
                Kind::Stored => Rest::Stored,
            },
        }
    }

    /// Reads a handle. A lease's id always has a `/`, so it is none of the words.
    pub(super) fn of(handle: &Handle) -> Self {
        let (accessor, rest) = handle.0.split_once(' ').unwrap_or((&handle.0, ""));
        Self {
            accessor: accessor.to_owned(),
            rest: match rest {
                "" => Rest::Token,
                EXPIRING => Rest::Expiring,
                STORED => Rest::Stored,
                lease => Rest::Lease(lease.to_owned()),
            },
        }
    }

    /// Writes a handle.
    pub(super) fn handle(&self) -> Handle {
        let rest = match &self.rest {
            Rest::Token => return Handle(self.accessor.clone()),
            Rest::Lease(id) => id,
            Rest::Expiring => EXPIRING,
            Rest::Stored => STORED,
        };
        Handle(format!("{} {rest}", self.accessor))
    }
}

/// Whether an accessor or a lease's id is one word that can be written down.
pub(super) fn is_word(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_says_the_same_both_ways() {
        for text in [
            "8609694a",
            "8609694a.ns1 database/creds/orders/2f6a",
            "a expiring",
            "a stored",
        ] {
            let handle = Handle(text.into());
            assert_eq!(Name::of(&handle).handle(), handle);
        }
        assert_eq!(
            Name::of(&Handle("a database/creds/b/c".into())).rest,
            Rest::Lease("database/creds/b/c".into())
        );
    }
}
