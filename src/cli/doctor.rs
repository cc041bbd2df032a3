//! `dayfly doctor`: the surroundings of a broker, and what is unsafe about them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::app::doctor::{self, Verdict};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::entropy::OsEntropy;

/// Which configuration.
#[derive(Args, Debug)]
pub struct Doctor {
    /// The configuration file.
    #[arg(long, default_value = "dayfly.toml", value_name = "FILE")]
    config: PathBuf,
}

impl Doctor {
    /// Looks, and says how it stands. Fails unless all is as it should be.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let config = config::load(&self.config)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let findings = doctor::examine(&config, &clock, &OsEntropy::new()).await;
        for finding in &findings {
            if terminal.is_json() {
                terminal.value(finding)?;
                continue;
            }
            let (word, tone) = match finding.verdict {
                Verdict::Fine => ("fine   ", Tone::Good),
                Verdict::Unknown => ("unknown", Tone::Warn),
                Verdict::Unsafe => ("unsafe ", Tone::Warn),
                Verdict::Broken => ("broken ", Tone::Bad),
            };
            terminal.line(format!(
                "{}  {}: {}",
                terminal.paint(tone, word),
                finding.about,
                finding.seen
            ))?;
            if let Some(remedy) = &finding.remedy {
                terminal.line(terminal.paint(Tone::Faint, &format!("         {remedy}")))?;
            }
        }
        let fine = findings.iter().all(|finding| finding.verdict == Verdict::Fine);
        Ok(if fine { Exit::Done } else { Exit::Unverified })
    }
}
