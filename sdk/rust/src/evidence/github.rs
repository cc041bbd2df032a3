//! ID tokens of GitHub Actions. The job needs the permission `id-token: write`.

use std::time::{Duration, SystemTime};

use reqwest::Url;
use serde::Deserialize;

use super::Kept;
use crate::error::Error;
use crate::secret::Secret;
use crate::transport;

const TITLE: &str = "GitHub Actions gives no ID token";
const TIMEOUT: Duration = Duration::from_secs(30);

/// The service that gives a job its ID tokens.
pub(super) struct GitHub {
    http: reqwest::Client,
    url: Url,
    token: Secret,
    kept: Kept,
}

#[derive(Deserialize)]
struct Answer {
    value: Secret,
}

impl GitHub {
    pub(super) fn new(url: &str, token: Secret, audience: &str) -> Result<Self, Error> {
        let mut url: Url = url
            .parse()
            .map_err(|_| Error::no_evidence(TITLE, "ACTIONS_ID_TOKEN_REQUEST_URL is no URL"))?;
        if url.scheme() != "https" && !transport::is_loopback(&url) {
            return Err(Error::no_evidence(
                TITLE,
                "ACTIONS_ID_TOKEN_REQUEST_URL is not `https`",
            ));
        }
        url.query_pairs_mut().append_pair("audience", audience);
        Ok(Self {
            http: transport::for_broker(&url, TIMEOUT, true, None)?,
            url,
            token,
            kept: Kept::default(),
        })
    }

    pub(super) async fn fetch(&self, anew: bool) -> Result<Secret, Error> {
        let until = |_, expires_at: SystemTime| {
            let earlier = expires_at.checked_sub(Duration::from_secs(60));
            earlier.unwrap_or(SystemTime::UNIX_EPOCH)
        };
        self.kept.get(anew, until, async || self.ask().await).await
    }

    async fn ask(&self) -> Result<Secret, Error> {
        let request = self.http.get(self.url.clone()).bearer_auth(self.token.reveal());
        let failed = |error| Error::no_evidence(TITLE, transport::cause(error));
        let response = request.send().await.map_err(failed)?;
        if !response.status().is_success() {
            let detail = format!("its service answered {}", response.status().as_u16());
            return Err(Error::no_evidence(TITLE, detail));
        }
        Ok(response.json::<Answer>().await.map_err(failed)?.value)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::tests::token;
    use super::*;

    #[tokio::test]
    async fn asks_for_the_audience_and_keeps_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token?api-version=2", listener.local_addr().unwrap());
        let github = GitHub::new(&url, "job".into(), "https://dayfly.example.org").unwrap();
        let jwt = token(Duration::from_secs(300), 1);
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.unwrap();
            let body = format!("{{\"value\":\"{jwt}\",\"count\":1}}");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            socket.write_all((head + &body).as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        let (request, given) = tokio::join!(serve, github.fetch(false));
        assert_eq!(given.unwrap().reveal(), jwt);
        let first = request.lines().next().unwrap();
        let path = "GET /token?api-version=2&audience=https%3A%2F%2Fdayfly.example.org HTTP/1.1";
        assert_eq!(first, path);
        assert!(
            request.to_lowercase().contains("authorization: bearer job"),
            "{request}"
        );
        // Nobody serves any more.
        assert_eq!(github.fetch(false).await.unwrap().reveal(), jwt);
    }

    #[test]
    fn its_token_goes_over_tls_only() {
        assert!(GitHub::new("http://actions.example/token", "job".into(), "a").is_err());
        assert!(GitHub::new("nonsense", "job".into(), "a").is_err());
    }
}
