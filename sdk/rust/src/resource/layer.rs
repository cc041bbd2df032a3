//! The verifier in front of a whole service: a layer of tower.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::{Refusal, Verifier};

/// Lets requests pass whose token is accepted, with its [`Claims`](super::Claims) among their extensions; answers the
/// others by itself: 401, 403 or 503, with an empty body and the header `WWW-Authenticate` (RFC 6750 §3).
///
/// [`new`](Self::new) leaves it to the service to [`demand`](super::Claims::demand) what it needs;
/// [`demanding`](Self::demanding) does that too.
///
/// ```no_run
/// # fn example(verifier: dayfly_client::resource::Verifier) {
/// use dayfly_client::resource::{Demand, Layer};
///
/// let layer = Layer::demanding(verifier, |request| {
///     Demand::new("read").on(request.uri.path().trim_start_matches('/'))
/// });
/// # let _ = layer; }
/// ```
#[derive(Clone)]
pub struct Layer {
    verifier: Verifier,
    demand: Option<Ask>,
}

type Ask = Arc<dyn Fn(&Parts) -> Demand + Send + Sync>;

/// What a request has to be permitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demand {
    action: String,
    resource: Option<String>,
}

impl Demand {
    /// This action on the tool as a whole.
    pub fn new(action: impl Into<String>) -> Self {
        Self {
            action: action.into(),
            resource: None,
        }
    }

    /// The action on this resource alone, such as `customers/42`. What is no path of a resource is never permitted.
    #[must_use]
    pub fn on(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }
}

impl Layer {
    /// Demands a token that is accepted.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            verifier,
            demand: None,
        }
    }

    /// Demands one that permits what the request is about.
    pub fn demanding(verifier: Verifier, demand: impl Fn(&Parts) -> Demand + Send + Sync + 'static) -> Self {
        Self {
            verifier,
            demand: Some(Arc::new(demand)),
        }
    }

    async fn admit(&self, parts: &mut Parts) -> Result<(), Refusal> {
        let token = bearer(&parts.headers).ok_or(Refusal::NoToken)?;
        let claims = self.verifier.verify(token).await?;
        if let Some(demand) = &self.demand {
            let demand = demand(parts);
            claims.demand(&demand.action, demand.resource.as_deref())?;
        }
        parts.extensions.insert(claims);
        Ok(())
    }
}

/// The one token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, more) = (values.next()?, values.next());
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (more.is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

impl Refusal {
    /// The answer, with an empty body.
    fn response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        let headers = response.headers_mut();
        if matches!(self, Self::Stale) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        } else {
            let challenge = match self.error() {
                Some("insufficient_scope") => "Bearer error=\"insufficient_scope\"",
                Some(_) => "Bearer error=\"invalid_token\"",
                None => "Bearer",
            };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl<S> tower_layer::Layer<S> for Layer {
    type Service = Verified<S>;

    fn layer(&self, inner: S) -> Verified<S> {
        Verified {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service behind a [`Layer`].
#[derive(Clone)]
pub struct Verified<S> {
    layer: Layer,
    inner: S,
}

impl<S, B, R> tower_service::Service<Request<B>> for Verified<S>
where
    S: tower_service::Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is taken along; a fresh one waits for the next request.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let layer = self.layer.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match layer.admit(&mut parts).await {
                Ok(()) => inner.call(Request::from_parts(parts, body)).await,
                Err(refusal) => Ok(refusal.response()),
            }
        })
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Verified<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_bearer_token_or_none() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with(&["Bearer a.b.c"]).as_deref(), Some("a.b.c"));
        assert_eq!(with(&["bearer  a.b.c"]).as_deref(), Some("a.b.c"));
        for none in [&[][..], &["Basic eA=="], &["Bearer"], &["Bearer a", "Bearer b"]] {
            assert_eq!(with(none), None, "{none:?}");
        }
    }

    #[test]
    fn each_refusal_says_what_to_do_about_it() {
        let said = |refusal: Refusal| {
            let response: Response<String> = refusal.response();
            let header = |name| {
                let value = response.headers().get(name);
                value.map(|value| value.to_str().unwrap().to_owned())
            };
            (
                response.status().as_u16(),
                header(WWW_AUTHENTICATE),
                header(RETRY_AFTER),
            )
        };
        let challenge = |text: &str| Some(text.to_owned());
        assert_eq!(said(Refusal::NoToken), (401, challenge("Bearer"), None));
        assert_eq!(
            said(Refusal::Expired),
            (401, challenge("Bearer error=\"invalid_token\""), None)
        );
        let denied = Refusal::NotPermitted("read".to_owned());
        assert_eq!(
            said(denied),
            (403, challenge("Bearer error=\"insufficient_scope\""), None)
        );
        assert_eq!(said(Refusal::Stale), (503, None, challenge("1")));
    }
}
