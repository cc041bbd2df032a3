//! Exit codes, so that scripts can tell a denial from a fault. Documented in `docs/reference/cli.md`.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It did what it was asked to.
    Done,
    /// It failed for a reason without a code of its own.
    Failed,
    /// It was called wrongly.
    Usage,
    /// Policy, the registry or the evidence says no.
    Denied,
    /// Somebody has to approve first.
    Pending,
    /// What was looked for does not exist, or is not the caller's to see.
    NotFound,
    /// The broker cannot be reached, or cannot work now.
    Unreachable,
    /// A verification found a fault: the journal, a receipt, a policy test, the configuration.
    Unverified,
    /// The task of a program was ended by somebody else while it ran.
    Ended,
    /// A program was run, or could not be, and this is its code.
    Program(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Denied => 3,
            Exit::Pending => 4,
            Exit::NotFound => 5,
            Exit::Unreachable => 6,
            Exit::Unverified => 7,
            Exit::Ended => 8,
            Exit::Program(code) => code,
        })
    }
}
