//! What the tests of this seam share: the agents and tools of the example configuration, built by hand.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::access::Access;
use crate::model::agent::{Agent, AgentCeilings, AgentStatus, Autonomy};
use crate::model::attestation::EvidenceKind;
use crate::model::decision::{PolicyId, Revision};
use crate::model::fact::{Fact, Facts, FactsVersion};
use crate::model::ids::TaskId;
use crate::model::spiffe::TrustDomain;
use crate::model::task::Delegator;
use crate::model::time::Timestamp;
use crate::model::tool::{Binding, Effect, Risk, Sensitivity, Tool};
use crate::model::ttl::Ttl;
use crate::registry::Registry;

use super::cedar::{CedarEngine, PolicySource};
use super::index::HeadIndex;
use super::load::Loaded;
use super::problem::Position;
use super::reads::{Mentions, Reads};
use super::{Attested, Question, TaskContext, annotations};

pub(super) fn agent(name: &str, roles: &[&str], autonomy: u8) -> Agent {
    Agent {
        name: name.parse().unwrap(),
        owner: Some("team".parse().unwrap()),
        purpose: String::new(),
        environment: "production".parse().unwrap(),
        autonomy: Autonomy::try_from(autonomy).unwrap(),
        zone: "eu".parse().unwrap(),
        roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
        status: AgentStatus::Active,
        review_by: Timestamp::MAX,
        may_act_for: Vec::new(),
        serves: BTreeSet::new(),
        ceilings: AgentCeilings::default(),
        facts: BTreeMap::new(),
    }
}

pub(super) fn tool(name: &str, actions: &[(&str, Effect)], risk: Risk, sensitivity: Sensitivity) -> Tool {
    Tool {
        name: name.parse().unwrap(),
        description: String::new(),
        owner: "team".parse().unwrap(),
        actions: actions
            .iter()
            .map(|(name, effect)| (name.parse().unwrap(), *effect))
            .collect(),
        risk,
        sensitivity,
        zone: "eu".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: format!("https://{name}.example"),
        origins: [].into(),
        binding: Binding {
            provider: "jwt".parse().unwrap(),
            parameters: BTreeMap::new(),
        },
        max_ttl: "1h".parse().unwrap(),
        default_ttl: "5m".parse().unwrap(),
        live_credentials: None,
        facts: BTreeMap::new(),
    }
}

/// The example: four agents, three tools, and Dayfly itself.
pub(super) fn registry() -> Registry {
    let agents = [
        agent("support-bot", &["support"], 3),
        agent("report-bot", &["reporting"], 2),
        agent("ops-console", &["operator", "auditor"], 0),
        agent("crm-server", &["resource-server"], 0),
    ];
    let crm = [
        ("read", Effect::Read),
        ("comment", Effect::Write),
        ("export", Effect::DataMovement),
        ("delete", Effect::Delete),
    ];
    let tools = [
        tool("crm", &crm, Risk::Medium, Sensitivity::Confidential),
        tool(
            "payments",
            &[("read", Effect::Read), ("refund", Effect::Payment)],
            Risk::Critical,
            Sensitivity::Restricted,
        ),
        tool(
            "reports",
            &[("read", Effect::Read), ("publish", Effect::Write)],
            Risk::Low,
            Sensitivity::Internal,
        ),
    ];
    Registry::new(agents, [], tools).unwrap()
}

/// A question with everything in it owned, so that tests can change one thing and ask.
pub(super) struct Asked {
    pub(super) agent: Agent,
    pub(super) tool: std::sync::Arc<Tool>,
    pub(super) access: Access,
    pub(super) task: TaskContext,
    pub(super) ttl: Option<Ttl>,
    pub(super) facts: Facts,
    pub(super) domain: TrustDomain,
}

impl Asked {
    /// `support-bot` and so on, for `crm:read,comment` on paths below the tool.
    pub(super) fn new(registry: &Registry, agent: &str, what: &str, paths: &[&str]) -> Self {
        let (tool, actions) = what.split_once(':').unwrap();
        let tool = registry.tool(&tool.parse().unwrap()).unwrap();
        Self {
            agent: (**registry.agent(&agent.parse().unwrap()).unwrap()).clone(),
            access: Access::new(
                tool.name.clone(),
                actions.split(',').map(|action| action.parse().unwrap()).collect(),
                paths.iter().map(|path| path.parse().unwrap()).collect(),
            )
            .unwrap(),
            tool: tool.clone(),
            task: TaskContext {
                id: TaskId::new(NOW, [1; 10]),
                purpose: "answer a ticket".parse().unwrap(),
                on_behalf_of: None,
                delegators: Vec::new(),
                opened_at: NOW,
            },
            ttl: None,
            facts: Facts::default(),
            domain: "prod.example.org".parse().unwrap(),
        }
    }

    /// The task was handed on by these agents, the nearest first.
    pub(super) fn hand_on(&mut self, by: &[&str]) {
        let above = by.iter().map(|agent| Delegator {
            task: self.task.id,
            agent: agent.parse().unwrap(),
            kind: EvidenceKind::JwtSvid,
            trust_domain: Some(self.domain.clone()),
            key: None,
            until: NOW,
        });
        self.task.delegators = above.collect();
    }

    pub(super) fn question(&self) -> Question<'_> {
        Question {
            agent: &self.agent,
            attested: Attested {
                kind: EvidenceKind::JwtSvid,
                trust_domain: Some(&self.domain),
            },
            tool: &self.tool,
            access: &self.access,
            task: Some(&self.task),
            ttl: self.ttl,
            facts: &self.facts,
            at: NOW,
        }
    }
}

/// The task of a sample question, as a subject of facts.
pub(super) const TASK: &str = "task/tsk_01m80z50ste40r2081040g2081";

/// What was stated, in order: about whom, the name, and the value; none takes it back.
pub(super) fn facts(stated: &[(&str, &str, &str)]) -> Facts {
    let fact = |(about, name, value): &(&str, &str, &str)| Fact {
        about: about.parse().unwrap(),
        name: name.parse().unwrap(),
        value: (!value.is_empty()).then(|| value.parse().unwrap()),
        source: "test".parse().unwrap(),
        at: NOW,
        expires_at: None,
    };
    Facts::default().with(stated.iter().map(fact), FactsVersion(1))
}

/// 2026-11-22T06:30:00.250Z.
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_795_329_000_250);

/// An engine with these policies over the example registry.
pub(super) fn engine(registry: &Registry, text: &str) -> CedarEngine {
    let source = PolicySource {
        name: "a.cedar".into(),
        text: text.into(),
    };
    CedarEngine::load(&[source], registry, Revision("r".into())).unwrap()
}

/// The same without a check, for policies that the loader would refuse as impossible: each with its id.
pub(super) fn unchecked(registry: &Registry, policies: &[(String, String)]) -> CedarEngine {
    let loaded = policies.iter().enumerate().map(|(number, (id, text))| {
        let place = cedar_policy::PolicyId::new(number.to_string());
        let policy = cedar_policy::Policy::parse(Some(place), text).unwrap();
        Loaded {
            id: PolicyId(id.as_str().into()),
            at: Position::of(&"a".into(), "", 0),
            effect: policy.effect(),
            terms: annotations::read(&policy).0,
            reads: Reads::of(&policy),
            policy,
        }
    });
    let mut engine = engine(registry, "");
    engine.policies = loaded.collect();
    engine.index = HeadIndex::of(&engine.policies);
    engine.mentions = Mentions::of(engine.policies.iter().map(|loaded| &loaded.reads.facts));
    engine
}
