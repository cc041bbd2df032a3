//! The JWT provider: RFC 9068 access tokens, signed here, verified by the tools themselves.
//!
//! Nothing exists outside until the token is handed out, and nothing can be called to end it:
//! resource servers refuse it once the revocation feed or its status list says so, and at its expiry at the latest.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Minted, Presence, Promise, Provider, ProviderError, Renewed};
use crate::keys::jose;
use crate::keys::key_ring::KeyRing;
use crate::ledger::reservation::Reservation;
use crate::ledger::status_lists::Entry;
use crate::model::credential::Credential;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Held, Lease};
use crate::model::secret::Secret;
use crate::model::status_list::{Reference, Status};
use crate::model::time::Timestamp;
use crate::model::token::{AccessToken, Actor, Detail, DetailKind, Marks, Profile, TYP};
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

/// Mints access tokens.
pub struct JwtProvider {
    issuer: String,
    keys: Arc<KeyRing>,
    most: Ttl,
    lists: bool,
}

impl JwtProvider {
    /// A provider that issues as `issuer`, the URL where the broker is found, with the keys of this
    /// ring, for `most` at the longest.
    pub fn new(issuer: impl Into<String>, keys: Arc<KeyRing>, most: Ttl) -> Result<Self, ProviderError> {
        let issuer = issuer.into();
        if !absolute(&issuer) || issuer.contains('?') {
            return Err(ProviderError::Refused(format!(
                "the issuer `{issuer}` has to be an absolute https or http URL without query and fragment"
            )));
        }
        Ok(Self {
            issuer,
            keys,
            most,
            lists: true,
        })
    }

    /// The same, whose tokens are on no status list.
    #[must_use]
    pub fn without_status_lists(self) -> Self {
        Self { lists: false, ..self }
    }

    fn claims(&self, lease: &Lease, audience: &str, at: Timestamp, entry: Option<Entry>) -> AccessToken {
        let agent = &lease.agent;
        let (sub, sub_profile) = match &lease.on_behalf_of {
            None => (agent.to_string(), Profile::AiAgent),
            Some(user) => (user.to_string(), Profile::User),
        };
        // Of work that was handed on the chain says who acts, also where nobody else is the subject.
        let acts_for_another = lease.on_behalf_of.is_some() || !lease.delegators.is_empty();
        let chain = lease.delegators.iter().rev().map(|above| &above.agent);
        let actors = chain.chain(std::iter::once(agent)).filter(|_| acts_for_another);
        let act = actors.fold(None, |before, actor| {
            Some(Actor {
                sub: actor.clone(),
                iss: self.issuer.clone(),
                sub_profile: Profile::AiAgent,
                act: before.map(Box::new),
            })
        });
        let domains_above = lease.trust_domains();
        let domains_above = domains_above.filter(|domain| lease.trust_domain.as_ref() != Some(*domain));
        let mut scope = String::new();
        for action in &lease.actions {
            if !scope.is_empty() {
                scope.push(' ');
            }
            scope.extend([lease.tool.as_str(), ":", action.as_str()]);
        }
        AccessToken {
            iss: self.issuer.clone(),
            sub,
            sub_profile,
            aud: audience.to_owned(),
            client_id: agent.clone(),
            iat: at.as_secs(),
            nbf: at.as_secs(),
            exp: lease.expires_at.as_secs(),
            jti: lease.id,
            txn: lease.task,
            scope,
            authorization_details: vec![Detail {
                kind: DetailKind::DayflyAccess,
                locations: vec![audience.to_owned()],
                actions: lease.actions.clone(),
                resources: lease.resources.clone(),
            }],
            act,
            cnf: None,
            status: entry.map(|entry| Status {
                status_list: Reference {
                    idx: entry.index,
                    uri: entry.list.uri(&self.issuer),
                },
            }),
            marks: Marks {
                task: lease.task,
                parents: lease.delegators.iter().map(|above| above.task).collect(),
                lease: lease.id,
                agent: agent.clone(),
                tool: lease.tool.clone(),
                environment: lease.environment.clone(),
                trust_domain: lease.trust_domain.clone(),
                parent_trust_domains: domains_above.cloned().collect(),
                decision: lease.decision,
            },
        }
    }

    async fn issue(
        &self,
        lease: &Lease,
        audience: &str,
        at: Timestamp,
        entry: Option<Entry>,
    ) -> Result<Minted, ProviderError> {
        let claims = self.claims(lease, audience, at, entry);
        let token = jose::sign(&*self.keys.current(), TYP, &claims)
            .await
            .map_err(|e| ProviderError::Unavailable(e.to_string()))?;
        Ok(Minted {
            credential: Credential::Bearer(Secret::new(token)),
            handle: Handle(lease.id.to_string()),
            expires_at: Timestamp::from_secs(claims.exp),
        })
    }
}

/// An absolute URI of a tool or an issuer (RFC 8707 §2): https or http, a host, no fragment, no user.
fn absolute(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "https" | "http")
            && url.has_host()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    }) && text.len() <= 2048
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[async_trait]
impl Provider for JwtProvider {
    fn kind(&self) -> &'static str {
        "jwt"
    }

    fn promise(&self, _: &Tool) -> Promise {
        Promise {
            ending: Ending::DenyListed,
            least: Ttl::MIN,
            most: self.most,
            self_contained: true,
            renewable: true,
        }
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        if !absolute(&tool.audience) {
            return Err(ProviderError::Refused(format!(
                "the audience of the tool `{}` has to be an absolute https or http URI without a fragment",
                tool.name
            )));
        }
        match tool.binding.parameters.keys().next() {
            None => Ok(()),
            Some(name) => Err(ProviderError::Refused(format!(
                "the tool `{}` sets `{name}`, and this provider has no parameters",
                tool.name
            ))),
        }
    }

    fn lists(&self) -> bool {
        self.lists
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        Some(Handle(lease.to_string()))
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let request = reservation.permit().request();
        let audience = &request.tool.audience;
        self.issue(reservation.lease(), audience, request.at, reservation.entry())
            .await
    }

    /// A new token with the same `jti`: it is the lease that is revoked.
    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        let minted = self.mint(reservation).await?;
        Ok(Renewed {
            credential: Some(minted.credential),
            expires_at: minted.expires_at,
        })
    }

    /// Nothing to call: the ledger published the cutoff when the lease had to end.
    async fn revoke(&self, _: &Held) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn probe(&self, _: &Held) -> Result<Presence, ProviderError> {
        Ok(Presence::Unknown)
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        Ok(Vec::new())
    }

    /// Signs something and verifies it by what is published.
    async fn preflight(&self) -> Result<(), ProviderError> {
        let unavailable = |e: &dyn fmt::Display| ProviderError::Unavailable(e.to_string());
        let token = jose::sign(&*self.keys.current(), "preflight+jwt", &serde_json::json!({}))
            .await
            .map_err(|e| unavailable(&e))?;
        jose::Unverified::parse(&token, 4096)
            .and_then(|token| token.verify_with(&self.keys.key_set()))
            .map_err(|e| unavailable(&e))
    }
}

impl fmt::Debug for JwtProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtProvider")
            .field("issuer", &self.issuer)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dayfly_client::resource::Claims;
    use serde_json::{Value, json};

    use super::*;
    use crate::entropy::OsEntropy;
    use crate::keys::Algorithm;
    use crate::keys::ring_keys::RingSigner;
    use crate::ledger::lineage::Epoch;
    use crate::ledger::status_lists::ListName;
    use crate::model::cutoff::{Cutoff, Selector};
    use crate::model::ids::{DecisionId, TaskId};
    use crate::model::lease::{Cause, LeaseState};
    use crate::model::status_list::Hour;
    use crate::model::task::Delegator;
    use crate::model::tool::{Binding, Risk, Sensitivity};
    use crate::model::ttl::Bound;

    const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);
    const AUDIENCE: &str = "https://crm.example.org/api";
    const ENTRY: Entry = Entry {
        list: ListName {
            epoch: Epoch(0xab),
            hour: Hour(498_702),
            part: 3,
        },
        index: 5000,
    };

    fn provider() -> JwtProvider {
        let key = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        let ring = Arc::new(KeyRing::of(Arc::new(key)));
        JwtProvider::new("https://dayfly.example.org", ring, Ttl::from_secs(900).unwrap()).unwrap()
    }

    fn lease() -> Lease {
        let task = TaskId::new(AT, [1; 10]);
        Lease {
            id: LeaseId::new(task, AT, [2; 10]),
            task,
            agent: "support-bot".parse().unwrap(),
            environment: "prod".parse().unwrap(),
            trust_domain: Some("example.org".parse().unwrap()),
            on_behalf_of: Some("u-4711".parse().unwrap()),
            delegators: Vec::new(),
            tool: "crm".parse().unwrap(),
            actions: ["read", "list"].iter().map(|a| a.parse().unwrap()).collect(),
            resources: ["customers/42".parse().unwrap()].into(),
            provider: "jwt".parse().unwrap(),
            handle: None,
            ending: Ending::DenyListed,
            decision: DecisionId::new(AT, [3; 10]),
            issued_at: AT,
            expires_at: AT.plus(std::time::Duration::from_secs(300)),
            bounded_by: Bound::Policy,
            requested: None,
            vouched: None,
            curtailed: None,
            listing: Default::default(),
            state: LeaseState::Active,
        }
    }

    fn tool(audience: &str) -> Tool {
        Tool {
            name: "crm".parse().unwrap(),
            description: String::new(),
            owner: "crm team".parse().unwrap(),
            actions: BTreeMap::new(),
            risk: Risk::Low,
            sensitivity: Sensitivity::Public,
            zone: "internal".parse().unwrap(),
            environment: "prod".parse().unwrap(),
            audience: audience.into(),
            origins: [].into(),
            binding: Binding {
                provider: "jwt".parse().unwrap(),
                parameters: BTreeMap::new(),
            },
            max_ttl: Ttl::MAX,
            default_ttl: Ttl::MAX,
            live_credentials: None,
            facts: BTreeMap::new(),
        }
    }

    async fn claims(lease: &Lease) -> Value {
        let provider = provider();
        let minted = provider.issue(lease, AUDIENCE, AT, Some(ENTRY)).await.unwrap();
        let Credential::Bearer(token) = &minted.credential else {
            panic!("not a token");
        };
        let token = jose::Unverified::parse(token.expose(), 4096).unwrap();
        token.verify_with(&provider.keys.key_set()).unwrap();
        assert!(token.header().is_typ(TYP));
        assert_eq!(Some(minted.handle), provider.handle(lease.id));
        token.claims().unwrap()
    }

    #[tokio::test]
    async fn a_token_says_exactly_this() {
        let lease = lease();
        let (task, id, decision) = (
            lease.task.to_string(),
            lease.id.to_string(),
            lease.decision.to_string(),
        );
        assert_eq!(
            claims(&lease).await,
            json!({
                "iss": "https://dayfly.example.org",
                "sub": "u-4711",
                "sub_profile": "user",
                "aud": AUDIENCE,
                "client_id": "support-bot",
                "iat": 1_795_329_000, "nbf": 1_795_329_000, "exp": 1_795_329_300,
                "jti": id,
                "txn": task,
                "scope": "crm:list crm:read",
                "authorization_details": [{
                    "type": "dayfly_access",
                    "locations": [AUDIENCE],
                    "actions": ["list", "read"],
                    "resources": ["customers/42"],
                }],
                "status": {"status_list": {
                    "idx": 5000,
                    "uri": "https://dayfly.example.org/v1/status-lists/00000000000000ab-498702-3",
                }},
                "act": {"sub": "support-bot", "iss": "https://dayfly.example.org", "sub_profile": "ai_agent"},
                "https://dayfly.dev/claims": {
                    "task": task, "lease": id, "agent": "support-bot", "tool": "crm", "environment": "prod",
                    "trust_domain": "example.org", "decision": decision,
                },
            })
        );
    }

    #[tokio::test]
    async fn an_agent_on_its_own_is_the_subject_and_there_is_no_actor() {
        let alone = Lease {
            on_behalf_of: None,
            trust_domain: None,
            resources: [].into(),
            ..lease()
        };
        let claims = claims(&alone).await;
        assert_eq!(
            (&claims["sub"], &claims["sub_profile"]),
            (&json!("support-bot"), &json!("ai_agent"))
        );
        for absent in ["/act", "/cnf", "/authorization_details/0/resources"] {
            assert_eq!(claims.pointer(absent), None, "{absent}");
        }
    }

    /// Of work that the planner got from the chief and handed on.
    fn handed_on() -> Lease {
        let above = |number: u8, agent: &str, domain: Option<&str>| Delegator {
            task: TaskId::new(AT, [number; 10]),
            agent: agent.parse().unwrap(),
            kind: crate::model::attestation::EvidenceKind::JwtSvid,
            trust_domain: domain.map(|name| name.parse().unwrap()),
            key: None,
            until: AT,
        };
        Lease {
            delegators: vec![
                above(20, "planner", Some("partner.example")),
                above(21, "chief", Some("example.org")),
                above(22, "owner", None),
            ],
            ..lease()
        }
    }

    #[tokio::test]
    async fn a_token_names_who_acts_and_who_handed_the_work_on() {
        for user in [None, Some("u-4711".parse().unwrap())] {
            let sub = user
                .as_ref()
                .map_or("support-bot".to_owned(), ToString::to_string);
            let lease = Lease {
                on_behalf_of: user,
                ..handed_on()
            };
            let claims = claims(&lease).await;
            let actors = [
                "/act/sub",
                "/act/act/sub",
                "/act/act/act/sub",
                "/act/act/act/act/act",
            ];
            let actors = actors.map(|place| claims.pointer(place).and_then(Value::as_str));
            assert_eq!(
                actors,
                [Some("support-bot"), Some("planner"), Some("chief"), None]
            );
            assert_eq!(claims["sub"], json!(sub));
            let parents: Vec<TaskId> = lease.delegators.iter().map(|above| above.task).collect();
            let marks = &claims["https://dayfly.dev/claims"];
            assert_eq!(marks["parents"], json!(parents));
            assert_eq!(marks["parent_trust_domains"], json!(["partner.example"]));
        }
    }

    /// What one side writes is what the other reads.
    fn same<T: serde::de::DeserializeOwned>(said: &impl serde::Serialize) -> T {
        serde_json::from_value(serde_json::to_value(said).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_ends_a_lease_ends_its_token_and_nothing_else_does() {
        let moment = std::time::Duration::from_millis(1);
        for lease in [
            lease(),
            Lease {
                on_behalf_of: None,
                trust_domain: None,
                ..lease()
            },
            handed_on(),
        ] {
            let token: Claims = serde_json::from_value(claims(&lease).await).unwrap();
            let strangers = [
                Selector::Lease(LeaseId::new(lease.task, AT, [9; 10])),
                Selector::Task(TaskId::new(AT, [9; 10])),
                Selector::Task(TaskId::new(AT, [20; 10])),
                Selector::Agent("crm".parse().unwrap()),
                Selector::Agent("chief".parse().unwrap()),
                Selector::Tool("support-bot".parse().unwrap()),
                Selector::User("support-bot".parse().unwrap()),
                Selector::User("u-4711".parse().unwrap()),
                Selector::Environment("test".parse().unwrap()),
                Selector::TrustDomain("prod".parse().unwrap()),
                Selector::TrustDomain("example.org".parse().unwrap()),
                Selector::TrustDomain("partner.example".parse().unwrap()),
            ];
            let own = token.selectors().map(|own| same::<Selector>(&own));
            for selector in own.chain(strangers) {
                for up_to in [AT.minus(moment), AT, AT.plus(moment)] {
                    let (at, cause) = (AT, Cause::Revoked);
                    let cutoff = Cutoff {
                        selector: selector.clone(),
                        up_to,
                        at,
                        cause,
                    };
                    let ends = token.is_cut_by(&same(&cutoff));
                    assert_eq!(ends, lease.is_cut_by(&cutoff), "{cutoff:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_token_never_outlives_its_lease() {
        let minted = provider().issue(&lease(), AUDIENCE, AT, None).await.unwrap();
        assert!(minted.expires_at <= lease().expires_at);
        assert!(!format!("{minted:?}").contains("eyJ"), "the token does not print");
    }

    #[test]
    fn takes_only_audiences_that_are_absolute_uris() {
        let provider = provider();
        for good in [
            "https://crm.example.org",
            "http://127.0.0.1:8080/mcp",
            "https://a.example/b?c=d",
        ] {
            assert!(provider.accepts(&tool(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "crm",
            "/api",
            "urn:crm",
            "ftp://crm.example.org",
            "https://",
            "https://crm.example.org#x",
            "https://crm.example.org#",
            "https://user@crm.example.org",
            " https://crm.example.org",
        ] {
            assert!(provider.accepts(&tool(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_parameters_that_it_does_not_know() {
        let mut tool = tool(AUDIENCE);
        tool.binding.parameters.insert("ttl".into(), json!(5));
        let error = provider().accepts(&tool).unwrap_err().to_string();
        assert!(error.contains("`ttl`"), "{error}");
    }

    #[tokio::test]
    async fn ends_nothing_and_says_that_nothing_can_be_asked() {
        let provider = provider();
        assert!(provider.revoke(&lease().held()).await.is_ok());
        assert_eq!(provider.probe(&lease().held()).await.unwrap(), Presence::Unknown);
        assert_eq!(provider.inventory().await.unwrap(), []);
        provider.preflight().await.unwrap();
    }
}
