//! A tool and a lease for the unit tests of this adapter.

use serde_json::Value;

use crate::model::ids::{DecisionId, LeaseId, TaskId};
use crate::model::lease::{Ending, Lease, LeaseState};
use crate::model::time::Timestamp;
use crate::model::tool::{Binding, Effect, Risk, Sensitivity, Tool};
use crate::model::ttl::{Bound, Ttl};

const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);

/// A tool with the action `read` and these parameters.
pub(super) fn tool(parameters: Value) -> Tool {
    let Value::Object(parameters) = parameters else {
        panic!("parameters are a table");
    };
    Tool {
        name: "crm".parse().unwrap(),
        description: "customers".into(),
        owner: "crm-team".parse().unwrap(),
        actions: [("read".parse().unwrap(), Effect::Read)].into(),
        risk: Risk::Low,
        sensitivity: Sensitivity::Internal,
        zone: "eu".parse().unwrap(),
        environment: "prod".parse().unwrap(),
        audience: "https://crm.example.org".into(),
        origins: [].into(),
        binding: Binding {
            provider: "vault".parse().unwrap(),
            parameters: parameters.into_iter().collect(),
        },
        max_ttl: Ttl::from_secs(900).unwrap(),
        default_ttl: Ttl::from_secs(300).unwrap(),
        live_credentials: None,
        facts: [].into(),
    }
}

/// A lease for `read` on that tool as a whole.
pub(super) fn lease() -> Lease {
    let task = TaskId::new(AT, [1; 10]);
    Lease {
        id: LeaseId::new(task, AT, [2; 10]),
        task,
        agent: "support-bot".parse().unwrap(),
        environment: "prod".parse().unwrap(),
        trust_domain: None,
        on_behalf_of: None,
        delegators: Vec::new(),
        tool: "crm".parse().unwrap(),
        actions: ["read".parse().unwrap()].into(),
        resources: [].into(),
        provider: "vault".parse().unwrap(),
        handle: None,
        ending: Ending::Immediate,
        decision: DecisionId::new(AT, [3; 10]),
        issued_at: AT,
        expires_at: AT.plus(Ttl::from_secs(300).unwrap().as_duration()),
        bounded_by: Bound::Requested,
        requested: None,
        vouched: None,
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Reserved,
    }
}
