//! What a token costs: signing and verifying the access token of a usual lease.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;

use criterion::Criterion;
use futures_util::FutureExt as _;

use dayfly::entropy::OsEntropy;
use dayfly::keys::jose::{Unverified, sign};
use dayfly::keys::jwk::KeySet;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::keys::{Algorithm, Signer as _};
use dayfly::model::ids::{DecisionId, LeaseId, TaskId};
use dayfly::model::time::Timestamp;
use dayfly::model::token::{AccessToken, Actor, Detail, DetailKind, Marks, Profile, TYP};

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn claims() -> AccessToken {
    let at = Timestamp::from_secs(1_795_329_000);
    let task = TaskId::new(at, [1; 10]);
    let lease = LeaseId::new(task, at, [2; 10]);
    let issuer = "https://dayfly.example.org".to_owned();
    let audience = "https://crm.example.org/api".to_owned();
    AccessToken {
        iss: issuer.clone(),
        sub: "u-4711".into(),
        sub_profile: Profile::User,
        aud: audience.clone(),
        client_id: "support-bot".parse().unwrap(),
        iat: at.as_secs(),
        nbf: at.as_secs(),
        exp: at.as_secs() + 300,
        jti: lease,
        txn: task,
        scope: "crm:list crm:read".into(),
        authorization_details: vec![Detail {
            kind: DetailKind::DayflyAccess,
            locations: vec![audience],
            actions: ["list", "read"].iter().map(|a| a.parse().unwrap()).collect(),
            resources: ["customers/42".parse().unwrap()].into(),
        }],
        act: Some(Actor {
            sub: "support-bot".parse().unwrap(),
            iss: issuer,
            sub_profile: Profile::AiAgent,
            act: None,
        }),
        cnf: None,
        status: None,
        marks: Marks {
            task,
            parents: Vec::new(),
            lease,
            agent: "support-bot".parse().unwrap(),
            tool: "crm".parse().unwrap(),
            environment: "prod".parse().unwrap(),
            trust_domain: Some("example.org".parse().unwrap()),
            parent_trust_domains: Vec::new(),
            decision: DecisionId::new(at, [3; 10]),
        },
    }
}

fn jose(criterion: &mut Criterion) {
    let claims = claims();
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let key = RingSigner::generate(algorithm, &OsEntropy::new()).unwrap();
        let keys = KeySet::of([key.public_key().clone()]);
        // A key in memory answers at once, so no runtime is in the way of the measurement.
        let signed = || {
            sign(&key, TYP, black_box(&claims))
                .now_or_never()
                .unwrap()
                .unwrap()
        };
        let name = algorithm.as_str();
        criterion.bench_function(&format!("jose/sign/{name}"), |bench| bench.iter(signed));
        let token = signed();
        criterion.bench_function(&format!("jose/verify/{name}"), |bench| {
            bench.iter(|| {
                let token = Unverified::parse(black_box(&token), 8192).unwrap();
                token.verify_with(&keys).unwrap();
                token.claims::<AccessToken>().unwrap()
            });
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    jose(&mut criterion);
    criterion.final_summary();
}
