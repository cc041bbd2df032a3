//! The AWS STS provider: sessions of IAM roles, narrowed to one access and ended by AWS itself.
//!
//! Three things bound a session, each of them evaluated by AWS with every request:
//!
//! 1. its **session policy** allows what the access needs and nothing else,
//! 2. the **pin** in it denies everything from the end of the lease on, to the second, however long STS
//!    wants sessions to live at least,
//! 3. the **deny slot** of its role, where there is one, denies everything to leases that ended early.
//!
//! The handle of a lease is its id: it is the name of the session, and its tag `dayfly:lease` too, by which
//! the slot finds it. It says nothing about the role, so a lease that ends early goes into the slot of
//! every role of the provider: one provider is for one account and for the few roles that its tools use.

mod clients;
mod denials;
mod faults;
mod parameters;
#[cfg(test)]
mod samples;
mod session_policy;
mod slot;
mod template;
mod way_in;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sts::types::Tag;
use futures_util::future::try_join_all;
use moka::sync::Cache;

use super::{Minted, Presence, Promise, Provider, ProviderError, Renewed};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::keys::key_ring::KeyRing;
use crate::ledger::reservation::Reservation;
use crate::model::access::Access;
use crate::model::aws::{AwsRegion, RoleArn, is_iam_name};
use crate::model::credential::Credential;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Held, Lease};
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

use clients::Clients;
use denials::LEASE_TAG;
use faults::Call;
use parameters::Parameters;
use session_policy::compile;
use slot::Slot;

pub use slot::POLICY_NAME;
pub use way_in::WayIn;

/// The shortest session that STS gives, in seconds.
const SHORTEST_SESSION: u32 = 900;
/// By how much the clocks of AWS and of this machine may differ.
const SKEW: Duration = Duration::from_secs(60);
/// How many leases are remembered, and for how long: as long as a session can live.
const REMEMBERED: (u64, Duration) = (100_000, Duration::from_secs(12 * 3600));

/// What this process knows about a lease. Nothing depends on its knowing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    /// AWS refused its session: there is none.
    NeverOut,
    /// Its latest session ends then.
    Out(Timestamp),
    /// It was ended.
    Ended,
}

/// How the provider is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whose STS is asked, and where credentials are for when the tool does not say.
    pub region: AwsRegion,
    /// In place of AWS's own addresses.
    pub endpoint_url: Option<String>,
    /// The roles whose sessions it may mint.
    pub roles: BTreeSet<RoleArn>,
    /// Whether leases can be ended before their time.
    pub deny_slot: Option<DenySlot>,
    /// The longest session, which each of the roles has to allow.
    pub max_session: Ttl,
    /// Dayfly's own credentials.
    pub way_in: WayIn,
}

/// How the deny slots are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DenySlot {
    /// When a slot is full, end every session of its role rather than leave one alive.
    pub role_wide_when_full: bool,
}

/// Mints sessions.
pub struct AwsSts {
    region: AwsRegion,
    roles: BTreeSet<RoleArn>,
    max_session: Ttl,
    clients: Clients,
    slots: Vec<Slot>,
    clock: Arc<dyn Clock>,
    marks: Cache<LeaseId, Mark>,
}

impl AwsSts {
    /// A provider that calls nobody before it is asked to.
    pub fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        keys: Arc<KeyRing>,
    ) -> Self {
        let Settings {
            region,
            endpoint_url,
            roles,
            deny_slot,
            max_session,
            way_in,
        } = settings;
        let clients = Clients::new(&region, endpoint_url.as_deref(), way_in, keys, Arc::clone(&clock));
        let slot = |deny_slot: DenySlot, role: &RoleArn| {
            Slot::new(
                role.clone(),
                clients.iam.clone(),
                Arc::clone(&clock),
                Arc::clone(&entropy),
                deny_slot.role_wide_when_full,
            )
        };
        let slots = deny_slot.map(|deny_slot| roles.iter().map(|role| slot(deny_slot, role)).collect());
        let (most, life) = REMEMBERED;
        Self {
            slots: slots.unwrap_or_default(),
            region,
            roles,
            max_session,
            clients,
            clock,
            marks: Cache::builder().max_capacity(most).time_to_live(life).build(),
        }
    }

    /// When the sessions of a lease are over, as far as that is known.
    fn ends(&self, held: &Held) -> Option<Timestamp> {
        match self.marks.get(&held.lease) {
            Some(Mark::Out(ends)) => held.expires_at.max(Some(ends)),
            _ => held.expires_at,
        }
    }

    /// A session of at least 15 minutes that is pinned to this instant.
    async fn session(
        &self,
        lease: &Lease,
        tool: &Tool,
        access: &Access,
        (at, ends): (Timestamp, Timestamp),
    ) -> Result<Minted, ProviderError> {
        let parameters = self.parameters(tool)?;
        let policy = compile(&parameters, access, ends)?.text();
        let call = Call {
            action: "sts:AssumeRole",
            on: parameters.role.as_str(),
            grant: "grant Dayfly `sts:AssumeRole`, `sts:TagSession` and `sts:SetSourceIdentity` on it, and let \
                    its trust policy allow the same",
        };
        let mut request = self
            .clients
            .sts
            .assume_role()
            .role_arn(parameters.role.as_str())
            .role_session_name(session_name(lease.id))
            .duration_seconds(self.duration(at, ends)?)
            .policy(policy)
            .source_identity(source_identity(lease)?)
            .transitive_tag_keys(LEASE_TAG)
            .set_external_id(parameters.external_id);
        for (key, value) in [
            (LEASE_TAG, lease.id.to_string()),
            ("dayfly:task", lease.task.to_string()),
            ("dayfly:agent", lease.agent.to_string()),
        ] {
            let tag = Tag::builder().key(key).value(value).build();
            let tag = tag.map_err(|_| ProviderError::Refused(format!("the tag `{key}` cannot be made")))?;
            request = request.tags(tag);
        }
        let answer = request.send().await.map_err(|error| call.failed(&error))?;
        let credentials = answer.credentials.ok_or_else(|| {
            ProviderError::Unavailable(format!("{}: AWS answered without credentials", call.action))
        })?;
        self.marks.insert(lease.id, Mark::Out(ends));
        let region = parameters.region.as_ref().unwrap_or(&self.region);
        Ok(Minted {
            credential: Credential::AwsSession {
                access_key_id: credentials.access_key_id,
                secret_access_key: Secret::new(credentials.secret_access_key),
                session_token: Secret::new(credentials.session_token),
                region: Some(region.to_string()),
            },
            handle: handle(lease.id),
            expires_at: ends,
        })
    }

    fn parameters(&self, tool: &Tool) -> Result<Parameters, ProviderError> {
        let parameters = Parameters::of(tool)?;
        if self.roles.contains(&parameters.role) {
            return Ok(parameters);
        }
        Err(ProviderError::Refused(format!(
            "`parameters.role_arn` of the tool `{}`: {} is none of the `roles` of its provider: add it there",
            tool.name, parameters.role
        )))
    }

    /// In seconds, rounded up.
    fn duration(&self, at: Timestamp, ends: Timestamp) -> Result<i32, ProviderError> {
        let life = ends.since(at) + Duration::from_millis(999);
        let life = u32::try_from(life.as_secs())
            .unwrap_or(u32::MAX)
            .max(SHORTEST_SESSION);
        if life > self.max_session.as_secs() {
            return Err(ProviderError::Refused(format!(
                "its sessions live for {} at most (`max_session`)",
                self.max_session
            )));
        }
        i32::try_from(life).map_err(|_| ProviderError::Refused("no session lives that long".into()))
    }
}

/// Rounded down: that is what a pin can say, and nothing outlives its lease.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_secs(at.as_secs())
}

/// The id of the lease, which has only letters that STS takes.
fn session_name(lease: LeaseId) -> String {
    lease.to_string()
}

fn handle(lease: LeaseId) -> Handle {
    Handle(session_name(lease))
}

/// CloudTrail shows it with whatever the session did, and nobody can change it later.
fn source_identity(lease: &Lease) -> Result<&str, ProviderError> {
    let agent = lease.agent.as_str();
    if is_iam_name(agent, 2, 64) {
        return Ok(agent);
    }
    Err(ProviderError::Refused(format!(
        "AWS takes `{agent}` for no source identity: give the agent a name of at least two characters"
    )))
}

#[async_trait]
impl Provider for AwsSts {
    fn kind(&self) -> &'static str {
        "aws_sts"
    }

    fn promise(&self, _: &Tool) -> Promise {
        Promise {
            ending: match self.slots.is_empty() {
                true => Ending::AtExpiry,
                false => Ending::Immediate,
            },
            least: Ttl::MIN,
            most: self.max_session,
            self_contained: false,
            renewable: true,
        }
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        self.parameters(tool).map(|_| ())
    }

    /// The session policy, with the pin where it would be if the tool's default life began now.
    fn explain(&self, tool: &Tool, access: &Access) -> Result<Option<serde_json::Value>, ProviderError> {
        let ends = self.clock.now().plus(tool.default_ttl.as_duration());
        let policy = compile(&self.parameters(tool)?, access, ends)?;
        Ok(Some(policy.value()))
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        Some(handle(lease))
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let request = reservation.permit().request();
        let lease = reservation.lease();
        let life = (request.at, whole_seconds(lease.expires_at));
        let minted = self.session(lease, &request.tool, &request.access, life).await;
        if let Err(error) = &minted
            && !matches!(error, ProviderError::Unavailable(_))
        {
            // What was refused is not out, and takes no place in a slot.
            self.marks.insert(lease.id, Mark::NeverOut);
        }
        minted
    }

    /// A new session with the same tags and a later pin; the one of before ends at its own pin.
    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        let request = reservation.permit().request();
        let lease = reservation.lease();
        let ends = match self.marks.get(&lease.id) {
            Some(Mark::Ended | Mark::NeverOut) => {
                return Err(ProviderError::Refused("it was ended: ask for a new one".into()));
            }
            Some(Mark::Out(ends)) => ends.max(whole_seconds(lease.expires_at)),
            None => whole_seconds(lease.expires_at),
        };
        let life = (request.at, ends);
        let minted = self.session(lease, &request.tool, &request.access, life).await?;
        Ok(Renewed {
            credential: Some(minted.credential),
            expires_at: minted.expires_at,
        })
    }

    /// Without a slot there is nothing to call. With one, what is past its pin needs no entry.
    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        let (now, ends) = (self.clock.now(), self.ends(held));
        if self.marks.get(&held.lease) == Some(Mark::NeverOut) {
            return Ok(());
        }
        if !self.slots.is_empty() && ends.is_none_or(|ends| ends > now) {
            // Where the end is not known, it is the latest that there can be.
            let latest = || now.plus(self.max_session.as_duration());
            let until = ends.unwrap_or_else(latest).plus(SKEW);
            try_join_all(self.slots.iter().map(|slot| slot.deny(held.lease, until))).await?;
        }
        self.marks.insert(held.lease, Mark::Ended);
        Ok(())
    }

    /// Whether every slot holds the lease. Whether a session is out, nobody can be asked.
    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        if self.marks.get(&held.lease) == Some(Mark::NeverOut) {
            return Ok(Presence::Absent);
        }
        let over = self.ends(held).is_some_and(|ends| ends <= self.clock.now());
        if self.slots.is_empty() || over {
            return Ok(Presence::Unknown);
        }
        let denied = try_join_all(self.slots.iter().map(|slot| slot.holds(held.lease))).await?;
        Ok(match denied.contains(&false) {
            true => Presence::Unknown,
            false => Presence::Absent,
        })
    }

    /// STS keeps no list of its sessions. What ended early ends by itself too, at its pin.
    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        Ok(Vec::new())
    }

    /// Who we are, and whether each slot can be read and written back.
    async fn preflight(&self) -> Result<(), ProviderError> {
        self.ask_who_we_are().await?;
        try_join_all(self.slots.iter().map(Slot::prove)).await?;
        Ok(())
    }

    /// Who we are, and whether each slot can be read. Writing it back could undo what a broker writes meanwhile.
    async fn look(&self) -> Result<(), ProviderError> {
        self.ask_who_we_are().await?;
        try_join_all(self.slots.iter().map(Slot::read)).await?;
        Ok(())
    }
}

impl AwsSts {
    async fn ask_who_we_are(&self) -> Result<(), ProviderError> {
        let call = Call {
            action: "sts:GetCallerIdentity",
            on: "AWS",
            grant: "lift whatever denies it",
        };
        let asked = self.clients.sts.get_caller_identity().send().await;
        asked.map(drop).map_err(|error| call.failed(&error))
    }
}

impl fmt::Debug for AwsSts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSts")
            .field("region", &self.region)
            .field("roles", &self.roles)
            .field("max_session", &self.max_session)
            .field("deny_slot", &!self.slots.is_empty())
            .finish_non_exhaustive()
    }
}
