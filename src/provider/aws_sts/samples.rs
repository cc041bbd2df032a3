//! A tool on AWS, for the unit tests of several files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::access::Access;
use crate::model::tool::{Binding, Effect, Risk, Sensitivity, Tool};
use crate::model::ttl::Ttl;

pub(super) const ROLE: &str = "arn:aws:iam::123456789012:role/agents/data-reader";

/// Objects of a bucket.
pub(super) fn parameters() -> Value {
    json!({
        "role_arn": ROLE,
        "region": "eu-central-1",
        "statements": {
            "read": {
                "actions": ["s3:GetObject"],
                "resources": ["arn:aws:s3:::acme-data/{resource}"],
                "resources_all": ["arn:aws:s3:::acme-data/*"],
            },
            "write": {
                "actions": ["s3:PutObject", "s3:AbortMultipartUpload"],
                "resources": ["arn:aws:s3:::acme-data/{resource}"],
            },
            "list": {
                "actions": ["s3:ListBucket"],
                "resources": ["arn:aws:s3:::acme-data"],
                "conditions": {"StringLike": {"s3:prefix": ["{resource}/*"]}},
            },
            "describe": {
                "actions": ["ec2:DescribeInstances"],
                "resources": ["*"],
                "resources_all": ["*"],
            },
        },
    })
}

/// The tool `data` with these parameters.
pub(super) fn tool(parameters: Value) -> Tool {
    let Value::Object(parameters) = parameters else {
        panic!("{parameters} is no table");
    };
    let actions = ["read", "write", "list", "describe"];
    Tool {
        name: "data".parse().unwrap(),
        description: String::new(),
        owner: "data team".parse().unwrap(),
        actions: actions
            .iter()
            .map(|name| (name.parse().unwrap(), Effect::Read))
            .collect(),
        risk: Risk::Low,
        sensitivity: Sensitivity::Internal,
        zone: "internal".parse().unwrap(),
        environment: "prod".parse().unwrap(),
        audience: "https://s3.example.org".into(),
        origins: [].into(),
        binding: Binding {
            provider: "aws".parse().unwrap(),
            parameters: parameters.into_iter().collect(),
        },
        max_ttl: Ttl::MAX,
        default_ttl: Ttl::from_secs(300).unwrap(),
        live_credentials: None,
        facts: BTreeMap::new(),
    }
}

pub(super) fn access(actions: &[&str], resources: &[&str]) -> Access {
    Access::new(
        "data".parse().unwrap(),
        actions.iter().map(|action| action.parse().unwrap()).collect(),
        resources.iter().map(|path| path.parse().unwrap()).collect(),
    )
    .unwrap()
}
