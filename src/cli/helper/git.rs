//! git: the protocol of its credential helpers (`git help credential`, "Custom helpers").

use super::{Source, is_nothing, question};
use crate::cli::exec::task::Issued;
use crate::cli::exec::wallet::Ask;
use crate::cli::exit::Exit;
use crate::cli::terminal::Terminal;
use crate::model::access::ResourcePath;
use crate::model::credential::Credential;
use crate::model::origin::Origin;

/// The name that goes with a token where only a name and a password can be sent.
const USERNAME: &str = "x-access-token";

/// What git says.
#[derive(Debug, Default, PartialEq)]
struct Question {
    protocol: String,
    host: String,
    path: Option<String>,
    password: Option<String>,
    /// git can send what is no name and password.
    authtype: bool,
    /// The server asked for a bearer token, and not for a name and a password.
    bearer_only: bool,
}

impl Question {
    fn read(text: &str) -> Self {
        let mut read = Self::default();
        let (mut basic, mut bearer) = (false, false);
        for line in text.lines().take_while(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            match key {
                "protocol" => value.clone_into(&mut read.protocol),
                "host" => value.clone_into(&mut read.host),
                "path" => read.path = Some(value.to_owned()),
                "password" | "credential" => read.password = Some(value.to_owned()),
                "capability[]" => read.authtype |= value == "authtype",
                "wwwauth[]" => {
                    let scheme = value.split_whitespace().next().unwrap_or_default();
                    basic |= scheme.eq_ignore_ascii_case("basic");
                    bearer |= scheme.eq_ignore_ascii_case("bearer");
                }
                _ => {}
            }
        }
        read.bearer_only = bearer && !basic;
        read
    }

    /// Where git wants to send it; nothing where that is no place of HTTP.
    fn origin(&self) -> Option<Origin> {
        format!("{}://{}", self.protocol, self.host).parse().ok()
    }

    /// The repository, without what git asks for in it.
    fn resource(&self) -> Option<ResourcePath> {
        let path = self.path.as_deref()?.trim_matches('/');
        let repository = path
            .split_once(".git/")
            .map_or(path, |(repository, _)| repository);
        repository.strip_suffix(".git").unwrap_or(repository).parse().ok()
    }
}

/// Does what git asks for.
pub(super) async fn run(operation: &str, source: Source, terminal: &Terminal) -> anyhow::Result<Exit> {
    let question = Question::read(&question()?);
    let refused = match operation {
        "get" => None,
        // A server said no: there may be a better one.
        "erase" => match &question.password {
            Some(password) => Some(password.clone()),
            None => return Ok(Exit::Done),
        },
        // Nothing is stored, and what else git may say one day is none of ours.
        _ => return Ok(Exit::Done),
    };
    let Some(origin) = question.origin() else {
        return Ok(Exit::Done);
    };
    let erases = refused.is_some();
    if erases && std::env::var_os(crate::cli::exec::SOCKET).is_none() {
        return Ok(Exit::Done);
    }
    let ask = Ask {
        kind: "bearer_token".to_owned(),
        origins: Some(vec![origin]),
        resource: question.resource(),
        refused,
        ..Ask::default()
    };
    match source.give(ask).await {
        _ if erases => {}
        Ok(issued) => {
            for line in answer(&question, &issued) {
                terminal.line(line)?;
            }
        }
        // Another helper may have one.
        Err(error) if is_nothing(&error) => {}
        Err(error) => {
            // No other helper is asked, and nobody for a password.
            terminal.line("quit=1")?;
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

fn answer(question: &Question, issued: &Issued) -> Vec<String> {
    let Credential::Bearer(token) = &issued.credential else {
        return Vec::new();
    };
    let token = token.expose();
    let mut lines = match question.authtype && question.bearer_only {
        true => vec![
            "capability[]=authtype".to_owned(),
            "authtype=Bearer".to_owned(),
            format!("credential={token}"),
            "ephemeral=1".to_owned(),
        ],
        false => vec![format!("username={USERNAME}"), format!("password={token}")],
    };
    lines.push(format!("password_expiry_utc={}", issued.expires_at.as_secs()));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token() -> Issued {
        Issued::read(
            &json!({
                "credential": {"type": "bearer_token", "token": "eyJ"}, "lease": {"id": "lse_1"},
                "expires_at": "2026-11-22T10:00:00.000Z", "origins": ["https://git.example.org"],
            }),
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_question_of_git_names_a_place_and_a_repository() {
        let asked = Question::read(
            "protocol=https\nhost=git.example.org:8443\npath=team/repo.git/info/lfs\n\nhost=x\n",
        );
        assert_eq!(asked.origin().unwrap().as_str(), "https://git.example.org:8443");
        assert_eq!(asked.resource().unwrap().as_str(), "team/repo");
        let asked = Question::read("protocol=https\nhost=git.example.org\npath=team/repo.git\n");
        assert_eq!(asked.resource().unwrap().as_str(), "team/repo");
        assert_eq!(
            Question::read("protocol=ssh\nhost=git.example.org\n").origin(),
            None
        );
        assert_eq!(Question::read("").origin(), None);
    }

    #[test]
    fn a_server_that_takes_passwords_gets_the_token_as_one() {
        let asked = Question::read(
            "capability[]=authtype\nprotocol=https\nhost=git.example.org\nwwwauth[]=Basic realm=\"git\"\n\
             wwwauth[]=Bearer\n",
        );
        let expected = [
            "username=x-access-token",
            "password=eyJ",
            "password_expiry_utc=1795341600",
        ];
        assert_eq!(answer(&asked, &token()), expected);
        let old = Question::read("protocol=https\nhost=git.example.org\nwwwauth[]=Bearer realm=\"git\"\n");
        assert_eq!(answer(&old, &token()), expected, "git of before 2.46");
    }

    #[test]
    fn a_server_that_asks_for_bearer_tokens_alone_gets_one() {
        let asked = Question::read(
            "capability[]=authtype\nprotocol=https\nhost=git.example.org\nwwwauth[]=bearer realm=\"git\"\n",
        );
        assert_eq!(
            answer(&asked, &token()),
            [
                "capability[]=authtype",
                "authtype=Bearer",
                "credential=eyJ",
                "ephemeral=1",
                "password_expiry_utc=1795341600"
            ]
        );
    }
}
