//! `dayfly check`: a configuration with everything that it names, without starting anything.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::app;
use crate::app::certificate::ServerCertificate;
use crate::clock::{Clock as _, SystemClock};
use crate::config;
use crate::model::time::Timestamp;

/// Which configuration.
#[derive(Args, Debug)]
pub struct Check {
    /// The configuration file.
    #[arg(long, default_value = "dayfly.toml", value_name = "FILE")]
    config: PathBuf,
}

impl Check {
    /// Reads everything and says all that is wrong at once.
    pub fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let checked = config::load(&self.config)
            .map_err(anyhow::Error::from)
            .and_then(|config| {
                let checked = app::rules::check(&config)?;
                let svids = config.server.takes_client_certificates();
                let svids = svids
                    .then(|| app::identity::svids(&config.identity))
                    .transpose()?;
                app::identity::build(&config.identity, svids)?;
                for tls in config.server.certificates() {
                    ServerCertificate::check(tls, SystemClock::new().now())?;
                }
                app::signals::build(&config, Timestamp::EPOCH)?;
                Ok(checked)
            });
        let checked = match checked {
            Ok(checked) => checked,
            Err(problems) => {
                if terminal.is_json() {
                    let lines: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
                    terminal.value(&json!({ "valid": false, "problems": lines }))?;
                } else {
                    terminal.line(format!("{problems:#}"))?;
                }
                return Ok(Exit::Unverified);
            }
        };
        let (agents, tools) = (
            checked.registry.agents().count(),
            checked.registry.tools().count() - 1,
        );
        let policies = checked.engine.policy_count();
        let revision = checked.engine.revision();
        if terminal.is_json() {
            let answer = json!({
                "valid": true, "agents": agents, "tools": tools, "policies": policies,
                "revision": revision, "warnings": checked.warnings,
            });
            terminal.value(&answer)?;
            return Ok(Exit::Done);
        }
        for warning in &checked.warnings {
            terminal.line(format!("{} {warning}", terminal.paint(Tone::Warn, "warning:")))?;
        }
        terminal.line(format!(
            "{} {agents} agents, {tools} tools, {policies} policies, revision {revision}",
            terminal.paint(Tone::Good, "valid:")
        ))?;
        Ok(Exit::Done)
    }
}
