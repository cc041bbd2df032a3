//! What the workload receives, once. Never stored.

use super::secret::Secret;

/// A credential for one tool. Its secrets do not print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A token for the `Authorization: Bearer` header (RFC 6750).
    Bearer(Secret),
}

impl Credential {
    /// The word that the API uses for this kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "bearer_token",
        }
    }
}
