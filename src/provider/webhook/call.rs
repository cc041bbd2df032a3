//! Calls to the receiver: signed, to the configured address only, bounded in time, size and number.
//!
//! Ends have connections of their own, so that no rush of new credentials keeps them waiting.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::answer::Object;
use super::{Settings, fault, ticket};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::fetch::{self, Address};
use crate::keys::key_ring::KeyRing;
use crate::model::ids::LeaseId;
use crate::model::time::Timestamp;
use crate::provider::ProviderError;
use crate::trace;

/// The header that both sides say their version of the protocol in.
const HEADER: &str = "dayfly-webhook-version";
/// The version that is spoken here.
pub const VERSION: &str = "1";
/// How long a call may take from its beginning to the last byte of its answer.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(2);
/// Calls under way at a time, for making and for ending each.
const PLACES: usize = 32;
/// The longest answers, in bytes: of the inventory, and of the others.
const LONGEST_PAGE: usize = 512 * 1024;
const LONGEST: usize = 64 * 1024;

/// What is asked of a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Mint,
    Renew,
    Revoke,
    Probe,
    Inventory,
    Preflight,
}

impl Step {
    /// The last segment of its address.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mint => "mint",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::Probe => "probe",
            Self::Inventory => "inventory",
            Self::Preflight => "preflight",
        }
    }

    /// Whether it gives somebody something.
    pub(super) const fn makes(self) -> bool {
        matches!(self, Self::Mint | Self::Renew)
    }
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// It bears our version of the protocol.
    pub(super) ours: bool,
    /// Its media type.
    pub(super) kind: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// Whether it is of this media type, whatever its parameters.
    pub(super) fn is(&self, kind: &str) -> bool {
        let bare = self.kind.split(';').next().unwrap_or_default();
        bare.trim().eq_ignore_ascii_case(kind)
    }
}

/// Connections for one purpose.
struct Lane {
    client: Client,
    places: Semaphore,
}

impl Lane {
    fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let client = fetch::builder(&settings.address, &settings.roots)
            .and_then(|builder| {
                let builder = builder.timeout(PATIENCE).pool_max_idle_per_host(PLACES);
                builder.build().map_err(fetch::explain)
            })
            .map_err(|e| ProviderError::Refused(format!("no client can be made: {e}")))?;
        Ok(Self {
            client,
            places: Semaphore::new(PLACES),
        })
    }
}

/// The other side.
pub(super) struct Receiver {
    address: Address,
    /// The address as receivers call themselves: without a slash at its end.
    audience: String,
    issuer: String,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    making: Lane,
    ending: Lane,
}

impl Receiver {
    pub(super) fn new(
        settings: &Settings,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, ProviderError> {
        let audience = settings.address.to_string().trim_end_matches('/').to_owned();
        if audience.contains('?') {
            return Err(ProviderError::Refused(format!(
                "the address `{audience}` has a query: leave it out"
            )));
        }
        Ok(Self {
            address: settings.address.clone(),
            audience,
            issuer: settings.issuer.clone(),
            keys,
            clock,
            entropy,
            making: Lane::new(settings)?,
            ending: Lane::new(settings)?,
        })
    }

    /// The time, by which tickets are issued and answers judged.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What the receiver answers, if it is a success and JSON. `lease` is the key of a step that must
    /// not have its effect twice.
    pub(super) async fn ask<B: Serialize + Sync>(
        &self,
        step: Step,
        lease: Option<LeaseId>,
        body: &B,
    ) -> Result<Object, ProviderError> {
        let answer = self.call(step, lease, body).await?;
        match answer.status.as_u16() {
            200 | 201 if answer.ours && answer.is("application/json") => Object::read(&answer.body),
            200 | 201 if answer.ours => Err(ProviderError::Refused(
                "its answer cannot be used: its `content-type` is not `application/json`".into(),
            )),
            _ => Err(fault::of(step, &answer, &self.audience)),
        }
    }

    /// Tells the receiver something that is done when it says so. `gone` says whether 404 and 410 are
    /// ways to say it.
    pub(super) async fn tell<B: Serialize + Sync>(
        &self,
        step: Step,
        body: &B,
        gone: bool,
    ) -> Result<(), ProviderError> {
        let answer = self.call(step, None, body).await?;
        match answer.status.as_u16() {
            200 | 204 if answer.ours => Ok(()),
            404 | 410 if answer.ours && gone => Ok(()),
            _ => Err(fault::of(step, &answer, &self.audience)),
        }
    }

    async fn call<B: Serialize + Sync>(
        &self,
        step: Step,
        lease: Option<LeaseId>,
        body: &B,
    ) -> Result<Answer, ProviderError> {
        let lane = if step.makes() { &self.making } else { &self.ending };
        let turn = timeout(TURN, lane.places.acquire()).await;
        let Ok(Ok(_place)) = turn else {
            return Err(ProviderError::Throttled {
                after: Duration::from_secs(1),
                reason: format!("{PLACES} calls to it are under way"),
            });
        };
        let late =
            || ProviderError::Unavailable(format!("it did not answer within {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, self.send(lane, step, lease, body))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn send<B: Serialize + Sync>(
        &self,
        lane: &Lane,
        step: Step,
        lease: Option<LeaseId>,
        body: &B,
    ) -> Result<Answer, ProviderError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| ProviderError::Refused(format!("the order cannot be written as JSON: {e}")))?;
        let url = self.address.below(&format!("/{}", step.as_str())).url();
        let parties = (self.issuer.as_str(), self.audience.as_str());
        let now = self.clock.now();
        let ticket = ticket::issue(&self.keys, &*self.entropy, parties, url.as_str(), &body, now).await?;
        let mut request = lane
            .client
            .post(url)
            .bearer_auth(ticket.expose())
            .header(HEADER, VERSION)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(lease) = lease {
            request = request.header("idempotency-key", lease.to_string());
        }
        for (name, value) in trace::headers() {
            request = request.header(name, value);
        }
        let broken = |e| ProviderError::Unavailable(fetch::explain(e).to_string());
        let response = request.send().await.map_err(broken)?;
        read(
            response,
            if step == Step::Inventory {
                LONGEST_PAGE
            } else {
                LONGEST
            },
        )
        .await
    }
}

async fn read(mut response: Response, longest: usize) -> Result<Answer, ProviderError> {
    let headers = response.headers();
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let seconds = |text: String| text.trim().parse().ok().map(Duration::from_secs);
    let mut answer = Answer {
        status: response.status(),
        ours: headers.get(HEADER).is_some_and(|version| version == VERSION),
        kind: text(headers.get(CONTENT_TYPE)).unwrap_or_default(),
        retry_after: text(headers.get(RETRY_AFTER)).and_then(seconds),
        // At its full size from the beginning: one that grows leaves copies behind that nobody wipes.
        body: Zeroizing::new(Vec::with_capacity(longest)),
    };
    let broken = |e| ProviderError::Unavailable(fetch::explain(e).to_string());
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if answer.body.len() + chunk.len() > longest {
            return Err(ProviderError::Refused(format!(
                "its answer cannot be used: it is longer than {longest} bytes"
            )));
        }
        answer.body.extend_from_slice(&chunk);
    }
    Ok(answer)
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}
