//! Requests to the server: what they look like, within which limits they go out, and what of an answer
//! is kept.
//!
//! The client and its headers are those of `vaultrs`. The endpoints are ours, because its own drop the
//! id of a lease and know no `sys/leases`; so is the sending, because its own follows redirects with
//! the token, reads answers of any length, and logs what a server says about an error.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Url, redirect};
use rustify::endpoint::{Endpoint, MiddleWare};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use vaultrs::api::EndpointMiddleware;
use vaultrs::client::{Client as _, VaultClient, VaultClientSettingsBuilder};
use zeroize::Zeroizing;

use super::Reach;
use super::fault::{Fault, Phrase};
use crate::model::secret::Secret;
use crate::provider::ProviderError;
use crate::trace;

/// The longest answer that is read, in bytes. A list of a quarter of a million accessors fits.
const LONGEST: usize = 8 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(3);
/// How long a request waits for its turn.
const QUEUE: Duration = Duration::from_secs(2);

/// A way to the server with limits of its own.
pub(super) struct Lane {
    client: VaultClient,
    slots: Semaphore,
}

impl Lane {
    /// A way for so many requests at a time.
    pub(super) fn new(reach: &Reach) -> Result<Self, ProviderError> {
        let refused = |reason: String| ProviderError::Refused(reason);
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(refused("no TLS provider was installed at start".into()));
        }
        let address = Url::parse(&reach.address).map_err(|_| refused("the address is no URL".into()))?;
        let encrypted = address.scheme() == "https";
        let builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(reach.timeout)
            .https_only(encrypted)
            .user_agent(concat!("dayfly/", env!("CARGO_PKG_VERSION")));
        let builder = match &reach.authorities {
            Some(pem) => {
                let certificates = Certificate::from_pem_bundle(pem).map_err(|_| {
                    refused("the file of certificate authorities holds no certificates".into())
                })?;
                builder.tls_certs_only(certificates)
            }
            // Plain HTTP on this machine needs no authorities, and a machine may have none.
            None if !encrypted => builder.tls_certs_only([]),
            None => builder,
        };
        let http = builder
            .build()
            .map_err(|_| refused("no TLS client can be made: check `ca_file`".into()))?;
        // Everything is set, so that nothing comes from the environment.
        let settings = VaultClientSettingsBuilder::default()
            .address(&reach.address)
            .ca_certs(Vec::new())
            .identity(None)
            .token("")
            .verify(true)
            .namespace(reach.namespace.clone())
            .build()
            .map_err(|_| refused("the address is no URL".into()))?;
        let middle = EndpointMiddleware {
            token: String::new(),
            version: "v1".into(),
            wrap: None,
            namespace: reach.namespace.clone(),
        };
        let http = rustify::clients::reqwest::Client::new(&reach.address, http);
        Ok(Self {
            client: VaultClient {
                http,
                middle,
                settings,
            },
            slots: Semaphore::new(reach.concurrency.get()),
        })
    }

    /// Sends a request with this token.
    pub(super) async fn send<E: Endpoint>(
        &self,
        endpoint: &E,
        token: Option<&Secret>,
    ) -> Result<Answer, Fault> {
        self.send_wrapped(endpoint, token, None).await
    }

    /// The same, and the answer stays there, to be fetched with a token that works once, so long.
    pub(super) async fn send_wrapped<E: Endpoint>(
        &self,
        endpoint: &E,
        token: Option<&Secret>,
        wrap: Option<String>,
    ) -> Result<Answer, Fault> {
        let request = self.request(endpoint, token, wrap)?;
        let turn = tokio::time::timeout(QUEUE, self.slots.acquire()).await;
        let _turn = turn
            .map_err(|_| Fault::Busy)?
            .map_err(|_| Fault::Lost("this provider is closed".into()))?;
        let mut response = self.client.http().http.execute(request).await.map_err(lost)?;
        let status = response.status().as_u16();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > LONGEST {
                return Err(Fault::Lost(format!("its answer is longer than {LONGEST} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if !response.status().is_success() {
            return Err(Fault::Said {
                status,
                phrase: Phrase::find(&body),
                after: after.map(Duration::from_secs),
            });
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Answer::default());
        }
        // The reason would quote what stands there.
        serde_json::from_slice(&body).map_err(|_| Fault::Lost("its answer cannot be read".into()))
    }

    fn request<E: Endpoint>(
        &self,
        endpoint: &E,
        token: Option<&Secret>,
        wrap: Option<String>,
    ) -> Result<reqwest::Request, Fault> {
        let unsendable = || Fault::Unsendable;
        let middle = EndpointMiddleware {
            wrap,
            ..self.client.middle().clone()
        };
        let mut request = endpoint
            .request(&self.client.http().base)
            .map_err(|_| unsendable())?;
        middle.request(endpoint, &mut request).map_err(|_| unsendable())?;
        let mut request = reqwest::Request::try_from(request).map_err(|_| unsendable())?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose()).map_err(|_| unsendable())?;
            value.set_sensitive(true);
            headers.insert("x-vault-token", value);
        }
        for (name, value) in trace::headers() {
            headers.insert(name, HeaderValue::from_str(&value).map_err(|_| unsendable())?);
        }
        Ok(request)
    }
}

/// What went wrong on the way, by its innermost cause. It names no path and holds nothing of an answer.
fn lost(error: reqwest::Error) -> Fault {
    if error.is_timeout() {
        return Fault::Lost("it did not answer in time".into());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Fault::Lost(cause.to_string().chars().take(200).collect())
}

/// What is kept of an answer. It may hold secrets, so it does not print.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Answer {
    /// The server's name for what it will end; empty where it keeps nothing.
    pub(super) lease_id: String,
    /// For how many seconds, as far as the server says.
    pub(super) lease_duration: u64,
    /// Whether it can live on.
    pub(super) renewable: bool,
    /// What was asked for.
    pub(super) data: Option<Map<String, Value>>,
    /// A new token.
    pub(super) auth: Option<Auth>,
    /// Where the answer can be fetched once.
    pub(super) wrap_info: Option<Wrapped>,
}

/// A token and its terms.
#[derive(Deserialize)]
pub(super) struct Auth {
    /// The token.
    #[serde(deserialize_with = "secret")]
    pub(super) client_token: Secret,
    /// Its name, which ends it and reads nothing. Empty for what cannot be ended.
    #[serde(default)]
    pub(super) accessor: String,
    /// What it may do.
    #[serde(default)]
    pub(super) policies: Vec<String>,
    /// How many seconds it lives; zero for ever.
    #[serde(default)]
    pub(super) lease_duration: u64,
    /// Whether it can live on.
    #[serde(default)]
    pub(super) renewable: bool,
    /// It does not end with the token that made it.
    #[serde(default)]
    pub(super) orphan: bool,
}

/// A token that fetches an answer once.
#[derive(Deserialize)]
pub(super) struct Wrapped {
    /// The token.
    #[serde(deserialize_with = "secret")]
    pub(super) token: Secret,
    /// How many seconds it lives.
    pub(super) ttl: u64,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}
