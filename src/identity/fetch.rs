//! Fetching the documents that identity rests on: key sets, discovery documents, token reviews. The
//! client for configured addresses is made here too, for whoever else calls one.
//!
//! Every address comes from configuration, never from evidence. A request follows no redirect, takes
//! no proxy from the environment, trusts no more than it was told to, reads a bounded answer, and ends
//! in bounded time.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Url, redirect};
use tokio::io::AsyncReadExt;

use crate::model::name::InvalidName;
use crate::model::secret::Secret;

/// The longest document that is read, in bytes.
const LONGEST: usize = 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(10);

/// Where a document may be fetched from: `https`, or `http` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Whether both are the same scheme, host and port.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.0.origin() == other.0.origin()
    }

    /// The address of `path` on the same server, below whatever path this one has.
    pub(crate) fn below(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_query(None);
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        Self(url)
    }

    /// The address as a request takes it.
    pub(crate) fn url(&self) -> Url {
        self.0.clone()
    }

    fn encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl FromStr for Address {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            InvalidName::new(
                "address",
                text,
                "use https://host/path without user, password or fragment; http only to a loopback host",
            )
        };
        let url = Url::parse(text).map_err(|_| invalid())?;
        let scheme = match url.scheme() {
            "https" => true,
            "http" => url.host_str().is_some_and(loopback),
            _ => false,
        };
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if scheme && plain && url.host_str().is_some() {
            Ok(Self(url))
        } else {
            Err(invalid())
        }
    }
}

fn loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Which certificate authorities may vouch for the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// Those of the operating system.
    #[default]
    System,
    /// Only those in this PEM file, such as a cluster's `ca.crt`.
    File(PathBuf),
}

/// A configured server: where it is, who may vouch for it, and how we introduce ourselves.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// Which certificate authorities may vouch for it.
    pub roots: Roots,
    /// The file with a bearer token to send. It is read for each request, because such tokens rotate.
    pub token_file: Option<PathBuf>,
}

impl Endpoint {
    /// A server that anyone may read, vouched for by the operating system's authorities.
    pub fn open(address: Address) -> Self {
        Self {
            address,
            roots: Roots::System,
            token_file: None,
        }
    }
}

/// Why a document could not be had. It says nothing about a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub(super) String);

/// Sends requests to one [`Endpoint`].
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    client: Client,
    token_file: Option<PathBuf>,
}

impl Fetcher {
    /// A client for this endpoint. Reads the file of certificate authorities.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, FetchError> {
        let builder = builder(&endpoint.address, &endpoint.roots)?.pool_max_idle_per_host(1);
        Ok(Self {
            client: builder.build().map_err(explain)?,
            token_file: endpoint.token_file.clone(),
        })
    }

    /// The document at the address.
    pub(super) async fn get(&self, address: &Address) -> Result<Vec<u8>, FetchError> {
        let request = self.client.get(address.0.clone());
        self.send(address, request.header("accept", "application/json"))
            .await
    }

    /// What the address answers to this JSON.
    pub(super) async fn post(
        &self,
        address: &Address,
        body: &serde_json::Value,
    ) -> Result<Vec<u8>, FetchError> {
        self.send(address, self.client.post(address.0.clone()).json(body))
            .await
    }

    /// The same from a server that may wait before it answers: `patience` in all.
    pub(crate) async fn post_within(
        &self,
        address: &Address,
        body: &serde_json::Value,
        patience: Duration,
    ) -> Result<Vec<u8>, FetchError> {
        let request = self.client.post(address.0.clone()).json(body);
        let request = request.header("accept", "application/json").timeout(patience);
        self.send(address, request).await
    }

    async fn send(&self, address: &Address, request: RequestBuilder) -> Result<Vec<u8>, FetchError> {
        let request = match &self.token_file {
            Some(path) => request.bearer_auth(token(path).await?.expose()),
            None => request,
        };
        let about = |reason: &dyn fmt::Display| FetchError(format!("{address}: {reason}"));
        let mut response = request.send().await.map_err(|e| about(&explain(e)))?;
        if !response.status().is_success() {
            return Err(about(&format_args!("it answered {}", response.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| about(&explain(e)))? {
            if body.len() + chunk.len() > LONGEST {
                return Err(about(&"the answer is longer than 1 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// The beginnings of a client for one configured address: it goes there, and nowhere else.
pub(crate) fn builder(address: &Address, roots: &Roots) -> Result<ClientBuilder, FetchError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(FetchError("no TLS provider was installed at start".into()));
    }
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        .https_only(address.encrypted())
        .user_agent(concat!("dayfly/", env!("CARGO_PKG_VERSION")));
    Ok(match roots {
        Roots::File(path) => builder.tls_certs_only(certificates(path)?),
        // Plain HTTP on this machine needs no authorities, and a machine may have none.
        Roots::System if !address.encrypted() => builder.tls_certs_only([]),
        Roots::System => builder,
    })
}

/// The content of a file, bounded like an answer.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let about = |reason: &dyn fmt::Display| FetchError(format!("{}: {reason}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(|e| about(&e))?;
    let mut content = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit)
        .read_to_end(&mut content)
        .await
        .map_err(|e| about(&e))?;
    if content.len() > LONGEST {
        return Err(about(&"the file is longer than 1 MiB"));
    }
    Ok(content)
}

async fn token(path: &Path) -> Result<Secret, FetchError> {
    let content = String::from_utf8(read(path).await?)
        .map_err(|_| FetchError(format!("{}: it is not a token", path.display())))?;
    Ok(Secret::new(content.trim()))
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, FetchError> {
    let about = |reason: &dyn fmt::Display| FetchError(format!("{}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|e| about(&e))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(about(&"it holds no PEM certificate")),
    }
}

/// The innermost cause says most; the outer ones repeat the address.
pub(crate) fn explain(error: reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError("it did not answer in time".into());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    FetchError(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::Server;

    async fn get(server: &Server, path: &str) -> Result<Vec<u8>, FetchError> {
        let endpoint = Endpoint::open(server.address(path));
        Fetcher::new(&endpoint).unwrap().get(&endpoint.address).await
    }

    #[test]
    fn takes_https_and_plain_http_on_this_machine_only() {
        for good in [
            "https://idp.example.org/keys",
            "https://idp.example.org:8443/keys?tenant=1",
            "http://127.0.0.1:8080/keys",
            "http://[::1]:8080/keys",
            "http://localhost/keys",
        ] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/keys",
            "http://idp.example.org/keys",
            "http://169.254.169.254/latest",
            "http://localhost.example.org/keys",
            "file:///etc/passwd",
            "https://user:password@idp.example.org/keys",
            "https://idp.example.org/keys#a",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn follows_no_redirect() {
        let server = Server::start().await;
        server.answer("/keys", "{}");
        server.redirect("/old", "/keys");
        assert_eq!(get(&server, "/keys").await.unwrap(), b"{}");
        let refused = get(&server, "/old").await.unwrap_err();
        assert!(refused.0.contains("302"), "{refused}");
        assert_eq!(server.hits("/keys"), 1);
    }

    #[tokio::test]
    async fn refuses_a_document_that_is_too_long() {
        let server = Server::start().await;
        server.answer("/keys", &"a".repeat(LONGEST));
        assert_eq!(get(&server, "/keys").await.unwrap().len(), LONGEST);
        server.answer("/keys", &"a".repeat(LONGEST + 1));
        let refused = get(&server, "/keys").await.unwrap_err();
        assert!(refused.0.contains("1 MiB"), "{refused}");
    }

    #[tokio::test]
    async fn sends_the_token_that_the_file_holds_at_that_moment() {
        let server = Server::start().await;
        server.answer("/keys", "{}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let endpoint = Endpoint {
            token_file: Some(file.path().to_owned()),
            ..Endpoint::open(server.address("/keys"))
        };
        let fetcher = Fetcher::new(&endpoint).unwrap();
        for token in ["first", "second\n"] {
            std::fs::write(file.path(), token).unwrap();
            fetcher.get(&endpoint.address).await.unwrap();
            assert_eq!(server.last_bearer(), Some(token.trim().to_owned()));
        }
    }
}
