//! AWS: what a `credential_process` of a profile prints.

use serde_json::Value;

use super::Source;
use crate::cli::exec::aws::session;
use crate::cli::exec::wallet::Ask;
use crate::cli::exit::Exit;
use crate::cli::terminal::Terminal;

/// Prints a session. A failure is told on standard error, which SDKs show their user.
pub(super) async fn run(source: Source, terminal: &Terminal) -> anyhow::Result<Exit> {
    let ask = Ask {
        kind: "aws_session".to_owned(),
        ..Ask::default()
    };
    let issued = source.give(ask).await?;
    let mut session = session(&issued, "SessionToken");
    if let Value::Object(members) = &mut session {
        members.insert("Version".to_owned(), 1.into());
    }
    terminal.value(&session)?;
    Ok(Exit::Done)
}
