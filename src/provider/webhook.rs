//! The webhook provider: signed orders over HTTPS to a receiver that mints and ends in a system that
//! Dayfly does not know.
//!
//! The receiver names nothing: what it makes is called `dayfly-<lease id>`, so a mint whose answer was
//! lost can always be ended. Nothing secret is shared with it: it verifies orders by Dayfly's published
//! keys. What it answers is somebody else's text, read strictly and never told on as it is. The
//! protocol is in `docs/guides/webhook.md`.

mod answer;
mod call;
mod fault;
mod ticket;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use super::{Minted, Presence, Promise, Provider, ProviderError, Renewed};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::fetch::{Address, Roots};
use crate::keys::key_ring::KeyRing;
use crate::ledger::reservation::Reservation;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Held};
use crate::model::strict;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

pub use call::{PATIENCE, VERSION};
pub use ticket::{LIFE as TICKET_LIFE, TYP};

use call::{Receiver, Step};

/// What every name of ours begins with.
const MARK: &str = "dayfly-";
/// The most pages that an inventory is read of.
const MOST_PAGES: usize = 100;
/// The most parameters of a tool, and how many bytes of JSON they may take together.
const MOST_PARAMETERS: usize = 32;
const LONGEST_PARAMETERS: usize = 8 * 1024;

/// A receiver, and what it can do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is, without a query. Also what it is called in the tickets.
    pub address: Address,
    /// Which certificate authorities may vouch for it.
    pub roots: Roots,
    /// The URL where Dayfly, and so its keys, are found.
    pub issuer: String,
    /// How its credentials can end.
    pub ending: Ending,
    /// The shortest life that it can give.
    pub least: Ttl,
    /// The longest life that it can give.
    pub most: Ttl,
    /// Whether its credentials can live on.
    pub renewable: bool,
}

/// Mints, ends and verifies by asking a receiver.
#[derive(Debug)]
pub struct Webhook {
    receiver: Receiver,
    promise: Promise,
}

#[derive(Serialize)]
struct MintOrder<'a> {
    lease: LeaseId,
    handle: &'a Handle,
    task: String,
    agent: &'a str,
    tool: &'a str,
    actions: Vec<&'a str>,
    resources: Vec<&'a str>,
    expires_at: Timestamp,
    parameters: &'a BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct RenewOrder<'a> {
    lease: LeaseId,
    handle: &'a Handle,
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Named<'a> {
    lease: LeaseId,
    handle: &'a Handle,
}

#[derive(Serialize)]
struct PageOrder {
    limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

#[derive(Serialize)]
struct Nothing {}

impl Webhook {
    /// A provider that asks this receiver. Reads the file of certificate authorities.
    pub fn new(
        settings: &Settings,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, ProviderError> {
        if settings.renewable && settings.ending != Ending::Immediate {
            return Err(ProviderError::Refused(
                "what cannot be ended at once cannot be renewed: a longer life than asked for would be the last word"
                    .into(),
            ));
        }
        let promise = Promise {
            ending: settings.ending,
            least: settings.least,
            most: settings.most,
            self_contained: false,
            renewable: settings.renewable,
        };
        Ok(Self {
            receiver: Receiver::new(settings, keys, clock, entropy)?,
            promise,
        })
    }

    /// The name, which follows from the lease whether or not it was written down.
    fn name(lease: LeaseId) -> Handle {
        Handle(format!("{MARK}{lease}"))
    }
}

/// Receivers that count in seconds would round up, and past what was asked for.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_secs(at.as_secs())
}

#[async_trait]
impl Provider for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    fn promise(&self, _: &Tool) -> Promise {
        self.promise
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        let parameters = &tool.binding.parameters;
        let length = serde_json::to_vec(parameters).map_or(usize::MAX, |json| json.len());
        let deep = parameters
            .values()
            .any(|value| strict::depth(value) >= strict::DEEPEST);
        if parameters.len() > MOST_PARAMETERS || length > LONGEST_PARAMETERS || deep {
            return Err(ProviderError::Refused(format!(
                "the parameters of the tool `{}` are too many: at most {MOST_PARAMETERS}, \
                 {LONGEST_PARAMETERS} bytes and {} levels",
                tool.name,
                strict::DEEPEST
            )));
        }
        Ok(())
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        Some(Self::name(lease))
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let lease = reservation.lease();
        let handle = Self::name(lease.id);
        let asked = whole_seconds(lease.expires_at);
        let order = MintOrder {
            lease: lease.id,
            handle: &handle,
            task: lease.task.to_string(),
            agent: lease.agent.as_str(),
            tool: lease.tool.as_str(),
            actions: lease.actions.iter().map(|action| action.as_str()).collect(),
            resources: lease.resources.iter().map(|path| path.as_str()).collect(),
            expires_at: asked,
            parameters: &reservation.permit().request().tool.binding.parameters,
        };
        let mut answer = self.receiver.ask(Step::Mint, Some(lease.id), &order).await?;
        let expires_at = answer.expires_at()?;
        // Whatever is wrong with an answer, something was made: the broker ends what a failed mint may
        // have left.
        if expires_at > asked {
            return Err(ProviderError::Refused(format!(
                "it gave a life until {expires_at}, and until {asked} was asked for"
            )));
        }
        if expires_at <= self.receiver.now() {
            return Err(ProviderError::Refused(format!(
                "what it made was over at {expires_at}: check both clocks"
            )));
        }
        Ok(Minted {
            credential: answer.credential()?,
            handle,
            expires_at,
        })
    }

    /// A longer life than asked for may be one that it had before. One that it had not is cut at the end
    /// of the lease, since only what can be ended is renewed.
    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        if !self.promise.renewable {
            return Err(ProviderError::Refused(
                "its credentials cannot be renewed: ask for a new one".into(),
            ));
        }
        let lease = reservation.lease();
        let handle = &Self::name(lease.id);
        let asked = whole_seconds(lease.expires_at);
        let order = RenewOrder {
            lease: lease.id,
            handle,
            expires_at: asked,
        };
        let mut answer = self.receiver.ask(Step::Renew, None, &order).await?;
        let expires_at = answer.expires_at()?;
        let longest = asked.max(self.receiver.now().plus(self.promise.most.as_duration()));
        if expires_at > longest {
            return Err(ProviderError::Refused(format!(
                "it gave a life until {expires_at}, and until {asked} was asked for"
            )));
        }
        Ok(Renewed {
            credential: answer.optional_credential()?,
            expires_at,
        })
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        let lease = held.lease;
        let handle = &Self::name(lease);
        let order = Named { lease, handle };
        self.receiver.tell(Step::Revoke, &order, true).await
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        let lease = held.lease;
        let handle = &Self::name(lease);
        let order = Named { lease, handle };
        self.receiver.ask(Step::Probe, None, &order).await?.presence()
    }

    /// What has no name of ours is left out: it is not ours to end.
    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let limit = answer::MOST_ON_PAGE;
            let order = PageOrder {
                limit,
                after: after.clone(),
            };
            let page = self.receiver.ask(Step::Inventory, None, &order).await?.page()?;
            all.extend(page.held.into_iter().filter_map(|(handle, expires_at)| {
                let lease = handle.0.strip_prefix(MARK)?.parse().ok()?;
                Some(Held {
                    lease,
                    handle: Some(handle),
                    expires_at,
                })
            }));
            if page.next.is_none() {
                return Ok(all);
            }
            if page.next == after {
                return Err(ProviderError::Refused(
                    "its inventory does not end: `next` stays the same".into(),
                ));
            }
            after = page.next;
        }
        Err(ProviderError::Refused(format!(
            "its inventory has more than {MOST_PAGES} pages"
        )))
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        self.receiver.tell(Step::Preflight, &Nothing {}, false).await
    }
}
