//! `dayfly reconcile`: compare what providers hold with the ledger, now.

use clap::Args;
use serde_json::json;

use super::Remote;
use super::answer::{self, field};
use super::exit::Exit;
use super::terminal::Terminal;

/// `dayfly reconcile`
#[derive(Args, Debug)]
pub struct Reconcile {
    #[command(flatten)]
    remote: Remote,
}

impl Reconcile {
    /// Runs it. Fails when something could not be compared or ended.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let found = self
            .remote
            .client()?
            .post("/v1/reconciliations", json!({}))
            .await?;
        let providers = answer::list(&found, "providers");
        let clean = providers
            .iter()
            .all(|one| field(one, "failed") == "0" && field(one, "error").is_empty());
        if terminal.is_json() {
            terminal.value(&found)?;
        } else {
            let columns = [
                "provider", "listed", "orphans", "undead", "ghosts", "ended", "failed", "error",
            ];
            let rows: Vec<Vec<String>> = providers
                .iter()
                .map(|one| columns.iter().map(|name| field(one, name)).collect())
                .collect();
            let headings = columns.map(str::to_uppercase);
            terminal.table(&headings.each_ref().map(String::as_str), &rows)?;
        }
        Ok(if clean { Exit::Done } else { Exit::Failed })
    }
}
