//! `dayfly token`: ask the broker about a token, or hand one in to be ended. The token comes on standard
//! input: the arguments of a process are for everybody on the machine to read.

use std::io::{self, Read};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

use super::exit::Exit;
use super::terminal::Terminal;
use super::{Remote, answer};
use crate::keys::issuer::Issuer;
use crate::model::secret::Secret;

/// `dayfly token …`
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Ask whether the token on standard input may be relied on now. By permit, for tools that one serves.
    Introspect(Remote),
    /// End the token on standard input, one's own or, by permit, another's.
    Revoke(Remote),
}

impl TokenCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let token = read(io::stdin().lock())?;
        let form = [("token", token.expose())];
        match self {
            Self::Introspect(remote) => {
                let found = remote.client()?.form("/oauth2/introspect", &form).await?;
                answer::print(terminal, &found)?;
                // So that a script can ask.
                Ok(match found.get("active") == Some(&json!(true)) {
                    true => Exit::Done,
                    false => Exit::Denied,
                })
            }
            Self::Revoke(remote) => {
                let answered: Value = remote.client()?.form("/oauth2/revoke", &form).await?;
                debug_assert!(answered.is_null(), "the answer is empty");
                if !terminal.is_json() {
                    terminal.note("if it was a live token of this broker, it is ended")?;
                }
                Ok(Exit::Done)
            }
        }
    }
}

/// One token, and white space around it.
fn read(input: impl Read) -> anyhow::Result<Secret> {
    let most = u64::try_from(Issuer::LONGEST_TOKEN)?;
    let mut text = String::new();
    let read = input.take(most + 2).read_to_string(&mut text);
    let text = Secret::new(text);
    read.context("the token on standard input cannot be read")?;
    let token = text.expose().trim();
    ensure!(!token.is_empty(), "no token came on standard input: pipe it in");
    ensure!(
        token.len() <= Issuer::LONGEST_TOKEN && !token.contains(char::is_whitespace),
        "what came on standard input is not the text of one token"
    );
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_token_and_nothing_else() {
        assert_eq!(read(&b" a.b.c\n"[..]).unwrap().expose(), "a.b.c");
        let long = "a".repeat(Issuer::LONGEST_TOKEN + 1);
        for bad in ["", " \n", "a b", "a\nb", &long] {
            let error = read(bad.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("aaa"), "{error}");
        }
        assert!(read(&b"\xff"[..]).is_err());
    }
}
