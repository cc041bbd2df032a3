//! A whole broker in memory: real policies, real evidence, real tokens; time that moves when told.
//!
//! Nothing here forges a witness. A caller comes from evidence that a test trust domain signed, a
//! permit from the policies in `config/`, a token from a key ring.

pub(crate) mod gated;
pub(crate) mod mortal;
pub(crate) mod receiver;
pub(crate) mod transmitter;
pub(crate) mod tripwire;
#[cfg(feature = "vault")]
pub(crate) mod vault;
pub(crate) mod vending;

use std::path::Path;
use std::sync::Arc;

use dayfly::app::rules;
use dayfly::broker::error::BrokerError;
use dayfly::broker::issue::{IssueOrder, Issued};
use dayfly::broker::open::OpenOrder;
use dayfly::broker::rules::{Rules, Ruleset};
use dayfly::broker::{Broker, Parts, Settings};
use dayfly::clock::{Clock, ManualClock};
use dayfly::config;
use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::OsEntropy;
use dayfly::identity::Evidence;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::journal::Journal;
use dayfly::journal::memory::MemoryJournal;
use dayfly::journal::note::NoteSigner;
use dayfly::journal::receipt::{self, Claims, ReceiptSigner};
use dayfly::journal::record::{Record, Verb};
use dayfly::keys::Algorithm;
use dayfly::keys::issuer::Issuer;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::ledger::Ledger;
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::model::access::Access;
use dayfly::model::agent::Agent;
use dayfly::model::credential::Credential;
use dayfly::model::decision::Revision;
use dayfly::model::ids::{RequestId, TaskId};
use dayfly::model::lease::Lease;
use dayfly::model::task::Task;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::policy::PolicyEngine;
use dayfly::provider::jwt::JwtProvider;
use dayfly::provider::{Provider, Providers};
use dayfly::registry::files;
use dayfly::registry::{Caller, Registry};

pub(crate) const ISSUER: &str = "https://dayfly.example.org";
/// A Sunday morning, within the hours of the example policies.
pub(crate) const MORNING: Timestamp = Timestamp::from_secs(1_795_338_000);

/// The agents of the example registry and the paths of their workloads.
const WORKLOADS: [(&str, &str); 4] = [
    ("support-bot", "agents/support-bot"),
    ("report-bot", "agents/report-bot"),
    ("ops-console", "ops/console"),
    ("crm-server", "tools/crm"),
];

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) trust_domain: DevTrustDomain,
    /// The one that vouches for report-bot, where it is another.
    partner: Option<DevTrustDomain>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) verifiers: Arc<Verifiers>,
    pub(crate) broker: Arc<Broker>,
}

/// Something that stands around a part.
type Around<T> = Box<dyn FnOnce(Arc<T>) -> Arc<T>>;

/// What a world is made of when it is not the usual.
pub(crate) struct Plan {
    /// When it begins.
    pub(crate) begins_at: Timestamp,
    pub(crate) settings: Settings,
    /// Stands around the ledger.
    pub(crate) ledger: Around<dyn Ledger>,
    /// Stands around the journal.
    pub(crate) journal: Around<dyn Journal>,
    /// Mints in place of the JWT provider.
    pub(crate) provider: Option<Arc<dyn Provider>>,
    /// A second provider, `other`, that mints for the tool `payments`.
    pub(crate) other: Option<Arc<dyn Provider>>,
    /// Mints for the tool `crm`, which has these parameters, as TOML.
    pub(crate) crm: Option<(Arc<dyn Provider>, String)>,
    /// Where the keys of the trust domain are read from.
    pub(crate) bundle: Option<Origin>,
    /// Another trust domain vouches for report-bot.
    pub(crate) partner: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            begins_at: MORNING,
            settings: Settings::default(),
            ledger: Box::new(|ledger| ledger),
            journal: Box::new(|journal| journal),
            provider: None,
            other: None,
            crm: None,
            bundle: None,
            partner: false,
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(Plan::default())
    }

    pub(crate) fn of(plan: Plan) -> Self {
        let entropy = OsEntropy::new();
        let clock = Arc::new(ManualClock::at(plan.begins_at));
        let trust_domain = DevTrustDomain::generate("example.org".parse().unwrap(), &entropy).unwrap();
        let journal = Arc::new(MemoryJournal::new(audit_key()));
        let embedded = Embedded::in_memory(embedded::Config::default()).unwrap();
        let ledger = (plan.ledger)(Arc::new(embedded));
        let signer = RingSigner::generate(Algorithm::Es256, &entropy).unwrap();
        let keys = Arc::new(KeyRing::of(Arc::new(signer)));
        let provider = plan.provider.unwrap_or_else(|| jwt(&keys));
        let bundle = plan.bundle.unwrap_or(Origin::Inline(trust_domain.bundle()));
        let partner = plan
            .partner
            .then(|| DevTrustDomain::generate("partner.example".parse().unwrap(), &entropy).unwrap());
        let verifiers = Arc::new(verifiers(&trust_domain, bundle, partner.as_ref()));
        let broker = broker(
            &clock,
            verifiers.clone(),
            &ledger,
            (plan.journal)(journal.clone()),
            (provider, plan.other, plan.crm),
            &keys,
            plan.settings,
        );
        Self {
            clock,
            journal,
            ledger,
            trust_domain,
            partner,
            keys,
            verifiers,
            broker,
        }
    }

    /// The same installation after its process died: nothing in memory is left but what is outside.
    pub(crate) fn restarted(&self, provider: Arc<dyn Provider>) -> Arc<Broker> {
        let bundle = Origin::Inline(self.trust_domain.bundle());
        self.another(provider, Arc::new(self.verifiers(bundle)))
    }

    /// Another broker of this installation, that reads the keys of the trust domain from there.
    pub(crate) fn replica(&self, bundle: Origin) -> (Arc<Broker>, Arc<Verifiers>) {
        let verifiers = Arc::new(self.verifiers(bundle));
        (self.another(jwt(&self.keys), verifiers.clone()), verifiers)
    }

    /// Another broker of this installation, that appraises evidence so.
    pub(crate) fn with_verifiers(&self, verifiers: Verifiers) -> Arc<Broker> {
        self.another(jwt(&self.keys), Arc::new(verifiers))
    }

    fn verifiers(&self, bundle: Origin) -> Verifiers {
        verifiers(&self.trust_domain, bundle, self.partner.as_ref())
    }

    fn another(&self, provider: Arc<dyn Provider>, verifiers: Arc<Verifiers>) -> Arc<Broker> {
        broker(
            &self.clock,
            verifiers,
            &self.ledger,
            self.journal.clone(),
            (provider, None, None),
            &self.keys,
            Settings::default(),
        )
    }

    /// Another process of this installation, on that ledger, with rules and providers of its own, and maybe
    /// with a journal of its own.
    pub(crate) fn process(
        &self,
        ledger: Arc<dyn Ledger>,
        rules: &Arc<Rules>,
        providers: Providers,
        journal: Option<(Arc<dyn Journal>, ReceiptSigner)>,
    ) -> Arc<Broker> {
        let (journal, receipts) =
            journal.unwrap_or_else(|| (self.journal.clone(), ReceiptSigner::new(ISSUER, audit_key())));
        Arc::new(Broker::new(Parts {
            clock: self.clock.clone(),
            entropy: Arc::new(OsEntropy::new()),
            verifiers: Arc::new(self.verifiers(Origin::Inline(self.trust_domain.bundle()))),
            rules: rules.clone(),
            ledger,
            providers,
            issuer: Arc::new(Issuer::new(ISSUER, self.keys.clone())),
            journal,
            receipts,
            settings: Settings::default(),
        }))
    }

    /// Rules with the agents of the examples, these tools alone, and this engine.
    pub(crate) fn rules(tools: impl IntoIterator<Item = Tool>, engine: impl PolicyEngine) -> Arc<Rules> {
        let registry = &configuration().registry;
        let loaded = files::load(&registry.agents, &registry.tools).unwrap().registry;
        let agents = loaded.agents().map(|agent| Agent {
            serves: [].into(), // the tools of the examples are not there
            ..Agent::clone(agent)
        });
        let rules = loaded.rules().cloned();
        Arc::new(Rules::new(Ruleset {
            registry: Registry::new(agents, rules, tools).unwrap(),
            engine: Box::new(engine),
            revision: Revision("of a test".into()),
        }))
    }

    /// New rules, in which these agents are suspended.
    pub(crate) fn suspend(&self, agents: &[&str]) {
        self.reload_agents(|agent, text| match agents.contains(&agent) {
            true => format!("status = \"suspended\"\n{text}"),
            false => text,
        });
    }

    /// New rules, in which the entry of this agent reads otherwise.
    pub(crate) fn rewrite(&self, agent: &str, change: impl Fn(String) -> String) {
        self.reload_agents(|name, text| if name == agent { change(text) } else { text });
    }

    /// New rules, in which this agent goes by another name.
    pub(crate) fn rename(&self, agent: &str) {
        let mut configuration = configuration();
        let folder = rewritten(&configuration.registry.agents, |name, text| match name == agent {
            true => text.replace(&format!("name = \"{agent}\""), "name = \"renamed\""),
            false => text,
        });
        let path = |name: &str| folder.path().join(format!("{name}.toml"));
        std::fs::rename(path(agent), path("renamed")).unwrap();
        configuration.registry.agents = folder.path().to_owned();
        self.put_in_force(&configuration);
    }

    /// New rules, in which work may be handed on to report-bot, whose workload the partner vouches for, and the CRM's
    /// server serves its tool too.
    pub(crate) fn hand_on_across(&self) {
        self.broker.rules().replace(self.across());
    }

    /// Those rules, not in force.
    pub(crate) fn across(&self) -> Ruleset {
        self.agents_that_read(|agent, text| match agent {
            "support-bot" => text.replace("roles = [\"support\"]", "roles = [\"support\", \"delegator\"]"),
            "report-bot" => text.replace("spiffe://example.org/", "spiffe://partner.example/"),
            "crm-server" => text.replace("serves = [\"crm\"]", "serves = [\"crm\", \"reports\"]"),
            _ => text,
        })
    }

    /// New rules, in which the policies read otherwise.
    pub(crate) fn rewrite_policies(&self, change: impl Fn(String) -> String) {
        let mut configuration = configuration();
        let folder = rewritten(&configuration.policy.dirs[0], |_, text| change(text));
        configuration.policy.dirs = vec![folder.path().to_owned()];
        self.put_in_force(&configuration);
    }

    /// New rules, in which the entries of agents read otherwise, by their names.
    pub(crate) fn reload_agents(&self, change: impl Fn(&str, String) -> String) {
        self.broker.rules().replace(self.agents_that_read(change));
    }

    /// Rules in which the entries of the agents read otherwise, not in force.
    pub(crate) fn agents_that_read(&self, change: impl Fn(&str, String) -> String) -> Ruleset {
        let mut configuration = configuration();
        let folder = rewritten(&configuration.registry.agents, change);
        configuration.registry.agents = folder.path().to_owned();
        rules::load(&configuration, &self.providers()).unwrap().0
    }

    fn put_in_force(&self, configuration: &config::Config) {
        self.broker
            .rules()
            .replace(rules::load(configuration, &self.providers()).unwrap().0);
    }

    /// The provider of tokens.
    pub(crate) fn jwt(&self) -> Arc<dyn Provider> {
        jwt(&self.keys)
    }

    /// Providers of which it is the only one.
    pub(crate) fn providers(&self) -> Providers {
        Providers::new([("jwt".parse().unwrap(), self.jwt())])
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn evidence(&self, agent: &str) -> Evidence {
        let (_, path) = WORKLOADS.iter().find(|(name, _)| *name == agent).unwrap();
        match &self.partner {
            Some(partner) if agent == "report-bot" => self.signed_by(partner, path).await,
            _ => self.evidence_of(path).await,
        }
    }

    /// Evidence of a workload that no agent needs to match.
    pub(crate) async fn evidence_of(&self, path: &str) -> Evidence {
        self.signed_by(&self.trust_domain, path).await
    }

    async fn signed_by(&self, domain: &DevTrustDomain, path: &str) -> Evidence {
        let life = Ttl::from_secs(300).unwrap();
        let svid = domain.svid(path, ISSUER, self.now(), life).await.unwrap();
        Evidence::bearer(&svid).unwrap()
    }

    pub(crate) fn request(&self) -> RequestId {
        self.broker.request_id().unwrap()
    }

    pub(crate) async fn caller(&self, agent: &str) -> Caller {
        self.broker
            .attest(&self.evidence(agent).await, self.request())
            .await
            .unwrap()
    }

    pub(crate) async fn open(&self, agent: &str, accesses: &[&str]) -> Task {
        self.broker
            .open(&self.caller(agent).await, order(accesses), self.request())
            .await
            .unwrap()
    }

    pub(crate) async fn issue(&self, agent: &str, task: TaskId, wanted: &str) -> Result<Issued, BrokerError> {
        let order = IssueOrder {
            task,
            access: access(wanted),
            ttl: None,
            key: None,
        };
        self.broker
            .issue(self.caller(agent).await, order, self.request())
            .await
    }

    /// Sweeps until nothing is due.
    pub(crate) async fn reap(&self) {
        while self.broker.sweep().await.unwrap().claimed > 0 {}
    }

    /// The signed receipt of a lease that ended: the same in the ledger and in the journal, and good by the
    /// verifier key of the journal.
    #[track_caller]
    pub(crate) fn receipt(&self, lease: &Lease) -> Claims {
        let text = receipt::compact(lease).unwrap();
        let records = self.journal.records().unwrap();
        let mut mine = records.iter().filter(|record| record.lease == Some(lease.id));
        assert!(mine.any(|record| record.receipt.as_ref() == Some(&text)));
        receipt::verify(&text, &[self.journal.verifier()]).unwrap().0
    }

    pub(crate) fn records(&self, verb: Verb) -> Vec<Record> {
        let records = self.journal.records().unwrap();
        records.into_iter().filter(|record| record.verb == verb).collect()
    }
}

/// The files of a directory, each as it reads after a change.
fn rewritten(directory: &Path, change: impl Fn(&str, String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = change(path.file_stem().unwrap().to_str().unwrap(), text);
        std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
    }
    folder
}

/// Who mints for most tools, for `payments`, and for `crm` with these parameters.
type Minting = (
    Arc<dyn Provider>,
    Option<Arc<dyn Provider>>,
    Option<(Arc<dyn Provider>, String)>,
);

fn broker(
    clock: &Arc<ManualClock>,
    verifiers: Arc<Verifiers>,
    ledger: &Arc<dyn Ledger>,
    journal: Arc<dyn Journal>,
    (provider, other, crm): Minting,
    keys: &Arc<KeyRing>,
    settings: Settings,
) -> Arc<Broker> {
    let mut configuration = configuration();
    let folder = tempfile::tempdir().unwrap();
    let mut providers = vec![("jwt".parse().unwrap(), provider)];
    if other.is_some() || crm.is_some() {
        for entry in std::fs::read_dir(&configuration.registry.tools).unwrap() {
            let path = entry.unwrap().path();
            let mut text = std::fs::read_to_string(&path).unwrap();
            if path.ends_with("payments.toml") && other.is_some() {
                text = text
                    .replace("provider = \"jwt\"", "provider = \"other\"")
                    .replace("live_credentials = 20\n", "");
            }
            if let (true, Some((_, parameters))) = (path.ends_with("crm.toml"), &crm) {
                text = text.replace("provider = \"jwt\"", "provider = \"crm-db\"") + parameters;
            }
            std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
        }
        configuration.registry.tools = folder.path().to_owned();
    }
    let crm = crm.map(|(provider, _)| provider);
    for (name, provider) in [("other", other), ("crm-db", crm)] {
        let Some(provider) = provider else { continue };
        providers.push((name.parse().unwrap(), provider));
        // Tools are checked against the providers that a configuration names, not against what they are.
        configuration.providers.push(config::providers::ProviderConfig {
            name: name.parse().unwrap(),
            kind: config::providers::ProviderKind::Jwt,
        });
    }
    let providers = Providers::new(providers);
    let (ruleset, _) = rules::load(&configuration, &providers).unwrap();
    Arc::new(Broker::new(Parts {
        clock: clock.clone(),
        entropy: Arc::new(OsEntropy::new()),
        verifiers,
        rules: Arc::new(Rules::new(ruleset)),
        ledger: ledger.clone(),
        providers,
        issuer: Arc::new(Issuer::new(ISSUER, keys.clone())),
        journal,
        receipts: ReceiptSigner::new(ISSUER, audit_key()),
        settings,
    }))
}

fn audit_key() -> NoteSigner {
    NoteSigner::from_seed("dayfly.example.org/journal", &[7; 32]).unwrap()
}

fn jwt(keys: &Arc<KeyRing>) -> Arc<dyn Provider> {
    Arc::new(JwtProvider::new(ISSUER, keys.clone(), Ttl::from_secs(3600).unwrap()).unwrap())
}

fn verifiers(trust_domain: &DevTrustDomain, bundle: Origin, partner: Option<&DevTrustDomain>) -> Verifiers {
    let trusted = |domain: &DevTrustDomain, bundle| Trusted {
        trust_domain: domain.name().clone(),
        bundle,
        freshness: Freshness::default(),
    };
    let partner = partner.map(|domain| trusted(domain, Origin::Inline(domain.bundle())));
    let trusted = std::iter::once(trusted(trust_domain, bundle)).chain(partner);
    let terms = Terms {
        audiences: Audiences::new([ISSUER]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    Verifiers::new(
        vec![Arc::new(JwtSvid::new(trusted, terms).unwrap())],
        CacheConfig::default(),
    )
}

/// The example policies, agents and tools.
fn configuration() -> config::Config {
    configuration_with("")
}

/// The same, with more sections.
pub(crate) fn configuration_with(more: &str) -> config::Config {
    let text = "[[provider]]\nname = \"jwt\"\nkind = \"jwt\"\n[[provider]]\nname = \"other\"\nkind = \"jwt\"\n[[identity.trust_domain]]\nname = \"example.org\"\nbundle_file = \"unused.json\"\n";
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    config::parse("dayfly.toml", &base, &format!("{text}{more}")).unwrap()
}

pub(crate) fn order(accesses: &[&str]) -> OpenOrder {
    OpenOrder {
        purpose: "answer ticket 4711".parse().unwrap(),
        scope: dayfly::model::access::Scope::new(accesses.iter().map(|text| access(text)).collect()).unwrap(),
        on_behalf_of: None,
        ttl: None,
        heartbeat: None,
        key: None,
    }
}

/// Reads `tool:action[,action…][@resource[,resource…]]`.
pub(crate) fn access(text: &str) -> Access {
    let (tool, rest) = text.split_once(':').unwrap();
    let (actions, resources) = rest.split_once('@').map_or((rest, None), |(a, r)| (a, Some(r)));
    Access::new(
        tool.parse().unwrap(),
        actions.split(',').map(|action| action.parse().unwrap()).collect(),
        resources
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(|path| path.parse().unwrap())
            .collect(),
    )
    .unwrap()
}

pub(crate) fn token(issued: &Issued) -> &str {
    let Some(Credential::Bearer(secret)) = &issued.credential else {
        panic!("not a token");
    };
    secret.expose()
}
