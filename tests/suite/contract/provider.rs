//! The contract of [`dayfly::provider::Provider`]: one test for each promise, run against every adapter.
//!
//! An adapter joins with a [`Subject`] and one line of `provider_contract!`. What a provider cannot do
//! it says in its [`Promise`] or in its subject; a promise that does not apply is kept by doing nothing.

mod ending;
mod listing;
mod lossy;
mod minting;
mod renewing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dayfly::entropy::{Entropy, OsEntropy, draw};
use dayfly::ledger::Budgets;
use dayfly::ledger::reservation::{Draft, Reservation, Terms};
use dayfly::model::access::Access;
use dayfly::model::credential::Credential;
use dayfly::model::decision::{Decision, Grounds, Obligations, Revision};
use dayfly::model::fact::Facts;
use dayfly::model::ids::{DecisionId, LeaseId};
use dayfly::model::lease::{Ending, Held, Lease};
use dayfly::model::task::Task;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::{Binding, Effect, Risk, Sensitivity, Tool};
use dayfly::model::ttl::{Bound, Ttl};
use dayfly::policy::permit::Permit;
use dayfly::policy::{AccessRequest, PolicyEngine, Question, TaskContext};
use dayfly::provider::{Minted, Presence, Promise, Provider};

use crate::world::{MORNING, Plan, World};

/// A provider under test, with its outside.
#[async_trait]
pub(crate) trait Subject: Send + Sync {
    /// The provider. It accepts [`Subject::tool`].
    fn provider(&self) -> Arc<dyn Provider>;
    /// The provider as another process would make it: it knows nothing that was not written down.
    fn reborn(&self) -> Arc<dyn Provider> {
        self.provider()
    }
    /// Whether the outside has a clock that is moved rather than waited for.
    fn is_timed(&self) -> bool {
        false
    }
    /// The tool that credentials are for. [`a_tool`] is a beginning.
    fn tool(&self) -> Tool;
    /// An access of the tool that can be served.
    fn access(&self) -> Access;
    /// An access that is permitted and that this provider cannot put into a credential.
    fn unfit(&self) -> Option<Access> {
        None
    }
    /// Whether the outside lets this credential in now.
    async fn works(&self, credential: &Credential) -> bool;
    /// The time by the clock of the outside, at the beginning of the test.
    fn begins_at(&self) -> Timestamp {
        MORNING
    }
    /// Lets the outside see so much time pass. `false` where it has no clock that can be moved.
    async fn pass(&self, _: Duration) -> bool {
        false
    }
    /// Whether the outside can be asked what is out.
    fn lists(&self) -> bool {
        true
    }
    /// Whether the outside can be seen to end one credential and spare another.
    fn ends_one_by_one(&self) -> bool {
        true
    }
    /// The next mint fails half-way, with something made. `false` where nothing can be left half made.
    async fn fail_half_way(&self) -> bool {
        false
    }
}

/// A tool for tests, to be filled with what the provider reads of it.
pub(crate) fn a_tool(provider: &str, parameters: serde_json::Value) -> Tool {
    let parameters = serde_json::from_value(parameters).unwrap();
    Tool {
        name: "orders".parse().unwrap(),
        description: "a tool of the contract".into(),
        owner: "the contract".parse().unwrap(),
        actions: [("read", Effect::Read), ("write", Effect::Write)]
            .map(|(name, effect)| (name.parse().unwrap(), effect))
            .into(),
        risk: Risk::Low,
        sensitivity: Sensitivity::Public,
        zone: "eu".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: "https://orders.example.org".into(),
        origins: [].into(),
        binding: Binding {
            provider: provider.parse().unwrap(),
            parameters,
        },
        max_ttl: Ttl::MAX,
        default_ttl: Ttl::MAX,
        live_credentials: None,
        facts: [].into(),
    }
}

/// How long the credentials of the tests live, where nothing else is said.
const LIFE: Duration = Duration::from_secs(1800);

/// A provider under test, and a house around it that makes reservations.
pub(super) struct Lab {
    subject: Box<dyn Subject>,
    provider: Arc<dyn Provider>,
    tool: Arc<Tool>,
    world: World,
    task: Task,
}

/// Permits whatever is asked: what a provider does with a permit is not a matter of policy.
pub(crate) struct Permissive;

impl PolicyEngine for Permissive {
    fn answer(&self, _: &Question<'_>) -> Decision {
        Decision::Permit {
            grounds: Grounds {
                policies: Vec::new(),
                faults: Box::default(),
                facts: Box::default(),
                revision: Revision("contract".into()),
                shadow: None,
            },
            obligations: Obligations::default(),
        }
    }
}

/// A credential that is out, with its lease.
struct Out {
    lease: Lease,
    minted: Minted,
}

impl Out {
    fn held(&self) -> Held {
        Held {
            handle: Some(self.minted.handle.clone()),
            ..self.lease.held()
        }
    }

    /// As it would be known if the process had died before it wrote the name down.
    fn nameless(&self) -> Held {
        Held {
            handle: None,
            ..self.lease.held()
        }
    }
}

impl Lab {
    pub(super) async fn new(subject: impl Subject + 'static) -> Self {
        let world = World::of(Plan {
            begins_at: subject.begins_at(),
            ..Plan::default()
        });
        let (provider, tool) = (subject.provider(), subject.tool());
        provider.accepts(&tool).unwrap();
        let task = world.open("support-bot", &["crm:read"]).await;
        Self {
            subject: Box::new(subject),
            provider,
            tool: Arc::new(tool),
            world,
            task,
        }
    }

    fn promise(&self) -> Promise {
        self.provider.promise(&self.tool)
    }

    /// Whether its credentials stop working once they are revoked.
    fn ends_at_once(&self) -> bool {
        self.promise().ending == Ending::Immediate
    }

    async fn permit(&self, access: Access) -> Permit {
        let caller = self.world.caller("support-bot").await;
        let charter = &self.task.charter;
        let request = AccessRequest {
            caller,
            tool: Arc::clone(&self.tool),
            access,
            task: Some(TaskContext {
                id: charter.id,
                purpose: charter.purpose.clone(),
                on_behalf_of: charter.on_behalf_of.clone(),
                delegators: Vec::new(),
                opened_at: charter.opened_at,
            }),
            chain: Vec::new(),
            ttl: None,
            facts: Facts::default(),
            at: self.world.now(),
        };
        Permit::obtain(&Permissive, request).unwrap()
    }

    /// A lease that is written down, and nothing outside.
    async fn reserve(&self, access: Access, life: Duration) -> Reservation {
        let (promise, now) = (self.promise(), self.world.now());
        let id = LeaseId::new(self.task.charter.id, now, random());
        let terms = Terms {
            id,
            decision: DecisionId::new(now, random()),
            handle: self.provider.handle(id),
            ending: promise.ending,
            self_contained: promise.self_contained,
            listed: self.provider.lists(),
            issued_at: now,
            expires_at: now.plus(life),
            bounded_by: Bound::Tool,
        };
        let draft = Draft::new(self.permit(access).await, terms).unwrap();
        let unlimited = Budgets {
            task: None,
            agent: None,
            tool: None,
        };
        Reservation::make(&*self.world.ledger, draft, &unlimited, None)
            .await
            .unwrap()
    }

    /// The same with its name, prepared where the technology chooses it.
    async fn named(&self, access: Access, life: Duration) -> Reservation {
        let reservation = self.reserve(access, life).await;
        if reservation.lease().handle.is_some() {
            return reservation;
        }
        let handle = self.provider.prepare(&reservation).await.unwrap();
        reservation.name(&*self.world.ledger, handle).await.unwrap()
    }

    /// A credential, and its lease active.
    async fn mint_for(&self, life: Duration) -> Out {
        let reservation = self.named(self.subject.access(), life).await;
        let minted = self.provider.mint(&reservation).await.unwrap();
        if !self.promise().self_contained {
            let ledger = &self.world.ledger;
            ledger
                .activate(reservation.lease().id, &minted.handle, minted.expires_at)
                .await
                .unwrap();
        }
        Out {
            lease: reservation.lease().clone(),
            minted,
        }
    }

    async fn mint(&self) -> Out {
        self.mint_for(LIFE).await
    }

    async fn works(&self, out: &Out) -> bool {
        self.subject.works(&out.minted.credential).await
    }

    async fn probe(&self, held: &Held) -> Presence {
        self.provider.probe(held).await.unwrap()
    }

    /// It was asked for afterwards: it is not there, or nobody can say.
    async fn is_gone(&self, held: &Held) {
        assert_ne!(self.probe(held).await, Presence::Present, "{held:?}");
    }

    /// What bears the mark of this lease outside.
    async fn listed(&self, lease: LeaseId) -> Vec<Held> {
        let all = self.provider.inventory().await.unwrap();
        all.into_iter().filter(|held| held.lease == lease).collect()
    }
}

fn random() -> [u8; 10] {
    draw(&OsEntropy::new() as &dyn Entropy).unwrap()
}

/// Runs every promise against an adapter: `provider_contract!(name, subject)`, where the subject is an
/// `Option` of a future of a [`Subject`]; with none, because the adapter has no server to talk to
/// here, its tests pass unseen.
macro_rules! provider_contract {
    ($adapter:ident, $subject:expr) => {
        provider_contract!(@modules $adapter, $subject;
            minting: a_credential_opens_the_door, a_name_is_known_before_anything_exists,
                a_credential_lives_as_long_as_its_lease_at_most, no_two_leases_share_a_credential,
                what_cannot_be_served_is_refused_before_anything_exists,
                minting_again_leaves_one_thing_to_end, many_at_a_time_are_each_their_own,
                a_credential_does_not_print, a_credential_ends_by_itself;
            ending: a_revoked_credential_opens_nothing, revoking_again_changes_nothing,
                what_never_was_is_ended, one_end_spares_the_others,
                what_bears_the_mark_is_ended_without_its_name,
                what_was_prepared_and_forgotten_is_ended, what_was_half_made_is_ended,
                many_ends_at_a_time;
            listing: the_provider_can_do_what_it_must, what_is_out_is_listed_until_it_ends,
                looking_finds_what_is_there;
            renewing: a_renewed_credential_lives_longer, renewing_never_shortens,
                what_ended_is_not_renewed;
        );
    };
    (@modules $adapter:ident, $subject:expr; $($module:ident: $($promise:ident),+;)+) => {
        mod $adapter {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    if let Some(subject) = $subject {
                        let lab = $crate::contract::provider::Lab::new(subject.await).await;
                        $crate::contract::provider::$module::$promise(lab).await;
                    }
                }
            )+)+
        }
    };
}

pub(crate) mod adapters;
#[cfg(feature = "aws")]
pub(crate) mod aws;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "vault")]
pub(crate) mod vault;
mod webhook;
