//! Calling a tool: each request gets the credential of now, and no origin but the tool's ever sees it.

use std::fmt;

use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;

use crate::access::Access;
use crate::api::bearer;
use crate::credential::Credential;
use crate::error::{Error, Problem};
use crate::task::Task;
use crate::transport::Tools;

/// An HTTP client for one access of a task, to a tool that takes bearer tokens. A clone is the same one.
///
/// A request whose origin is not the tool's is refused with [`Error::OriginRefused`] before it is sent. A redirect to
/// another origin is followed without the token. A tool that answers 401 is asked once more with a new token, where the
/// body can be sent again; the lease of the refused one is ended.
#[derive(Clone)]
pub struct ToolClient {
    task: Task,
    access: Access,
    /// Those that the caller named.
    origins: Option<Vec<String>>,
    http: Tools,
}

impl ToolClient {
    pub(crate) fn new(task: Task, access: Access, http: Tools) -> Result<Self, Error> {
        Ok(Self {
            task,
            access,
            origins: None,
            http,
        })
    }

    /// Sends the credential to these origins and no others, such as `https://crm.example.org`. Of those that the broker
    /// names for the tool this leaves some; where it names none, it has to be said here. [`Error::InvalidRequest`] for
    /// what is no origin.
    pub fn origins<O: AsRef<str>>(mut self, origins: impl IntoIterator<Item = O>) -> Result<Self, Error> {
        let read = |text: O| {
            let url = Url::parse(text.as_ref());
            let url = url.ok().filter(|url| ["http", "https"].contains(&url.scheme()));
            let url = url.ok_or_else(|| Error::invalid(format!("`{}` is no origin", text.as_ref())))?;
            Ok::<_, Error>(origin(&url))
        };
        self.origins = Some(origins.into_iter().map(read).collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// Sends with this client: for time-outs, proxies and certificates of one's own. The one of before takes the proxies
    /// of the environment, but for tools on this machine.
    #[must_use]
    pub fn client(mut self, client: reqwest::Client) -> Self {
        self.http = Tools::only(client);
        self
    }

    /// A `GET`.
    pub fn get(&self, url: impl AsRef<str>) -> ToolRequest {
        self.request(Method::GET, url)
    }

    /// A `POST`.
    pub fn post(&self, url: impl AsRef<str>) -> ToolRequest {
        self.request(Method::POST, url)
    }

    /// A `PUT`.
    pub fn put(&self, url: impl AsRef<str>) -> ToolRequest {
        self.request(Method::PUT, url)
    }

    /// A `PATCH`.
    pub fn patch(&self, url: impl AsRef<str>) -> ToolRequest {
        self.request(Method::PATCH, url)
    }

    /// A `DELETE`.
    pub fn delete(&self, url: impl AsRef<str>) -> ToolRequest {
        self.request(Method::DELETE, url)
    }

    /// A request of any method.
    pub fn request(&self, method: Method, url: impl AsRef<str>) -> ToolRequest {
        ToolRequest {
            builder: self.http.any().request(method, url.as_ref()),
            tool: self.clone(),
        }
    }

    /// Sends a request that was built elsewhere. Its own `Authorization` is replaced.
    pub async fn execute(&self, mut request: Request) -> Result<Response, Error> {
        let origin = origin(request.url());
        if let Some(named) = &self.origins {
            permitted(named, &origin)?;
        }
        let credential = self.credential(&origin).await?;
        let again = request.try_clone();
        authorise(request.headers_mut(), &credential)?;
        let http = self.http.at(request.url()).clone();
        let response = http.execute(request).await?;
        // An answer of somebody else, to whom a redirect led, says nothing about the token.
        let refused = response.status() == StatusCode::UNAUTHORIZED && self::origin(response.url()) == origin;
        let Some(mut again) = again.filter(|_| refused) else {
            return Ok(response);
        };
        let credential = self.task.another(&credential).await?;
        // The tool may have moved since the one of before was issued.
        if let Err(elsewhere) = self.fits(&credential, &origin) {
            self.task.discard(&credential);
            return Err(elsewhere);
        }
        authorise(again.headers_mut(), &credential)?;
        Ok(http.execute(again).await?)
    }

    /// The credential of now, if it may go there.
    async fn credential(&self, origin: &str) -> Result<Credential, Error> {
        let credential = self.task.credential(&self.access).await?;
        self.fits(&credential, origin)?;
        Ok(credential)
    }

    /// Whether the broker lets a credential go there. Where it says nothing, what the caller named holds.
    fn fits(&self, credential: &Credential, origin: &str) -> Result<(), Error> {
        match self.origins.is_some() && credential.origins().is_empty() {
            true => Ok(()),
            false => permitted(credential.origins(), origin),
        }
    }
}

/// The scheme, the host and the port of a URL, as one text.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn permitted(origins: &[String], asked: &str) -> Result<(), Error> {
    if origins.iter().any(|origin| origin == asked) {
        return Ok(());
    }
    let detail = match origins {
        [] => format!("nobody says what the tool's origins are: name `{asked}`, if it is one"),
        known => format!("`{asked}` is none of {}", known.join(", ")),
    };
    Err(Error::OriginRefused {
        origin: asked.to_owned(),
        problem: Problem::here("origin-refused", "the credential does not go there", detail),
    })
}

fn authorise(headers: &mut HeaderMap, credential: &Credential) -> Result<(), Error> {
    headers.insert(AUTHORIZATION, bearer(credential.token()?)?);
    Ok(())
}

/// A request to a tool. [`send`](Self::send) it.
#[must_use = "nothing is sent before `send`"]
pub struct ToolRequest {
    tool: ToolClient,
    builder: RequestBuilder,
}

impl ToolRequest {
    /// With a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.with(|builder| builder.header(name, value))
    }

    /// With these parameters behind the path.
    pub fn query(self, query: &impl Serialize) -> Self {
        self.with(|builder| builder.query(query))
    }

    /// With a body of JSON.
    pub fn json(self, body: &impl Serialize) -> Self {
        self.with(|builder| builder.json(body))
    }

    /// With a form.
    pub fn form(self, form: &impl Serialize) -> Self {
        self.with(|builder| builder.form(form))
    }

    /// With any body.
    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        self.with(|builder| builder.body(body))
    }

    /// With whatever else a request of reqwest can have.
    pub fn with(mut self, build: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        self.builder = build(self.builder);
        self
    }

    /// Sends it. An error status of the tool is an answer: see [`Response::error_for_status`].
    pub async fn send(self) -> Result<Response, Error> {
        let request = self.builder.build()?;
        self.tool.execute(request).await
    }
}

impl fmt::Debug for ToolClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolClient")
            .field("task", &self.task.id())
            .field("access", &self.access.to_string())
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ToolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolRequest")
            .field("tool", &self.tool)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let known = [
            "https://crm.example.org".to_owned(),
            "http://127.0.0.1:8441".to_owned(),
        ];
        for (url, fits) in [
            ("https://crm.example.org/customers/42", true),
            ("https://CRM.example.org:443/", true),
            ("http://127.0.0.1:8441/a?b", true),
            ("https://crm.example.org@evil.example/", false),
            ("https://crm.example.org.evil.example/", false),
            ("http://crm.example.org/", false),
            ("https://crm.example.org:8443/", false),
            ("http://127.0.0.1:8442/", false),
        ] {
            let asked = origin(&url.parse().unwrap());
            assert_eq!(permitted(&known, &asked).is_ok(), fits, "{url}");
        }
        let error = permitted(&[], "https://crm.example.org").unwrap_err();
        assert!(error.detail().contains("https://crm.example.org"), "{error}");
    }
}
