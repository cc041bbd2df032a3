//! Bearer tokens for git, docker and kubectl: each asks a helper of its own protocol, for the places of the tool
//! alone. Nothing here holds a token: the helpers ask the socket.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::environment::Environment;
use super::folder::Folder;
use super::wallet::Wallet;
use crate::cli::helper::LINKS;
use crate::model::origin::Origin;

const KIND: &str = "bearer_token";
/// The name of a kubeconfig's user, and the file here.
const KUBECONFIG: &str = "kubeconfig.json";

/// Where tokens of this task may be sent.
fn origins(wallet: &Wallet) -> BTreeSet<Origin> {
    wallet
        .of_kind(KIND)
        .flat_map(|entry| entry.issued().origins)
        .collect()
}

/// Sets git and docker up. Where the task has no token, git has none either: what was inherited for it is taken out.
pub(super) fn give(
    wallet: &Wallet,
    folder: &Folder,
    environment: &mut Environment,
    itself: &Path,
) -> anyhow::Result<()> {
    let origins = origins(wallet);
    git(&origins, environment, itself);
    if wallet.of_kind(KIND).next().is_none() {
        return Ok(());
    }
    let docker = folder.folder("docker")?;
    folder.write("docker/config.json", &docker_config(&origins).to_string())?;
    environment.set("DOCKER_CONFIG", docker);
    let links = folder.folder("bin")?;
    for (name, _) in LINKS {
        symlink(itself, links.join(name))?;
    }
    let search = environment.take("PATH").unwrap_or_default();
    let search = std::iter::once(links).chain(std::env::split_paths(&search));
    environment.set("PATH", std::env::join_paths(search)?);
    Ok(())
}

/// Configuration of git by the environment, behind what was inherited of it: no helper but ours, and ours for
/// these places.
fn git(origins: &BTreeSet<Origin>, environment: &mut Environment, itself: &Path) {
    let mut settings = inherited_settings(environment);
    settings.push(("credential.helper".into(), OsString::new()));
    let quoted = itself.display().to_string().replace('\'', "'\\''");
    for origin in origins {
        let key = |name: &str| OsString::from(format!("credential.{origin}.{name}"));
        settings.push((key("helper"), OsString::new()));
        settings.push((key("helper"), format!("!'{quoted}' credential git").into()));
        settings.push((key("useHttpPath"), "true".into()));
    }
    // Git reads no further than the count, and whoever looks at the environment does.
    environment.drop_beginning("GIT_CONFIG_KEY_");
    environment.drop_beginning("GIT_CONFIG_VALUE_");
    environment.set("GIT_CONFIG_COUNT", settings.len().to_string());
    for (at, (key, value)) in settings.into_iter().enumerate() {
        environment.set(&format!("GIT_CONFIG_KEY_{at}"), key);
        environment.set(&format!("GIT_CONFIG_VALUE_{at}"), value);
    }
}

/// What was inherited in this way, without what carries credentials.
fn inherited_settings(environment: &mut Environment) -> Vec<(OsString, OsString)> {
    let count = environment.take("GIT_CONFIG_COUNT");
    let count = count.and_then(|count| count.to_str()?.parse::<usize>().ok());
    let mut settings = Vec::new();
    for at in 0..count.unwrap_or_default().min(1000) {
        let key = environment.take(&format!("GIT_CONFIG_KEY_{at}"));
        let value = environment.take(&format!("GIT_CONFIG_VALUE_{at}"));
        let (Some(key), Some(value)) = (key, value) else {
            continue;
        };
        let name = key.to_string_lossy().to_ascii_lowercase();
        if name.starts_with("credential.") || name.ends_with(".extraheader") || name.contains("@") {
            environment.withhold(format!("GIT_CONFIG_VALUE_{at}"));
        } else {
            settings.push((key, value));
        }
    }
    settings
}

/// Docker knows registries by host and port.
fn docker_config(origins: &BTreeSet<Origin>) -> Value {
    let hosts = origins
        .iter()
        .filter_map(|origin| origin.as_str().split_once("://"));
    let helpers: Map<String, Value> = hosts
        .map(|(_, host)| (host.to_owned(), json!("dayfly")))
        .collect();
    json!({ "credHelpers": helpers })
}

/// Sets kubectl up with the clusters and contexts of a file, and a user for each tool: its own name.
pub(super) fn kubectl(
    given: &Path,
    wallet: &Wallet,
    folder: &Folder,
    environment: &mut Environment,
    itself: &Path,
) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(given).with_context(|| format!("{} cannot be read", given.display()))?;
    if let Some(found) = credential_in(&text) {
        bail!(
            "{}: it has a `{found}`: take the users out, and name a tool as the `user` of each context",
            given.display()
        );
    }
    let users = wallet.of_kind(KIND).map(|entry| kube_user(entry.name(), itself));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "users": users.collect::<Vec<_>>(),
        "clusters": [], "contexts": [], "preferences": {},
    });
    let ours = folder.write(KUBECONFIG, &config.to_string())?;
    let given: PathBuf = std::path::absolute(given)?;
    // kubectl puts them together, and of each name the first one counts.
    environment.set("KUBECONFIG", std::env::join_paths([ours, given])?);
    Ok(())
}

fn kube_user(name: &str, itself: &Path) -> Value {
    json!({
        "name": name,
        "user": { "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": itself,
            "args": ["credential", "kubectl", "--tool", name],
            "interactiveMode": "Never",
            "provideClusterInfo": true,
        }},
    })
}

/// A member of a kubeconfig that holds a credential, or says how to get one. Looked for as a word before a colon,
/// in YAML or JSON; a name that happens to be one of these is refused too.
fn credential_in(text: &str) -> Option<&'static str> {
    const MEMBERS: [&str; 11] = [
        "token",
        "tokenFile",
        "username",
        "password",
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "auth-provider",
        "exec",
        "as",
    ];
    let keys: BTreeSet<&str> = text
        .split([',', '{', '}', '\n', '\r'])
        .filter_map(|part| part.split_once(':'))
        .map(|(key, _)| key.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '-' | '?')))
        .collect();
    MEMBERS.into_iter().find(|member| keys.contains(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(origins: &[&str]) -> BTreeSet<Origin> {
        origins.iter().map(|origin| origin.parse().unwrap()).collect()
    }

    #[test]
    fn git_asks_nobody_but_us_and_us_for_the_places_of_the_tool_alone() {
        let inherited = [
            ("GIT_CONFIG_COUNT", "3"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
            ("GIT_CONFIG_KEY_1", "http.https://git.example.org/.extraHeader"),
            ("GIT_CONFIG_VALUE_1", "Authorization: Basic c2VjcmV0"),
            ("GIT_CONFIG_KEY_2", "credential.helper"),
            ("GIT_CONFIG_VALUE_2", "store"),
        ];
        let mut environment = Environment::scrubbed(inherited.map(|(n, v)| (n.into(), v.into())), &[]);
        git(
            &places(&["https://git.example.org"]),
            &mut environment,
            Path::new("/opt/it's/dayfly"),
        );
        let said = |name: &str| environment.get(name).unwrap().to_str().unwrap();
        assert_eq!(said("GIT_CONFIG_COUNT"), "5");
        assert_eq!(
            environment.withheld(),
            ["GIT_CONFIG_VALUE_1", "GIT_CONFIG_VALUE_2"]
        );
        let settings: Vec<(&str, &str)> = (0..5)
            .map(|at| (said_key(&environment, at), said_value(&environment, at)))
            .collect();
        assert_eq!(
            settings,
            [
                ("safe.directory", "*"),
                ("credential.helper", ""),
                ("credential.https://git.example.org.helper", ""),
                (
                    "credential.https://git.example.org.helper",
                    "!'/opt/it'\\''s/dayfly' credential git"
                ),
                ("credential.https://git.example.org.useHttpPath", "true"),
            ]
        );
    }

    #[test]
    fn a_task_without_tokens_has_none_of_git_either() {
        let inherited = [
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "http.https://git.example.org/.extraHeader"),
            ("GIT_CONFIG_VALUE_0", "Authorization: Basic c2VjcmV0"),
            ("GIT_CONFIG_KEY_7", "http.extraHeader"),
            ("GIT_CONFIG_VALUE_7", "Authorization: Basic c2VjcmV0"),
        ];
        let mut environment = Environment::scrubbed(inherited.map(|(n, v)| (n.into(), v.into())), &[]);
        let wallet = Wallet::holding(&[], std::sync::Arc::new(crate::clock::SystemClock::new()));
        let place = tempfile::tempdir().unwrap();
        let runtime = Some(place.path().to_owned());
        let folder = Folder::make(runtime, &crate::entropy::OsEntropy::new()).unwrap();
        give(&wallet, &folder, &mut environment, Path::new("/opt/dayfly")).unwrap();
        let left: Vec<_> = environment.variables().iter().collect();
        let left: Vec<_> = left
            .iter()
            .map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap()))
            .collect();
        assert_eq!(
            left,
            [
                ("GIT_CONFIG_COUNT", "1"),
                ("GIT_CONFIG_KEY_0", "credential.helper"),
                ("GIT_CONFIG_VALUE_0", ""),
            ]
        );
        assert_eq!(environment.withheld(), ["GIT_CONFIG_VALUE_0"]);
    }

    fn said_key(environment: &Environment, at: usize) -> &str {
        environment
            .get(&format!("GIT_CONFIG_KEY_{at}"))
            .unwrap()
            .to_str()
            .unwrap()
    }

    fn said_value(environment: &Environment, at: usize) -> &str {
        environment
            .get(&format!("GIT_CONFIG_VALUE_{at}"))
            .unwrap()
            .to_str()
            .unwrap()
    }

    #[test]
    fn docker_asks_for_the_hosts_of_the_tool() {
        assert_eq!(
            docker_config(&places(&[
                "https://registry.example.org",
                "http://127.0.0.1:5000"
            ])),
            json!({"credHelpers": {"registry.example.org": "dayfly", "127.0.0.1:5000": "dayfly"}})
        );
    }

    #[test]
    fn a_kubeconfig_with_credentials_is_told_from_one_without() {
        let without = "apiVersion: v1\nclusters:\n- name: prod\n  cluster:\n    server: https://k8s.example.org\n    \
                       certificate-authority-data: QQ==\ncontexts:\n- name: prod\n  context: {cluster: prod, user: k8s}\n";
        assert_eq!(credential_in(without), None);
        for (with, member) in [
            ("users:\n- name: me\n  user:\n    token: abc\n", "token"),
            (
                "users: [{name: me, user: {client-key-data: abc}}]",
                "client-key-data",
            ),
            (
                r#"{"users":[{"name":"me","user":{"exec":{"command":"aws"}}}]}"#,
                "exec",
            ),
            ("- token: abc", "token"),
            ("  'password' : abc", "password"),
        ] {
            assert_eq!(credential_in(with), Some(member), "{with}");
        }
    }
}
