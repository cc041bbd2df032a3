//! `dayfly config`: what can be configured.

use clap::Subcommand;

use super::exit::Exit;
use super::terminal::Terminal;
use crate::config::schema;

/// `dayfly config …`
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Print a configuration file with every option, its default and what it means.
    Full,
}

impl ConfigCommand {
    /// Runs it.
    pub fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Schema if terminal.is_json() => terminal.value(&schema::schema())?,
            Self::Schema => terminal.line(serde_json::to_string_pretty(&schema::schema())?)?,
            Self::Full => terminal.line(schema::FULL.trim_end())?,
        }
        Ok(Exit::Done)
    }
}
