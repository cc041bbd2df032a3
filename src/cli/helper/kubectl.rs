//! kubectl, and whoever shares its client: the protocol of exec plug-ins
//! (`client.authentication.k8s.io`, `ExecCredential`).

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::Source;
use crate::cli::exec::wallet::Ask;
use crate::cli::exit::Exit;
use crate::cli::terminal::Terminal;
use crate::model::credential::Credential;
use crate::model::origin::Origin;
use crate::model::time::Timestamp;

/// The versions of the protocol that are spoken; the first where none is named.
const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];
/// The variable with the question.
const INFO: &str = "KUBERNETES_EXEC_INFO";

/// Prints a token for the cluster that kubectl is about to call.
pub(super) async fn run(source: Source, terminal: &Terminal) -> anyhow::Result<Exit> {
    let info = std::env::var_os(INFO).context("this is for kubectl to call, as the `exec` of a user")?;
    let (version, origin) = read(&info.to_string_lossy())?;
    let ask = Ask {
        kind: "bearer_token".to_owned(),
        origins: Some(vec![origin]),
        ..Ask::default()
    };
    let issued = source.give(ask).await?;
    let Credential::Bearer(token) = &issued.credential else {
        bail!("this credential is no token");
    };
    // Whole seconds, as the API server writes them. Without it kubectl would keep the token for ever.
    let until = Timestamp::from_secs(issued.expires_at.as_secs()).to_string();
    terminal.value(&json!({
        "apiVersion": version,
        "kind": "ExecCredential",
        "status": { "token": token.expose(), "expirationTimestamp": until.replace(".000Z", "Z") },
    }))?;
    Ok(Exit::Done)
}

/// The version to answer in, and where the token will be sent.
fn read(info: &str) -> anyhow::Result<(&'static str, Origin)> {
    let info: Value = serde_json::from_str(info).with_context(|| format!("{INFO} cannot be read"))?;
    let asked = info.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let version = VERSIONS.into_iter().find(|version| *version == asked);
    let version = version.with_context(|| format!("kubectl speaks `{asked}`, which is not known here"))?;
    let server = info.pointer("/spec/cluster/server").and_then(Value::as_str);
    let server =
        server.context("set `provideClusterInfo: true`: a token is given for a known cluster only")?;
    let origin = Origin::of(server).with_context(|| format!("`{server}` is no place of HTTP"))?;
    Ok((version, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_answered_in_its_own_version_for_a_known_cluster() {
        let info = |version: &str, spec: Value| {
            json!({"apiVersion": version, "kind": "ExecCredential", "spec": spec}).to_string()
        };
        let cluster = json!({"interactive": false, "cluster": {"server": "https://k8s.example.org:6443/x"}});
        for version in VERSIONS {
            let (answered, origin) = read(&info(version, cluster.clone())).unwrap();
            assert_eq!(
                (answered, origin.as_str()),
                (version, "https://k8s.example.org:6443")
            );
        }
        for bad in [
            info("client.authentication.k8s.io/v1alpha1", cluster),
            info(VERSIONS[0], json!({"interactive": false})),
            info(VERSIONS[0], json!({"cluster": {"server": "unix:///x"}})),
            "{".to_owned(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
