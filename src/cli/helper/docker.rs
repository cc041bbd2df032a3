//! docker, and whoever shares its credential helpers: podman, buildkit, helm, crane.

use serde_json::json;

use super::{Source, is_nothing, question};
use crate::cli::exec::wallet::Ask;
use crate::cli::exit::Exit;
use crate::cli::terminal::Terminal;
use crate::model::credential::Credential;
use crate::model::origin::Origin;

/// The name that goes with a token: registries look at the token alone.
const USERNAME: &str = "x-access-token";
/// By these very words docker knows that there is none, and goes on without.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Does what docker asks for. It reads the reason of a failure from standard output.
pub(super) async fn run(operation: &str, source: Source, terminal: &Terminal) -> anyhow::Result<Exit> {
    match operation {
        "get" => {}
        "list" => {
            terminal.line("{}")?;
            return Ok(Exit::Done);
        }
        "store" | "erase" => {
            question()?;
            return Ok(Exit::Done);
        }
        _ => {
            terminal.note(format!("`{operation}` is nothing that docker asks for"))?;
            return Ok(Exit::Usage);
        }
    }
    let server = question()?;
    let server = server.trim();
    let ask = Ask {
        kind: "bearer_token".to_owned(),
        origins: Some(places(server)),
        ..Ask::default()
    };
    match source.give(ask).await {
        Ok(issued) => {
            if let Credential::Bearer(token) = &issued.credential {
                let answer = json!({"ServerURL": server, "Username": USERNAME, "Secret": token.expose()});
                terminal.value(&answer)?;
            }
            Ok(Exit::Done)
        }
        Err(error) if is_nothing(&error) => {
            terminal.line(NOT_FOUND)?;
            Ok(Exit::Failed)
        }
        Err(error) => {
            terminal.line(format!("{error:#}"))?;
            Ok(Exit::Failed)
        }
    }
}

/// The places that a registry's name may mean: docker leaves out the scheme.
fn places(server: &str) -> Vec<Origin> {
    match server.contains("://") {
        true => Origin::of(server).into_iter().collect(),
        false => ["https", "http"]
            .iter()
            .filter_map(|scheme| Origin::of(&format!("{scheme}://{server}")))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_found_however_docker_writes_it() {
        let places = |server| places(server).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            places("registry.example.org:5000"),
            [
                "https://registry.example.org:5000",
                "http://registry.example.org:5000"
            ]
        );
        assert_eq!(places("https://index.docker.io/v1/"), ["https://index.docker.io"]);
        assert_eq!(
            places("registry.example.org/team")[0],
            "https://registry.example.org"
        );
        assert!(places("not a host").is_empty());
        assert!(places("").is_empty());
    }
}
