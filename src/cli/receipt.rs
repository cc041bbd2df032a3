//! `dayfly receipt`: verify what a broker signed about the end of a lease, offline.

use std::io::{self, BufRead, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::journal::note::NoteVerifier;
use crate::journal::receipt::{self, Claims, InvalidReceipt};
use crate::model::lease::Receipt;

/// `dayfly receipt …`
#[derive(Subcommand, Debug)]
pub enum ReceiptCommand {
    /// Verify receipts with the key of the journal alone, and say what each of them proves.
    Verify(Verify),
}

/// Which receipts, and whose.
#[derive(Args, Debug)]
pub struct Verify {
    /// The receipt: a compact JWS. Without one, or with `-`, receipts are read from standard input, one a line.
    receipt: Option<String>,
    /// The file with the audit key (`vkey`) of a broker that is trusted to state ends. May be given several times.
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
}

impl ReceiptCommand {
    /// Runs it.
    pub fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Verify(command) => command.run(terminal, io::stdin().lock()),
        }
    }
}

impl Verify {
    /// All of them are looked at, whatever is wrong with one.
    fn run(self, terminal: &Terminal, input: impl BufRead) -> anyhow::Result<Exit> {
        let keys = self.keys.iter().map(|path| key(path));
        let keys: Vec<NoteVerifier> = keys.collect::<anyhow::Result<_>>()?;
        let mut exit = Exit::Done;
        let mut check = |text: &str| -> anyhow::Result<()> {
            let verified = receipt::verify(text, &keys);
            if verified.is_err() {
                exit = Exit::Unverified;
            }
            Ok(tell(terminal, verified)?)
        };
        match self.receipt.as_deref() {
            Some(text) if text != "-" => check(text.trim())?,
            _ => each_line(input, check)?,
        }
        Ok(exit)
    }
}

fn key(path: &Path) -> anyhow::Result<NoteVerifier> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.trim().parse().with_context(|| path.display().to_string())
}

/// Lines of any length are refused one by one; no more of a line is read than a receipt may have.
fn each_line(
    mut input: impl BufRead,
    mut check: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let most = u64::try_from(receipt::LONGEST + 2)?;
    let mut seen = false;
    loop {
        let mut line = Vec::new();
        if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && line.len() > receipt::LONGEST {
            input.skip_until(b'\n')?;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() {
            seen = true;
            check(text)?;
        }
    }
    if !seen {
        bail!("there is no receipt to verify: give one as an argument, or on standard input");
    }
    Ok(())
}

fn tell(terminal: &Terminal, verified: Result<(Claims, &NoteVerifier), InvalidReceipt>) -> io::Result<()> {
    let (claims, key) = match verified {
        Ok(verified) => verified,
        Err(fault) if terminal.is_json() => {
            return terminal.value(&json!({ "valid": false, "fault": fault.to_string() }));
        }
        Err(fault) => {
            return terminal.line(format!("{} {fault}", terminal.paint(Tone::Bad, "refused:")));
        }
    };
    if terminal.is_json() {
        return terminal.value(&answer(&claims, key));
    }
    let handle = claims.handle.as_ref();
    let handle = handle.map_or_else(String::new, |handle| format!(", there named {handle}"));
    terminal.line(format!(
        "{} {} ended ({}): {}",
        terminal.paint(Tone::Good, "genuine:"),
        claims.lease,
        claims.cause.as_str(),
        proven(claims.receipt)
    ))?;
    terminal.line(format!(
        "  {} for {}, of {}, by provider {}{handle}",
        claims.tool, claims.agent, claims.task, claims.provider
    ))?;
    let stated = format!(
        "  stated by {} at {}, with the key {}",
        claims.issuer,
        claims.at,
        key.name()
    );
    terminal.line(terminal.paint(Tone::Faint, &stated))
}

/// What the proof comes to, in words, and no more than that.
fn proven(receipt: Receipt) -> String {
    let (word, at) = (receipt.as_str(), receipt.at());
    let means = match receipt {
        Receipt::VerifiedAbsent { .. } => "the provider was asked then, and had it no more",
        Receipt::DeniedAt { .. } => "resource servers were told to refuse it from then on",
        Receipt::ExpiresAt { .. } => "nobody could be asked; it ended by itself then",
        Receipt::Outlived { .. } => "only the lease was over then; nothing ended the credential",
        Receipt::Abandoned { .. } => "somebody gave up ending it then; nobody says that it is gone",
    };
    format!("{word} {at}, {means}")
}

fn answer(claims: &Claims, key: &NoteVerifier) -> Value {
    json!({
        "valid": true,
        "key": key.to_string(),
        "issuer": claims.issuer,
        "signed_at": claims.at,
        "lease": claims.lease,
        "task": claims.task,
        "agent": claims.agent,
        "tool": claims.tool,
        "provider": claims.provider,
        "handle": claims.handle,
        "cause": claims.cause,
        "proof": claims.receipt.as_str(),
        "proven_at": claims.receipt.at(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_taken_one_by_one() {
        let long = "A".repeat(3 * receipt::LONGEST);
        let fits = "B".repeat(receipt::LONGEST);
        let input = format!("\n one \n{long}\n{fits}\r\nlast");
        let mut seen = Vec::new();
        let check = |text: &str| {
            seen.push(text.to_owned());
            Ok(())
        };
        each_line(input.as_bytes(), check).unwrap();
        let lengths: Vec<usize> = seen.iter().map(String::len).collect();
        assert_eq!(lengths, [3, receipt::LONGEST + 2, receipt::LONGEST, 4]);
        assert_eq!((&*seen[0], &*seen[3]), ("one", "last"));
        assert!(each_line(&b"\n\n"[..], |_| Ok(())).is_err());
    }
}
