//! A broker in process whose registry has the agents and tools of the leases that fill a ledger.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dayfly::app::rules;
use dayfly::broker::error::BrokerError;
use dayfly::broker::issue::IssueOrder;
use dayfly::broker::open::OpenOrder;
use dayfly::broker::rules::{Rules, Ruleset};
use dayfly::broker::{Broker, Parts, Settings};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::config;
use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::OsEntropy;
use dayfly::identity::Evidence;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::journal::file::{FileJournal, Options};
use dayfly::journal::note::NoteSigner;
use dayfly::journal::receipt::ReceiptSigner;
use dayfly::keys::Algorithm;
use dayfly::keys::issuer::Issuer;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::ledger::Ledger;
use dayfly::model::access::{Access, Scope};
use dayfly::model::credential::Credential;
use dayfly::model::ids::TaskId;
use dayfly::model::name::ProviderName;
use dayfly::model::secret::Secret;
use dayfly::model::ttl::Ttl;
use dayfly::provider::jwt::JwtProvider;
use dayfly::provider::{Provider, Providers};
use dayfly::registry::Caller;
use tempfile::TempDir;

use crate::leases::TOOLS;

const ISSUER: &str = "https://dayfly.example.org";

/// What is measured.
pub(crate) struct Estate {
    pub(crate) broker: Arc<Broker>,
    trust_domain: DevTrustDomain,
    providers: Providers,
    files: TempDir,
}

impl Estate {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, agents: usize) -> Self {
        Self::with(ledger, agents, None)
    }

    /// With one more provider, and the file of a tool that it is for.
    pub(crate) fn with(
        ledger: Arc<dyn Ledger>,
        agents: usize,
        more: Option<(ProviderName, Arc<dyn Provider>, String)>,
    ) -> Self {
        let files = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        lay_out(files.path(), agents);
        let entropy = OsEntropy::new();
        let trust_domain = DevTrustDomain::generate("example.org".parse().unwrap(), &entropy).unwrap();
        let signer = RingSigner::generate(Algorithm::Es256, &entropy).unwrap();
        let keys = Arc::new(KeyRing::of(Arc::new(signer)));
        let life = Ttl::from_secs(3600).unwrap();
        let provider: Arc<dyn Provider> =
            Arc::new(JwtProvider::new(ISSUER, Arc::clone(&keys), life).unwrap());
        let mut all = vec![("jwt".parse().unwrap(), provider)];
        if let Some((name, provider, tool)) = more {
            fs::write(files.path().join(format!("tools/{name}.toml")), tool).unwrap();
            all.push((name, provider));
        }
        let providers = Providers::new(all);
        let journal = files.path().join("journal");
        let journal = FileJournal::open(&journal, Options::default(), audit_key()).unwrap();
        let broker = Broker::new(Parts {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(entropy),
            verifiers: Arc::new(verifiers(&trust_domain)),
            rules: Arc::new(Rules::new(ruleset(files.path(), &providers))),
            ledger,
            providers: providers.clone(),
            issuer: Arc::new(Issuer::new(ISSUER, keys)),
            journal: Arc::new(journal),
            receipts: ReceiptSigner::new(ISSUER, audit_key()),
            settings: Settings {
                live_credentials_per_task: None,
                open_tasks_per_agent: None,
                ..Settings::default()
            },
        });
        Self {
            broker: Arc::new(broker),
            trust_domain,
            providers,
            files,
        }
    }

    /// The same rules and one more, which fits every head and never what is asked.
    pub(crate) fn other_rules(&self, name: &str) -> Ruleset {
        let text = format!(
            "@id(\"{name}\")\nforbid (principal, action, resource) when {{ context.purpose == \"{name}\" }};\n"
        );
        fs::write(
            self.files.path().join("policies").join(format!("{name}.cedar")),
            text,
        )
        .unwrap();
        ruleset(self.files.path(), &self.providers)
    }

    /// Whoever this path belongs to.
    pub(crate) async fn caller(&self, path: &str) -> Caller {
        let life = Ttl::from_secs(3600).unwrap();
        let now = SystemClock::new().now();
        let svid = self.trust_domain.svid(path, ISSUER, now, life).await;
        let evidence = Evidence::bearer(&svid.unwrap()).unwrap();
        let request = self.broker.request_id().unwrap();
        self.broker.attest(&evidence, request).await.unwrap()
    }

    pub(crate) async fn open(&self, caller: &Caller, access: &Access) -> TaskId {
        let order = OpenOrder {
            purpose: "answer the ticket of a customer".parse().unwrap(),
            scope: Scope::new(vec![access.clone()]).unwrap(),
            on_behalf_of: None,
            ttl: None,
            heartbeat: None,
            key: None,
        };
        let request = self.broker.request_id().unwrap();
        let task = self.broker.open(caller, order, request).await.unwrap();
        task.charter.id
    }

    pub(crate) async fn issue(&self, caller: &Caller, task: TaskId, access: &Access) -> Secret {
        self.try_issue(caller, task, access).await.unwrap()
    }

    pub(crate) async fn try_issue(
        &self,
        caller: &Caller,
        task: TaskId,
        access: &Access,
    ) -> Result<Secret, BrokerError> {
        let order = IssueOrder {
            task,
            access: access.clone(),
            ttl: None,
            key: None,
        };
        let request = self.broker.request_id().unwrap();
        let issued = self.broker.issue(caller.clone(), order, request).await?;
        Ok(match issued.credential {
            Some(Credential::Bearer(token)) => token,
            _ => Secret::new(String::new()),
        })
    }
}

/// Reading, of a tool.
pub(crate) fn reading(tool: usize) -> Access {
    let tool = format!("tool-{tool}").parse().unwrap();
    let resources = ["customers/42".parse().unwrap()].into();
    Access::new(tool, ["read".parse().unwrap()].into(), resources).unwrap()
}

/// So many agents and every tool that leases are about, beside the shipped policies.
fn lay_out(folder: &Path, agents: usize) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for name in ["agents", "tools", "policies"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    for name in ["00-baseline.cedar", "05-facts.cedar", "10-dayfly.cedar"] {
        let policy = shipped.join("policies").join(name);
        fs::copy(policy, folder.join("policies").join(name)).unwrap();
    }
    let console = "agents/ops-console.toml";
    fs::copy(shipped.join(console), folder.join(console)).unwrap();
    furnish(folder, agents);
}

/// So many agents, every tool that leases are about, and a policy that lets the ones read the others, in a folder that
/// has the rest.
pub(crate) fn furnish(folder: &Path, agents: usize) {
    let grant =
        "@id(\"reading\")\npermit (principal in Role::\"support\", action in Action::\"read\", resource);\n";
    fs::write(folder.join("policies/30-reading.cedar"), grant).unwrap();
    let agent = |name: &str, path: &str, more: &str| {
        let text = format!(
            "name = '{name}'\nowner = 'Support Platform'\npurpose = 'Answers customers'\nenvironment = 'production'\n\
             autonomy = 3\nzone = 'eu'\nreview_by = 2999-12-31\n{more}\n\
             [[match]]\nkind = 'jwt_svid'\nsubject = 'spiffe://example.org/{path}'\n"
        );
        fs::write(folder.join(format!("agents/{name}.toml")), text).unwrap();
    };
    for number in 0..agents {
        let name = format!("support-bot-{number}");
        agent(
            &name,
            &format!("agents/{name}"),
            "roles = ['support']\nmay_act_for = ['user:*']",
        );
    }
    let served: Vec<String> = (0..TOOLS).map(|number| format!("tool-{number}")).collect();
    agent(
        "tool-server",
        "tools/all",
        &format!("roles = ['resource-server']\nserves = {served:?}"),
    );
    for number in 0..TOOLS {
        let text = format!(
            "name = 'tool-{number}'\ndescription = 'Customers'\nowner = 'Customer Systems'\nrisk = 'medium'\n\
             sensitivity = 'confidential'\nzone = 'eu'\nenvironment = 'production'\n\
             audience = 'https://tool-{number}.example.org'\nprovider = 'jwt'\nmax_ttl = '1h'\ndefault_ttl = '5m'\n\
             [actions]\nread = 'read'\n"
        );
        fs::write(folder.join(format!("tools/tool-{number}.toml")), text).unwrap();
    }
}

fn ruleset(folder: &Path, providers: &Providers) -> Ruleset {
    let mut text =
        "[[identity.trust_domain]]\nname = 'example.org'\nbundle_file = 'unused.json'\n".to_owned();
    for (name, provider) in providers.iter() {
        let kind = provider.kind();
        text += &format!("[[provider]]\nname = '{name}'\nkind = '{kind}'\n");
        if kind == "postgres" {
            text += "[provider.postgres]\nhost = '127.0.0.1'\n";
        }
    }
    let config = config::parse("dayfly.toml", folder, &text).unwrap();
    rules::load(&config, providers).unwrap().0
}

fn verifiers(trust_domain: &DevTrustDomain) -> Verifiers {
    let trusted = Trusted {
        trust_domain: trust_domain.name().clone(),
        bundle: Origin::Inline(trust_domain.bundle()),
        freshness: Freshness::default(),
    };
    let terms = Terms {
        audiences: Audiences::new([ISSUER]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    let verifier = JwtSvid::new([trusted], terms).unwrap();
    Verifiers::new(vec![Arc::new(verifier)], CacheConfig::default())
}

fn audit_key() -> NoteSigner {
    NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
}
