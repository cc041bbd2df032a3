//! AWS sessions for programs that know nothing of Dayfly: the container credentials endpoint for the first tool,
//! which every SDK asks again and again, and a profile with a `credential_process` for each.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::environment::Environment;
use super::folder::{Folder, hex};
use super::task::Issued;
use super::wallet::{Ask, Wallet};
use crate::entropy::{Entropy, draw};
use crate::model::credential::Credential;
use crate::model::secret::Secret;

/// The kind of credential.
const KIND: &str = "aws_session";

/// What the endpoint answers from.
struct Endpoint {
    wallet: Arc<Wallet>,
    name: String,
    /// `127.0.0.1:<port>`, the only name that it answers to.
    host: String,
    token: Secret,
}

/// Serves the endpoint until stopped, and writes down in the environment and the folder where it is. Nothing where
/// the task has no session of AWS.
pub(super) async fn serve(
    wallet: &Arc<Wallet>,
    folder: &Folder,
    environment: &mut Environment,
    itself: &Path,
    entropy: &dyn Entropy,
    stop: CancellationToken,
) -> anyhow::Result<Option<impl Future<Output = ()> + Send + use<>>> {
    let Some(first) = wallet.of_kind(KIND).next() else {
        return Ok(None);
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let host = listener.local_addr()?.to_string();
    let random = || draw::<32>(entropy).map(|bytes| hex(&bytes));
    let (path, token) = (format!("/{}", random()?), random()?);

    let profiles: Vec<(String, Option<String>)> = wallet
        .of_kind(KIND)
        .map(|entry| (entry.name().to_owned(), region(&entry.issued())))
        .collect();
    environment.set(
        "AWS_CONFIG_FILE",
        folder.write("aws-config", &config(&profiles, itself))?,
    );
    environment.set(
        "AWS_SHARED_CREDENTIALS_FILE",
        folder.write("aws-credentials", "")?,
    );
    environment.set(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        format!("http://{host}{path}"),
    );
    // Without a newline at its end: botocore takes that for a forged header.
    environment.set(
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        folder.write("aws-token", &token)?,
    );
    // Where this endpoint fails, nobody goes on to ask for the role of the machine.
    environment.set("AWS_EC2_METADATA_DISABLED", "true");
    if let Some(region) = region(&first.issued()) {
        environment.set("AWS_REGION", region.clone());
        environment.set("AWS_DEFAULT_REGION", region);
    }

    let endpoint = Arc::new(Endpoint {
        wallet: wallet.clone(),
        name: first.name().to_owned(),
        host,
        token: Secret::new(token),
    });
    let router = Router::new().route(&path, get(answer)).with_state(endpoint);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    Ok(Some(async move {
        let _ = serving.await;
    }))
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap) -> Response {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    // A page in a browser whose name was pointed here says the name that it came by.
    if text(header::HOST) != endpoint.host {
        return refuse(StatusCode::FORBIDDEN, "this is not the host that was asked for");
    }
    if Secret::new(text(header::AUTHORIZATION)) != endpoint.token {
        return refuse(
            StatusCode::FORBIDDEN,
            "the authorization token is missing or wrong",
        );
    }
    let ask = Ask {
        kind: KIND.to_owned(),
        name: Some(endpoint.name.clone()),
        ..Ask::default()
    };
    let session = match endpoint.wallet.give(&ask).await {
        Ok(issued) => session(&issued, "Token"),
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let body = session.to_string();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
}

/// SDKs show `message` to their user.
fn refuse(status: StatusCode, why: &str) -> Response {
    let body = json!({ "code": "DayflyRefused", "message": why }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A session as the SDKs read it. The token is called `Token` by the endpoint and `SessionToken` by a
/// `credential_process`.
pub(in crate::cli) fn session(issued: &Issued, token: &str) -> Value {
    let Credential::AwsSession {
        access_key_id,
        secret_access_key,
        session_token,
        ..
    } = &issued.credential
    else {
        return Value::Null;
    };
    json!({
        "AccessKeyId": access_key_id,
        "SecretAccessKey": secret_access_key.expose(),
        token: session_token.expose(),
        // Whole seconds: not every SDK reads fractions.
        "Expiration": crate::model::time::Timestamp::from_secs(issued.expires_at.as_secs())
            .to_string()
            .replace(".000Z", "Z"),
    })
}

fn region(issued: &Issued) -> Option<String> {
    match &issued.credential {
        Credential::AwsSession { region, .. } => region.clone(),
        _ => None,
    }
}

/// The config file: a profile a tool. The default has no credentials of its own, or the SDKs would not ask the
/// endpoint.
fn config(profiles: &[(String, Option<String>)], itself: &Path) -> String {
    let mut text = String::new();
    let region = |region: &Option<String>| match region {
        Some(region) => format!("region = {region}\n"),
        None => String::new(),
    };
    if let Some((_, first)) = profiles.first() {
        text.push_str(&format!("[default]\n{}", region(first)));
    }
    for (name, of) in profiles {
        text.push_str(&format!(
            "\n[profile {name}]\n{}credential_process = \"{}\" credential aws --tool {name}\n",
            region(of),
            itself.display()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_in_the_words_of_each_protocol() {
        let issued = Issued::read(
            &json!({
                "credential": {"type": "aws_session", "access_key_id": "ASIA", "secret_access_key": "s",
                    "session_token": "t"},
                "lease": {"id": "lse_1"}, "expires_at": "2026-11-22T10:00:00.999Z", "origins": [],
            }),
            None,
        )
        .unwrap();
        assert_eq!(
            session(&issued, "Token"),
            json!({"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t",
                "Expiration": "2026-11-22T10:00:00Z"})
        );
        assert_eq!(session(&issued, "SessionToken")["SessionToken"], "t");
    }

    #[tokio::test]
    async fn the_endpoint_answers_its_own_program_and_nobody_else() {
        let held = json!({
            "credential": {"type": "aws_session", "access_key_id": "ASIA", "secret_access_key": "hunter2",
                "session_token": "t", "region": "eu-central-1"},
            "lease": {"id": "lse_1"}, "expires_at": "2126-11-22T10:00:00Z", "origins": [],
        });
        let clock = Arc::new(crate::clock::SystemClock::new());
        let wallet = Arc::new(Wallet::holding(&[("reports:read", held)], clock));
        let place = tempfile::tempdir().unwrap();
        let entropy = crate::entropy::OsEntropy::new();
        let folder = Folder::make(Some(place.path().to_owned()), &entropy).unwrap();
        let mut environment = Environment::default();
        let itself = Path::new("/opt/dayfly");
        let stop = CancellationToken::new();
        let serving = serve(&wallet, &folder, &mut environment, itself, &entropy, stop);
        let serving = serving.await.unwrap().unwrap();
        let said = |name: &str| environment.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(said("AWS_DEFAULT_REGION"), "eu-central-1");
        let url = said("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let token = std::fs::read_to_string(said("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")).unwrap();
        assert_eq!(
            (token.len(), token.trim()),
            (64, token.as_str()),
            "botocore takes no newline"
        );
        assert_eq!(
            std::fs::read_to_string(said("AWS_SHARED_CREDENTIALS_FILE")).unwrap(),
            ""
        );

        // The first one counts, and all are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::ClientBuilder::new().no_proxy().build().unwrap();
        let port = url.split([':', '/']).nth(4).unwrap().to_owned();
        let get = async |url: &str, token: Option<&str>, host: Option<&str>| {
            let mut request = client.get(url);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let checks = async {
            let (status, body) = get(&url, Some(&token), None).await;
            assert_eq!(status, 200, "{body}");
            let read: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(read["SecretAccessKey"], "hunter2");
            let rebound = format!("evil.example.org:{port}");
            let named = format!("localhost:{port}");
            for (token, host) in [
                (None, None),
                (Some("x"), None),
                (Some(""), None),
                (Some(token.as_str()), Some(rebound.as_str())),
                (Some(token.as_str()), Some(named.as_str())),
            ] {
                let (status, body) = get(&url, token, host).await;
                assert_eq!(status, 403, "{host:?}");
                assert!(!body.contains("hunter2"), "{body}");
            }
            let elsewhere = format!("http://127.0.0.1:{port}/");
            assert_eq!(get(&elsewhere, Some(&token), None).await.0, 404);
        };
        tokio::select! {
            () = serving => panic!("it stopped"),
            () = checks => {}
        }
    }

    #[test]
    fn each_tool_has_a_profile_and_the_first_ones_region_is_the_default() {
        let profiles = [
            ("orders".to_owned(), Some("eu-central-1".to_owned())),
            ("logs".to_owned(), None),
        ];
        assert_eq!(
            config(&profiles, Path::new("/opt/day fly/dayfly")),
            "[default]\nregion = eu-central-1\n\
             \n[profile orders]\nregion = eu-central-1\n\
             credential_process = \"/opt/day fly/dayfly\" credential aws --tool orders\n\
             \n[profile logs]\ncredential_process = \"/opt/day fly/dayfly\" credential aws --tool logs\n"
        );
    }
}
